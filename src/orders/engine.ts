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
  /** Whether the lease surely still holds: a paused process must not send what another one decides about by now. */
  held(): boolean
}

/** What a step leaves: look again at once, look again in so many ms, or nothing to write. */
export type Next = 'again' | { readonly wakeInMs: number } | 'left'

const ATTEMPTS = {
  name: 'attempts_of',
  text: `SELECT id, order_id, n, provider, account, upstream_model, state, input, idempotency_key, nonce, ref, outputs, fault,
      expected_cost, cost, submits, reconciles, submitted_at, cancel_requested_at, deadline_at <= now() AS overdue,
      (extract(epoch FROM now() - absent_since) * 1000)::float8 AS absent_ms
    FROM attempts WHERE order_id = $1 ORDER BY n`,
}

export function attemptsOf(engine: Pick<Engine, 'db'>, orderId: string): Promise<AttemptRow[]> {
  return engine.db.run<AttemptRow>(ATTEMPTS, [orderId])
}

const END = {
  name: 'end_attempt',
  text: `UPDATE attempts SET state = $2, fault = $3, fault_message = $4, cost = coalesce($5, cost), finished_at = now(),
      next_poll_at = NULL
    WHERE id = $1 AND state IN ('preparing', 'submitting', 'unclear', 'accepted', 'finished')`,
}

/** Ends an attempt without ending its order. */
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
  await engine.db.run(END, [
    attempt.id,
    end.state,
    end.fault,
    end.message.slice(0, 1_000),
    end.cost?.toString() ?? null,
  ])
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
