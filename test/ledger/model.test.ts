import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { moveMoney, placeOrders, settleOrders } from '../../src/ledger/ledger.ts'
import { freshDatabase } from '../database.ts'
import { broken, complete, failed, makeCustomer, placement } from './rows.ts'

const db = await freshDatabase()

const OPERATIONS = 2_400
const CUSTOMERS = 4
const MAX_ACTIVE = 12

const amount = fc.bigInt({ min: 1n, max: 3_000_000n })
const who = fc.nat(CUSTOMERS - 1)
const key = fc.option(fc.nat(400).map(String), { freq: 3, nil: null })

const operation = fc.oneof(
  { weight: 3, arbitrary: fc.record({ do: fc.constant('topup'), who, amount, key }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('adjust'),
      who,
      amount: fc.bigInt({ min: -4_000_000n, max: 1_000_000n }),
      key,
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('place'),
      batch: fc.array(fc.record({ who, cost: fc.bigInt({ min: 0n, max: 2_000_000n }), key }), {
        minLength: 1,
        maxLength: 5,
      }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('repeat'), back: fc.nat(30) }) },
  // `pick` reaches back to orders that are over already: settled twice, they must not move.
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('settle'),
      end: fc.constantFrom('completed', 'failed', 'cancelled'),
      pick: fc.nat(40),
      suspense: fc.boolean(),
    }),
  },
)

interface Customer {
  readonly id: string
  available: bigint
  held: bigint
  active: number
}
interface Order {
  readonly id: string
  readonly owner: Customer
  readonly cost: bigint
  status: string
}

/** What the ledger must do, in memory. */
class Model {
  readonly customers: Customer[]
  readonly orders: Order[] = []
  readonly keys = new Map<string, string>()

  constructor(ids: readonly string[]) {
    this.customers = ids.map(id => ({ id, available: 0n, held: 0n, active: 0 }))
  }

  move(scope: string, data: string, owner: Customer, sum: bigint): string {
    const replayed = this.replayed(scope, data)
    if (replayed) return replayed
    if (owner.available + sum < 0n) return 'insufficient'
    this.keys.set(scope, data)
    owner.available += sum
    return 'done'
  }

  place(scope: string, data: string, owner: Customer, id: string, cost: bigint): string {
    const replayed = this.replayed(scope, data)
    if (replayed) return replayed
    if (owner.active >= MAX_ACTIVE) return 'too_many_active_orders'
    if (owner.available < cost) return 'insufficient_balance'
    this.keys.set(scope, data)
    owner.available -= cost
    owner.held += cost
    owner.active += 1
    this.orders.push({ id, owner, cost, status: 'queued' })
    return 'placed'
  }

  settle(order: Order, end: string): boolean {
    if (order.status !== 'queued') return false
    order.status = end
    order.owner.held -= order.cost
    order.owner.active -= 1
    if (end !== 'completed') order.owner.available += order.cost
    return true
  }

  private replayed(scope: string, data: string): 'replay' | 'conflict' | undefined {
    if (scope.endsWith(' null')) return undefined
    const earlier = this.keys.get(scope)
    return earlier === undefined ? undefined : earlier === data ? 'replay' : 'conflict'
  }
}

const sha = (data: string) => createHash('sha256').update(data).digest()

test(`${OPERATIONS} random operations leave every balance where a simple model has it`, async () => {
  const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31)
  console.log(`ledger model: seed ${seed}`)
  const operations = fc.sample(operation, { seed, numRuns: OPERATIONS })
  const ids = await Promise.all(Array.from({ length: CUSTOMERS }, () => makeCustomer(db, 0n, MAX_ACTIVE)))
  const model = new Model(ids)
  const seen = new Set<string>()

  const past: Exclude<(typeof operations)[number], { back: number }>[] = []

  for (const [step, drawn] of operations.entries()) {
    const at = `seed ${seed}, step ${step}`
    const op = 'back' in drawn ? past.at(-1 - drawn.back) : drawn
    if (!op) continue
    past.push(op)
    if ('end' in op) {
      const order = model.orders.at(-1 - op.pick)
      if (!order) continue
      const ended = model.settle(order, op.end)
      const did = op.end === 'completed' ? await complete(db, order.id) : await lost(order.id, op.end, op.suspense)
      expect(did, at).toBe(ended)
      seen.add(ended ? op.end : 'over already')
    } else if ('batch' in op) {
      // A batch never has one key twice: group commit sees to it.
      const batch = op.batch.filter((item, i) => item.key === null || op.batch.findIndex(b => b.key === item.key) === i)
      const items = batch.map(item => {
        const data = `${item.who} ${item.cost}`
        const owner = model.customers[item.who] as Customer
        const row = placement(owner.id, item.cost, { key: item.key, hash: sha(data).toString('hex') })
        return { row, data, owner }
      })
      // Customers are served in the order of their ids, each one's orders in the order of the batch.
      const expected = items.map(({ row, data, owner }) =>
        model.place(`place ${row.key}`, data, owner, row.id, row.cost),
      )
      const placed = await placeOrders(
        db,
        items.map(item => item.row),
      )
      expect(
        placed.map(p => p.outcome),
        at,
      ).toEqual(expected)
      for (const outcome of expected) seen.add(outcome)
    } else {
      const owner = model.customers[op.who] as Customer
      const kind = op.do === 'topup' ? 'topup' : 'adjustment'
      const data = `${kind} ${op.who} ${op.amount}`
      const expected = model.move(`admin ${op.key}`, data, owner, op.amount)
      const once = op.key === null ? null : { key: op.key, hash: sha(data) }
      const moved = await moveMoney(db, {
        kind,
        customerId: owner.id,
        amount: op.amount,
        reference: null,
        actor: 'test',
        once,
      })
      expect(moved.outcome, at).toBe(expected)
      seen.add(expected)
    }
  }

  const rows = await db.prisma.customer.findMany({ where: { id: { in: ids } } })
  for (const customer of model.customers) {
    const row = rows.find(row => row.id === customer.id)
    expect({ id: row?.id, available: row?.available, held: row?.held, active: row?.activeOrders }).toEqual(customer)
  }
  expect(await broken(db)).toEqual([])
  // The sample is worth something only when it met every outcome.
  for (const outcome of 'done replay conflict insufficient placed too_many_active_orders insufficient_balance'.split(
    ' ',
  ))
    expect(seen).toContain(outcome)
  for (const end of ['completed', 'failed', 'cancelled', 'over already']) expect(seen).toContain(end)
})

async function lost(orderId: string, end: string, suspense: boolean): Promise<boolean> {
  const ended = await settleOrders(db, [
    end === 'failed'
      ? failed(orderId, suspense ? { suspense: 30_000n } : {})
      : { orderId, fence: null, status: 'cancelled' },
  ])
  return ended.length === 1
}
