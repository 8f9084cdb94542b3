import { randomUUID } from 'node:crypto'
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import { hasZodFastifySchemaValidationErrors } from 'fastify-type-provider-zod'
import { isOutage } from '../db/outage.ts'
import { ApiError } from '../errors.ts'

/** The one error handler: what was thrown → the wire form. Nothing else writes an error answer. */
export function refuse(thrown: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const error = asApiError(thrown, request)
  note(error, thrown, request)
  if (error.status === 401) reply.header('www-authenticate', 'Bearer')
  if (error.retryAfter !== undefined) reply.header('retry-after', Math.max(1, Math.ceil(error.retryAfter)))
  reply.code(error.status).type('application/json; charset=utf-8').send(wireForm(error, request.id))
}

function wireForm(error: ApiError, requestId: string): string {
  return JSON.stringify({
    success: false,
    error: {
      code: error.code,
      message: error.message,
      ...(error.code === 'internal_error' ? { request_id: requestId } : {}),
    },
    ...error.extra,
  })
}

function asApiError(thrown: unknown, request: FastifyRequest): ApiError {
  if (thrown instanceof ApiError) return thrown
  if (hasZodFastifySchemaValidationErrors(thrown)) return fromSchema(thrown, request)
  const known = fromFramework(thrown, request)
  if (known) return known
  if (isOutage(thrown)) return new ApiError('server_busy', 'Server is temporarily unavailable. Try again shortly.')
  return new ApiError('internal_error', 'Unexpected internal error.')
}

/** What does not fit the route's schema. A body or a header that is not there at all is malformed (400), as without a schema. */
function fromSchema({ validation, validationContext }: FastifyError, request: FastifyRequest): ApiError {
  if (validationContext === 'body' && request.body === undefined)
    return new ApiError('validation_error', 'The body must be a JSON object.', { status: 400 })
  const [issue] = validation ?? []
  const name = issue?.instancePath.slice(1).replaceAll('/', '.') ?? ''
  const inHeader = validationContext === 'headers'
  // Node has lower-cased it.
  const field = inHeader ? name.replace(/\b[a-z]/g, letter => letter.toUpperCase()) : name
  const message = `${field === '' ? '' : `${field}: `}${issue?.message ?? 'Invalid request data'}`
  return new ApiError('validation_error', message, inHeader ? { status: 400 } : {})
}

/** What Fastify and its plugins refuse before a handler runs. */
function fromFramework(thrown: unknown, request: FastifyRequest): ApiError | undefined {
  const { code, statusCode, message } = thrown as Partial<FastifyError>
  const invalid = (status: number, text: string) => new ApiError('validation_error', text, { status })
  if (request.raw.destroyed && !request.raw.complete) return invalid(400, 'The request was cut off.')
  if (typeof code !== 'string' || !code.startsWith('FST_')) return undefined
  switch (code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return invalid(413, 'The body is too large.')
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return invalid(400, 'Content-Type: not what this endpoint takes.')
    case 'FST_ERR_HANDLER_TIMEOUT':
      return request.raw.complete
        ? new ApiError('server_busy', 'The request took too long. Try again shortly.')
        : invalid(408, 'The body arrived too slowly.')
  }
  if (statusCode === undefined || statusCode < 400 || statusCode >= 500) return undefined
  return invalid(statusCode === 413 ? 413 : 400, message ?? 'Invalid request.')
}

function note(error: ApiError, thrown: unknown, request: FastifyRequest): void {
  request.facts = { ...request.facts, error: error.code }
  if (error.code === 'internal_error') request.log.error({ err: thrown }, 'unexpected error')
  else if (error.status >= 500 && (error !== thrown || error.cause))
    request.facts.reason = String(error === thrown ? error.cause : thrown).slice(0, 300)
}

/** Answers what is not HTTP at all, or has headers too large or too slow; there is no request then, only a socket. */
export function refuseConnection(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy()
    return
  }
  const status = { HPE_HEADER_OVERFLOW: 431, ERR_HTTP_REQUEST_TIMEOUT: 408 }[error.code ?? ''] ?? 400
  const body = wireForm(new ApiError('validation_error', STATUS_CODES[status] ?? '', { status }), '')
  socket.end(
    [
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
      'Content-Type: application/json; charset=utf-8',
      `Content-Length: ${Buffer.byteLength(body)}`,
      `X-Request-Id: ${randomUUID()}`,
      'Connection: close',
      '',
      body,
    ].join('\r\n'),
  )
}
