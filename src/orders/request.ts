import { z } from 'zod'
import type { Catalog, MediaElement, MediaInput, Model, OrderInput, Routing } from '../catalog/model.ts'
import { optionMistake, textMistake } from '../catalog/options.ts'
import { ApiError } from '../errors.ts'
import type { Micros } from '../money.ts'

/** An upload of the customer as it is now. */
export type FoundUpload = MediaElement & { readonly status: 'ready' | 'processing' | 'failed' | 'expired' }

/** Finds uploads of the customer by id; what is not in the answer does not exist for this customer. */
export type LookupUploads = (ids: string[]) => Promise<ReadonlyMap<string, FoundUpload>>

/** A request that the model can make. */
export interface ParsedOrder {
  readonly model: Model
  readonly input: OrderInput
  readonly cost: Micros
  readonly routing?: Routing
  readonly callbackUrl?: string
  /** Ids of the uploads, each once, however often the order uses it. */
  readonly uploads: readonly string[]
}

const ROUTINGS = ['auto', 'value', 'fast'] as const satisfies Routing[]

/** The form of the body, for the API's document: what it may hold depends on the model. */
export const orderBody = z
  .strictObject({
    model_id: z.int().min(1).describe('From `GET /models`.'),
    prompt: z.string().nullish().describe('See `prompt.mode` of the model.'),
    media: z
      .record(z.string(), z.array(z.string()))
      .nullish()
      .describe('By `media.inputs[].key` of the model: lists of `tmp_path` from `POST /upload`.'),
    options: z
      .record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()]))
      .nullish()
      .describe('By `options_schema[].key` of the model.'),
    routing: z.enum(ROUTINGS).nullish().describe('How to choose who makes it; default: the model decides.'),
    callback_url: z
      .string()
      .max(2048)
      .nullish()
      .describe('An http or https URL on a public address and its default port, called when the order has ended.'),
  })
  .meta({
    id: 'OrderRequest',
    example: { model_id: 20, prompt: 'a lighthouse at dusk', options: { aspect_ratio: '16:9' } },
  })

const FIELDS: ReadonlySet<string> = new Set(Object.keys(orderBody.shape))
const TMP_PATH = /^tmp\/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$/i

/**
 * Reads the body of an order or a quote. A member that is null counts as absent. Uploads are looked up last, once, and only
 * when there are files. Throws ApiError, always about the first thing that is wrong: validation_error, model_not_found,
 * prompt_required, media_required, too_many_media, invalid_media_type, file_not_found, file_expired, upload_processing. A
 * RangeError means that the model's price expression gives no amount for this order: the operator's mistake.
 */
export async function parseOrderRequest(
  body: unknown,
  catalog: Catalog,
  lookupUploads: LookupUploads,
): Promise<ParsedOrder> {
  const request = mapping(body, '')
  for (const name of Object.keys(request)) if (!FIELDS.has(name)) throw invalid(name, 'is not a field of an order')
  const model = findModel(request.model_id, catalog)
  const prompt = readPrompt(request.prompt, model)
  const options = readOptions(request.options ?? {}, model)
  const routing = readRouting(request.routing)
  const callbackUrl = readCallbackUrl(request.callback_url)
  const ids = readMedia(request.media ?? {}, model)
  const uploads = [...new Set(Object.values(ids).flat())]
  const found = uploads.length > 0 ? await lookupUploads(uploads) : new Map<string, FoundUpload>()
  const media = Object.fromEntries(
    model.media.inputs.flatMap(input => {
      const files = (ids[input.key] ?? []).map((id, index) => ready(found.get(id), input, index))
      return files.length > 0 ? [[input.key, files]] : []
    }),
  )
  const input: OrderInput = { ...(prompt === undefined ? {} : { prompt }), media, options }
  return {
    model,
    input,
    cost: await model.priceOf(input),
    ...(routing ? { routing } : {}),
    ...(callbackUrl === undefined ? {} : { callbackUrl }),
    uploads,
  }
}

function findModel(id: unknown, catalog: Catalog): Model {
  if (id === undefined || id === null) throw invalid('model_id', 'is missing')
  if (!Number.isSafeInteger(id)) throw invalid('model_id', 'must be the whole number of a model')
  const model = catalog.models.get(id as number)
  if (!model || catalog.usableRoutes(model).length === 0) {
    throw new ApiError('model_not_found', 'The selected model does not exist or is disabled.')
  }
  return model
}

function readPrompt(prompt: unknown, { prompt: rule }: Model): string | undefined {
  if (rule.mode === 'ignored') return undefined
  if (prompt !== undefined && prompt !== null && typeof prompt !== 'string') throw invalid('prompt', 'must be a string')
  if (!prompt || prompt.trim() === '') {
    if (rule.mode === 'required') throw new ApiError('prompt_required', 'The selected model requires a prompt.')
    return undefined
  }
  const mistake = textMistake(prompt, 0, rule.maxLength)
  if (mistake) throw invalid('prompt', mistake)
  return prompt
}

