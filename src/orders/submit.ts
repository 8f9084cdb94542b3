import { createHash, randomBytes, randomInt, randomUUIDv7 } from 'node:crypto'
import { hasMedia, mapMedia } from '../catalog/expressions.ts'
import type { AccountEntry, OrderInput } from '../catalog/model.ts'
import type { Accepted, Finished, Task } from '../providers/provider.ts'
import { ProviderError } from '../providers/provider.ts'
import type { Candidate } from '../routing/candidates.ts'
import { countsForBreaker, tripsBreaker } from '../routing/decide.ts'
import { type AttemptRow, attemptsOf, type Engine, endAttempt, type HeldOrder, type Next } from './engine.ts'

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

const BEGIN = {
  name: 'begin_attempt',
  text: 'SELECT begin_attempt($1, $2, $3, $4, $5, $6, $7::attempt_state, $8, $9, $10, $11, $12, $13, $14) AS outcome',
}

/** Clear failures of an idempotent submit are tried again with the same bytes this often before the next route. */
const RESENDS = 3

/** Writes the attempt's row, then goes on with it. `saturated`: no place in flight; `unfit`: its input cannot be made. */
export async function beginAttempt(
  engine: Engine,
  order: HeldOrder,
  candidate: Candidate,
): Promise<Next | 'saturated' | 'unfit'> {
  const { route, account } = candidate
  let input: Record<string, unknown>
  try {
    input = await route.inputOf(JSON.parse(order.input) as OrderInput)
  } catch (error) {
    engine.log.error(
      { order: order.id, provider: route.provider.id, model: route.upstreamModel, reason: String(error) },
      'input expression failed',
    )
    return 'unfit'
  }
  const state = hasMedia(input) ? 'preparing' : 'submitting'
  const id = `att_${Buffer.from(randomUUIDv7().replaceAll('-', ''), 'hex').toString('base64url')}`
  const callback = state === 'submitting' ? newCallback(engine, account, route.provider.adapter.callbacks) : undefined
  const [row] = await engine.db.run<{ outcome: 'begun' | 'lost' | 'saturated' }>(BEGIN, [
    order.id,
    order.fence,
    id,
    route.provider.id,
    account.id,
    route.upstreamModel,
    state,
    JSON.stringify(input),
    `gm-${id}`,
    randomInt(1, 2 ** 31 - 1),
    callback?.hash ?? null,
    candidate.cost.toString(),
    route.provider.poll.deadline_ms,
    account.limits.concurrent ?? null,
  ])
  if (row?.outcome === 'saturated') return 'saturated'
  if (row?.outcome !== 'begun') return 'left'
  engine.reached('attempt-written')
  const attempt = (await attemptsOf(engine, order.id)).at(-1) as AttemptRow
  return state === 'preparing' ? prepare(engine, order, attempt) : submit(engine, order, attempt, callback?.url)
}

const SUBMITTING = {
  name: 'attempt_submitting',
  text: `UPDATE attempts SET state = 'submitting', input = $3, callback_hash = $4, submits = submits + 1,
      submitted_at = coalesce(submitted_at, now())
    WHERE id = $1 AND state = 'preparing' AND EXISTS (SELECT FROM orders WHERE id = attempts.order_id AND fence = $2
      AND status IN ('queued', 'processing'))
    RETURNING submitted_at`,
}

/** Places the files at the upstream, saves the exact input, then submits. Repeating it is harmless: nothing was submitted. */
export async function prepare(engine: Engine, order: HeldOrder, attempt: AttemptRow): Promise<Next> {
  const { account, adapter } = accountOf(engine, attempt)
  if (!account || !adapter)
    return failed(engine, attempt, new ProviderError('unavailable', 'the account left the catalog'))
  if (attempt.submits > 0) {
    const taken = await engine.budgets.take(account, 'submit')
    if (!taken.granted) return { wakeInMs: taken.retryAfterMs }
  }
  let input: unknown
  try {
    input = await placeAll(engine, attempt, account)
  } catch (error) {
    // What is not the upstream's answer is a file of ours that could not be read.
    if (!(error instanceof ProviderError))
      return failed(engine, attempt, new ProviderError('media_unreachable', String(error)))
    await blame(engine, account, error)
    return failed(engine, attempt, error)
  }
  const callback = newCallback(engine, account, adapter.callbacks)
  const text = JSON.stringify(input)
  const [row] = await engine.db.run<{ submitted_at: Date }>(SUBMITTING, [
    attempt.id,
    order.fence,
    text,
    callback?.hash ?? null,
  ])
  if (!row) return 'left'
  engine.reached('attempt-written')
  return submit(
    engine,
    order,
    { ...attempt, input: text, submitted_at: row.submitted_at, submits: attempt.submits + 1 },
    callback?.url,
  )
}

const HANDLE = {
  name: 'media_handle',
  text: 'SELECT handle FROM media_handles WHERE provider = $1 AND account = $2 AND sha256 = $3 AND expires_at > now()',
}
const KEEP_HANDLE = {
  name: 'keep_media_handle',
  text: `INSERT INTO media_handles (provider, account, sha256, handle, expires_at)
    VALUES ($1, $2, $3, $4, now() + $5 * interval '1 millisecond')
    ON CONFLICT (provider, account, sha256) DO UPDATE SET handle = excluded.handle, expires_at = excluded.expires_at`,
}

