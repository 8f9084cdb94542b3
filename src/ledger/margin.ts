import type { Db } from '../db/pool.ts'
import type { Micros } from '../money.ts'

export type MarginGroup = 'model' | 'provider' | 'customer' | 'day'

export interface MarginRow {
  /** Id of the model, provider or customer, or the day (UTC, `2026-11-20`). */
  readonly key: string
  /** Orders paid for. */
  readonly orders: number
  readonly revenue: Micros
  /** Of the attempts that delivered. */
  readonly upstreamCost: Micros
  /** Of the others: what an upstream charged, or may have charged where its fate is unknown. */
  readonly failedCost: Micros
}

// Revenue of a provider is that of the orders it delivered.
const KEYS: Record<MarginGroup, { revenue: string; cost: string }> = {
  model: { revenue: 'o.model_id::text', cost: 'o.model_id::text' },
  provider: { revenue: "coalesce(made.provider, '')", cost: 'a.provider' },
  customer: { revenue: 'o.customer_id', cost: 'o.customer_id' },
  day: {
    revenue: "to_char(t.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    cost: "to_char(a.finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
  },
}

/**
 * What orders brought and what they cost, from captures and ended attempts of that time (`until` exclusive). The cost of an
 * attempt is what the upstream reported, else what the route's formula gave if it delivered or may have.
 */
export async function marginReport(
  db: Db,
  wanted: { from: Date; until: Date; groupBy: MarginGroup },
): Promise<MarginRow[]> {
  const key = KEYS[wanted.groupBy]
  const text = `
    WITH revenue AS (
      SELECT ${key.revenue} AS key, count(*)::int AS orders, sum(t.amount)::bigint AS revenue
      FROM transfers t JOIN orders o ON o.id = t.order_id
        LEFT JOIN attempts made ON made.order_id = o.id AND made.state = 'succeeded'
      WHERE t.kind = 'capture' AND t.created_at >= $1 AND t.created_at < $2 GROUP BY 1
    ), cost AS (
      SELECT ${key.cost} AS key,
        sum(coalesce(a.cost, a.expected_cost)) FILTER (WHERE a.state = 'succeeded')::bigint AS made,
        sum(coalesce(a.cost, CASE WHEN a.state IN ('abandoned', 'late') THEN a.expected_cost END))
          FILTER (WHERE a.state <> 'succeeded')::bigint AS failed
      FROM attempts a JOIN orders o ON o.id = a.order_id
      WHERE a.finished_at >= $1 AND a.finished_at < $2 GROUP BY 1
    )
    SELECT key, coalesce(orders, 0) AS orders, coalesce(revenue, 0) AS revenue, coalesce(made, 0) AS upstream_cost,
      coalesce(failed, 0) AS failed_cost
    FROM revenue FULL JOIN cost USING (key) ORDER BY revenue DESC, key`
  const rows = await db.run<{
    key: string
    orders: number
    revenue: bigint
    upstream_cost: bigint
    failed_cost: bigint
  }>({ name: `margin_by_${wanted.groupBy}`, text }, [wanted.from, wanted.until])
  return rows.map(row => ({
    key: row.key,
    orders: row.orders,
    revenue: row.revenue,
    upstreamCost: row.upstream_cost,
    failedCost: row.failed_cost,
  }))
}
