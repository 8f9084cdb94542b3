import { Writable } from 'node:stream'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { afterAll, expect, test } from 'vitest'
import { buildServer } from '../../src/http/server.ts'
import { build } from '../server.ts'

const lines: Record<string, unknown>[] = []
const sink = new Writable({
  write(chunk: Buffer, _encoding, done) {
    lines.push(
      ...chunk
        .toString()
        .trim()
        .split('\n')
        .map(line => JSON.parse(line)),
    )
    done()
  },
})
const { app, call, customer } = await build({ log: pino(sink) })

test('GET /healthz tells that the process lives', async () => {
  const { status, body } = await call('GET', '/healthz')
  expect({ status, body }).toEqual({ status: 200, body: { success: true } })
})

test('GET /readyz tells which part cannot be reached', async () => {
  const ready = await call('GET', '/readyz')
  expect(ready.status).toBe(200)
  expect(ready.body.parts).toEqual({ database: 'ok', queue: 'ok', storage: 'ok' })
  const server = await buildServer({
    ...app,
    metrics: new Registry(),
    checkQueue: () => Promise.reject(new Error('down')),
  })
  afterAll(() => server.close())
  const answer = await server.inject('/readyz')
  expect(answer.statusCode).toBe(503)
  expect(answer.json()).toEqual({
    success: false,
    error: { code: 'server_busy', message: 'Not ready: queue.' },
    parts: { database: 'ok', queue: 'unreachable', storage: 'ok' },
  })
})

test('GET /metrics counts requests by route, in the form Prometheus reads', async () => {
  await customer.get('/orders/ord_x')
  const { status, headers, text } = await call('GET', '/metrics')
  expect(status).toBe(200)
  expect(headers.get('content-type')).toMatch(/^text\/plain/)
  expect(text).toMatch(
    /genmux_http_request_seconds_count{method="GET",route="\/api\/v1\/orders\/:id",status="404"} [1-9]/,
  )
  expect(text).toContain('process_resident_memory_bytes')
})

test('one line is logged per request: who, what, how long; no secrets, headers, bodies or ids in paths', async () => {
  lines.length = 0
  const { headers, body } = await customer.post(
    '/orders',
    { model_id: 20, prompt: 'a private prompt' },
    { cookie: 'private' },
  )
  await customer.get(`/orders/${body.order.id}?private=1`)
  await customer.get('/orders/ord_private')
  await expect.poll(() => lines.length).toBe(3)
  expect(lines[0]).toMatchObject({
    request_id: headers.get('x-request-id'),
    method: 'POST',
    route: '/api/v1/orders',
    status: 201,
    ms: expect.any(Number),
    customer: customer.id,
    api_key: customer.apiKeyId,
    model: 20,
    order: body.order.id,
    msg: 'request',
  })
  expect(lines[1]).toMatchObject({ method: 'GET', route: '/api/v1/orders/:id', status: 200 })
  expect(lines[2]).toMatchObject({ status: 404, error: 'order_not_found' })
  expect(JSON.stringify(lines)).not.toMatch(/private|gm_live_/)
})

test('closing lets a request that is under way end, and waits for no idle connection', async () => {
  const asked = Promise.withResolvers<void>()
  const answer = Promise.withResolvers<void>()
  const checkQueue = () => {
    asked.resolve()
    return answer.promise
  }
  const server = await buildServer({ ...app, metrics: new Registry(), checkQueue })
  const url = await server.listen({ port: 0, host: '127.0.0.1' })
  expect((await fetch(`${url}/healthz`)).status).toBe(200)
  const slow = fetch(`${url}/readyz`)
  await asked.promise
  const closingAt = performance.now()
  const closed = server.close()
  answer.resolve()
  expect((await slow).status).toBe(200)
  await closed
  expect(performance.now() - closingAt).toBeLessThan(3_000)
})
