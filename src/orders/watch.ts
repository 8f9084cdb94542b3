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
import { type AttemptRow, type Engine, endAttempt } from './engine.ts'
import { abandon } from './reconcile.ts'
import type { Loop } from './run.ts'
import { tripsBreaker } from '../routing/decide.ts'
import { accountOf, asProviderError, blame, madeOne } from './submit.ts'

/*
 * The watch loop: asks upstreams about accepted attempts. One statement takes every due attempt of an account, most overdue
 * first, up to what the account's read budget has left, and pushes next_poll_at forward, so a crash is a late poll and no
 * two processes ask about the same attempt. What it learns moves the attempt on, and wakes the order.
 *
 *   accepted ──▶ finished    outputs are known; run.ts delivers
 *       │──────▶ failed      the next route, or the end
 *       │──────▶ cancelled
 *       └──────▶ abandoned   past its deadline: cancelled upstream where possible, else its fate is unknown
 *
 * An abandoned attempt is asked about now and then for a day: a late success is recorded (late), never charged.
 */

const TICK_MS = 200
const MAX_POLLED = 200
/** After a stuck attempt's cancel was requested, how long its confirmation is waited for. */
const CANCEL_GRACE_MS = 30_000
const RECHECK_FOR_MS = 86_400_000

const DUE = {
  name: 'due_accounts',
  text: `SELECT provider, account, count(*)::int AS due FROM attempts WHERE next_poll_at <= now() GROUP BY provider, account`,
}
const CLAIM = {
  name: 'claim_polls',
  text: `UPDATE attempts SET next_poll_at = now() + CASE WHEN state = 'abandoned' THEN interval '5 minutes'
      ELSE $4 * interval '1 millisecond' * least(8, 1 + poll_failures) END
    WHERE id IN (SELECT id FROM attempts WHERE provider = $1 AND account = $2 AND next_poll_at <= now()
      ORDER BY next_poll_at LIMIT $3 FOR UPDATE SKIP LOCKED)
    RETURNING id, order_id, n, provider, account, upstream_model, state, input, idempotency_key, nonce, ref, outputs, fault,
      expected_cost, cost, submits, reconciles, submitted_at, cancel_requested_at, deadline_at <= now() AS overdue,
      NULL::float8 AS absent_ms`,
}

export function startWatchLoop(engine: Engine): Loop {
  const asking = new Set<string>()
  let stopped = false
  let looking = false

  async function look(): Promise<void> {
    if (stopped || looking) return
    looking = true
    try {
      const due = await engine.db.run<{ provider: string; account: string; due: number }>(DUE, [])
      for (const { provider, account } of due) {
        const key = `${provider}/${account}`
        if (asking.has(key)) continue
        asking.add(key)
        void askAccount(engine, provider, account)
          .catch(error =>
            engine.log[isOutage(error) ? 'warn' : 'error']({ provider, account, err: error }, 'polls failed'),
          )
          .finally(() => asking.delete(key))
      }
    } catch (error) {
      engine.log[isOutage(error) ? 'warn' : 'error']({ err: error }, 'due polls could not be read')
    } finally {
      looking = false
    }
  }

  const ticker = setInterval(() => void look(), TICK_MS)
  return {
    wake: () => void look(),
    async stop(ms) {
      stopped = true
      clearInterval(ticker)
      const until = performance.now() + ms
      while (asking.size > 0 && performance.now() < until) await new Promise(done => setTimeout(done, 20))
    },
  }
}

async function askAccount(engine: Engine, providerId: string, accountId: string): Promise<void> {
  const { provider, account, adapter } = accountOf(engine, { provider: providerId, account: accountId })
  const left = account ? await engine.budgets.available(account, 'read') : MAX_POLLED
  if (left <= 0) return
  const every = provider?.poll.every_ms ?? 30_000
  const limit = adapter?.pollsMany ? MAX_POLLED : Math.min(MAX_POLLED, left)
  const claimed = await engine.db.run<AttemptRow>(CLAIM, [providerId, accountId, limit, every])
  if (claimed.length === 0) return
  const answers =
    account && adapter?.poll ? await ask(engine, account, adapter, claimed) : new Map<Ref, Pending | Finished>()
  await record(engine, claimed, answers)
  for (const attempt of claimed) {
    const answer = answers.get(attempt.ref ?? '')
    if (attempt.overdue && (!answer || answer.state === 'pending')) await giveUp(engine, attempt)
  }
}

