import { existsSync, readdirSync, statSync, utimesSync } from 'node:fs'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import type { AddressInfo } from 'node:net'
import { randomBytes, randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { beforeAll, describe, expect, test } from 'vitest'
import { ApiError, StartError } from '../../src/errors.ts'
import { openLocal } from '../../src/storage/local.ts'
import { openStorage } from '../../src/storage/open.ts'
import { openS3, parseS3Url } from '../../src/storage/s3.ts'
import { MissingFile, type Storage } from '../../src/storage/storage.ts'
import { freshFolder } from '../process.ts'
import { startS3 } from './s3-server.ts'

const folder = freshFolder()
const s3 = await startS3()

const stores: Record<string, () => Promise<Storage>> = {
  'a folder': () => openLocal(join(folder, 'local')),
  'an S3 server': () => openStorage({ storageUrl: s3Url(s3.port), dataDir: folder }),
}

describe.each(Object.keys(stores))('storage in %s', kind => {
  let storage: Storage
  beforeAll(async () => {
    storage = await (stores[kind] as () => Promise<Storage>)()
  })

  test('gives back exactly the bytes, whole and in ranges', async () => {
    const name = `uploads/${randomUUID()}`
    const bytes = randomBytes(20_000_001)
    await storage.put(name, Readable.from(inPieces(bytes, 70_001)), { contentType: 'image/png' })
    expect(await storage.size(name)).toBe(bytes.length)
    expect((await buffer(await storage.open(name))).equals(bytes)).toBe(true)
    const middle = await buffer(await storage.open(name, { start: 9_999_999, end: 10_000_001 }))
    expect(middle.equals(bytes.subarray(9_999_999, 10_000_002))).toBe(true)
  })

  test('lists what stands, with sizes and times', async () => {
    const names = [`results/${randomUUID()}`, `results/${randomUUID()}`]
    for (const name of names) await storage.put(name, Readable.from([Buffer.from('12345')]))
    const listed = []
    for await (const file of storage.list('results/')) listed.push(file)
    expect(listed.map(file => file.name).sort()).toEqual(names.sort())
    expect(listed.every(file => file.size === 5 && Date.now() - file.modifiedAt.getTime() < 60_000)).toBe(true)
  })

  test('what was removed is missing, and may be removed again', async () => {
    const name = `uploads/${randomUUID()}`
    await storage.put(name, Readable.from([Buffer.from('x')]))
    await storage.remove(name)
    await storage.remove(name)
    expect(await storage.size(name)).toBeUndefined()
    await expect(storage.open(name)).rejects.toBeInstanceOf(MissingFile)
  })

  test('a source that breaks leaves nothing', async () => {
    const name = `uploads/${randomUUID()}`
    async function* broken() {
      for (let i = 0; i < 20; i++) yield randomBytes(1024 * 1024)
      throw new Error('the client went away')
    }
    await expect(storage.put(name, Readable.from(broken()))).rejects.toThrow('the client went away')
    expect(await storage.size(name)).toBeUndefined()
    expect(await storage.sweep(new Date(Date.now() + 60_000))).toBe(0)
  })

  test.each([
    'uploads/../../etc/passwd',
    '/etc/passwd',
    'uploads/a/b',
    'uploads/..',
    'uploads/%2e%2e%2f',
    'uploads/x\0y',
    '',
  ])('a name that is not ours is refused: %j', async name => {
    await expect(storage.put(name, Readable.from(['x']))).rejects.toBeInstanceOf(TypeError)
    await expect(storage.open(name)).rejects.toBeInstanceOf(TypeError)
  })

  test('says that it works', async () => {
    await storage.check()
    expect(await storage.freeBytes()).toBeGreaterThan(0)
  })
})

describe('a folder', () => {
  test('sweeps what a process that died has left, and nothing younger', async () => {
    const root = join(folder, 'swept')
    const storage = await openLocal(root)
    const endless = new Readable({ read() {} })
    endless.push('begun')
    const put = storage.put(`uploads/${randomUUID()}`, endless).catch(() => 'failed')
    const partial = join(root, 'partial')
    await expect.poll(() => readdirSync(partial).some(name => statSync(join(partial, name)).size > 0)).toBe(true)
    expect(await storage.sweep(new Date(Date.now() - 60_000))).toBe(0)
    for (const name of readdirSync(partial)) utimesSync(join(partial, name), 0, 0)
    expect(await storage.sweep(new Date(Date.now() - 60_000))).toBe(1)
    endless.destroy(new Error('over'))
    expect(await put).toBe('failed')
  })

  test.skipIf(!existsSync('/dev/full'))('a full disk is a 503 and leaves nothing', async () => {
    const root = join(folder, 'full')
    const storage = await openLocal(root)
    // Writing to /dev/full fails with a real ENOSPC; here it arrives through the source.
    const { writeFile } = await import('node:fs/promises')
    const full = new Readable({ read() {} })
    writeFile('/dev/full', 'x').catch((error: Error) => full.destroy(error))
    const refusal = await storage.put(`uploads/${randomUUID()}`, full).catch((error: unknown) => error)
    expect(refusal).toBeInstanceOf(ApiError)
    expect(refusal).toMatchObject({ code: 'server_busy', status: 503, retryAfter: 60 })
    expect(readdirSync(join(root, 'partial'))).toEqual([])
  })
})

describe('an S3 server', () => {
  test('a connection that breaks midway fails the put and leaves nothing', async () => {
    const proxy = await cuttingProxy(s3.port, 3_000_000)
    const through = openS3(parseS3Url(s3Url(proxy.port)))
    const direct = openS3(parseS3Url(s3Url(s3.port)))
    const name = `uploads/${randomUUID()}`
    const source = Readable.from(inPieces(randomBytes(30_000_000), 65_536))
    await expect(through.put(name, source)).rejects.toThrow()
    proxy.close()
    expect(source.destroyed).toBe(true)
    expect(await direct.size(name)).toBeUndefined()
  })

  test('a read that breaks midway is an error, not a short file', async () => {
    const name = `uploads/${randomUUID()}`
    await openS3(parseS3Url(s3Url(s3.port))).put(name, Readable.from([randomBytes(5_000_000)]))
    const proxy = await cuttingProxy(s3.port, Infinity, 1_000_000)
    const through = openS3(parseS3Url(s3Url(proxy.port)))
    await expect(through.open(name).then(buffer)).rejects.toThrow()
    proxy.close()
  })
})

describe('STORAGE_URL', () => {
  test('unset: under DATA_DIR', async () => {
    const dataDir = join(folder, 'data')
    const storage = await openStorage({ storageUrl: undefined, dataDir })
    await storage.put('uploads/12345678', Readable.from(['x']))
    expect(existsSync(join(dataDir, 'storage', 'uploads'))).toBe(true)
  })

  test('file: names a folder', async () => {
    await openStorage({ storageUrl: `file:${join(folder, 'plain')}`, dataDir: folder })
    await openStorage({ storageUrl: `file://${join(folder, 'slashes')}`, dataDir: folder })
    expect(existsSync(join(folder, 'plain', 'partial')) && existsSync(join(folder, 'slashes', 'partial'))).toBe(true)
  })

  test.each([
    ['file:/etc/hosts/files', /STORAGE_URL file:\/etc\/hosts\/files: cannot store files there/],
    ['s3://genmux?endpoint=http://127.0.0.1:1', /STORAGE_URL .*cannot store files there/],
    ['s3://genmux?endpiont=http://127.0.0.1:1', /unknown parameter endpiont/],
    ['s3://genmux?endpoint=localhost', /endpoint must be an http or https URL/],
  ])('%s stops the start with one line', async (storageUrl, message) => {
    const refusal = await openStorage({ storageUrl, dataDir: folder }).catch((error: unknown) => error)
    expect(refusal).toBeInstanceOf(StartError)
    expect((refusal as Error).message).toMatch(message)
  })
})

function s3Url(port: number): string {
  return `s3://genmux/some/prefix?endpoint=http://127.0.0.1:${port}`
}

function* inPieces(bytes: Buffer, size: number): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

/** Forwards to a port, and cuts every connection after so many bytes in one direction. */
async function cuttingProxy(target: number, up: number, down = Infinity): Promise<{ port: number; close(): void }> {
  const open = new Set<Socket>()
  const server: Server = createServer(client => {
    const upstream = createConnection(target, '127.0.0.1')
    const cut = () => {
      client.destroy()
      upstream.destroy()
    }
    const forward = (from: Socket, to: Socket, limit: number) => {
      let passed = 0
      open.add(from)
      from.on('error', cut).on('close', cut)
      from.on('data', (bytes: Buffer) => {
        passed += bytes.length
        if (passed > limit) cut()
        else to.write(bytes)
      })
    }
    forward(client, upstream, up)
    forward(upstream, client, down)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    close() {
      server.close()
      for (const socket of open) socket.destroy()
    },
  }
}
