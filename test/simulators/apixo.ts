import { createHash, randomBytes } from 'node:crypto'
import { inputs, submitBody } from './apixo-inputs.ts'
import { createSimulator } from './simulator.ts'
import type { SimAnswer, SimRequest, SimRoute, Simulator } from './spec.ts'
import type { SimTask } from './tasks.ts'

/** A reference image it fetched, or tried to. */
interface SimDownload {
  readonly url: string
  /** Bytes, when it got them. */
  readonly size: number | undefined
  /** Hex. */
  readonly sha256: string | undefined
}

/** One POST to a callback URL. */
interface SimCallback {
  readonly taskId: string
  readonly url: string
  /** Undefined when nobody answered. */
  readonly status: number | undefined
}

export interface ApixoSimulator extends Simulator {
  /** Which HTTP status goes with an error in `code` is not documented: the same, or always 200. */
  errorStatus: 'same' | 'ok'
  /** Tasks at once; one more is refused. */
  concurrent: number
  balance: number
  readonly downloads: SimDownload[]
  /** Tasks whose images are being fetched. */
  readonly downloading: Set<string>
  readonly callbacks: {
    /** Tasks whose end is still to be told. */
    readonly owed: Set<string>
    readonly sent: SimCallback[]
    /** How often each is sent (1); 0 loses them. */
    copies: number
    /** Sends a callback about a task now: the true one, or `body`. Answers with the receiver's status. */
    send(taskId: string, body?: unknown): Promise<number | undefined>
  }
}

const API = '/api/v1'
const IMAGE_MAX_BYTES = 10 * 1024 * 1024
const CALLBACK_RETRIES = 3
const TICK_MS = 25

/** What a task was made of. */
interface Wanted {
  readonly model: string
  readonly input: { image_urls?: string[] | undefined }
  readonly callbackUrl: string | undefined
}

/** APIXO as its page of nano-banana-pro has it: 10,000 requests a minute, 1,000 tasks at once, the verdict in `code`. */
export function apixoSimulator(): ApixoSimulator {
  let ticker: NodeJS.Timeout | undefined
  const simulator = createSimulator(() => ({
    limits: { all: { max: 10_000 } },
    refuse(why) {
      if (why === 'unauthorized') return refuse(sim, 401, 'Invalid or missing API Key')
      if (why === 'not_found') return refuse(sim, 404, 'Not found')
      return why === 'internal' ? refuse(sim, 500, 'Internal error') : refuse(sim, 429, 'Too many requests')
    },
    routes: routes(() => sim),
  }))
  const base = { ...simulator }
  const sim: ApixoSimulator = Object.assign(simulator, {
    errorStatus: 'same' as const,
    concurrent: 1_000,
    balance: 74.87,
    downloads: [],
    downloading: new Set<string>(),
    callbacks: {
      owed: new Set<string>(),
      sent: [] as SimCallback[],
      copies: 1,
      send: (taskId: string, body?: unknown) => sendCallback(sim, taskId, body),
    },
    async start(port?: number) {
      ticker = setInterval(() => void sendOwed(sim), TICK_MS).unref()
      return base.start(port)
    },
    async stop() {
      clearInterval(ticker)
      await base.stop()
    },
  })
  return sim
}

function routes(sim: () => ApixoSimulator): SimRoute[] {
  return [
    {
      operation: 'submit',
      method: 'POST',
      path: `${API}/generateTask/:model`,
      bucket: 'submit',
      handle: request => submit(sim(), request),
    },
    {
      operation: 'poll',
      method: 'GET',
      path: `${API}/statusTask/:model`,
      bucket: 'read',
      handle({ params, query }) {
        const task = sim().tasks.get(query.get('taskId') ?? '')
        const known = task && (task.input as Wanted).model === params.model
        return known ? ok(view(sim(), task)) : refuse(sim(), 404, 'Task not found')
      },
    },
    {
      operation: 'balance',
      method: 'GET',
      path: `${API}/apikeys/current-balance`,
      bucket: 'read',
      handle: () => ok(sim().balance),
    },
    {
      operation: 'file',
      method: 'GET',
      path: '/r2/:token.png',
      open: true,
      handle({ params }) {
        const file = sim().files.get(params.token as string)
        if (!file) return { status: 404, json: null }
        return { status: 200, bytes: file.bytes, headers: { 'content-type': file.mimeType } }
      },
    },
  ]
}

function submit(sim: ApixoSimulator, { params, json, key }: SimRequest): SimAnswer {
  const model = params.model as string
  const schema = inputs[model]
  if (!schema) return refuse(sim, 404, 'Model not found')
  const body = submitBody.safeParse(json)
  if (!body.success) return refuse(sim, 400, `Invalid parameters: ${body.error.issues[0]?.message}`)
  const input = schema.safeParse(body.data.input)
  if (!input.success) return refuse(sim, 400, `Invalid input: ${input.error.issues[0]?.message}`)
  if (sim.balance <= 0) return refuse(sim, 400, 'Insufficient credits')
  const running = sim.tasks.all().filter(task => !isOver(sim, task)).length
  if (running >= sim.concurrent) return refuse(sim, 429, 'Too many concurrent tasks')

  const { request_type, callback_url } = body.data
  const callbackUrl = request_type === 'callback' ? callback_url : undefined
  const wanted: Wanted = { model, input: input.data, callbackUrl }
  const task = sim.tasks.create({ id: `task_${randomBytes(6).toString('hex')}`, owner: key, input: wanted })
  if (callbackUrl) sim.callbacks.owed.add(task.id)
  void download(sim, task, input.data.image_urls ?? [])
  return ok({ taskId: task.id })
}

