import { createHash } from 'node:crypto'
import { parseMoney } from '../../src/money.ts'
import { makePng } from '../simulators/files.ts'
import { EDIT_MODEL_ID } from './catalog.ts'
import type { History, Placement, Reply } from './history.ts'
import { type Action, type ActionName, actionAt } from './plan.ts'

/** Everything a customer needs to be driven. */
export interface Market {
  readonly seed: number
  readonly adminToken: string
  /** Origins of the api processes. */
  readonly apis: readonly string[]
  readonly modelIds: readonly number[]
  readonly history: History
}

export interface Customer {
  readonly index: number
  readonly id: string
  readonly key: string
}

const REQUEST_TIMEOUT_MS = 60_000

interface Request {
  readonly operation: string
  readonly url: string
  readonly token: string
  readonly method?: 'GET' | 'POST'
  readonly body?: unknown
  readonly idempotencyKey?: string
}

/** One request; undefined when no whole answer came. */
export async function send(history: History, request: Request): Promise<Reply | undefined> {
  const { operation, url, token, body, idempotencyKey } = request
  const form = body instanceof FormData
  const began = performance.now()
  try {
    const response = await fetch(url, {
      method: request.method ?? (body === undefined ? 'GET' : 'POST'),
      headers: {
        authorization: `Bearer ${token}`,
        ...(body === undefined || form ? {} : { 'content-type': 'application/json' }),
        ...(idempotencyKey === undefined ? {} : { 'idempotency-key': idempotencyKey }),
      },
      body: body === undefined ? null : form ? body : JSON.stringify(body),
      signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
    })
    const text = await response.text()
    const reply = { status: response.status, text, retryAfter: response.headers.get('retry-after'), json: parse(text) }
    history.answered(operation, reply)
    return reply
  } catch {
    history.unanswered(operation, performance.now() - began)
    return undefined
  }
}

