import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import pino from 'pino'
import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { startJobs } from '../../src/jobs/jobs.ts'
import { sweepExpired, sweepOrphans } from '../../src/jobs/sweep.ts'
import { openLocal } from '../../src/storage/local.ts'
import { createUploads } from '../../src/uploads/uploads.ts'
import { freshDatabase } from '../database.ts'
import { freshFolder } from '../process.ts'
import { fixture, makeSamples } from './samples.ts'
import { createSecret } from '../../src/http/auth.ts'

const CUSTOMER = 'cus_sweeps'
const DAY = 86_400_000
const db = await freshDatabase()
const dataDir = freshFolder()
const storage = await openLocal(join(dataDir, 'storage'))
const log = pino({ level: 'silent' })
const config = { publicUrl: 'http://localhost', uploadTtlMs: DAY }
const queued: string[] = []
const convertLater = async (id: string) => void queued.push(id)
const uploads = createUploads({ db, storage, config, log, convertLater })
const deps = { db, storage, log, convertLater }
const samples = await makeSamples()
const png = samples.png?.bytes ?? Buffer.alloc(0)
const { prefix, hash } = createSecret()

beforeAll(async () => {
  await db.prisma.customer.create({ data: { id: CUSTOMER, name: 'Test', maxActiveOrders: 10 } })
  const key = { id: 'key_sweeps', customerId: CUSTOMER, name: 'Test', prefix, scopes: ['read', 'generate'] }
  await db.prisma.apiKey.create({ data: { ...key, secretHash: new Uint8Array(hash) } })
})
beforeEach(() => void queued.splice(0))

async function upload(fileName = 'a.png', bytes = png): Promise<string> {
  const file = { originalName: fileName, body: Readable.from([bytes]), complete: async () => {} }
  return (await uploads.receive(CUSTOMER, file)).tmp_path.slice(4)
}

const expire = (id: string, ago: number) =>
  db.prisma.upload.update({ where: { id }, data: { expiresAt: new Date(Date.now() - ago) } })
const find = (id: string) => db.prisma.upload.findUnique({ where: { id } })

async function order(status: 'processing' | 'completed', id = `ord_${randomUUID()}`) {
  const data = {
    id,
    customerId: CUSTOMER,
    apiKeyId: 'key_sweeps',
    modelId: 20,
    cost: 1n,
    input: '{}',
    status,
    deadlineAt: new Date(),
    finishedAt: status === 'completed' ? new Date() : null,
  }
  await db.prisma.order.create({ data })
  return id
}

const end = (id: string) =>
  db.prisma.order.update({ where: { id }, data: { status: 'completed', finishedAt: new Date() } })

async function stored(): Promise<string[]> {
  const names = []
  for (const prefix of ['uploads/', 'results/']) for await (const file of storage.list(prefix)) names.push(file.name)
  return names
}

