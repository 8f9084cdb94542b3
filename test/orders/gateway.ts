import { createHash } from 'node:crypto'
import { afterAll, expect } from 'vitest'
import type { Attempt } from '../../src/db/prisma/client.ts'
import { verifyLedger } from '../../src/ledger/verify.ts'
import type { OrderView } from '../../src/orders/order.ts'
import { type BuildOptions, build, type CallOptions, type TestAnswer, type TestServer } from '../server.ts'
import type { Simulator } from '../simulators/spec.ts'

/*
 * A genmux with simulated upstreams behind it, working on orders. Everything a customer is answered is kept, so that a test
 * can look for words that must not be in it.
 */

export interface Upstream {
  readonly id: string
  readonly kind: string
  readonly simulator: Simulator
  /** Members of the catalog's provider, over the tests' own: fast polls and no limits to speak of. */
  readonly more?: Readonly<Record<string, unknown>>
}

export interface RouteTo {
  readonly provider: string
  readonly model: string
  /** JSONata; the prompt alone unless given. */
  readonly input?: string
  readonly rank?: number
  readonly cost_usd?: string
}

export interface Gateway extends TestServer {
  /** Places an order for the model; answers with its id. */
  place(model: number, body?: Readonly<Record<string, unknown>>): Promise<string>
  /** The customer's view of it. */
  look(id: string): Promise<OrderView>
  /** Waits until the order is over. */
  ended(id: string, ms?: number): Promise<OrderView>
  /** Places an order and waits until it is over. */
  order(model: number, body?: Readonly<Record<string, unknown>>, ms?: number): Promise<OrderView>
  cancel(id: string): Promise<TestAnswer>
  /** Uploads a picture; answers with its tmp_path. */
  upload(bytes: Buffer, name?: string): Promise<string>
  attempts(orderId: string): Promise<Attempt[]>
  /** Kinds of the order's transfers, in order. */
  transfers(orderId: string): Promise<string[]>
  /** SHA-256 of what its result links give. */
  resultHashes(order: OrderView): Promise<string[]>
  /** What the customer can spend, USD. */
  balance(): Promise<string>
  /** Invariants of the ledger that do not hold. */
  violations(): Promise<unknown[]>
  /** Words of the upstreams that stand in an answer to the customer. */
  leaks(words?: readonly string[]): string[]
  /** Forgets what it learned about accounts: breakers and budgets. */
  forget(): Promise<void>
}

export const COST = 50_000n

const NO_LIMITS = {
  requests_per_minute: 1_000_000,
  submits_per_minute: 1_000_000,
  reads_per_minute: 1_000_000,
  uploads_per_minute: 1_000_000,
  concurrent: 10_000,
}
export const FAST = { first_ms: 50, every_ms: 100, deadline_ms: 20_000 }

