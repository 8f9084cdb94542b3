import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import pino from 'pino'
import sharp from 'sharp'
import { beforeAll, describe, expect, test } from 'vitest'
import { openLocal } from '../../src/storage/local.ts'
import type { Storage } from '../../src/storage/storage.ts'
import { convert } from '../../src/uploads/convert.ts'
import { createUploads } from '../../src/uploads/uploads.ts'
import { freshDatabase } from '../database.ts'
import { freshFolder } from '../process.ts'
import { box, fixture } from './samples.ts'

const CUSTOMER = 'cus_converts'
const folder = freshFolder()
const db = await freshDatabase()
const storage: Storage = await openLocal(join(folder, 'storage'))
const log = pino({ level: 'silent' })
const config = { publicUrl: 'http://localhost', uploadTtlMs: 60_000 }
const uploads = createUploads({ db, storage, config, log, convertLater: async () => {} })
const deps = { db, storage, log }

beforeAll(async () => {
  await db.prisma.customer.create({ data: { id: CUSTOMER, name: 'Test', maxActiveOrders: 10 } })
})

async function upload(bytes: Buffer): Promise<string> {
  const file = { originalName: 'a.heic', body: Readable.from([bytes]), complete: async () => {} }
  return (await uploads.receive(CUSTOMER, file)).tmp_path.slice(4)
}

async function convertedPng(name: string): Promise<Buffer> {
  const id = await upload(fixture(name))
  await convert(deps, id)
  const file = await uploads.preview(CUSTOMER, id)
  return buffer(await storage.open(file.name))
}

async function names(): Promise<string[]> {
  const found = []
  for await (const file of storage.list('uploads/')) found.push(file.name)
  return found
}

/** Red, green, blue or yellow in the four corners: top left, top right, bottom left, bottom right. */
async function corners(png: Buffer): Promise<string> {
  const { data, info } = await sharp(png).removeAlpha().raw().toBuffer({ resolveWithObject: true })
  const colour = (x: number, y: number) => {
    const [r = 0, g = 0, b = 0] = data.subarray((y * info.width + x) * 3)
    return `${r > 128 ? 'r' : '-'}${g > 128 ? 'g' : '-'}${b > 128 ? 'b' : '-'}`
  }
  const [right, bottom] = [info.width - 6, info.height - 6]
  return `${info.width}x${info.height} ${colour(5, 5)} ${colour(right, 5)} ${colour(5, bottom)} ${colour(right, bottom)}`
}

describe('a HEIC becomes a PNG', () => {
  test('as it was taken: upright, rotated, mirrored', async () => {
    expect(await corners(await convertedPng('quadrants-p3.heic'))).toBe('120x80 r-- -g- --b rg-')
    expect(await corners(await convertedPng('rotated.heic'))).toBe('80x120 -g- rg- r-- --b')
    expect(await corners(await convertedPng('mirrored.heic'))).toBe('120x80 -g- r-- rg- --b')
  })

  test('and of several pictures the primary one', async () => {
    expect(await corners(await convertedPng('second-is-primary.heic'))).toBe('240x180 --b rg- r-- -g-')
  })

  test('with its colour profile and the same pixels', async () => {
    const png = await convertedPng('quadrants-p3.heic')
    const source = await sharp(fixture('quadrants-p3.heic')).metadata()
    const made = await sharp(png).metadata()
    expect(made.icc?.equals(source.icc ?? Buffer.alloc(0))).toBe(true)
    // Display P3's idea of sRGB red: the values are those of the HEIC, not converted once more.
    const { data } = await sharp(png, { ignoreIcc: true }).removeAlpha().raw().toBuffer({ resolveWithObject: true })
    const [r = 0, g = 0, b = 0] = data.subarray((5 * 120 + 5) * 3)
    expect([Math.abs(r - 234) < 4, Math.abs(g - 51) < 4, Math.abs(b - 35) < 4]).toEqual([true, true, true])
    expect((await sharp(await convertedPng('quadrants.heif')).metadata()).icc).toBeUndefined()
  })

  test('and only the PNG is kept, with its own size, hash and dimensions', async () => {
    const before = await names()
    const id = await upload(fixture('rotated.heic'))
    await convert(deps, id)
    const row = await db.prisma.upload.findUniqueOrThrow({ where: { id } })
    expect(row).toMatchObject({
      status: 'ready',
      extension: 'png',
      mimeType: 'image/png',
      width: 80,
      height: 120,
      error: null,
    })
    expect((await names()).filter(name => !before.includes(name))).toEqual([row.name])
    expect(await storage.size(row.name)).toBe(Number(row.size))
  })

  test('once, however many processes are told to', async () => {
    const before = (await names()).length
    const id = await upload(fixture('quadrants.heif'))
    await Promise.all([convert(deps, id), convert(deps, id), convert(deps, id)])
    await convert(deps, id)
    expect((await uploads.status(CUSTOMER, `tmp/${id}`)).status).toBe('ready')
    expect(await names()).toHaveLength(before + 1)
  })
})

