import jsonata from 'jsonata'
import { type Micros, parseMoney, roundToMicros } from '../money.ts'
import type { MediaElement, OrderInput } from './model.ts'

/*
 * JSONata over {prompt, media, options}. A media key without files is absent, so that `media.image ? … : …` asks whether
 * there are any. Files appear as objects; in a result they stand where the file goes, and mapMedia replaces them.
 *
 * Evaluation is bounded in time, depth and length. That stops loops and recursions, which JSONata takes step by step; it
 * cannot interrupt one long built-in call, such as a regular expression that backtracks. Expressions are the operator's own
 * writing, never a customer's: customers give strings, numbers and files, and those are data.
 */

const BOUNDS = { timeout: 1_000, stack: 500, sequence: 10_000 }
const MAX_DEPTH = 64

/** An expression that cannot be compiled or evaluated. `offset`: the character where it breaks, if known. */
export class ExpressionError extends Error {
  override readonly name = 'ExpressionError'
  readonly offset: number | undefined

  constructor(cause: unknown) {
    // JSONata throws plain objects.
    const { message, position } = (
      typeof cause === 'object' && cause !== null ? cause : {}
    ) as Partial<jsonata.JsonataError>
    super(message ?? String(cause), { cause })
    this.offset = position
  }
}

export interface Expression {
  /** The result as plain JSON, undefined when there is none. Throws ExpressionError. */
  evaluate(input: OrderInput): Promise<unknown>
}

/** Throws ExpressionError when the text is not JSONata. */
export function compile(text: string): Expression {
  let compiled: jsonata.Expression
  try {
    compiled = jsonata(text, BOUNDS)
  } catch (error) {
    throw new ExpressionError(error)
  }
  return {
    async evaluate(input) {
      try {
        return plain(await compiled.evaluate(visible(input)), 0)
      } catch (error) {
        throw error instanceof ExpressionError ? error : new ExpressionError(error)
      }
    },
  }
}

/** An amount: a decimal string as it is, else an expression. Evaluating throws RangeError when it gives no amount ≥ 0. */
export function compileMoney(text: string): (input: OrderInput) => Promise<Micros> {
  const constant = parseMoney(text)
  if (constant !== undefined) return async () => constant
  const expression = compile(text)
  return async input => asMoney(await expression.evaluate(input))
}

/** Numbers are rounded half-up to a micro-dollar, strings must be exact decimals. Throws RangeError. */
export function asMoney(value: unknown): Micros {
  const micros =
    typeof value === 'number' ? roundToMicros(value) : typeof value === 'string' ? parseMoney(value) : undefined
  if (micros === undefined || micros < 0n) throw new RangeError(`not an amount of money: ${JSON.stringify(value)}`)
  return micros
}

/** The upstream's fields. Throws ExpressionError when the result is no object. */
export function asFields(value: unknown): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value) && !isMediaElement(value)) {
    return value as Record<string, unknown>
  }
  throw new ExpressionError('gives no object')
}

/** Replaces each media element in an evaluated input by what `place` makes of it, one after the other. */
export async function mapMedia(value: unknown, place: (element: MediaElement) => Promise<unknown>): Promise<unknown> {
  if (typeof value !== 'object' || value === null) return value
  if (isMediaElement(value)) return place(value)
  if (Array.isArray(value)) {
    const items: unknown[] = []
    for (const item of value) items.push(await mapMedia(item, place))
    return items
  }
  const entries: [string, unknown][] = []
  for (const [key, member] of Object.entries(value)) entries.push([key, await mapMedia(member, place)])
  return Object.fromEntries(entries)
}

/** Whether a media element stands anywhere in an evaluated input. */
export function hasMedia(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  return isMediaElement(value) || Object.values(value).some(hasMedia)
}

/** By its members, because an evaluated input is stored as JSON before its files are placed. */
function isMediaElement(value: object): value is MediaElement {
  const { upload, mime_type, extension, size } = value as Partial<MediaElement>
  return (
    typeof upload === 'string' &&
    typeof mime_type === 'string' &&
    typeof extension === 'string' &&
    typeof size === 'number'
  )
}

function visible({ prompt, media, options }: OrderInput): unknown {
  return { prompt, media: Object.fromEntries(Object.entries(media).filter(([, files]) => files.length > 0)), options }
}

/** JSONata's arrays carry members of their own and its objects may hold functions: only JSON leaves here. */
function plain(value: unknown, depth: number): unknown {
  if (value === undefined || value === null || typeof value === 'string' || typeof value === 'boolean') return value
  if (typeof value === 'number' && Number.isFinite(value)) return value
  if (typeof value !== 'object' || '_jsonata_lambda' in value || '_jsonata_function' in value) {
    throw new ExpressionError('gives something that is not JSON')
  }
  if (depth > MAX_DEPTH) throw new ExpressionError('gives something nested too deeply')
  if (Array.isArray(value)) return value.map(item => plain(item, depth + 1)).filter(item => item !== undefined)
  const entries = Object.entries(value).map(([key, member]) => [key, plain(member, depth + 1)] as const)
  return Object.fromEntries(entries.filter(([, member]) => member !== undefined))
}