/** Starts the simulators and a genmux with a route for each model. Call it at the top of a file. */
export async function gateway(
  options: {
    upstreams: readonly Upstream[]
    /** Routes by model id. */
    models: Readonly<Record<number, readonly RouteTo[]>>
  } & Omit<BuildOptions, 'catalog'>,
): Promise<Gateway> {
  const { upstreams, models, ...rest } = options
  for (const { simulator } of upstreams) {
    if (!simulator.url) await simulator.start()
    afterAll(() => simulator.stop().catch(() => {}))
  }
  const server = await build({ loops: true, ...rest, catalog: catalogOf(upstreams, models) })
  const answers: TestAnswer[] = []
  // On a machine that is busy with other tests it may say so; a client then tries again.
  const call = async (method: string, path: string, options?: CallOptions) => {
    const answer = await until(
      () => server.call(method, path, options),
      ({ body }) => body?.error?.code !== 'server_busy',
    )
    if (answer.body !== undefined) answers.push(answer)
    return answer
  }
  const { key, id: customerId } = server.customer
  const get = (path: string) => call('GET', `/api/v1${path}`, { key })
  const look = async (id: string): Promise<OrderView> => (await get(`/orders/${id}`)).body.order
  const place = async (model: number, body: Readonly<Record<string, unknown>> = {}) => {
    const answer = await call('POST', '/api/v1/orders', { key, body: { model_id: model, prompt: 'a kite', ...body } })
    expect(answer.body, answer.text).toMatchObject({ success: true, order: { status: 'queued' } })
    return answer.body.order.id as string
  }
  const ended = (id: string, ms?: number) => until(() => look(id), isOver, ms)

  return {
    ...server,
    call,
    look,
    place,
    ended,
    order: async (model, body, ms) => ended(await place(model, body), ms),
    cancel: id => call('POST', `/api/v1/orders/${id}/cancel`, { key }),
    async upload(bytes, name = 'kite.png') {
      const form = new FormData()
      form.set('file', new Blob([new Uint8Array(bytes)]), name)
      const { headers, body } = await bodyOf(form)
      const answer = await call('POST', '/api/v1/upload', { key, headers, body })
      expect(answer.status).toBe(201)
      return answer.body.upload.tmp_path as string
    },
    attempts: orderId => server.db.prisma.attempt.findMany({ where: { orderId }, orderBy: { n: 'asc' } }),
    async transfers(orderId) {
      const found = await server.db.prisma.transfer.findMany({ where: { orderId }, orderBy: { id: 'asc' } })
      return found.map(({ kind }) => kind)
    },
    resultHashes: order =>
      Promise.all(
        order.result.map(async link => {
          const answer = await server.call('GET', new URL(link).pathname)
          expect(answer.status).toBe(200)
          return createHash('sha256').update(answer.bytes).digest('hex')
        }),
      ),
    async balance() {
      const customer = await server.db.prisma.customer.findUniqueOrThrow({ where: { id: customerId } })
      return (Number(customer.available) / 1e6).toFixed(2)
    },
    violations: async () => (await verifyLedger(server.db)).filter(({ violations }) => violations > 0),
    leaks(words = []) {
      const secret = [
        ...words,
        ...upstreams.flatMap(({ id, kind, simulator }) => [
          id,
          kind,
          new URL(simulator.url).host,
          ...simulator.keys,
          ...simulator.tasks.all().map(task => task.id),
        ]),
        'att_',
        'simulator',
      ]
      expect(answers.length).toBeGreaterThan(0)
      return secret.filter(word =>
        answers.some(({ text, headers }) => text.includes(word) || [...headers.values()].some(v => v.includes(word))),
      )
    },
    async forget() {
      await server.db.pool.query('DELETE FROM upstream_accounts; DELETE FROM upstream_budgets')
    },
  }
}

/** JSON is YAML. */
function catalogOf(upstreams: readonly Upstream[], models: Readonly<Record<number, readonly RouteTo[]>>): string {
  return JSON.stringify({
    providers: upstreams.map(({ id, kind, simulator, more }) => ({
      id,
      kind,
      base_url: simulator.url,
      accounts: [{ id: 'main', api_key: simulator.apiKey }],
      limits: NO_LIMITS,
      poll: FAST,
      ...more,
    })),
    models: Object.entries(models).map(([id, routes]) => ({
      id: Number(id),
      name: `Model ${id}`,
      type: 'image',
      price_usd: '0.06',
      prompt: { mode: 'optional' },
      media: { max_count: 2, accepted: ['png', 'jpg'], inputs: [{ key: 'image', min: 0, max: 2 }] },
      routes: routes.map((route, i) => ({
        input: '{ "prompt": prompt }',
        cost_usd: '0.05',
        rank: i + 1,
        ...route,
      })),
    })),
  })
}

export function isOver({ status }: OrderView): boolean {
  return status === 'completed' || status === 'failed' || status === 'cancelled'
}

/** Asks until the condition holds; throws after `ms`, saying what it saw last. */
export async function until<T>(ask: () => T | Promise<T>, holds: (value: T) => boolean, ms = 10_000): Promise<T> {
  const end = Date.now() + ms
  for (;;) {
    const value = await ask()
    if (holds(value)) return value
    if (Date.now() > end) throw new Error(`not within ${ms} ms; last: ${JSON.stringify(value)}`)
    await new Promise(done => setTimeout(done, 25))
  }
}

/** SHA-256 of the files of all tasks of an upstream, in the order of the tasks. */
export function madeHashes(simulator: Simulator): string[] {
  return simulator.tasks.all().flatMap(task => task.outputs().map(file => file.sha256))
}

export function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}

async function bodyOf(form: FormData): Promise<{ headers: Record<string, string>; body: Buffer }> {
  const request = new Request('http://localhost', { method: 'POST', body: form })
  return {
    headers: { 'content-type': request.headers.get('content-type') ?? '' },
    body: Buffer.from(await request.arrayBuffer()),
  }
}