describe('a HEIC that cannot be converted is failed', () => {
  const heic = (...content: (Buffer | string)[]) =>
    Buffer.concat([box('ftyp', 'heic\0\0\0\0heic'), box('meta', ...content)])
  const damaged = () => {
    const bytes = fixture('quadrants-p3.heic')
    randomBytes(500).copy(bytes, bytes.length - 600)
    return bytes
  }
  const files: [string, () => Buffer, string][] = [
    [
      '81 megapixels in 19 KB',
      () => fixture('81-megapixels.heic'),
      'The picture has more than 50 megapixels and cannot be converted.',
    ],
    ['noise in its boxes', () => heic(randomBytes(5_000)), 'The file is not a readable HEIC or HEIF picture.'],
    ['empty boxes', () => heic('\0\0\0\0'), 'The file is not a readable HEIC or HEIF picture.'],
  ]
  test.each(files)('%s', async (_, bytes, error) => {
    const before = await names()
    const id = await upload(bytes())
    await convert(deps, id)
    expect(await uploads.status(CUSTOMER, `tmp/${id}`)).toMatchObject({ status: 'failed', url: null, error })
    expect(await names()).toEqual(before)
  })

  test('damaged picture data: failed or a picture, never processing', async () => {
    const id = await upload(damaged())
    await convert(deps, id)
    expect(['failed', 'ready']).toContain((await uploads.status(CUSTOMER, `tmp/${id}`)).status)
  })

  test('what killed its process three times', async () => {
    const id = await upload(fixture('quadrants.heif'))
    await db.prisma.upload.update({ where: { id }, data: { conversions: 3 } })
    await convert(deps, id)
    const view = await uploads.status(CUSTOMER, `tmp/${id}`)
    expect([view.status, view.error]).toEqual(['failed', 'The file could not be converted.'])
  })
})

test('trouble of ours is no fault of the file: it is tried again', async () => {
  const id = await upload(fixture('quadrants.heif'))
  const broken: Storage = { ...storage, open: async () => Promise.reject(new Error('connection reset')) }
  await expect(convert({ ...deps, storage: broken }, id)).rejects.toThrow('connection reset')
  const cut: Storage = {
    ...storage,
    async open(name) {
      const whole = await storage.open(name)
      return Readable.from(
        (async function* () {
          for await (const chunk of whole as AsyncIterable<Buffer>) yield chunk.subarray(0, 100)
          throw new Error('connection reset')
        })(),
      )
    },
  }
  await expect(convert({ ...deps, storage: cut }, id)).rejects.toThrow('connection reset')
  expect((await uploads.status(CUSTOMER, `tmp/${id}`)).status).toBe('processing')
  await convert(deps, id)
  expect((await uploads.status(CUSTOMER, `tmp/${id}`)).status).toBe('ready')
})

test('one that expired meanwhile stays expired, and leaves nothing', async () => {
  const before = await names()
  const id = await upload(fixture('quadrants.heif'))
  const { name } = await db.prisma.upload.findUniqueOrThrow({ where: { id } })
  const late: Storage = {
    ...storage,
    async put(to, body) {
      await storage.put(to, body)
      await db.prisma.upload.update({ where: { id }, data: { purgedAt: new Date() } })
    },
  }
  await convert({ ...deps, storage: late }, id)
  await storage.remove(name)
  expect(await names()).toEqual(before)
})

test('12 megapixels are converted within seconds', async () => {
  const id = await upload(fixture('12-megapixels.heic'))
  const startedAt = performance.now()
  await convert(deps, id)
  expect((await uploads.status(CUSTOMER, `tmp/${id}`)).status).toBe('ready')
  expect(performance.now() - startedAt).toBeLessThan(15_000)
})

test.skipIf(!hasEncoder())('what an encoder makes here comes out as the picture it was made from', async () => {
  const [png, heic] = [join(folder, 'here.png'), join(folder, 'here.heic')]
  const soft = await sharp({
    create: {
      width: 80,
      height: 60,
      channels: 3,
      background: '#468',
      noise: { type: 'gaussian', mean: 120, sigma: 30 },
    },
  })
    .blur(4)
    .png()
    .toBuffer()
  writeFileSync(png, soft)
  execFileSync('heif-enc', ['-q', '95', png, '-o', heic], { stdio: 'ignore' })
  const id = await upload(readFileSync(heic))
  await convert(deps, id)
  const file = await uploads.preview(CUSTOMER, id)
  const [made, source] = await Promise.all(
    [buffer(await storage.open(file.name)), soft].map(async each =>
      sharp(await each)
        .removeAlpha()
        .raw()
        .toBuffer(),
    ),
  )
  const difference =
    [...(made ?? [])].reduce((sum, value, i) => sum + Math.abs(value - (source?.[i] ?? 0)), 0) / (80 * 60 * 3)
  expect(difference).toBeLessThan(4)
})

function hasEncoder(): boolean {
  try {
    execFileSync('heif-enc', ['--help'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}