describe('every minute', () => {
  test('bytes of expired uploads go, their rows stay for 7 days', async () => {
    const [alive, dead, old] = [await upload(), await upload(), await upload()]
    await expire(dead, 1)
    await expire(old, 7 * DAY)
    await sweepExpired(deps)
    expect([(await find(alive))?.purgedAt, (await find(dead))?.purgedAt]).toEqual([null, expect.any(Date)])
    expect(await find(old)).toBeNull()
    expect(await stored()).toEqual([(await find(alive))?.name])
    await expire(alive, 8 * DAY)
    await sweepExpired(deps)
    expect(await stored()).toEqual([])
  })

  test('an upload is kept until the last order that uses it has ended', async () => {
    const id = await upload()
    const [active, over] = [await order('processing'), await order('completed')]
    await db.prisma.orderUpload.createMany({ data: [active, over].map(orderId => ({ orderId, uploadId: id })) })
    await expire(id, 1)
    await sweepExpired(deps)
    expect((await find(id))?.purgedAt).toBeNull()
    expect(await stored()).toHaveLength(1)
    await end(active)
    await sweepExpired(deps)
    expect((await find(id))?.purgedAt).toBeInstanceOf(Date)
    expect(await stored()).toEqual([])
  })

  test('an order that takes an expired upload at the same moment either has it or does not', async () => {
    for (let round = 0; round < 20; round++) {
      const id = await upload()
      const orderId = await order('processing')
      await expire(id, 1)
      // As place_orders does: lock, look, use.
      const client = await db.pool.connect()
      const take = (async () => {
        await client.query('BEGIN')
        const { rowCount } = await client.query(
          'SELECT FROM uploads WHERE id = $1 AND purged_at IS NULL FOR KEY SHARE',
          [id],
        )
        if (rowCount)
          await client.query('INSERT INTO order_uploads (order_id, upload_id) VALUES ($1, $2)', [orderId, id])
        await client.query('COMMIT')
        return rowCount === 1
      })()
      const [has] = await Promise.all([take, sweepExpired(deps)])
      client.release()
      const row = await find(id)
      expect(row?.purgedAt === null).toBe(has)
      expect((await storage.size(row?.name ?? '')) !== undefined).toBe(has)
      await end(orderId)
      await sweepExpired(deps)
    }
  })

  test('bytes of expired results go', async () => {
    const orderId = await order('completed')
    const row = (position: number, expiresAt: Date) => {
      const token = randomUUID()
      return {
        token,
        orderId,
        position,
        name: `results/${token}`,
        mimeType: 'image/png',
        size: 1,
        sha256: new Uint8Array(1),
        expiresAt,
      }
    }
    const [dead, alive] = [row(0, new Date(Date.now() - 1)), row(1, new Date(Date.now() + DAY))]
    for (const output of [dead, alive]) {
      await storage.put(output.name, Readable.from(['x']))
      await db.prisma.output.create({ data: output })
    }
    await sweepExpired(deps)
    expect(await stored()).toEqual([alive.name])
    expect((await db.prisma.output.findUnique({ where: { token: dead.token } }))?.purgedAt).toBeInstanceOf(Date)
    await db.prisma.output.update({ where: { token: alive.token }, data: { expiresAt: new Date(0) } })
    await sweepExpired(deps)
  })

  test('idempotency keys go after 30 days, unless their order is active', async () => {
    const row = (key: string, orderId: string, age: number) => {
      const createdAt = new Date(Date.now() - age)
      return { scope: 'key_sweeps', key, requestHash: new Uint8Array(1), orderId, response: '', createdAt }
    }
    const [active, over] = [await order('processing'), await order('completed')]
    await db.prisma.idempotencyKey.createMany({
      data: [row('old, active', active, 31 * DAY), row('old, over', over, 31 * DAY), row('young', over, 29 * DAY)],
    })
    await sweepExpired(deps)
    const left = await db.prisma.idempotencyKey.findMany({ orderBy: { key: 'asc' } })
    expect(left.map(each => each.key)).toEqual(['old, active', 'young'])
  })

  test('a conversion that got stuck is queued again', async () => {
    const [stuck, young] = [
      await upload('a.heic', fixture('quadrants.heif')),
      await upload('b.heic', fixture('quadrants.heif')),
    ]
    await db.prisma.upload.update({ where: { id: stuck }, data: { createdAt: new Date(Date.now() - 180_000) } })
    queued.splice(0)
    await sweepExpired(deps)
    expect(queued).toEqual([stuck])
    for (const id of [stuck, young]) await expire(id, 8 * DAY)
    await sweepExpired(deps)
  })
})

describe('every hour', () => {
  test('files without a row go, but not while they are young', async () => {
    const id = await upload()
    const names = [`uploads/${randomUUID()}`, `results/${randomUUID()}`]
    for (const name of names) await storage.put(name, Readable.from(['x']))
    expect(await sweepOrphans(deps)).toBe(0)
    expect(await sweepOrphans(deps, new Date(Date.now() + 1_000))).toBe(2)
    expect(await stored()).toEqual([(await find(id))?.name])
    await expire(id, 8 * DAY)
    await sweepExpired(deps)
  })
})

test('the queue converts, in whatever process works, and what it lost is found again', async () => {
  const jobs = await startJobs({ ...deps, databaseUrl: db.url, config, work: true })
  await jobs.check()
  const id = await upload('a.heic', fixture('quadrants.heif'))
  const only = await startJobs({ ...deps, databaseUrl: db.url, config, work: false })
  await only.convertLater(id)
  await only.convertLater(id)
  await expect.poll(async () => (await find(id))?.status, { timeout: 20_000 }).toBe('ready')
  await only.stop()
  await jobs.stop()
})
