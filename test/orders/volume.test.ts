import { expect, test } from 'vitest'
import { apixoSimulator } from '../simulators/apixo.ts'
import { createPluragen } from '../simulators/pluragen.ts'
import { createProgressiverobot } from '../simulators/progressiverobot.ts'
import type { InjectedFault, Simulator } from '../simulators/spec.ts'
import { zencreatorSimulator } from '../simulators/zencreator.ts'
import { FAST, gateway, until } from './gateway.ts'

const ORDERS = 300
const UNCLEAR_SHARE = 0.2

const robot = createProgressiverobot()
const apixo = apixoSimulator()
const pluragen = createPluragen()
const zen = zencreatorSimulator()
const all: Simulator[] = [robot, apixo, pluragen, zen]
robot.credits = 1_000_000
zen.credits = 1_000_000
pluragen.pluragen.balance = 1_000_000_000n
for (const { limits, tasks } of all) {
  for (const name of ['all', 'submit', 'read'] as const) delete limits[name]
  tasks.plan = { outcome: { state: 'succeeded' }, afterMs: 300 }
}

const more = { poll: { ...FAST, every_ms: 250, deadline_ms: 16_000 } }
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
  ],
  models: {
    1: [{ provider: 'supplier-r', model: 'wan-t2v' }, ZEN],
    2: [{ provider: 'supplier-a', model: 'nano-banana' }, ZEN],
    3: [{ provider: 'supplier-p', model: '5' }, ZEN],
  },
})

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
    const fault = FAULTS[Math.floor(Math.random() * FAULTS.length)] as InjectedFault
    if (requests[0]?.operation === 'submit' && Math.random() < UNCLEAR_SHARE) simulator.faults.next('submit', fault)
    return push(...requests)
  }
}

test(`${ORDERS} orders while a fifth of all submits is unclear: bought at most once each, charged when delivered, all over by the deadline`, {
  timeout: 120_000,
}, async () => {
  all.forEach(disturb)
  const prompts = Array.from({ length: ORDERS }, (_, i) => `kite number ${i}.`)
  const ids: string[] = []
  for (const [i, prompt] of prompts.entries()) {
    if (i % 25 === 0) await new Promise(done => setTimeout(done, 250))
    ids.push(await genmux.place(1 + (i % 3), { prompt }))
  }
  const counts = () => genmux.db.prisma.order.count({ where: { status: { in: ['queued', 'processing'] } } })
  await until(counts, active => active === 0, 60_000)

  // Every prompt is one order's own, so it tells whose tasks these are.
  for (const { tasks } of [robot, apixo]) {
    const made = tasks.all().map(({ input }) => JSON.stringify(input))
    for (const prompt of prompts) expect(made.filter(text => text.includes(prompt)).length).toBeLessThanOrEqual(1)
  }
  const orders = await Promise.all(ids.map(genmux.look))
  expect(orders.filter(({ status }) => status === 'completed').length).toBeGreaterThan(ORDERS / 2)
  for (const order of orders) {
    const kinds = await genmux.transfers(order.id)
    expect(kinds.filter(kind => kind === 'capture')).toHaveLength(order.status === 'completed' ? 1 : 0)
    expect(order.result).toHaveLength(order.status === 'completed' ? 1 : 0)
  }
  const delivered = await Promise.all(orders.map(genmux.resultHashes))
  const tasks = all.flatMap(simulator => simulator.tasks.all())
  for (const [i, hashes] of delivered.entries()) {
    const own = tasks.filter(({ input }) => JSON.stringify(input).includes(prompts[i] as string))
    const files = own.flatMap(task => task.outputs().map(file => file.sha256))
    expect(files).toEqual(expect.arrayContaining(hashes))
  }
  expect(await genmux.violations()).toEqual([])
  expect(genmux.leaks(['supplier'])).toEqual([])
})
