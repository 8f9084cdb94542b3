import type { Db, Statement } from '../../db/pool.ts'
import { ApiError } from '../../errors.ts'
import { type Settlement, settleByHand } from '../../ledger/ledger.ts'
import type { Micros } from '../../money.ts'
import { ORDER_FAULT_MESSAGES } from '../../orders/order.ts'

const LIVE: Statement = {
  name: 'resolve_live',
  text: `SELECT id, state::text, ref, coalesce(cost, expected_cost) AS cost FROM attempts
    WHERE order_id = $1 AND state IN ('preparing', 'submitting', 'unclear', 'accepted', 'finished')`,
}
// Claims the order as a worker would: whoever holds it begins nothing more. `submitting` counts when nobody holds it.
const CLAIM: Statement = {
  name: 'resolve_claim',
  text: `UPDATE orders SET fence = fence + 1, wake_at = now() + interval '20 seconds'
    WHERE id = $1 AND status IN ('queued', 'processing') AND EXISTS (
      SELECT FROM attempts a WHERE a.order_id = orders.id
        AND (a.state = 'unclear' OR a.state = 'submitting' AND (orders.wake_at IS NULL OR orders.wake_at <= now())))
    RETURNING fence`,
}
const GIVE_BACK: Statement = {
  name: 'resolve_give_back',
  text: `UPDATE orders SET wake_at = now() WHERE id = $1 AND fence = $2 AND status IN ('queued', 'processing')`,
}

/**
 * Ends an order whose submission stayed unknown as failed: the attempt is abandoned, its expected cost booked to suspense,
 * the hold released. Throws order_not_found, or cannot_resolve when its submission is not unknown.
 */
export async function resolveOrder(db: Db, id: string): Promise<void> {
  const order = await db.prisma.order.findUnique({ where: { id }, select: { status: true } })
  if (!order) throw new ApiError('order_not_found', 'No such order.')
  const [claimed] = await db.run<{ fence: number }>(CLAIM, [id])
  if (!claimed) throw refusal(order.status)
  // Its fate may have become known between the two statements: then the rows tell a worker how to go on.
  const [attempt] = await db.run<{ id: string; state: string; ref: string | null; cost: Micros }>(LIVE, [id])
  if (!attempt || (attempt.state !== 'unclear' && attempt.state !== 'submitting')) {
    await db.run(GIVE_BACK, [id, claimed.fence])
    throw refusal(order.status)
  }
  const settlement: Settlement = {
    orderId: id,
    fence: claimed.fence,
    status: 'failed',
    errorCode: 'submission_unknown',
    errorMessage: ORDER_FAULT_MESSAGES.submission_unknown,
    attemptId: attempt.id,
    attemptState: 'abandoned',
    suspense: attempt.cost,
  }
  const line = { actor: 'admin', action: 'order.resolve', detail: { outcome: 'failed', attempt: attempt.id } }
  if (!(await settleByHand(db, settlement, line))) throw refusal(order.status)
}

function refusal(status: string): ApiError {
  return new ApiError('cannot_resolve', `The order is ${status} and its submission is not unknown.`)
}
