import { expect, test } from 'vitest'
import { createProgressiverobot } from '../simulators/progressiverobot.ts'
import { zencreatorSimulator } from '../simulators/zencreator.ts'
import { gateway, until } from './gateway.ts'

/** What was spent at the start comes back after the window of a minute; then both are watched a little longer. */
const WINDOW_MS = 95_000
const LONGER_MS = 2_000
const ORDERS = 30

const zen = zencreatorSimulator()
const robot = createProgressiverobot()
zen.tasks.plan = { outcome: { state: 'succeeded' }, afterMs: 10_000 }
robot.tasks.plan = { outcome: { state: 'succeeded' }, afterMs: 10_000 }

/** What their documents say, and polls as often as their budgets let them. */
const documented = { limits: {}, poll: { first_ms: 500, every_ms: 500, deadline_ms: 900_000 } }
const genmux = await gateway({
  upstreams: [
    { id: 'supplier-z', kind: 'zencreator', simulator: zen, more: documented },
    { id: 'supplier-r', kind: 'progressiverobot', simulator: robot, more: documented },
  ],
  models: {
    1: [{ provider: 'supplier-z', model: 'by_prompt', input: '{ "positive_prompt": prompt, "model": "SEEDREAM_5" }' }],
    2: [{ provider: 'supplier-r', model: 'wan-t2v' }],
  },
})

test('with 30 orders each at the documented limits of two upstreams, neither refuses a single request, and orders get done', {
  timeout: 120_000,
}, async () => {
  const place = (model: number) => Promise.all(Array.from({ length: ORDERS }, () => genmux.place(model)))
  const [atZen, atRobot] = [await place(1), await place(2)]
  await until(
    () => zen.counts.accepted > 10 && robot.counts.accepted > 4,
    both => both,
    WINDOW_MS,
  )
  await new Promise(done => setTimeout(done, LONGER_MS))

  expect(zen.counts.refused).toBe(0)
  expect(robot.counts.refused).toBe(0)
  const completed = async (ids: string[]) =>
    (await Promise.all(ids.map(genmux.look))).filter(({ status }) => status === 'completed').length
  // Polls starve neither submits nor downloads.
  expect(await completed(atZen)).toBeGreaterThanOrEqual(8)
  expect(await completed(atRobot)).toBeGreaterThanOrEqual(2)
})
