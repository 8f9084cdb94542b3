import { randomUUID } from 'node:crypto'
import { expect, test } from 'vitest'
import { build } from '../server.ts'

const { customer, addCustomer, db } = await build()
const picture = { model_id: 20, prompt: 'a lighthouse' }

async function addUpload(
  customerId: string,
  settings: { status?: 'ready' | 'processing'; extension?: string; expired?: boolean } = {},
) {
  const { status = 'ready', extension = 'png', expired = false } = settings
  const id = randomUUID()
  const data = { id, customerId, status, extension, name: `uploads/${id}`, originalName: `x.${extension}`, size: 1 }
  const expiresAt = new Date(Date.now() + (expired ? -1_000 : 60_000))
  await db.prisma.upload.create({ data: { ...data, mimeType: 'image/png', sha256: new Uint8Array(32), expiresAt } })
  return `tmp/${id}`
}

test('an order is created, its cost held, and read again', async () => {
  const buyer = await addCustomer({ balance: 1_000_000n })
  const created = await buyer.post('/orders', { ...picture, options: { aspect_ratio: '16:9' } })
  expect(created.status).toBe(201)
  expect(created.headers.get('content-type')).toBe('application/json; charset=utf-8')
  expect(created.body).toEqual({
    success: true,
    order: {
      id: expect.stringMatching(/^ord_[\w-]+$/),
      model_id: 20,
      status: 'queued',
      cost_usd: '0.05',
      result: [],
      expires_at: null,
      error: null,
    },
  })
  const read = await buyer.get(`/orders/${created.body.order.id}`)
  expect(read.status).toBe(200)
  expect(read.text).toBe(created.text)
  expect((await buyer.get('/balance')).body).toEqual({ success: true, balance_usd: '0.95' })
})

test('a quote tells the price that the order will have, and stores nothing', async () => {
  const buyer = await addCustomer()
  const body = { model_id: 9, options: { seconds: 3 } }
  const { status, body: answer } = await buyer.post('/quote', body)
  expect({ status, answer }).toEqual({
    status: 200,
    answer: { success: true, quote: { model_id: 9, cost_usd: '0.30' } },
  })
  expect((await buyer.get('/orders')).body.orders).toEqual([])
  expect((await buyer.post('/orders', body)).body.order.cost_usd).toBe('0.30')
})

test.each([
  [422, 'validation_error', 'model_id: ', {}],
  [422, 'validation_error', 'colour: ', { ...picture, colour: 'red' }],
  [422, 'validation_error', 'options.seconds: ', { model_id: 9, options: { seconds: 11 } }],
  [422, 'validation_error', 'options.nope: ', { model_id: 9, options: { nope: 1 } }],
  [422, 'validation_error', 'media.mask: ', { ...picture, media: { mask: [] } }],
  [422, 'validation_error', 'callback_url: ', { ...picture, callback_url: 'ftp://example.com' }],
  [422, 'validation_error', '', [picture]],
  [404, 'model_not_found', '', { model_id: 999, prompt: 'x' }],
  [404, 'model_not_found', '', { model_id: 30, prompt: 'x' }],
  [422, 'prompt_required', '', { model_id: 20 }],
  [422, 'media_required', '', { model_id: 7 }],
  [422, 'too_many_media', '', { ...picture, media: { image: Array(3).fill(`tmp/${randomUUID()}`) } }],
  [404, 'file_not_found', '', { ...picture, media: { image: [`tmp/${randomUUID()}`] } }],
])('%i %s (%s)', async (status, code, message, body) => {
  for (const path of ['/orders', '/quote']) {
    const answer = await customer.post(path, body)
    expect({ status: answer.status, code: answer.body.error.code }).toEqual({ status, code })
    expect(answer.body.success).toBe(false)
    expect(answer.body.error.message).toMatch(new RegExp(`^${message}`))
  }
})

test('an upload must be there, ready, fresh, of an accepted type, and the customer’s own', async () => {
  const stranger = await addCustomer()
  const cases = [
    [422, 'upload_processing', await addUpload(customer.id, { status: 'processing' })],
    [422, 'file_expired', await addUpload(customer.id, { expired: true })],
    [422, 'invalid_media_type', await addUpload(customer.id, { extension: 'mp4' })],
    [404, 'file_not_found', await addUpload(stranger.id)],
  ] as const
  for (const [status, code, path] of cases) {
    const answer = await customer.post('/orders', { ...picture, media: { image: [path] } })
    expect({ status: answer.status, code: answer.body.error.code }).toEqual({ status, code })
  }
  const good = await addUpload(customer.id)
  expect((await customer.post('/orders', { ...picture, media: { image: [good, good] } })).status).toBe(201)
})

test('without enough balance → 422 insufficient_balance, and nothing is held', async () => {
  const poor = await addCustomer({ balance: 49_999n })
  const { status, body } = await poor.post('/orders', picture)
  expect({ status, code: body.error.code }).toEqual({ status: 422, code: 'insufficient_balance' })
  expect((await poor.get('/balance')).body.balance_usd).toBe('0.049999')
})

test('with too many active orders → 429 too_many_active_orders with Retry-After', async () => {
  const busy = await addCustomer({ maxActiveOrders: 1 })
  expect((await busy.post('/orders', picture)).status).toBe(201)
  const { status, body, headers } = await busy.post('/orders', picture)
  expect({ status, code: body.error.code }).toEqual({ status: 429, code: 'too_many_active_orders' })
  expect(Number(headers.get('retry-after'))).toBeGreaterThan(0)
})

