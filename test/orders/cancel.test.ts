import { expect, test } from 'vitest'
import type { OrderView } from '../../src/orders/order.ts'
import type { TestAnswer } from '../server.ts'
import { createPluragen } from '../simulators/pluragen.ts'
import { createProgressiverobot } from '../simulators/progressiverobot.ts'
import { zencreatorSimulator } from '../simulators/zencreator.ts'
import { gateway, until } from './gateway.ts'

const pluragen = createPluragen()
const robot = createProgressiverobot()
const zen = zencreatorSimulator()
const back = createPluragen()
delete robot.limits.all

const genmux = await gateway({
  upstreams: [
    { id: 'front-p', kind: 'pluragen', simulator: pluragen },
    { id: 'front-r', kind: 'progressiverobot', simulator: robot },
    { id: 'front-z', kind: 'zencreator', simulator: zen },
    { id: 'back', kind: 'pluragen', simulator: back },
  ],
  models: {
    1: [
      { provider: 'front-p', model: '5' },
      { provider: 'back', model: '5' },
    ],
    2: [
      { provider: 'front-r', model: 'wan-t2v' },
      { provider: 'back', model: '5' },
    ],
    3: [{ provider: 'front-z', model: 'by_prompt', input: '{ "positive_prompt": prompt, "model": "SEEDREAM_5" }' }],
  },
})

/** Places an order and waits until the upstream has it; it stays there until somebody cancels it. */
async function running(model: number): Promise<string> {
  for (const { tasks } of [pluragen, robot, zen]) tasks.plan = { outcome: { state: 'stuck' } }
  const id = await genmux.place(model)
  await until(
    () => genmux.look(id),
    ({ status }) => status === 'processing',
  )
  return id
}

function expectRefusal(answer: TestAnswer, status: number, code: string, order: Partial<OrderView>): void {
  expect(answer.status).toBe(status)
  expect(answer.body).toMatchObject({ success: false, error: { code, message: expect.any(String) }, order })
}

test('a cancel that the upstream confirms at once cancels the order and gives its hold back', async () => {
  pluragen.pluragen.cancelMs = 0
  const balance = await genmux.balance()
  const id = await running(1)
  expect(await genmux.balance()).not.toBe(balance)
  const answer = await genmux.cancel(id)
  expect(answer.status).toBe(200)
  expect(answer.body).toMatchObject({ success: true, order: { id, status: 'cancelled', cost_usd: '0.06', result: [] } })
  expect(await genmux.transfers(id)).toEqual(['hold', 'release'])
  expect(await genmux.balance()).toBe(balance)
  expectRefusal(await genmux.cancel(id), 409, 'cannot_cancel', { id, status: 'cancelled' })
})

test('a cancel that is under way answers cancel_pending, however often it is asked, until it is confirmed', async () => {
  pluragen.pluragen.cancelMs = 1_500
  const id = await running(1)
  const asked = pluragen.calls('cancel').length
  for (let i = 0; i < 3; i++)
    expectRefusal(await genmux.cancel(id), 409, 'cancel_pending', { id, status: 'processing' })
  expect(pluragen.calls('cancel').length - asked).toBe(1)
  expect(await genmux.ended(id)).toMatchObject({ status: 'cancelled', error: null })
  expect(await genmux.transfers(id)).toEqual(['hold', 'release'])
  expect(await genmux.attempts(id)).toHaveLength(1)
})

test('where only a poll tells that it is cancelled, the order is cancelled and not made elsewhere', async () => {
  const made = back.tasks.all().length
  const id = await running(2)
  expectRefusal(await genmux.cancel(id), 409, 'cancel_pending', { id })
  expect((await genmux.ended(id)).status).toBe('cancelled')
  expect(back.tasks.all()).toHaveLength(made)
})

test('an order that no upstream has accepted yet is not_ready', async () => {
  pluragen.faults.next('submit', { kind: 'slow', ms: 700 })
  pluragen.tasks.plan = { outcome: { state: 'stuck' } }
  pluragen.pluragen.cancelMs = 0
  const id = await genmux.place(1)
  expectRefusal(await genmux.cancel(id), 409, 'not_ready', { id, status: 'queued' })
  await until(
    () => genmux.look(id),
    ({ status }) => status === 'processing',
  )
  expect((await genmux.cancel(id)).status).toBe(200)
})

