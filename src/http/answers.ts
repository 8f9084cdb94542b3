import type { FastifyReply } from 'fastify'
import { z } from 'zod'
import { type ErrorCode, STATUS } from '../errors.ts'

/** The wire forms that several resources share, and their description in the OpenAPI document. */

export const money = z.string().meta({
  description: 'US dollars: at least two decimals, at most six, no trailing zeros past two.',
  example: '0.05',
})

export const orderStatus = z.enum(['queued', 'processing', 'completed', 'failed', 'cancelled'])

export const orderAnswer = z
  .object({
    id: z.string().meta({ example: 'ord_AZqV3l0tcHmN0gGcEyd9Tw' }),
    model_id: z.int(),
    status: orderStatus,
    cost_usd: money.describe('Known before anything is charged; never changes.'),
    result: z.array(z.string()).readonly().describe('Links to what was made: no login, until `expires_at`.'),
    expires_at: z.string().nullable().describe('ISO 8601; when the links stop working.'),
    error: z
      .object({
        code: z.string().describe('content_rejected, invalid_media, provider_failed, timed_out or submission_unknown'),
        message: z.string(),
      })
      .nullable(),
  })
  .meta({ id: 'Order' })

/** A page of a list. */
export const pageQuery = z.object({
  limit: z.coerce.number().int().min(1).max(100).default(20),
  cursor: z.string().max(200).optional().describe('`next_cursor` of the page before.'),
})

type Refusals = Partial<Record<number, readonly ErrorCode[]>>

/** What every route with a JSON body refuses before it looks at the data. */
export const BODY_STATUSES = { 400: ['validation_error'], 413: ['validation_error'] } as const satisfies Refusals

/** `validatorCompiler` of a route whose schema is for the document: its handler checks what came. */
export const unchecked = () => () => true

const bytes = { 'application/octet-stream': { schema: z.file() } }
/** The answers of a route that hands out a file. */
export const fileAnswers = {
  200: { description: 'The bytes.', content: bytes },
  206: { description: 'The bytes of the range.', content: bytes },
}

const EVERYWHERE: readonly ErrorCode[] = ['unauthorized', 'forbidden', 'rate_limited', 'internal_error', 'server_busy']

/**
 * The error answers of an operation, for its `response`: the codes that every operation may answer, and its own. A code at
 * another status than the table's is given in `at`; `beside` are members next to `error`, always at 409 and sometimes at 503.
 */
export function refusals(
  own: readonly ErrorCode[],
  options: { at?: Refusals; beside?: z.ZodRawShape; open?: boolean } = {},
): Record<number, z.ZodObject> {
  const byStatus = new Map<number, Set<ErrorCode>>()
  const add = (status: number, code: ErrorCode) => byStatus.set(status, (byStatus.get(status) ?? new Set()).add(code))
  const common = options.open ? EVERYWHERE.slice(-2) : EVERYWHERE
  for (const code of [...common, ...own]) add(STATUS[code], code)
  for (const [status, codes] of Object.entries(options.at ?? {}))
    for (const code of codes ?? []) add(Number(status), code)
  return Object.fromEntries(
    [...byStatus].map(([status, codes]) => [status, refusal(status, [...codes], besideAt(status, options.beside))]),
  )
}

function besideAt(status: number, beside: z.ZodRawShape = {}): z.ZodRawShape {
  if (status === 409) return beside
  return status === 503 ? z.object(beside).partial().shape : {}
}

function refusal(status: number, codes: ErrorCode[], beside: z.ZodRawShape): z.ZodObject {
  const error = { code: z.enum(codes as [ErrorCode, ...ErrorCode[]]), message: z.string() }
  return z
    .object({
      success: z.literal(false),
      error: z.object(status === 500 ? { ...error, request_id: z.string() } : error),
      ...beside,
    })
    .describe(codes.join(', '))
}

/** Sends a hot route's body: a string as it stands, anything else written without the check against its schema. */
export function sendJson(reply: FastifyReply, status: number, body: object | string): FastifyReply {
  return reply
    .code(status)
    .type('application/json; charset=utf-8')
    .send(typeof body === 'string' ? body : JSON.stringify(body))
}
