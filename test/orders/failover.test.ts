import { beforeEach, describe, expect, test } from 'vitest'
import { apixoSimulator } from '../simulators/apixo.ts'
import { makePng } from '../simulators/files.ts'
import { createPluragen } from '../simulators/pluragen.ts'
import type { InjectedFault } from '../simulators/spec.ts'
import { gateway } from './gateway.ts'

const front = createPluragen()
const pool = createPluragen()
const gone = createPluragen()
const fetching = apixoSimulator()
const back = createPluragen()
const OTHER_KEY = 'second-key-of-the-pool'
pool.keys.add(OTHER_KEY)

const genmux = await gateway({
  upstreams: [
    { id: 'front', kind: 'pluragen', simulator: front },
    {
      id: 'pool',
      kind: 'pluragen',
      simulator: pool,
      more: {
        accounts: [
          { id: 'one', api_key: pool.apiKey },
          { id: 'two', api_key: OTHER_KEY },
        ],
      },
    },
    { id: 'gone', kind: 'pluragen', simulator: gone },
    { id: 'fetching', kind: 'apixo', simulator: fetching },
    { id: 'back', kind: 'pluragen', simulator: back },
  ],
  models: {
    1: [
      { provider: 'front', model: '5' },
      { provider: 'back', model: '5' },
    ],
    2: [{ provider: 'front', model: '5' }],
    3: [
      { provider: 'pool', model: '5' },
      { provider: 'back', model: '5' },
    ],
    4: [
      { provider: 'gone', model: '5' },
      { provider: 'back', model: '5' },
    ],
    5: [
      { provider: 'fetching', model: 'nano-banana', input: '{ "prompt": prompt, "image_urls": media.image }' },
      { provider: 'back', model: '20', input: '{ "prompt": prompt, "media": { "image": media.image } }' },
    ],
  },
})
await gone.stop()

beforeEach(async () => {
  await genmux.forget()
  for (const { faults, requests, tasks } of [front, pool, fetching, back]) {
    faults.clear()
    requests.length = 0
    tasks.plan = { outcome: { state: 'succeeded' } }
  }
})

const RAW = 'quota of internal cluster 4711 exceeded'
const refusal = (status: number, code: string, headers: Record<string, string> = {}): InjectedFault => ({
  kind: 'status',
  status,
  headers,
  body: { success: false, error: { code, message: RAW } },
})

/** What became of each attempt: `provider state fault`. */
async function story(orderId: string): Promise<string[]> {
  const attempts = await genmux.attempts(orderId)
  return attempts.map(({ provider, state, fault }) => [provider, state, fault].filter(Boolean).join(' '))
}

describe('the next route makes the order when the first one', () => {
  test.each([
    { refuses: 'our fields', fault: refusal(422, 'validation_error'), told: 'mapping' },
    { refuses: 'our key', fault: refusal(401, 'unauthorized'), told: 'account_auth' },
    { refuses: 'for want of credits', fault: refusal(422, 'insufficient_balance'), told: 'account_funds' },
    {
      refuses: 'for half a minute',
      fault: refusal(429, 'rate_limited', { 'retry-after': '30' }),
      told: 'rate_limited',
    },
    { refuses: 'as full', fault: refusal(429, 'too_many_active_orders'), told: 'account_saturated' },
    {
      refuses: 'as busy for a minute',
      fault: refusal(503, 'server_busy', { 'retry-after': '60' }),
      told: 'unavailable',
    },
  ])('refuses $refuses', async ({ fault, told }) => {
    front.faults.next('submit', fault)
    const order = await genmux.order(1)
    expect(order.status).toBe('completed')
    expect(await story(order.id)).toEqual([`front failed ${told}`, 'back succeeded'])
    expect(front.calls('submit')).toHaveLength(1)
    expect(await genmux.transfers(order.id)).toEqual(['hold', 'capture'])
  })

  test('keeps failing, after the same bytes were sent three times under one key', async () => {
    front.faults.next('submit', refusal(500, 'internal_error'), 3)
    const order = await genmux.order(1)
    expect(order.status).toBe('completed')
    expect(await story(order.id)).toEqual(['front failed unavailable', 'back succeeded'])
    const sent = front.calls('submit')
    expect(sent).toHaveLength(3)
    expect(new Set(sent.map(request => request.headers['idempotency-key'])).size).toBe(1)
    expect(new Set(sent.map(request => request.raw.toString())).size).toBe(1)
  })

  test('cannot be reached', async () => {
    const order = await genmux.order(4)
    expect(order.status).toBe('completed')
    expect(await story(order.id)).toEqual(['gone failed unavailable', 'back succeeded'])
  })

  test('accepts the task and fails it', async () => {
    front.tasks.next({ state: 'failed', message: RAW })
    const order = await genmux.order(1)
    expect(order.status).toBe('completed')
    expect(await story(order.id)).toEqual(['front failed task_failed', 'back succeeded'])
  })

  test('has no idempotency and is out of service: nothing is sent there twice', async () => {
    fetching.faults.next('submit', { kind: 'status', status: 503, body: { code: 503, message: RAW } })
    const image = [await genmux.upload(makePng(3))]
    const order = await genmux.order(5, { media: { image } })
    expect(order.status).toBe('completed')
    expect(await story(order.id)).toEqual(['fetching failed unavailable', 'back succeeded'])
    expect(fetching.calls('submit')).toHaveLength(1)
  })

  test('cannot fetch a file, twice, each time from a fresh URL', async () => {
    const before = fetching.downloads.length
    fetching.tasks.next({ state: 'failed', code: 'INVALID_IMAGE_URL' }, 50)
    fetching.tasks.next({ state: 'failed', code: 'INVALID_IMAGE_URL' }, 50)
    const image = [await genmux.upload(makePng(4))]
    const order = await genmux.order(5, { media: { image } })
    expect(order.status).toBe('completed')
    expect(await story(order.id)).toEqual([
      'fetching failed media_unreachable',
      'fetching failed media_unreachable',
      'back succeeded',
    ])
    expect(new Set(fetching.downloads.slice(before).map(({ url }) => url)).size).toBe(2)
  })
})