test('another customer’s order does not exist', async () => {
  const { body } = await customer.post('/orders', picture)
  const stranger = await addCustomer()
  for (const answer of [
    await stranger.get(`/orders/${body.order.id}`),
    await stranger.post(`/orders/${body.order.id}/cancel`),
    await customer.get('/orders/ord_unknown'),
    await customer.get('/orders/%00'),
    await customer.post('/orders/%00/cancel'),
    await customer.get(`/orders/${'x'.repeat(5_000)}`),
  ])
    expect({ status: answer.status, code: answer.body.error.code }).toEqual({ status: 404, code: 'order_not_found' })
})

test('orders are listed newest first, page by page, and by status', async () => {
  const buyer = await addCustomer()
  const ids: string[] = []
  for (let i = 0; i < 5; i++) ids.unshift((await buyer.post('/orders', picture)).body.order.id)
  const first = (await buyer.get('/orders?limit=2')).body
  const second = (await buyer.get(`/orders?limit=2&cursor=${first.next_cursor}`)).body
  const third = (await buyer.get(`/orders?limit=2&cursor=${second.next_cursor}`)).body
  const listed = [first, second, third].flatMap(page => page.orders.map((order: { id: string }) => order.id))
  expect(listed).toEqual(ids)
  expect(third.next_cursor).toBeNull()
  expect((await buyer.get('/orders?status=queued')).body.orders).toHaveLength(5)
  expect((await buyer.get('/orders?status=completed')).body).toEqual({ success: true, orders: [], next_cursor: null })
})

test.each(['limit=0', 'limit=101', 'limit=x', 'status=done', 'cursor=ord_unknown', 'cursor=', 'limit=1&limit=2'])(
  'GET /orders?%s → 422 validation_error',
  async query => {
    const { status, body } = await customer.get(`/orders?${query}`)
    expect({ status, code: body.error.code }).toEqual({ status: 422, code: 'validation_error' })
  },
)

test('an order that has not started cannot be cancelled yet, an ended one never; both answers carry the order', async () => {
  const { body } = await customer.post('/orders', picture)
  const early = await customer.post(`/orders/${body.order.id}/cancel`)
  expect(early.status).toBe(409)
  expect(early.body).toEqual({
    success: false,
    error: { code: 'not_ready', message: expect.any(String) },
    order: body.order,
  })
  await db.prisma.order.update({ where: { id: body.order.id }, data: { status: 'completed', finishedAt: new Date() } })
  const late = await customer.post(`/orders/${body.order.id}/cancel`)
  expect(late.status).toBe(409)
  expect(late.body.error.code).toBe('cannot_cancel')
  expect(late.body.order.status).toBe('completed')
})

test('models are what can be ordered, with the fields of the reference and no others', async () => {
  const { status, body } = await customer.get('/models')
  expect(status).toBe(200)
  expect(body.models.map((model: { id: number }) => model.id)).toEqual([20, 5, 7, 9])
  expect(body.models[0]).toEqual({
    id: 20,
    name: 'Test Picture',
    type: 'image',
    price_usd: '0.05',
    fields: ['prompt', 'aspect_ratio', 'media'],
    prompt: { mode: 'required' },
    media: {
      required: false,
      max_count: 2,
      accepted: ['jpg', 'jpeg', 'png', 'webp'],
      inputs: [{ key: 'image', required: false, min: 0, max: 2, accepted: ['jpg', 'jpeg', 'png', 'webp'] }],
    },
    options_schema: [
      {
        key: 'aspect_ratio',
        type: 'select',
        label: 'Aspect Ratio',
        required: false,
        default: '1:1',
        options: [
          { value: '1:1', label: '1:1' },
          { value: '16:9', label: '16:9' },
        ],
      },
    ],
  })
})

test('a model whose providers are all switched off is not for sale', async () => {
  await db.prisma.providerSwitch.create({ data: { provider: 'other', enabled: false } })
  const ids = async () => (await customer.get('/models')).body.models.map((model: { id: number }) => model.id)
  await expect.poll(ids, { timeout: 3_000 }).toEqual([20, 5, 7])
  const { status, body } = await customer.post('/orders', { model_id: 9 })
  expect({ status, code: body.error.code }).toEqual({ status: 404, code: 'model_not_found' })
  await db.prisma.providerSwitch.delete({ where: { provider: 'other' } })
})

test('transactions tell what was moved, and the balance after each', async () => {
  const buyer = await addCustomer({ balance: 1_000_000n })
  const { body } = await buyer.post('/orders', picture)
  const page = (await buyer.get('/transactions?limit=1')).body
  expect(page.transactions).toEqual([
    {
      id: expect.any(String),
      type: 'hold',
      amount_usd: '0.05',
      balance_after_usd: '0.95',
      order_id: body.order.id,
      created_at: expect.stringMatching(/Z$/),
    },
  ])
  const rest = (await buyer.get(`/transactions?limit=1&cursor=${page.next_cursor}`)).body
  expect(rest.transactions[0]).toMatchObject({
    type: 'topup',
    amount_usd: '1.00',
    balance_after_usd: '1.00',
    order_id: null,
  })
  expect(rest.next_cursor).toBeNull()
  expect((await buyer.get('/transactions?cursor=x')).body.error.code).toBe('validation_error')
})
