import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { verifyLedger } from '../../src/ledger/verify.ts'
import { freshDatabase } from '../database.ts'
import { ADMIN_TOKEN, call, freshFolder, makeCustomer, startGenmux, until } from '../process.ts'
import { createPluragen } from '../simulators/pluragen.ts'

/*
 * A process is killed at each named point of an order's way; a second process finds the order when its lease ends and brings
 * it to its end: one task at the upstream, one charge. All points run at the same time, each on a database of its own.
 */

const POINTS = [
  'placed-unanswered',
  'attempt-written',
  'submit-sent',
  'accepted-unsaved',
  'accepted-saved',
  'mirrored-unsettled',
]
/** A dead worker's order resumes within this. */
const RESUME_MS = 30_000

const catalog = (baseUrl: string, key: string) => `
providers:
  - id: main
    kind: pluragen
    base_url: ${baseUrl}
    accounts: [{ id: main, api_key: ${key} }]
    poll: { first_ms: 50, every_ms: 100, deadline_ms: 120000 }
models:
  - id: 20
    name: Nano Banana
    type: image
    price_usd: "0.06"
    prompt: { mode: required }
    routes:
      - { provider: main, model: "20", input: '{ "prompt": prompt }', cost_usd: "0.05" }
`

const databases = await Promise.all(POINTS.map(() => freshDatabase()))

test.each(POINTS.map((point, i) => [point, i] as const))(
  'a process killed at %s: the order is made once and charged once',
  { concurrent: true, timeout: 120_000 } as never,
  async (point, i) => {
    const db = databases[i] as (typeof databases)[number]
    const upstream = createPluragen()
    // Slow enough that the submit is accepted before it is finished.
    upstream.tasks.plan = { outcome: { state: 'succeeded' }, afterMs: 500 }
    const url = await upstream.start()
    afterAll(() => upstream.stop())
    const folder = freshFolder()
    const file = join(folder, 'catalog.yaml')
    writeFileSync(file, catalog(url, upstream.apiKey))
    const env = { DATABASE_URL: db.url, DATA_DIR: folder, CATALOG_FILE: file }

    const first = await startGenmux({ ...env, GENMUX_CRASH_AT: point })
    const customer = await makeCustomer(first.origin, '1.00')
    const order = { model_id: 20, prompt: `killed at ${point}` }
    const headers = { 'idempotency-key': 'only-once' }
    // As a client does: with the same key, until it has an answer or the server is gone.
    const tried = () =>
      call(`${first.origin}/api/v1/orders`, { token: customer.key, body: order, headers }).catch(() => undefined)
    await until(tried, reply => reply === undefined || reply.status === 201)
    await first.exited
    const killedAt = Date.now()

    const second = await startGenmux(env)
    const placed = await call(`${second.origin}/api/v1/orders`, { token: customer.key, body: order, headers })
    expect(placed.status).toBe(201)
    expect(placed.headers.get('idempotent-replayed')).toBe('true')
    const { id } = placed.json.order
    const ended = await until(
      async () => (await call(`${second.origin}/api/v1/orders/${id}`, { token: customer.key })).json.order,
      o => o.status !== 'queued' && o.status !== 'processing',
      60_000,
    )
    expect(ended).toMatchObject({ status: 'completed', cost_usd: '0.06' })
    expect(Date.now() - killedAt).toBeLessThan(RESUME_MS)
    expect(upstream.counts.accepted).toBe(1)
    const balance = await call(`${second.origin}/api/v1/balance`, { token: customer.key })
    expect(balance.json.balance_usd).toBe('0.94')
    expect((await verifyLedger(db)).filter(invariant => invariant.violations > 0)).toEqual([])
    const inside = await call(`${second.origin}/admin/v1/orders/${id}`, { token: ADMIN_TOKEN })
    expect(inside.json.order.attempts).toHaveLength(1)
    await second.signal('SIGTERM')
  },
)
