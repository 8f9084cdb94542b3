import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import type { Catalog } from './catalog/model.ts'
import type { Db, Statement } from './db/pool.ts'
import type { Breaker } from './routing/breaker.ts'
import type { Budgets } from './routing/budgets.ts'

/*
 * What GET /metrics says about orders, money and upstreams. It is read from the database when it is asked for, at most every
 * five seconds, so every process tells the same about the whole installation: take the max over instances, not their sum.
 *
 * Counters begin at zero with the process. They count orders that ended at least 20 s ago: every transaction that could
 * still end an order before that moment has committed or was cut off (statement_timeout), so each order counts once.
 */

export interface MetricsDeps {
  readonly registry: Registry
  readonly db: Db
  readonly catalog: Catalog
  readonly budgets: Budgets
  readonly breaker: Breaker
  readonly log: Logger
}

const FRESH_MS = 5_000
const SETTLED_MS = 20_000
/** A scrape does not wait longer for the database: it then gets what was read last. */
const PATIENCE_MS = 3_000
const MICROS_PER_USD = 1_000_000
/** Upper bounds, seconds. */
const START_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]
const MAKE_SECONDS = [0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1_800]

const CLOCK: Statement = {
  name: 'metrics_clock',
  text: `SELECT now(), now() - $1::float8 * interval '1 millisecond' AS settled`,
}
const CUSTOMERS: Statement = {
  name: 'metrics_customers',
  text: `SELECT coalesce(sum(available), 0)::float8 AS available, coalesce(sum(held), 0)::float8 AS held,
      coalesce(sum(active_orders), 0)::float8 AS active FROM customers`,
}
// A queued order always has a wake_at: this reads the small index of those that have one.
const QUEUE: Statement = {
  name: 'metrics_queue',
  text: `SELECT count(*) FILTER (WHERE status = 'queued')::int AS queued, count(*) FILTER (WHERE wake_at <= now())::int AS due,
      coalesce(extract(epoch FROM now() - min(wake_at) FILTER (WHERE wake_at <= now())), 0)::float8 AS oldest,
      (SELECT count(*)::int FROM orders WHERE notify_at <= now()) AS callbacks
    FROM orders WHERE wake_at IS NOT NULL`,
}
const POLLS: Statement = {
  name: 'metrics_polls',
  text: `SELECT provider, account, count(*) FILTER (WHERE next_poll_at <= now())::int AS due,
      greatest(0, extract(epoch FROM now() - min(next_poll_at)))::float8 AS lag
    FROM attempts WHERE next_poll_at IS NOT NULL GROUP BY provider, account`,
}
const IN_FLIGHT: Statement = {
  name: 'metrics_in_flight',
  text: `SELECT provider, account, count(*)::int AS attempts FROM attempts
    WHERE state IN ('preparing', 'submitting', 'unclear', 'accepted') GROUP BY provider, account`,
}
const ORDERS: Statement = {
  name: 'metrics_orders',
  text: `SELECT status::text, coalesce(error_code, '') AS error, count(*)::int AS orders, sum(cost)::float8 AS cost
    FROM orders WHERE finished_at > $1 AND finished_at <= $2 GROUP BY 1, 2`,
}
const ATTEMPTS: Statement = {
  name: 'metrics_attempts',
  text: `SELECT a.provider, a.account, a.state::text, CASE a.state WHEN 'succeeded' THEN '' ELSE coalesce(a.fault, '') END AS fault,
      count(*)::int AS attempts,
      sum(coalesce(a.cost, CASE WHEN a.state IN ('succeeded', 'abandoned', 'late') THEN a.expected_cost ELSE 0 END))::float8 AS cost
    FROM orders o JOIN attempts a ON a.order_id = o.id WHERE o.finished_at > $1 AND o.finished_at <= $2
    GROUP BY 1, 2, 3, 4`,
}
// One row per bucket; the mean of a bucket lies inside it, so observed that often it gives its count and its sum.
const TIMES: Statement = {
  name: 'metrics_times',
  text: `SELECT stage, count(*)::int AS orders, avg(seconds)::float8 AS mean FROM (
      SELECT t.* FROM orders o, LATERAL (VALUES
        ('start', extract(epoch FROM o.started_at - o.created_at)::float8, $3::float8[]),
        ('make', CASE o.status WHEN 'completed' THEN extract(epoch FROM o.finished_at - o.started_at)::float8 END, $4::float8[])
      ) AS t(stage, seconds, bounds)
      WHERE o.finished_at > $1 AND o.finished_at <= $2) times
    WHERE seconds IS NOT NULL GROUP BY stage, width_bucket(seconds, bounds)`,
}

