import { randomBytes, randomInt } from 'node:crypto'
import { z } from 'zod'
import { createSimulator } from './simulator.ts'
import type { SimAnswer, SimRequest, Simulator } from './spec.ts'
import type { SimTask } from './tasks.ts'

/** An uploaded picture. */
export interface SimPicture {
  readonly mimeType: string
  /** Bytes. */
  readonly size: number
  /** Hex. */
  readonly sha256: string
}

/** The members are the plan of the account, and what the document leaves open. */
export interface ProgressiverobotSimulator extends Simulator {
  credits: number
  /** The plan's cap; a video of more frames is refused. */
  maxFrames: number
  /** /api/generations shows jobs that still run. */
  listsUnfinished: boolean
  /** /api/image-generations has the form of /api/generations. */
  imageListAlike: boolean
  /** The status word of a cancelled job. */
  cancelledWord: string
  uploadField: string
  uploadResponseField: string
  imageField: string
  /** By the name that stands for it. */
  readonly pictures: Map<string, SimPicture>
}

const UPLOAD_MAX_BYTES = 10 * 1024 * 1024
const JSON_MAX_BYTES = 1024 * 1024
/** Credits in hundredths: base, per frame, per step. */
const VIDEO_PRICES: Record<string, readonly [number, number, number]> = {
  'wan-t2v': [1000, 20, 50],
  'ltx-t2v': [800, 15, 30],
  'hunyuan15-t2v': [1200, 20, 40],
  'wan-i2v': [1200, 20, 50],
  'ltx-i2v': [1200, 20, 40],
}
const IMAGE_PRICES: Record<string, number> = { sd15: 2, flux: 5, 'flux-dev': 8, 'flux-edit': 6 }

const int = z.int().positive()
const common = {
  prompt: z.string().min(1).max(2000),
  negative_prompt: z.string().optional(),
  width: int.max(1920).optional(),
  height: int.max(1920).optional(),
  steps: int.max(50).optional(),
  cfg: z.number().optional(),
  seed: z.int().min(-1).max(0xffff_ffff).default(-1),
}
const videoBody = z.strictObject({
  ...common,
  model: z.string().default('wan-t2v'),
  frames: int.optional(),
  sampler: z.string().optional(),
  scheduler: z.string().optional(),
  shift: z.number().optional(),
  frame_rate: int.optional(),
  project_id: int.optional(),
})
const imageBody = z.strictObject({ ...common, model: z.string().default('sd15'), num_images: int.max(4).default(1) })

interface Made {
  readonly kind: 'video' | 'image'
  readonly number: number
  readonly seed: number
  readonly model: string
  readonly prompt: string
}

