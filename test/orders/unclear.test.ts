import { describe, expect, test } from 'vitest'
import { apixoSimulator } from '../simulators/apixo.ts'
import { createOneshot } from '../simulators/oneshot.ts'
import { createPluragen } from '../simulators/pluragen.ts'
import { createProgressiverobot } from '../simulators/progressiverobot.ts'
import type { InjectedFault, Simulator } from '../simulators/spec.ts'
import { zencreatorSimulator } from '../simulators/zencreator.ts'
import { COST, FAST, gateway, madeHashes, until } from './gateway.ts'

/*
 * A submit whose answer never came whole. The upstream may have the task: it is never sent blindly again, and it is charged to
 * nobody unless it is delivered.
 */

const pluragen = createPluragen()
const zen = zencreatorSimulator()
const robot = createProgressiverobot()
const oneshot = createOneshot()
const apixo = apixoSimulator()
const mute = apixoSimulator()
const back = createPluragen()
for (const { tasks } of [pluragen, zen, robot, apixo, mute]) {
  tasks.plan = { outcome: { state: 'succeeded' }, afterMs: 300 }
}
for (const { limits } of [zen, robot, oneshot])
  for (const name of ['all', 'submit', 'read'] as const) delete limits[name]
mute.callbacks.copies = 0

const short = (deadline_ms: number) => ({ poll: { ...FAST, deadline_ms } })
const genmux = await gateway({
  publicUrl: true,
  upstreams: [
    { id: 'supplier-p', kind: 'pluragen', simulator: pluragen, more: short(60_000) },
    { id: 'supplier-z', kind: 'zencreator', simulator: zen },
    { id: 'supplier-r', kind: 'progressiverobot', simulator: robot, more: short(8_000) },
    { id: 'supplier-o', kind: 'oneshot', simulator: oneshot, more: short(4_000) },
    { id: 'supplier-a', kind: 'apixo', simulator: apixo, more: short(60_000) },
    { id: 'supplier-m', kind: 'apixo', simulator: mute, more: short(1_500) },
    { id: 'supplier-b', kind: 'pluragen', simulator: back },
  ],
  models: {
    1: [{ provider: 'supplier-p', model: '5' }],
    2: [{ provider: 'supplier-z', model: 'by_prompt', input: '{ "positive_prompt": prompt, "model": "SEEDREAM_5" }' }],
    3: [
      { provider: 'supplier-r', model: 'wan-t2v' },
      { provider: 'supplier-b', model: '5' },
    ],
    4: [
      { provider: 'supplier-o', model: 'nano-banana' },
      { provider: 'supplier-b', model: '5' },
    ],
    5: [
      { provider: 'supplier-a', model: 'nano-banana' },
      { provider: 'supplier-b', model: '5' },
    ],
    6: [
      { provider: 'supplier-m', model: 'nano-banana' },
      { provider: 'supplier-b', model: '5' },
    ],
  },
})

const ACCEPTED: readonly InjectedFault[] = [
  { kind: 'acceptThenReset' },
  { kind: 'acceptThenTruncate' },
  { kind: 'acceptThenGarble' },
  { kind: 'acceptThenStatus', status: 502 },
]

const UPSTREAMS = [
  { name: 'pluragen, by its replay', model: 1, simulator: pluragen as Simulator, faults: [...ACCEPTED] },
  { name: 'zencreator, by its replay', model: 2, simulator: zen as Simulator, faults: [...ACCEPTED] },
  { name: 'progressiverobot, by its seed', model: 3, simulator: robot as Simulator, faults: [...ACCEPTED] },
  { name: 'oneshot, among its projects', model: 4, simulator: oneshot as Simulator, faults: [...ACCEPTED] },
  { name: 'apixo, by its callback', model: 5, simulator: apixo as Simulator, faults: [...ACCEPTED] },
]
const CASES = UPSTREAMS.flatMap(({ faults, ...upstream }) => faults.map(fault => ({ ...upstream, fault })))

test.each(CASES)(
  'a task that was accepted although the answer broke ($fault.kind) is found: $name',
  async ({ model, simulator, fault }) => {
    await genmux.forget()
    const before = simulator.tasks.all().length
    simulator.faults.next('submit', fault)
    const order = await genmux.order(model, { prompt: `${fault.kind} ${model} ${before}` })
    expect(order).toMatchObject({ status: 'completed', error: null })
    expect(simulator.tasks.all()).toHaveLength(before + 1)
    expect(await genmux.resultHashes(order)).toEqual(madeHashes(simulator).slice(before))
    expect(await genmux.attempts(order.id)).toMatchObject([{ state: 'succeeded' }])
    expect(await genmux.transfers(order.id)).toEqual(['hold', 'capture'])
  },
)

