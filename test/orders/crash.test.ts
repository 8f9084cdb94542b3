import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, expect, test, vi } from 'vitest'
import { verifyLedger } from '../../src/ledger/verify.ts'
import { freshDatabase } from '../database.ts'
import { call, freshFolder, type GenmuxProcess, makeCustomer, type Reply, startGenmux, until } from '../process.ts'
import { createPluragen } from '../simulators/pluragen.ts'

/*
 * Processes are killed at a named point of an order's way, one after the other, ten times. What they left is found again when
 * its lease ends, by the next one or by the last, which is not killed and brings all to their end: one task at the upstream
 * and one charge for each order. All points run at the same time, each on a database of its own.
 */

const POINTS = [
  'placing',
  'placed-unanswered',
  'attempt-written',
  'submit-sent',
  'accepted-unsaved',
  'accepted-saved',
  'mirrored-unsettled',
]
const KILLS = 10
/** Placed at the same time in each process, so that they share a batch. */
const TOGETHER = 3
/** A dead worker's order resumes within this. */
const RESUME_MS = 30_000
vi.setConfig({ maxConcurrency: POINTS.length })

const catalog = (baseUrl: string, key: string) => `
providers:
  - id: main
    kind: pluragen
    base_url: ${baseUrl}
    accounts: [{ id: main, api_key: ${key} }]
    poll: { first_ms: 50, every_ms: 100, deadline_ms: 600000 }
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
  `processes killed at %s, ${KILLS} times: each order is made once and charged once`,
  { concurrent: true, timeout: 240_000 } as never,
  async (point, i) => {
    const db = databases[i] as (typeof databases)[number]
    const upstream = createPluragen()
    upstream.pluragen.balance = 1_000_000_000n
    // Slow enough that the submit is accepted before it is finished.
    upstream.tasks.plan = { outcome: { state: 'succeeded' }, afterMs: 500 }
    const url = await upstream.start()
    afterAll(() => upstream.stop())
    const folder = freshFolder()
    const file = join(folder, 'catalog.yaml')
    writeFileSync(file, catalog(url, upstream.apiKey))
    const env = { DATABASE_URL: db.url, DATA_DIR: folder, CATALOG_FILE: file }

    const { key, prompts, answered } = await killAt(point, env)
    const left = await db.pool.query(UNWATCHED, [RESUME_MS])
    expect(left.rows).toEqual([])

    const last = await startGenmux(env)
    const startedAt = Date.now()
    const placed = await Promise.all(prompts.map(prompt => place(last.origin, key, prompt)))
    expect(placed.map(({ status }) => status)).toEqual(prompts.map(() => 201))
    await until(
      () => db.prisma.order.count({ where: { status: { in: ['queued', 'processing'] } } }),
      active => active === 0,
      60_000,
    )
    expect(Date.now() - startedAt).toBeLessThan(RESUME_MS)

    for (const [n, prompt] of prompts.entries()) {
      const again = await place(last.origin, key, prompt)
      expect(again.headers.get('idempotent-replayed')).toBe('true')
      expect([placed[n]?.text, answered.get(prompt) ?? again.text]).toEqual([again.text, again.text])
      const order = await call(`${last.origin}/api/v1/orders/${again.json.order.id}`, { token: key })
      expect(order.json.order).toMatchObject({ status: 'completed', cost_usd: '0.06', result: [expect.any(String)] })
    }
    const made = upstream.tasks.all().map(task => (task.input as { prompt: string }).prompt)
    expect(made.sort()).toEqual(prompts.toSorted())
    const ids = placed.map(({ json }) => json.order.id as string)
    const [orders, attempts, captures] = await Promise.all([
      db.prisma.order.findMany(),
      db.prisma.attempt.findMany(),
      db.prisma.transfer.findMany({ where: { kind: 'capture' } }),
    ])
    for (const own of [orders.map(o => o.id), attempts.map(a => a.orderId), captures.map(c => c.orderId)])
      expect([own.length, new Set(own)]).toEqual([ids.length, new Set(ids)])
    const balance = await call(`${last.origin}/api/v1/balance`, { token: key })
    expect(balance.json.balance_usd).toBe(((1_000 - 6 * prompts.length) / 100).toFixed(2))
    expect((await verifyLedger(db)).filter(invariant => invariant.violations > 0)).toEqual([])
    await last.signal('SIGTERM')
  },
)

/** Active orders at which nobody would look soon enough if all processes were gone now. */
const UNWATCHED = `SELECT id FROM orders WHERE status IN ('queued', 'processing')
  AND coalesce(wake_at > now() + $1 * interval '1 millisecond', true)
  AND NOT EXISTS (SELECT FROM attempts WHERE order_id = orders.id AND next_poll_at < now() + $1 * interval '1 millisecond')`

function place(origin: string, key: string, prompt: string): Promise<Reply> {
  const headers = { 'idempotency-key': prompt }
  return call(`${origin}/api/v1/orders`, { token: key, body: { model_id: 20, prompt }, headers })
}

interface Killed {
  /** Of a customer who had $10. */
  readonly key: string
  /** Of all orders that were asked for, each with itself as its Idempotency-Key. */
  readonly prompts: readonly string[]
  /** The answers that came all the same, by prompt. */
  readonly answered: ReadonlyMap<string, string>
}

/** Starts processes that die at the point, one after the other, and gives orders to each. */
async function killAt(point: string, env: Record<string, string>): Promise<Killed> {
  let key: string | undefined
  const prompts: string[] = []
  const answered = new Map<string, string>()
  for (let kills = 0; kills < KILLS; kills++) {
    const doomed = await startDoomed({ ...env, GENMUX_CRASH_AT: point })
    if (!doomed) continue
    const { origin, exited } = doomed
    key ??= (await makeCustomer(origin, '10.00', { max_active_orders: 1_000 })).key
    const send = async (prompt: string, secret: string) => {
      // As a client does: with the same key, until it has an answer or the server is gone.
      const reply = await until(
        () => place(origin, secret, prompt).catch(() => undefined),
        reply => reply === undefined || reply.status === 201,
      )
      if (reply) answered.set(prompt, reply.text)
    }
    const wanted = Array.from({ length: TOGETHER }, (_, n) => `${point}-${prompts.length + n}`)
    prompts.push(...wanted)
    await Promise.all(wanted.map(prompt => send(prompt, key as string)))
    expect(await exited).toBeNull()
  }
  return { key: key as string, prompts, answered }
}

/** Undefined when it died before it could be asked anything: an order that another one left brought it to the point. */
async function startDoomed(env: Record<string, string>): Promise<GenmuxProcess | undefined> {
  try {
    return await startGenmux(env)
  } catch (error) {
    if ((error as Error).message.startsWith('genmux exited with null')) return undefined
    throw error
  }
}
