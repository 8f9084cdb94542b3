import type { Db } from '../db/pool.ts'

export interface Check {
  /** What must hold, in words. */
  readonly invariant: string
  readonly violations: number
  /** The first few, each naming the row. */
  readonly examples: string[]
}

// Each query finds the rows that break its invariant, as one text `row` apiece.
const INVARIANTS: readonly (readonly [string, string])[] = [
  [
    'a customer has the available and held balance that its postings sum to',
    `SELECT format('%s: available %s, held %s, postings %s and %s', c.id, c.available, c.held, coalesce(p.available, 0), coalesce(p.held, 0)) AS row
     FROM customers c LEFT JOIN (
       SELECT customer_id, sum(amount) FILTER (WHERE account = 'available') AS available,
         sum(amount) FILTER (WHERE account = 'held') AS held
       FROM postings WHERE customer_id IS NOT NULL GROUP BY customer_id) p ON p.customer_id = c.id
     WHERE c.available <> coalesce(p.available, 0) OR c.held <> coalesce(p.held, 0)`,
  ],
  [
    'a customer holds the cost of its active orders, and counts them',
    `SELECT format('%s: held %s for %s orders, active orders cost %s and are %s', c.id, c.held, c.active_orders, coalesce(o.cost, 0), coalesce(o.n, 0)) AS row
     FROM customers c LEFT JOIN (
       SELECT customer_id, sum(cost) AS cost, count(*) AS n FROM orders WHERE status IN ('queued', 'processing') GROUP BY customer_id
     ) o ON o.customer_id = c.id
     WHERE c.held <> coalesce(o.cost, 0) OR c.active_orders <> coalesce(o.n, 0)`,
  ],
  [
    'the postings of a transfer sum to zero',
    `SELECT format('transfer %s: %s', transfer_id, sum(amount)) AS row FROM postings GROUP BY transfer_id HAVING sum(amount) <> 0`,
  ],
  [
    'all postings sum to zero',
    `SELECT format('sum %s', sum(amount)) AS row FROM postings HAVING coalesce(sum(amount), 0) <> 0`,
  ],
  [
    'a transfer has the two postings of its kind, with its amount and customer',
    `SELECT format('transfer %s (%s)', t.id, t.kind) AS row
     FROM transfers t LEFT JOIN postings p ON p.transfer_id = t.id
     GROUP BY t.id
     HAVING string_agg(concat_ws(' ', p.account, p.customer_id, p.amount), ', ' ORDER BY p.account) IS DISTINCT FROM CASE t.kind
       WHEN 'hold' THEN format('available %1$s %2$s, held %1$s %3$s', t.customer_id, -t.amount, t.amount)
       WHEN 'capture' THEN format('held %s %s, revenue %s', t.customer_id, -t.amount, t.amount)
       WHEN 'release' THEN format('available %1$s %2$s, held %1$s %3$s', t.customer_id, t.amount, -t.amount)
       WHEN 'suspense' THEN format('cash %s, suspense %s', -t.amount, t.amount)
       ELSE format('available %s %s, cash %s', t.customer_id, t.amount, -t.amount) END`,
  ],
  [
    'the balances noted in the entries of a customer follow from one another',
    `SELECT format('transfer %s of %s', id, customer_id) AS row FROM (
       SELECT t.*, p.available, p.held,
         lag(available_after, 1, 0::bigint) OVER w AS available_before, lag(held_after, 1, 0::bigint) OVER w AS held_before
       FROM transfers t JOIN (
         SELECT transfer_id, coalesce(sum(amount) FILTER (WHERE account = 'available'), 0) AS available,
           coalesce(sum(amount) FILTER (WHERE account = 'held'), 0) AS held
         FROM postings GROUP BY transfer_id) p ON p.transfer_id = t.id
       WHERE customer_id IS NOT NULL WINDOW w AS (PARTITION BY customer_id ORDER BY id)) chain
     WHERE available_after IS DISTINCT FROM available_before + available OR held_after IS DISTINCT FROM held_before + held`,
  ],
  [
    'an order has exactly one hold, of its cost',
    `SELECT format('%s: %s holds of %s', o.id, count(t.id), coalesce(sum(t.amount), 0)) AS row
     FROM orders o LEFT JOIN transfers t ON t.order_id = o.id AND t.kind = 'hold' AND t.customer_id = o.customer_id
     GROUP BY o.id HAVING count(t.id) <> 1 OR sum(t.amount) <> o.cost`,
  ],
  [
    'an active order is not resolved; a completed one is captured once, a failed or cancelled one released once, at its cost',
    `SELECT format('%s is %s: %s', o.id, o.status, coalesce(string_agg(t.kind || ' ' || t.amount, ', '), 'neither captured nor released')) AS row
     FROM orders o LEFT JOIN transfers t ON t.order_id = o.id AND t.kind IN ('capture', 'release')
     GROUP BY o.id
     HAVING string_agg(t.kind || ' ' || t.customer_id || ' ' || t.amount, ', ') IS DISTINCT FROM CASE
       WHEN o.status = 'completed' THEN format('capture %s %s', o.customer_id, o.cost)
       WHEN o.status IN ('failed', 'cancelled') THEN format('release %s %s', o.customer_id, o.cost) END`,
  ],
  [
    'a capture or release has a hold, and every transfer of an order an order',
    `SELECT format('transfer %s (%s) of %s', t.id, t.kind, t.order_id) AS row FROM transfers t
     WHERE t.order_id IS NOT NULL AND (NOT EXISTS (SELECT FROM orders o WHERE o.id = t.order_id)
       OR t.kind IN ('capture', 'release')
         AND NOT EXISTS (SELECT FROM transfers h WHERE h.order_id = t.order_id AND h.kind = 'hold' AND h.id < t.id))`,
  ],
  [
    'a captured order has stored outputs, and a completed one its result links',
    `SELECT format('%s: %s outputs, %s links', o.id, count(f.token), cardinality(o.result)) AS row
     FROM orders o LEFT JOIN outputs f ON f.order_id = o.id
     WHERE o.status = 'completed' OR EXISTS (SELECT FROM transfers t WHERE t.order_id = o.id AND t.kind = 'capture')
     GROUP BY o.id HAVING count(f.token) = 0 OR cardinality(o.result) = 0`,
  ],
  [
    'suspense is booked for failed orders only',
    `SELECT format('transfer %s of %s, which is %s', t.id, o.id, o.status) AS row
     FROM transfers t JOIN orders o ON o.id = t.order_id WHERE t.kind = 'suspense' AND o.status <> 'failed'`,
  ],
  [
    'an idempotency key points to what it made',
    `SELECT format('%s %s', k.scope, k.key) AS row FROM idempotency_keys k
     WHERE k.order_id IS NOT NULL AND NOT EXISTS (SELECT FROM orders o WHERE o.id = k.order_id)
       OR k.transfer_id IS NOT NULL AND NOT EXISTS (SELECT FROM transfers t WHERE t.id = k.transfer_id)
       OR k.order_id IS NULL AND k.transfer_id IS NULL`,
  ],
  [
    'an order has at most one attempt that succeeded',
    `SELECT format('%s: %s', order_id, count(*)) AS row FROM attempts WHERE state = 'succeeded' GROUP BY order_id HAVING count(*) > 1`,
  ],
]

const LIMIT_MS = 600_000

/** Recomputes every invariant of money in one snapshot, beside running traffic. All `violations` are 0 when it is sound. */
export async function verifyLedger(db: Db): Promise<Check[]> {
  const client = await db.pool.connect()
  try {
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
    await client.query(`SET LOCAL statement_timeout = ${LIMIT_MS}`)
    const checks: Check[] = []
    for (const [invariant, broken] of INVARIANTS) {
      const text = `SELECT count(*)::int AS violations, (array_agg(row))[1:5] AS examples FROM (${broken}) broken`
      const query = { text, query_timeout: LIMIT_MS }
      const { rows } = await client.query<{ violations: number; examples: string[] | null }>(query)
      checks.push({ invariant, violations: rows[0]?.violations ?? 0, examples: rows[0]?.examples ?? [] })
    }
    await client.query('COMMIT')
    client.release()
    return checks
  } catch (error) {
    client.release(true)
    throw error
  }
}
