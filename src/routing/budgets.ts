import type { Db } from '../db/pool.ts'
import type { Account, Bucket, Limits } from '../providers/provider.ts'

/*
 * Documented limits of an upstream account, shared by all processes through Postgres and its clock.
 *
 * A *window* is one limiter: a name and how many requests it lets through in any 60 s. It is counted in slices of two
 * seconds, and a request counts from when it was granted until 62 s after the end of its slice. So whatever 60 s the
 * upstream looks at, fixed or sliding, it sees no more than the limit, also when a request is two seconds on its way.
 *
 * `requests_per_minute` is one limiter for everything. It is split for good: reads (polls and downloads) get 60 %, submits and
 * uploads the rest. Were it one pot, continuous submits would leave nothing to read their results with, or polls nothing to
 * submit with, and either would wait for the other until the deadline.
 */

type Metered = Pick<Account, 'provider' | 'id'> & { readonly limits: Limits }

export type Taken = { readonly granted: true } | { readonly granted: false; readonly retryAfterMs: number }

export interface WindowLeft {
  /** `submit`, `read` or `upload` by a limit of its own; `all:read` and `all:rest` are the shares of `requests_per_minute`. */
  readonly window: string
  readonly limit: number
  readonly left: number
  /** How long the upstream's own refusal still holds, ms; 0: it does not. */
  readonly blockedMs: number
}

export interface Budgets {
  /**
   * Takes one request's worth. A bucket that is limited by two windows takes from both; when the second refuses, the first
   * has counted one too many, never one too few.
   */
  take(account: Metered, bucket: Bucket): Promise<Taken>
  /** How many requests could be taken now; Infinity where there is no limit. */
  available(account: Metered, bucket: Bucket): Promise<number>
  /**
   * How many requests could be taken now, and how long to rest after each, so that requests which come without end spread over
   * the minute and leave about a third of it to others. The fuller the window, the longer the rest; none while it is empty.
   */
  pace(account: Metered, bucket: Bucket): Promise<{ readonly left: number; readonly restMs: number }>
  /** The upstream said 429: nothing is granted for `ms`. Without a limit only this process heeds it. */
  block(account: Metered, bucket: Bucket, ms: number): Promise<void>
  /** Every window of the account, for operators. */
  left(account: Metered): Promise<WindowLeft[]>
  /** Attempts that the upstream has, or may have. */
  inFlight(account: Pick<Account, 'provider' | 'id'>): Promise<number>
}

const SLICE_MS = 2_000
/** The slice of the request, 60 s, and one slice for what is on its way. */
const SLICES = 32
const READ_SHARE = 0.6
const BUCKETS: readonly Bucket[] = ['submit', 'read', 'upload']

// counts[1] belongs to slice number `slice`, counts[2] to the one before, and so on.
const NOW = `floor(extract(epoch FROM clock_timestamp()) * 1000 / ${SLICE_MS})::bigint`
const ROW = `b.counts, b.slice::float8, (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS now,
  greatest(0, extract(epoch FROM b.blocked_until - clock_timestamp()) * 1000)::float8 AS blocked_ms`

// The row's lock decides, and a clock that was set back never reopens a window. A refusal writes nothing; the row as it
// stood when the statement began then tells how long to wait.
const TAKE = {
  name: 'take_budget',
  text: `WITH taken AS (
      INSERT INTO upstream_budgets AS b (provider, account, bucket, slice, counts)
      SELECT $1, $2, $3, ${NOW}, '{1}' WHERE $4::integer > 0
      ON CONFLICT (provider, account, bucket) DO UPDATE SET (slice, counts) = (
        SELECT n.slice, ARRAY[coalesce(m.counts[1], 0) + 1] || m.counts[2:${SLICES}]
        FROM (SELECT greatest(b.slice, ${NOW}) AS slice) n,
          LATERAL (SELECT array_fill(0, ARRAY[least(${SLICES}, n.slice - b.slice)::integer]) || b.counts AS counts) m)
      WHERE (b.blocked_until > clock_timestamp()) IS NOT TRUE AND $4 >
        (SELECT coalesce(sum(c), 0) FROM unnest(b.counts[1 : ${SLICES} - greatest(0, ${NOW} - b.slice)]) c)
      RETURNING true)
    SELECT EXISTS (SELECT FROM taken) AS granted, ${ROW} FROM (SELECT) always
    LEFT JOIN upstream_budgets b ON b.provider = $1 AND b.account = $2 AND b.bucket = $3`,
}
const READ = {
  name: 'read_budgets',
  text: `SELECT b.bucket, ${ROW} FROM upstream_budgets b WHERE provider = $1 AND account = $2`,
}
const BLOCK = {
  name: 'block_budget',
  text: `INSERT INTO upstream_budgets AS b (provider, account, bucket, slice, counts, blocked_until)
    VALUES ($1, $2, $3, ${NOW}, '{}', clock_timestamp() + $4::float8 * interval '1 millisecond')
    ON CONFLICT (provider, account, bucket) DO UPDATE SET blocked_until = greatest(b.blocked_until, EXCLUDED.blocked_until)`,
}
const IN_FLIGHT = {
  name: 'attempts_in_flight',
  text: `SELECT count(*)::integer AS count FROM attempts
    WHERE provider = $1 AND account = $2 AND state IN ('preparing', 'submitting', 'unclear', 'accepted')`,
}

