import { createHash, randomBytes } from 'node:crypto'
import { z } from 'zod'
import type { StoredFile } from './files.ts'
import { createSimulator } from './simulator.ts'
import type { SimAnswer, SimRequest, Simulator } from './spec.ts'
import type { SimTask } from './tasks.ts'

export interface OneshotSimulator extends Simulator {
  points: number
  /** SHA-256 of each image it fetched for a 3D model. */
  readonly fetched: string[]
}

/** Where videos and 3D models are made is not documented: here they are. */
export const ONESHOT_PATHS = { videos: '/api/v1/videos', model3d: '/api/v1/3d' }

const HOUR_MS = 3_600_000
const PER_HOUR = 100
const TICK_MS = 5
const TYPES = { images: 'image', videos: 'video', '3d': '3d' } as const
const PRICES = { images: 4, videos: 10, '3d': 20 } as const

const ratio = z.string().regex(/^\d+:\d+$/)
const prompt = z.string().min(1)
const bodies = {
  images: z.object({
    prompt,
    aspect_ratio: ratio.default('1:1'),
    output_format: z.enum(['png', 'jpeg', 'webp']).default('png'),
    num_images: z.int().min(1).max(4).default(1),
    model: z.literal('nano-banana').default('nano-banana'),
  }),
  videos: z.object({
    prompt,
    aspect_ratio: ratio.default('16:9'),
    model: z.enum(['vidu-q2', 'ltx-2']).default('vidu-q2'),
    duration: z.number().min(1).max(16).default(4),
    resolution: z.enum(['360p', '520p', '720p', '1080p']).default('720p'),
  }),
  '3d': z.object({
    image_url: z.url(),
    texture_quality: z.enum(['no', 'standard']).default('standard'),
    texture_alignment: z.string().default('original_image'),
    orientation: z.string().default('default'),
  }),
}

type Kind = keyof typeof bodies

interface Wanted {
  readonly kind: Kind
  readonly count: number
  readonly prompt: string | null
  readonly aspectRatio: string | undefined
}

/**
 * The API without a name: 100 requests an hour per key, the answer when the output is finished (a task's `afterMs`), and
 * only then a project in the list. Whether somebody still waits makes no difference to it.
 */