interface OfAccount {
  readonly provider: string
  readonly account: string
}

/** Adds these metrics to the registry. `settledMs` shorter than a transaction may last can miss orders: for tests. */
export function addMetrics(deps: MetricsDeps, options: { freshMs?: number; settledMs?: number } = {}): void {
  const { db, log } = deps
  const { freshMs = FRESH_MS, settledMs = SETTLED_MS } = options
  let freshUntil = 0
  let reading: Promise<void> | undefined
  let since: Date | undefined

  const metrics = createMetrics(deps.registry, () => {
    if (performance.now() < freshUntil) return Promise.resolve()
    reading ??= read()
    return Promise.race([reading, sleep(PATIENCE_MS, undefined, { ref: false })])
  })

  async function read(): Promise<void> {
    try {
      const [clock] = await db.run<{ now: Date; settled: Date }>(CLOCK, [settledMs])
      if (!clock) return
      await readState(deps, metrics)
      since ??= clock.now
      if (clock.settled > since) {
        await countEnded(db, metrics, [since, clock.settled])
        since = clock.settled
      }
      metrics.databaseUp.set(1)
    } catch (error) {
      metrics.databaseUp.set(0)
      log.warn({ reason: (error as Error).message }, 'metrics could not be read')
    } finally {
      freshUntil = performance.now() + freshMs
      reading = undefined
    }
  }

  // What ends before the first scrape counts too.
  reading = read()
}

type Metrics = ReturnType<typeof createMetrics>

function createMetrics(registry: Registry, collect: () => Promise<void>) {
  const own = { registers: [registry], collect }
  const gauge = (name: string, help: string, labelNames: string[] = []) => new Gauge({ ...own, name, help, labelNames })
  const counter = (name: string, help: string, labelNames: string[] = []) =>
    new Counter({ ...own, name, help, labelNames })
  const seconds = (name: string, help: string, buckets: number[]) => new Histogram({ ...own, name, help, buckets })
  const account = ['provider', 'account']
  return {
    databaseUp: gauge('genmux_database_up', '1 while the database can be read; 0: all below is old.'),
    connections: gauge('genmux_database_connections', 'Connections of this process, and who waits for one.', ['state']),
    active: gauge('genmux_orders_active', 'Orders that are not over, by status.', ['status']),
    due: gauge('genmux_orders_due', 'Orders that a worker should be looking at.'),
    oldest: gauge('genmux_orders_oldest_due_seconds', 'For how long the oldest of them has been waiting for a worker.'),
    callbacks: gauge('genmux_callbacks_due', 'Ended orders whose callback_url should be told now.'),
    available: gauge('genmux_available_usd', 'What all customers can spend.'),
    held: gauge('genmux_held_usd', 'What is held for active orders.'),
    inFlight: gauge('genmux_attempts_in_flight', 'Attempts that an upstream has, or may have.', account),
    pollsDue: gauge('genmux_polls_due', 'Attempts whose poll is due.', account),
    pollLag: gauge('genmux_poll_lag_seconds', 'How late the most overdue poll is.', account),
    budget: gauge('genmux_budget_left_requests', 'Requests left in this minute.', [...account, 'window']),
    budgetLimit: gauge('genmux_budget_limit_requests', 'Requests per minute.', [...account, 'window']),
    breaker: gauge('genmux_breaker_open', '1 while the account gets no new orders but probes.', account),
    ended: counter('genmux_orders_ended_total', 'Orders that ended, by status and error code.', ['status', 'error']),
    captured: counter('genmux_captured_usd_total', 'What customers paid: holds of completed orders.'),
    released: counter('genmux_released_usd_total', 'What customers got back: holds of failed and cancelled orders.'),
    attempts: counter('genmux_attempts_total', 'Attempts of ended orders.', [...account, 'state', 'fault']),
    upstreamCost: counter('genmux_upstream_cost_usd_total', 'What upstreams took for ended orders.', account),
    start: seconds('genmux_order_start_seconds', 'From POST /orders to an upstream’s acceptance.', START_SECONDS),
    make: seconds('genmux_order_make_seconds', 'From acceptance to the completed order.', MAKE_SECONDS),
  }
}

