import { Readable } from 'node:stream'
import { type Dispatcher, request } from 'undici'
import type { z } from 'zod'
import { type Account, type Bucket, ProviderError } from './provider.ts'

export interface HttpRequest {
  readonly method: 'GET' | 'POST'
  /** Path under the account's base URL, starting with a slash. */
  readonly path: string
  /** Which limiter it counts against; `submit` also decides that a broken answer is unclear. */
  readonly bucket: Bucket
  readonly query?: Readonly<Record<string, string | number>>
  readonly headers?: Readonly<Record<string, string>>
  /** Sent as JSON. */
  readonly json?: unknown
  /** Sent as it is, streamed; `headers` must name the content type. */
  readonly body?: Readable
  /** Time for the whole answer; default 30 s, uploads 10 min. */
  readonly timeoutMs?: number
}

export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | undefined>>
  /** Parsed JSON; undefined when the body is not JSON. */
  readonly body: unknown
  /** From `Retry-After` (seconds or a date), ms from now. */
  readonly retryAfterMs: number | undefined
}

export interface Http {
  /** Sends one request, once, never retried. Resolves for every HTTP status; throws ProviderError when no whole answer came. */
  send(request: HttpRequest): Promise<Answer>
  /** Opens a GET as a stream, with the account's credentials. Throws ProviderError unless the status is 200. */
  download(path: string, bucket?: Bucket): Promise<Readable>
}

/** Takes one request's worth of the account's budget; throws ProviderError rate_limited when there is none left. */
export type TakeBudget = (account: Account, bucket: Bucket) => Promise<void>

const MAX_ANSWER_BYTES = 8 * 1024 * 1024
const CONNECT_CODES = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
])

/** The one way to call an upstream: bearer auth, budget, timeouts, size cap, and what a failure means for the task. */
export function createHttp(
  account: Account,
  options: { take: TakeBudget; dispatcher: Dispatcher; signal?: AbortSignal },
): Http {
  const open = async (r: HttpRequest): Promise<Dispatcher.ResponseData> => {
    await options.take(account, r.bucket)
    const timeout = r.timeoutMs ?? (r.bucket === 'upload' ? 600_000 : 30_000)
    const signals = [AbortSignal.timeout(timeout), ...(options.signal ? [options.signal] : [])]
    try {
      return await request(`${account.baseUrl}${r.path}`, {
        method: r.method,
        dispatcher: options.dispatcher,
        signal: AbortSignal.any(signals),
        headersTimeout: timeout,
        bodyTimeout: timeout,
        ...(r.query ? { query: { ...r.query } } : {}),
        headers: {
          authorization: `Bearer ${account.apiKey}`,
          accept: 'application/json',
          ...(r.json === undefined ? {} : { 'content-type': 'application/json' }),
          ...r.headers,
        },
        body: r.json === undefined ? (r.body ?? null) : JSON.stringify(r.json),
      })
    } catch (error) {
      throw transportError(error, r)
    }
  }

  return {
    async send(r) {
      const response = await open(r)
      const headers = flat(response.headers)
      let text: string
      try {
        text = await readCapped(response.body)
      } catch (error) {
        throw transportError(error, r)
      }
      const body = parseJson(text)
      if (body === undefined && response.statusCode < 300 && r.method === 'POST') {
        const fault = r.bucket === 'submit' ? 'unclear' : 'unavailable'
        throw new ProviderError(fault, `${r.method} ${r.path}: ${response.statusCode} with a body that is not JSON`)
      }
      return { status: response.statusCode, headers, body, retryAfterMs: retryAfter(headers['retry-after']) }
    },
    async download(path, bucket = 'read') {
      const r: HttpRequest = { method: 'GET', path, bucket, timeoutMs: 600_000, headers: { accept: '*/*' } }
      const response = await open(r)
      if (response.statusCode === 200) return response.body
      await response.body.dump()
      const wait = retryAfter(flat(response.headers)['retry-after'])
      throw new ProviderError(
        response.statusCode === 429 ? 'rate_limited' : 'unavailable',
        `GET ${path}: ${response.statusCode}`,
        {
          retryAfterMs: wait,
        },
      )
    },
  }
}

/** Parses an answer's body with a schema of the fields we read. An answer of another shape to a submit is unclear. */
export function readAnswer<T>(schema: z.ZodType<T>, answer: Answer, bucket: Bucket): T {
  const parsed = schema.safeParse(answer.body)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  const message = `answer of an unknown shape (${answer.status}): ${issue?.path.join('.') || 'body'}: ${issue?.message}`
  throw new ProviderError(bucket === 'submit' ? 'unclear' : 'unavailable', message)
}

function transportError(error: unknown, r: HttpRequest): ProviderError {
  if (error instanceof ProviderError) return error
  const code = deepCode(error)
  const message = `${r.method} ${r.path}: ${code ?? (error as Error).name ?? 'failed'}`
  const notSent = code !== undefined && CONNECT_CODES.has(code)
  if (r.bucket !== 'submit' || notSent) return new ProviderError('unavailable', message, { cause: error })
  return new ProviderError('unclear', message, { cause: error })
}

function deepCode(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined
  const code = (error as { code?: unknown }).code
  if (typeof code === 'string') return code
  const inner = error instanceof AggregateError ? error.errors[0] : error.cause
  return deepCode(inner)
}

async function readCapped(body: Readable): Promise<string> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of body) {
    size += (chunk as Buffer).length
    if (size > MAX_ANSWER_BYTES) throw new Error(`answer larger than ${MAX_ANSWER_BYTES} bytes`)
    chunks.push(chunk as Buffer)
  }
  return Buffer.concat(chunks).toString('utf8')
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function flat(headers: Dispatcher.ResponseData['headers']): Record<string, string | undefined> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, Array.isArray(value) ? value[0] : value]),
  )
}

function retryAfter(value: string | undefined): number | undefined {
  if (value === undefined) return undefined
  if (/^\d+(\.\d+)?$/.test(value)) return Number(value) * 1000
  const at = Date.parse(value)
  return Number.isNaN(at) ? undefined : Math.max(0, at - Date.now())
}
