import { expect, test } from 'vitest'
import { placeOrders } from '../../../src/ledger/ledger.ts'
import { broken, complete, makeCustomer, placement } from '../../ledger/rows.ts'
import { adminServer } from './server.ts'

const { db, send } = await adminServer()

/** An order with one attempt in that state. */
async function order(state: string, changes: { wakeInMs?: number } = {}): Promise<{ customer: string; id: string }> {
  const customer = await makeCustomer(db, 1_000_000n)
  const { id, ...rest } = placement(customer, 60_000n, { modelId: 20 })
  await placeOrders(db, [{ id, ...rest }])
  await db.pool.query(
    `INSERT INTO attempts (id, order_id, n, provider, account, upstream_model, state, input, idempotency_key, nonce, expected_cost,
       fault, fault_message, submits, deadline_at, submitted_at)
     VALUES ('att_' || $1::text, $1, 1, 'apixo', 'main', 'nano', $2::text::attempt_state, '{}', 'k', 1, 30000, 'unclear',
       'socket closed', 1, now() + interval '10 minutes', now())`,
    [id, state],
  )
  await db.pool.query(`UPDATE orders SET fence = 1, wake_at = now() + $2 * interval '1 millisecond' WHERE id = $1`, [
    id,
    changes.wakeInMs ?? 10_000,
  ])
  return { customer, id }
}

const resolve = (id: string, body: object = { outcome: 'failed' }) => send('POST', `/orders/${id}/resolve`, body)

test('an order is shown from the inside: its attempts and what happened to its money', async () => {
  const { customer, id } = await order('unclear')
  const { status, body } = await send('GET', `/orders/${id}`)
  expect(status).toBe(200)
  expect(body.order).toMatchObject({
    id,
    customer_id: customer,
    model_id: 20,
    status: 'queued',
    cost_usd: '0.06',
    error: null,
  })
  expect(body.order.attempts).toEqual([
    {
      id: `att_${id}`,
      n: 1,
      provider: 'apixo',
      account: 'main',
      upstream_model: 'nano',
      upstream_id: null,
      state: 'unclear',
      fault: 'unclear',
      message: 'socket closed',
      expected_cost_usd: '0.03',
      cost_usd: null,
      submits: 1,
      created_at: expect.any(String),
      submitted_at: expect.any(String),
      accepted_at: null,
      finished_at: null,
    },
  ])
  expect(body.order.transfers).toMatchObject([{ kind: 'hold', amount_usd: '0.06' }])
  expect((await send('GET', '/orders/ord_gone')).body.error.code).toBe('order_not_found')
})

test('an order whose submission stayed unknown is ended by hand: hold released, cost to suspense, once', async () => {
  const { customer, id } = await order('unclear')
  const { status, body } = await resolve(id)
  expect(status).toBe(200)
  expect(body.order).toMatchObject({
    status: 'failed',
    error: { code: 'submission_unknown' },
    attempts: [{ state: 'abandoned', fault: 'unclear' }],
    transfers: [
      { kind: 'hold', amount_usd: '0.06' },
      { kind: 'release', amount_usd: '0.06' },
      { kind: 'suspense', amount_usd: '0.03' },
    ],
  })
  expect((await send('GET', `/customers/${customer}`)).body.customer).toMatchObject({
    balance_usd: '1.00',
    held_usd: '0.00',
  })
  expect((await resolve(id)).body.error.code).toBe('cannot_resolve')
  const { audit } = (await send('GET', `/audit?subject=${id}`)).body
  expect(audit).toMatchObject([{ action: 'order.resolve', detail: { outcome: 'failed' } }])
})

test('of 10 operators at once one ends the order', async () => {
  const { id } = await order('unclear')
  const answers = await Promise.all(Array.from({ length: 10 }, () => resolve(id)))
  expect(answers.map(a => a.status).sort((a, b) => a - b)).toEqual([200, ...Array.from({ length: 9 }, () => 409)])
  const { audit } = (await send('GET', `/audit?subject=${id}`)).body
  expect(audit).toHaveLength(1)
})

test('an order is not ended by hand when that cannot be audited', async () => {
  const { id } = await order('unclear')
  await db.pool.query(`CREATE TRIGGER audit_full BEFORE INSERT ON audit EXECUTE FUNCTION refuse_change()`)
  expect((await resolve(id)).status).toBe(500)
  await db.pool.query('DROP TRIGGER audit_full ON audit')
  expect((await send('GET', `/orders/${id}`)).body.order).toMatchObject({
    status: 'queued',
    attempts: [{ state: 'unclear' }],
    transfers: [{ kind: 'hold' }],
  })
  expect((await resolve(id)).status).toBe(200)
  expect((await send('GET', `/audit?subject=${id}`)).body.audit).toHaveLength(1)
})

test.each(['preparing', 'accepted', 'finished', 'failed', 'absent'])(
  'an order with an attempt %s cannot be resolved',
  async state => {
    const { id } = await order(state)
    const answer = await resolve(id)
    expect(answer.status).toBe(409)
    expect(answer.body.error.code).toBe('cannot_resolve')
    expect((await send('GET', `/orders/${id}`)).body.order.status).toBe('queued')
  },
)

test('a submit that is under way is not taken for unknown; one that nobody holds any more is', async () => {
  expect((await resolve((await order('submitting')).id)).status).toBe(409)
  expect((await resolve((await order('submitting', { wakeInMs: -1 })).id)).status).toBe(200)
})

test('what is over, unknown or asked wrongly is refused', async () => {
  const { id } = await order('finished')
  await complete(db, id)
  expect((await resolve(id)).status).toBe(409)
  expect((await resolve('ord_gone')).status).toBe(404)
  expect((await resolve(id, { outcome: 'completed' })).body.error.message).toMatch(/^outcome: /)
})

test('orders are listed newest first, by customer and status', async () => {
  const { customer, id } = await order('accepted')
  await order('accepted')
  const mine = await send('GET', `/orders?customer_id=${customer}`)
  expect(mine.body.orders).toMatchObject([{ id, customer_id: customer }])
  expect(mine.body.orders[0]).not.toHaveProperty('attempts')
  const queued = await send('GET', '/orders?status=queued&limit=1')
  expect(queued.body.orders[0].id).not.toBe(id)
  const next = await send('GET', `/orders?status=queued&limit=1&cursor=${queued.body.next_cursor}`)
  expect(next.body.orders[0].id).toBe(id)
  expect((await send('GET', '/orders?status=lost')).body.error.message).toMatch(/^status: /)
})

test('the ledger stays sound', async () => {
  expect(await broken(db)).toEqual([])
})