async function readState({ db, catalog, budgets, breaker }: MetricsDeps, metrics: Metrics): Promise<void> {
  const { totalCount, idleCount, waitingCount } = db.pool
  metrics.connections.set({ state: 'busy' }, totalCount - idleCount)
  metrics.connections.set({ state: 'idle' }, idleCount)
  metrics.connections.set({ state: 'wanted' }, waitingCount)

  const [customers] = await db.run<{ available: number; held: number; active: number }>(CUSTOMERS, [])
  const [queue] = await db.run<{ queued: number; due: number; oldest: number; callbacks: number }>(QUEUE, [])
  if (!customers || !queue) return
  metrics.active.set({ status: 'queued' }, queue.queued)
  metrics.active.set({ status: 'processing' }, Math.max(0, customers.active - queue.queued))
  metrics.due.set(queue.due)
  metrics.oldest.set(queue.oldest)
  metrics.callbacks.set(queue.callbacks)
  metrics.available.set(customers.available / MICROS_PER_USD)
  metrics.held.set(customers.held / MICROS_PER_USD)

  const inFlight = await db.run<OfAccount & { attempts: number }>(IN_FLIGHT, [])
  const polls = await db.run<OfAccount & { due: number; lag: number }>(POLLS, [])
  const troubles = await breaker.list()
  const accounts = [...catalog.providers.values()].flatMap(provider => provider.accounts)
  for (const account of accounts.filter(account => account.configured)) {
    const labels = { provider: account.provider, account: account.id }
    const is = (row: OfAccount) => row.provider === account.provider && row.account === account.id
    const poll = polls.find(is)
    const trouble = troubles.find(is)
    metrics.inFlight.set(labels, inFlight.find(is)?.attempts ?? 0)
    metrics.pollsDue.set(labels, poll?.due ?? 0)
    metrics.pollLag.set(labels, poll?.lag ?? 0)
    metrics.breaker.set(labels, trouble && trouble.state !== 'closed' ? 1 : 0)
    for (const { window, limit, left, blockedMs } of await budgets.left(account)) {
      metrics.budget.set({ ...labels, window }, blockedMs > 0 ? 0 : left)
      metrics.budgetLimit.set({ ...labels, window }, limit)
    }
  }
}

/** Counts what ended in a window of time, which no other call counts. */
async function countEnded(db: Db, metrics: Metrics, window: [Date, Date]): Promise<void> {
  const orders = await db.run<{ status: string; error: string; orders: number; cost: number }>(ORDERS, window)
  const attempts = await db.run<OfAccount & { state: string; fault: string; attempts: number; cost: number }>(
    ATTEMPTS,
    window,
  )
  const times = await db.run<{ stage: 'start' | 'make'; orders: number; mean: number }>(TIMES, [
    ...window,
    START_SECONDS,
    MAKE_SECONDS,
  ])
  for (const { status, error, orders: count, cost } of orders) {
    metrics.ended.inc({ status, error }, count)
    metrics[status === 'completed' ? 'captured' : 'released'].inc(cost / MICROS_PER_USD)
  }
  for (const { provider, account, state, fault, attempts: count, cost } of attempts) {
    metrics.attempts.inc({ provider, account, state, fault }, count)
    metrics.upstreamCost.inc({ provider, account }, cost / MICROS_PER_USD)
  }
  for (const { stage, orders: count, mean } of times) for (let i = 0; i < count; i++) metrics[stage].observe(mean)
}