test('an order that stands in line at the upstream is not_ready', async () => {
  pluragen.tasks.plan = { outcome: { state: 'succeeded' }, afterMs: 3_000 }
  const id = await genmux.place(1)
  await until(
    () => genmux.look(id),
    ({ status }) => status === 'processing',
  )
  expectRefusal(await genmux.cancel(id), 409, 'not_ready', { id, status: 'processing' })
  expect((await genmux.ended(id)).status).toBe('completed')
  expectRefusal(await genmux.cancel(id), 409, 'cannot_cancel', { id, status: 'completed' })
})

test('an upstream without a cancel: cannot_cancel', async () => {
  const id = await running(3)
  expectRefusal(await genmux.cancel(id), 409, 'cannot_cancel', { id, status: 'processing' })
  zen.tasks.finish(zen.tasks.all().at(-1)?.id ?? '', { state: 'failed' })
  expectRefusal(await genmux.ended(id).then(() => genmux.cancel(id)), 409, 'cannot_cancel', { id, status: 'failed' })
})

test('an upstream that fails at cancelling: cancel_failed, and a repetition may succeed', async () => {
  pluragen.pluragen.cancelMs = 0
  const id = await running(1)
  pluragen.faults.next('cancel', {
    kind: 'status',
    status: 503,
    body: { success: false, error: { code: 'cancel_failed', message: 'queue broker unreachable' } },
  })
  const answer = await genmux.cancel(id)
  expectRefusal(answer, 503, 'cancel_failed', { id, status: 'processing' })
  expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
  expect((await genmux.cancel(id)).status).toBe(200)
})

test('a cancel whose answer is lost still cancels the order: it is not made elsewhere', async () => {
  pluragen.pluragen.cancelMs = 0
  const made = back.tasks.all().length
  const id = await running(1)
  pluragen.faults.next('cancel', { kind: 'acceptThenReset' })
  expectRefusal(await genmux.cancel(id), 503, 'cancel_failed', { id })
  expect((await genmux.ended(id)).status).toBe('cancelled')
  expect(back.tasks.all()).toHaveLength(made)
})

test('a poll that sees the cancelled task before the cancel is answered does not take the order elsewhere', async () => {
  pluragen.pluragen.cancelMs = 0
  const made = back.tasks.all().length
  const id = await running(1)
  pluragen.faults.next('cancel', { kind: 'acceptThenHang' })
  const answer = genmux.cancel(id)
  expect((await genmux.ended(id)).status).toBe('cancelled')
  expect(back.tasks.all()).toHaveLength(made)
  // Ends the wait for the answer.
  await pluragen.stop()
  await pluragen.start(Number(new URL(pluragen.url).port))
  expect((await answer).status).toBe(503)
  expect(await genmux.transfers(id)).toEqual(['hold', 'release'])
})

test('an order that is completed while its cancel is under way is completed and charged', async () => {
  pluragen.pluragen.cancelMs = 60_000
  const id = await running(1)
  expectRefusal(await genmux.cancel(id), 409, 'cancel_pending', { id })
  pluragen.tasks.finish(pluragen.tasks.all().at(-1)?.id ?? '', { state: 'succeeded' })
  expect((await genmux.ended(id)).status).toBe('completed')
  expect(await genmux.transfers(id)).toEqual(['hold', 'capture'])
})

test('an order of another customer, or none, is order_not_found', async () => {
  const id = await running(1)
  const other = await genmux.addCustomer()
  for (const path of [`/orders/${id}/cancel`, '/orders/ord_none/cancel']) {
    const answer = await other.post(path)
    expect(answer.status).toBe(404)
    expect(answer.body.error.code).toBe('order_not_found')
  }
  expect((await genmux.cancel(id)).status).toBe(409)
  pluragen.tasks.finish(pluragen.tasks.all().at(-1)?.id ?? '', { state: 'failed' })
  await genmux.ended(id)
})

test('no answer to a cancel says whose upstream it was, and the ledger is clean', async () => {
  expect(genmux.leaks(['queue broker'])).toEqual([])
  expect(await genmux.violations()).toEqual([])
})
