import type { Accepted, Fault, Finished, ProviderError } from '../providers/provider.ts'
import { ORDER_FAULT_MESSAGES, type OrderFault } from './order.ts'
import { type AttemptRow, type Engine, endAttempt, type HeldOrder, type Next } from './engine.ts'
import { accepted, accountOf, asProviderError, blame, finished, taskOf } from './submit.ts'

/*
 * An unclear submit: bytes were sent, and nobody knows whether the upstream has the task.
 *
 *   an idempotent API        the same bytes and key again: the replay is the answer
 *   one that can be asked    its list; only two answers of "absent", half a minute apart, prove that it never started
 *   neither                  only its callback can tell
 *
 * Unproven at the deadline: the order fails as submission_unknown, its hold is released, the expected cost is booked as
 * possibly lost, and the attempt is looked at later: a late success is recorded, never charged.
 */

const ABSENT_TWICE_MS = 30_000
/**
 * The same bytes refused for what they say were refused the first time too, so nothing stands under their key. Any other
 * refusal (funds, limits, availability) speaks of this moment and proves nothing.
 */
const PROVES_ABSENCE = new Set<Fault>(['content_rejected', 'invalid_input', 'mapping'])

export async function reconcile(engine: Engine, order: HeldOrder, attempt: AttemptRow): Promise<Next> {
  if (attempt.overdue) return abandon(engine, attempt, 'submission_unknown')
  const { account, adapter } = accountOf(engine, attempt)
  if (!account || !adapter) return { wakeInMs: 30_000 }
  if (!adapter.idempotentSubmit && !adapter.reconcile) return { wakeInMs: 5_000 }
  if (!order.held()) return 'left'
  await countReconcile(engine, attempt)
  const call = engine.calls.of(account)
  let answer: Accepted | Finished | 'absent' | 'unknown'
  try {
    if (adapter.idempotentSubmit) {
      const taken = await engine.budgets.take(account, 'submit')
      if (!taken.granted) return { wakeInMs: Math.min(taken.retryAfterMs, 30_000) }
      answer = await adapter.submit(taskOf(attempt), call)
    } else {
      answer = (await adapter.reconcile?.(taskOf(attempt), call)) ?? 'unknown'
    }
  } catch (error) {
    return stillUnclear(engine, attempt, asProviderError(error), adapter.idempotentSubmit)
  }
  if (answer === 'unknown' || (!adapter.idempotentSubmit && (await isAnothers(engine, attempt, answer))))
    return pause(attempt)
  if (answer === 'absent') return absent(engine, attempt)
  return answer.state === 'accepted' ? accepted(engine, attempt, answer) : finished(engine, attempt, answer)
}

const ANOTHERS = {
  name: 'ref_of_another',
  text: 'SELECT FROM attempts WHERE provider = $1 AND account = $2 AND ref = $3 AND id <> $4 LIMIT 1',
}

/** Whether what was found is another attempt's task: two orders with one prompt look alike in an upstream's list. */
async function isAnothers(
  engine: Engine,
  attempt: AttemptRow,
  answer: Accepted | Finished | 'absent',
): Promise<boolean> {
  const ref = answer === 'absent' || answer.state === 'failed' || answer.state === 'cancelled' ? undefined : answer.ref
  if (ref === undefined) return false
  return (await engine.db.run(ANOTHERS, [attempt.provider, attempt.account, ref, attempt.id])).length > 0
}

async function stillUnclear(
  engine: Engine,
  attempt: AttemptRow,
  error: ProviderError,
  replayed: boolean,
): Promise<Next> {
  const { account } = accountOf(engine, attempt)
  if (account) await blame(engine, account, error)
  if (!replayed || !PROVES_ABSENCE.has(error.fault)) return pause(attempt, error.retryAfterMs)
  await endAttempt(engine, attempt, { state: 'failed', fault: error.fault, message: error.message })
  return 'again'
}

const RECONCILING = {
  name: 'attempt_reconciling',
  text: `UPDATE attempts SET state = 'unclear', fault = coalesce(fault, 'unclear'), reconciles = reconciles + 1
    WHERE id = $1 AND state IN ('submitting', 'unclear')`,
}

async function countReconcile(engine: Engine, attempt: AttemptRow): Promise<void> {
  await engine.db.run(RECONCILING, [attempt.id])
}

const ABSENT = {
  name: 'attempt_absent',
  text: `UPDATE attempts SET absent_since = coalesce(absent_since, now()) WHERE id = $1`,
}

async function absent(engine: Engine, attempt: AttemptRow): Promise<Next> {
  if (attempt.absent_ms !== null && attempt.absent_ms >= ABSENT_TWICE_MS) {
    await endAttempt(engine, attempt, { state: 'absent', fault: 'absent', message: 'the upstream never had it' })
    return 'again'
  }
  await engine.db.run(ABSENT, [attempt.id])
  return { wakeInMs: ABSENT_TWICE_MS - (attempt.absent_ms ?? 0) + 100 }
}

/** 1 s, 2 s, 4 s … at most 20 s between questions. */
function pause(attempt: AttemptRow, atLeastMs = 0): Next {
  return { wakeInMs: Math.max(atLeastMs, Math.min(20_000, 1_000 * 2 ** Math.min(attempt.reconciles, 5))) }
}

const RECHECK_MS = 5 * 60_000

/** Gives up waiting for an attempt whose fate is unknown, and ends its order. */
export async function abandon(
  engine: Engine,
  attempt: AttemptRow,
  code: Extract<OrderFault, 'submission_unknown' | 'timed_out'>,
): Promise<'left'> {
  const ended = await engine.settle({
    orderId: attempt.order_id,
    fence: null,
    status: 'failed',
    errorCode: code,
    errorMessage: ORDER_FAULT_MESSAGES[code],
    attemptId: attempt.id,
    attemptState: 'abandoned',
    suspense: attempt.cost ?? attempt.expected_cost,
    ...(attempt.ref === null ? {} : { recheckAt: new Date(Date.now() + RECHECK_MS) }),
  })
  if (ended) {
    engine.log.error(
      { order: attempt.order_id, attempt: attempt.id, provider: attempt.provider, account: attempt.account, code },
      'attempt abandoned: the upstream may have taken its cost',
    )
  }
  return 'left'
}
