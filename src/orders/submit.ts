import { createHash, randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { AccountEntry } from '../catalog/model.ts'
import { isOutage } from '../db/outage.ts'
import type { Accepted, Bucket, Finished, Task } from '../providers/provider.ts'
import { ProviderError } from '../providers/provider.ts'
import { countsForBreaker, tripsBreaker } from '../routing/decide.ts'
import { type AttemptRow, type Engine, endAttempt, type HeldOrder, type Next } from './engine.ts'

/*
 * An attempt up to its acceptance.
 *
 *   preparing ──▶ submitting ──▶ accepted     the upstream's ref is saved: watch.ts polls
 *       ▲             │────────▶ finished     a synchronous upstream answered with the outputs
 *       │             │────────▶ failed       refused for certain: the next route
 *       └─────────────┤                       refused for certain, and the same bytes may be sent again
 *                     └────────▶ unclear      reconcile.ts
 *
 * `submitting` is written before the first byte is sent, so that a process that dies anywhere after it leaves an attempt
 * that is treated as unclear. The row holds everything the request is made of.
 */

/** Clear failures of an idempotent submit are tried again with the same bytes this often before the next route. */
const RESENDS = 3
/** When the upstream asks for a longer pause than this, another route is the shorter way. */
const PATIENCE_MS = 5_000
/** Sends the submit, once, and saves what came of it. */
export async function submit(
  engine: Engine,
  order: HeldOrder,
  attempt: AttemptRow,
  callbackUrl?: string,
): Promise<Next> {
  const { account, adapter } = accountOf(engine, attempt)
  if (!account || !adapter)
    return failed(engine, attempt, new ProviderError('unavailable', 'the account left the catalog'))
  // A process that was paused past its lease must not send: another one may have decided otherwise.
  if (!order.held()) return 'left'
  let answer: Accepted | Finished
  try {
    const pending = adapter.submit(taskOf(attempt, callbackUrl), engine.calls.of(account))
    engine.reached('submit-sent')
    answer = await pending
  } catch (error) {
    const fault = asProviderError(error)
    await blame(engine, account, fault)
    if (fault.mayHaveStarted) return unclear(engine, attempt, fault)
    return refused(engine, attempt, fault, adapter.idempotentSubmit)
  }
  engine.reached('accepted-unsaved')
  return answer.state === 'accepted' ? accepted(engine, attempt, answer) : finished(engine, attempt, answer)
}

const SAVE_TRIES = 5

/** What an upstream said stands nowhere else yet: a database that is away is tried again after 0.5, 1, 2 and 4 s. */
async function untilSaved(save: () => Promise<unknown>): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      await save()
      return
    } catch (error) {
      if (!isOutage(error) || tries >= SAVE_TRIES) throw error
      await sleep(250 * 2 ** tries)
    }
  }
}

/** The ref is saved whoever holds the order by now: the upstream has the task. */
export async function accepted(engine: Engine, attempt: AttemptRow, answer: Accepted): Promise<Next> {
  const firstPollMs = engine.catalog.providers.get(attempt.provider)?.poll.first_ms ?? 1_000
  const acceptance = { attemptId: attempt.id, ref: answer.ref, cost: answer.cost, firstPollMs }
  await untilSaved(() => engine.batches.accept(acceptance))
  engine.reached('accepted-saved')
  return 'left'
}

const FINISHED = {
  name: 'attempt_finished',
  text: `WITH a AS (
      UPDATE attempts SET state = CASE WHEN state = 'abandoned' THEN 'late' ELSE 'finished' END::attempt_state,
        ref = coalesce($2, ref), cost = coalesce($3, cost), outputs = $4,
        accepted_at = coalesce(accepted_at, now()), next_poll_at = NULL
      WHERE id = $1 AND state IN ('submitting', 'unclear', 'abandoned') RETURNING order_id, state)
    UPDATE orders SET status = 'processing', started_at = coalesce(started_at, now())
    FROM a WHERE orders.id = a.order_id AND a.state = 'finished' AND orders.status IN ('queued', 'processing')`,
}

/** A submit whose answer was the end of the task. */
export async function finished(engine: Engine, attempt: AttemptRow, end: Finished): Promise<Next> {
  if (end.state === 'succeeded') {
    await madeOne(engine, attempt)
    const values = [attempt.id, end.ref ?? null, end.cost?.toString() ?? null, JSON.stringify(end.outputs)]
    await untilSaved(() => engine.db.run(FINISHED, values))
  } else if (end.state === 'failed') {
    const { account } = accountOf(engine, attempt)
    if (account) await blame(engine, account, new ProviderError(end.fault, end.message))
    await endAttempt(engine, attempt, { state: 'failed', fault: end.fault, message: end.message, cost: end.cost })
  } else {
    await endAttempt(engine, attempt, {
      state: 'cancelled',
      fault: 'task_failed',
      message: 'cancelled upstream',
      cost: end.cost,
    })
  }
  return 'again'
}

