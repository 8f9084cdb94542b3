import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { type IncomingMessage, request as httpRequest } from 'node:http'
import { createConnection } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Registry } from 'prom-client'
import { afterAll, expect, onTestFinished, test } from 'vitest'
import { freePort } from '../free-port.ts'
import { buildServer } from '../../src/http/server.ts'
import { build } from '../server.ts'

const { app, call, addCustomer, db, url } = await build({ env: { RATE_LIMIT_PER_MINUTE: '7' } })

const limits = (headers: Headers) => ['limit', 'remaining'].map(name => Number(headers.get(`x-ratelimit-${name}`)))

test('every answer tells the limit, what remains, and the seconds until it is whole again', async () => {
  const customer = await addCustomer({ rateLimitPerMinute: 5 })
  const answers = [
    await customer.get('/balance'),
    await customer.get('/orders/ord_x'),
    await customer.get('/nope'),
    await customer.post('/orders', '{'),
    await customer.get('/models'),
  ]
  expect(answers.map(answer => answer.status)).toEqual([200, 404, 404, 400, 200])
  expect(answers.map(answer => limits(answer.headers))).toEqual([4, 3, 2, 1, 0].map(left => [5, left]))
  const reset = Number(answers[4]?.headers.get('x-ratelimit-reset'))
  expect(reset).toBeGreaterThan(0)
  expect(reset).toBeLessThanOrEqual(60)
})

test('beyond the limit → 429 rate_limited with Retry-After, for that API key alone', async () => {
  const customer = await addCustomer({ rateLimitPerMinute: 2 })
  for (let i = 0; i < 2; i++) expect((await customer.get('/balance')).status).toBe(200)
  const refused = await customer.get('/balance')
  expect({ status: refused.status, code: refused.body.error.code }).toEqual({ status: 429, code: 'rate_limited' })
  expect(limits(refused.headers)).toEqual([2, 0])
  expect(refused.headers.get('retry-after')).toBe(refused.headers.get('x-ratelimit-reset'))
  const { key } = await customer.addKey()
  expect((await call('GET', '/api/v1/balance', { key })).status).toBe(200)
})

test('without a limit of its own, a customer has the configured one', async () => {
  const customer = await addCustomer()
  expect(limits((await customer.get('/balance')).headers)).toEqual([7, 6])
})

test('guessing keys is limited by address, and harms nobody who has one', async () => {
  const guess = () => call('GET', '/api/v1/balance', { key: 'gm_live_guess' })
  const statuses: number[] = []
  for (let i = 0; i < 9; i++) statuses.push((await guess()).status)
  expect(statuses).toEqual([...Array(7).fill(401), 429, 429])
  const refused = await guess()
  expect(refused.headers.get('x-ratelimit-remaining')).toBe('0')
  const customer = await addCustomer()
  expect((await customer.get('/balance')).status).toBe(200)
})

test('health and results are not limited', async () => {
  for (let i = 0; i < 10; i++) expect((await call('GET', '/healthz')).status).toBe(200)
})

test('an overloaded process answers 503 server_busy early, and stays alive for its operator', async () => {
  const customer = await addCustomer({ rateLimitPerMinute: 1_000 })
  // It is the event loop's delay that is measured: hold it up for more than a second at a time. (The start has its grace.)
  for (let i = 0; i < 5; i++) {
    const until = Date.now() + 1_500
    while (Date.now() < until);
    await sleep(1)
  }
  const { status, body, headers } = await customer.get('/balance')
  expect({ status, code: body.error.code }).toEqual({ status: 503, code: 'server_busy' })
  expect(headers.get('retry-after')).toBe('2')
  expect(headers.get('x-ratelimit-limit')).toBe('1000')
  expect((await call('GET', '/healthz')).status).toBe(200)
  await expect.poll(async () => (await customer.get('/balance')).status, { timeout: 5_000 }).toBe(200)
})

test('requests whose clients have left while they waited take no place for ever', async () => {
  const customer = await addCustomer({ rateLimitPerMinute: 100_000 })
  const client = await db.pool.connect()
  await client.query('BEGIN')
  await client.query('LOCK TABLE api_keys')
  const { hostname, port } = new URL(url)
  const sockets = Array.from({ length: 1_000 }, () => {
    const socket = createConnection({ host: hostname, port: Number(port) })
    socket.on('error', () => {})
    socket.write(`GET /api/v1/balance HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${customer.key}\r\n\r\n`)
    return socket
  })
  await sleep(1_000)
  for (const socket of sockets) socket.destroy()
  await sleep(500)
  await client.query('COMMIT')
  client.release()
  // Longer than what counts as a burst.
  await sleep(1_500)
  for (let i = 0; i < 20; i++) expect((await customer.get('/balance')).status).toBe(200)
})

test('an order whose body ends after it was refused for being slow is not placed', { timeout: 60_000 }, async () => {
  const customer = await addCustomer({ rateLimitPerMinute: 1_000 })
  const request = httpRequest(`${url}/api/v1/orders`, {
    method: 'POST',
    headers: { authorization: `Bearer ${customer.key}`, 'content-type': 'application/json' },
  })
  const answered = once(request, 'response')
  request.write('{"model_id":20,"prompt":"a lighthouse"')
  const [response] = (await answered) as [IncomingMessage]
  request.end('}')
  expect(response.statusCode).toBe(408)
  expect((await response.toArray()).join('')).toContain('too slowly')
  await sleep(1_000)
  expect(await db.prisma.order.count({ where: { customerId: customer.id } })).toBe(0)
})

test.skipIf(!hasRedis())('with Redis, two processes count together; without it, requests pass', async () => {
  const port = await freePort()
  const redis = spawn('redis-server', ['--port', String(port), '--save', '', '--bind', '127.0.0.1'], {
    stdio: 'ignore',
  })
  onTestFinished(() => void redis.kill())
  const config = { ...app.config, redisUrl: `redis://127.0.0.1:${port}` }
  const servers = [1, 2].map(() => buildServer({ ...app, config, metrics: new Registry() }))
  const [one, two] = (await Promise.all(servers)) as [Awaited<(typeof servers)[0]>, Awaited<(typeof servers)[0]>]
  afterAll(() => Promise.all([one.close(), two.close()]))
  const customer = await addCustomer({ rateLimitPerMinute: 4 })
  const ask = async (server: typeof one) => {
    const answer = await server.inject({ url: '/api/v1/balance', headers: { authorization: `Bearer ${customer.key}` } })
    return [answer.statusCode, answer.headers['x-ratelimit-remaining']].join(' ')
  }
  // Until they are connected, requests pass uncounted.
  await expect.poll(() => ask(one), { timeout: 10_000 }).toBe('200 3')
  const shared = async () => (await ask(two)) !== '200 4'
  await expect.poll(shared, { timeout: 10_000 }).toBe(true)
  expect(await ask(one)).toBe('200 1')
  expect(await ask(two)).toBe('200 0')
  expect(await ask(one)).toBe('429 0')
  redis.kill()
  await expect.poll(() => ask(one), { timeout: 10_000 }).toBe('200 4')
})

function hasRedis(): boolean {
  try {
    execFileSync('redis-server', ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}
