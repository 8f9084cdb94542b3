import { expect, test } from 'vitest'
import { placeOrders, settleOrders } from '../../src/ledger/ledger.ts'
import { verifyLedger } from '../../src/ledger/verify.ts'
import { freshDatabase } from '../database.ts'
import { broken, complete, failed, makeCustomer, placement } from './rows.ts'

const db = await freshDatabase()

const customer = await makeCustomer(db, 10_000_000n)
const [done, lost, active, cancelled] = [1n, 2n, 3n, 4n].map(n =>
  placement(customer, n * 100_000n, { key: `k${n}`, hash: 'ab' }),
) as [
  ReturnType<typeof placement>,
  ReturnType<typeof placement>,
  ReturnType<typeof placement>,
  ReturnType<typeof placement>,
]
await placeOrders(db, [done, lost, active, cancelled])
await complete(db, done.id)
await settleOrders(db, [
  failed(lost.id, { suspense: 50_000n }),
  { orderId: cancelled.id, fence: null, status: 'cancelled' },
])

test('a sound ledger has no violation of any invariant', async () => {
  const checks = await verifyLedger(db)
  expect(checks.length).toBeGreaterThan(10)
  expect(checks.every(check => check.violations === 0 && check.examples.length === 0)).toBe(true)
})

const attempt = `INSERT INTO attempts (id, order_id, n, provider, account, upstream_model, state, input, idempotency_key, nonce, expected_cost, deadline_at)`

// Each wrong row, written past the triggers as only a superuser can, and the invariants that name it.
const wrongs: [string, string, RegExp[]][] = [
  ['a balance changed by hand', `UPDATE customers SET available = available + 1`, [/postings sum to/]],
  [
    'a held balance changed by hand',
    `UPDATE customers SET held = held + 1`,
    [/postings sum to/, /cost of its active orders/],
  ],
  ['a wrong count of active orders', `UPDATE customers SET active_orders = 5`, [/counts them/]],
  [
    'a changed posting',
    `UPDATE postings SET amount = amount + 1 WHERE account = 'revenue'`,
    [/of a transfer sum to zero/, /all postings/, /two postings of its kind/],
  ],
  [
    'a balanced transfer to the wrong account',
    `UPDATE postings SET account = 'cash' WHERE account = 'revenue'`,
    [/two postings of its kind/],
  ],
  [
    'a changed noted balance',
    `UPDATE transfers SET available_after = 1 WHERE kind = 'hold' AND amount = 300000`,
    [/follow from/],
  ],
  ['a changed cost', `UPDATE orders SET cost = 1 WHERE status = 'queued'`, [/exactly one hold/, /active orders/]],
  [
    'a lost hold',
    `DELETE FROM transfers WHERE kind = 'hold' AND amount = 100000; DELETE FROM postings WHERE transfer_id NOT IN (SELECT id FROM transfers)`,
    [/postings sum to/, /exactly one hold/, /follow from/, /capture or release has a hold/],
  ],
  [
    'a failed order that is captured',
    `UPDATE transfers SET kind = 'capture' WHERE kind = 'release' AND amount = 200000`,
    [/failed or cancelled one released/, /two postings of its kind/, /stored outputs/],
  ],
  [
    'an active order marked completed',
    `UPDATE orders SET status = 'completed', finished_at = now() WHERE status = 'queued'`,
    [/completed one is captured/, /active orders/, /stored outputs/],
  ],
  ['a completed order without outputs', `DELETE FROM outputs`, [/stored outputs/]],
  ['a completed order without links', `UPDATE orders SET result = '{}'`, [/result links/]],
  [
    'suspense on an order that did not fail',
    `UPDATE transfers SET order_id = (SELECT id FROM orders WHERE status = 'completed') WHERE kind = 'suspense'`,
    [/suspense/],
  ],
  [
    'a key without its order',
    `UPDATE idempotency_keys SET order_id = 'ord_gone' WHERE key = 'k1'`,
    [/idempotency key/],
  ],
  [
    'two attempts that succeeded',
    `${attempt} SELECT 'a' || n, (SELECT id FROM orders WHERE status = 'completed'), n, 'p', 'a', 'm', 'succeeded', '', '', 0, 0, now() FROM generate_series(1, 2) n`,
    [/one attempt/],
  ],
]

test.each(wrongs)('%s is found', async (_, sql, expected) => {
  const tables = ['customers', 'orders', 'transfers', 'postings', 'outputs', 'idempotency_keys', 'attempts']
  const client = await db.pool.connect()
  await client.query('SET session_replication_role = replica')
  for (const table of tables) await client.query(`CREATE TEMP TABLE saved_${table} AS TABLE ${table}`)
  try {
    await client.query(sql)
    const found = (await broken(db)).map(check => check.invariant)
    for (const pattern of expected) expect(found).toContainEqual(expect.stringMatching(pattern))
    expect(found.filter(invariant => !expected.some(pattern => pattern.test(invariant)))).toEqual([])
  } finally {
    for (const table of tables)
      await client.query(`DELETE FROM ${table}; INSERT INTO ${table} OVERRIDING SYSTEM VALUE TABLE saved_${table}`)
    client.release(true)
  }
  expect(await broken(db)).toEqual([])
})
