import { randomUUID } from 'node:crypto'
import pg from 'pg'

/*
 * The references that speak to Postgres directly, a process of its own: what one would write with `pg` and prepared
 * statements, one transaction per order, as pgbench does it.
 */

export interface Direct {
  readonly kind: 'statements' | 'function' | 'lifecycle'
  readonly customerId: string
  readonly connections: number
  readonly seconds: number
}

const statement = (name: string, text: string) => ({ name, text })
const BEGIN = statement('begin', 'BEGIN')
const COMMIT = statement('commit', 'COMMIT')
const HOLD = statement(
  'hold',
  `UPDATE customers SET available = available - $2, held = held + $2, active_orders = active_orders + 1
   WHERE id = $1 AND available >= $2 AND active_orders < max_active_orders RETURNING available, held`,
)
const ORDER = statement(
  'order',
  `INSERT INTO orders (id, customer_id, api_key_id, model_id, cost, input, deadline_at, wake_at)
   VALUES ($1, $2, 'key', 20, $3, $4, now() + interval '15 minutes', now())`,
)
const KEY = statement(
  'key',
  'INSERT INTO idempotency_keys (scope, key, request_hash, order_id, response) VALUES ($1, $2, $3, $4, $5)',
)
const TRANSFER = statement(
  'transfer',
  `INSERT INTO transfers (kind, customer_id, order_id, amount, available_after, held_after)
   VALUES ('hold', $1, $2, $3, $4, $5) RETURNING id`,
)
const POSTINGS = statement(
  'postings',
  `INSERT INTO postings (transfer_id, account, customer_id, amount)
   VALUES ($1, 'available', $2, -$3::bigint), ($1, 'held', $2, $3::bigint)`,
)
const PLACE = statement('place', 'SELECT n, outcome, response FROM place_orders($1::jsonb)')

const COST = 50_000
const INPUT = '{"prompt":"a lighthouse at dusk","media":{},"options":{"aspect_ratio":"16:9"}}'
const HASH = Buffer.alloc(32, 7)

function answer(id: string): string {
  const order = { id, model_id: 20, status: 'queued', cost_usd: '0.05', result: [], expires_at: null, error: null }
  return JSON.stringify({ success: true, order })
}

async function placeByStatements(client: pg.Client, customer: string): Promise<void> {
  const id = `ord_${randomUUID().replaceAll('-', '').slice(0, 22)}`
  const run = (what: { name: string; text: string }, values: unknown[] = []) => client.query({ ...what, values })
  await run(BEGIN)
  const { rows } = await run(HOLD, [customer, COST])
  await run(ORDER, [id, customer, COST, INPUT])
  await run(KEY, ['key', randomUUID(), HASH, id, answer(id)])
  const transfer = await run(TRANSFER, [customer, id, COST, rows[0].available, rows[0].held])
  await run(POSTINGS, [transfer.rows[0].id, customer, COST])
  await run(COMMIT)
}

async function placeByFunction(client: pg.Client, customer: string): Promise<string> {
  const id = `ord_${randomUUID().replaceAll('-', '').slice(0, 22)}`
  const order = {
    n: 0,
    id,
    customer_id: customer,
    api_key_id: 'key',
    model_id: 20,
    cost: COST,
    input: INPUT,
    wait_ms: 900_000,
    key: randomUUID(),
    hash: HASH.toString('hex'),
    response: answer(id),
    uploads: [],
  }
  await client.query({ ...PLACE, values: [JSON.stringify([order])] })
  return id
}

const CLAIM = statement(
  'claim',
  `UPDATE orders SET wake_at = now() + interval '20 seconds', fence = fence + 1 WHERE id = $1 RETURNING fence`,
)
const BEGIN_ATTEMPT = statement(
  'begin_attempt',
  `SELECT begin_attempt($1, $2, $3, 'instant', 'main', '1', 'submitting', $4, $3, 7, NULL, 10000, 900000, NULL)`,
)
const ACCEPT = statement(
  'accept',
  `WITH a AS (UPDATE attempts SET state = 'accepted', ref = $2, accepted_at = now(), next_poll_at = now() WHERE id = $1 RETURNING order_id)
   UPDATE orders SET status = 'processing', started_at = now(), wake_at = NULL FROM a WHERE orders.id = a.order_id`,
)
const POLL = statement('poll', `UPDATE attempts SET next_poll_at = now() + interval '1 second' WHERE id = $1`)
const FINISH = statement(
  'finish',
  `WITH a AS (UPDATE attempts SET state = 'finished', outputs = '[]', next_poll_at = NULL WHERE id = $1 RETURNING order_id)
   UPDATE orders SET wake_at = now() FROM a WHERE orders.id = a.order_id`,
)
const OUTPUT = statement(
  'output',
  `INSERT INTO outputs (token, order_id, position, name, mime_type, size, sha256, expires_at)
   VALUES ($1, $2, 0, $1, 'image/png', 70, $3, now() + interval '15 days')`,
)
const SETTLE = statement('settle', 'SELECT order_id FROM settle_orders($1::jsonb)')

/** What one order writes on its whole way, each write as the engine commits it. */
async function wholeOrder(client: pg.Client, customer: string): Promise<void> {
  const run = (what: { name: string; text: string }, values: unknown[] = []) => client.query({ ...what, values })
  const order = await placeByFunction(client, customer)
  const attempt = `att_${order}`
  const { rows } = await run(CLAIM, [order])
  await run(BEGIN_ATTEMPT, [order, rows[0].fence, attempt, INPUT])
  await run(ACCEPT, [attempt, `task_${order}`])
  await run(POLL, [attempt])
  await run(FINISH, [attempt])
  await run(CLAIM, [order])
  await run(OUTPUT, [`results/${order}`, order, HASH])
  const end = {
    order_id: order,
    fence: null,
    status: 'completed',
    result: ['http://localhost/g/x'],
    expires_at: new Date(Date.now() + 86_400_000),
    attempt_id: attempt,
    attempt_state: 'succeeded',
  }
  await run(SETTLE, [JSON.stringify([end])])
}

async function run(clients: readonly pg.Client[], direct: Direct): Promise<number> {
  const write = { statements: placeByStatements, function: placeByFunction, lifecycle: wholeOrder }[direct.kind]
  const until = performance.now() + direct.seconds * 1_000
  const began = performance.now()
  let orders = 0
  const work = async (client: pg.Client) => {
    while (performance.now() < until) {
      await write(client, direct.customerId)
      orders += 1
    }
  }
  await Promise.all(clients.slice(0, direct.connections).map(work))
  return orders / ((performance.now() - began) / 1_000)
}

const { url, connections } = JSON.parse(process.argv[2] as string) as { url: string; connections: number }
const clients = Array.from({ length: connections }, () => new pg.Client({ connectionString: url }))
await Promise.all(clients.map(client => client.connect()))
process.on('message', (direct: Direct) => void run(clients, direct).then(perSecond => process.send?.({ perSecond })))
process.on('disconnect', () => process.exit(0))
process.send?.('ready')
