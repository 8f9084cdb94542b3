import { z } from 'zod'
import { parseMoney } from '../money.ts'
import { type Answer, askEach, readAnswer } from './http.ts'
import type { Account, Bucket, Call, Fault, Finished, Media, Pending, Provider, Ref, Task } from './provider.ts'
import { ProviderError } from './provider.ts'

/*
 * Ten requests a minute for everything, so many videos are polled with one list. A submit can make several jobs; a ref is `v:`
 * (videos) or `i:` (images) and their ids. There is no idempotency: every submit carries our nonce as its seed, and an unclear
 * one is looked up by it. Files are read with the account's bearer.
 */

const IMAGE_MODELS = new Set(['sd15', 'flux', 'flux-dev', 'flux-edit'])
const TAKES_IMAGE = /-i2v$|^flux-edit$/
/** Which files these take, or where theirs are found, is not documented, and no setting could say it. */
const UNDESCRIBED =
  /-flf$|^(hunyuan3d|tools\/.*|wan-s2v|wan-animate|wan-vace|ltx-control|liveportrait|echomimic|dreamidv)$/
const LISTS = { v: '/api/generations', i: '/api/image-generations' } as const
const FOLDERS = { v: '/api/video/', i: '/api/image/' } as const
const LIST_MAX = 200
/** Tasks asked for one by one in a poll: the next poll takes others, and the budget is left for submits. */
const SINGLES = 3
const UPLOAD_MAX_BYTES = 10 * 1024 * 1024
const WINDOW_MS = 60_000
const POLL = { first_ms: 15_000, every_ms: 12_000, deadline_ms: 900_000 }
const DAY_MS = 86_400_000
const MODERATED = /content|safety|nsfw|moderat/i

const isMoney = (text: string) => parseMoney(text) !== undefined
const Settings = z.strictObject({
  usd_per_credit: z.string().refine(isMoney, 'a decimal string of US dollars').default('0.013'),
  /** The form's field of the file in /api/upload-image. */
  upload_field: z.string().min(1).optional(),
  /** Where its answer names the uploaded file. */
  upload_response_field: z.string().min(1).optional(),
  /** What /api/generate calls the input's `image`. */
  image_field: z.string().min(1).optional(),
  /** /api/image-generations answers as /api/generations does. */
  image_list: z.boolean().default(false),
  /** The lists show jobs that still run; false: a job that is not listed may yet appear until the deadline. */
  lists_unfinished: z.boolean().default(true),
})

/** A job's own error has a status beside it. */
const Refused = z.object({ error: z.string(), status: z.undefined().optional() })
const Id = z.string().min(1)
const Credits = z.number().nonnegative().optional().catch(undefined)
const Generated = z
  .object({ job_id: Id.optional(), jobs: z.array(z.object({ job_id: Id })).default([]), credits_used: Credits })
  .transform(made => ({
    jobs: made.job_id ? [made.job_id] : made.jobs.map(job => job.job_id),
    credits: made.credits_used,
  }))
  .refine(made => made.jobs.length > 0, 'no job')
const Job = z.object({ status: z.string(), filename: z.string().nullish(), error: z.string().nullish() })
const Listed = Job.extend({
  job_id: z.string().nullish(),
  seed: z.number().nullish(),
  created_at: z.string().nullish(),
})
const Listing = z.object({ generations: z.array(Listed) })
const Balance = z
  .object({ credits: z.number(), balance: z.number(), credit_balance: z.number() })
  .partial()
  .transform(body => body.credits ?? body.balance ?? body.credit_balance)
  .pipe(z.number())

type Kind = keyof typeof LISTS
type Job = z.infer<typeof Job>