test('a short outage is sat out at the same upstream, with the same bytes and key', async () => {
  front.faults.next('submit', refusal(503, 'server_busy', { 'retry-after': '1' }))
  const order = await genmux.order(1)
  expect(await story(order.id)).toEqual(['front succeeded unavailable'])
  expect(new Set(front.calls('submit').map(request => request.raw.toString())).size).toBe(1)
})

test('without another route, an order waits as long as Retry-After says', async () => {
  front.faults.next('submit', refusal(429, 'rate_limited', { 'retry-after': '2' }))
  const order = await genmux.order(2)
  expect(order.status).toBe('completed')
  expect(await story(order.id)).toEqual(['front failed rate_limited', 'front succeeded'])
  const [first, second] = front.calls('submit')
  expect((second?.at ?? 0) - (first?.at ?? 0)).toBeGreaterThanOrEqual(2_000)
})

test('a moderated order fails, is shown to no second upstream, and costs nothing', async () => {
  front.tasks.next({ state: 'moderated' })
  const balance = await genmux.balance()
  const order = await genmux.order(1)
  expect(order).toMatchObject({ status: 'failed', result: [], error: { code: 'content_rejected' } })
  expect(back.calls('submit')).toHaveLength(0)
  expect(await genmux.transfers(order.id)).toEqual(['hold', 'release'])
  expect(await genmux.balance()).toBe(balance)
})

test('when all routes fail, the order fails as provider_failed and the balance is whole again', async () => {
  front.faults.next('submit', refusal(422, 'validation_error'))
  back.tasks.next({ state: 'failed', message: RAW })
  const balance = await genmux.balance()
  const order = await genmux.order(1)
  expect(order).toMatchObject({ status: 'failed', cost_usd: '0.06', error: { code: 'provider_failed' } })
  expect(await story(order.id)).toEqual(['front failed mapping', 'back failed task_failed'])
  expect(await genmux.transfers(order.id)).toEqual(['hold', 'release'])
  expect(await genmux.balance()).toBe(balance)
})

describe('a pool of accounts', () => {
  test.each([
    { trouble: 'a revoked key', told: 'account_auth' },
    { trouble: 'no credits', told: 'account_funds' },
  ])('with $trouble in one account: the other one makes the orders, the bad one is left alone', async ({ told }) => {
    const bad = refusal(
      told === 'account_auth' ? 401 : 422,
      told === 'account_auth' ? 'unauthorized' : 'insufficient_balance',
    )
    // Which account comes first is chance.
    let asked: string | undefined
    for (let i = 0; i < 20 && asked === undefined; i++) {
      pool.faults.clear()
      pool.faults.next('submit', bad)
      const order = await genmux.order(3)
      expect(order.status).toBe('completed')
      const attempts = await genmux.attempts(order.id)
      expect(attempts.map(({ provider, fault }) => [provider, fault])).toEqual([
        ['pool', told],
        ['pool', null],
      ])
      asked = attempts[0]?.account
      expect(attempts[1]?.account).not.toBe(asked)
    }
    const next = await Promise.all(Array.from({ length: 5 }, () => genmux.order(3)))
    for (const { id } of next) expect((await genmux.attempts(id)).map(({ account }) => account)).not.toContain(asked)
  })

  test('with trouble in both: the next route', async () => {
    pool.faults.next('submit', refusal(401, 'unauthorized'), 2)
    const order = await genmux.order(3)
    expect(order.status).toBe('completed')
    expect(await story(order.id)).toEqual(['pool failed account_auth', 'pool failed account_auth', 'back succeeded'])
  })
})

test('after an upstream dies, orders go on through the next route; when it recovers it gets orders again', async () => {
  const port = Number(new URL(front.url).port)
  await front.stop()
  const first = await Promise.all(Array.from({ length: 6 }, () => genmux.order(1)))
  expect(first.map(({ status }) => status)).toEqual(Array(6).fill('completed'))
  const breaker = () => genmux.engine.engine.breaker.list()
  expect(await breaker()).toMatchObject([{ provider: 'front', account: 'main', state: 'open', reason: 'unavailable' }])

  const during = await genmux.order(1)
  expect(await story(during.id)).toEqual(['back succeeded'])

  await front.start(port)
  await genmux.db.pool.query(`UPDATE upstream_accounts SET open_until = now()`)
  const probe = await genmux.order(1)
  expect(await story(probe.id)).toEqual(['front succeeded'])
  expect(await breaker()).toEqual([])
  const after = await Promise.all(Array.from({ length: 5 }, () => genmux.order(1)))
  for (const { id } of after) expect(await story(id)).toEqual(['front succeeded'])
})

test('nothing of all this shows: no name, host, id or word of an upstream, and the ledger is clean', async () => {
  await genmux.call('GET', '/api/v1/orders?limit=100', { key: genmux.customer.key })
  expect(genmux.leaks([RAW, 'internal cluster'])).toEqual([])
  expect(await genmux.violations()).toEqual([])
})
