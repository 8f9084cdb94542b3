import { isOutage } from '../db/outage.ts'
import type { AccountEntry } from '../catalog/model.ts'
import {
  type Call,
  type Fault,
  type Finished,
  type Pending,
  type Provider,
  ProviderError,
  type Ref,
} from '../providers/provider.ts'
import { ATTEMPT_COLUMNS, type AttemptRow, type Engine } from './engine.ts'
import type { Pace } from './pace.ts'
import type { Loop } from './run.ts'
import { shuffled } from '../routing/candidates.ts'
import { tripsBreaker } from '../routing/decide.ts'
import { giveUp } from './abandon.ts'
import { recheck } from './late.ts'
import { accountOf, asProviderError, blame, madeOne } from './submit.ts'

/*
 * The watch loop: asks upstreams about accepted attempts. One statement takes due attempts of an account, most overdue first, as
 * many as its read budget has to spare, and pushes next_poll_at forward, so a crash is a late poll and no two processes ask
 * about the same attempt. What it learns moves the attempt on, and wakes the order. Polls spread over the budget's minute, and
 * outputs that wait to be fetched from the same budget go first.
 *
 *   accepted ──▶ finished    outputs are known; run.ts delivers
 *       │──────▶ failed      the next route, or the end
 *       │──────▶ cancelled
 *       └──────▶ abandoned   past its deadline: cancelled upstream where possible, else its fate is unknown
 *
 * An abandoned attempt is asked about now and then: see late.ts.
 */

const MAX_POLLED = 200
/** An attempt that could not be asked about for want of budget is given up this long after its deadline. */
const UNASKED_MS = 120_000
/** What a budget has left is spent in about so many looks. */
const BURSTS = 8
const BROKE_REST_MS = 1_000
/** Of those past their deadline: each may wait for an upstream that does not answer its cancel. */
const ENDED_AT_ONCE = 16
const DUE = {
  name: 'due_accounts',
  text: `SELECT provider, account, count(*)::int AS due FROM attempts WHERE next_poll_at <= now() GROUP BY provider, account`,
}
// The next poll counts from when this one was due, not from the look that took it: else every poll drifts by half a tick.
const CLAIM = {
  name: 'claim_polls',
  text: `UPDATE attempts SET next_poll_at = CASE WHEN state = 'abandoned' THEN now() + interval '5 minutes'
      ELSE greatest(least(next_poll_at, now()), now() - interval '500 milliseconds')
        + $4 * interval '1 millisecond' * least(8, 1 + poll_failures) END
    WHERE id IN (SELECT id FROM attempts WHERE provider = $1 AND account = $2
        AND next_poll_at <= now() + $5 * interval '1 millisecond'
        AND (NOT $6 OR deadline_at <= now() - interval '${UNASKED_MS} milliseconds')
      ORDER BY next_poll_at LIMIT $3 FOR UPDATE SKIP LOCKED)
    RETURNING ${ATTEMPT_COLUMNS}, poll_failures, (SELECT fence FROM orders WHERE orders.id = order_id) AS fence`,
}

/** With its order's fence of that moment: when that has moved on before the answer came, the answer ends no order. */
type Watched = AttemptRow & { readonly fence: number; readonly poll_failures: number }

export function startWatchLoop(engine: Engine, pace: Pace): Loop {
  const asking = new Set<string>()
  /** Until when an account is left alone, by `performance.now()`. */
  const resting = new Map<string, number>()
  let stopped = false
  let looking = false

  async function look(): Promise<void> {
    if (stopped || looking) return
    looking = true
    try {
      const accounts = await engine.db.run<{ provider: string; account: string; due: number }>(DUE, [])
      if (accounts.length > 0) pace.stir()
      for (const { provider, account, due } of accounts) {
        const key = `${provider}/${account}`
        if (asking.has(key) || (resting.get(key) ?? 0) > performance.now()) continue
        asking.add(key)
        void askAccount(engine, provider, account)
          .then(restMs => {
            asking.delete(key)
            resting.set(key, performance.now() + restMs)
            // One round does not reach all that are due: no waiting for the next tick.
            if (due > MAX_POLLED) void look()
          })
          .catch(error => {
            asking.delete(key)
            engine.log[isOutage(error) ? 'warn' : 'error']({ provider, account, err: error }, 'polls failed')
          })
      }
    } catch (error) {
      engine.log[isOutage(error) ? 'warn' : 'error']({ err: error }, 'due polls could not be read')
    } finally {
      looking = false
    }
  }

  const stopLooking = pace.every(() => void look())
  return {
    async stop(ms) {
      stopped = true
      stopLooking()
      const until = performance.now() + ms
      while (asking.size > 0 && performance.now() < until) await new Promise(done => setTimeout(done, 20))
    },
  }
}

