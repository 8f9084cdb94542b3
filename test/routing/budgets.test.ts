import { randomUUID } from 'node:crypto'
import { afterAll, describe, expect, test } from 'vitest'
import { openDb } from '../../src/db/pool.ts'
import type { Bucket, Limits } from '../../src/providers/provider.ts'
import { createBudgets } from '../../src/routing/budgets.ts'
import { freshDatabase } from '../database.ts'

const db = await freshDatabase()
const budgets = createBudgets(db)
// A second process: its own pool, its own memory.
const otherDb = openDb(db.url)
const otherBudgets = createBudgets(otherDb)
afterAll(() => otherDb.close())

function account(limits: Limits) {
  return { provider: 'upstream', id: randomUUID(), limits }
}
type Metered = ReturnType<typeof account>

/** Takes until it is refused; answers how often it was not. */
async function takeAll(metered: Metered, bucket: Bucket): Promise<number> {
  for (let granted = 0; ; granted += 1) {
    if (!(await budgets.take(metered, bucket)).granted) return granted
  }
}

/** Lets `slices` × 2 s go by for what has been counted. */
async function age(metered: Metered, slices: number): Promise<void> {
  await db.pool.query('UPDATE upstream_budgets SET slice = slice - $1 WHERE account = $2', [slices, metered.id])
}

describe('a documented limit', () => {
  test('lets exactly that many through, then says when the next one may go', async () => {
    const metered = account({ submits_per_minute: 3 })
    expect(await takeAll(metered, 'submit')).toBe(3)
    const refused = await budgets.take(metered, 'submit')
    if (refused.granted) throw new Error('granted')
    expect(refused.retryAfterMs).toBeGreaterThan(60_000)
    expect(refused.retryAfterMs).toBeLessThanOrEqual(64_000)
  })

  test('holds for 60 s after the request, and no longer than 64 s', async () => {
    const metered = account({ submits_per_minute: 3 })
    await takeAll(metered, 'submit')
    await age(metered, 30)
    expect(await takeAll(metered, 'submit')).toBe(0)
    await age(metered, 2)
    expect(await takeAll(metered, 'submit')).toBe(3)
  })

  test('slides: what was taken later comes back later', async () => {
    const metered = account({ submits_per_minute: 4 })
    await budgets.take(metered, 'submit')
    await age(metered, 20)
    expect(await takeAll(metered, 'submit')).toBe(3)
    const refused = await budgets.take(metered, 'submit')
    if (refused.granted) throw new Error('granted')
    expect(refused.retryAfterMs).toBeLessThanOrEqual(24_000)
    await age(metered, 12)
    expect(await takeAll(metered, 'submit')).toBe(1)
  })

  test('is whole again after a long pause', async () => {
    const metered = account({ submits_per_minute: 3 })
    await takeAll(metered, 'submit')
    await age(metered, 100_000)
    expect(await takeAll(metered, 'submit')).toBe(3)
    expect(await takeAll(metered, 'submit')).toBe(0)
  })

  test('is not reopened by a database clock that was set back', async () => {
    const metered = account({ submits_per_minute: 3 })
    await takeAll(metered, 'submit')
    await age(metered, -10)
    expect(await takeAll(metered, 'submit')).toBe(0)
    expect(await budgets.available(metered, 'submit')).toBe(0)
  })

  test('is never exceeded by 50 takers in two processes at once', async () => {
    for (const limit of [1, 10, 37]) {
      const metered = account({ submits_per_minute: limit })
      const takers = Array.from({ length: 50 }, (_, i) => (i % 2 ? budgets : otherBudgets).take(metered, 'submit'))
      const taken = await Promise.all(takers)
      expect(taken.filter(one => one.granted)).toHaveLength(limit)
      for (const one of taken) if (!one.granted) expect(one.retryAfterMs).toBeGreaterThan(0)
    }
  })

  test('of one bucket does not touch another, nor another account', async () => {
    const metered = account({ submits_per_minute: 2, reads_per_minute: 5, uploads_per_minute: 3 })
    expect(await takeAll(metered, 'submit')).toBe(2)
    expect(await takeAll(metered, 'read')).toBe(5)
    expect(await takeAll(metered, 'upload')).toBe(3)
    expect(await takeAll(account({ submits_per_minute: 2 }), 'submit')).toBe(2)
  })

  test('of 10,000 a minute counts exactly', async () => {
    const metered = account({ submits_per_minute: 10_000 })
    for (let i = 0; i < 300; i += 1) expect((await budgets.take(metered, 'submit')).granted).toBe(true)
    expect(await budgets.available(metered, 'submit')).toBe(9_700)
  })
})

