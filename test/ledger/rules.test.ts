import { expect, test } from 'vitest'
import { placeOrders, readEntries, settleOrders } from '../../src/ledger/ledger.ts'
import { freshDatabase } from '../database.ts'
import { broken, complete, failed, makeCustomer, placement } from './rows.ts'

const db = await freshDatabase()

async function placed(cost: bigint): Promise<{ customer: string; order: string }> {
  const customer = await makeCustomer(db, 1_000_000n)
  const order = placement(customer, cost)
  await placeOrders(db, [order])
  return { customer, order: order.id }
}

test.each(['transfers', 'postings', 'audit'])('%s can only be added to', async table => {
  await placed(1n)
  const column = table === 'audit' ? 'actor' : 'amount'
  for (const sql of [
    `UPDATE ${table} SET ${column} = ${column}`,
    `DELETE FROM ${table}`,
    `TRUNCATE ${table} CASCADE`,
  ]) {
    await expect(db.pool.query(sql), sql).rejects.toThrow('append-only')
  }
})

test('postings that do not sum to zero are refused', async () => {
  const { customer } = await placed(1n)
  const transfer = `WITH t AS (INSERT INTO transfers (kind, customer_id, amount) VALUES ('adjustment', '${customer}', 5) RETURNING id)`
  const insert = `${transfer} INSERT INTO postings (transfer_id, account, customer_id, amount)
    SELECT id, p.account::ledger_account, p.customer, p.amount FROM t CROSS JOIN`
  await expect(
    db.pool.query(
      `${insert} (VALUES ('available', '${customer}', 5), ('cash', NULL, -4)) AS p(account, customer, amount)`,
    ),
  ).rejects.toThrow('do not sum to zero')
  await expect(
    db.pool.query(`${insert} (VALUES ('available', '${customer}', 5)) AS p(account, customer, amount)`),
  ).rejects.toThrow('do not sum to zero')
})

test('the database refuses a second capture, a capture after a release, and a second hold', async () => {
  const { customer, order } = await placed(7n)
  const transfer = (kind: string, id: string) =>
    db.pool.query(`INSERT INTO transfers (kind, customer_id, order_id, amount) VALUES ($1, $2, $3, 7)`, [
      kind,
      customer,
      id,
    ])
  await expect(transfer('hold', order)).rejects.toThrow('transfers_one_hold')
  expect(await complete(db, order)).toBe(true)
  await expect(transfer('capture', order)).rejects.toThrow('transfers_one_resolution')
  await expect(transfer('release', order)).rejects.toThrow('transfers_one_resolution')
})

test('the database refuses a balance below zero', async () => {
  const { customer } = await placed(7n)
  for (const column of ['available', 'held', 'active_orders']) {
    await expect(db.pool.query(`UPDATE customers SET ${column} = -1 WHERE id = $1`, [customer])).rejects.toThrow(
      'check',
    )
  }
})

test('a customer reads its entries newest first, with the balances after each', async () => {
  const { customer, order } = await placed(400_000n)
  await settleOrders(db, [failed(order, { suspense: 90_000n })])
  const entries = await readEntries(db, customer, { limit: 10 })
  expect(entries.map(e => [e.kind, e.amount, e.availableAfter, e.heldAfter, e.orderId])).toEqual([
    ['release', 400_000n, 1_000_000n, 0n, order],
    ['hold', 400_000n, 600_000n, 400_000n, order],
    ['topup', 1_000_000n, 1_000_000n, 0n, null],
  ])
  const older = await readEntries(db, customer, { limit: 10, before: entries[1]?.id })
  expect(older.map(e => e.kind)).toEqual(['topup'])
  expect(await broken(db)).toEqual([])
})
