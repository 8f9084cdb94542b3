import type { Db } from '../db/pool.ts'
import type { Account, Fault } from '../providers/provider.ts'

/*
 * Keeps orders away from an upstream account that is in trouble. Shared by all processes through Postgres.
 *
 *   closed ──▶ open        5 counted failures in a row (30 s), or trouble that the next request meets too (60 s)
 *   open ──▶ half open     when that time is over
 *   half open ──▶ open     one caller, in whatever process, gets the probe; the others wait 30 s for what comes of it
 *   open ──▶ closed        something that began after the probe was let through succeeded
 *
 * What began before the probe proves nothing: a success then is stale, and a failure is what opened the breaker. A row stands
 * only while there is trouble: closing deletes it.
 */

type Named = Pick<Account, 'provider' | 'id'>

export interface Trouble {
  readonly provider: string
  readonly account: string
  /** `closed` with failures counted, but too few. */
  readonly state: 'closed' | 'open' | 'half_open'
  readonly failures: number
  readonly reason: string | null
  readonly openedAt: Date | null
  /** When the next probe is let through. */
  readonly openUntil: Date | null
}

export interface Breaker {
  /** Whether a new task may go to the account. True while half open is the probe, given once: use it. */
  allow(account: Named): Promise<boolean>
  /** The upstream did what was asked. `startedAt`: when the request began, ms since 1970. */
  success(account: Named, startedAt: number): Promise<void>
  /** A failure that counts: five in a row open the breaker. */
  failure(account: Named, reason: Fault): Promise<void>
  /** Opens at once, for `ms` (default 60 s): bad key, no funds, wrong plan. */
  trip(account: Named, reason: Fault, ms?: number): Promise<void>
  /** Every account that has trouble; one that is absent is closed. */
  list(): Promise<Trouble[]>
}

const FAILURES = 5
const OPEN_MS = 30_000
const TRIP_MS = 60_000
/** How long this process believes that a breaker is closed without asking. */
const BELIEVED_MS = 1_000
/** `startedAt` and the database round differently. */
const ROUNDING_MS = 10

const OPEN = `interval '${OPEN_MS} milliseconds'`

// The row's lock lets one caller have the probe: the others find open_until moved on.
const ALLOW = {
  name: 'breaker_allow',
  text: `WITH probe AS (
      UPDATE upstream_accounts SET open_until = clock_timestamp() + ${OPEN}, probe_at = clock_timestamp()
      WHERE provider = $1 AND account = $2 AND open_until <= clock_timestamp() RETURNING true),
    closed AS (SELECT NOT EXISTS (
      SELECT FROM upstream_accounts WHERE provider = $1 AND account = $2 AND open_until IS NOT NULL) AS closed)
    SELECT closed, closed OR EXISTS (SELECT FROM probe) AS allowed FROM closed`,
}
const SUCCESS = {
  name: 'breaker_success',
  text: `DELETE FROM upstream_accounts WHERE provider = $1 AND account = $2
    AND (open_until IS NULL OR probe_at <= clock_timestamp() - $3::float8 * interval '1 millisecond')`,
}
const FAILURE = {
  name: 'breaker_failure',
  text: `INSERT INTO upstream_accounts AS a (provider, account, failures) VALUES ($1, $2, 1)
    ON CONFLICT (provider, account) DO UPDATE SET failures = a.failures + 1, probe_at = NULL,
      opened_at = CASE WHEN a.failures + 1 >= ${FAILURES} THEN coalesce(a.opened_at, clock_timestamp()) END,
      open_until = CASE WHEN a.failures + 1 >= ${FAILURES} THEN clock_timestamp() + ${OPEN} END,
      open_reason = CASE WHEN a.failures + 1 >= ${FAILURES} THEN $3 END
    WHERE a.open_until IS NULL OR a.probe_at IS NOT NULL`,
}
const TRIP = {
  name: 'breaker_trip',
  text: `INSERT INTO upstream_accounts AS a (provider, account, failures, opened_at, open_until, open_reason)
    VALUES ($1, $2, ${FAILURES}, clock_timestamp(), clock_timestamp() + $4::float8 * interval '1 millisecond', $3)
    ON CONFLICT (provider, account) DO UPDATE SET failures = greatest(a.failures, ${FAILURES}), probe_at = NULL,
      opened_at = coalesce(a.opened_at, EXCLUDED.opened_at), open_reason = EXCLUDED.open_reason,
      open_until = greatest(a.open_until, EXCLUDED.open_until)`,
}
const LIST = {
  name: 'breaker_list',
  text: `SELECT provider, account, failures, open_reason AS reason, opened_at AS "openedAt", open_until AS "openUntil",
      CASE WHEN open_until IS NULL THEN 'closed' WHEN open_until > clock_timestamp() THEN 'open' ELSE 'half_open' END AS state
    FROM upstream_accounts ORDER BY provider, account`,
}

export function createBreaker(db: Db): Breaker {
  /** Accounts whose breaker was closed when last asked, with until when that is believed, by `performance.now()`. */
  const closed = new Map<string, number>()
  const key = (account: Named) => JSON.stringify([account.provider, account.id])

  return {
    async allow(account) {
      if ((closed.get(key(account)) ?? 0) > performance.now()) return true
      const [row] = await db.run<{ closed: boolean; allowed: boolean }>(ALLOW, [account.provider, account.id])
      if (row?.closed) closed.set(key(account), performance.now() + BELIEVED_MS)
      return row?.allowed ?? false
    },
    async success(account, startedAt) {
      const age = Math.max(0, Date.now() - startedAt - ROUNDING_MS)
      await db.run(SUCCESS, [account.provider, account.id, age])
    },
    async failure(account, reason) {
      await db.run(FAILURE, [account.provider, account.id, reason])
      closed.delete(key(account))
    },
    async trip(account, reason, ms = TRIP_MS) {
      await db.run(TRIP, [account.provider, account.id, reason, ms])
      closed.delete(key(account))
    },
    list: () => db.run<Trouble & Record<string, unknown>>(LIST, []),
  }
}