describe('one limiter for all requests', () => {
  test('is never exceeded, and neither reads nor submits can starve the other', async () => {
    const metered = account({ requests_per_minute: 10 })
    expect(await takeAll(metered, 'read')).toBe(6)
    expect((await budgets.take(metered, 'upload')).granted).toBe(true)
    expect(await takeAll(metered, 'submit')).toBe(3)
    const busy = account({ requests_per_minute: 10 })
    expect(await takeAll(busy, 'submit')).toBe(4)
    expect(await takeAll(busy, 'read')).toBe(6)
  })

  test.each([1, 2, 3])('of %i a minute still lets every kind through in its turn', async limit => {
    const metered = account({ requests_per_minute: limit })
    expect((await takeAll(metered, 'read')) + (await takeAll(metered, 'submit'))).toBe(limit)
    expect((await takeAll(account({ requests_per_minute: limit }), 'submit')) > 0).toBe(true)
  })

  test('holds beside a limit of the bucket', async () => {
    expect(await takeAll(account({ requests_per_minute: 100, submits_per_minute: 2 }), 'submit')).toBe(2)
    expect(await takeAll(account({ requests_per_minute: 5, submits_per_minute: 50 }), 'submit')).toBe(2)
  })
})

describe('without a limit', () => {
  test('everything is granted and nothing is asked of the database', async () => {
    const metered = account({ submits_per_minute: 1, concurrent: 3 })
    for (let i = 0; i < 100; i += 1) expect(await budgets.take(metered, 'read')).toEqual({ granted: true })
    expect(await budgets.available(metered, 'read')).toBe(Number.POSITIVE_INFINITY)
    const rows = await db.pool.query('SELECT FROM upstream_budgets WHERE account = $1', [metered.id])
    expect(rows.rowCount).toBe(0)
  })

  test('a 429 is heeded for as long as the upstream asked', async () => {
    const metered = account({})
    await budgets.block(metered, 'submit', 300)
    expect(await budgets.take(metered, 'submit')).toMatchObject({ granted: false })
    expect(await budgets.available(metered, 'submit')).toBe(0)
    expect(await budgets.take(metered, 'read')).toEqual({ granted: true })
    await new Promise(done => setTimeout(done, 310))
    expect(await budgets.take(metered, 'submit')).toEqual({ granted: true })
  })
})

describe('after a 429', () => {
  test('all processes hold back for as long as the upstream asked, also when budget is left', async () => {
    const metered = account({ submits_per_minute: 10 })
    await budgets.block(metered, 'submit', 500)
    const refused = await otherBudgets.take(metered, 'submit')
    if (refused.granted) throw new Error('granted')
    expect(refused.retryAfterMs).toBeLessThanOrEqual(500)
    expect(refused.retryAfterMs).toBeGreaterThanOrEqual(100)
    expect(await otherBudgets.available(metered, 'submit')).toBe(0)
    await new Promise(done => setTimeout(done, 510))
    expect(await takeAll(metered, 'submit')).toBe(10)
  })

  test('a shorter wait does not shorten a longer one', async () => {
    const metered = account({ submits_per_minute: 10 })
    await budgets.take(metered, 'submit')
    await budgets.block(metered, 'submit', 30_000)
    await budgets.block(metered, 'submit', 1_000)
    const refused = await budgets.take(metered, 'submit')
    if (refused.granted) throw new Error('granted')
    expect(refused.retryAfterMs).toBeGreaterThan(25_000)
  })
})

describe('operators see', () => {
  test('what is left of every window', async () => {
    const metered = account({ submits_per_minute: 4, requests_per_minute: 10 })
    await budgets.take(metered, 'read')
    await budgets.take(metered, 'submit')
    await budgets.block(metered, 'read', 10_000)
    expect(await budgets.left(metered)).toEqual([
      { window: 'submit', limit: 4, left: 3, blockedMs: 0 },
      { window: 'all:rest', limit: 4, left: 3, blockedMs: 0 },
      { window: 'all:read', limit: 6, left: 5, blockedMs: expect.closeTo(10_000, -4) },
    ])
    expect(await budgets.left(account({}))).toEqual([])
  })

  test('how many attempts an account has in flight', async () => {
    const metered = account({})
    expect(await budgets.inFlight(metered)).toBe(0)
    await db.pool.query("INSERT INTO customers (id, name, max_active_orders) VALUES ('c', 'c', 9)")
    for (const [n, state] of ['preparing', 'submitting', 'unclear', 'accepted', 'finished', 'failed'].entries()) {
      await db.pool.query(
        `INSERT INTO orders (id, customer_id, api_key_id, model_id, cost, input, deadline_at)
         VALUES ($1, 'c', 'k', 1, 1, '{}', now())`,
        [`ord_${n}`],
      )
      await db.pool.query(
        `INSERT INTO attempts (id, order_id, n, provider, account, upstream_model, state, input, idempotency_key, nonce, expected_cost, deadline_at)
         VALUES ($1, $2, 1, 'upstream', $3, 'm', $4, '{}', 'key', 1, 1, now())`,
        [`att_${n}`, `ord_${n}`, metered.id, state],
      )
    }
    expect(await budgets.inFlight(metered)).toBe(4)
  })
})
