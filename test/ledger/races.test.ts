import { expect, test } from 'vitest'
import { moveMoney, placeOrders, settleOrders } from '../../src/ledger/ledger.ts'
import { freshDatabase } from '../database.ts'
import { broken, complete, failed, makeCustomer, placement } from './rows.ts'

const db = await freshDatabase()
const times = <T>(n: number, run: (i: number) => Promise<T>) => Promise.all(Array.from({ length: n }, (_, i) => run(i)))
const balance = async (id: string) => db.prisma.customer.findUniqueOrThrow({ where: { id } })

async function race(n: number, customer: string, cost: bigint): Promise<Record<string, number>> {
  const answers = await times(n, () => placeOrders(db, [placement(customer, cost)]))
  const outcomes = answers.flat().map(answer => answer.outcome)
  return Object.fromEntries([...new Set(outcomes)].map(o => [o, outcomes.filter(other => other === o).length]))
}

test('of 200 orders at once with funds for 10, exactly 10 are placed and nothing is left', async () => {
  const customer = await makeCustomer(db, 1_000_000n)
  expect(await race(200, customer, 100_000n)).toEqual({ placed: 10, insufficient_balance: 190 })
  expect(await balance(customer)).toMatchObject({ available: 0n, held: 1_000_000n, activeOrders: 10 })
})

test('of 100 orders at once with 7 places, exactly 7 are active', async () => {
  const customer = await makeCustomer(db, 100_000_000n, 7)
  expect(await race(100, customer, 1n)).toEqual({ placed: 7, too_many_active_orders: 93 })
  expect(await balance(customer)).toMatchObject({ activeOrders: 7 })
})

test('an order settled 20 times at once, in both ways, ends once', async () => {
  const customer = await makeCustomer(db, 1_000_000n)
  const order = placement(customer, 400_000n)
  await placeOrders(db, [order])
  const ended = await times(20, async i =>
    i % 2 ? complete(db, order.id) : (await settleOrders(db, [failed(order.id)])).length === 1,
  )
  expect(ended.filter(Boolean)).toHaveLength(1)
  const { available, held } = await balance(customer)
  expect(held).toBe(0n)
  expect(available).toBe(ended.indexOf(true) % 2 ? 600_000n : 1_000_000n)
})

test('a settlement with an old fence moves nothing', async () => {
  const customer = await makeCustomer(db, 10n)
  const order = placement(customer, 10n)
  await placeOrders(db, [order])
  await db.pool.query('UPDATE orders SET fence = 2 WHERE id = $1', [order.id])
  expect(await settleOrders(db, [failed(order.id, { fence: 1 })])).toEqual([])
  expect(await settleOrders(db, [failed(order.id, { fence: 2 })])).toEqual([order.id])
})

test('20 top-ups at once with one key move money once; with two customers the other is refused', async () => {
  const [one, two] = [await makeCustomer(db), await makeCustomer(db)]
  const topUp = (customerId: string) =>
    moveMoney(db, {
      kind: 'topup',
      customerId,
      amount: 5n,
      reference: null,
      actor: 'test',
      once: { key: 'k1', hash: Buffer.from(customerId) },
    })
  const moved = await times(20, i => topUp(i % 2 ? one : two))
  const outcomes = moved.map(m => m.outcome)
  expect(outcomes.filter(o => o === 'done')).toHaveLength(1)
  expect(outcomes.filter(o => o === 'replay')).toHaveLength(9)
  expect(outcomes.filter(o => o === 'conflict')).toHaveLength(10)
  expect((await balance(one)).available + (await balance(two)).available).toBe(5n)
})

test('customers in mixed batches, placed and settled at once, do not deadlock', async () => {
  const customers = await times(4, () => makeCustomer(db, 100_000n))
  await times(40, async i => {
    const batch = [0, 1, 2, 3].map(j => placement(customers[(i + j) % 4] as string, 100n))
    await placeOrders(db, batch)
    await settleOrders(
      db,
      batch.toReversed().map(item => failed(item.id)),
    )
  })
  for (const id of customers) expect(await balance(id)).toMatchObject({ available: 100_000n, held: 0n })
  expect(await broken(db)).toEqual([])
})
