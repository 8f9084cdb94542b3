import { createHash, randomUUID } from 'node:crypto'
import { z } from 'zod'
import { createSimulator } from './simulator.ts'
import type { SimAnswer, SimRequest, SimRoute, Simulator } from './spec.ts'
import type { SimTask } from './tasks.ts'
import { tools } from './zencreator-tools.ts'

/** An uploaded asset. */
interface SimAsset {
  readonly mediaType: string
  /** Bytes. */
  readonly size: number
  /** Hex. */
  readonly sha256: string
}

export interface ZencreatorSimulator extends Simulator {
  /** By `asset_id`. Delete one to let it expire. */
  readonly assets: Map<string, SimAsset>
  /** The SHA-256 of the body that made a generation, by its id. */
  readonly bodies: Map<string, string>
  /** Before any generation. What is charged on acceptance comes back when the generation fails. */
  credits: number
  /** What it let through although nobody should send it, e.g. a tool without its `model`. */
  readonly violations: string[]
}

const API = '/api/public/v1'
const DAY_MS = 86_400_000
const ASSET_MAX_BYTES = 50 * 1024 * 1024
const MEDIA_TYPES = new Set(
  'image/png image/jpeg image/jpg image/webp image/heic image/heif video/mp4 video/mov video/quicktime audio/mpeg audio/mp3 audio/wav audio/x-wav audio/x-m4a'.split(
    ' ',
  ),
)

const ASSET_FIELDS = ['image_asset', 'image_assets', 'ref_asset', 'last_frame', 'audio_asset', 'video_asset']
const create = z.object({ tool: z.string(), input: z.record(z.string(), z.unknown()) })

interface Generation {
  readonly tool: string
  readonly input: Record<string, unknown>
}

