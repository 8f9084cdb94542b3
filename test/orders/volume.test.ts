import { expect, test } from 'vitest'
import { seeded } from '../chaos/random.ts'
import { apixoSimulator } from '../simulators/apixo.ts'
import { createOneshot } from '../simulators/oneshot.ts'
import { createPluragen } from '../simulators/pluragen.ts'
import { createProgressiverobot } from '../simulators/progressiverobot.ts'
import type { InjectedFault, Simulator } from '../simulators/spec.ts'
import { zencreatorSimulator } from '../simulators/zencreator.ts'
import { FAST, gateway, until } from './gateway.ts'

const ORDERS = 1_000
const UNCLEAR_SHARE = 0.2
/** How long after its deadline an order may be found to be over, on a machine that is busy with other tests. */
const LATE_MS = 20_000
const SEED = process.env.VOLUME_SEED ?? String(Date.now())
const random = seeded('volume', SEED)

const robot = createProgressiverobot()
const apixo = apixoSimulator()
const pluragen = createPluragen()
const zen = zencreatorSimulator()
const oneshot = createOneshot()
const all: Simulator[] = [robot, apixo, pluragen, zen, oneshot]
robot.credits = 1_000_000
oneshot.points = 1_000_000
zen.credits = 1_000_000
pluragen.pluragen.balance = 1_000_000_000n
for (const { limits, tasks } of all) {
  for (const name of ['all', 'submit', 'read'] as const) delete limits[name]
  tasks.plan = { outcome: { state: 'succeeded' }, afterMs: 300 }
}

const more = { poll: { ...FAST, every_ms: 250, deadline_ms: 12_000 } }
const ZEN = {
  provider: 'supplier-z',
  model: 'by_prompt',
  input: '{ "positive_prompt": prompt, "model": "SEEDREAM_5" }',
}
const genmux = await gateway({
  publicUrl: true,
  upstreams: [
    { id: 'supplier-r', kind: 'progressiverobot', simulator: robot, more },
    { id: 'supplier-a', kind: 'apixo', simulator: apixo, more },
    { id: 'supplier-p', kind: 'pluragen', simulator: pluragen, more },
    { id: 'supplier-z', kind: 'zencreator', simulator: zen, more },
    { id: 'supplier-o', kind: 'oneshot', simulator: oneshot, more },
  ],
  models: {
    1: [{ provider: 'supplier-r', model: 'wan-t2v' }, ZEN],
    2: [{ provider: 'supplier-a', model: 'nano-banana' }, ZEN],
    3: [{ provider: 'supplier-p', model: '5' }, ZEN],
    4: [ZEN],
    5: [{ provider: 'supplier-o', model: 'nano-banana' }, ZEN],
  },
})
/** A tenth goes to the oneshot upstream: of the tasks of one moment it lists no more than two hundred. */
const MODELS = [1, 2, 3, 4, 1, 2, 3, 1, 2, 5]

const FAULTS: InjectedFault[] = [
  { kind: 'acceptThenReset' },
  { kind: 'resetBeforeAccept' },
  { kind: 'acceptThenTruncate' },
  { kind: 'acceptThenGarble' },
]

/** Makes a share of the submits of an upstream unclear, at random. */
function disturb(simulator: Simulator): void {
  const push = simulator.requests.push.bind(simulator.requests)
  simulator.requests.push = (...requests) => {
    if (requests[0]?.operation === 'submit' && random.next() < UNCLEAR_SHARE)
      simulator.faults.next('submit', random.pick(FAULTS))
    return push(...requests)
  }
}

/**
 * Places the orders, forty in a quarter of a second; answers with their ids, each prompt's at its place. What was learned of
 * the upstreams is forgotten meanwhile: else their breakers would leave most orders to the one that all fall back on.
 */
async function placeAll(prompts: readonly string[]): Promise<string[]> {
  const ids: string[] = []
  for (const [i, prompt] of prompts.entries()) {
    if (i % 40 === 0) {
      await new Promise(done => setTimeout(done, 250))
      await genmux.forget()
    }
    ids.push(await genmux.place(MODELS[i % MODELS.length] as number, { prompt }))
  }
  return ids
}

test(`${ORDERS} orders while a fifth of all submits is unclear: bought at most once each, charged when delivered, all over by the deadline (seed ${SEED})`, {
  timeout: 180_000,
}, async () => {
  all.forEach(disturb)
  const prompts = Array.from({ length: ORDERS }, (_, i) => `kite number ${i}.`)
  const ids = await placeAll(prompts)
  const counts = () => genmux.db.prisma.order.count({ where: { status: { in: ['queued', 'processing'] } } })
  await until(counts, active => active === 0, 60_000)

  // Every prompt is one order's own, so it tells whose tasks these are.
  const made = Map.groupBy(
    all.flatMap(simulator => simulator.tasks.all().map(task => ({ simulator, task }))),
    ({ task }) => /kite number \d+\./.exec(JSON.stringify(task.input))?.[0],
  )
  const madeFor = (i: number) => made.get(prompts[i] as string) ?? []
  for (const i of prompts.keys()) expect(madeFor(i).length, prompts[i]).toBeLessThanOrEqual(1)

  const orders = await Promise.all(ids.map(genmux.look))
  expect(orders.filter(({ status }) => status === 'completed').length).toBeGreaterThan(ORDERS / 2)
  const captures = await genmux.db.prisma.transfer.findMany({ where: { kind: 'capture' } })
  const captured = Map.groupBy(captures, ({ orderId }) => orderId)
  for (const [i, order] of orders.entries()) {
    expect(captured.get(order.id) ?? [], order.id).toHaveLength(order.status === 'completed' ? 1 : 0)
    const files = madeFor(i).flatMap(({ task }) => task.outputs().map(file => file.sha256))
    expect(await genmux.resultHashes(order)).toEqual(order.status === 'completed' ? files : [])
  }
  const ended = await genmux.db.prisma.order.findMany({ select: { id: true, finishedAt: true, deadlineAt: true } })
  expect(ended.filter(o => Number(o.finishedAt) > Number(o.deadlineAt) + LATE_MS)).toEqual([])
  for (const simulator of all) expect(simulator.tasks.all().length).toBeGreaterThan(0)
  expect(await genmux.violations()).toEqual([])
  expect(genmux.leaks(['supplier'])).toEqual([])
})