interface Row {
  readonly counts: number[] | null
  readonly slice: number | null
  /** The database's clock, ms. */
  readonly now: number
  readonly blocked_ms: number | null
}

interface Window {
  readonly name: string
  readonly limit: number
}

export function createBudgets(db: Db): Budgets {
  /** When requests without a limit may go on after a 429, by `performance.now()`. */
  const refused = new Map<string, number>()
  const key = (account: Metered, bucket: Bucket) => JSON.stringify([account.provider, account.id, bucket])
  const refusedMs = (account: Metered, bucket: Bucket) =>
    Math.max(0, (refused.get(key(account, bucket)) ?? 0) - performance.now())

  const left = async (account: Metered, windows: readonly Window[]): Promise<WindowLeft[]> => {
    const rows = await db.run<Row & { bucket: string }>(READ, [account.provider, account.id])
    return windows.map(({ name, limit }) => {
      const row = rows.find(r => r.bucket === name)
      const used = row ? sum(counted(row)) : 0
      return { window: name, limit, left: Math.max(0, limit - used), blockedMs: row?.blocked_ms ?? 0 }
    })
  }

  return {
    async take(account, bucket) {
      const windows = windowsOf(account.limits, bucket)
      for (const window of windows) {
        const values = [account.provider, account.id, window.name, window.limit]
        const [row] = await db.run<Row & { granted: boolean }>(TAKE, values)
        if (!row?.granted) return { granted: false, retryAfterMs: row ? waitMs(row, window.limit) : SLICE_MS }
      }
      const retryAfterMs = windows.length === 0 ? refusedMs(account, bucket) : 0
      return retryAfterMs > 0 ? { granted: false, retryAfterMs } : { granted: true }
    },

    async available(account, bucket) {
      const windows = windowsOf(account.limits, bucket)
      if (windows.length === 0) return refusedMs(account, bucket) > 0 ? 0 : Number.POSITIVE_INFINITY
      const all = await left(account, windows)
      return Math.min(...all.map(leftNow))
    },

    async pace(account, bucket) {
      const windows = windowsOf(account.limits, bucket)
      if (windows.length === 0)
        return { left: refusedMs(account, bucket) > 0 ? 0 : Number.POSITIVE_INFINITY, restMs: 0 }
      const all = await left(account, windows)
      const rests = all.map(window => (60_000 / window.limit) * 2 * (1 - window.left / window.limit))
      return { left: Math.min(...all.map(leftNow)), restMs: Math.max(...rests) }
    },

    async block(account, bucket, ms) {
      const windows = windowsOf(account.limits, bucket)
      if (windows.length === 0) refused.set(key(account, bucket), performance.now() + ms)
      for (const window of windows) await db.run(BLOCK, [account.provider, account.id, window.name, ms])
    },

    left(account) {
      const windows = BUCKETS.flatMap(bucket => windowsOf(account.limits, bucket))
      return left(account, [...new Map(windows.map(window => [window.name, window])).values()])
    },

    async inFlight(account) {
      const [row] = await db.run<{ count: number }>(IN_FLIGHT, [account.provider, account.id])
      return row?.count ?? 0
    },
  }
}

function leftNow(window: WindowLeft): number {
  return window.blockedMs > 0 ? 0 : window.left
}

function windowsOf(limits: Limits, bucket: Bucket): Window[] {
  const own = limits[`${bucket}s_per_minute`]
  const all = limits.requests_per_minute
  return [
    ...(own === undefined ? [] : [{ name: bucket, limit: own }]),
    ...(all === undefined ? [] : [shareOf(all, bucket)]),
  ]
}

function shareOf(all: number, bucket: Bucket): Window {
  // One request per minute cannot be split.
  if (all < 2) return { name: 'all', limit: all }
  const reads = Math.floor(all * READ_SHARE)
  return bucket === 'read' ? { name: 'all:read', limit: reads } : { name: 'all:rest', limit: all - reads }
}

/** What still counts, oldest first, with when it stops to, ms of the database's clock. */
function counted(row: Row): { count: number; until: number }[] {
  return (row.counts ?? [])
    .map((count, i) => ({ count, until: ((row.slice ?? 0) - i + SLICES) * SLICE_MS }))
    .filter(slice => slice.until > row.now)
    .reverse()
}

function sum(slices: readonly { count: number }[]): number {
  return slices.reduce((total, slice) => total + slice.count, 0)
}

/** When the next request can be granted, if nobody else takes it: after a block, and when enough has stopped counting. */
function waitMs(row: Row, limit: number): number {
  const slices = counted(row)
  let used = sum(slices)
  let free = row.now
  for (const slice of slices) {
    if (used < limit) break
    used -= slice.count
    free = slice.until
  }
  // The row may be older than the refusal: never zero.
  return Math.ceil(Math.max(100, free - row.now, row.blocked_ms ?? 0))
}