export const progressiverobot: Provider = {
  kind: 'progressiverobot',
  defaults: {
    limits: { requests_per_minute: 10 },
    poll: POLL,
  },
  settings: Settings,
  idempotentSubmit: false,
  pollsMany: true,

  unusable(model, account) {
    if (UNDESCRIBED.test(model)) return `the API does not document the files of ${model}`
    if (!TAKES_IMAGE.test(model)) return undefined
    const set = settingsOf(account)
    const missing = (['upload_field', 'upload_response_field', 'image_field'] as const).filter(key => !set[key])
    if (missing.length === 0) return undefined
    return `not documented and not set: ${missing.map(key => `settings.${key}`).join(', ')}`
  },

  async placeMedia(media, { account, http }) {
    const { upload_field: fileField, upload_response_field: handleField } = settingsOf(account)
    if (!fileField || !handleField) throw new ProviderError('mapping', 'the settings of uploads are not set')
    refuseMedia(media)
    const multipart = { file: media, fileField }
    const answer = await http.send({ method: 'POST', path: '/api/upload-image', bucket: 'upload', multipart })
    if (isRefused(answer)) throw refusal(answer, 'upload')
    const body = readAnswer(z.looseObject({ [handleField]: Id }), answer, 'upload')
    return { handle: body[handleField] as string }
  },

  async submit(task, { account, http }) {
    const { usd_per_credit, image_field = 'image' } = settingsOf(account)
    const { image, ...input } = task.input
    const answer = await http.send({
      method: 'POST',
      path: kindOf(task) === 'i' ? '/api/generate-image' : '/api/generate',
      bucket: 'submit',
      json: { ...input, [image_field]: image, model: task.model, seed: task.nonce },
    })
    if (isRefused(answer)) throw refusal(answer, 'submit')
    const { jobs, credits } = readAnswer(Generated, answer, 'submit')
    const cost = credits === undefined ? undefined : BigInt(Math.ceil(credits)) * (parseMoney(usd_per_credit) ?? 0n)
    return { state: 'accepted', ref: refOf(kindOf(task), jobs), cost }
  },

  async poll(refs, call) {
    const known = await listedJobs(refs, call)
    const isKnown = (ref: Ref) => jobsOf(ref).every(id => known.has(id))
    const unknown = refs.filter(ref => !isKnown(ref)).slice(0, SINGLES)
    return askEach([...refs.filter(isKnown), ...unknown], async ref => {
      const states: (Pending | Finished)[] = []
      for (const job_id of jobsOf(ref)) {
        const job = known.get(job_id) ?? readAnswer(Job, await get('/api/status', { job_id }, call), 'read')
        states.push(outcome(job, ref.startsWith('v') ? 'v' : 'i', call.account))
      }
      return together(states)
    })
  },

  async reconcile(task, call) {
    const kind = kindOf(task)
    const answer = await get(LISTS[kind], { limit: LIST_MAX }, call)
    const items = Listing.safeParse(answer.body).data?.generations
    if (!items) return 'unknown'
    const count = kind === 'i' && typeof task.input.num_images === 'number' ? task.input.num_images : 1
    const jobs = items.flatMap(item => (item.job_id && isOurs(item, task, count) ? [item.job_id] : []))
    // When there are fewer than asked for, the others may still appear.
    if (jobs.length > 0) return jobs.length < count ? 'unknown' : { state: 'accepted', ref: refOf(kind, jobs) }
    // Absence is proven by a list whose form is known, which has the newest jobs, and has them as soon as they are made.
    const { image_list, lists_unfinished } = settingsOf(call.account)
    const newestFirst = (items[0]?.created_at ?? '') > (items.at(-1)?.created_at ?? '')
    const over = Date.now() - task.submittedAt.getTime() > POLL.deadline_ms
    const proven =
      (kind === 'v' || image_list) && (items.length < LIST_MAX || newestFirst) && (lists_unfinished || over)
    return proven ? 'absent' : 'unknown'
  },

  async cancel(ref, { http }) {
    let requested = false
    for (const job_id of jobsOf(ref)) {
      const answer = await http.send({ method: 'POST', path: '/api/cancel', bucket: 'read', json: { job_id } })
      if (answer.status >= 300 && answer.status !== 400 && answer.status !== 404) throw refusal(answer, 'read')
      requested ||= answer.status < 300
    }
    return requested ? 'requested' : 'too_late'
  },

  async openOutput({ url }, { account, http }) {
    const path = url.startsWith(`${account.baseUrl}/`) ? url.slice(account.baseUrl.length) : ''
    // Only what `outcome` writes: the bearer goes to no other origin and no other path.
    if (/^\/api\/(video|image)\/(?!\.|%2e)[\w.~%!'()*-]+$/i.test(path)) return http.download(path)
    throw new ProviderError('task_failed', `not a file of this account: ${url}`)
  },

  async balance(call) {
    return { amount: readAnswer(Balance, await get('/api/credits', {}, call), 'read'), unit: 'credits' }
  },
}

const settingsOf = (account: Account) => Settings.parse(account.settings ?? {})
const kindOf = (task: Task): Kind => (IMAGE_MODELS.has(task.model) ? 'i' : 'v')
const refOf = (kind: Kind, jobs: readonly string[]): Ref => `${kind}:${jobs.map(encodeURIComponent).join(',')}`
const jobsOf = (ref: Ref): string[] => ref.slice(2).split(',').map(decodeURIComponent)

async function get(path: string, query: Record<string, string | number>, { http }: Call): Promise<Answer> {
  const answer = await http.send({ method: 'GET', path, bucket: 'read', query })
  if (isRefused(answer)) throw refusal(answer, 'read')
  return answer
}

/** Jobs by id, as far as a list tells: an error's text stands only in its status. One job alone needs no list. */
async function listedJobs(refs: readonly Ref[], call: Call): Promise<Map<string, Job>> {
  const known = new Map<string, Job>()
  const kinds: Kind[] = settingsOf(call.account).image_list ? ['v', 'i'] : ['v']
  for (const kind of kinds) {
    if (refs.filter(ref => ref.startsWith(kind)).flatMap(jobsOf).length < 2) continue
    const { generations } = readAnswer(Listing, await get(LISTS[kind], { limit: LIST_MAX }, call), 'read')
    for (const item of generations) if (item.job_id && item.status !== 'error') known.set(item.job_id, item)
  }
  return known
}

function outcome({ status, filename, error }: Job, kind: Kind, account: Account): Pending | Finished {
  if (status === 'error') {
    const message = error ?? 'no reason given'
    return { state: 'failed', fault: MODERATED.test(message) ? 'content_rejected' : 'task_failed', message }
  }
  // What a cancelled job is called is not documented: these are guesses, any other word is waited out.
  if (status === 'cancelled' || status === 'canceled') return { state: 'cancelled' }
  if (status !== 'completed' || !filename) return { state: 'pending' }
  if (!/^[^./\\][^/\\]*$/.test(filename)) {
    return { state: 'failed', fault: 'task_failed', message: `a file name that leads elsewhere: ${filename}` }
  }
  return { state: 'succeeded', outputs: [{ url: account.baseUrl + FOLDERS[kind] + encodeURIComponent(filename) }] }
}

/** What several jobs of one task come to: over when all are, a success when one is. */
function together(states: readonly (Pending | Finished)[]): Pending | Finished {
  if (states.some(({ state }) => state === 'pending')) return { state: 'pending' }
  const outputs = states.flatMap(state => (state.state === 'succeeded' ? state.outputs : []))
  if (outputs.length > 0) return { state: 'succeeded', outputs }
  return states.find(({ state }) => state === 'failed') ?? { state: 'cancelled' }
}

/** Several images get seeds that count up from ours. `created_at` names no time zone: it only rules out another day's. */
function isOurs({ seed, created_at }: z.infer<typeof Listed>, task: Task, count: number): boolean {
  if (typeof seed !== 'number' || seed < task.nonce || seed >= task.nonce + count) return false
  const at = Date.parse(`${created_at?.replace(' ', 'T')}Z`)
  return !(at < task.submittedAt.getTime() - DAY_MS)
}

/** A file they would refuse is not sent. It fits the model, so the route is at fault, not the customer. */
function refuseMedia({ mimeType, size }: Media): void {
  if (!/^image\/(png|jpeg|webp)$/.test(mimeType)) throw new ProviderError('mapping', `uploads cannot be ${mimeType}`)
  if (size > UPLOAD_MAX_BYTES) throw new ProviderError('mapping', `upload of ${size} bytes: at most 10 MB`)
}

/** Credits are refused with an `error` text at a status nobody documented. */
function isRefused(answer: Answer): boolean {
  return answer.status >= 300 || Refused.safeParse(answer.body).success
}

function refusal(answer: Answer, bucket: Bucket): ProviderError {
  const text = Refused.safeParse(answer.body).data?.error ?? 'no message'
  const fault = faultOf(answer.status, text, bucket)
  return new ProviderError(fault, `${bucket} ${answer.status}: ${text}`, {
    // No header is documented; the window is.
    retryAfterMs: answer.retryAfterMs ?? (fault === 'rate_limited' ? WINDOW_MS : undefined),
  })
}

function faultOf(status: number, text: string, bucket: Bucket): Fault {
  if (/not enough credits/i.test(text)) return 'account_funds'
  if (status === 401) return 'account_auth'
  if (status === 403) return 'account_tier'
  if (status === 429) return 'rate_limited'
  if (bucket === 'submit' && (status === 502 || status === 504)) return 'unclear'
  if (status >= 500 || bucket === 'read') return 'unavailable'
  return MODERATED.test(text) ? 'content_rejected' : 'mapping'
}