/** Resolves with how long the account is left alone now, ms. */
async function askAccount(engine: Engine, providerId: string, accountId: string): Promise<number> {
  const { provider, account, adapter } = accountOf(engine, { provider: providerId, account: accountId })
  const { spare, restMs } =
    account && adapter ? await spareReads(engine, account, adapter) : { spare: MAX_POLLED, restMs: 0 }
  const every = provider?.poll.every_ms ?? 30_000
  const broke = spare <= 0
  const limit = adapter?.pollsMany || broke ? MAX_POLLED : Math.min(MAX_POLLED, Math.ceil(spare / BURSTS))
  // A list tells of those that are nearly due as well.
  const ahead = adapter?.pollsMany ? every : 0
  const readAt = performance.now()
  const claimed = await engine.db.run<Watched>(CLAIM, [providerId, accountId, limit, every, ahead, broke])
  if (claimed.length === 0) return broke ? BROKE_REST_MS : 0
  const answers =
    account && adapter?.poll && !broke
      ? await ask(engine, account, adapter, claimed)
      : new Map<Ref, Pending | Finished>()
  await record(engine, claimed, answers)
  const isPending = ({ ref }: Watched) => (answers.get(ref ?? '')?.state ?? 'pending') === 'pending'
  const stuck = claimed.filter(attempt => attempt.overdue && isPending(attempt)).values()
  const end = async () => {
    for (const attempt of stuck)
      await (attempt.state === 'abandoned' ? recheck(engine, attempt) : giveUp(engine, { ...attempt, readAt }))
  }
  await Promise.all(Array.from({ length: ENDED_AT_ONCE }, end))
  return broke ? BROKE_REST_MS : restMs * (adapter?.pollsMany ? 1 : claimed.length)
}

const TO_FETCH = {
  name: 'attempts_to_fetch',
  text: `SELECT count(*)::int AS count FROM attempts WHERE provider = $1 AND account = $2 AND state = 'finished'`,
}

async function spareReads(
  engine: Engine,
  account: AccountEntry,
  adapter: Provider,
): Promise<{ spare: number; restMs: number }> {
  const { left, restMs } = await engine.budgets.pace(account, 'read')
  if (!adapter.openOutput || !Number.isFinite(left)) return { spare: left, restMs }
  const [row] = await engine.db.run<{ count: number }>(TO_FETCH, [account.provider, account.id])
  return { spare: left - (row?.count ?? 0), restMs }
}

const POLL_FAILED = {
  name: 'poll_failed',
  text: 'UPDATE attempts SET poll_failures = CASE WHEN id = any($2) THEN poll_failures + 1 ELSE 0 END WHERE id = any($1)',
}

async function ask(
  engine: Engine,
  account: AccountEntry,
  adapter: Provider,
  claimed: readonly Watched[],
): Promise<Map<Ref, Pending | Finished>> {
  // Which ones a list leaves out, and a poll cannot ask one by one, is chance: in the end all have their turn.
  const refs = shuffled(claimed.flatMap(attempt => (attempt.ref === null ? [] : [attempt.ref])))
  let failed = !adapter.pollsMany
  let answers = new Map<Ref, Pending | Finished>()
  try {
    const call: Call = engine.calls.of(account)
    answers = (await adapter.poll?.(refs, call)) ?? answers
  } catch (error) {
    failed = true
    const fault = asProviderError(error)
    engine.log.warn(
      { provider: account.provider, account: account.id, fault: fault.fault, reason: fault.message },
      'poll failed',
    )
    if (fault.fault === 'rate_limited') await engine.budgets.block(account, 'read', fault.retryAfterMs ?? 5_000)
    else if (tripsBreaker(fault.fault)) await engine.breaker.trip(account, fault.fault)
  }
  const unasked = failed ? claimed.filter(attempt => !answers.has(attempt.ref ?? '')) : []
  if (unasked.length > 0 || claimed.some(attempt => attempt.poll_failures > 0))
    await engine.db.run(POLL_FAILED, [claimed.map(a => a.id), unasked.map(a => a.id)])
  return answers
}