/** Progressive Robot as its page documents it: ten requests in any minute for everything, downloads included. */
export function createProgressiverobot(): ProgressiverobotSimulator {
  const pictures: ProgressiverobotSimulator['pictures'] = new Map()

  const create = (made: Omit<Made, 'number'>, owner: string): SimTask => {
    const id = `${made.kind === 'image' ? 'img_' : ''}${randomBytes(4).toString('hex')}`
    return sim.tasks.create({ id, owner, input: { ...made, number: sim.tasks.all().length + 1 } })
  }
  const charge = (cost: number): SimAnswer | undefined => {
    if (cost > sim.credits) {
      return { status: 400, json: { error: 'Not enough credits', cost, balance: sim.credits, upgrade_url: '/pricing' } }
    }
    sim.credits -= cost
    return undefined
  }

  const generate = ({ json, raw, key }: SimRequest): SimAnswer => {
    if (raw.length > JSON_MAX_BYTES || typeof json !== 'object') return refuse(400, 'Invalid JSON')
    const { [sim.imageField]: picture, ...rest } = json
    const body = videoBody.safeParse(rest)
    if (!body.success) return invalid(body.error)
    const { model, prompt, frames = 41, steps = 4 } = body.data
    const price = VIDEO_PRICES[model]
    if (!price) return refuse(400, 'Unknown model')
    if (model.endsWith('-i2v') !== pictures.has(picture)) return refuse(400, 'Image missing, unknown or not wanted')
    if (frames > sim.maxFrames) return refuse(403, `Your plan allows up to ${sim.maxFrames} frames`)
    const cost = Math.ceil((price[0] + frames * price[1] + steps * price[2]) / 100)
    const broke = charge(cost)
    if (broke) return broke
    const { id } = create({ kind: 'video', model, prompt, seed: seedOf(body.data.seed) }, key)
    return { status: 200, json: { job_id: id, prompt_id: randomBytes(8).toString('hex'), ...charged(cost) } }
  }

  const generateImage = ({ json, key }: SimRequest): SimAnswer => {
    const body = imageBody.safeParse(json)
    if (!body.success) return invalid(body.error)
    const { model, prompt, num_images } = body.data
    const price = IMAGE_PRICES[model]
    if (!price) return refuse(400, 'Unknown model')
    const broke = charge(price * num_images)
    if (broke) return broke
    const first = seedOf(body.data.seed)
    const jobs = Array.from({ length: num_images }, (_, i) => {
      const { id } = create({ kind: 'image', model, prompt, seed: first + i }, key)
      return { job_id: id, prompt_id: randomBytes(8).toString('hex'), seed: first + i }
    })
    return { status: 200, json: { jobs, ...charged(price * num_images) } }
  }
  const charged = (cost: number) => ({ credits_used: cost, credit_balance: sim.credits })

  const upload = ({ files: [file] }: SimRequest): SimAnswer => {
    if (file?.field !== sim.uploadField) return refuse(400, 'No image file provided')
    if (file.size > UPLOAD_MAX_BYTES) return refuse(400, 'Image too large')
    if (!/^image\/(png|jpeg|webp)$/.test(file.mimeType)) return refuse(400, 'Image must be PNG, JPEG or WebP')
    const name = `upload_${randomBytes(6).toString('hex')}.${file.mimeType.slice(6)}`
    pictures.set(name, { mimeType: file.mimeType, size: file.size, sha256: file.sha256 })
    return { status: 200, json: { [sim.uploadResponseField]: name } }
  }

  const cancel = ({ json }: SimRequest): SimAnswer => {
    const task = sim.tasks.get(String(json?.job_id))
    if (!task) return refuse(404, 'Not found')
    if (stateOf(task).status !== 'processing') return refuse(400, 'Job is not running')
    sim.tasks.finish(task.id, { state: 'cancelled' })
    return { status: 200, json: { success: true } }
  }

  const stateOf = (task: SimTask): { status: string; filename?: string; error?: string } => {
    const now = task.now()
    if (now.state === 'succeeded' || now.state === 'partial') return { status: 'completed', filename: nameOf(task) }
    if (now.state === 'failed') return { status: 'error', error: now.message ?? 'Generation failed' }
    if (now.state === 'moderated') return { status: 'error', error: 'Prompt blocked by the content safety filter' }
    if (now.state === 'cancelled') return { status: sim.cancelledWord }
    return { status: now.state === 'unknown' ? (now.word ?? 'archived') : 'processing' }
  }

  const list =
    (kind: Made['kind']) =>
    ({ query }: SimRequest): SimAnswer => {
      const [limit, offset] = [Number(query.get('limit') ?? 50), Number(query.get('offset') ?? 0)]
      if (!(limit >= 1 && limit <= 200)) return refuse(400, 'limit must be between 1 and 200')
      const all = sim.tasks.all().filter(task => (task.input as Made).kind === kind)
      const shown = all.filter(task => sim.listsUnfinished || stateOf(task).status !== 'processing').reverse()
      const [page, total] = [shown.slice(offset, offset + limit), shown.length]
      if (kind === 'video' || sim.imageListAlike) return { status: 200, json: { generations: page.map(itemOf), total } }
      return { status: 200, json: { images: page.map(task => ({ url: `/api/image/${nameOf(task)}` })), total } }
    }
  const itemOf = (task: SimTask) => {
    const { kind: _, number: id, ...made } = task.input as Made
    const created_at = task.createdAt.toISOString().slice(0, 19).replace('T', ' ')
    // An error's text is in no list.
    const { status, filename = null } = stateOf(task)
    return { id, job_id: task.id, ...made, filename, status, created_at }
  }

  const file =
    (kind: Made['kind']) =>
    ({ params }: SimRequest): SimAnswer => {
      const task = sim.tasks.all().find(task => (task.input as Made).kind === kind && nameOf(task) === params.name)
      const made = task?.outputs()[0]
      if (!made) return refuse(404, 'Not found')
      return {
        status: 200,
        bytes: made.bytes,
        headers: { 'content-type': kind === 'video' ? 'video/mp4' : made.mimeType },
      }
    }

  const simulator = createSimulator(tasks => ({
    limits: { all: { max: 10 } },
    keys: ['pk_s1mul8tedr0b0tkey'],
    refuse(why) {
      if (why === 'unauthorized') return refuse(401, 'Unauthorized')
      if (why === 'not_found') return refuse(404, 'Not found')
      return why === 'internal' ? refuse(500, 'Internal server error') : refuse(429, 'Rate limit exceeded')
    },
    routes: [
      { operation: 'submit', method: 'POST', path: '/api/generate', handle: generate },
      { operation: 'submit', method: 'POST', path: '/api/generate-image', handle: generateImage },
      {
        operation: 'poll',
        method: 'GET',
        path: '/api/status',
        handle({ query }) {
          const task = tasks.get(query.get('job_id') ?? '')
          return task ? { status: 200, json: stateOf(task) } : refuse(404, 'Not found')
        },
      },
      { operation: 'list', method: 'GET', path: '/api/generations', handle: list('video') },
      { operation: 'list', method: 'GET', path: '/api/image-generations', handle: list('image') },
      { operation: 'cancel', method: 'POST', path: '/api/cancel', handle: cancel },
      { operation: 'upload', method: 'POST', path: '/api/upload-image', handle: upload },
      { operation: 'file', method: 'GET', path: '/api/video/:name', handle: file('video') },
      { operation: 'file', method: 'GET', path: '/api/image/:name', handle: file('image') },
      {
        operation: 'balance',
        method: 'GET',
        path: '/api/credits',
        handle: () => ({ status: 200, json: { credits: sim.credits, tier: 'creator', monthly_credits: 1500 } }),
      },
    ],
  }))
  const sim: ProgressiverobotSimulator = Object.assign(simulator, {
    credits: 1500,
    maxFrames: 201,
    listsUnfinished: true,
    imageListAlike: false,
    cancelledWord: 'cancelled',
    uploadField: 'image',
    uploadResponseField: 'filename',
    imageField: 'image_filename',
    pictures,
  })
  return sim
}

function refuse(status: number, error: string): SimAnswer {
  return { status, json: { error } }
}

function invalid(error: z.ZodError): SimAnswer {
  const issue = error.issues[0]
  return refuse(400, `${issue?.path.join('.')}: ${issue?.message}`)
}

function seedOf(seed: number): number {
  return seed === -1 ? randomInt(2 ** 31) : seed
}

function nameOf({ id, input }: SimTask): string {
  return (input as Made).kind === 'video' ? `webgen_${id}_00001.mp4` : `${id}_00001.png`
}
