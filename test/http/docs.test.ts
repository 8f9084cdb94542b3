import { expect, test } from 'vitest'
import { build } from '../server.ts'

const { call } = await build()
const document = (await call('GET', '/openapi.json')).body
type Operation = { responses: Record<string, object>; security?: object[]; operationId?: string }
const operations = Object.entries(document.paths as Record<string, Record<string, Operation>>).flatMap(
  ([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      name: `${method.toUpperCase()} ${path}`,
      path,
      operation,
    })),
)

test('the document is OpenAPI 3.1 and has every endpoint of the reference', () => {
  expect(document.openapi).toBe('3.1.0')
  expect(operations.map(operation => operation.name)).toEqual(
    expect.arrayContaining([
      'GET /api/v1/balance',
      'GET /api/v1/models',
      'POST /api/v1/upload',
      'GET /api/v1/upload/status',
      'GET /api/v1/upload/preview/{token}',
      'POST /api/v1/orders',
      'GET /api/v1/orders',
      'GET /api/v1/orders/{id}',
      'POST /api/v1/orders/{id}/cancel',
      'POST /api/v1/quote',
      'GET /api/v1/transactions',
      'GET /g/{token}',
    ]),
  )
})

test('every reference in it leads somewhere, and nothing in it is unused', () => {
  const text = JSON.stringify(document)
  const used = new Set([...text.matchAll(/"\$ref":"#\/components\/schemas\/([^"]+)"/g)].map(match => match[1]))
  expect(used).toEqual(new Set(Object.keys(document.components.schemas)))
  expect(used).toContain('Order')
})

test('requests are closed, answers may gain members', () => {
  expect(document.components.schemas.OrderRequestInput.additionalProperties).toBe(false)
  expect(document.components.schemas.Order.additionalProperties).toBeUndefined()
})

test('every operation has a name of its own', () => {
  const names = operations.map(({ operation }) => operation.operationId)
  expect(names).not.toContain(undefined)
  expect(new Set(names).size).toBe(names.length)
  expect(names).toEqual(expect.arrayContaining(['createOrder', 'getOrder', 'getResult', 'getResultHead']))
})

test('the callback that customers get is described', () => {
  const { post } = document.webhooks.orderEnded
  expect(operations.map(({ operation }) => operation.operationId)).not.toContain(post.operationId)
  expect(post.requestBody.content['application/json'].schema.properties.order.$ref).toBe('#/components/schemas/Order')
})

test('an Idempotency-Key is required where money is moved by hand, and optional for an order', () => {
  const header = (path: string) =>
    document.paths[path].post.parameters.find((p: { name: string }) => p.name.toLowerCase() === 'idempotency-key')
  expect(header('/admin/v1/customers/{id}/topups')).toMatchObject({ in: 'header', required: true })
  expect(header('/admin/v1/customers/{id}/adjustments')).toMatchObject({ in: 'header', required: true })
  expect(header('/api/v1/orders')).toMatchObject({ in: 'header', required: false })
})

test('whoever asks for nothing in particular is led to the reference', async () => {
  const answer = await call('GET', '/')
  expect(answer.status).toBe(302)
  expect(new URL(answer.headers.get('location') ?? '', 'http://genmux.example/').pathname).toBe('/docs')
})

test('every operation of customers documents its success and its refusals', () => {
  for (const { name, path, operation } of operations) {
    if (!path.startsWith('/api/v1')) continue
    const statuses = Object.keys(operation.responses)
    expect(
      statuses.some(status => status.startsWith('2')),
      name,
    ).toBe(true)
    expect(statuses, name).toEqual(expect.arrayContaining(['401', '403', '429', '500', '503']))
  }
})

test('the codes that an operation may answer are named at their status', () => {
  const at = (path: string, method: string, status: number) =>
    document.paths[path][method].responses[status].content['application/json'].schema.properties.error.properties.code
      .enum
  expect(at('/api/v1/orders', 'post', 429)).toEqual(['rate_limited', 'too_many_active_orders'])
  expect(at('/api/v1/orders', 'post', 413)).toEqual(['validation_error'])
  expect(at('/api/v1/orders/{id}/cancel', 'post', 409)).toEqual(['cannot_cancel', 'not_ready', 'cancel_pending'])
})

test('the reference page loads nothing from elsewhere', async () => {
  const page = await call('GET', '/docs')
  expect(page.status).toBe(200)
  expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8')
  expect(page.headers.get('content-security-policy')).toContain("default-src 'none'; script-src 'self';")
  expect(page.text).not.toMatch(/https?:\/\//)
  const script = await call('GET', '/docs/scalar.js')
  expect(script.headers.get('content-type')).toBe('text/javascript; charset=utf-8')
  expect(script.bytes.length).toBeGreaterThan(1_000_000)
  const etag = script.headers.get('etag') ?? ''
  expect((await call('GET', '/docs/scalar.js', { headers: { 'if-none-match': etag } })).status).toBe(304)
})
