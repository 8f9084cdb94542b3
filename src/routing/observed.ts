import type { Db } from '../db/pool.ts'

/** How a provider's upstream model did in the last hour. */
export interface Observed {
  /** Share of attempts that succeeded, 0–1. */
  readonly success: number
  /** Mean time from submit to finish of those that succeeded, ms; Infinity when none did. */
  readonly latencyMs: number
}

export interface Observer {
  /** Undefined while fewer than five attempts are known. */
  of(provider: string, upstreamModel: string): Observed | undefined
  refresh(): Promise<void>
}

const RECENT = {
  name: 'observed',
  text: `SELECT provider, upstream_model, count(*)::int AS attempts, count(*) FILTER (WHERE state = 'succeeded')::int AS succeeded,
      extract(epoch FROM avg(finished_at - submitted_at) FILTER (WHERE state = 'succeeded'))::float8 * 1000 AS latency
    FROM (SELECT * FROM attempts ORDER BY seq DESC LIMIT 2000) recent
    WHERE finished_at > now() - interval '1 hour' AND state IN ('succeeded', 'failed', 'abandoned', 'absent')
      AND coalesce(fault, '') NOT IN ('content_rejected', 'invalid_input')
    GROUP BY provider, upstream_model`,
}

const FRESH_MS = 15_000

/** Success and latency by provider and upstream model, read at most every 15 s. */
export function createObserver(db: Db): Observer {
  let known = new Map<string, Observed>()
  let readAt = Number.NEGATIVE_INFINITY
  return {
    of: (provider, upstreamModel) => known.get(`${provider}\n${upstreamModel}`),
    async refresh() {
      if (performance.now() - readAt < FRESH_MS) return
      readAt = performance.now()
      const rows = await db.run<{
        provider: string
        upstream_model: string
        attempts: number
        succeeded: number
        latency: number | null
      }>(RECENT, [])
      known = new Map(
        rows
          .filter(row => row.attempts >= 5)
          .map(row => [
            `${row.provider}\n${row.upstream_model}`,
            { success: row.succeeded / row.attempts, latencyMs: row.latency ?? Number.POSITIVE_INFINITY },
          ]),
      )
    },
  }
}
