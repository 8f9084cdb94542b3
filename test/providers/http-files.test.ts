import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { afterEach, describe, expect, test } from 'vitest'
import { type Multipart, readMultipart } from '../simulators/multipart.ts'
import { closeAll, failureOf, httpTo, json, KEY, listen, nowhere } from './loopback.ts'

afterEach(closeAll)

describe('a form with a file', () => {
  const png = (bytes: Buffer) => ({
    mimeType: 'image/png',
    extension: 'png',
    size: bytes.length,
    open: () => open(bytes),
  })
  const open = async (bytes: Buffer) => Readable.from([bytes])

  test('arrives whole, with its length told beforehand', async () => {
    let form: Multipart | undefined
    let length = 0
    const http = httpTo(
      await listen(async (request, response) => {
        length = Number(request.headers['content-length'])
        form = await readMultipart(request, request.headers['content-type'] as string)
        json(response, {})
      }),
    )
    const bytes = Buffer.from('\r\n--genmux-\r\nnot a boundary\r\n\r\n')
    const multipart = { fields: { media_type: 'image/png' }, file: png(bytes), fileField: 'image' }
    await http.send({ method: 'POST', path: '/upload', bucket: 'upload', multipart })
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    expect(length).toBeGreaterThan(bytes.length)
    expect(form?.fields).toEqual({ media_type: 'image/png' })
    expect(form?.files).toMatchObject([{ field: 'image', name: 'file.png', mimeType: 'image/png', sha256 }])
  })

  test('of 512 MB takes constant memory', async () => {
    const size = 512 * 1024 * 1024
    let received = 0
    const http = httpTo(
      await listen(async (request, response) => {
        for await (const chunk of request) received += (chunk as Buffer).length
        json(response, {})
      }),
    )
    const before = process.memoryUsage.rss()
    let peak = before
    const chunk = Buffer.alloc(64 * 1024)
    async function* content(): AsyncGenerator<Buffer> {
      for (let sent = 0; sent < size; sent += chunk.length) {
        peak = Math.max(peak, process.memoryUsage.rss())
        yield chunk
      }
    }
    const file = { mimeType: 'video/mp4', extension: 'mp4', size, open: async () => Readable.from(content()) }
    await http.send({ method: 'POST', path: '/upload', bucket: 'upload', multipart: { file } })
    expect(received).toBeGreaterThan(size)
    expect((peak - before) / 1024 / 1024).toBeLessThan(256)
  })

  test('whose file is shorter than it said is not taken for sent', async () => {
    const http = httpTo(
      await listen(async (request, response) => {
        for await (const _ of request);
        json(response, {})
      }),
    )
    const file = { ...png(Buffer.from('abc')), size: 1000 }
    const error = await failureOf(http.send({ method: 'POST', path: '/upload', bucket: 'upload', multipart: { file } }))
    expect(error.fault).toBe('unavailable')
  })

  test('is not opened when nothing listens', async () => {
    let opened = 0
    const file = { ...png(Buffer.from('abc')), open: async () => Readable.from([String(opened++)]) }
    await failureOf(
      httpTo(await nowhere()).send({ method: 'POST', path: '/upload', bucket: 'upload', multipart: { file } }),
    )
    expect(opened).toBe(0)
  })
})

describe('download', () => {
  test('streams the bytes, with the key', async () => {
    const http = httpTo(await listen((request, response) => response.end(`for ${request.headers.authorization}`)))
    expect((await buffer(await http.download('/file'))).toString()).toBe(`for Bearer ${KEY}`)
  })

  test.each([
    [404, 'task_failed'],
    [410, 'task_failed'],
    [401, 'account_auth'],
    [429, 'rate_limited'],
    [302, 'unavailable'],
    [500, 'unavailable'],
  ])('that is answered %i is %s', async (status, fault) => {
    const http = httpTo(await listen((_, response) => json(response, {}, status, { 'retry-after': '3' })))
    expect(await failureOf(http.download('/file'))).toMatchObject({ fault, retryAfterMs: 3_000, mayHaveStarted: false })
  })
})