/** ZenCreator as its OpenAPI document has it: 60 reads, 10 generations and 30 uploads a minute per key, credits, keys for 24 h. */
export function zencreatorSimulator(): ZencreatorSimulator {
  const simulator = createSimulator(() => ({
    limits: { submit: { max: 10 }, read: { max: 60 }, upload: { max: 30 } },
    keys: ['zc_live_7d1f_s1muL8t0rk3y'],
    refuse(why, retryAfter) {
      if (why === 'unauthorized') return refuse(401, 'invalid_api_key', 'API key not found, revoked or expired.')
      if (why === 'not_found') return refuse(404, 'not_found', 'Route not found.')
      if (why === 'internal') return refuse(500, 'internal_error', 'Unexpected server error.')
      const refusal = refuse(429, 'rate_limit_exceeded', 'Rate limit exceeded.')
      return { ...refusal, headers: { 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': String(retryAfter) } }
    },
    routes: routes(() => sim),
  }))
  const sim: ZencreatorSimulator = Object.assign(simulator, {
    assets: new Map<string, SimAsset>(),
    bodies: new Map<string, string>(),
    violations: [],
    credits: 4200,
  })
  return sim
}

function routes(sim: () => ZencreatorSimulator): SimRoute[] {
  return [
    {
      operation: 'submit',
      method: 'POST',
      path: `${API}/generations`,
      bucket: 'submit',
      handle: request => submit(sim(), request),
    },
    {
      operation: 'status',
      method: 'GET',
      path: `${API}/generations/:id`,
      bucket: 'read',
      handle: request => show(sim(), request, task => ({ progress: isOver(task) ? 100 : 50 })),
    },
    {
      operation: 'poll',
      method: 'GET',
      path: `${API}/generations/:id/result`,
      bucket: 'read',
      handle: request => show(sim(), request, task => ({ outputs: outputsOf(task, request.origin) })),
    },
    {
      operation: 'upload',
      method: 'POST',
      path: `${API}/assets`,
      bucket: 'upload',
      handle: request => upload(sim(), request),
    },
    {
      operation: 'balance',
      method: 'GET',
      path: `${API}/balance`,
      bucket: 'read',
      handle: () => ({ status: 200, json: { credits: balance(sim()) } }),
    },
    {
      operation: 'file',
      method: 'GET',
      path: '/cdn/:token.png',
      open: true,
      handle({ params }) {
        const file = sim().files.get(params.token as string)
        if (!file) return refuse(404, 'not_found', 'Asset not found.')
        return { status: 200, bytes: file.bytes, headers: { 'content-type': file.mimeType } }
      },
    },
  ]
}

function submit(sim: ZencreatorSimulator, { json, raw, key, headers }: SimRequest): SimAnswer {
  if (json === undefined) return refuse(400, 'bad_request', 'Malformed JSON body.')
  const idempotencyKey = headers['idempotency-key']?.toString()
  const known = sim.tasks.all().find(task => {
    const fresh = Date.now() - task.createdAt.getTime() < DAY_MS
    return fresh && idempotencyKey !== undefined && task.idempotencyKey === idempotencyKey && task.owner === key
  })
  const hash = createHash('sha256').update(raw).digest('hex')
  if (known && sim.bodies.get(known.id) === hash) return created(known)
  if (known) return refuse(409, 'conflict', 'Idempotency-Key used with another body.')

  const body = create.safeParse(json)
  if (!body.success) return invalid(body.error)
  const { tool, input } = body.data
  const schema = tools[tool]
  if (!schema) return refuse(404, 'not_found', 'Tool not found.')
  const checked = schema.safeParse(input)
  if (!checked.success) return invalid(checked.error)
  const missing = ASSET_FIELDS.find(field => [input[field] ?? []].flat().some(id => !sim.assets.has(id as string)))
  if (missing) return refuse(422, 'validation_error', `Asset not found - at \`$.${missing}\``)
  if ('model' in schema.shape && input.model === undefined) sim.violations.push(`${tool} without model`)
  if (balance(sim) < priceOf(body.data)) return refuse(402, 'insufficient_credits', 'Balance too low.')

  const task = sim.tasks.create({ id: randomUUID(), owner: key, input: body.data, idempotencyKey })
  sim.bodies.set(task.id, hash)
  return created(task)
}

function upload(sim: ZencreatorSimulator, { fields, files: [file] }: SimRequest): SimAnswer {
  const mediaType = fields.media_type
  if (!mediaType || file?.field !== 'file') return refuse(422, 'validation_error', 'Missing `media_type` or `file`')
  if (!MEDIA_TYPES.has(mediaType)) return refuse(415, 'unsupported_media_type', 'Media type not supported.')
  if (file.size > ASSET_MAX_BYTES) return refuse(413, 'payload_too_large', 'Upload exceeds 50 MB.')
  const id = randomUUID()
  sim.assets.set(id, { mediaType, size: file.size, sha256: file.sha256 })
  return { status: 201, json: { asset_id: id, media_type: mediaType } }
}

/** The answer about the generation in the path: its state, and what `more` says. */
function show(sim: ZencreatorSimulator, request: SimRequest, more: (task: SimTask) => object): SimAnswer {
  const id = request.params.id as string
  if (!z.uuid().safeParse(id).success) return refuse(422, 'validation_error', 'Invalid uuid - at `$.generation_id`')
  const task = sim.tasks.get(id)
  if (!task) return refuse(404, 'not_found', 'Generation not found.')
  return { status: 200, json: { id, ...stateOf(task), ...more(task) } }
}

/** Charged on acceptance, given back on failure. */
function balance(sim: ZencreatorSimulator): number {
  const charged = sim.tasks.all().filter(task => stateOf(task).status !== 'failed')
  return charged.reduce((left, task) => left - priceOf(task.input as Generation), sim.credits)
}

function refuse(status: number, code: string, message: string): SimAnswer {
  return { status, json: { error: { code, message } } }
}

function invalid(error: z.ZodError): SimAnswer {
  const issue = error.issues[0]
  return refuse(422, 'validation_error', `${issue?.message} - at \`$.${issue?.path.join('.')}\``)
}

function created(task: SimTask): SimAnswer {
  return { status: 201, json: { id: task.id, status: stateOf(task).status, created_at: task.createdAt.toISOString() } }
}

function stateOf(task: SimTask): { status: string; error: string | null } {
  const now = task.now()
  switch (now.state) {
    case 'failed':
      return { status: 'failed', error: now.message ?? 'The model did not return a picture.' }
    case 'moderated':
      return { status: 'failed', error: 'Your request was rejected by the safety system.' }
    case 'partial':
      return { status: 'partial', error: 'Some of the outputs could not be made.' }
    case 'unknown':
      return { status: now.word ?? 'finalizing', error: null }
    default:
      return { status: now.state, error: null }
  }
}

function outputsOf(task: SimTask, origin: string) {
  return task.outputs().map(({ token }) => {
    const url = `${origin}/cdn/${token}.png`
    return { asset_id: randomUUID(), url, download_url: `${url}?download=1` }
  })
}

function isOver(task: SimTask): boolean {
  return ['succeeded', 'partial', 'failed'].includes(stateOf(task).status)
}

/** Of the document's table only what tells routes apart; a video is ten credits. */
function priceOf({ tool, input }: Generation): number {
  const model = String(input.model)
  const dear = model === 'NANO_BANANA'
  const pro = dear || model.endsWith('_PRO')
  if (tool === 'by_prompt') return (pro ? 2 : 1) * Number(input.batch_size ?? 1)
  if (tool === 'image_editor') return (dear ? 4 : pro ? 2 : 1) * Number(input.number_of_images ?? 1)
  return tool === 'upscaler' ? 1 : 10
}