describe('when the upstream never had the task', () => {
  test.each([
    { name: 'pluragen', model: 1, simulator: pluragen as Simulator },
    { name: 'zencreator', model: 2, simulator: zen as Simulator },
  ])('the replay makes it: $name', async ({ model, simulator }) => {
    await genmux.forget()
    const before = simulator.tasks.all().length
    const sent = simulator.calls('submit').length
    simulator.faults.next('submit', { kind: 'resetBeforeAccept' })
    const order = await genmux.order(model)
    expect(order.status).toBe('completed')
    expect(simulator.tasks.all()).toHaveLength(before + 1)
    const replay = simulator.calls('submit').slice(sent)
    expect(
      new Set(replay.map(({ headers, raw }) => `${String(headers['idempotency-key'])} ${raw.toString()}`)).size,
    ).toBe(1)
  })

  test('two looks at its list prove that, and the next route makes it: progressiverobot', async () => {
    await genmux.forget()
    const before = robot.tasks.all().length
    robot.faults.next('submit', { kind: 'resetBeforeAccept' })
    const lists = robot.calls('list').length
    const order = await genmux.order(3)
    expect(order.status).toBe('completed')
    expect(robot.tasks.all()).toHaveLength(before)
    const looks = robot.calls('list').slice(lists)
    expect(looks).toHaveLength(2)
    // A quarter of a deadline of 8 s.
    expect((looks[1]?.at ?? 0) - (looks[0]?.at ?? 0)).toBeGreaterThanOrEqual(2_000)
    expect(await genmux.attempts(order.id)).toMatchObject([
      { provider: 'supplier-r', state: 'absent' },
      { provider: 'supplier-b', state: 'succeeded' },
    ])
  })

  test('nothing can prove that in time: the order fails and is tried nowhere else: oneshot', async () => {
    await genmux.forget()
    const made = back.tasks.all().length
    const balance = await genmux.balance()
    oneshot.faults.next('submit', { kind: 'resetBeforeAccept' })
    const order = await genmux.order(4)
    expect(order).toMatchObject({ status: 'failed', error: { code: 'submission_unknown' } })
    expect(back.tasks.all()).toHaveLength(made)
    expect(await genmux.balance()).toBe(balance)
  })
})

test('without a word from the upstream the order fails at the deadline, unpaid; a late success is recorded, never charged', async () => {
  await genmux.forget()
  const made = back.tasks.all().length
  const balance = await genmux.balance()
  mute.faults.next('submit', { kind: 'acceptThenReset' })
  const placedAt = Date.now()
  const order = await genmux.order(6)
  expect(Date.now() - placedAt).toBeLessThan(1_500 + 1_500)
  expect(order).toMatchObject({ status: 'failed', result: [], error: { code: 'submission_unknown' } })
  expect(mute.tasks.all()).toHaveLength(1)
  expect(back.tasks.all()).toHaveLength(made)
  expect(await genmux.transfers(order.id)).toEqual(['hold', 'release', 'suspense'])
  const suspense = await genmux.db.prisma.transfer.findFirstOrThrow({ where: { orderId: order.id, kind: 'suspense' } })
  expect(suspense.amount).toBe(COST)
  expect(await genmux.balance()).toBe(balance)
  expect(await genmux.attempts(order.id)).toMatchObject([{ state: 'abandoned', ref: null }])

  const [task] = mute.tasks.all()
  expect(await mute.callbacks.send(task?.id ?? '')).toBe(200)
  const [attempt] = await until(
    () => genmux.attempts(order.id),
    ([a]) => a?.state === 'late',
  )
  expect(attempt?.outputs).toContain(mute.url)
  expect(await genmux.look(order.id)).toEqual(order)
  expect(await genmux.transfers(order.id)).toEqual(['hold', 'release', 'suspense'])
  expect(await genmux.balance()).toBe(balance)
})

test.each([
  { name: 'progressiverobot', model: 3, simulator: robot as Simulator },
  { name: 'oneshot', model: 4, simulator: oneshot as Simulator },
])('a task that its list shows too late is recorded, never charged: $name', async ({ model, simulator }) => {
  await genmux.forget()
  const before = simulator.tasks.all().length
  const balance = await genmux.balance()
  simulator.faults.next('submit', { kind: 'acceptThenReset' })
  simulator.faults.next('list', { kind: 'status', status: 500 }, 1_000)
  const order = await genmux.order(model, { prompt: `seen too late ${model}` })
  simulator.faults.clear()
  expect(order).toMatchObject({ status: 'failed', error: { code: 'submission_unknown' } })
  expect(simulator.tasks.all()).toHaveLength(before + 1)
  expect(await genmux.attempts(order.id)).toMatchObject([{ state: 'abandoned', ref: null }])

  // It would be looked for five minutes later.
  await genmux.db.pool.query('UPDATE attempts SET next_poll_at = now() WHERE order_id = $1', [order.id])
  await until(
    () => genmux.attempts(order.id),
    ([attempt]) => attempt?.state === 'late',
  )
  expect(await genmux.look(order.id)).toEqual(order)
  expect(await genmux.transfers(order.id)).toEqual(['hold', 'release', 'suspense'])
  expect(await genmux.balance()).toBe(balance)
})

test('a submit that hangs after its acceptance is settled like one that broke', { timeout: 90_000 }, async () => {
  await genmux.forget()
  const upstreams = UPSTREAMS.filter(({ model }) => model === 1 || model === 5)
  const before = upstreams.map(({ simulator }) => simulator.tasks.all().length)
  for (const { simulator } of upstreams) simulator.faults.next('submit', { kind: 'acceptThenHang' })
  const orders = await Promise.all(upstreams.map(({ model }) => genmux.order(model, {}, 60_000)))
  expect(orders.map(({ status }) => status)).toEqual(['completed', 'completed'])
  expect(upstreams.map(({ simulator }) => simulator.tasks.all().length)).toEqual(before.map(count => count + 1))
})

test('the ledger is clean and the customer has read nothing of the upstreams', async () => {
  await genmux.call('GET', '/api/v1/orders?limit=100', { key: genmux.customer.key })
  expect(await genmux.violations()).toEqual([])
  expect(genmux.leaks(['supplier'])).toEqual([])
})
