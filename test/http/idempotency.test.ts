import { request } from 'node:http'
import { expect, test } from 'vitest'
import { build, type TestAnswer } from '../server.ts'

const { customer, addCustomer, url, db } = await build()
const picture = { model_id: 20, prompt: 'a lighthouse' }
const keyed = (key: string) => ({ 'idempotency-key': key })

test('the same key with the same data gives the first answer, byte for byte', async () => {
  const buyer = await addCustomer({ balance: 1_000_000n })
  const first = await buyer.post('/orders', picture, keyed('a'))
  expect(first.headers.get('idempotent-replayed')).toBeNull()
  await db.prisma.order.update({ where: { id: first.body.order.id }, data: { status: 'processing' } })
  const again = await buyer.post('/orders', picture, keyed('a'))
  expect(again.status).toBe(201)
  expect(again.bytes).toEqual(first.bytes)
  expect(again.headers.get('content-type')).toBe(first.headers.get('content-type'))
  expect(again.headers.get('idempotent-replayed')).toBe('true')
  expect((await buyer.get('/balance')).body.balance_usd).toBe('0.95')
})

test('data is the same whatever the order of its members, its white space and the writing of its numbers', async () => {
  const first = await customer.post('/orders', '{"model_id":9,"options":{"seconds":1,"sound":true}}', keyed('same'))
  const again = await customer.post(
    '/orders',
    '{ "options": {"sound":true, "seconds": 1.0e0},\n "model_id": 9.0 }',
    keyed('same'),
  )
  expect(first.status).toBe(201)
  expect(again.bytes).toEqual(first.bytes)
})

test('the same key with other data → 422 idempotency_conflict, valid or not', async () => {
  await customer.post('/orders', picture, keyed('conflict'))
  for (const other of [{ ...picture, prompt: 'another' }, { model_id: 20 }, { model_id: 999 }, { ...picture, x: 1 }]) {
    const { status, body } = await customer.post('/orders', other, keyed('conflict'))
    expect({ status, code: body.error.code }).toEqual({ status: 422, code: 'idempotency_conflict' })
  }
})

test('20 concurrent duplicates make one order', async () => {
  const buyer = await addCustomer({ balance: 1_000_000n })
  const answers = await Promise.all(Array.from({ length: 20 }, () => buyer.post('/orders', picture, keyed('race'))))
  expect(new Set(answers.map(answer => answer.status))).toEqual(new Set([201]))
  expect(new Set(answers.map(answer => answer.text)).size).toBe(1)
  expect(answers.filter(answer => answer.headers.get('idempotent-replayed') === null)).toHaveLength(1)
  expect((await buyer.get('/orders')).body.orders).toHaveLength(1)
  expect((await buyer.get('/balance')).body.balance_usd).toBe('0.95')
})

test('a refused request leaves its key free', async () => {
  const poor = await addCustomer({ balance: 0n })
  expect((await poor.post('/orders', picture, keyed('free'))).body.error.code).toBe('insufficient_balance')
  expect((await poor.post('/orders', { model_id: 20 }, keyed('free'))).body.error.code).toBe('prompt_required')
  await db.prisma.customer.update({ where: { id: poor.id }, data: { available: 50_000n } })
  expect((await poor.post('/orders', { ...picture, prompt: 'other' }, keyed('free'))).status).toBe(201)
})

test('a retry succeeds although its first try used up the balance, the active orders, or the model was withdrawn since', async () => {
  const buyer = await addCustomer({ balance: 100_000n, maxActiveOrders: 1 })
  const first = await buyer.post('/orders', { model_id: 9 }, keyed('retry'))
  expect(first.status).toBe(201)
  expect((await buyer.post('/orders', { model_id: 9 }, keyed('retry'))).text).toBe(first.text)
  await db.prisma.providerSwitch.create({ data: { provider: 'other', enabled: false } })
  const fresh = async () => (await buyer.post('/orders', { model_id: 9 })).body.error.code
  await expect.poll(fresh, { timeout: 3_000 }).toBe('model_not_found')
  const again = await buyer.post('/orders', { model_id: 9 }, keyed('retry'))
  expect(again.text).toBe(first.text)
  expect(again.headers.get('idempotent-replayed')).toBe('true')
  await db.prisma.providerSwitch.delete({ where: { provider: 'other' } })
})

test('keys belong to an API key: another one of the same customer may use the same', async () => {
  const { key } = await customer.addKey()
  const first = await customer.post('/orders', picture, keyed('own'))
  const other = await customer.post('/orders', picture, { ...keyed('own'), authorization: `Bearer ${key}` })
  expect(other.status).toBe(201)
  expect(other.body.order.id).not.toBe(first.body.order.id)
})

test('without a key every request is an order of its own', async () => {
  const [a, b] = await Promise.all([customer.post('/orders', picture), customer.post('/orders', picture)])
  expect(a.body.order.id).not.toBe(b.body.order.id)
})

test.each([
  ['empty', ['']],
  ['with a space', ['a b']],
  ['with a character beyond ASCII', ['caf\u00e9']],
  ['longer than 255 characters', ['x'.repeat(256)]],
  ['sent twice', ['a', 'b']],
  ['sent twice alike', ['a', 'a']],
])('a key that is %s → 400 validation_error', async (_what, values) => {
  const { status, body } = await rawPost(values)
  expect({ status, code: body.error.code }).toEqual({ status: 400, code: 'validation_error' })
})

test('a key of 255 characters is accepted', async () => {
  expect((await rawPost(['~'.repeat(255)])).status).toBe(201)
})

/** fetch joins and trims headers before they are sent: this does not. */
function rawPost(keys: string[]): Promise<Pick<TestAnswer, 'status' | 'body'>> {
  return new Promise((resolve, reject) => {
    const headers = {
      authorization: `Bearer ${customer.key}`,
      'content-type': 'application/json',
      'idempotency-key': keys,
    }
    const sent = request(`${url}/api/v1/orders`, { method: 'POST', headers }, answer => {
      let text = ''
      answer.setEncoding('utf8').on('data', chunk => {
        text += chunk
      })
      answer.on('end', () => resolve({ status: answer.statusCode ?? 0, body: JSON.parse(text) }))
    })
    sent.on('error', reject).end(JSON.stringify(picture))
  })
}
