import { Registry } from 'prom-client'
import { afterAll, expect, test } from 'vitest'
import { buildServer } from '../../src/http/server.ts'
import { ADMIN_TOKEN, build } from '../server.ts'

const { app, call, customer } = await build()
const admin = (method: string, path: string, body?: unknown, headers = {}) =>
  call(method, `/admin/v1${path}`, { key: ADMIN_TOKEN, body, headers })

test.each([
  ['GET', '/customers/%00', 'customer_not_found'],
  ['GET', `/customers/${'x'.repeat(5_000)}`, 'customer_not_found'],
  ['GET', '/customers/cus_%00/ledger', 'customer_not_found'],
  ['GET', '/customers/%00/keys', 'customer_not_found'],
  ['GET', '/orders/a%00b', 'order_not_found'],
  ['DELETE', '/keys/%00', 'key_not_found'],
])('admin: %s %s → 404 %s', async (method, path, code) => {
  const { status, body } = await admin(method, path)
  expect({ status, code: body.error.code }).toEqual({ status: 404, code })
})

test('a NUL in an id that money is sent to, or an order resolved by, is a 404', async () => {
  const topup = await admin('POST', '/customers/%00/topups', { amount_usd: '1' }, { 'idempotency-key': 'nul' })
  expect(topup.body.error.code).toBe('customer_not_found')
  const resolve = await admin('POST', '/orders/%00/resolve', { outcome: 'failed' })
  expect(resolve.body.error.code).toBe('order_not_found')
})

test.each(['/customers?name=%00', '/orders?customer_id=a%00', '/audit?subject=%00'])(
  'a filter with a NUL finds nothing: %s',
  async path => {
    const { status, body } = await admin('GET', path)
    expect(status).toBe(200)
    expect(Object.values(body)).toContainEqual([])
  },
)

test('the JSON body null is data like any other: no order, and other data for a used key', async () => {
  const fresh = await customer.post('/orders', 'null', { 'idempotency-key': 'null-first' })
  expect({ status: fresh.status, code: fresh.body.error.code }).toEqual({ status: 422, code: 'validation_error' })
  const order = await customer.post('/orders', { model_id: 5, prompt: 'x' }, { 'idempotency-key': 'null-first' })
  expect(order.status).toBe(201)
  const again = await customer.post('/orders', 'null', { 'idempotency-key': 'null-first' })
  expect(again.body.error.code).toBe('idempotency_conflict')
  const none = await customer.post('/orders', '', { 'idempotency-key': 'null-first' })
  expect(none.status).toBe(400)
})

test('the document says what an upload takes, and which answers a bad body gets', async () => {
  const { paths } = (await call('GET', '/openapi.json')).body
  const { requestBody } = paths['/api/v1/upload'].post
  expect(requestBody.content['multipart/form-data'].schema).toMatchObject({
    properties: { file: { type: 'string', format: 'binary' } },
    required: ['file'],
  })
  for (const [path, methods] of Object.entries<Record<string, { requestBody?: object; responses: object }>>(paths))
    for (const [method, { requestBody, responses }] of Object.entries(methods))
      if (requestBody)
        expect(Object.keys(responses), `${method} ${path}`).toEqual(expect.arrayContaining(['400', '413']))
  const failed = paths['/api/v1/orders/{id}/cancel'].post.responses['503'].content['application/json'].schema
  expect(failed.properties.order).toBeDefined()
  expect(failed.required).toEqual(['success', 'error'])
})

test('a worker serves its health and metrics, and nothing else', async () => {
  const server = await buildServer({ ...app, config: { ...app.config, role: 'worker' }, metrics: new Registry() })
  afterAll(() => server.close())
  const status = async (url: string) =>
    (await server.inject({ url, headers: { authorization: `Bearer ${customer.key}` } })).statusCode
  for (const path of ['/healthz', '/readyz', '/metrics']) expect(await status(path), path).toBe(200)
  for (const path of ['/api/v1/balance', '/admin/v1/customers', '/docs', '/console', '/g/x'])
    expect(await status(path), path).toBe(404)
})
