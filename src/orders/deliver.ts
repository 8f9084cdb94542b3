import { createHash, randomBytes } from 'node:crypto'
import { Readable, Transform } from 'node:stream'
import { fileTypeFromBuffer } from 'file-type'
import { retryAfter } from '../providers/http.ts'
import { type Call, type Output, type Provider, ProviderError } from '../providers/provider.ts'
import { ApiError } from '../errors.ts'
import { safeFetch } from '../safe-fetch.ts'
import { type AttemptRow, type Engine, type HeldOrder, type Next } from './engine.ts'
import { ORDER_FAULT_MESSAGES } from './order.ts'
import { accountOf } from './submit.ts'

/*
 * A finished attempt: every output is streamed into our storage, then the order completes and the hold is captured. An
 * output that stands already (from before a crash) is not fetched again. A failed fetch is tried again with growing
 * pauses; after the last one the order fails, the hold is released, and the cost is booked as lost. "Too many requests" is no
 * failure: this order waits for as long as it says, the others go on. Nor is a storage of ours that is full or away.
 */

/** Largest output that is mirrored. */
export const MAX_OUTPUT_BYTES = 2 * 1024 ** 3
/** 1 s, 2 s, 4 s, … between tries; about a minute altogether. */
const MAX_DELIVERY_FAILURES = 7
const LATER_MS = 5_000
const LATER_AT_LEAST_MS = 1_000
/** Links to outputs do not live for ever: asked again by then, whatever was said. */
const LATER_AT_MOST_MS = 900_000
/** What waits counts as a failure so long after the attempt's deadline: no order waits for ever. */
const PATIENCE_MS = 3_600_000
const SNIFFED_BYTES = 4_100
/** What an upstream's error page or a script would be: never an output. */
const REFUSED_TYPES = /^(text\/html|application\/(json|problem\+json|xhtml\+xml|javascript)|text\/javascript)/

export async function deliver(engine: Engine, order: HeldOrder, attempt: AttemptRow): Promise<Next> {
  const outputs = JSON.parse(attempt.outputs ?? '[]') as Output[]
  // Whole seconds: what the order says, its links and its row agree.
  const expiresAt = new Date(Math.floor((Date.now() + engine.resultTtlMs) / 1000) * 1000)
  let links: string[]
  try {
    if (outputs.length === 0) throw new Error('the upstream finished without an output')
    links = await mirrorAll(engine, order, attempt, outputs, expiresAt)
  } catch (error) {
    const laterMs = attempt.left_ms > -PATIENCE_MS ? whenLater(error) : undefined
    if (laterMs !== undefined) return { wakeInMs: Math.min(LATER_AT_MOST_MS, Math.max(LATER_AT_LEAST_MS, laterMs)) }
    return undelivered(engine, order, attempt, error as Error)
  }
  engine.reached('mirrored-unsettled')
  await engine.settle({
    orderId: order.id,
    fence: order.fence,
    status: 'completed',
    result: links,
    expiresAt,
    attemptId: attempt.id,
    attemptState: 'succeeded',
  })
  return 'left'
}

/** No budget left to fetch with, the upstream's or ours, and a storage that is away are no failure: when to try again, ms. */
function whenLater(error: unknown): number | undefined {
  if (error instanceof ProviderError && error.fault === 'rate_limited') return error.retryAfterMs ?? LATER_MS
  if (error instanceof ApiError && error.code === 'server_busy') return (error.retryAfter ?? 0) * 1_000
  return undefined
}

const DELIVERED = { name: 'delivered', text: 'SELECT position, token FROM outputs WHERE order_id = $1' }
const KEEP = {
  name: 'keep_output',
  text: `INSERT INTO outputs (token, order_id, position, name, mime_type, size, sha256, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (order_id, position) DO UPDATE SET expires_at = excluded.expires_at RETURNING token`,
}
const EXPIRE = { name: 'expire_outputs', text: 'UPDATE outputs SET expires_at = $2 WHERE order_id = $1' }

async function mirrorAll(
  engine: Engine,
  order: HeldOrder,
  attempt: AttemptRow,
  outputs: readonly Output[],
  expiresAt: Date,
): Promise<string[]> {
  const { account, adapter } = accountOf(engine, attempt)
  if (!account || !adapter) throw new Error('the account left the catalog')
  const call = engine.calls.of(account)
  const rows = order.mirrored ? await engine.db.run<{ position: number; token: string }>(DELIVERED, [order.id]) : []
  const tokens = rows.sort((a, b) => a.position - b.position).map(row => row.token)
  // All of an order's links live equally long, also those that a process mirrored before it died.
  if (rows.length > 0) await engine.db.run(EXPIRE, [order.id, expiresAt])
  for (const [position, output] of outputs.entries()) {
    if (position < tokens.length) continue
    const token = randomBytes(24).toString('base64url')
    const name = `results/${token}`
    const { size, sha256, mimeType } = await mirror(engine, adapter, call, output, name)
    const values = [token, order.id, position, name, mimeType, size, sha256, expiresAt]
    // The token that stands: another process may have mirrored it meanwhile.
    const [kept] = await engine.db.run<{ token: string }>(KEEP, values)
    tokens.push(kept?.token ?? token)
  }
  return tokens.map(token => `${engine.publicUrl}/g/${token}`)
}

