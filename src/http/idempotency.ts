import { createHash } from 'node:crypto'
import canonicalize from 'canonicalize'
import type { FastifyRequest } from 'fastify'
import { ApiError } from '../errors.ts'

/** The Idempotency-Key header, if there is one. Throws validation_error (400) when it is malformed or sent twice. */
export function readIdempotencyKey(request: FastifyRequest): string | undefined {
  const key = request.headers['idempotency-key']
  if (key === undefined) return undefined
  // Node joins repeated headers into one value: only the raw list tells.
  const sent = request.raw.rawHeaders.filter(
    (name, i) => i % 2 === 0 && name.toLowerCase() === 'idempotency-key',
  ).length
  if (sent > 1) throw new ApiError('validation_error', 'Idempotency-Key: sent more than once.', { status: 400 })
  if (typeof key !== 'string' || !/^[\x21-\x7e]{1,255}$/.test(key))
    throw new ApiError('validation_error', 'Idempotency-Key: must be 1 to 255 visible ASCII characters.', {
      status: 400,
    })
  return key
}

/** SHA-256 of the RFC 8785 form of a parsed body: equal exactly when the data is, whatever the order of keys or 1 vs 1.0. */
export function hashBody(body: unknown): Buffer {
  return createHash('sha256')
    .update(canonicalize(body) ?? '')
    .digest()
}