const UNCLEAR = {
  name: 'attempt_unclear',
  text: `UPDATE attempts SET state = 'unclear', fault = 'unclear', fault_message = $2
    WHERE id = $1 AND state IN ('preparing', 'submitting', 'unclear')`,
}

async function unclear(engine: Engine, attempt: AttemptRow, error: ProviderError): Promise<Next> {
  await engine.db.run(UNCLEAR, [attempt.id, error.message.slice(0, 1_000)])
  engine.log.warn(
    { order: attempt.order_id, attempt: attempt.id, provider: attempt.provider, reason: error.message },
    'submit unclear',
  )
  return { wakeInMs: 500 }
}

const PREPARE_AGAIN = {
  name: 'attempt_prepare_again',
  text: `UPDATE attempts SET state = 'preparing', fault = $2, fault_message = $3 WHERE id = $1 AND state = 'submitting'`,
}

/** Refused for certain. The same bytes may go again when the API is idempotent and only its availability was at fault. */
async function refused(engine: Engine, attempt: AttemptRow, error: ProviderError, idempotent: boolean): Promise<Next> {
  const waitMs = error.retryAfterMs ?? 500 * 2 ** attempt.submits
  if (idempotent && error.fault === 'unavailable' && attempt.submits < RESENDS && waitMs <= PATIENCE_MS) {
    await engine.db.run(PREPARE_AGAIN, [attempt.id, error.fault, error.message.slice(0, 1_000)])
    return { wakeInMs: waitMs }
  }
  return failed(engine, attempt, error)
}

/** Ends the attempt; the order goes to the next route. */
export async function failed(engine: Engine, attempt: AttemptRow, error: ProviderError): Promise<Next> {
  await endAttempt(engine, attempt, { state: 'failed', fault: error.fault, message: error.message })
  return 'again'
}

/** Lets breaker and budgets know of a failure. What a customer steers the sandbox to do is no sign of its health. */
export async function blame(
  engine: Engine,
  account: AccountEntry,
  error: ProviderError,
  bucket: Bucket = 'submit',
): Promise<void> {
  if (error.fault === 'rate_limited' || error.fault === 'account_saturated') {
    await engine.budgets.block(account, bucket, error.retryAfterMs ?? 5_000)
  }
  if (engine.catalog.providers.get(account.provider)?.adapter.kind === 'sandbox') return
  if (tripsBreaker(error.fault)) await engine.breaker.trip(account, error.fault)
  else if (countsForBreaker(error.fault)) await engine.breaker.failure(account, error.fault)
}

/** Only a made task closes the breaker: an upstream that accepts everything and makes nothing is not healthy. */
export async function madeOne(engine: Engine, attempt: AttemptRow): Promise<void> {
  const { account } = accountOf(engine, attempt)
  if (account && attempt.submitted_at) await engine.breaker.success(account, attempt.submitted_at.getTime())
}

export function taskOf(attempt: AttemptRow, callbackUrl?: string): Task {
  return {
    attemptId: attempt.id,
    model: attempt.upstream_model,
    input: JSON.parse(attempt.input) as Record<string, unknown>,
    idempotencyKey: attempt.idempotency_key,
    nonce: attempt.nonce,
    callbackUrl,
    submittedAt: attempt.submitted_at ?? new Date(),
  }
}

/** The attempt's account and adapter; undefined when the catalog no longer has them. */
export function accountOf(engine: Pick<Engine, 'catalog'>, attempt: { provider: string; account: string }) {
  const provider = engine.catalog.providers.get(attempt.provider)
  const account = provider?.accounts.find(entry => entry.id === attempt.account && entry.configured)
  return { provider, account, adapter: provider?.adapter }
}

/** Anything an adapter throws that is not a ProviderError is a mistake of ours: nobody knows what was sent. */
export function asProviderError(error: unknown): ProviderError {
  if (error instanceof ProviderError) return error
  return new ProviderError('unclear', error instanceof Error ? error.message : String(error), { cause: error })
}

/** A URL for the upstream to call, with a token that is stored only as its SHA-256. */
export function newCallback(
  engine: Engine,
  account: AccountEntry,
  capable: boolean | undefined,
): { url: string; hash: Buffer } | undefined {
  if (!capable || !engine.callbacks || !account.configured) return undefined
  const token = randomBytes(32).toString('base64url')
  return { url: `${engine.publicUrl}/callbacks/${token}`, hash: createHash('sha256').update(token).digest() }
}
