import { createHash } from 'node:crypto'
import type { Engine } from './engine.ts'
import { accountOf } from './submit.ts'

const FIND = {
  name: 'attempt_by_callback',
  text: 'SELECT id, provider, account, upstream_model, state, ref FROM attempts WHERE callback_hash = $1',
}
const POLL_NOW = {
  name: 'poll_now',
  text: `UPDATE attempts SET next_poll_at = now() WHERE id = $1 AND ref IS NOT NULL AND state IN ('accepted', 'abandoned')`,
}
const FOUND = {
  name: 'found_by_callback',
  text: `WITH a AS (
      UPDATE attempts SET state = CASE WHEN state = 'abandoned' THEN state ELSE 'accepted' END, ref = $2, accepted_at = now(),
        next_poll_at = now()
      WHERE id = $1 AND state IN ('submitting', 'unclear', 'abandoned') AND ref IS NULL AND NOT EXISTS (
        SELECT FROM attempts o WHERE o.provider = attempts.provider AND o.account = attempts.account AND o.ref = $2)
      RETURNING order_id, state)
    UPDATE orders SET status = 'processing', started_at = coalesce(started_at, now()), wake_at = NULL
    FROM a WHERE orders.id = a.order_id AND a.state = 'accepted' AND orders.status IN ('queued', 'processing')`,
}

/**
 * A callback came for this token (256 random bits; only its SHA-256 is stored, so the look-up compares no secret). The body is
 * only a hint: it proves that the upstream has the task of an unclear submit, and brings the next poll forward. Nothing in it
 * is believed beyond the ref, and no state or URL is read from it. Resolves false when the token is unknown.
 */
export async function hint(engine: Pick<Engine, 'db' | 'catalog'>, token: string, body: unknown): Promise<boolean> {
  const hash = createHash('sha256').update(token).digest()
  const [attempt] = await engine.db.run<{
    id: string
    provider: string
    account: string
    upstream_model: string
    state: string
    ref: string | null
  }>(FIND, [hash])
  if (!attempt) return false
  if (attempt.ref === null) {
    const { adapter } = accountOf(engine, attempt)
    const ref = adapter?.readCallback?.(body, attempt.upstream_model)
    if (ref !== undefined) await engine.db.run(FOUND, [attempt.id, ref])
    return true
  }
  await engine.db.run(POLL_NOW, [attempt.id])
  return true
}
