import { z } from 'zod'
import { type Answer, readAnswer } from './http.ts'
import {
  type Account,
  type Bucket,
  type Call,
  type Fault,
  type Finished,
  type Provider,
  ProviderError,
  type Task,
} from './provider.ts'

/*
 * A synchronous API: one POST answers, after half a minute or more, with the finished output. There is no task id before
 * that, so an answer that never came is looked up among the account's projects, by prompt and time.
 */

/** Their clock and ours may differ by this much, ms. */
const CLOCK_SKEW = 10_000
const PAGES = 2

const Path = z.string().startsWith('/')
const Settings = z.strictObject({
  /** How long one generation may take, ms. */
  timeout_ms: z.int().min(180_000).default(240_000),
  /** The API documents what these take and answer, but not where they are. */
  paths: z.strictObject({ videos: Path.optional(), model3d: Path.optional() }).default({}),
})

const File = z.object({ url: z.string(), content_type: z.string().optional().catch(undefined) })
const Generated = z.object({
  success: z.literal(true),
  data: z
    .object({
      images: z.array(File).min(1).optional(),
      video: File.extend({ generation_id: z.string().optional() }).optional(),
      model: File.extend({ generation_id: z.string().optional() }).optional(),
      generation_id: z.string().optional(),
    })
    .refine(data => data.images ?? data.video ?? data.model, 'no output'),
})
const Time = z.string().refine(text => !Number.isNaN(Date.parse(text)), 'a time')
const Listed = z.object({
  data: z.object({
    projects: z.array(z.object({ id: z.string(), prompt: z.string().nullish(), created_at: Time, url: z.string() })),
    pagination: z.object({ has_more: z.boolean() }),
  }),
})
const Refused = z.object({ error: z.string() })

type Kind = 'images' | 'videos' | 'model3d'

export const oneshot: Provider = {
  kind: 'oneshot',
  // 100 an hour is documented for the smallest plan. Serial, because identical prompts cannot be told apart afterwards.
  defaults: {
    limits: { requests_per_minute: 1, concurrent: 1 },
    poll: { first_ms: 30_000, every_ms: 30_000, deadline_ms: 300_000 },
  },
  settings: Settings,
  idempotentSubmit: false,

  unusable(model, account) {
    const kind = kindOf(model)
    return pathOf(kind, account) === undefined
      ? `settings.paths.${kind} is not set: the API does not document it`
      : undefined
  },

  async submit(task, call) {
    const kind = kindOf(task.model)
    const path = pathOf(kind, call.account)
    if (path === undefined) throw new ProviderError('mapping', `no path for ${kind}`)
    const answer = await call.http.send({
      method: 'POST',
      path,
      bucket: 'submit',
      json: kind === 'model3d' ? task.input : { ...task.input, model: task.model },
      timeoutMs: settingsOf(call.account).timeout_ms,
    })
    if (isRefused(answer)) {
      const error = refusal(answer, 'submit')
      // An ordinary answer comes when the task is over: what it says is the task's end.
      if (answer.status >= 300 || error.fault === 'account_funds') throw error
      return { state: 'failed', fault: error.fault, message: error.message }
    }
    const { images, video, model, generation_id } = readAnswer(Generated, answer, 'submit').data
    const ref = generation_id ?? video?.generation_id ?? model?.generation_id
    const files = images ?? [video ?? model].filter(file => file !== undefined)
    return {
      state: 'succeeded',
      ...(ref === undefined ? {} : { ref }),
      outputs: files.map(file => ({ url: file.url, mimeType: file.content_type })),
    }
  },

  async reconcile(task, call) {
    const { prompt, num_images: count = 1 } = task.input
    if (typeof prompt !== 'string') return 'unknown'
    const found = await projectsSince(task, call)
    const matches = found?.filter(project => project.prompt === prompt)
    // A project has one URL, so several images cannot be proven whole; nor can two equal prompts be told apart.
    if (!matches || matches.length > 1 || (matches.length === 1 && count !== 1)) return 'unknown'
    const [project] = matches
    if (project) return { state: 'succeeded', ref: project.id, outputs: [{ url: project.url }] } satisfies Finished
    // It is listed only when it is done, so until then its absence proves nothing.
    const over = Date.now() - task.submittedAt.getTime() > settingsOf(call.account).timeout_ms
    return over ? 'absent' : 'unknown'
  },
}

/** The projects made since the task was sent; undefined when they are too many to have seen them all. */
async function projectsSince(task: Task, call: Call) {
  const type = kindOf(task.model) === 'videos' ? 'videos' : 'images'
  const since = task.submittedAt.getTime() - CLOCK_SKEW
  const recent: z.infer<typeof Listed>['data']['projects'] = []
  for (let page = 1; page <= PAGES; page++) {
    const query = { type, page, limit: 100, sort: 'createdAt', order: 'desc' }
    const answer = await call.http.send({ method: 'GET', path: '/api/v1/projects', bucket: 'read', query })
    if (isRefused(answer)) throw refusal(answer, 'read')
    const { projects, pagination } = readAnswer(Listed, answer, 'read').data
    const fresh = projects.filter(project => Date.parse(project.created_at) >= since)
    recent.push(...fresh)
    if (fresh.length < projects.length || !pagination.has_more) return recent
  }
  return undefined
}

function settingsOf(account: Account): z.infer<typeof Settings> {
  return Settings.parse(account.settings ?? {})
}

function kindOf(model: string): Kind {
  if (model === 'image-to-3d') return 'model3d'
  return model === 'vidu-q2' || model === 'ltx-2' ? 'videos' : 'images'
}

function pathOf(kind: Kind, account: Account): string | undefined {
  return kind === 'images' ? '/api/v1/images' : settingsOf(account).paths[kind]
}

function isRefused(answer: Answer): boolean {
  return answer.status >= 300 || Refused.safeParse(answer.body).success
}

function refusal(answer: Answer, bucket: Bucket): ProviderError {
  const text = Refused.safeParse(answer.body).data?.error ?? 'no message'
  const fault = faultOf(answer.status, text, bucket)
  return new ProviderError(fault, `${bucket} ${answer.status}: ${text}`, {
    retryAfterMs: fault === 'rate_limited' ? untilReset(answer) : undefined,
  })
}

/** The document names only success and an `error` text: the HTTP status decides, then the words. */
function faultOf(status: number, text: string, bucket: Bucket): Fault {
  if (status === 429) return 'rate_limited'
  if (status === 401) return 'account_auth'
  if (status === 403) return /plan|tier|upgrade/i.test(text) ? 'account_tier' : 'account_auth'
  // Whatever broke, it may have been made and paid: the projects tell.
  if (status >= 500 || status === 408) return bucket === 'submit' ? 'unclear' : 'unavailable'
  if (/content|safety|nsfw|moderat/i.test(text)) return 'content_rejected'
  if (status === 402 || /insufficient|not enough|points/i.test(text)) return 'account_funds'
  if (bucket === 'read') return 'unavailable'
  return status < 300 ? 'task_failed' : 'mapping'
}

/** `X-RateLimit-Reset` is a Unix time in seconds here. */
function untilReset(answer: Answer): number | undefined {
  const reset = Number(answer.headers['x-ratelimit-reset'] ?? Number.NaN)
  return Number.isFinite(reset) ? Math.max(0, reset * 1000 - Date.now()) : answer.retryAfterMs
}
