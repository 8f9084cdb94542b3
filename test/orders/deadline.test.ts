import { expect, test } from 'vitest'
import { createPluragen } from '../simulators/pluragen.ts'
import { createProgressiverobot } from '../simulators/progressiverobot.ts'
import type { InjectedFault } from '../simulators/spec.ts'
import { zencreatorSimulator } from '../simulators/zencreator.ts'
import { FAST, gateway, madeHashes, until } from './gateway.ts'

const pluragen = createPluragen()
const robot = createProgressiverobot()
const zen = zencreatorSimulator()
const back = createPluragen()
delete robot.limits.all

const short = { poll: { ...FAST, deadline_ms: 1_500 } }
const ZEN = { provider: 'front-z', model: 'by_prompt', input: '{ "positive_prompt": prompt, "model": "SEEDREAM_5" }' }
const genmux = await gateway({
  upstreams: [
    { id: 'front-p', kind: 'pluragen', simulator: pluragen, more: short },
    { id: 'front-r', kind: 'progressiverobot', simulator: robot, more: short },
    { id: 'front-z', kind: 'zencreator', simulator: zen, more: short },
    { id: 'back', kind: 'pluragen', simulator: back, more: { poll: { ...FAST, deadline_ms: 20_000 } } },
  ],
  models: {
    1: [
      { provider: 'front-p', model: '5' },
      { provider: 'back', model: '5' },
    ],
    2: [{ provider: 'front-p', model: '5' }],
    3: [
      { provider: 'front-r', model: 'wan-t2v' },
      { provider: 'back', model: '5' },
    ],
    4: [ZEN, { provider: 'back', model: '5' }],
  },
})

test('a task that is stuck is cancelled at its deadline, and the next route makes the order', async () => {
  pluragen.tasks.next({ state: 'stuck' })
  const order = await genmux.order(1)
  expect(order.status).toBe('completed')
  expect(pluragen.tasks.all().at(-1)?.now()).toEqual({ state: 'cancelled' })
  expect(await genmux.attempts(order.id)).toMatchObject([
    { provider: 'front-p', state: 'cancelled', fault: 'timed_out' },
    { provider: 'back', state: 'succeeded' },
  ])
  expect(await genmux.transfers(order.id)).toEqual(['hold', 'capture'])
})

test('a cancel that the upstream confirms later counts as well', async () => {
  robot.tasks.next({ state: 'stuck' })
  const order = await genmux.order(3)
  expect(order.status).toBe('completed')
  expect(robot.calls('cancel')).toHaveLength(1)
  expect(await genmux.attempts(order.id)).toMatchObject([
    { provider: 'front-r', state: 'cancelled', fault: 'timed_out' },
    { provider: 'back', state: 'succeeded' },
  ])
})

test('without another route a stuck order fails as timed_out and costs nothing', async () => {
  pluragen.tasks.next({ state: 'stuck' })
  const balance = await genmux.balance()
  const order = await genmux.order(2)
  expect(order).toMatchObject({ status: 'failed', error: { code: 'timed_out' } })
  expect(await genmux.transfers(order.id)).toEqual(['hold', 'release'])
  expect(await genmux.balance()).toBe(balance)
})

const refused: InjectedFault = { kind: 'status', status: 403, body: { success: false, error: { code: 'forbidden' } } }
const down: InjectedFault = { kind: 'status', status: 500 }
const busy: InjectedFault = {
  kind: 'status',
  status: 429,
  headers: { 'retry-after': '1' },
  body: { success: false, error: { code: 'rate_limited' } },
}

test('a cancel that fails for the moment is tried again, and nothing is bought elsewhere until it is confirmed', async () => {
  const asked = pluragen.calls('cancel').length
  const made = back.tasks.all().length
  pluragen.tasks.next({ state: 'stuck' })
  for (const fault of [down, { kind: 'resetBeforeAccept' } as const, busy]) pluragen.faults.next('cancel', fault)
  const id = await genmux.place(1)
  await until(
    () => pluragen.calls('cancel').length - asked,
    tries => tries === 3,
  )
  expect(await genmux.attempts(id)).toMatchObject([{ provider: 'front-p', state: 'accepted' }])
  expect(back.tasks.all()).toHaveLength(made)
  const order = await genmux.ended(id)
  expect(order.status).toBe('completed')
  expect(pluragen.calls('cancel').length - asked).toBe(4)
  expect(pluragen.tasks.all().at(-1)?.now()).toEqual({ state: 'cancelled' })
  expect(await genmux.attempts(id)).toMatchObject([
    { provider: 'front-p', state: 'cancelled', fault: 'timed_out' },
    { provider: 'back', state: 'succeeded' },
  ])
  expect(await genmux.transfers(id)).toEqual(['hold', 'capture'])
})