interface Mirrored {
  readonly size: number
  readonly sha256: Buffer
  readonly mimeType: string
}

async function mirror(engine: Engine, adapter: Provider, call: Call, output: Output, name: string): Promise<Mirrored> {
  const { body, declared } = await openOutput(adapter, call, output)
  // A stream that breaks after we let go of it is no longer anybody's.
  body.on('error', () => {})
  try {
    const { head, rest } = await peek(body)
    if (head.length === 0) throw new Error('the output is empty')
    const mimeType = typeOf(await fileTypeFromBuffer(head), declared, output.mimeType)
    const hash = createHash('sha256')
    let size = 0
    const count = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        size += chunk.length
        hash.update(chunk)
        done(size > MAX_OUTPUT_BYTES ? new Error(`the output is larger than ${MAX_OUTPUT_BYTES} bytes`) : null, chunk)
      },
    })
    rest.on('error', error => count.destroy(error))
    await engine.storage.put(name, rest.pipe(count), { contentType: mimeType })
    return { size, sha256: hash.digest(), mimeType }
  } finally {
    body.destroy()
  }
}

async function openOutput(
  adapter: Provider,
  call: Call,
  output: Output,
): Promise<{ body: Readable; declared?: string }> {
  const own = await adapter.openOutput?.(output, call)
  if (own) return { body: own }
  const answer = await safeFetch(output.url, { allowOrigin: call.account.baseUrl })
  if (answer.status !== 200) {
    answer.body.destroy()
    if (answer.status === 429)
      throw new ProviderError('rate_limited', 'the output answered 429', {
        retryAfterMs: retryAfter(answer.headers['retry-after']),
      })
    throw new Error(`the output answered ${answer.status}`)
  }
  const declared = answer.headers['content-type']
  const length = Number(answer.headers['content-length'])
  if (length > MAX_OUTPUT_BYTES) {
    answer.body.destroy()
    throw new Error(`the output is larger than ${MAX_OUTPUT_BYTES} bytes`)
  }
  return { body: answer.body, ...(typeof declared === 'string' ? { declared } : {}) }
}

/** The first bytes, and a stream of everything. */
async function peek(body: Readable): Promise<{ head: Buffer; rest: Readable }> {
  const source = body[Symbol.asyncIterator]() as AsyncIterator<Buffer>
  const first: Buffer[] = []
  let size = 0
  let over = false
  while (size < SNIFFED_BYTES && !over) {
    const { value, done } = await source.next()
    if (done) over = true
    else {
      first.push(Buffer.from(value))
      size += value.length
    }
  }
  async function* all() {
    yield* first
    if (over) return
    for (let next = await source.next(); !next.done; next = await source.next()) yield next.value
  }
  return { head: Buffer.concat(first).subarray(0, SNIFFED_BYTES), rest: Readable.from(all(), { objectMode: false }) }
}

/** Content first, then what was declared. Throws for what cannot be a picture, a video or a model. */
function typeOf(
  found: { mime: string } | undefined,
  declared: string | undefined,
  expected: string | undefined,
): string {
  const type = found?.mime ?? declared?.split(';')[0]?.trim().toLowerCase() ?? expected ?? 'application/octet-stream'
  if (REFUSED_TYPES.test(type)) throw new Error(`the output is ${type}`)
  return /^[\w.+-]+\/[\w.+-]+$/.test(type) ? type : 'application/octet-stream'
}

const FAILED_ONCE_MORE = {
  name: 'delivery_failed',
  text: 'UPDATE orders SET delivery_failures = delivery_failures + 1 WHERE id = $1 AND fence = $2',
}

async function undelivered(engine: Engine, order: HeldOrder, attempt: AttemptRow, error: Error): Promise<Next> {
  engine.log.warn(
    { order: order.id, attempt: attempt.id, provider: attempt.provider, reason: error.message },
    'output not mirrored',
  )
  const failures = order.delivery_failures + 1
  if (failures < MAX_DELIVERY_FAILURES) {
    await engine.db.run(FAILED_ONCE_MORE, [order.id, order.fence])
    return { wakeInMs: 1_000 * 2 ** (failures - 1) }
  }
  await engine.settle({
    orderId: order.id,
    fence: order.fence,
    status: 'failed',
    errorCode: 'provider_failed',
    errorMessage: ORDER_FAULT_MESSAGES.provider_failed,
    attemptId: attempt.id,
    attemptState: 'failed',
    fault: 'unavailable',
    faultMessage: `outputs could not be mirrored: ${error.message}`.slice(0, 1_000),
    suspense: attempt.cost ?? attempt.expected_cost,
  })
  return 'left'
}
