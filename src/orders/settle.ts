import { groupCommit } from '../db/group.ts'
import { isOutage } from '../db/outage.ts'
import type { Db } from '../db/pool.ts'
import { type Settlement, settleOrders } from '../ledger/ledger.ts'

/** Ends an order, once: resolves true when it ended here, false when it was over already or its fence has moved. */
export type Settle = (settlement: Settlement) => Promise<boolean>

/** Orders that end at the same moment share a transaction. `settled` hears of each one that ended here. */
export function createSettle(deps: { readonly db: Db; readonly settled: (settlement: Settlement) => void }): Settle {
  const commit = groupCommit<Settlement, boolean>(
    async batch => {
      const ended = new Set(await settleOrders(deps.db, batch))
      return batch.map(item => ended.has(item.orderId))
    },
    { max: 128, lanes: 2, exclusive: item => item.orderId, isOutage },
  )
  return async settlement => {
    const ended = await commit(settlement)
    if (ended) deps.settled(settlement)
    return ended
  }
}