test('a cancel that was heard, though its answer never came, is not asked for again: the poll tells', async () => {
  const asked = pluragen.calls('cancel').length
  pluragen.tasks.next({ state: 'stuck' })
  pluragen.faults.next('cancel', { kind: 'acceptThenReset' })
  const order = await genmux.order(1)
  expect(order.status).toBe('completed')
  expect(pluragen.calls('cancel').length - asked).toBe(1)
  expect(await genmux.attempts(order.id)).toMatchObject([
    { provider: 'front-p', state: 'cancelled', fault: 'timed_out' },
    { provider: 'back', state: 'succeeded' },
  ])
})

test('a cancel that fails for half a minute is given up, and the order ends', async () => {
  const asked = pluragen.calls('cancel').length
  const made = back.tasks.all().length
  pluragen.tasks.next({ state: 'stuck' })
  pluragen.faults.next('cancel', down, 2)
  const id = await genmux.place(1)
  await until(
    () => pluragen.calls('cancel').length - asked,
    tries => tries === 1,
  )
  await genmux.db.pool.query(
    `UPDATE attempts SET deadline_at = now() - interval '30 seconds', next_poll_at = now() WHERE order_id = $1`,
    [id],
  )
  expect(await genmux.ended(id)).toMatchObject({ status: 'failed', error: { code: 'timed_out' } })
  expect(pluragen.calls('cancel').length - asked).toBe(2)
  expect(back.tasks.all()).toHaveLength(made)
  expect(await genmux.transfers(id)).toEqual(['hold', 'release', 'suspense'])
})

test.each([
  { why: 'the upstream refuses to cancel', model: 1, simulator: pluragen },
  { why: 'the upstream has no cancel', model: 4, simulator: zen },
])(
  'a stuck task that cannot be cancelled ($why) is not bought again elsewhere; its late success is recorded',
  async ({ model, simulator }) => {
    const made = back.tasks.all().length
    const balance = await genmux.balance()
    simulator.tasks.next({ state: 'stuck' })
    simulator.faults.next('cancel', refused)
    const order = await genmux.order(model)
    expect(order).toMatchObject({ status: 'failed', error: { code: 'timed_out' } })
    expect(back.tasks.all()).toHaveLength(made)
    expect(await genmux.transfers(order.id)).toEqual(['hold', 'release', 'suspense'])

    simulator.tasks.finish(simulator.tasks.all().at(-1)?.id ?? '', { state: 'succeeded' })
    await genmux.db.pool.query('UPDATE attempts SET next_poll_at = now() WHERE order_id = $1', [order.id])
    await until(
      () => genmux.attempts(order.id),
      ([attempt]) => attempt?.state === 'late',
    )
    expect(await genmux.look(order.id)).toEqual(order)
    expect(await genmux.balance()).toBe(balance)
  },
)

test('a status word that no document mentions means: still processing', async () => {
  zen.tasks.next({ state: 'unknown', word: 'upscaling_faces' })
  const id = await genmux.place(4)
  await until(
    () => genmux.look(id),
    ({ status }) => status === 'processing',
  )
  await until(
    () => zen.calls('poll').length,
    polls => polls >= 3,
  )
  expect(await genmux.look(id)).toMatchObject({ status: 'processing', error: null })
  zen.tasks.finish(zen.tasks.all().at(-1)?.id ?? '', { state: 'succeeded' })
  expect((await genmux.ended(id)).status).toBe('completed')
})

test('a task that made only a part of its outputs completes with that part', async () => {
  zen.tasks.next({ state: 'partial' })
  const order = await genmux.order(4)
  expect(order.status).toBe('completed')
  expect(await genmux.resultHashes(order)).toEqual(madeHashes(zen).slice(-1))
})

test('the ledger is clean', async () => {
  expect(await genmux.violations()).toEqual([])
  expect(genmux.leaks(['upscaling_faces'])).toEqual([])
})
