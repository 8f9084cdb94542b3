import type { Fault } from '../providers/provider.ts'
import { type AttemptRow, type Engine, endAttempt } from './engine.ts'
import { ORDER_FAULT_MESSAGES, type OrderFault } from './order.ts'
import { accountOf, asProviderError } from './submit.ts'

/** After a stuck attempt's cancel was requested, how long its confirmation is waited for. */
const CANCEL_GRACE_MS = 30_000
/** A cancel that failed for the moment is tried again until so long after the deadline: after 1 s, 2 s, 4 s, … of it. */
const CANCEL_FOR_MS = 30_000
const PASSING = new Set<Fault>(['unavailable', 'rate_limited', 'account_saturated', 'unclear'])
/** When late.ts looks at it first. */
const RECHECK_MS = 5 * 60_000

/**
 * Gives up waiting for an attempt whose fate is unknown, and ends its order, unless the order has moved on since `fence`. It
 * is looked at once more even without a ref: a callback may bring one in this moment.
 */
export async function abandon(
  engine: Engine,
  attempt: AttemptRow,
  fence: number,
  code: Extract<OrderFault, 'submission_unknown' | 'timed_out'>,
): Promise<'left'> {
  const ended = await engine.settle({
    orderId: attempt.order_id,
    fence,
    status: 'failed',
    errorCode: code,
    errorMessage: ORDER_FAULT_MESSAGES[code],
    attemptId: attempt.id,
    attemptState: 'abandoned',
    suspense: attempt.cost ?? attempt.expected_cost,
    recheckAt: new Date(Date.now() + RECHECK_MS),
  })
  if (ended) {
    engine.log.error(
      { order: attempt.order_id, attempt: attempt.id, provider: attempt.provider, account: attempt.account, code },
      'attempt abandoned: the upstream may have taken its cost',
    )
  }
  return 'left'
}

const WAIT_FOR_CANCEL = {
  name: 'wait_for_cancel',
  text: `UPDATE attempts SET cancel_requested_at = now(), deadline_at = now() + $2 * interval '1 millisecond', next_poll_at = now() + interval '1 second'
    WHERE id = $1 AND state = 'accepted'`,
}
// The poll before each further try tells when the task ended after all, or when a cancel without an answer was heard.
const CANCEL_AGAIN = {
  name: 'cancel_again',
  text: `UPDATE attempts SET next_poll_at = now() + $2 * interval '1 millisecond' WHERE id = $1 AND state = 'accepted'`,
}
/** An attempt as it was at `readAt`, by performance.now(). */
type Stuck = AttemptRow & { readonly fence: number; readonly readAt: number }

/** Past its deadline and still pending: cancelled where the API can, else its fate is unknown. */
export async function giveUp(engine: Engine, attempt: Stuck): Promise<void> {
  const { account, adapter } = accountOf(engine, attempt)
  if (account && adapter?.cancel && attempt.ref !== null && attempt.cancel_requested_at === null) {
    try {
      const answer = await adapter.cancel(attempt.ref, engine.calls.of(account))
      if (answer === 'confirmed') {
        await endAttempt(engine, attempt, {
          state: 'cancelled',
          fault: 'timed_out',
          message: 'stuck: cancelled at its deadline',
        })
        engine.wake()
        return
      }
      if (answer !== 'too_early') {
        await engine.db.run(WAIT_FOR_CANCEL, [attempt.id, CANCEL_GRACE_MS])
        return
      }
      if (await cancelAgain(engine, attempt)) return
    } catch (error) {
      const { fault, message, retryAfterMs } = asProviderError(error)
      engine.log.warn({ order: attempt.order_id, attempt: attempt.id, reason: message }, 'stuck attempt not cancelled')
      if (PASSING.has(fault) && (await cancelAgain(engine, attempt, retryAfterMs))) return
    }
  }
  await abandon(engine, attempt, attempt.fence, 'timed_out')
}

/** Whether there is time for another try, which is then planned. Until then the order waits: it is bought nowhere else. */
async function cancelAgain(engine: Engine, attempt: Stuck, atLeastMs = 0): Promise<boolean> {
  const lateMs = performance.now() - attempt.readAt - attempt.left_ms
  const waitMs = Math.max(1_000, atLeastMs, lateMs)
  if (lateMs + waitMs > CANCEL_FOR_MS) return false
  await engine.db.run(CANCEL_AGAIN, [attempt.id, Math.round(waitMs)])
  return true
}
