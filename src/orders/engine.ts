import type { Logger } from 'pino'
import type { Catalog, MediaElement } from '../catalog/model.ts'
import type { Db } from '../db/pool.ts'
import type { Micros } from '../money.ts'
import type { Fault, Media } from '../providers/provider.ts'
import type { Breaker } from '../routing/breaker.ts'
import type { Budgets } from '../routing/budgets.ts'
import type { Calls } from '../routing/calls.ts'
import type { Observer } from '../routing/observed.ts'
import type { Storage } from '../storage/storage.ts'
import type { Batches } from './batches.ts'
import type { OrderStatus } from './order.ts'
import type { Settle } from './settle.ts'

/** What the order engine works with. */
export interface Engine {
  readonly db: Db
  readonly catalog: Catalog
  readonly storage: Storage
  readonly budgets: Budgets
  readonly breaker: Breaker
  readonly observer: Observer
  readonly switches: { off(): Promise<ReadonlySet<string>> }
  readonly calls: Calls
  readonly settle: Settle
  readonly batches: Batches
  readonly log: Logger
  readonly publicUrl: string
  /** True when upstreams can reach PUBLIC_URL: then they are asked to call back. */
  readonly callbacks: boolean
  readonly resultTtlMs: number
  /** The file that a media element stands for, with a URL signed for this attempt. */
  media(element: MediaElement, attemptId: string): Promise<Media>
  /** Stops a test's process at a named point; does nothing elsewhere. */
  reached(point: CrashPoint): void
  /** Wakes the run loop of this process. */
  wake(): void
}

/** Where a process may be made to die in a test. */
export type CrashPoint =
  | 'placing'
  | 'placed-unanswered'
  | 'attempt-written'
  | 'submit-sent'
  | 'accepted-unsaved'
  | 'accepted-saved'
  | 'mirrored-unsettled'

export type AttemptState =
  | 'preparing'
  | 'submitting'
  | 'unclear'
  | 'accepted'
  | 'finished'
  | 'succeeded'
  | 'failed'
  | 'cancelled'
  | 'absent'
  | 'abandoned'
  | 'late'

export interface AttemptRow {
  readonly id: string
  readonly order_id: string
  readonly n: number
  readonly provider: string
  readonly account: string
  readonly upstream_model: string
  readonly state: AttemptState
  readonly input: string
  readonly idempotency_key: string
  readonly nonce: number
  readonly ref: string | null
  readonly outputs: string | null
  readonly fault: string | null
  readonly expected_cost: Micros
  readonly cost: Micros | null
  readonly submits: number
  readonly reconciles: number
  readonly submitted_at: Date | null
  readonly cancel_requested_at: Date | null
  /** Its deadline has passed, by the database's clock. */
  readonly overdue: boolean
  /** Until its deadline, ms; negative once it has passed. */
  readonly left_ms: number
  /** Since when the upstream says that it knows nothing of it, ms. */
  readonly absent_ms: number | null
}

/** An order that this process holds. */
export interface HeldOrder {
  readonly id: string
  readonly fence: number
  readonly model_id: number
  readonly status: OrderStatus
  readonly cost: Micros
  readonly input: string
  readonly routing: 'auto' | 'value' | 'fast' | null
  readonly delivery_failures: number
  readonly cancel_requested_at: Date | null
  /** No new attempt is begun any more. */
  readonly overdue: boolean
  /** Some of its outputs stand already, from before it was claimed. */
  readonly mirrored: boolean
  /** Whether the lease surely still holds: a paused process must not send what another one decides about by now. */
  held(): boolean
}

/** What a step leaves: look again at once, look again in so many ms, or nothing to write. */
export type Next = 'again' | { readonly wakeInMs: number } | 'left'

/** The columns of AttemptRow. */
export const ATTEMPT_COLUMNS = `id, order_id, n, provider, account, upstream_model, state, input, idempotency_key, nonce, ref,
  outputs, fault, expected_cost, cost, submits, reconciles, submitted_at, cancel_requested_at, deadline_at <= now() AS overdue,
  (extract(epoch FROM deadline_at - now()) * 1000)::float8 AS left_ms,
  (extract(epoch FROM now() - absent_since) * 1000)::float8 AS absent_ms`

// An order that nobody holds and that waits for nothing else is woken in the same statement.
const END = {
  name: 'end_attempt',
  text: `WITH a AS (
      UPDATE attempts SET state = $2, fault = $3, fault_message = $4, cost = coalesce($5, cost), finished_at = now(),
        next_poll_at = NULL
      WHERE id = $1 AND state = $6 RETURNING order_id),
    woken AS (
      UPDATE orders SET wake_at = now() FROM a
      WHERE orders.id = a.order_id AND orders.wake_at IS NULL AND orders.status IN ('queued', 'processing'))
    SELECT order_id FROM a`,
}

/**
 * Ends an attempt without ending its order. Does nothing when its state is no longer the one that the caller saw: somebody
 * else knows more about it by now.
 */
export async function endAttempt(
  engine: Engine,
  attempt: AttemptRow,
  end: {
    state: 'failed' | 'cancelled' | 'absent'
    fault: Fault | 'absent' | 'timed_out'
    message: string
    cost?: Micros | undefined
  },
): Promise<void> {
  const ended = await engine.db.run(END, [
    attempt.id,
    end.state,
    end.fault,
    end.message.slice(0, 1_000),
    end.cost?.toString() ?? null,
    attempt.state,
  ])
  if (ended.length === 0) return
  engine.log.info(
    {
      order: attempt.order_id,
      attempt: attempt.id,
      provider: attempt.provider,
      account: attempt.account,
      fault: end.fault,
      reason: end.message,
    },
    'attempt ended',
  )
}
