import { spawn } from 'node:child_process'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { placeOrders, settleOrders } from '../src/ledger/ledger.ts'
import { ADMIN_TOKEN } from './server.ts'
import { adminServer } from './http/admin/server.ts'
import { failed, placement } from './ledger/rows.ts'

const { db, url: origin } = await adminServer()
const folder = await mkdtemp(join(tmpdir(), 'genmux-cli-'))
afterAll(() => rm(folder, { recursive: true }))

interface Ran {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

/** Runs the command the way a shell does. */
function genmux(args: string[], env: Record<string, string> = {}): Promise<Ran> {
  const variables = { GENMUX_URL: origin, ADMIN_TOKEN, DATA_DIR: join(folder, 'data'), ...env }
  const child = spawn(process.execPath, [join(import.meta.dirname, '../src/cli.ts'), ...args], {
    env: { PATH: process.env.PATH ?? '', ...variables },
  })
  let [out, err] = ['', '']
  child.stdout.on('data', chunk => {
    out += chunk
  })
  child.stderr.on('data', chunk => {
    err += chunk
  })
  return new Promise(done => child.on('close', code => done({ code, out, err })))
}

async function json(...args: string[]) {
  const { code, out, err } = await genmux([...args, '--json'])
  expect(err).toBe('')
  expect(code).toBe(0)
  return JSON.parse(out)
}

test('from a customer to a key, a top-up and back, by name', async () => {
  const { customer } = await json('customer', 'create', 'Acme', '--max-active-orders', '5')
  expect(customer).toMatchObject({ name: 'Acme', max_active_orders: 5, balance_usd: '0.00' })
  const { key } = await json('key', 'create', 'Acme', '--scopes', 'read', '--name', 'site')
  expect(key).toMatchObject({
    customer_id: customer.id,
    name: 'site',
    scopes: ['read'],
    secret: expect.stringMatching(/^gm_live_/),
  })
  const { topup } = await json('topup', 'Acme', '12.5', '--reference', 'invoice 1', '--key', 'once')
  expect(topup).toMatchObject({ amount_usd: '12.50', balance_usd: '12.50' })
  expect((await json('topup', customer.id, '12.5', '--reference', 'invoice 1', '--key', 'once')).topup).toEqual(topup)
  const revoked = await genmux(['key', 'revoke', key.id])
  expect(revoked.out).toMatch(new RegExp(`^key ${key.id} \\(gm_live_....…\\) revoked at 20`))

  const { out } = await genmux(['customer', 'list'])
  expect(out.split('\n')[0]).toMatch(/^CUSTOMER +NAME +STATUS +BALANCE +HELD +ACTIVE +MAX ACTIVE$/)
  expect(out).toMatch(new RegExp(`^${customer.id} +Acme +active +12\\.50 +0\\.00 +0 +5$`, 'm'))
})

test("an order's story names its attempts and what became of the money", async () => {
  const { customer } = await json('customer', 'create', 'Story')
  await json('topup', 'Story', '1')
  const order = placement(customer.id, 60_000n, { modelId: 20 })
  await placeOrders(db, [order])
  await db.pool.query(
    `INSERT INTO attempts (id, order_id, n, provider, account, upstream_model, state, input, idempotency_key, nonce, expected_cost,
       ref, submits, deadline_at, submitted_at, accepted_at)
     VALUES ('att_1', $1, 1, 'apixo', 'main', 'nano', 'accepted', '{}', 'k', 1, 30000, 'task_9', 1, now(), now(), now())`,
    [order.id],
  )
  expect((await genmux(['order', 'show', order.id])).out).toMatch(/^now: queued, attempt 1 is accepted$/m)
  const message = 'out of memory\u001b[2J'
  await settleOrders(db, [
    failed(order.id, {
      attemptId: 'att_1',
      attemptState: 'failed',
      fault: 'task_failed',
      faultMessage: message,
      upstreamCost: 5_000n,
    }),
  ])
  const { out } = await genmux(['order', 'show', order.id])
  const lines = out.trimEnd().split('\n')
  expect(lines[0]).toBe(`${order.id}: model 20, failed, costs 0.06`)
  const events = lines.slice(1).map(line => line.replace(/^\d{4}-\d\d-\d\d [\d:.]+Z {2}/, ''))
  for (const event of [
    `ordered by ${customer.id} with key_test`,
    'hold of 0.06',
    'attempt 1 at apixo/main, nano, expected to cost 0.03',
    'attempt 1 submitted',
    'attempt 1 accepted as task_9',
    'attempt 1 failed: task_failed (out of memory?[2J), cost 0.005',
    'release of 0.06',
    'failed: provider_failed. The generation failed.',
  ])
    expect(events).toContain(event)
  expect((await json('order', 'show', order.id)).order.attempts[0].upstream_id).toBe('task_9')
})

test('providers are a table', async () => {
  const { out, code } = await genmux(['providers'])
  expect(code).toBe(0)
  expect(out).toMatch(/^apixo +main +on +closed +0 +submit 60\/60.* +0\.005 +2 +1$/m)
  expect(out).toMatch(/^apixo +spare +no key +closed/m)
})

test('ledger verify needs no server, and exits 1 on a violation', async () => {
  const sound = await genmux(['ledger', 'verify'], { DATABASE_URL: db.url, GENMUX_URL: 'http://localhost:1' })
  expect(sound).toMatchObject({ code: 0, err: '' })
  expect(sound.out).toMatch(/The ledger is sound\.\n$/)
  const { customer } = await json('customer', 'create', 'Wrong')
  await db.pool.query('UPDATE customers SET available = 7 WHERE id = $1', [customer.id])
  const wrong = await genmux(['ledger', 'verify'], { DATABASE_URL: db.url })
  await db.pool.query('UPDATE customers SET available = 0 WHERE id = $1', [customer.id])
  expect(wrong.code).toBe(1)
  expect(wrong.out).toMatch(/^WRONG .*: 1$/m)
  expect(wrong.out).toContain(`${customer.id}: available 7`)
})

test('migrate and ledger verify work on the embedded database', async () => {
  const env = { DATA_DIR: join(folder, 'embedded') }
  const none = await genmux(['ledger', 'verify'], env)
  expect(none).toMatchObject({ code: 1, out: '' })
  expect(none.err).toMatch(/^genmux: there is no database under .*: set DATA_DIR or DATABASE_URL\n$/)
  expect((await genmux(['migrate'], env)).out).toMatch(/^applied \d+_init/)
  expect(await genmux(['migrate'], env)).toEqual({ code: 0, out: 'nothing to apply\n', err: '' })
  expect((await genmux(['ledger', 'verify', '--json'], env)).out).toMatch(/^\{\n {2}"sound": true/)
})

test('catalog check passes the shipped catalog, and names the line of a mistake', async () => {
  const shipped = await genmux(['catalog', 'check'])
  expect(shipped).toMatchObject({ code: 0, err: '' })
  expect(shipped.out).toMatch(/is correct: \d+ models/)
  const file = join(folder, 'broken.yaml')
  await writeFile(
    file,
    'providers:\n  - { id: sandbox, kind: sandbox }\nmodels:\n  - { id: 1, name: A, type: image, price_usd: 1.5 }\n',
  )
  const { code, out } = await genmux(['catalog', 'check', file])
  expect(code).toBe(1)
  expect(out).toMatch(/^.*broken\.yaml:4:\d+: .*price_usd/m)
})

const nobody = createServer().listen(0, '127.0.0.1')
await new Promise(done => nobody.once('listening', done))
const { port: freePort } = nobody.address() as AddressInfo
await new Promise(done => nobody.close(done))

test.concurrent.each<[string, string[], Record<string, string>, RegExp]>([
  [
    'no server',
    ['customer', 'list'],
    { GENMUX_URL: `http://127.0.0.1:${freePort}` },
    /http:\/\/127\.0\.0\.1:\d+ cannot be reached \(ECONNREFUSED\): start it/,
  ],
  ['a wrong token', ['customer', 'list', '--token', 'wrong'], {}, /Admin token missing or invalid\. \(unauthorized\)/],
  ['no token', ['customer', 'list'], { ADMIN_TOKEN: '' }, /no admin token: set ADMIN_TOKEN/],
  ['an unknown order', ['order', 'show', 'ord_gone'], {}, /No such order\. \(order_not_found\)/],
  ['an unknown customer', ['topup', 'Nobody', '1'], {}, /no customer is called Nobody/],
  ['a wrong amount', ['topup', 'cus_x', '1,5'], {}, /amount_usd: must be a decimal string/],
  ['a missing argument', ['topup', 'Acme'], {}, /missing required argument 'amount'/],
  ['a wrong number', ['customer', 'create', 'X', '--rate-limit', 'many'], {}, /many is not a whole number/],
  ['a wrong environment', ['migrate'], { PORT: 'http' }, /PORT: must be a whole number/],
  [
    'an unreachable database',
    ['ledger', 'verify'],
    { DATABASE_URL: 'postgresql://127.0.0.1:1/x' },
    /DATABASE_URL \(127\.0\.0\.1:1\) cannot be used: .*ECONNREFUSED/,
  ],
])('%s is one clear line and exit code 1', async (_, args, env, message) => {
  const { code, out, err } = await genmux(args, env)
  expect(err).toMatch(message)
  expect(err).toMatch(/^genmux: [^\n]+\n$/)
  expect({ code, out }).toEqual({ code: 1, out: '' })
})

test('something else at the address is told apart', async () => {
  const other = createServer((_, response) => response.end('<html>')).listen(0, '127.0.0.1')
  await new Promise(done => other.once('listening', done))
  const url = `http://127.0.0.1:${(other.address() as AddressInfo).port}`
  const { code, err } = await genmux(['providers', '--url', url])
  other.close()
  expect({ code, err }).toEqual({ code: 1, err: `genmux: ${url} answered 200, but not as a genmux does\n` })
})

test('two customers of one name are told apart by id', async () => {
  for (const _ of [1, 2]) await json('customer', 'create', 'Twin')
  expect((await genmux(['topup', 'Twin', '1'])).err).toBe('genmux: several customers are called Twin: use an id\n')
})
