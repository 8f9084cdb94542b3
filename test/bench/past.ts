import pg from 'pg'

/** Runs statements on a connection of their own. */
export async function withClient<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

const COST = 50_000

/**
 * Gives a customer `count` completed orders as they stand after a real run, each with its attempt, output, idempotency key
 * and ledger entries, so that every invariant of money holds.
 */
export async function addFinishedOrders(url: string, customerId: string, count: number): Promise<void> {
  await withClient(url, async client => {
    await client.query('BEGIN')
    await client.query(`CREATE TEMP TABLE made ON COMMIT DROP AS
      SELECT n, 'ord_past' || lpad(n::text, 14, '0') AS id, now() - (${count} - n) * interval '1 second' AS at
      FROM generate_series(1, ${count}) n`)
    await client.query(
      `INSERT INTO orders (id, customer_id, api_key_id, model_id, status, cost, input, result, expires_at, created_at,
         started_at, finished_at, deadline_at, fence)
       SELECT id, $1, 'key', 20, 'completed', ${COST}, '{"prompt":"a lighthouse at dusk","media":{},"options":{}}',
         ARRAY['http://localhost/g/' || id], now() + interval '15 days', at, at, at + interval '4 seconds', at + interval '15 minutes', 2
       FROM made ORDER BY n`,
      [customerId],
    )
    await client.query(`INSERT INTO attempts (id, order_id, n, provider, account, upstream_model, state, input, idempotency_key,
        nonce, ref, expected_cost, submits, created_at, submitted_at, accepted_at, finished_at, deadline_at)
      SELECT 'att_' || id, id, 1, 'instant', 'main', '1', 'succeeded', '{}', 'gm-' || id, n, 'task_' || n, 10000, 1, at, at, at,
        at + interval '4 seconds', at + interval '15 minutes' FROM made ORDER BY n`)
    await client.query(`INSERT INTO outputs (token, order_id, position, name, mime_type, size, sha256, created_at, expires_at)
      SELECT id, id, 0, 'results/' || id, 'image/png', 70, '\\x00', at, now() + interval '15 days' FROM made ORDER BY n`)
    await client.query(`INSERT INTO idempotency_keys (scope, key, request_hash, order_id, response, created_at)
      SELECT 'key', id, '\\x00', id, '{"success":true}', at FROM made ORDER BY n`)
    await client.query(
      `INSERT INTO transfers (kind, customer_id, order_id, amount, available_after, held_after, created_at)
       SELECT kind::transfer_kind, c.id, made.id, ${COST}, c.available - n::bigint * ${COST}, CASE kind WHEN 'hold' THEN ${COST} ELSE 0 END, at
       FROM made, customers c, (VALUES (1, 'hold'), (2, 'capture')) AS step(place, kind) WHERE c.id = $1 ORDER BY n, place`,
      [customerId],
    )
    await client.query(`INSERT INTO postings (transfer_id, account, customer_id, amount)
      SELECT t.id, p.account::ledger_account, CASE p.account WHEN 'revenue' THEN NULL ELSE t.customer_id END, p.amount
      FROM transfers t JOIN made ON made.id = t.order_id JOIN (VALUES ('hold', 'available', -${COST}), ('hold', 'held', ${COST}),
        ('capture', 'held', -${COST}), ('capture', 'revenue', ${COST})) AS p(kind, account, amount) ON p.kind = t.kind::text`)
    await client.query(`UPDATE customers SET available = available - ${count}::bigint * ${COST} WHERE id = $1`, [
      customerId,
    ])
    await client.query('COMMIT')
    await client.query('VACUUM ANALYZE')
  })
}

/** Gives a customer `count` orders that the upstream is making, their next polls spread over `everyMs`. */
export async function addOrdersInFlight(
  url: string,
  customerId: string,
  count: number,
  everyMs: number,
): Promise<void> {
  await withClient(url, async client => {
    await client.query('BEGIN')
    await client.query(
      `SELECT count(*) FROM place_orders((SELECT jsonb_agg(jsonb_build_object('n', n, 'id', 'ord_flight' || n, 'customer_id', $1::text,
         'api_key_id', 'key', 'model_id', 20, 'cost', ${COST}, 'input', '{"prompt":"a lighthouse at dusk","media":{},"options":{}}',
         'wait_ms', 900000, 'response', '', 'uploads', '[]'::jsonb)) FROM generate_series(1, ${count}) n))`,
      [customerId],
    )
    await client.query(`UPDATE orders SET status = 'processing', started_at = now(), wake_at = NULL, fence = 1
      WHERE id LIKE 'ord_flight%'`)
    await client.query(
      `INSERT INTO attempts (id, order_id, n, provider, account, upstream_model, state, input, idempotency_key, nonce, ref,
         expected_cost, submits, submitted_at, accepted_at, next_poll_at, deadline_at)
       SELECT 'att_' || n, 'ord_flight' || n, 1, 'instant', 'main', '1', 'accepted', '{}', 'gm-' || n, n, 'task_' || n, 10000, 1,
         now(), now(), now() + (n % ${everyMs}) * interval '1 millisecond', now() + interval '15 minutes'
       FROM generate_series(1, ${count}) n`,
    )
    await client.query('COMMIT')
    await client.query('VACUUM ANALYZE')
  })
}
