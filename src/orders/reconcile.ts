import type { Accepted, Fault, Finished, ProviderError } from '../providers/provider.ts'
import { type AttemptRow, type Engine, endAttempt, type HeldOrder, type Next } from './engine.ts'
import { abandon } from './abandon.ts'
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

/** Half a minute, or a quarter of a deadline that is shorter than two. */
const ABSENT_TWICE_MS = 30_000
const ABSENT_TWICE_SHARE = 4
/**
 * The same bytes refused for what they say were refused the first time too, so nothing stands under their key. Any other
 * refusal (funds, limits, availability) speaks of this moment and proves nothing.
 */
const PROVES_ABSENCE = new Set<Fault>(['content_rejected', 'invalid_input', 'mapping'])

export async function reconcile(engine: Engine, order: HeldOrder, attempt: AttemptRow): Promise<Next> {
  if (attempt.overdue) return abandon(engine, attempt, order.fence, 'submission_unknown')
  const next = await ask(engine, order, attempt)
  // Its deadline is not slept through.
  return typeof next === 'object' ? { wakeInMs: Math.min(next.wakeInMs, attempt.left_ms + 10) } : next
}

async function ask(engine: Engine, order: HeldOrder, found: AttemptRow): Promise<Next> {
  const { account, adapter } = accountOf(engine, found)
  if (!account || !adapter) return { wakeInMs: 30_000 }
  if (!adapter.idempotentSubmit && !adapter.reconcile) return { wakeInMs: found.left_ms }
  if (!order.held()) return 'left'
  const attempt = await countReconcile(engine, found)
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
export async function isAnothers(
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
  if (account) await blame(engine, account, error, replayed ? 'submit' : 'read')
  if (!replayed || !PROVES_ABSENCE.has(error.fault)) return pause(attempt, error.retryAfterMs)
  await endAttempt(engine, attempt, { state: 'failed', fault: error.fault, message: error.message })
  return 'again'
}

const RECONCILING = {
  name: 'attempt_reconciling',
  text: `UPDATE attempts SET state = 'unclear', fault = coalesce(fault, 'unclear'), reconciles = reconciles + 1
    WHERE id = $1 AND state IN ('submitting', 'unclear')`,
}

async function countReconcile(engine: Engine, attempt: AttemptRow): Promise<AttemptRow> {
  await engine.db.run(RECONCILING, [attempt.id])
  return { ...attempt, state: 'unclear' }
}

const ABSENT = {
  name: 'attempt_absent',
  text: `UPDATE attempts SET absent_since = coalesce(absent_since, now()) WHERE id = $1`,
}

async function absent(engine: Engine, attempt: AttemptRow): Promise<Next> {
  const deadlineMs = accountOf(engine, attempt).provider?.poll.deadline_ms ?? Number.POSITIVE_INFINITY
  const apartMs = Math.min(ABSENT_TWICE_MS, deadlineMs / ABSENT_TWICE_SHARE)
  if (attempt.absent_ms !== null && attempt.absent_ms >= apartMs) {
    await endAttempt(engine, attempt, { state: 'absent', fault: 'absent', message: 'the upstream never had it' })
    return 'again'
  }
  await engine.db.run(ABSENT, [attempt.id])
  return { wakeInMs: apartMs - (attempt.absent_ms ?? 0) + 100 }
}

/** 1 s, 2 s, 4 s … at most 20 s between questions. */
function pause(attempt: AttemptRow, atLeastMs = 0): Next {
  return { wakeInMs: Math.max(atLeastMs, Math.min(20_000, 1_000 * 2 ** Math.min(attempt.reconciles, 5))) }
}
