import { expect, test } from 'vitest'
import { placeOrders, settleOrders } from '../../../src/ledger/ledger.ts'
import { createSwitches } from '../../../src/routing/switches.ts'
import { complete, failed, makeCustomer, placement } from '../../ledger/rows.ts'
import { adminServer } from './server.ts'

const { db, send, app } = await adminServer()

const provider = async (id: string) =>
  (await send('GET', '/providers')).body.providers.find((p: { id: string }) => p.id === id)

/** An ended attempt of an order. */
async function attempt(
  orderId: string,
  n: number,
  provider: string,
  state: string,
  expected: number,
  cost: number | null,
) {
  await db.pool.query(
    `INSERT INTO attempts (id, order_id, n, provider, account, upstream_model, state, input, idempotency_key, nonce, expected_cost, cost,
       deadline_at, finished_at)
     VALUES ($1::text || $2::int, $1, $2, $3, 'main', 'm', $4::text::attempt_state, '{}', 'k', 1, $5, $6, now(), now())`,
    [orderId, n, provider, state, expected, cost],
  )
}

test('providers show their accounts, routes that are off with the reason, budgets and breaker', async () => {
  const account = app.catalog.providers.get('apixo')?.accounts[0]
  if (!account) throw new Error('no account')
  await app.budgets.take(account, 'submit')
  await app.breaker.trip(account, 'account_funds')
  const { status, body } = await send('GET', '/providers')
  expect(status).toBe(200)
  expect(body.providers.map((p: { id: string }) => p.id)).toEqual(['apixo', 'sandbox'])
  const [apixo] = body.providers
  expect(apixo).toMatchObject({
    kind: 'apixo',
    enabled: true,
    routes: 2,
    routes_off: [{ model_id: 20, upstream_model: 'old', reason: 'retired' }],
  })
  expect(apixo.accounts).toMatchObject([
    {
      id: 'main',
      configured: true,
      breaker: { state: 'open', reason: 'account_funds' },
      in_flight: 0,
      in_flight_limit: 10,
      spent_usd: '0.00',
    },
    { id: 'spare', configured: false, breaker: { state: 'closed', failures: 0, reason: null, open_until: null } },
  ])
  expect(apixo.accounts[0].budgets).toContainEqual({ window: 'submit', limit: 60, left: 59, blocked_ms: 0 })
  expect(JSON.stringify(body)).not.toContain('secret-of-apixo')
})

test('a provider is switched off and on for every node', async () => {
  const off = await send('PATCH', '/providers/apixo', { enabled: false })
  expect(off.body.provider).toMatchObject({ id: 'apixo', enabled: false })
  expect(await createSwitches(db).off()).toEqual(new Set(['apixo']))
  expect((await send('PATCH', '/providers/apixo', { enabled: true })).body.provider.enabled).toBe(true)
  expect(await createSwitches(db).off()).toEqual(new Set())
  const { audit } = (await send('GET', '/audit?subject=apixo')).body
  expect(audit.map((line: { detail: unknown }) => line.detail)).toEqual([{ enabled: true }, { enabled: false }])
  expect((await send('PATCH', '/providers/nobody', { enabled: true })).body.error.code).toBe('provider_not_found')
  expect((await send('PATCH', '/providers/apixo', { enabled: 'yes' })).body.error.message).toMatch(/^enabled: /)
})

test('margin: revenue less what delivered and failed attempts cost, grouped four ways', async () => {
  const customer = await makeCustomer(db, 10_000_000n)
  const [one, two, three] = [
    placement(customer, 60_000n, { modelId: 20 }),
    placement(customer, 180_000n, { modelId: 21 }),
    placement(customer, 60_000n, { modelId: 20 }),
  ] as const
  await placeOrders(db, [one, two, three])
  // Failed at apixo, charged all the same; then made by the sandbox at the formula's cost.
  await attempt(one.id, 1, 'apixo', 'failed', 30_000, 5_000)
  await attempt(one.id, 2, 'sandbox', 'succeeded', 10_000, null)
  await complete(db, one.id)
  await attempt(two.id, 1, 'apixo', 'succeeded', 90_000, 100_000)
  await complete(db, two.id)
  // Its fate is unknown: the cost may be lost.
  await attempt(three.id, 1, 'apixo', 'abandoned', 30_000, null)
  await settleOrders(db, [failed(three.id, { suspense: 30_000n })])

  const report = async (query: string) => (await send('GET', `/reports/margin?${query}`)).body.report
  const total = {
    orders: 2,
    revenue_usd: '0.24',
    upstream_cost_usd: '0.11',
    failed_attempts_cost_usd: '0.035',
    margin_usd: '0.095',
  }
  const row = (key: string, orders: number, revenue: string, cost: string, lost: string, margin: string) => ({
    key,
    orders,
    revenue_usd: revenue,
    upstream_cost_usd: cost,
    failed_attempts_cost_usd: lost,
    margin_usd: margin,
  })
  expect(await report('group_by=model')).toMatchObject({
    group_by: 'model',
    rows: [row('21', 1, '0.18', '0.10', '0.00', '0.08'), row('20', 1, '0.06', '0.01', '0.035', '0.015')],
    total,
  })
  expect((await report('group_by=provider')).rows).toEqual([
    row('apixo', 1, '0.18', '0.10', '0.035', '0.045'),
    row('sandbox', 1, '0.06', '0.01', '0.00', '0.05'),
  ])
  expect((await report('group_by=customer')).rows).toEqual([{ key: customer, ...total }])
  const today = new Date().toISOString().slice(0, 10)
  expect(await report(`group_by=day&from=${today}&to=${today}`)).toEqual({
    from: today,
    to: today,
    group_by: 'day',
    rows: [{ key: today, ...total }],
    total,
  })
  expect((await report('from=2020-01-01&to=2020-12-31')).rows).toEqual([])
  expect((await provider('apixo')).accounts[0].spent_usd).toBe('0.135')
})

test.each([
  ['from=yesterday', /^from: /],
  ['to=2026-02-30', /^to: /],
  ['from=2026-02-02&to=2026-02-01', /^from: /],
  ['group_by=colour', /^group_by: /],
])('a report with %s is refused', async (query, message) => {
  const { status, body } = await send('GET', `/reports/margin?${query}`)
  expect(status).toBe(422)
  expect(body.error).toMatchObject({ code: 'validation_error', message: expect.stringMatching(message) })
})