export function createOneshot(): OneshotSimulator {
  const extra = new Map<string, StoredFile[]>()
  let stopped = false

  const filesOf = (task: SimTask): StoredFile[] => {
    const made = task.outputs()
    const more = extra.get(task.id) ?? []
    while (made.length > 0 && made.length + more.length < (task.input as Wanted).count) more.push(sim.files.put())
    extra.set(task.id, more)
    return [...made, ...more]
  }
  const spent = () =>
    sim.tasks.all().reduce((sum, task) => {
      const { kind, count } = task.input as Wanted
      return sum + (task.now().state === 'succeeded' ? PRICES[kind] * count : 0)
    }, 0)

  const make =
    (kind: Kind) =>
    async (request: SimRequest): Promise<SimAnswer> => {
      const body = bodies[kind].strict().safeParse(request.json)
      if (!body.success) {
        const issue = body.error.issues[0]
        return refuse(400, `${issue?.path.join('.')}: ${issue?.message}`)
      }
      const data: { prompt?: string; num_images?: number; aspect_ratio?: string; image_url?: string } = body.data
      if (data.image_url && !(await fetchImage(data.image_url))) return refuse(400, 'image_url: cannot be read')
      const count = data.num_images ?? 1
      if (sim.points - spent() < PRICES[kind] * count) return refuse(402, 'Insufficient points')
      const wanted: Wanted = { kind, count, prompt: data.prompt ?? null, aspectRatio: data.aspect_ratio }
      const task = sim.tasks.create({ id: randomBytes(12).toString('hex'), owner: request.key, input: wanted })
      while (isRunning(task) && !stopped) await new Promise(resolve => setTimeout(resolve, TICK_MS).unref())
      return answerOf(task, request.origin)
    }

  const fetchImage = async (url: string): Promise<boolean> => {
    const response = await fetch(url, { signal: AbortSignal.timeout(10_000) }).catch(() => undefined)
    if (!response?.ok) return false
    const bytes = Buffer.from(await response.arrayBuffer())
    sim.fetched.push(createHash('sha256').update(bytes).digest('hex'))
    return true
  }

  const answerOf = (task: SimTask, origin: string): SimAnswer => {
    const now = task.now()
    const { kind, aspectRatio } = task.input as Wanted
    if (now.state === 'moderated') return refuse(200, 'Prompt was rejected by content safety')
    if (now.state !== 'succeeded' && now.state !== 'partial') return refuse(200, 'Generation failed')
    const generation_time = Date.now() - task.createdAt.getTime()
    const common = { generation_time, remaining_points: sim.points - spent(), request_id: `req_${task.id.slice(0, 9)}` }
    const files = filesOf(task).map(file => ({
      url: `${origin}/cdn/${file.token}`,
      content_type: file.mimeType,
      file_name: `generated-${file.token}`,
      file_size: file.bytes.length,
    }))
    const [first] = files
    const images = files.map(file => ({ ...file, width: 8, height: 8, aspect_ratio: aspectRatio }))
    const data = {
      images: { images, generation_id: task.id },
      videos: { video: { ...first, duration: 4, generation_id: task.id } },
      '3d': { model: { ...first, preview_image: first?.url, generation_id: task.id } },
    }[kind]
    return { status: 200, json: { success: true, data: { ...data, ...common } } }
  }

  const projects = ({ query, origin }: SimRequest): SimAnswer => {
    const [type, page, limit] = [
      query.get('type') ?? 'all',
      Number(query.get('page') ?? 1),
      Number(query.get('limit') ?? 20),
    ]
    if (type !== 'all' && !(type in TYPES)) return refuse(400, 'type: unknown')
    if (!(page >= 1) || !(limit >= 1 && limit <= 100)) return refuse(400, 'limit: at most 100')
    const finished = sim.tasks.all().filter(task => task.outputs().length > 0)
    const shown = finished.filter(task => type === 'all' || (task.input as Wanted).kind === type)
    if (query.get('order') !== 'asc') shown.reverse()
    const items = shown.slice((page - 1) * limit, page * limit).map(task => {
      const { kind, prompt, aspectRatio } = task.input as Wanted
      const [file] = task.outputs() as [StoredFile]
      const url = `${origin}/cdn/${file.token}`
      const metadata = { aspect_ratio: aspectRatio, file_size: file.bytes.length, dimensions: '8x8' }
      const created_at = task.createdAt.toISOString()
      return { id: task.id, type: TYPES[kind], prompt, created_at, url, thumbnail: url, metadata }
    })
    const pagination = {
      page,
      limit,
      total: shown.length,
      pages: Math.ceil(shown.length / limit),
      has_more: page * limit < shown.length,
    }
    return { status: 200, json: { success: true, data: { projects: items, pagination } } }
  }

  /** Every answer shows the limit; its reset is a Unix time. */
  const limited = (handle: (request: SimRequest) => SimAnswer | Promise<SimAnswer>) => async (request: SimRequest) => {
    const answer = await handle(request)
    const max = sim.limits.all?.max ?? PER_HOUR
    const last = sim.requests.filter(({ key, at }) => key === request.key && at > Date.now() - HOUR_MS)
    const reset = Math.ceil(((last[0]?.at ?? Date.now()) + HOUR_MS) / 1000)
    return { ...answer, headers: { ...answer.headers, ...limitHeaders(max, Math.max(0, max - last.length), reset) } }
  }

  const simulator = createSimulator((_, files) => ({
    limits: { all: { max: PER_HOUR, windowMs: HOUR_MS } },
    refuse(why, retryAfter) {
      if (why === 'unauthorized') return refuse(401, 'Invalid API key')
      if (why === 'not_found') return refuse(404, 'Not found')
      if (why === 'internal') return refuse(500, 'Internal server error')
      const reset = Math.ceil(Date.now() / 1000) + retryAfter
      return { ...refuse(429, 'Rate limit exceeded'), headers: limitHeaders(sim.limits.all?.max ?? PER_HOUR, 0, reset) }
    },
    routes: [
      { operation: 'submit', method: 'POST', path: '/api/v1/images', handle: limited(make('images')) },
      { operation: 'submit', method: 'POST', path: ONESHOT_PATHS.videos, handle: limited(make('videos')) },
      { operation: 'submit', method: 'POST', path: ONESHOT_PATHS.model3d, handle: limited(make('3d')) },
      { operation: 'list', method: 'GET', path: '/api/v1/projects', handle: limited(projects) },
      {
        operation: 'file',
        method: 'GET',
        path: '/cdn/:token',
        open: true,
        handle({ params }) {
          const file = files.get(params.token as string)
          if (!file) return refuse(404, 'Not found')
          return { status: 200, bytes: file.bytes, headers: { 'content-type': file.mimeType } }
        },
      },
    ],
  }))
  const start = simulator.start.bind(simulator)
  const stop = simulator.stop.bind(simulator)
  const sim: OneshotSimulator = Object.assign(simulator, {
    points: 1000,
    fetched: [],
    start(port?: number) {
      stopped = false
      return start(port)
    },
    stop() {
      stopped = true
      return stop()
    },
  })
  return sim
}

function isRunning(task: SimTask): boolean {
  const { state } = task.now()
  return state === 'queued' || state === 'processing'
}

function limitHeaders(limit: number, remaining: number, reset: number): Record<string, string> {
  return {
    'x-ratelimit-limit': String(limit),
    'x-ratelimit-remaining': String(remaining),
    'x-ratelimit-reset': String(reset),
  }
}

function refuse(status: number, error: string): SimAnswer {
  return { status, json: { success: false, error } }
}
