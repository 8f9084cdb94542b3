import { randomUUID } from 'node:crypto'
import { afterAll, describe, expect, test } from 'vitest'
import { openDb } from '../../src/db/pool.ts'
import { createBreaker } from '../../src/routing/breaker.ts'
import { freshDatabase } from '../database.ts'

const db = await freshDatabase()
const breaker = createBreaker(db)
// A second process: its own pool, its own memory.
const otherDb = openDb(db.url)
const otherBreaker = createBreaker(otherDb)
afterAll(() => otherDb.close())

const account = () => ({ provider: 'upstream', id: randomUUID() })
type Named = ReturnType<typeof account>

async function fail(named: Named, times: number): Promise<void> {
  for (let i = 0; i < times; i += 1) await breaker.failure(named, 'unavailable')
}

/** Lets `seconds` go by for the breaker. */
async function age(named: Named, seconds: number): Promise<void> {
  await db.pool.query(
    `UPDATE upstream_accounts SET opened_at = opened_at - make_interval(secs => $1),
       open_until = open_until - make_interval(secs => $1), probe_at = probe_at - make_interval(secs => $1) WHERE account = $2`,
    [seconds, named.id],
  )
}

async function troubleOf(named: Named) {
  return (await breaker.list()).find(trouble => trouble.account === named.id)
}

describe('five failures in a row', () => {
  test('close the account to all processes for 30 s, four do not', async () => {
    const named = account()
    await fail(named, 4)
    expect(await breaker.allow(named)).toBe(true)
    expect(await troubleOf(named)).toMatchObject({ state: 'closed', failures: 4, openUntil: null })
    await fail(named, 1)
    expect(await breaker.allow(named)).toBe(false)
    expect(await otherBreaker.allow(named)).toBe(false)
    await age(named, 29)
    expect(await breaker.allow(named)).toBe(false)
    expect(await troubleOf(named)).toMatchObject({ state: 'open', failures: 5, reason: 'unavailable' })
  })

  test('are no longer in a row after a success', async () => {
    const named = account()
    await fail(named, 4)
    await breaker.success(named, Date.now())
    expect(await troubleOf(named)).toBeUndefined()
    await fail(named, 4)
    expect(await breaker.allow(named)).toBe(true)
  })

  test('are counted across processes', async () => {
    const named = account()
    const failures = Array.from({ length: 5 }, (_, i) => (i % 2 ? breaker : otherBreaker).failure(named, 'unclear'))
    await Promise.all(failures)
    expect(await breaker.allow(named)).toBe(false)
  })

  test('of one account do not touch another', async () => {
    await fail(account(), 5)
    expect(await breaker.allow(account())).toBe(true)
  })

  test('are seen within a second by a process that believed the account well', async () => {
    const named = account()
    expect(await otherBreaker.allow(named)).toBe(true)
    await fail(named, 5)
    await new Promise(done => setTimeout(done, 1_010))
    expect(await otherBreaker.allow(named)).toBe(false)
  })
})

describe('after 30 s', () => {
  test('exactly one caller gets the probe', async () => {
    const named = account()
    await fail(named, 5)
    await age(named, 31)
    expect(await troubleOf(named)).toMatchObject({ state: 'half_open' })
    const callers = Array.from({ length: 40 }, (_, i) => (i % 2 ? breaker : otherBreaker).allow(named))
    expect((await Promise.all(callers)).filter(Boolean)).toHaveLength(1)
    expect(await troubleOf(named)).toMatchObject({ state: 'open' })
  })

  test('a probe that succeeds lets everyone through again', async () => {
    const named = account()
    await fail(named, 5)
    await age(named, 31)
    expect(await breaker.allow(named)).toBe(true)
    await breaker.success(named, Date.now())
    expect(await troubleOf(named)).toBeUndefined()
    expect(await otherBreaker.allow(named)).toBe(true)
    await fail(named, 4)
    expect(await otherBreaker.allow(named)).toBe(true)
  })

  test('a probe that fails keeps the account closed for another 30 s, then there is another probe', async () => {
    const named = account()
    await fail(named, 5)
    const since = (await troubleOf(named))?.openedAt
    await age(named, 31)
    expect(await breaker.allow(named)).toBe(true)
    await fail(named, 1)
    await age(named, 29)
    expect(await breaker.allow(named)).toBe(false)
    expect((await troubleOf(named))?.openedAt?.getTime()).toBeCloseTo((since?.getTime() ?? 0) - 60_000, -1)
    await age(named, 2)
    expect(await breaker.allow(named)).toBe(true)
  })

  test('a probe whose process died is followed by another 30 s later', async () => {
    const named = account()
    await fail(named, 5)
    await age(named, 31)
    expect(await otherBreaker.allow(named)).toBe(true)
    await age(named, 29)
    expect(await breaker.allow(named)).toBe(false)
    await age(named, 2)
    expect(await breaker.allow(named)).toBe(true)
  })
})

describe('what began before', () => {
  test('the account was closed does not open it when it succeeds', async () => {
    const named = account()
    const startedAt = Date.now()
    await fail(named, 5)
    await breaker.success(named, startedAt)
    await breaker.success(named, Date.now())
    expect(await breaker.allow(named)).toBe(false)
  })

  test('the probe does not open it either, the probe does', async () => {
    const named = account()
    await fail(named, 5)
    await age(named, 31)
    expect(await breaker.allow(named)).toBe(true)
    await breaker.success(named, Date.now() - 5_000)
    expect(await breaker.allow(named)).toBe(false)
    await breaker.success(named, Date.now())
    expect(await breaker.allow(named)).toBe(true)
  })

  test('it was closed does not keep it closed when it fails', async () => {
    const named = account()
    await fail(named, 5)
    await age(named, 20)
    await fail(named, 3)
    await age(named, 11)
    expect(await breaker.allow(named)).toBe(true)
  })
})

describe('a bad key, empty funds or the wrong plan', () => {
  test('closes the account at once, for 60 s', async () => {
    const named = account()
    expect(await breaker.allow(named)).toBe(true)
    await breaker.trip(named, 'account_auth')
    expect(await breaker.allow(named)).toBe(false)
    await age(named, 59)
    expect(await breaker.allow(named)).toBe(false)
    await age(named, 2)
    expect(await breaker.allow(named)).toBe(true)
    expect(await breaker.allow(named)).toBe(false)
  })

  test('that the probe still meets closes it for 60 s again', async () => {
    const named = account()
    await breaker.trip(named, 'account_funds')
    await age(named, 61)
    expect(await breaker.allow(named)).toBe(true)
    await breaker.trip(named, 'account_funds')
    await age(named, 59)
    expect(await breaker.allow(named)).toBe(false)
    expect(await troubleOf(named)).toMatchObject({ state: 'open', reason: 'account_funds' })
  })

  test('is not shortened by lesser trouble', async () => {
    const named = account()
    await breaker.trip(named, 'account_tier', 600_000)
    await breaker.trip(named, 'account_auth', 1_000)
    await fail(named, 5)
    await age(named, 590)
    expect(await breaker.allow(named)).toBe(false)
  })
})

test('a success of a healthy account writes nothing', async () => {
  const named = account()
  await breaker.success(named, Date.now())
  expect(await troubleOf(named)).toBeUndefined()
})
