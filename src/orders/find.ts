import { groupCommit } from '../db/group.ts'
import { isOutage } from '../db/outage.ts'
import type { Db } from '../db/pool.ts'
import type { OrderRow } from './order.ts'

/** The customer's order; undefined when it does not exist, or is another customer's. */
export type FindOrder = (id: string, customerId: string) => Promise<OrderRow | undefined>

const FIND = {
  name: 'find_orders',
  text: `SELECT id, customer_id, model_id, status, cost, result, expires_at, error_code, error_message
    FROM orders WHERE id = any($1::text[])`,
}

/** Customers poll their orders all the time: reads that come while others are under way share the next statement. */
export function createFinder(db: Db): FindOrder {
  const find = groupCommit<string, (OrderRow & { readonly customer_id: string }) | undefined>(
    async ids => {
      const rows = await db.run<OrderRow & { readonly customer_id: string }>(FIND, [ids])
      const found = new Map(rows.map(row => [row.id, row]))
      return ids.map(id => found.get(id))
    },
    { max: 100, lanes: 1, restMs: 1, isOutage },
  )
  return async (id, customerId) => {
    const order = await find(id)
    return order?.customer_id === customerId ? order : undefined
  }
}
