import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { createKeys, createSecret, parseSecret } from '../../src/http/auth.ts'
import { build } from '../server.ts'

const { app, call, customer, addCustomer, db } = await build()

const revoke = (id: string) => db.prisma.apiKey.update({ where: { id }, data: { revokedAt: new Date() } })
const announce = () => db.pool.query(`SELECT pg_notify('genmux_keys', '')`)

test('a secret has 128 random bits and a checksum, and only its hash and beginning are kept', () => {
  const { secret, prefix, hash } = createSecret()
  expect(secret).toMatch(/^gm_live_[0-9A-Za-z]{28}$/)
  expect(prefix).toBe(secret.slice(0, 12))
  expect(parseSecret(secret)).toEqual(hash)
  expect(createSecret().secret).not.toBe(secret)
})

test('a mistyped secret is recognised without asking the database', () => {
  const { secret } = createSecret()
  const other = secret[20] === 'a' ? 'b' : 'a'
  for (const junk of [
    `${secret.slice(0, 20)}${other}${secret.slice(21)}`,
    secret.slice(0, -1),
    `${secret}x`,
    '',
    'gm_live_',
  ])
    expect(parseSecret(junk)).toBeUndefined()
})

test.each([
  ['no header', undefined],
  ['another scheme', 'Basic Zm9vOmJhcg=='],
  ['no token', 'Bearer'],
  ['junk', 'Bearer junk'],
  ['an unknown key', `Bearer ${createSecret().secret}`],
])('%s → 401 unauthorized', async (_what, authorization) => {
  const answer = await call('GET', '/api/v1/balance', { headers: authorization ? { authorization } : {} })
  expect(answer.status).toBe(401)
  expect(answer.body).toEqual({
    success: false,
    error: { code: 'unauthorized', message: 'API key missing or invalid.' },
  })
  expect(answer.headers.get('www-authenticate')).toBe('Bearer')
})

test('the scheme is read in any case', async () => {
  const answer = await call('GET', '/api/v1/balance', { headers: { authorization: `bEARER  ${customer.key}` } })
  expect(answer.status).toBe(200)
})

test.each([
  ['GET', '/balance', 'read'],
  ['GET', '/models', 'read'],
  ['GET', '/orders', 'read'],
  ['GET', '/orders/ord_x', 'read'],
  ['GET', '/transactions', 'read'],
  ['POST', '/quote', 'read'],
  ['GET', '/upload/status?tmp_path=x', 'read'],
  ['POST', '/orders', 'generate'],
  ['POST', '/orders/ord_x/cancel', 'generate'],
  ['POST', '/upload', 'generate'],
])('%s %s needs the scope %s', async (method, path, needed) => {
  for (const scope of ['read', 'generate']) {
    const { key } = await customer.addKey([scope])
    const { status, body } = await call(method, `/api/v1${path}`, { key })
    if (scope === needed) expect([401, 403]).not.toContain(status)
    else expect({ status, code: body.error.code }).toEqual({ status: 403, code: 'forbidden' })
  }
})

test('a suspended customer gets 403 forbidden', async () => {
  const suspended = await addCustomer()
  await db.prisma.customer.update({ where: { id: suspended.id }, data: { status: 'suspended' } })
  const { status, body } = await suspended.get('/balance')
  expect({ status, code: body.error.code }).toEqual({ status: 403, code: 'forbidden' })
})

test('a revoked key is dead at once where the revocation is announced', async () => {
  const { id, key } = await customer.addKey()
  expect((await call('GET', '/api/v1/balance', { key })).status).toBe(200)
  await revoke(id)
  await announce()
  await expect.poll(async () => (await call('GET', '/api/v1/balance', { key })).status, { timeout: 1_000 }).toBe(401)
})

test('a revoked key is dead within 5 s even when nothing was announced', async () => {
  const { id, key } = await customer.addKey()
  expect((await call('GET', '/api/v1/balance', { key })).status).toBe(200)
  await revoke(id)
  const revokedAt = performance.now()
  expect((await call('GET', '/api/v1/balance', { key })).status).toBe(200)
  await sleep(5_000 - (performance.now() - revokedAt))
  expect((await call('GET', '/api/v1/balance', { key })).status).toBe(401)
})

test('a key is looked up once, not for every request', async () => {
  let queries = 0
  const counting = {
    ...app.db,
    run: (...args: Parameters<typeof app.db.run>) => {
      queries += 1
      return app.db.run(...args)
    },
  }
  const keys = createKeys(counting as typeof app.db, db.url)
  const hash = parseSecret(customer.key) as Buffer
  // The first words of the listener make it forget.
  await sleep(200)
  const tenTimes = async (hash: Buffer) => {
    const atOnce = await Promise.all(Array.from({ length: 5 }, () => keys.find(hash)))
    for (let i = 0; i < 5; i++) atOnce.push(await keys.find(hash))
    return atOnce.map(caller => caller?.customerId)
  }
  expect(await tenTimes(hash)).toEqual(Array(10).fill(customer.id))
  expect(await tenTimes(createSecret().hash)).toEqual(Array(10).fill(undefined))
  await keys.close()
  expect(queries).toBe(2)
})