/** The options as expressions see them: given ones checked, others with their defaults. */
function readOptions(given: unknown, model: Model): OrderInput['options'] {
  const values = mapping(given, 'options')
  const known = new Set(model.options.map(option => option.key))
  for (const key of Object.keys(values)) {
    if (!known.has(key)) throw invalid(`options.${key}`, 'is not an option of this model')
  }
  const entries: [string, string | number | boolean][] = []
  for (const option of model.options) {
    const field = `options.${option.key}`
    const value = (Object.hasOwn(values, option.key) ? values[option.key] : undefined) ?? option.default ?? undefined
    const blank = option.required && typeof value === 'string' && value.trim() === ''
    if (value === undefined || blank) {
      if (option.required) throw invalid(field, 'is required')
      continue
    }
    const mistake = optionMistake(option, value)
    if (mistake) throw invalid(field, mistake)
    entries.push([option.key, value as string | number | boolean])
  }
  return Object.fromEntries(entries)
}

function readRouting(routing: unknown): Routing | undefined {
  if (routing === undefined || routing === null) return undefined
  const known = ROUTINGS.find(name => name === routing)
  if (known) return known
  throw invalid('routing', 'must be one of "auto", "value", "fast"')
}

function readCallbackUrl(text: unknown): string | undefined {
  if (text === undefined || text === null) return undefined
  const problem = 'must be an http or https URL of at most 2048 characters, without a user name or password'
  if (typeof text !== 'string' || !URL.canParse(text)) throw invalid('callback_url', problem)
  const url = new URL(text)
  // What is stored is the normalised form, so that is measured too.
  const long = Math.max(text.length, url.href.length) > 2048
  if (long || !/^https?:$/.test(url.protocol) || url.username || url.password) throw invalid('callback_url', problem)
  return url.href
}

/** Ids of the uploads by input, in the order given; form and numbers are checked, the files are not. */
function readMedia(given: unknown, { media }: Model): Record<string, string[]> {
  const lists = mapping(given, 'media')
  const ids: Record<string, string[]> = {}
  for (const [key, list] of Object.entries(lists)) {
    if (!media.inputs.some(input => input.key === key)) {
      throw invalid(
        `media.${key}`,
        media.inputs.length > 0 ? 'is not a media input of this model' : 'this model takes no files',
      )
    }
    if (list === null) continue
    if (!Array.isArray(list)) throw invalid(`media.${key}`, 'must be a list of tmp_path')
    ids[key] = list.map((path, index) => uploadId(path, `media.${key}[${index}]`))
  }
  const total = Object.values(ids).reduce((sum, list) => sum + list.length, 0)
  for (const { key, max } of media.inputs) {
    if ((ids[key]?.length ?? 0) > max) throw tooMany(`media.${key}`, max)
  }
  if (total > media.maxCount) throw tooMany('media', media.maxCount)
  for (const { key, min, required } of media.inputs) {
    const count = ids[key]?.length ?? 0
    // An input that is not required may be left out, but not half filled.
    const least = required ? Math.max(1, min) : count > 0 ? min : 0
    if (count < least) throw new ApiError('media_required', `media.${key}: at least ${files(least)} required.`)
  }
  if (media.required && total === 0) throw new ApiError('media_required', 'The selected model requires uploaded media.')
  return ids
}

function uploadId(path: unknown, field: string): string {
  const id = typeof path === 'string' ? TMP_PATH.exec(path)?.[1] : undefined
  if (id === undefined && typeof path === 'string' && path.startsWith('tmp/'))
    throw new ApiError('file_not_found', `${field}: there is no such upload.`)
  if (id === undefined) throw invalid(field, 'must be the tmp_path of an upload, "tmp/…"')
  return id.toLowerCase()
}

function ready(upload: FoundUpload | undefined, input: MediaInput, index: number): MediaElement {
  const field = `media.${input.key}[${index}]`
  if (!upload) throw new ApiError('file_not_found', `${field}: there is no such upload.`)
  const { status, ...element } = upload
  switch (status) {
    case 'expired':
      throw new ApiError('file_expired', `${field}: the upload has expired.`)
    case 'processing':
      throw new ApiError('upload_processing', `${field}: the upload is still being processed.`)
    case 'failed':
      throw invalid(field, 'could not be converted; upload another file')
    case 'ready':
      if (input.accepted.some(extension => format(extension) === format(element.extension))) return element
      throw new ApiError(
        'invalid_media_type',
        `${field}: ${element.extension} files are not accepted here, only ${input.accepted.join(', ')}.`,
      )
  }
}

/** Two names of one format are no reason to refuse a file. */
function format(extension: string): string {
  return { jpeg: 'jpg', heif: 'heic' }[extension] ?? extension
}

function mapping(value: unknown, field: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  throw field === ''
    ? new ApiError('validation_error', 'The body must be a JSON object.')
    : invalid(field, 'must be an object')
}

function tooMany(field: string, max: number): ApiError {
  return new ApiError('too_many_media', `${field}: at most ${files(max)} allowed.`)
}

function files(count: number): string {
  return count === 1 ? '1 file is' : `${count} files are`
}

function invalid(field: string, problem: string): ApiError {
  return new ApiError('validation_error', `${field.slice(0, 100)}: ${problem}`)
}
