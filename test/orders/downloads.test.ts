import { expect, test } from 'vitest'
import { openS3, parseS3Url } from '../../src/storage/s3.ts'
import { createPluragen } from '../simulators/pluragen.ts'
import { createProgressiverobot } from '../simulators/progressiverobot.ts'
import type { InjectedFault } from '../simulators/spec.ts'
import { gateway, until } from './gateway.ts'
import { startS3 } from '../storage/s3-server.ts'

const pluragen = createPluragen()
const robot = createProgressiverobot()
delete robot.limits.all

const s3 = await startS3()

const genmux = await gateway({
  storage: () => openS3(parseS3Url(s3.url)),
  upstreams: [
    { id: 'front-p', kind: 'pluragen', simulator: pluragen },
    { id: 'front-r', kind: 'progressiverobot', simulator: robot },
  ],
  models: {
    1: [{ provider: 'front-p', model: '5' }],
    2: [{ provider: 'front-r', model: 'wan-t2v' }],
  },
})

/** More often than a delivery may fail. */
const TIMES = 10

const tooMany = (seconds: number): InjectedFault => ({
  kind: 'status',
  status: 429,
  headers: { 'retry-after': String(seconds) },
})

/** How the delivery stands; the order is not held while it waits, so `waits` (seconds) is what the upstream asked for. */
async function delivery(id: string): Promise<{ failures: number; waits: number }> {
  const { rows } = await genmux.db.pool.query<{ failures: number; waits: number }>(
    `SELECT delivery_failures AS failures, extract(epoch FROM wake_at - now())::float8 AS waits FROM orders WHERE id = $1`,
    [id],
  )
  return rows[0] as { failures: number; waits: number }
}

const wake = (id: string) => genmux.db.pool.query('UPDATE orders SET wake_at = now() WHERE id = $1', [id])

test.each([
  { from: 'a plain link', model: 1, simulator: pluragen },
  { from: 'the API, with our key', model: 2, simulator: robot },
])(
  'an upstream that says 429 to the download from $from delays that order for as long as it asks, and no other',
  async ({ model, simulator }) => {
    const before = simulator.calls('file').length
    simulator.faults.next('file', tooMany(600))
    const id = await genmux.place(model)
    await until(
      () => delivery(id),
      ({ waits }) => waits > 500,
    )

    const other = await genmux.order(model)
    expect(other.status).toBe('completed')
    expect(simulator.calls('file').length - before).toBe(2)

    simulator.faults.next('file', tooMany(600), TIMES)
    for (let i = 1; i <= TIMES; i++) {
      await wake(id)
      await until(
        () => delivery(id),
        ({ waits }) => waits > 500 && simulator.calls('file').length - before === 2 + i,
      )
    }
    expect((await delivery(id)).failures).toBe(0)
    expect((await genmux.look(id)).status).toBe('processing')

    await wake(id)
    const order = await genmux.ended(id)
    expect(order.status).toBe('completed')
    expect(await genmux.transfers(id)).toEqual(['hold', 'capture'])
    expect(simulator.calls('submit').length).toBe(2)
  },
)

test('an upstream that still says 429 long after the deadline has failed to deliver', async () => {
  pluragen.faults.next('file', tooMany(600), TIMES)
  const id = await genmux.place(1)
  await until(
    () => delivery(id),
    ({ waits }) => waits > 500,
  )
  await genmux.db.pool.query(`UPDATE attempts SET deadline_at = now() - interval '2 hours' WHERE order_id = $1`, [id])
  await genmux.db.pool.query('UPDATE orders SET delivery_failures = 6, wake_at = now() WHERE id = $1', [id])
  expect(await genmux.ended(id)).toMatchObject({ status: 'failed', error: { code: 'provider_failed' } })
  expect(await genmux.transfers(id)).toEqual(['hold', 'release', 'suspense'])
  pluragen.faults.clear()
})

test('while our storage is away orders wait for it, however long, and are delivered when it is back', async () => {
  await s3.away()
  const before = pluragen.calls('file').length
  const id = await genmux.place(1)
  for (let i = 1; i <= TIMES; i++) {
    await until(
      () => delivery(id),
      ({ waits }) => waits < 5 && pluragen.calls('file').length - before >= i,
    )
    await wake(id)
  }
  expect((await delivery(id)).failures).toBe(0)
  await s3.back()
  await wake(id)
  const order = await genmux.ended(id)
  expect(order.status).toBe('completed')
  expect(await genmux.resultHashes(order)).toHaveLength(1)
  expect(await genmux.transfers(id)).toEqual(['hold', 'capture'])
})

test('a Retry-After beyond all reason is a day', async () => {
  pluragen.faults.next('submit', { kind: 'status', status: 429, headers: { 'retry-after': '9'.repeat(30) } })
  const id = await genmux.place(1)
  const blocked = await until(
    async () =>
      (await genmux.engine.engine.budgets.left(accountOf('front-p'))).find(({ window }) => window === 'submit'),
    found => (found?.blockedMs ?? 0) > 0,
  )
  expect(blocked?.blockedMs).toBeLessThanOrEqual(86_400_000)
  expect((await genmux.look(id)).status).toBe('queued')
})

function accountOf(provider: string) {
  const account = genmux.engine.engine.catalog.providers.get(provider)?.accounts[0]
  if (!account?.configured) throw new Error(`no account at ${provider}`)
  return account
}