const POLL_FAILED = {
  name: 'poll_failed',
  text: 'UPDATE attempts SET poll_failures = CASE WHEN id = any($2) THEN poll_failures + 1 ELSE 0 END WHERE id = any($1)',
}

async function ask(
  engine: Engine,
  account: AccountEntry,
  adapter: Provider,
  claimed: readonly AttemptRow[],
): Promise<Map<Ref, Pending | Finished>> {
  const refs = claimed.flatMap(attempt => (attempt.ref === null ? [] : [attempt.ref]))
  let answers = new Map<Ref, Pending | Finished>()
  try {
    const call: Call = engine.calls.of(account)
    answers = (await adapter.poll?.(refs, call)) ?? answers
  } catch (error) {
    const fault = asProviderError(error)
    engine.log.warn(
      { provider: account.provider, account: account.id, fault: fault.fault, reason: fault.message },
      'poll failed',
    )
    if (fault.fault === 'rate_limited') await engine.budgets.block(account, 'read', fault.retryAfterMs ?? 5_000)
    else if (tripsBreaker(fault.fault)) await engine.breaker.trip(account, fault.fault)
  }
  const unasked = claimed.filter(attempt => !answers.has(attempt.ref ?? ''))
  if (unasked.length > 0) await engine.db.run(POLL_FAILED, [claimed.map(a => a.id), unasked.map(a => a.id)])
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
  readonly fault?: Fault
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
    case 'cancelled':
      return [{ id, state: 'cancelled', fault: 'task_failed', message: 'cancelled upstream', cost }]
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
  for (const end of over) {
    const attempt = claimed.find(a => a.id === end.id)
    engine.log.info(
      { order: attempt?.order_id, attempt: end.id, provider: attempt?.provider, state: end.state, fault: end.fault },
      'attempt over',
    )
    if (!attempt) continue
    const { account } = accountOf(engine, attempt)
    if (end.state === 'finished') await madeOne(engine, attempt)
    else if (end.state === 'failed' && end.fault && account)
      await blame(engine, account, new ProviderError(end.fault, end.message ?? ''))
  }
}

const WAIT_FOR_CANCEL = {
  name: 'wait_for_cancel',
  text: `UPDATE attempts SET cancel_requested_at = now(), deadline_at = now() + $2 * interval '1 millisecond', next_poll_at = now() + interval '1 second'
    WHERE id = $1 AND state = 'accepted'`,
}
const FORGET = {
  name: 'forget_abandoned',
  text: `UPDATE attempts SET next_poll_at = NULL WHERE id = $1 AND deadline_at < now() - $2 * interval '1 millisecond'`,
}
const WAKE_ORDER = { name: 'wake_order', text: 'UPDATE orders SET wake_at = now() WHERE id = $1' }

/** Past its deadline and still pending: cancelled where the API can, else its fate is unknown. */
async function giveUp(engine: Engine, attempt: AttemptRow): Promise<void> {
  if (attempt.state === 'abandoned') {
    await engine.db.run(FORGET, [attempt.id, RECHECK_FOR_MS])
    return
  }
  const { account, adapter } = accountOf(engine, attempt)
  if (account && adapter?.cancel && attempt.ref !== null && attempt.cancel_requested_at === null) {
    try {
      const answer = await adapter.cancel(attempt.ref, engine.calls.of(account))
      if (answer === 'confirmed') {
        await endAttempt(engine, attempt, {
          state: 'cancelled',
          fault: 'timed_out',
          message: 'stuck: cancelled at its deadline',
        })
        await engine.db.run(WAKE_ORDER, [attempt.order_id])
        engine.wake()
        return
      }
      if (answer !== 'too_early') {
        await engine.db.run(WAIT_FOR_CANCEL, [attempt.id, CANCEL_GRACE_MS])
        return
      }
    } catch (error) {
      engine.log.warn(
        { order: attempt.order_id, attempt: attempt.id, reason: asProviderError(error).message },
        'stuck attempt not cancelled',
      )
    }
  }
  await abandon(engine, attempt, 'timed_out')
}
