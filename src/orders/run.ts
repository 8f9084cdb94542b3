import type { Logger } from 'pino'
import { isOutage } from '../db/outage.ts'
import { deliver } from './deliver.ts'
import { type AttemptRow, type Engine, endAttempt, type HeldOrder, type Next } from './engine.ts'
import { prepare } from './prepare.ts'
import type { Pace } from './pace.ts'
import { reconcile } from './reconcile.ts'
import { nextRoute } from './route.ts'

/*
 * The run loop. It claims orders whose wake_at has come, and takes each as far as it goes: a route, a submit, a delivery, an
 * end. What it does next is read from the rows alone, so a process that dies anywhere is followed by another one that finds
 * the order due when its lease ends.
 *
 *   no live attempt   → the next route, or the end
 *   preparing         → place media, submit          (nothing was sent)
 *   submitting        → reconcile                    (a process died, or the lease was lost: unclear)
 *   unclear           → reconcile
 *   accepted          → nothing: watch.ts polls it
 *   finished          → deliver
 */

const LEASE_MS = 20_000
const HEARTBEAT_MS = 5_000
/** A lease counts as lost this long before it ends. */
const LEASE_MARGIN_MS = 4_000
const MAX_HELD = 256
const BATCH = 50

const CLAIM = {
  name: 'claim_orders',
  text: `UPDATE orders SET wake_at = now() + $2 * interval '1 millisecond', fence = fence + 1
    WHERE id IN (SELECT id FROM orders WHERE wake_at <= now() ORDER BY wake_at LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING id, fence, model_id, status, cost, input, routing, delivery_failures, cancel_requested_at, deadline_at <= now() AS overdue,
      EXISTS (SELECT FROM outputs WHERE outputs.order_id = orders.id) AS mirrored`,
}
// A row that is locked is being settled or moved on by somebody: it is not waited for, which could be a deadlock.
const RENEW = {
  name: 'renew_leases',
  text: `UPDATE orders SET wake_at = now() + $3 * interval '1 millisecond'
    WHERE id IN (
      SELECT o.id FROM unnest($1::text[], $2::int[]) AS held(id, fence)
      JOIN orders o ON o.id = held.id AND o.fence = held.fence
      WHERE o.wake_at > now() AND o.status IN ('queued', 'processing') FOR NO KEY UPDATE OF o SKIP LOCKED)
    RETURNING id`,
}
// Only while the lease stands: whoever woke the order meanwhile, or left it to its polls, knows better when to look.
const RELEASE = {
  name: 'release_order',
  text: `UPDATE orders SET wake_at = now() + $3 * interval '1 millisecond'
    WHERE id = $1 AND fence = $2 AND wake_at > now() AND status IN ('queued', 'processing')`,
}

type ClaimedRow = Omit<HeldOrder, 'held'>
interface Lease {
  readonly fence: number
  validUntil: number
}

export interface Loop {
  /** Takes no more work and waits for what is under way, at most `ms`. */
  stop(ms: number): Promise<void>
}

export interface RunLoop extends Loop {
  /** Looks for work now, not at the next tick. */
  wake(): void
}

export function startRunLoop(engine: Engine, pace: Pace): RunLoop {
  const leases = new Map<string, Lease>()
  let stopped = false
  let claiming = false
  let wanted = false

  async function claim(): Promise<void> {
    if (stopped || claiming) {
      wanted = true
      return
    }
    claiming = true
    try {
      do {
        const free = Math.min(BATCH, MAX_HELD - leases.size)
        // Left wanted: the next order that is let go of makes room.
        if (free <= 0 || stopped) return
        wanted = false
        const askedAt = performance.now()
        const rows = await engine.db.run<ClaimedRow>(CLAIM, [free, LEASE_MS])
        if (rows.length > 0) pace.stir()
        for (const row of rows) void hold(row, askedAt)
        if (rows.length === free) wanted = true
      } while (wanted)
    } catch (error) {
      report(engine.log, error, 'orders could not be claimed')
    } finally {
      claiming = false
    }
  }

  async function hold(row: ClaimedRow, askedAt: number): Promise<void> {
    const lease: Lease = { fence: row.fence, validUntil: askedAt + LEASE_MS - LEASE_MARGIN_MS }
    leases.set(row.id, lease)
    const order: HeldOrder = { ...row, held: () => performance.now() < lease.validUntil }
    try {
      const next = await runOrder(engine, order)
      if (typeof next === 'object') await engine.db.run(RELEASE, [order.id, order.fence, Math.round(next.wakeInMs)])
    } catch (error) {
      // The lease ends by itself; whoever claims the order then reads from its rows what to do.
      report(engine.log, error, 'order step failed', order.id)
    } finally {
      if (leases.get(row.id) === lease) leases.delete(row.id)
      if (wanted) void claim()
    }
  }

  async function renew(): Promise<void> {
    if (leases.size === 0) return
    const held = [...leases]
    const askedAt = performance.now()
    try {
      const rows = await engine.db.run<{ id: string }>(RENEW, [
        held.map(([id]) => id),
        held.map(([, lease]) => lease.fence),
        LEASE_MS,
      ])
      const renewed = new Set(rows.map(row => row.id))
      for (const [id, lease] of held) if (renewed.has(id)) lease.validUntil = askedAt + LEASE_MS - LEASE_MARGIN_MS
    } catch (error) {
      report(engine.log, error, 'leases could not be renewed')
    }
  }

  const stopLooking = pace.every(() => void claim())
  const heart = setInterval(() => void renew(), HEARTBEAT_MS)
  return {
    wake: () => void claim(),
    async stop(ms) {
      stopped = true
      stopLooking()
      const until = performance.now() + ms
      while (leases.size > 0 && performance.now() < until) await new Promise(done => setTimeout(done, 20))
      clearInterval(heart)
    },
  }
}

function report(log: Logger, error: unknown, message: string, order?: string): void {
  if (isOutage(error)) log.warn({ order, reason: (error as Error).message }, message)
  else log.error({ order, err: error }, message)
}

async function runOrder(engine: Engine, order: HeldOrder): Promise<Next> {
  let first = order.fence === 1
  for (;;) {
    const attempts = first ? [] : await engine.batches.attemptsOf(order.id)
    first = false
    const next = await step(engine, order, attempts)
    if (next !== 'again') return next
  }
}

function step(engine: Engine, order: HeldOrder, attempts: readonly AttemptRow[]): Promise<Next> {
  const live = attempts.at(-1)
  switch (live?.state) {
    case 'preparing':
      return live.overdue ? tooLate(engine, live) : prepare(engine, order, live)
    case 'submitting':
    case 'unclear':
      return reconcile(engine, order, live)
    case 'accepted':
      // Only a lost wake-up brings us here; its polls go on by themselves.
      return Promise.resolve({ wakeInMs: 30_000 })
    case 'finished':
      return deliver(engine, order, live)
    default:
      return nextRoute(engine, order, attempts)
  }
}

/** Nothing was sent. */
async function tooLate(engine: Engine, attempt: AttemptRow): Promise<'again'> {
  await endAttempt(engine, attempt, { state: 'failed', fault: 'timed_out', message: 'not submitted in time' })
  return 'again'
}
