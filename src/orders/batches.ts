import { groupCommit } from '../db/group.ts'
import { isLost } from '../db/outage.ts'
import type { Db } from '../db/pool.ts'
import { ATTEMPT_COLUMNS, type AttemptRow } from './engine.ts'

/*
 * What the engine does for every order, done for several at once: what comes while earlier statements are under way shares
 * the next one, and its commit.
 */

/** What of an attempt is not in its row's other columns. */
export interface NewAttempt {
  readonly attempt: AttemptRow
  readonly fence: number
  readonly callbackHash: Buffer | undefined
  /** Attempts of the account that may be in flight; undefined: any number. */
  readonly concurrent: number | undefined
}

export interface Acceptance {
  readonly attemptId: string
  readonly ref: string
  /** Micro-dollars; undefined: the upstream did not say. */
  readonly cost: bigint | undefined
  readonly firstPollMs: number
}

export interface Batches {
  /** An order's attempts, the first one first. */
  attemptsOf(orderId: string): Promise<AttemptRow[]>
  /** Writes a new attempt. `lost`: the fence has moved or the order is over; `saturated`: no place in flight. */
  begin(attempt: NewAttempt): Promise<'begun' | 'lost' | 'saturated'>
  /** Saves the ref and plans the first poll, whoever holds the order by now. */
  accept(acceptance: Acceptance): Promise<void>
}

const ATTEMPTS = {
  name: 'attempts_of',
  text: `SELECT ${ATTEMPT_COLUMNS} FROM attempts WHERE order_id = any($1::text[]) ORDER BY n`,
}
// In one order everywhere, so that two batches never wait for each other's locks.
const BEGIN = {
  name: 'begin_attempts',
  text: `SELECT id, begin_attempt(order_id, fence, id, provider, account, model, state, input, key, nonce, decode(callback, 'hex'),
      cost, deadline_ms, concurrent) AS outcome
    FROM (SELECT * FROM jsonb_to_recordset($1::jsonb) AS x(order_id text, fence integer, id text, provider text, account text,
        model text, state attempt_state, input text, key text, nonce integer, callback text, cost bigint, deadline_ms bigint,
        concurrent integer)
      ORDER BY provider, account, order_id) batch`,
}
const ACCEPT = {
  name: 'accept_attempts',
  text: `WITH x AS (SELECT * FROM jsonb_to_recordset($1::jsonb) AS y(id text, ref text, cost bigint, first_ms float8)),
    a AS (
      UPDATE attempts SET state = CASE WHEN state = 'abandoned' THEN state ELSE 'accepted' END, ref = x.ref,
        cost = coalesce(x.cost, attempts.cost), accepted_at = now(), next_poll_at = now() + x.first_ms * interval '1 millisecond'
      FROM x WHERE attempts.id = x.id AND state IN ('submitting', 'unclear', 'abandoned') AND attempts.ref IS NULL
      RETURNING order_id, state)
    UPDATE orders SET status = 'processing', started_at = coalesce(started_at, now()), wake_at = NULL
    FROM a WHERE orders.id = a.order_id AND a.state = 'accepted' AND orders.status IN ('queued', 'processing')`,
}
const GROUP = { max: 64, lanes: 2, isOutage: isLost }

export function createBatches(db: Db): Batches {
  return {
    attemptsOf: groupCommit<string, AttemptRow[]>(async orderIds => {
      const rows = await db.run<AttemptRow>(ATTEMPTS, [orderIds])
      const found = Map.groupBy(rows, row => row.order_id)
      return orderIds.map(id => found.get(id) ?? [])
    }, GROUP),

    begin: groupCommit<NewAttempt, 'begun' | 'lost' | 'saturated'>(
      async batch => {
        const rows = await db.run<{ id: string; outcome: 'begun' | 'lost' | 'saturated' }>(BEGIN, [
          JSON.stringify(batch.map(recordOf)),
        ])
        const outcomes = new Map(rows.map(row => [row.id, row.outcome]))
        return batch.map(({ attempt }) => outcomes.get(attempt.id) ?? 'lost')
      },
      { ...GROUP, exclusive: ({ attempt }) => attempt.order_id },
    ),

    accept: groupCommit<Acceptance, void>(
      async batch => {
        const records = batch.map(({ attemptId, ref, cost, firstPollMs }) => ({
          id: attemptId,
          ref,
          cost: cost?.toString(),
          first_ms: firstPollMs,
        }))
        await db.run(ACCEPT, [JSON.stringify(records)])
        return batch.map(() => undefined)
      },
      { ...GROUP, exclusive: ({ attemptId }) => attemptId },
    ),
  }
}

function recordOf({ attempt, fence, callbackHash, concurrent }: NewAttempt) {
  return {
    order_id: attempt.order_id,
    fence,
    id: attempt.id,
    provider: attempt.provider,
    account: attempt.account,
    model: attempt.upstream_model,
    state: attempt.state,
    input: attempt.input,
    key: attempt.idempotency_key,
    nonce: attempt.nonce,
    callback: callbackHash?.toString('hex'),
    cost: attempt.expected_cost.toString(),
    deadline_ms: Math.round(attempt.left_ms),
    concurrent,
  }
}
