import { expect, test } from 'vitest'
import { apixoSimulator } from '../simulators/apixo.ts'
import { FAST, gateway, madeHashes, until } from './gateway.ts'

/*
 * What an upstream may tell us by itself. Polls are so slow here that only a callback can have moved an order.
 */

const apixo = apixoSimulator()
const other = apixoSimulator()

const genmux = await gateway({
  publicUrl: true,
  upstreams: [
    {
      id: 'supplier',
      kind: 'apixo',
      simulator: apixo,
      more: { poll: { first_ms: 60_000, every_ms: 60_000, deadline_ms: 120_000 } },
    },
    { id: 'polled', kind: 'apixo', simulator: other, more: { poll: FAST } },
  ],
  models: {
    1: [{ provider: 'supplier', model: 'nano-banana' }],
    2: [{ provider: 'polled', model: 'nano-banana' }],
  },
})

const task = () => apixo.tasks.all().at(-1)
const callbackUrl = () => (task() as { input: { callbackUrl: string } }).input.callbackUrl
const processing = (id: string) =>
  until(
    () => genmux.look(id),
    ({ status }) => status === 'processing',
  )
const pause = (ms: number) => new Promise(done => setTimeout(done, ms))

test('a callback brings the order to its end long before the next poll', async () => {
  apixo.tasks.plan = { outcome: { state: 'succeeded' }, afterMs: 200 }
  const order = await genmux.order(1)
  expect(order.status).toBe('completed')
  expect(await genmux.resultHashes(order)).toEqual(madeHashes(apixo).slice(-1))
  expect(new URL(callbackUrl()).pathname).toMatch(/^\/callbacks\/[\w-]{43}$/)
})

test('a lost callback is made up for by polls', async () => {
  other.callbacks.copies = 0
  other.tasks.plan = { outcome: { state: 'succeeded' }, afterMs: 200 }
  expect((await genmux.order(2)).status).toBe('completed')
})

test('a callback that comes five times charges once', async () => {
  apixo.callbacks.copies = 5
  apixo.tasks.plan = { outcome: { state: 'succeeded' }, afterMs: 200 }
  const order = await genmux.order(1)
  apixo.callbacks.copies = 1
  expect(order.status).toBe('completed')
  expect(await apixo.callbacks.send(task()?.id ?? '')).toBe(200)
  expect(order.result).toHaveLength(1)
  expect(await genmux.transfers(order.id)).toEqual(['hold', 'capture'])
  expect(await genmux.look(order.id)).toEqual(order)
})

test('a forged callback is believed in nothing: state and files are read back from the upstream', async () => {
  apixo.tasks.plan = { outcome: { state: 'stuck' } }
  const id = await genmux.place(1)
  await processing(id)
  const made = other.files.put()
  const forged = {
    code: 200,
    message: 'success',
    data: {
      taskId: 'task_of_somebody_else',
      state: 'success',
      resultJson: JSON.stringify({ resultUrls: [`${other.url}/r2/${made.token}.png`] }),
    },
  }
  const failure = {
    code: 200,
    message: 'success',
    data: { taskId: task()?.id, state: 'failed', failCode: 'CONTENT_VIOLATION' },
  }
  const read = apixo.calls('poll').length
  for (const body of [forged, failure, 'no json', 17, null])
    expect(await apixo.callbacks.send(task()?.id ?? '', body)).toBe(200)
  await until(
    () => apixo.calls('poll').length,
    polls => polls > read,
  )
  await pause(300)
  expect(await genmux.look(id)).toMatchObject({ status: 'processing', result: [], error: null })
  expect(other.calls('file').filter(({ path }) => path.includes(made.token))).toEqual([])
  expect(await genmux.attempts(id)).toMatchObject([{ state: 'accepted', ref: `nano-banana/${task()?.id}` }])

  apixo.tasks.finish(task()?.id ?? '', { state: 'succeeded' })
  const order = await genmux.ended(id)
  expect(order.status).toBe('completed')
  expect(await genmux.resultHashes(order)).toEqual(madeHashes(apixo).slice(-1))
})

test('a callback that names the task of another order does not give that one away', async () => {
  apixo.tasks.plan = { outcome: { state: 'stuck' } }
  const first = await genmux.place(1)
  await processing(first)
  const theirs = task()?.id
  apixo.faults.next('submit', { kind: 'acceptThenReset' })
  const second = await genmux.place(1)
  await until(
    () => genmux.attempts(second),
    ([attempt]) => attempt?.state === 'unclear',
  )
  const ours = task()?.id ?? ''
  expect(await apixo.callbacks.send(ours, { code: 200, data: { taskId: theirs, state: 'success' } })).toBe(200)
  expect(await genmux.attempts(second)).toMatchObject([{ state: 'unclear', ref: null }])
  expect(await apixo.callbacks.send(ours)).toBe(200)
  expect(await genmux.attempts(second)).toMatchObject([{ ref: `nano-banana/${ours}` }])
  for (const id of [theirs ?? '', ours]) apixo.tasks.finish(id, { state: 'succeeded' })
  for (const id of [first, second]) expect((await genmux.ended(id)).status).toBe('completed')
})

test('a callback that comes before the answer to the submit is no second order', async () => {
  apixo.tasks.plan = { outcome: { state: 'succeeded' } }
  const before = apixo.tasks.all().length
  // The simulator calls back as soon as the task is over, and the answer is held back meanwhile.
  apixo.faults.next('submit', { kind: 'acceptThenHang' })
  const id = await genmux.place(1)
  const order = await genmux.ended(id)
  expect(order.status).toBe('completed')
  expect(apixo.tasks.all()).toHaveLength(before + 1)
  expect(await genmux.transfers(id)).toEqual(['hold', 'capture'])
})

test('a token that nobody gave away is answered like any path that does not exist', async () => {
  const nowhere = await genmux.call('POST', '/nowhere', { body: {} })
  for (const token of ['x'.repeat(43), 'short', `${'a'.repeat(42)}.`, new URL(callbackUrl()).pathname.slice(11, -1)]) {
    const answer = await genmux.call('POST', `/callbacks/${token}`, { body: { code: 200 } })
    expect(answer.status).toBe(404)
    expect(answer.body).toEqual(nowhere.body)
  }
  expect((await genmux.call('GET', new URL(callbackUrl()).pathname)).status).toBe(404)
})

test('a body over 64 KB is refused; the token stands in no row', async () => {
  const path = new URL(callbackUrl()).pathname
  const answer = await genmux.call('POST', path, { body: { filler: 'x'.repeat(65 * 1024) } })
  expect(answer.status).toBe(413)
  expect((await genmux.call('POST', path, { body: { filler: 'x'.repeat(60 * 1024) } })).status).toBe(200)
  const rows = await genmux.db.pool.query<{ row: string }>('SELECT a::text AS row FROM attempts a')
  expect(rows.rows.some(({ row }) => row.includes(path.slice(11)))).toBe(false)
})

test('the ledger is clean, and customers read nothing of the upstream', async () => {
  expect(await genmux.violations()).toEqual([])
  expect(genmux.leaks()).toEqual([])
})
