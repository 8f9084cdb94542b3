import { connect } from 'node:net'
import { Registry } from 'prom-client'
import { afterAll, expect, test } from 'vitest'
import { openDb } from '../../src/db/pool.ts'
import type { App } from '../../src/http/app.ts'
import { buildServer } from '../../src/http/server.ts'
import { build } from '../server.ts'

const { app, call, customer, url } = await build()
const picture = { model_id: 20, prompt: 'a lighthouse' }

/** A server of which one part is broken. */
async function broken(part: Partial<App>) {
  const server = await buildServer({ ...app, metrics: new Registry(), ...part })
  afterAll(() => server.close())
  return (path: string) =>
    server.inject({ url: `/api/v1${path}`, headers: { authorization: `Bearer ${customer.key}` } })
}

test.each([
  ['GET', '/nope'],
  ['GET', '/api/v1'],
  ['GET', '/api/v1/nope'],
  ['DELETE', '/api/v1/balance'],
  ['PUT', '/api/v1/orders/ord_x'],
  ['OPTIONS', '/api/v1/orders'],
  ['GET', '/api/v1/%zz'],
])('%s %s → 404 not_found, with or without a key', async (method, path) => {
  for (const key of [customer.key, undefined]) {
    const { status, body } = await call(method, path, { key })
    expect(status).toBe(404)
    expect(body).toEqual({ success: false, error: { code: 'not_found', message: 'No such route.' } })
  }
})

test.each([
  ['a body that is not JSON', '{"model_id":20,', {}],
  ['an empty body', '', {}],
  ['a repeated key', '{"model_id":20,"model_id":5,"prompt":"x"}', {}],
  ['a form', 'model_id=20', { 'content-type': 'application/x-www-form-urlencoded' }],
  ['a text', '{}', { 'content-type': 'text/plain' }],
  ['no content type', '{}', { 'content-type': '' }],
  ['another charset', '{}', { 'content-type': 'application/json; charset=latin1' }],
  ['a compressed body', '\u001f\u008b', { 'content-encoding': 'gzip' }],
])('%s → 400 validation_error', async (_what, body, headers) => {
  const answer = await customer.post('/orders', body, headers)
  expect({ status: answer.status, code: answer.body.error.code }).toEqual({ status: 400, code: 'validation_error' })
})

test('UTF-8 may be named, and text beyond ASCII is kept', async () => {
  const answer = await customer.post('/quote', picture, { 'content-type': 'application/json;charset="UTF-8"' })
  expect(answer.status).toBe(200)
})

test('a JSON body over 1 MB → 413 validation_error', async () => {
  const { status, body } = await customer.post('/orders', { ...picture, prompt: 'x'.repeat(1024 * 1024) })
  expect({ status, code: body.error.code }).toEqual({ status: 413, code: 'validation_error' })
})

test('POST without a body works where none is needed, whatever type is named', async () => {
  const { body } = await customer.post('/orders', picture)
  for (const type of ['application/json', 'application/x-www-form-urlencoded']) {
    const answer = await customer.post(`/orders/${body.order.id}/cancel`, '', { 'content-type': type })
    expect(answer.body.error.code).toBe('not_ready')
  }
})

test('every answer has a request id: the client’s own when it is a plain one', async () => {
  const own = await call('GET', '/api/v1/balance', { headers: { 'x-request-id': 'my-request_1' } })
  expect(own.headers.get('x-request-id')).toBe('my-request_1')
  const odd = await call('GET', '/healthz', { headers: { 'x-request-id': 'a b<c>' } })
  expect(odd.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/)
})

test('an unreachable database → 503 server_busy with Retry-After', async () => {
  const databaseUrl = 'postgresql://nobody@127.0.0.1:1/none'
  const db = openDb(databaseUrl)
  const get = await broken({ db, databaseUrl })
  for (const path of ['/balance', '/orders/ord_x', '/transactions']) {
    const answer = await get(path)
    expect(answer.statusCode).toBe(503)
    expect(answer.json().error.code).toBe('server_busy')
    expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0)
    expect(answer.headers['x-ratelimit-limit']).toBeDefined()
  }
  await db.close()
})

test('a mistake of ours → 500 internal_error with the request id, and nothing of what went wrong', async () => {
  const get = await broken({
    switches: {
      off: () => Promise.reject(new Error('secret detail')),
    },
  })
  const answer = await get('/models')
  expect(answer.statusCode).toBe(500)
  expect(answer.json()).toEqual({
    success: false,
    error: {
      code: 'internal_error',
      message: 'Unexpected internal error.',
      request_id: answer.headers['x-request-id'],
    },
  })
})

test.each([
  ['what is not HTTP', 'hello\r\n\r\n', 400],
  ['headers over 16 KB', `GET / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`, 431],
  ['two lengths', 'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n', 400],
])('%s is answered in the form of errors, too', async (_what, bytes, status) => {
  const answer = await exchange(bytes)
  const [head = '', body = ''] = answer.split('\r\n\r\n')
  expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} `))
  expect(head.toLowerCase()).toContain('\r\nx-request-id: ')
  expect(JSON.parse(body)).toEqual({ success: false, error: { code: 'validation_error', message: expect.any(String) } })
})

/** Sends bytes as they stand, and returns all that comes until the connection closes. */
function exchange(bytes: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    const socket = connect(Number(new URL(url).port), '127.0.0.1', () => socket.write(bytes))
    socket.setEncoding('utf8').on('data', chunk => {
      text += chunk
    })
    socket.on('error', reject).on('close', () => resolve(text))
  })
}
