import { request } from 'node:http'
import { join } from 'node:path'
import pino from 'pino'
import { beforeAll, expect, test } from 'vitest'
import { createSecret } from '../../src/http/auth.ts'
import { sweepExpired, sweepOrphans } from '../../src/jobs/sweep.ts'
import { openLocal } from '../../src/storage/local.ts'
import type { Storage } from '../../src/storage/storage.ts'
import { type Random, seeded } from '../chaos/random.ts'
import { freshDatabase } from '../database.ts'
import { freshFolder, startGenmux } from '../process.ts'
import { makePng } from '../simulators/files.ts'

/*
 * Servers are killed in the middle of uploads. Three stand beside each other, on one database, each with a folder of its own.
 */

const KILLS = 50
const SEED = process.env.KILLED_SEED ?? String(Date.now())
const CUSTOMER = 'cus_killed'
const db = await freshDatabase()
const folders = [freshFolder(), freshFolder(), freshFolder()]
const { secret, prefix, hash } = createSecret()
const authorization = `Bearer ${secret}`

beforeAll(async () => {
  await db.prisma.customer.create({ data: { id: CUSTOMER, name: 'Test', maxActiveOrders: 10 } })
  const key = { id: 'key_killed', customerId: CUSTOMER, name: 'Test', prefix, scopes: ['read', 'generate'] }
  await db.prisma.apiKey.create({ data: { ...key, secretHash: new Uint8Array(hash) } })
})

test(`after ${KILLS} times kill -9 midway through uploads, nothing is left but what was answered for (seed ${SEED})`, {
  timeout: 240_000,
}, async () => {
  const kills = Array.from({ length: KILLS }, (_, n) => seeded('killed', SEED, n)).values()
  const answered: string[] = []
  await Promise.all(
    folders.map(async folder => {
      for (const random of kills) answered.push(...(await killedMidway(folder, random)))
    }),
  )
  expect(answered.length).toBeGreaterThanOrEqual(KILLS)
  const storages = await Promise.all(folders.map(folder => openLocal(join(folder, 'storage'))))
  const deps = { db, log: pino({ level: 'silent' }), convertLater: async () => {} }
  const later = new Date(Date.now() + 1_000)
  let orphans = 0
  for (const storage of storages) orphans += await sweepOrphans({ ...deps, storage }, later)
  // Else nothing was cut.
  expect(orphans).toBeGreaterThan(0)
  const rows = await db.prisma.upload.findMany()
  const left = await Promise.all(storages.map(stored))
  expect(left.flat().sort()).toEqual(rows.map(row => row.name).sort())
  for (const storage of storages) expect(await storage.sweep(later)).toBe(0)
  const ids = new Set(rows.map(row => `tmp/${row.id}`))
  expect(answered.filter(tmpPath => !ids.has(tmpPath))).toEqual([])

  expect(await db.prisma.uploadReservation.count()).toBeGreaterThan(0)
  await db.pool.query("UPDATE upload_reservations SET created_at = created_at - interval '2 hours'")
  await sweepExpired({ ...deps, storage: storages[0] as Storage })
  expect(await db.prisma.uploadReservation.count()).toBe(0)
})

async function stored(storage: Storage): Promise<string[]> {
  const names = []
  for await (const file of storage.list('uploads/')) names.push(file.name)
  return names
}

/**
 * A server that is killed at some moment of a stream of small uploads, and of two that never end. Resolves with the tmp_paths
 * that it answered with.
 */
async function killedMidway(folder: string, random: Random): Promise<string[]> {
  const genmux = await startGenmux({ DATABASE_URL: db.url, DATA_DIR: folder, SANDBOX: 'on' })
  const url = `${genmux.origin}/api/v1/upload`
  const answered: string[] = []
  const [enough, moreMs] = [random.between(1, 4), random.between(0, 25)]
  const send = async () => {
    const body = new FormData()
    body.append('file', new Blob([new Uint8Array(makePng(random.between(1, 1_000)))]), 'a.png')
    const answer = await fetch(url, { method: 'POST', headers: { authorization }, body })
    const text = await answer.text()
    if (answer.status !== 201) throw new Error(text)
    answered.push((JSON.parse(text) as { upload: { tmp_path: string } }).upload.tmp_path)
    if (answered.length === enough) setTimeout(() => void genmux.signal('SIGKILL'), moreMs)
  }
  for (let n = 0; n < 2; n++) {
    const type = 'multipart/form-data; boundary=x'
    const headers = { authorization, 'content-type': type, 'content-length': 400_000 }
    const endless = request(url, { method: 'POST', headers }).on('error', () => {})
    endless.write('--x\r\nContent-Disposition: form-data; name="file"; filename="a.mov"\r\n\r\n\x7f\0\0\0mdat')
    endless.write(Buffer.alloc(random.between(1, 300_000)))
  }
  const senders = Array.from({ length: 4 }, async () => {
    for (;;) await send()
  })
  for (const { reason } of (await Promise.allSettled(senders)) as PromiseRejectedResult[])
    expect(String(reason)).toMatch(/^TypeError: (fetch failed|terminated)/)
  expect(await genmux.exited).toBeNull()
  return answered
}
