import type { AttemptRow, Engine } from './engine.ts'
import { isAnothers } from './reconcile.ts'
import { accepted, accountOf, asProviderError, finished, taskOf } from './submit.ts'

/*
 * An abandoned attempt, whose order is over: a success that comes late is recorded, never charged. It is asked about every
 * five minutes for a day by its ref. Without one it is looked for in the upstream's list, for an hour, where there is a list.
 */

const ASK_FOR_MS = 86_400_000
const SEEK_FOR_MS = 3_600_000

const FORGET = {
  name: 'forget_abandoned',
  text: `UPDATE attempts SET next_poll_at = NULL
    WHERE id = $1 AND state = 'abandoned' AND deadline_at <= now() - $2 * interval '1 millisecond'`,
}

/** After its poll, if it could be polled, told nothing new. */
export async function recheck(engine: Engine, attempt: AttemptRow): Promise<void> {
  const forget = (afterMs: number) => engine.db.run(FORGET, [attempt.id, afterMs])
  if (attempt.ref !== null) {
    await forget(ASK_FOR_MS)
    return
  }
  const sought = await seek(engine, attempt)
  if (sought !== 'found') await forget(sought === 'sought' ? SEEK_FOR_MS : 0)
}

/**
 * Looks for the task of an attempt that was given up without a ref: found, it is watched as one that comes late. `nowhere`:
 * the API has no list, or says that it failed. Never by a replay, which could make the task now.
 */
async function seek(engine: Engine, attempt: AttemptRow): Promise<'found' | 'sought' | 'nowhere'> {
  const { account, adapter } = accountOf(engine, attempt)
  if (!account || !adapter?.reconcile || adapter.idempotentSubmit) return 'nowhere'
  try {
    const answer = await adapter.reconcile(taskOf(attempt), engine.calls.of(account))
    if (answer === 'absent' || answer === 'unknown' || (await isAnothers(engine, attempt, answer))) return 'sought'
    if (answer.state === 'accepted') await accepted(engine, attempt, answer)
    else if (answer.state === 'succeeded') await finished(engine, attempt, answer)
    else return 'nowhere'
    return 'found'
  } catch (error) {
    const { message } = asProviderError(error)
    engine.log.warn({ order: attempt.order_id, attempt: attempt.id, reason: message }, 'abandoned attempt not sought')
    return 'sought'
  }
}