function parse(text: string): Reply['json'] {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Repeats a request, at one api process after the other, until it is answered other than 503. */
export async function insist(market: Market, path: string, request: Omit<Request, 'url'>): Promise<Reply> {
  for (let i = 0; ; i++) {
    const reply = await send(market.history, { ...request, url: market.apis[i % market.apis.length] + path })
    if (reply && reply.status !== 503) return reply
    await new Promise(done => setTimeout(done, 200))
  }
}

/** A new customer with a key and money. */
export async function createCustomer(
  market: Market,
  index: number,
  usd: string,
  settings: object = { max_active_orders: 500 },
): Promise<Customer> {
  const token = market.adminToken
  const ask = (path: string, body: unknown) => insist(market, `/admin/v1${path}`, { operation: 'admin', token, body })
  const { json } = await ask('/customers', { name: `Customer ${index}`, ...settings })
  const { id } = json.customer
  const made = await ask(`/customers/${id}/keys`, { name: 'chaos' })
  const customer = { index, id, key: made.json.key.secret }
  await topUp(market, customer, usd, `first-${index}`)
  return customer
}

async function topUp(market: Market, customer: Customer, usd: string, key: string): Promise<void> {
  const topup = { customer: customer.index, key, micros: parseMoney(usd) ?? 0n, done: false }
  market.history.topups.push(topup)
  const request = { operation: 'topup', token: market.adminToken, body: { amount_usd: usd }, idempotencyKey: key }
  const { status, text } = await insist(market, `/admin/v1/customers/${customer.id}/topups`, request)
  topup.done = status === 201
  if (!topup.done) market.history.violations.push(`a top-up was refused: ${text}`)
}

/** Does one planned thing after the other until it is told to stop. */
export async function drive(market: Market, customer: Customer, going: () => boolean): Promise<void> {
  const mine: Placement[] = []
  const uploads: string[] = []
  for (let step = 0; going(); step++) {
    const action = actionAt(market.seed, customer.index, step, market.modelIds)
    await DOING[action.name]({ market, customer, mine, uploads, step, action })
    await new Promise(done => setTimeout(done, action.pauseMs))
  }
}

interface Doing {
  readonly market: Market
  readonly customer: Customer
  readonly mine: Placement[]
  readonly uploads: string[]
  readonly step: number
  readonly action: Action
}

const DOING: Record<ActionName, (doing: Doing) => Promise<void>> = {
  async place(doing) {
    const { market, customer, mine, uploads, step, action } = doing
    const [file] = uploads.slice(-1)
    if (action.modelId === EDIT_MODEL_ID && file === undefined) return DOING.upload(doing)
    const prompt = `chaos ${market.seed} c${customer.index} s${step}`
    const placement: Placement = {
      customer: customer.index,
      key: `k-${customer.index}-${step}`,
      modelId: action.modelId,
      prompt,
      body: {
        model_id: action.modelId,
        prompt,
        ...(action.modelId === EDIT_MODEL_ID ? { media: { image: [file] } } : {}),
      },
    }
    mine.push(placement)
    market.history.placements.push(placement)
    await place(market, customer, placement, action.api)
  },

  async retry({ market, customer, mine, action }) {
    const placement = pickLate(mine, action.pick)
    if (placement) await place(market, customer, placement, action.api)
  },

  async conflict({ market, customer, mine, action }) {
    const placement = pickLate(mine, action.pick)
    if (placement?.answer === undefined) return
    const reply = await send(market.history, {
      operation: 'conflict',
      url: `${market.apis[action.api]}/api/v1/orders`,
      token: customer.key,
      body: { ...placement.body, prompt: 'something else' },
      idempotencyKey: placement.key,
    })
    if (reply && reply.status !== 503 && reply.json?.error?.code !== 'idempotency_conflict')
      market.history.violations.push(`other data under the key ${placement.key} was answered ${reply.text}`)
  },

  async poll(doing) {
    await look(doing, pickLate(doing.mine, doing.action.pick))
  },

  async cancel({ market, customer, mine, action }) {
    const orderId = pickLate(mine, action.pick)?.orderId
    if (orderId === undefined) return
    const url = `${market.apis[action.api]}/api/v1/orders/${orderId}/cancel`
    const reply = await send(market.history, { operation: 'cancel', url, token: customer.key, method: 'POST' })
    if (reply?.json?.order) market.history.saw(reply.json.order)
    if (reply?.status === 200 && reply.json.order.status !== 'cancelled')
      market.history.violations.push(`a cancel was confirmed, but the order is not cancelled: ${reply.text}`)
  },

  async upload({ market, customer, uploads, step, action }) {
    const body = new FormData()
    const bytes = new Uint8Array(makePng(customer.index * 65_536 + step))
    body.set('file', new Blob([bytes], { type: 'image/png' }), `picture-${step}.png`)
    const url = `${market.apis[action.api]}/api/v1/upload`
    const reply = await send(market.history, { operation: 'upload', url, token: customer.key, body })
    if (reply?.status === 201) uploads.push(reply.json.upload.tmp_path)
  },

  async topup({ market, customer, step }) {
    await topUp(market, customer, '0.75', `t-${customer.index}-${step}`)
  },

  async list({ market, customer, action }) {
    const url = `${market.apis[action.api]}/api/v1/orders?limit=50`
    const reply = await send(market.history, { operation: 'list', url, token: customer.key })
    if (reply?.status === 200) for (const order of reply.json.orders) market.history.saw(order)
  },

  async balance({ market, customer, action }) {
    const url = `${market.apis[action.api]}/api/v1/balance`
    await send(market.history, { operation: 'balance', url, token: customer.key })
  },

  async download(doing) {
    const link = (await look(doing, pickLate(doing.mine, doing.action.pick)))?.result[0]
    if (link !== undefined) await download(doing.market.history, link)
  },
}

async function look({ market, customer, action }: Doing, placement: Placement | undefined) {
  if (placement?.orderId === undefined) return undefined
  const url = `${market.apis[action.api]}/api/v1/orders/${placement.orderId}`
  const reply = await send(market.history, { operation: 'poll', url, token: customer.key })
  if (reply?.status === 404) market.history.violations.push(`order ${placement.orderId} was answered 201, then 404`)
  if (reply?.status !== 200) return undefined
  market.history.saw(reply.json.order)
  return reply.json.order as { result: string[] }
}

/** Reads a result link; its bytes are compared with the upstream's at the end. */
export async function download(history: History, link: string): Promise<void> {
  const token = link.slice(link.lastIndexOf('/') + 1)
  try {
    const response = await fetch(link, { signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) })
    const bytes = Buffer.from(await response.arrayBuffer())
    if (response.status === 503) return
    if (response.status !== 200) history.violations.push(`result link ${link} answered ${response.status}`)
    else history.downloads.set(token, createHash('sha256').update(bytes).digest('hex'))
  } catch {
    // A killed process cuts its downloads.
  }
}

/** Unanswered, the same is asked of the other api at once: both may be at work on it. */
async function place(market: Market, customer: Customer, placement: Placement, api: number): Promise<void> {
  for (const origin of [market.apis[api], market.apis[1 - api]]) {
    const reply = await send(market.history, {
      operation: 'place',
      url: `${origin}/api/v1/orders`,
      token: customer.key,
      body: placement.body,
      idempotencyKey: placement.key,
    })
    if (!reply) continue
    market.history.placed(placement, reply)
    return
  }
}

/** Mostly one of the newest. */
function pickLate<T>(items: readonly T[], pick: number): T | undefined {
  return items[items.length - 1 - Math.floor(pick ** 3 * items.length)]
}