/** Images are fetched after acceptance: what is wrong with them fails the task, not the request. */
async function download(sim: ApixoSimulator, task: SimTask, urls: readonly string[]): Promise<void> {
  if (urls.length > 0) sim.downloading.add(task.id)
  for (const url of urls) {
    const bytes = await fetchBytes(url)
    const sha256 = bytes && createHash('sha256').update(bytes).digest('hex')
    sim.downloads.push({ url, size: bytes?.length, sha256 })
    const code = wrongWith(bytes)
    if (!code) continue
    sim.tasks.finish(task.id, { state: 'failed', code, message: `Image cannot be used: ${code}` })
    break
  }
  sim.downloading.delete(task.id)
}

async function sendOwed(sim: ApixoSimulator): Promise<void> {
  const { owed, copies } = sim.callbacks
  const due = [...owed].filter(id => isOver(sim, sim.tasks.get(id) as SimTask))
  for (const id of due) owed.delete(id)
  await Promise.all(due.flatMap(id => Array.from({ length: copies }, () => sendUntilTaken(sim, id))))
}

async function sendUntilTaken(sim: ApixoSimulator, taskId: string): Promise<void> {
  for (let tries = 0; tries <= CALLBACK_RETRIES; tries++) {
    if ((await sendCallback(sim, taskId)) === 200) return
    await new Promise(resolve => setTimeout(resolve, TICK_MS).unref())
  }
}

async function sendCallback(sim: ApixoSimulator, taskId: string, body?: unknown): Promise<number | undefined> {
  const task = sim.tasks.get(taskId) as SimTask
  const url = (task.input as Wanted).callbackUrl
  if (!url) throw new Error(`task ${taskId} wants no callback`)
  const status = await post(url, body ?? ok(view(sim, task)).json)
  sim.callbacks.sent.push({ taskId, url, status })
  return status
}

function ok(data: unknown): SimAnswer {
  return { status: 200, json: { code: 200, message: 'success', data } }
}

function refuse(sim: ApixoSimulator, code: number, message: string): SimAnswer {
  return { status: sim.errorStatus === 'same' ? code : 200, json: { code, message, data: null } }
}

function isOver(sim: ApixoSimulator, task: SimTask): boolean {
  return !sim.downloading.has(task.id) && ['succeeded', 'partial', 'failed', 'moderated'].includes(task.now().state)
}

function view(sim: ApixoSimulator, task: SimTask): Record<string, unknown> {
  const now = task.now()
  const common = { taskId: task.id, createTime: task.createdAt.getTime() }
  if (sim.downloading.has(task.id)) return { ...common, state: 'processing' }
  switch (now.state) {
    case 'queued':
      return { ...common, state: 'pending' }
    case 'succeeded':
    case 'partial': {
      const resultUrls = task.outputs().map(file => `${sim.url}/r2/${file.token}.png`)
      const done = { completeTime: Date.now(), costTime: Date.now() - common.createTime }
      return { ...common, state: 'success', resultJson: JSON.stringify({ resultUrls }), ...done }
    }
    case 'failed':
      return { ...common, state: 'failed', failCode: now.code ?? 'GENERATION_FAILED', failMsg: now.message ?? 'Failed' }
    case 'moderated':
      return { ...common, state: 'failed', failCode: 'CONTENT_VIOLATION', failMsg: 'Against the safety guidelines' }
    case 'unknown':
      return { ...common, state: now.word ?? 'archiving' }
    default:
      return { ...common, state: now.state }
  }
}

async function fetchBytes(url: string): Promise<Buffer | undefined> {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(10_000) })
    return response.ok ? Buffer.from(await response.arrayBuffer()) : undefined
  } catch {
    return undefined
  }
}

function wrongWith(bytes: Buffer | undefined): string | undefined {
  if (!bytes) return 'INVALID_IMAGE_URL'
  if (bytes.length > IMAGE_MAX_BYTES) return 'IMAGE_TOO_LARGE'
  const magic = bytes.subarray(0, 12).toString('latin1')
  return /^(\x89PNG|\xff\xd8\xff|RIFF.{4}WEBP)/s.test(magic) ? undefined : 'UNSUPPORTED_FORMAT'
}

async function post(url: string, body: unknown): Promise<number | undefined> {
  try {
    const headers = { 'content-type': 'application/json' }
    const response = await fetch(url, {
      method: 'POST',
      headers,
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(30_000),
    })
    await response.arrayBuffer()
    return response.status
  } catch {
    return undefined
  }
}
