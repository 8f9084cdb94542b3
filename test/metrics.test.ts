import { join } from 'node:path'
import { expect, test } from 'vitest'
import { addMetrics } from '../src/metrics.ts'
import { freshFolder, startGenmux, until } from './process.ts'
import { build, type TestServer } from './server.ts'

const CATALOG = `
providers:
  - { id: sandbox, kind: sandbox }
  - id: limited
    kind: apixo
    base_url: http://127.0.0.1:9
    accounts: [{ id: main, api_key: '\${LIMITED_KEY}', limits: { submits_per_minute: 60 } }]
models:
  - id: 20
    name: Picture
    type: image
    price_usd: "0.05"
    routes: [{ provider: sandbox, model: picture, input: '{ "prompt": prompt }', cost_usd: "0.01" }]
`

const env = { LIMITED_KEY: 'secret' }
const working = await build({ catalog: CATALOG, env, loops: true })
const idle = await build({ catalog: CATALOG, env })
for (const { app } of [working, idle]) addMetrics({ ...app, registry: app.metrics }, { freshMs: 0, settledMs: 0 })
const { app, customer } = working
const scrape = () => metricsOf(working)

/** Every sample by its name and labels, as Prometheus reads them. */
async function metricsOf(server: TestServer): Promise<Record<string, number>> {
  const { text } = await server.call('GET', '/metrics')
  return Object.fromEntries(
    text
      .split('\n')
      .filter(line => line !== '' && !line.startsWith('#'))
      .map(line => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]),
  )
}

async function order(prompt: string): Promise<string> {
  const { body } = await customer.post('/orders', { model_id: 20, prompt })
  return body.order.id
}

const ended = (id: string) =>
  until(
    async () => (await customer.get(`/orders/${id}`)).body.order.status,
    status => status === 'completed' || status === 'failed',
  )

test('orders, money and attempts move with what happens', async () => {
  const before = await scrape()
  expect(before).toMatchObject({
    genmux_database_up: 1,
    'genmux_orders_active{status="queued"}': 0,
    genmux_available_usd: 100,
    genmux_held_usd: 0,
    genmux_captured_usd_total: 0,
  })

  await ended(await order('a lighthouse'))
  await ended(await order('sandbox:reject'))
  await order('sandbox:slow')
  const after = await until(scrape, samples => samples['genmux_orders_active{status="processing"}'] === 1)
  expect(after).toMatchObject({
    'genmux_orders_active{status="queued"}': 0,
    genmux_available_usd: 99.9,
    genmux_held_usd: 0.05,
    genmux_captured_usd_total: 0.05,
    genmux_released_usd_total: 0.05,
    'genmux_orders_ended_total{status="completed",error=""}': 1,
    'genmux_orders_ended_total{status="failed",error="content_rejected"}': 1,
    'genmux_attempts_total{provider="sandbox",account="local",state="succeeded",fault=""}': 1,
    'genmux_attempts_total{provider="sandbox",account="local",state="failed",fault="content_rejected"}': 1,
    'genmux_upstream_cost_usd_total{provider="sandbox",account="local"}': 0.01,
    'genmux_attempts_in_flight{provider="sandbox",account="local"}': 1,
    genmux_order_start_seconds_count: 2,
    genmux_order_make_seconds_count: 1,
    'genmux_order_make_seconds_bucket{le="+Inf"}': 1,
  })
  expect(after.genmux_order_make_seconds_sum).toBeGreaterThan(0.2)
  expect(await scrape()).toMatchObject({ genmux_captured_usd_total: 0.05, genmux_order_start_seconds_count: 2 })
})

test('what waits for a worker or a poll is counted, with its age', async () => {
  expect(await metricsOf(idle)).toMatchObject({ genmux_orders_due: 0, genmux_orders_oldest_due_seconds: 0 })
  const { body } = await idle.customer.post('/orders', { model_id: 20, prompt: 'a lighthouse' })
  const { id } = body.order
  await idle.db.pool.query(`UPDATE orders SET wake_at = now() - interval '60 seconds' WHERE id = $1`, [id])
  await idle.db.pool.query(
    `INSERT INTO attempts (id, order_id, n, provider, account, upstream_model, state, input, idempotency_key, nonce,
       expected_cost, deadline_at, next_poll_at)
     VALUES ('att_1', $1, 1, 'limited', 'main', 'm', 'accepted', '{}', 'k', 1, 0, now(), now() - interval '30 seconds')`,
    [id],
  )
  const waiting = await metricsOf(idle)
  const labels = 'provider="limited",account="main"'
  expect(waiting).toMatchObject({
    'genmux_orders_active{status="queued"}': 1,
    genmux_orders_due: 1,
    [`genmux_polls_due{${labels}}`]: 1,
  })
  expect(waiting.genmux_orders_oldest_due_seconds).toBeGreaterThanOrEqual(60)
  expect(waiting[`genmux_poll_lag_seconds{${labels}}`]).toBeGreaterThanOrEqual(30)
})

test('budgets and breakers are told by account', async () => {
  const limited = app.catalog.providers.get('limited')?.accounts[0]
  if (!limited) throw new Error('the account is missing')
  const labels = 'provider="limited",account="main"'
  expect(await scrape()).toMatchObject({
    [`genmux_budget_left_requests{${labels},window="submit"}`]: 60,
    [`genmux_budget_limit_requests{${labels},window="submit"}`]: 60,
    [`genmux_breaker_open{${labels}}`]: 0,
  })
  await app.budgets.take(limited, 'submit')
  await app.breaker.trip(limited, 'account_auth')
  expect(await scrape()).toMatchObject({
    [`genmux_budget_left_requests{${labels},window="submit"}`]: 59,
    [`genmux_breaker_open{${labels}}`]: 1,
  })
})

test('a started server shows them', async () => {
  const { origin, signal } = await startGenmux({ DATA_DIR: join(freshFolder(), 'data') })
  const text = await (await fetch(`${origin}/metrics`)).text()
  expect(text).toContain('genmux_database_up 1')
  expect(text).toContain('genmux_poll_lag_seconds{provider="sandbox",account="local"} 0')
  expect(text).toContain('genmux_orders_due 0')
  expect(text).toContain('process_cpu_seconds_total')
  await signal('SIGTERM')
})
