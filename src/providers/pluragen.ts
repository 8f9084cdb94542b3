import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { parseMoney } from '../money.ts'
import { type Answer, askEach, readAnswer } from './http.ts'
import {
  type Bucket,
  type Call,
  type Fault,
  type Finished,
  type Pending,
  type Provider,
  ProviderError,
} from './provider.ts'

/*
 * Pluragen, the API ours is modelled on. `model` is its numeric model id, a route's `input` the rest of the order's body. A
 * replay of a key gives the order it made, whatever has become of it since; with another body it is refused.
 */

const API = '/api/v1'
/** Files are kept for 24 hours; an order must be made before. */
const UPLOAD_TTL_MS = 23 * 3_600_000
/** A file that is converted over there is asked about this often, this many times. */
const CONVERSION = { everyMs: 1_000, times: 120 }

const Order = z.object({
  order: z.object({
    id: z.string().min(1),
    status: z.string(),
    cost_usd: z.string().nullish(),
    result: z.array(z.string()).nullish(),
    /** Its form is not documented. */
    error: z.unknown().optional(),
  }),
})
const Upload = z.object({
  upload: z.object({ tmp_path: z.string().min(1), status: z.string(), error: z.unknown().optional() }),
})
const Balance = z.object({ balance_usd: z.string() })
const Refusal = z.object({
  success: z.literal(false),
  error: z.object({ code: z.string(), message: z.string().nullish() }),
})

/** What a code means for a submit or an upload; a code that is missing goes by its HTTP status. */
const FAULTS: Readonly<Record<string, Fault>> = {
  unauthorized: 'account_auth',
  insufficient_balance: 'account_funds',
  too_many_active_orders: 'account_saturated',
  // Files are ready before they are used, so this passes by itself; the same bytes are good again.
  upload_processing: 'rate_limited',
  file_not_found: 'media_unreachable',
  file_expired: 'media_unreachable',
  server_busy: 'unavailable',
  internal_error: 'unavailable',
  cancel_failed: 'unavailable',
  // Something stands under our key, though not with these bytes.
  idempotency_conflict: 'unclear',
}

export const pluragen: Provider = {
  kind: 'pluragen',
  // No limits are documented; a 429 is heeded when it comes.
  defaults: { limits: {}, poll: { first_ms: 4_000, every_ms: 3_000, deadline_ms: 900_000 } },
  settings: z.strictObject({}).default({}),
  idempotentSubmit: true,

  unusable(model) {
    return /^\d{1,9}$/.test(model) ? undefined : `model must be the number of a Pluragen model, not ${model}`
  },

  async placeMedia(media, { http }) {
    const sent = await http.send({
      method: 'POST',
      path: `${API}/upload`,
      bucket: 'upload',
      multipart: { file: media },
    })
    let { upload } = readAnswer(Upload, succeeded(sent, 'upload'), 'upload')
    const query = { tmp_path: upload.tmp_path }
    for (let i = 0; upload.status === 'processing' && i < CONVERSION.times; i++) {
      await sleep(CONVERSION.everyMs)
      const answer = await http.send({ method: 'GET', path: `${API}/upload/status`, bucket: 'read', query })
      upload = readAnswer(Upload, succeeded(answer, 'read'), 'read').upload
    }
    if (upload.status === 'ready') return { handle: upload.tmp_path, ttlMs: UPLOAD_TTL_MS }
    throw new ProviderError('media_unreachable', `upload ${upload.status}: ${JSON.stringify(upload.error ?? null)}`)
  },

  async submit(task, { http }) {
    const answer = await http.send({
      method: 'POST',
      path: `${API}/orders`,
      bucket: 'submit',
      headers: { 'idempotency-key': task.idempotencyKey },
      json: { model_id: Number(task.model), ...task.input },
    })
    const { order } = readAnswer(Order, succeeded(answer, 'submit'), 'submit')
    const state = stateOf(order)
    return state.state === 'pending' ? { state: 'accepted', ref: order.id, cost: costOf(order) } : state
  },

  poll: (refs, { http }) =>
    askEach(refs, async ref => {
      const answer = await http.send({
        method: 'GET',
        path: `${API}/orders/${encodeURIComponent(ref)}`,
        bucket: 'read',
      })
      return stateOf(readAnswer(Order, succeeded(answer, 'read'), 'read').order)
    }),

  async cancel(ref, { http }) {
    const path = `${API}/orders/${encodeURIComponent(ref)}/cancel`
    const answer = await http.send({ method: 'POST', path, bucket: 'read' })
    const code = Refusal.safeParse(answer.body).data?.error.code
    if (code === 'not_ready') return 'too_early'
    if (code === 'cancel_pending') return 'requested'
    if (code === 'cannot_cancel') return 'too_late'
    const { order } = readAnswer(Order, succeeded(answer, 'read'), 'read')
    const { state } = stateOf(order)
    return state === 'cancelled' ? 'confirmed' : state === 'pending' ? 'requested' : 'too_late'
  },

  async balance({ http }: Call) {
    const answer = await http.send({ method: 'GET', path: `${API}/balance`, bucket: 'read' })
    return { amount: Number(readAnswer(Balance, succeeded(answer, 'read'), 'read').balance_usd), unit: 'USD' }
  },
}

function stateOf(order: z.infer<typeof Order>['order']): Pending | Finished {
  const { id, status, result } = order
  if (status === 'cancelled') return { state: 'cancelled' }
  if (status === 'failed') {
    const message = JSON.stringify(order.error ?? null)
    const moderated = /content|safety|moderat|policy|nsfw/i.test(message)
    return { state: 'failed', fault: moderated ? 'content_rejected' : 'task_failed', message }
  }
  if (status !== 'completed') return { state: 'pending' }
  // `completed` is final: waiting would bring no result.
  if (!result?.length) return { state: 'failed', fault: 'task_failed', message: 'completed without a result' }
  return { state: 'succeeded', ref: id, outputs: result.map(url => ({ url })), cost: costOf(order) }
}

/** Whether a failed or cancelled order is paid back is not documented, so only a success names its cost anew. */
function costOf(order: z.infer<typeof Order>['order']): bigint | undefined {
  return parseMoney(order.cost_usd ?? '')
}

/** The answer, unless it is a refusal: then its ProviderError is thrown. */
function succeeded(answer: Answer, bucket: Bucket): Answer {
  if (answer.status < 300 && !Refusal.safeParse(answer.body).success) return answer
  throw refusal(answer, bucket)
}

function refusal(answer: Answer, bucket: Bucket): ProviderError {
  const error = Refusal.safeParse(answer.body).data?.error
  const fault = FAULTS[error?.code ?? ''] ?? statusFault(answer.status, bucket)
  const message = `${bucket} ${answer.status} ${error?.code ?? ''}: ${error?.message ?? 'no message'}`
  const wait = error?.code === 'upload_processing' ? CONVERSION.everyMs : undefined
  return new ProviderError(fault, message, { retryAfterMs: answer.retryAfterMs ?? wait })
}

function statusFault(status: number, bucket: Bucket): Fault {
  if (status === 429) return 'rate_limited'
  if (status === 401 || status === 403) return 'account_auth'
  // A gateway's answer: what stands behind it may have made the order.
  if (bucket === 'submit' && (status === 408 || status === 502 || status === 504)) return 'unclear'
  return status >= 500 || bucket === 'read' ? 'unavailable' : 'mapping'
}