const RECORD = {
  name: 'record_polls',
  text: `WITH x AS (SELECT * FROM jsonb_to_recordset($1::jsonb) AS y(id text, state text, outputs text, fault text, message text, cost bigint)),
    a AS (
      UPDATE attempts SET state = CASE WHEN attempts.state = 'abandoned' AND x.state = 'finished' THEN 'late' ELSE x.state END::attempt_state,
        outputs = x.outputs, fault = coalesce(x.fault, attempts.fault), fault_message = coalesce(x.message, attempts.fault_message),
        cost = coalesce(x.cost, attempts.cost), next_poll_at = NULL,
        finished_at = CASE WHEN x.state = 'finished' AND attempts.state = 'accepted' THEN NULL ELSE now() END
      FROM x WHERE attempts.id = x.id AND attempts.state IN ('accepted', 'abandoned') RETURNING order_id, attempts.state)
    UPDATE orders SET wake_at = now() FROM a
    WHERE orders.id = a.order_id AND a.state <> 'late' AND orders.status IN ('queued', 'processing')`,
}

interface End {
  readonly id: string
  readonly state: 'finished' | 'failed' | 'cancelled'
  readonly outputs?: string
  readonly fault?: Fault | 'timed_out'
  readonly message?: string
  readonly cost?: string | undefined
}

function endOf(attempt: AttemptRow, answer: Pending | Finished | undefined): End[] {
  if (!answer || answer.state === 'pending') return []
  const { id } = attempt
  const cost = answer.cost?.toString()
  switch (answer.state) {
    case 'succeeded':
      return [{ id, state: 'finished', outputs: JSON.stringify(answer.outputs), cost }]
    case 'cancelled': {
      // Asked for by us when it was stuck, answered or not. When the customer asked, the order ends as cancelled, whatever
      // stands here.
      const fault = attempt.cancel_requested_at || attempt.overdue ? 'timed_out' : 'task_failed'
      return [{ id, state: 'cancelled', fault, message: 'cancelled upstream', cost }]
    }
    case 'failed':
      return [{ id, state: 'failed', fault: answer.fault, message: answer.message.slice(0, 1_000), cost }]
  }
}

async function record(
  engine: Engine,
  claimed: readonly AttemptRow[],
  answers: ReadonlyMap<Ref, Pending | Finished>,
): Promise<void> {
  const over = claimed.flatMap(attempt => endOf(attempt, answers.get(attempt.ref ?? '')))
  if (over.length === 0) return
  await engine.db.run(RECORD, [JSON.stringify(over)])
  engine.wake()
  // The claimed ones are of one account: the one that was submitted last proves the most.
  const made = claimed.filter(attempt => over.some(end => end.id === attempt.id && end.state === 'finished'))
  const latest = made.sort((a, b) => Number(a.submitted_at) - Number(b.submitted_at)).at(-1)
  if (latest) await madeOne(engine, latest)
  for (const end of over) {
    const attempt = claimed.find(a => a.id === end.id)
    engine.log.info(
      { order: attempt?.order_id, attempt: end.id, provider: attempt?.provider, state: end.state, fault: end.fault },
      'attempt over',
    )
    if (!attempt) continue
    const { account } = accountOf(engine, attempt)
    if (end.state === 'failed' && end.fault && end.fault !== 'timed_out' && account)
      await blame(engine, account, new ProviderError(end.fault, end.message ?? ''))
  }
}
