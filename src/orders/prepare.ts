import { randomInt, randomUUIDv7 } from 'node:crypto'
import { hasMedia, mapMedia } from '../catalog/expressions.ts'
import type { AccountEntry } from '../catalog/model.ts'
import { isOutage } from '../db/outage.ts'
import { ProviderError } from '../providers/provider.ts'
import type { Candidate } from '../routing/candidates.ts'
import type { AttemptRow, Engine, HeldOrder, Next } from './engine.ts'
import { accountOf, blame, failed, newCallback, submit } from './submit.ts'

/** Nothing was sent yet: an upload's budget is waited for this long before another route is tried. */
const UPLOAD_PATIENCE_MS = 60_000

/** Writes the row of the order's `n`-th attempt, then goes on with it. `saturated`: no place in flight. */
export async function beginAttempt(
  engine: Engine,
  order: HeldOrder,
  candidate: Candidate,
  input: Record<string, unknown>,
  n: number,
): Promise<Next | 'saturated'> {
  const { route, account } = candidate
  const state = hasMedia(input) ? 'preparing' : 'submitting'
  const id = `att_${Buffer.from(randomUUIDv7().replaceAll('-', ''), 'hex').toString('base64url')}`
  const callback = state === 'submitting' ? newCallback(engine, account, route.provider.adapter.callbacks) : undefined
  // What the row will hold, so that it need not be read back.
  const attempt: AttemptRow = {
    id,
    order_id: order.id,
    n,
    provider: route.provider.id,
    account: account.id,
    upstream_model: route.upstreamModel,
    state,
    input: JSON.stringify(input),
    idempotency_key: `gm-${id}`,
    nonce: randomInt(1, 2 ** 31 - 1),
    ref: null,
    outputs: null,
    fault: null,
    expected_cost: candidate.cost,
    cost: null,
    submits: state === 'submitting' ? 1 : 0,
    reconciles: 0,
    submitted_at: state === 'submitting' ? new Date() : null,
    cancel_requested_at: null,
    overdue: false,
    left_ms: route.provider.poll.deadline_ms,
    absent_ms: null,
  }
  const { concurrent } = account.limits
  const outcome = await engine.batches.begin({ attempt, fence: order.fence, callbackHash: callback?.hash, concurrent })
  if (outcome === 'saturated') return 'saturated'
  if (outcome === 'lost') return 'left'
  engine.reached('attempt-written')
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
    return unplaced(engine, attempt, account, error)
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
    { ...attempt, state: 'submitting', input: text, submitted_at: row.submitted_at, submits: attempt.submits + 1 },
    callback?.url,
  )
}

async function unplaced(engine: Engine, attempt: AttemptRow, account: AccountEntry, error: unknown): Promise<Next> {
  if (isOutage(error)) throw error
  // What is not the upstream's answer is a file of ours that could not be read.
  if (!(error instanceof ProviderError))
    return failed(engine, attempt, new ProviderError('media_unreachable', String(error)))
  const waitMs = error.retryAfterMs ?? 5_000
  if (error.fault === 'rate_limited' && waitMs <= UPLOAD_PATIENCE_MS) {
    await blame(engine, account, error, 'upload')
    return { wakeInMs: waitMs }
  }
  await blame(engine, account, error)
  return failed(engine, attempt, error)
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
