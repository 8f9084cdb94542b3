import { randomBytes } from 'node:crypto'
import canonicalize from 'canonicalize'
import { type Micros, parseMoney } from '../../src/money.ts'
import { MODELS, type SimModel } from './pluragen-models.ts'
import { type PlacedOrder, type Pluragen, type PluragenState, refusal } from './pluragen-state.ts'
import { readUpload, uploadStatus, uploadType } from './pluragen-uploads.ts'
import type { Json, SimAnswer, SimRequest } from './spec.ts'
import type { SimTask } from './tasks.ts'

const MEMBERS = new Set(['model_id', 'prompt', 'media', 'options'])

export function createOrder(pluragen: Pluragen, { json: body, key: owner, origin, headers }: SimRequest): SimAnswer {
  const { state, tasks } = pluragen
  if (!isObject(body)) return refusal(400, 'validation_error', 'Bad request body or invalid JSON')
  const idempotencyKey = headers['idempotency-key'] as string | undefined
  const text = canonicalize(body) as string
  const known = tasks.all().find(task => task.owner === owner && task.idempotencyKey === idempotencyKey)
  if (known && idempotencyKey !== undefined) {
    if (state.orders.get(known.id)?.body !== text)
      return refusal(422, 'idempotency_conflict', 'Key used with other data')
    return { status: 201, json: { success: true, order: showOrder(pluragen, known.id, origin) } }
  }
  const model = MODELS.find(model => model.id === body.model_id)
  if (!model) return refusal(404, 'model_not_found', 'Model does not exist')
  const invalid = checkBody(model, body) ?? checkMedia(state, model, body.media ?? {}, owner)
  if (invalid) return invalid
  const active = tasks.all().filter(task => task.owner === owner && isActive(task)).length
  if (active >= (state.maxActiveOrders ?? Number.POSITIVE_INFINITY)) {
    return refusal(429, 'too_many_active_orders', 'Wait for some to complete')
  }
  const price = parseMoney(model.price_usd) as Micros
  if (state.balance < price) return refusal(422, 'insufficient_balance', 'Not enough balance')
  state.balance -= price
  const id = `ord_${randomBytes(8).toString('hex')}`
  state.orders.set(id, { model, body: text })
  tasks.create({ id, owner, input: body, idempotencyKey })
  return { status: 201, json: { success: true, order: showOrder(pluragen, id, origin) } }
}

export function showOrder(pluragen: Pluragen, id: string, origin: string): object {
  const { task, order } = look(pluragen, id)
  const now = task.now()
  const completed = now.state === 'succeeded' || now.state === 'partial'
  return {
    id,
    model_id: order.model.id,
    status: statusOf(now),
    cost_usd: order.model.price_usd,
    result: task.outputs().map(file => `${origin}/g/${file.token}`),
    expires_at: completed ? new Date(task.createdAt.getTime() + 15 * 86_400_000).toISOString() : null,
    error: errorOf(now),
  }
}

export function cancelOrder(pluragen: Pluragen, id: string, origin: string): SimAnswer {
  const { task, order } = look(pluragen, id)
  const refuse = (code: string, message: string) =>
    refusal(409, code, message, { order: showOrder(pluragen, id, origin) })
  if (task.now().state === 'queued') return refuse('not_ready', 'Generation not started yet. Try again shortly.')
  if (!isActive(task)) return refuse('cannot_cancel', 'Order cannot be cancelled')
  order.cancelAskedAt ??= Date.now()
  look(pluragen, id)
  if (isActive(task)) return refuse('cancel_pending', 'Cancellation in progress')
  return { status: 200, json: { success: true, order: showOrder(pluragen, id, origin) } }
}

/** The order as it stands now: a cancel that is due is confirmed. */
function look({ state, tasks }: Pluragen, id: string): { task: SimTask; order: PlacedOrder } {
  const task = tasks.get(id) as SimTask
  const order = state.orders.get(id) as PlacedOrder
  const due = order.cancelAskedAt !== undefined && Date.now() >= order.cancelAskedAt + state.cancelMs
  if (due && isActive(task)) tasks.finish(id, { state: 'cancelled' })
  return { task, order }
}

function isActive(task: SimTask): boolean {
  return ['queued', 'processing', 'unknown'].includes(task.now().state)
}

function statusOf(now: ReturnType<SimTask['now']>): string {
  if (now.state === 'unknown') return now.word ?? 'warming_up'
  if (now.state === 'succeeded' || now.state === 'partial') return 'completed'
  return now.state === 'moderated' || now.state === 'stuck' ? 'failed' : now.state
}

function errorOf(now: ReturnType<SimTask['now']>): object | null {
  if (now.state === 'moderated') return { code: 'content_rejected', message: 'Refused by content moderation' }
  if (now.state !== 'failed') return null
  return { code: now.code ?? 'provider_failed', message: now.message ?? 'Generation failed' }
}

function checkBody(model: SimModel, body: Json): SimAnswer | undefined {
  const invalid = (field: string, why: string) => refusal(422, 'validation_error', `${field}: ${why}`)
  const stranger = Object.keys(body).find(key => !MEMBERS.has(key))
  if (stranger) return invalid(stranger, 'unknown field')
  if (body.prompt !== undefined && typeof body.prompt !== 'string') return invalid('prompt', 'not a text')
  if (model.prompt.mode === 'required' && !body.prompt) return refusal(422, 'prompt_required', 'A prompt is required')
  if (body.options !== undefined && !isObject(body.options)) return invalid('options', 'not an object')
  for (const [key, value] of Object.entries(body.options ?? {})) {
    const option = model.options_schema.find(option => option.key === key)
    if (!option) return invalid(`options.${key}`, 'unknown option')
    if (!option.options.some(choice => choice.value === value)) return invalid(`options.${key}`, 'unknown value')
  }
  return undefined
}

function checkMedia(state: PluragenState, model: SimModel, media: Json, owner: string): SimAnswer | undefined {
  if (!isObject(media)) return refusal(422, 'validation_error', 'media: not an object')
  const stranger = Object.keys(media).find(key => !model.media.inputs.some(input => input.key === key))
  if (stranger) return refusal(422, 'validation_error', `media.${stranger}: unknown input`)
  for (const { key, min, max, accepted } of model.media.inputs) {
    const paths = media[key] ?? []
    if (!Array.isArray(paths)) return refusal(422, 'validation_error', `media.${key}: not an array`)
    if (paths.length < min) return refusal(422, 'media_required', `media.${key}: at least ${min}`)
    if (paths.length > max) return refusal(422, 'too_many_media', `media.${key}: at most ${max}`)
    for (const path of paths) {
      const upload = readUpload(state, path, owner)
      if ('status' in upload) return upload
      const status = uploadStatus(state, upload)
      if (status === 'processing') return refusal(422, 'upload_processing', 'Upload is still processing')
      const type = uploadType(upload).replace(/^.*\//, '')
      if (status === 'failed' || !accepted.includes(type))
        return refusal(422, 'invalid_media_type', `media.${key}: ${type}`)
    }
  }
  return undefined
}

function isObject(value: Json): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
