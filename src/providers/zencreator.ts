import { z } from 'zod'
import { type Answer, askEach, readAnswer } from './http.ts'
import {
  type Bucket,
  type Fault,
  type Finished,
  type Media,
  type Pending,
  type Provider,
  ProviderError,
} from './provider.ts'

/*
 * ZenCreator's public API: files become assets, a generation runs one tool. Only `/result` is polled: it carries status and
 * error too, so an order costs one read per look. It has no cancel and no callbacks, and no answer says what was charged.
 */

const API = '/api/public/v1'
const HOUR_MS = 3_600_000
const ASSET_MAX_BYTES = 50 * 1024 * 1024
const ASSET_TYPES = new Set([
  'image/png',
  'image/jpeg',
  'image/jpg',
  'image/webp',
  'image/heic',
  'image/heif',
  'video/mp4',
  'video/mov',
  'video/quicktime',
])
/** Their documented default model is outside our content policy: they never run without a named one. */
const MODEL_REQUIRED = new Set(['by_prompt', 'image_editor', 'videogen'])
/** A key is remembered for 24 hours. Later a replay would be a second generation, so we stop an hour earlier. */
const KEY_LIFE_MS = 23 * HOUR_MS

/** How long an asset is kept is not documented: we upload again after this. */
const settings = z.strictObject({ asset_ttl_hours: z.number().positive().default(24) }).prefault({})

const refused = z.object({ error: z.object({ code: z.string(), message: z.string() }) })
const created = z.object({ id: z.string().min(1) })
const result = z.object({
  status: z.string(),
  outputs: z.array(z.object({ url: z.string(), download_url: z.string().nullish() })).nullish(),
  error: z.string().nullish(),
})
const asset = z.object({ asset_id: z.string().min(1) })
const funds = z.object({ credits: z.number() })

export const zencreator: Provider = {
  kind: 'zencreator',
  defaults: {
    limits: { submits_per_minute: 10, reads_per_minute: 60, uploads_per_minute: 30 },
    poll: { first_ms: 5_000, every_ms: 6_000, deadline_ms: 600_000 },
  },
  settings,
  idempotentSubmit: true,

  async placeMedia(media, { account, http }) {
    refuseMedia(media)
    const answer = await http.send({
      method: 'POST',
      path: `${API}/assets`,
      bucket: 'upload',
      multipart: { fields: { media_type: media.mimeType }, file: media },
    })
    if (answer.status >= 300) throw refusal(answer, 'upload')
    const { asset_ttl_hours } = settings.parse(account.settings)
    return { handle: readAnswer(asset, answer, 'upload').asset_id, ttlMs: asset_ttl_hours * HOUR_MS }
  },

  async submit(task, { http }) {
    if (MODEL_REQUIRED.has(task.model) && !task.input.model) {
      throw new ProviderError('mapping', `${task.model} without input.model: its default is outside our content policy`)
    }
    if (Date.now() - task.submittedAt.getTime() > KEY_LIFE_MS) {
      throw new ProviderError('unclear', 'too late to replay: the idempotency key may be forgotten')
    }
    const answer = await http.send({
      method: 'POST',
      path: `${API}/generations`,
      bucket: 'submit',
      headers: { 'idempotency-key': task.idempotencyKey },
      json: { tool: task.model, input: task.input },
    })
    if (answer.status >= 300) throw refusal(answer, 'submit')
    return { state: 'accepted', ref: readAnswer(created, answer, 'submit').id }
  },

  poll: (refs, { http }) =>
    askEach(refs, async ref => {
      const path = `${API}/generations/${encodeURIComponent(ref)}/result`
      const answer = await http.send({ method: 'GET', path, bucket: 'read' })
      if (answer.status >= 300) throw refusal(answer, 'read')
      return outcome(readAnswer(result, answer, 'read'))
    }),

  async balance({ http }) {
    const answer = await http.send({ method: 'GET', path: `${API}/balance`, bucket: 'read' })
    if (answer.status >= 300) throw refusal(answer, 'read')
    return { amount: readAnswer(funds, answer, 'read').credits, unit: 'credits' }
  },
}

/** A file they would refuse is not sent. It fits the model, so the route is at fault, not the customer. */
function refuseMedia(media: Media): void {
  if (!ASSET_TYPES.has(media.mimeType)) throw new ProviderError('mapping', `assets cannot be ${media.mimeType}`)
  if (media.size > ASSET_MAX_BYTES) throw new ProviderError('mapping', `asset of ${media.size} bytes: at most 50 MB`)
}

/** `partial` is a success when anything was made. A failure gives prose only, no code. */
function outcome({ status, outputs, error }: z.infer<typeof result>): Pending | Finished {
  if (status !== 'succeeded' && status !== 'partial' && status !== 'failed') return { state: 'pending' }
  if (status !== 'failed' && outputs?.length) {
    return { state: 'succeeded', outputs: outputs.map(output => ({ url: output.download_url ?? output.url })) }
  }
  const message = error ?? 'no reason given'
  const moderated = /safety|moderat|policy|nsfw|content/i.test(message)
  return { state: 'failed', fault: moderated ? 'content_rejected' : 'task_failed', message: `${status}: ${message}` }
}

function refusal(answer: Answer, bucket: Bucket): ProviderError {
  const body = refused.safeParse(answer.body).data?.error
  const message = `${bucket} ${answer.status} ${body?.code ?? ''}: ${body?.message ?? 'no message'}`
  return new ProviderError(faultOf(answer.status, body?.message ?? '', bucket), message, {
    retryAfterMs: answer.retryAfterMs ?? (answer.status === 429 ? resetMs(answer) : undefined),
  })
}

function faultOf(status: number, message: string, bucket: Bucket): Fault {
  if (status === 429) return 'rate_limited'
  if (status === 401 || status === 403) return 'account_auth'
  if (status === 402) return 'account_funds'
  // 409: the key is in use. Neither that nor a timeout or a gateway's word proves that nothing runs.
  if (bucket === 'submit' && [408, 409, 502, 504].includes(status)) return 'unclear'
  if (status >= 500) return 'unavailable'
  // An asset that went earlier than `asset_ttl_hours`: another upload helps.
  if (/\basset\b.*(not found|expired|does not exist)/i.test(message)) return 'media_unreachable'
  return 'mapping'
}

/** `X-RateLimit-Reset` is in seconds left here. */
function resetMs(answer: Answer): number | undefined {
  const seconds = Number(answer.headers['x-ratelimit-reset'] ?? Number.NaN)
  return Number.isFinite(seconds) ? Math.max(0, seconds) * 1000 : undefined
}
