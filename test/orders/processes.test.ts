import { expect, test } from 'vitest'
import { verifyLedger } from '../../src/ledger/verify.ts'
import { freshDatabase } from '../database.ts'
import { call, freshFolder, makeCustomer, startGenmux, until } from '../process.ts'

/*
 * Two real processes on one database: what one customer sends to both at once is still one customer's.
 */

const db = await freshDatabase()
const folder = freshFolder()
const env = { DATABASE_URL: db.url, DATA_DIR: folder, SANDBOX: 'on' }
const [left, right] = await Promise.all([startGenmux(env), startGenmux(env)])
const origins = [left.origin, right.origin]
const at = (i: number) => `${origins[i % 2]}/api/v1`
const order = (prompt: string) => ({ model_id: 20, prompt })

test('20 duplicates at once through two processes make one order', async () => {
  const { key } = await makeCustomer(left.origin, '1.00')
  const replies = await Promise.all(
    Array.from({ length: 20 }, (_, i) =>
      call(`${at(i)}/orders`, { token: key, body: order('twenty times'), headers: { 'idempotency-key': 'same' } }),
    ),
  )
  expect(new Set(replies.map(reply => reply.status))).toEqual(new Set([201]))
  expect(new Set(replies.map(reply => reply.text)).size).toBe(1)
  expect(replies.filter(reply => reply.headers.get('idempotent-replayed') === 'true')).toHaveLength(19)
  expect((await call(`${at(0)}/balance`, { token: key })).json.balance_usd).toBe('0.94')
  expect((await call(`${at(1)}/orders`, { token: key })).json.orders).toHaveLength(1)
})

test('of 200 orders at once through two processes with funds for 10, exactly 10 are placed and the balance is 0', async () => {
  const { key } = await makeCustomer(left.origin, '0.60')
  const replies = await Promise.all(
    Array.from({ length: 200 }, (_, i) => call(`${at(i)}/orders`, { token: key, body: order(`racer ${i}`) })),
  )
  expect(replies.filter(reply => reply.status === 201)).toHaveLength(10)
  const refused = replies.filter(reply => reply.status !== 201)
  expect(new Set(refused.map(reply => `${reply.status} ${reply.json.error.code}`))).toEqual(
    new Set(['422 insufficient_balance']),
  )
  expect((await call(`${at(0)}/balance`, { token: key })).json.balance_usd).toBe('0.00')
})

test('of 40 orders at once through two processes with 7 places, exactly 7 are active', async () => {
  const { key } = await makeCustomer(left.origin, '10.00', { max_active_orders: 7 })
  const replies = await Promise.all(
    Array.from({ length: 40 }, (_, i) => call(`${at(i)}/orders`, { token: key, body: order(`sandbox:slow ${i}`) })),
  )
  expect(replies.filter(reply => reply.status === 201)).toHaveLength(7)
  const refused = replies.find(reply => reply.status !== 201)
  expect(refused?.json.error.code).toBe('too_many_active_orders')
  expect(Number(refused?.headers.get('retry-after'))).toBeGreaterThan(0)
})

test('what all this left behind adds up', async () => {
  const held = async () => (await db.prisma.order.count({ where: { status: { in: ['queued', 'processing'] } } })) - 7
  await until(held, open => open <= 0)
  expect((await verifyLedger(db)).filter(invariant => invariant.violations > 0)).toEqual([])
})
