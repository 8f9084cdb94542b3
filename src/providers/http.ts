import type { Readable } from 'node:stream'
import { type Dispatcher, request } from 'undici'
import type { z } from 'zod'
import { type Multipart, multipartBody } from './multipart.ts'
import {
  type Account,
  type Bucket,
  type Fault,
  type Finished,
  type Pending,
  ProviderError,
  type Ref,
} from './provider.ts'

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
  /** Sent as multipart/form-data, streamed: text fields first, then one file. */
  readonly multipart?: Multipart
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
  /**
   * Opens a GET as a stream, with the account's credentials. Throws ProviderError unless the status is 200; task_failed when
   * the file is gone (404, 410). An error of the stream afterwards is a plain Error.
   */
  download(path: string, bucket?: Bucket): Promise<Readable>
}

/** Takes one request's worth of the account's budget; throws ProviderError rate_limited when there is none left. */
export type TakeBudget = (account: Account, bucket: Bucket) => Promise<void>

const MAX_ANSWER_BYTES = 8 * 1024 * 1024
/** Codes of failures before the request's first byte. All others leave open whether the upstream has it. */
const UNSENT = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_INVALID_ARG',
])
const BAD_CERTIFICATE = /^(CERT_|ERR_TLS_CERT_|UNABLE_TO_|SELF_SIGNED_CERT_|DEPTH_ZERO_)/

/** The one way to call an upstream: bearer auth, budget, timeouts, size cap, and what a failure means for the task. */
export function createHttp(
  account: Account,
  options: { take: TakeBudget; dispatcher: Dispatcher; signal?: AbortSignal },
): Http {
  const open = async (r: HttpRequest): Promise<Dispatcher.ResponseData> => {
    await options.take(account, r.bucket)
    const { headers, body } = payload(r)
    const timeout = r.timeoutMs ?? (r.bucket === 'upload' ? 600_000 : 30_000)
    // Not AbortSignal.timeout, which holds on to the answer until the time is up: too much with a thousand polls a second.
    const late = new AbortController()
    const timer = setTimeout(() => late.abort(new DOMException('aborted by its timeout', 'TimeoutError')), timeout)
    try {
      const response = await request(`${account.baseUrl}${r.path}`, {
        method: r.method,
        dispatcher: options.dispatcher,
        signal: options.signal ? AbortSignal.any([late.signal, options.signal]) : late.signal,
        headersTimeout: timeout,
        bodyTimeout: timeout,
        ...(r.query ? { query: { ...r.query } } : {}),
        headers: { authorization: `Bearer ${account.apiKey}`, accept: 'application/json', ...headers, ...r.headers },
        body,
      })
      response.body.once('close', () => clearTimeout(timer))
      return response
    } catch (error) {
      clearTimeout(timer)
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
      const body = parseJson(withoutKey(text, account.apiKey))
      if (body === undefined && response.statusCode < 300 && r.bucket === 'submit') {
        throw new ProviderError('unclear', `${r.method} ${r.path}: ${response.statusCode} with a body that is not JSON`)
      }
      return { status: response.statusCode, headers, body, retryAfterMs: retryAfter(headers['retry-after']) }
    },
    async download(path, bucket = 'read') {
      const r: HttpRequest = { method: 'GET', path, bucket, timeoutMs: 600_000, headers: { accept: '*/*' } }
      const response = await open(r)
      if (response.statusCode === 200) return response.body
      await response.body.dump()
      throw new ProviderError(downloadFault(response.statusCode), `GET ${path}: ${response.statusCode}`, {
        retryAfterMs: retryAfter(flat(response.headers)['retry-after']),
      })
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

/** How many questions one poll has open at a time. */
const PARALLEL_ASKS = 32

/**
 * Asks about each ref by itself, as an adapter's `poll` does where the API has no list. A ref whose request failed is left
 * out; when all failed, the first one's ProviderError is thrown. A spent budget ends the round.
 */
export async function askEach(
  refs: readonly Ref[],
  ask: (ref: Ref) => Promise<Pending | Finished>,
): Promise<Map<Ref, Pending | Finished>> {
  const states = new Map<Ref, Pending | Finished>()
  const errors: ProviderError[] = []
  const left = refs.values()
  const work = async () => {
    for (const ref of left) {
      try {
        states.set(ref, await ask(ref))
      } catch (error) {
        if (!(error instanceof ProviderError)) throw error
        errors.push(error)
        if (error.fault === 'rate_limited') return
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(PARALLEL_ASKS, refs.length) }, work))
  if (states.size === 0 && errors[0]) throw errors[0]
  return states
}

function payload(r: HttpRequest): { headers: Record<string, string>; body: string | Readable | null } {
  if (r.multipart) return multipartBody(r.multipart)
  if (r.json === undefined) return { headers: {}, body: null }
  return { headers: { 'content-type': 'application/json' }, body: JSON.stringify(r.json) }
}

function downloadFault(status: number): Fault {
  if (status === 429) return 'rate_limited'
  if (status === 401 || status === 403) return 'account_auth'
  return status === 404 || status === 410 ? 'task_failed' : 'unavailable'
}

/** A submit that got no whole answer is unclear, unless the connection was never made. */
function transportError(error: unknown, r: HttpRequest): ProviderError {
  const code = deepCode(error)
  const message = `${r.method} ${r.path}: ${code ?? (error as Error).name}`
  const unsent = code !== undefined && (UNSENT.has(code) || BAD_CERTIFICATE.test(code))
  return new ProviderError(r.bucket === 'submit' && !unsent ? 'unclear' : 'unavailable', message, { cause: error })
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

/** Some APIs quote the key they refuse, and what an adapter quotes of an answer ends in logs. A short key may be any word. */
function withoutKey(text: string, key: string): string {
  return key.length < 16 ? text : text.replaceAll(key, '[key]')
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

/** `Retry-After`, seconds or a date, as ms from now, at most a day; undefined when there is none that can be read. */
export function retryAfter(value: string | undefined): number | undefined {
  if (value === undefined) return undefined
  const ms = /^\d+(\.\d+)?$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now()
  return Number.isNaN(ms) ? undefined : Math.min(86_400_000, Math.max(0, ms))
}