async function placeAll(engine: Engine, attempt: AttemptRow, account: AccountEntry): Promise<unknown> {
  const { adapter } = accountOf(engine, attempt)
  const call = engine.calls.of(account)
  const placed = new Map<string, Promise<string>>()
  return mapMedia(JSON.parse(attempt.input), element => {
    const known = placed.get(element.upload)
    if (known) return known
    const place = async () => {
      const media = await engine.media(element, attempt.id)
      if (!adapter?.placeMedia) return media.url
      const sha256 = Buffer.from(media.sha256, 'hex')
      const [kept] = await engine.db.run<{ handle: string }>(HANDLE, [account.provider, account.id, sha256])
      // A handle that the upstream no longer knows must not be tried twice: only an order's first attempt trusts it.
      if (kept && attempt.n === 1) return kept.handle
      const { handle, ttlMs } = await adapter.placeMedia(media, call)
      if (ttlMs) await engine.db.run(KEEP_HANDLE, [account.provider, account.id, sha256, handle, Math.floor(ttlMs)])
      return handle
    }
    const handle = place()
    placed.set(element.upload, handle)
    return handle
  })
}

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

const ACCEPTED = {
  name: 'attempt_accepted',
  text: `WITH a AS (
      UPDATE attempts SET state = CASE WHEN state = 'abandoned' THEN state ELSE 'accepted' END, ref = $2, cost = coalesce($3, cost),
        accepted_at = now(), next_poll_at = now() + $4 * interval '1 millisecond'
      WHERE id = $1 AND state IN ('submitting', 'unclear', 'abandoned') AND ref IS NULL RETURNING order_id, state)
    UPDATE orders SET status = 'processing', started_at = coalesce(started_at, now()), wake_at = NULL
    FROM a WHERE orders.id = a.order_id AND a.state = 'accepted' AND orders.status IN ('queued', 'processing')`,
}

/** The ref is saved whoever holds the order by now: the upstream has the task. */
export async function accepted(engine: Engine, attempt: AttemptRow, answer: Accepted): Promise<Next> {
  const first = engine.catalog.providers.get(attempt.provider)?.poll.first_ms ?? 1_000
  await engine.db.run(ACCEPTED, [attempt.id, answer.ref, answer.cost?.toString() ?? null, first])
  engine.reached('accepted-saved')
  return 'left'
}

const FINISHED = {
  name: 'attempt_finished',
  text: `WITH a AS (
      UPDATE attempts SET state = 'finished', ref = coalesce($2, ref), cost = coalesce($3, cost), outputs = $4,
        accepted_at = coalesce(accepted_at, now()), next_poll_at = NULL
      WHERE id = $1 AND state IN ('submitting', 'unclear') RETURNING order_id)
    UPDATE orders SET status = 'processing', started_at = coalesce(started_at, now())
    FROM a WHERE orders.id = a.order_id AND orders.status IN ('queued', 'processing')`,
}

/** A submit whose answer was the end of the task. */
export async function finished(engine: Engine, attempt: AttemptRow, end: Finished): Promise<Next> {
  if (end.state === 'succeeded') {
    await madeOne(engine, attempt)
    await engine.db.run(FINISHED, [
      attempt.id,
      end.ref ?? null,
      end.cost?.toString() ?? null,
      JSON.stringify(end.outputs),
    ])
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
  if (idempotent && error.fault === 'unavailable' && attempt.submits < RESENDS) {
    await engine.db.run(PREPARE_AGAIN, [attempt.id, error.fault, error.message.slice(0, 1_000)])
    return { wakeInMs: error.retryAfterMs ?? 500 * 2 ** attempt.submits }
  }
  return failed(engine, attempt, error)
}

async function failed(engine: Engine, attempt: AttemptRow, error: ProviderError): Promise<Next> {
  await endAttempt(engine, attempt, { state: 'failed', fault: error.fault, message: error.message })
  return 'again'
}

/** Lets breaker and budgets know of a failure. What a customer steers the sandbox to do is no sign of its health. */
export async function blame(engine: Engine, account: AccountEntry, error: ProviderError): Promise<void> {
  if (engine.catalog.providers.get(account.provider)?.adapter.kind === 'sandbox') return
  if (tripsBreaker(error.fault)) await engine.breaker.trip(account, error.fault)
  else if (countsForBreaker(error.fault)) await engine.breaker.failure(account, error.fault)
  else if (error.fault === 'rate_limited' || error.fault === 'account_saturated') {
    await engine.budgets.block(account, 'submit', error.retryAfterMs ?? 5_000)
  }
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

function newCallback(
  engine: Engine,
  account: AccountEntry,
  capable: boolean | undefined,
): { url: string; hash: Buffer } | undefined {
  if (!capable || !engine.callbacks || !account.configured) return undefined
  const token = randomBytes(32).toString('base64url')
  return { url: `${engine.publicUrl}/callbacks/${token}`, hash: createHash('sha256').update(token).digest() }
}
