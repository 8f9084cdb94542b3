import { expect, test } from 'vitest'
import { placeOrders, settleOrders } from '../../../src/ledger/ledger.ts'
import { broken, failed, makeCustomer, placement } from '../../ledger/rows.ts'
import { adminServer } from './server.ts'

const { db, send } = await adminServer()

let count = 0
const newKey = () => ({ 'idempotency-key': `key-${++count}` })
const topUp = (customer: string, body: unknown, headers: Record<string, string> = newKey()) =>
  send('POST', `/customers/${customer}/topups`, body, headers)
const adjust = (customer: string, body: unknown, headers: Record<string, string> = newKey()) =>
  send('POST', `/customers/${customer}/adjustments`, body, headers)

test('a top-up raises the balance and is audited', async () => {
  const customer = await makeCustomer(db)
  const answer = await topUp(customer, { amount_usd: '25.5', reference: 'invoice 7' })
  expect(answer.status).toBe(201)
  expect(answer.body).toEqual({
    success: true,
    topup: { id: expect.stringMatching(/^\d+$/), amount_usd: '25.50', balance_usd: '25.50' },
  })
  expect(answer.headers.get('idempotent-replayed')).toBeNull()
  const { audit } = (await send('GET', `/audit?subject=${customer}`)).body
  expect(audit).toMatchObject([
    {
      action: 'customer.topup',
      detail: { amount_usd: '25.50', reference: 'invoice 7', transfer_id: answer.body.topup.id },
    },
  ])
})

test('the same key and data is answered byte for byte and moves nothing; other data conflicts', async () => {
  const [customer, other] = [await makeCustomer(db), await makeCustomer(db)]
  const key = newKey()
  const first = await topUp(customer, { amount_usd: '10', reference: 'r' }, key)
  await topUp(customer, { amount_usd: '1' })
  const again = await topUp(customer, { reference: 'r', amount_usd: '10' }, key)
  expect(again.status).toBe(201)
  expect(again.text).toBe(first.text)
  expect(again.headers.get('idempotent-replayed')).toBe('true')
  for (const answer of [
    await topUp(customer, { amount_usd: '11', reference: 'r' }, key),
    await topUp(other, { amount_usd: '10', reference: 'r' }, key),
    await adjust(customer, { amount_usd: '10', reason: 'r' }, key),
  ]) {
    expect(answer.status).toBe(422)
    expect(answer.body.error.code).toBe('idempotency_conflict')
  }
  expect((await send('GET', `/customers/${customer}`)).body.customer.balance_usd).toBe('11.00')
})

test('20 duplicates at once move money once', async () => {
  const customer = await makeCustomer(db)
  const key = newKey()
  const answers = await Promise.all(Array.from({ length: 20 }, () => topUp(customer, { amount_usd: '3' }, key)))
  expect(new Set(answers.map(a => a.text)).size).toBe(1)
  expect(answers.filter(a => a.headers.get('idempotent-replayed') === null)).toHaveLength(1)
  expect((await send('GET', `/customers/${customer}`)).body.customer.balance_usd).toBe('3.00')
})

test.each([25, '25,00', '1e2', '0', '-1', '0.0000001', '1000000.01', '', null, ['1']])(
  'a top-up of %j is refused, naming amount_usd',
  async amount_usd => {
    const customer = await makeCustomer(db)
    const key = newKey()
    const answer = await topUp(customer, { amount_usd }, key)
    expect(answer.status).toBe(422)
    expect(answer.body.error).toMatchObject({
      code: 'validation_error',
      message: expect.stringMatching(/^amount_usd: /),
    })
    // What was refused left its key free.
    expect((await topUp(customer, { amount_usd: '1' }, key)).status).toBe(201)
  },
)

test('a missing, malformed or repeated Idempotency-Key is a 400', async () => {
  const customer = await makeCustomer(db)
  for (const headers of [{}, { 'idempotency-key': 'a b' }, { 'idempotency-key': 'x'.repeat(256) }] as Record<
    string,
    string
  >[]) {
    const answer = await topUp(customer, { amount_usd: '1' }, headers)
    expect(answer.status).toBe(400)
    expect(answer.body.error).toMatchObject({
      code: 'validation_error',
      message: expect.stringMatching(/^Idempotency-Key: /),
    })
  }
})

test('an adjustment goes up and down but never below zero, and needs a reason', async () => {
  const customer = await makeCustomer(db, 5_000_000n)
  const down = await adjust(customer, { amount_usd: '-4.25', reason: 'refund' })
  expect(down.body.adjustment).toMatchObject({ amount_usd: '-4.25', balance_usd: '0.75' })
  const below = await adjust(customer, { amount_usd: '-0.750001', reason: 'refund' })
  expect(below.status).toBe(422)
  expect(below.body.error.code).toBe('insufficient_balance')
  expect((await adjust(customer, { amount_usd: '-0.75', reason: 'refund' })).body.adjustment.balance_usd).toBe('0.00')
  expect((await adjust(customer, { amount_usd: '1' })).body.error.message).toMatch(/^reason: /)
  expect((await adjust(customer, { amount_usd: '0', reason: 'none' })).body.error.message).toMatch(/^amount_usd: /)
  expect((await topUp('cus_gone', { amount_usd: '1' })).body.error.code).toBe('customer_not_found')
})

test('the ledger of a customer is read newest first, page by page', async () => {
  const customer = await makeCustomer(db, 1_000_000n)
  const order = placement(customer, 60_000n)
  await placeOrders(db, [order])
  await settleOrders(db, [failed(order.id)])
  const first = await send('GET', `/customers/${customer}/ledger?limit=2`)
  expect(first.body.entries).toMatchObject([
    { kind: 'release', amount_usd: '0.06', balance_after_usd: '1.00', held_after_usd: '0.00', order_id: order.id },
    { kind: 'hold', amount_usd: '0.06', balance_after_usd: '0.94', held_after_usd: '0.06', order_id: order.id },
  ])
  const second = await send('GET', `/customers/${customer}/ledger?limit=2&cursor=${first.body.next_cursor}`)
  expect(second.body).toMatchObject({ entries: [{ kind: 'topup', order_id: null }], next_cursor: null })
  expect((await send('GET', '/customers/cus_gone/ledger')).status).toBe(404)
})

test('the ledger is sound, and says so', async () => {
  const { body } = await send('GET', '/ledger/verify')
  expect(body).toMatchObject({ success: true, sound: true })
  expect(body.invariants[0]).toEqual({ invariant: expect.any(String), violations: 0, examples: [] })
  expect(await broken(db)).toEqual([])
})
