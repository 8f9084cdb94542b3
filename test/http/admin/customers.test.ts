import pg from 'pg'
import { expect, test } from 'vitest'
import { KEYS_CHANNEL, parseSecret } from '../../../src/http/auth.ts'
import { ADMIN_TOKEN } from '../../server.ts'
import { adminServer } from './server.ts'

const { db, send, url } = await adminServer()

const create = async (body: object = { name: 'Acme' }) => (await send('POST', '/customers', body)).body.customer

test('a request without the admin token, or with another, is refused', async () => {
  for (const headers of [{}, { authorization: ADMIN_TOKEN }, { authorization: `Bearer ${ADMIN_TOKEN}x` }]) {
    const response = await fetch(`${url}/admin/v1/customers`, { headers })
    expect(response.status).toBe(401)
    expect(response.headers.get('www-authenticate')).toBe('Bearer')
    expect(await response.json()).toMatchObject({ success: false, error: { code: 'unauthorized' } })
  }
})

test('a customer is created with defaults, read, changed and audited', async () => {
  const created = await send('POST', '/customers', { name: '  Acme  ' })
  expect(created.status).toBe(201)
  expect(created.body).toEqual({
    success: true,
    customer: {
      id: expect.stringMatching(/^cus_[\w-]{16}$/),
      name: 'Acme',
      status: 'active',
      balance_usd: '0.00',
      held_usd: '0.00',
      active_orders: 0,
      max_active_orders: 1000,
      rate_limit_per_minute: null,
      created_at: expect.stringMatching(/^\d{4}-.*Z$/),
    },
  })
  const { id } = created.body.customer
  expect((await send('GET', `/customers/${id}`)).body).toEqual(created.body)

  const changed = await send('PATCH', `/customers/${id}`, {
    status: 'suspended',
    max_active_orders: 3,
    rate_limit_per_minute: 60,
  })
  expect(changed.status).toBe(200)
  expect(changed.body.customer).toEqual({
    ...created.body.customer,
    status: 'suspended',
    max_active_orders: 3,
    rate_limit_per_minute: 60,
  })
  const { audit } = (await send('GET', `/audit?subject=${id}`)).body
  expect(audit).toMatchObject([
    { actor: 'admin', action: 'customer.change', subject: id, detail: { status: 'suspended', max_active_orders: 3 } },
    { actor: 'admin', action: 'customer.create', subject: id, detail: { name: 'Acme' } },
  ])
})

test.each([
  ['POST', '/customers', undefined, 400, /must be a JSON object/],
  ['POST', '/customers', '[', 400, /not valid JSON/],
  ['POST', '/customers', [], 422, /object/],
  ['POST', '/customers', {}, 422, /^name: /],
  ['POST', '/customers', { name: ' ' }, 422, /^name: /],
  ['POST', '/customers', { name: 'A', max_active_orders: -1 }, 422, /^max_active_orders: /],
  ['POST', '/customers', { name: 'A', colour: 'red' }, 422, /colour/],
  ['PATCH', '/customers/cus_gone', { name: 'A' }, 404, /No such customer/],
  ['PATCH', '/customers/cus_gone', {}, 422, /nothing to change/],
  ['GET', '/customers/cus_gone', undefined, 404, /No such customer/],
  ['GET', '/customers?limit=0', undefined, 422, /^limit: /],
  ['GET', '/customers?limit=101', undefined, 422, /^limit: /],
  ['GET', '/customers?cursor=!', undefined, 422, /^cursor: /],
  ['POST', '/customers/cus_gone/keys', { name: 'k' }, 404, /No such customer/],
  ['GET', '/customers/cus_gone/keys', undefined, 404, /No such customer/],
  ['DELETE', '/keys/key_gone', undefined, 404, /No such API key/],
] as const)('%s %s with %j is answered %i', async (method, path, body, status, message) => {
  const answer = await send(method, path, body)
  expect(answer.status).toBe(status)
  expect(answer.body).toMatchObject({ success: false, error: { message: expect.stringMatching(message) } })
})

test('customers are listed newest first, page by page, and found by name', async () => {
  const made = []
  for (const n of [1, 2, 3, 4, 5]) made.unshift((await create({ name: `Page ${n}` })).id)
  const seen: string[] = []
  let cursor = ''
  do {
    const { body } = await send('GET', `/customers?limit=2${cursor}`)
    expect(body.customers.length).toBeLessThanOrEqual(2)
    seen.push(...body.customers.map((c: { id: string }) => c.id))
    cursor = body.next_cursor === null ? '' : `&cursor=${body.next_cursor}`
  } while (cursor)
  expect(seen.slice(0, 5)).toEqual(made)
  expect(new Set(seen).size).toBe(seen.length)
  const named = await send('GET', '/customers?name=Page%203')
  expect(named.body).toMatchObject({ customers: [{ id: made[2] }], next_cursor: null })
})

test("a key's secret is shown once; only its hash is stored", async () => {
  const { id } = await create()
  const { status, body } = await send('POST', `/customers/${id}/keys`, { name: 'site', scopes: ['read'] })
  expect(status).toBe(201)
  const { secret, ...rest } = body.key
  expect(rest).toMatchObject({ id: expect.stringMatching(/^key_/), name: 'site', scopes: ['read'], revoked_at: null })
  expect(secret).toMatch(/^gm_live_[0-9A-Za-z]{28}$/)
  expect(secret.startsWith(rest.prefix)).toBe(true)
  const row = await db.prisma.apiKey.findUniqueOrThrow({ where: { id: rest.id } })
  expect(Buffer.from(row.secretHash)).toEqual(parseSecret(secret))
  const list = await send('GET', `/customers/${id}/keys`)
  expect(list.body).toEqual({ success: true, keys: [rest], next_cursor: null })
  const { audit } = (await send('GET', '/audit')).body
  expect(JSON.stringify(audit)).not.toContain(secret)
  for (const scopes of [[], ['admin'], ['read', 'read']]) {
    expect((await send('POST', `/customers/${id}/keys`, { name: 'x', scopes })).status).toBe(422)
  }
})

test('a revoked key, a suspended customer and new limits are announced to every node; revoking twice changes nothing', async () => {
  const heard: string[] = []
  const listener = new pg.Client({ connectionString: db.url })
  await listener.connect()
  listener.on('notification', message => heard.push(message.channel))
  await listener.query(`LISTEN ${KEYS_CHANNEL}`)
  const { id } = await create()
  const { key } = (await send('POST', `/customers/${id}/keys`, { name: 'site' })).body
  expect(key.scopes).toEqual(['read', 'generate'])
  const revoked = await send('DELETE', `/keys/${key.id}`)
  expect(revoked.body.key.revoked_at).toMatch(/Z$/)
  await expect.poll(() => heard).toEqual([KEYS_CHANNEL])
  expect((await send('DELETE', `/keys/${key.id}`)).text).toBe(revoked.text)
  await send('PATCH', `/customers/${id}`, { status: 'suspended' })
  await send('PATCH', `/customers/${id}`, { rate_limit_per_minute: 5 })
  await expect.poll(() => heard).toHaveLength(3)
  await listener.end()
})
