import { z } from 'zod'
import { type Answer, askEach, readAnswer } from './http.ts'
import {
  type Bucket,
  type Fault,
  type Finished,
  type Pending,
  type Provider,
  ProviderError,
  type Ref,
} from './provider.ts'

/*
 * APIXO: one path per model, for submit and for status alike, so a ref is `model/taskId`. The verdict is the body's `code`
 * beside the HTTP status; what the latter is when the former is an error is not documented, so either can refuse. Media go as
 * our signed URLs. It has no idempotency, list or cancel: an unclear submit is only ever settled by its callback.
 */

const API = '/api/v1'

const settings = z.strictObject({ provider: z.enum(['auto', 'value', 'official']).default('auto') }).prefault({})

const envelope = z.object({ code: z.number().optional(), message: z.string().nullish() })
const created = z.object({ data: z.object({ taskId: z.string().min(1) }) })
const status = z.object({
  data: z.object({
    state: z.string(),
    resultJson: z.string().nullish(),
    failCode: z.string().nullish(),
    failMsg: z.string().nullish(),
  }),
})
const made = z.object({ resultUrls: z.array(z.string()).min(1) })
const funds = z.object({ data: z.number() })

/**
 * A file is fetched from a URL of ours, so a failed fetch is rarely the customer's doing. What they find wrong with a prompt
 * or file that passed the model's own rules is our route's mistake.
 */
const FAIL_CODES: ReadonlyMap<string, Fault> = new Map([
  ['CONTENT_VIOLATION', 'content_rejected'],
  ['NSFW_DETECTED', 'content_rejected'],
  ['INVALID_IMAGE_URL', 'media_unreachable'],
  ['IMAGE_DOWNLOAD_FAILED', 'media_unreachable'],
  ['PROMPT_TOO_LONG', 'mapping'],
  ['INVALID_PROMPT', 'mapping'],
  ['UNSUPPORTED_FORMAT', 'mapping'],
  ['IMAGE_TOO_LARGE', 'mapping'],
  ['INSUFFICIENT_CREDITS', 'account_funds'],
])

export const apixo: Provider = {
  kind: 'apixo',
  defaults: {
    limits: { requests_per_minute: 10_000, concurrent: 1_000 },
    poll: { first_ms: 20_000, every_ms: 3_000, deadline_ms: 600_000 },
  },
  settings,
  idempotentSubmit: false,
  callbacks: true,

  async submit(task, { account, http }) {
    const answer = await http.send({
      method: 'POST',
      path: `${API}/generateTask/${encodeURIComponent(task.model)}`,
      bucket: 'submit',
      json: {
        ...(task.callbackUrl
          ? { request_type: 'callback', callback_url: task.callbackUrl }
          : { request_type: 'async' }),
        provider: settings.parse(account.settings).provider,
        input: task.input,
      },
    })
    if (verdict(answer) !== 200) throw refusal(answer, 'submit')
    return { state: 'accepted', ref: refOf(task.model, readAnswer(created, answer, 'submit').data.taskId) }
  },

  poll: (refs, { http }) =>
    askEach(refs, async ref => {
      const [model, taskId] = [ref.slice(0, ref.indexOf('/')), ref.slice(ref.indexOf('/') + 1)]
      const path = `${API}/statusTask/${model}`
      const answer = await http.send({ method: 'GET', path, bucket: 'read', query: { taskId } })
      if (verdict(answer) !== 200) throw refusal(answer, 'read')
      return outcome(readAnswer(status, answer, 'read').data)
    }),

  readCallback(body, model) {
    const taskId = created.safeParse(body).data?.data.taskId
    return taskId === undefined ? undefined : refOf(model, taskId)
  },

  async balance({ http }) {
    const answer = await http.send({ method: 'GET', path: `${API}/apikeys/current-balance`, bucket: 'read' })
    if (verdict(answer) !== 200) throw refusal(answer, 'read')
    return { amount: readAnswer(funds, answer, 'read').data, unit: 'USD' }
  },
}

/** The encoded model holds no slash, so the first one ends it. */
function refOf(model: string, taskId: string): Ref {
  return `${encodeURIComponent(model)}/${taskId}`
}

function outcome({ state, resultJson, failCode, failMsg }: z.infer<typeof status>['data']): Pending | Finished {
  if (state === 'failed') {
    const fault = FAIL_CODES.get(failCode ?? '') ?? 'task_failed'
    return { state: 'failed', fault, message: `${failCode ?? 'no code'}: ${failMsg ?? 'no message'}` }
  }
  if (state !== 'success') return { state: 'pending' }
  const urls = readUrls(resultJson ?? '')
  // `success` is final: waiting would bring no result, only keep the customer until the deadline.
  if (!urls) return { state: 'failed', fault: 'task_failed', message: 'success without a readable result' }
  return { state: 'succeeded', outputs: urls.map(url => ({ url })) }
}

function readUrls(json: string): string[] | undefined {
  try {
    return made.parse(JSON.parse(json)).resultUrls
  } catch {
    return undefined
  }
}

/** 200, or why not: the body's `code` when it is an error, else the HTTP status when that is one. */
function verdict(answer: Answer): number {
  const code = envelope.safeParse(answer.body).data?.code ?? 200
  return code >= 400 || answer.status < 300 ? code : answer.status
}

function refusal(answer: Answer, bucket: Bucket): ProviderError {
  const message = envelope.safeParse(answer.body).data?.message ?? 'no message'
  const code = verdict(answer)
  return new ProviderError(faultOf(code, message, bucket), `${bucket} ${answer.status}/${code}: ${message}`, {
    retryAfterMs: answer.retryAfterMs,
  })
}

/** `code` 400 stands for bad parameters, an empty balance and moderation alike: only the message tells. */
function faultOf(code: number, message: string, bucket: Bucket): Fault {
  if (code === 429) return /concurren/i.test(message) ? 'account_saturated' : 'rate_limited'
  if (code === 401 || code === 403) return 'account_auth'
  if (code === 402 || /insufficient.(credit|balance|fund)/i.test(message)) return 'account_funds'
  // Neither a timeout, a gateway's word nor a verdict nobody documented proves that no task was made.
  if (code < 300 || [408, 502, 504].includes(code)) return bucket === 'submit' ? 'unclear' : 'unavailable'
  if (code >= 500) return 'unavailable'
  return /content.violation|nsfw|safety|moderat/i.test(message) ? 'content_rejected' : 'mapping'
}
