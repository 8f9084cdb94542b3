import type { FastifyInstance } from 'fastify'
import { ApiError } from '../errors.ts'

/** Largest callback body; what is longer is not read. */
const MAX_BYTES = 64 * 1024
const PER_MINUTE = 600

/**
 * Where upstreams call us: POST /callbacks/{256-bit token}. Answered at once; the body is only a hint, and an unknown token gets
 * the same 404 as any path that does not exist.
 */
export function callbackRoutes(take: (token: string, body: unknown) => Promise<boolean>) {
  return async (server: FastifyInstance): Promise<void> => {
    server.removeAllContentTypeParsers()
    server.addContentTypeParser('*', { parseAs: 'string', bodyLimit: MAX_BYTES }, (_request, body, done) => {
      try {
        done(null, JSON.parse(body as string))
      } catch {
        // A body that is not JSON hints at nothing, yet the token still says which attempt to ask about.
        done(null, undefined)
      }
    })
    server.post<{ Params: { token: string } }>(
      '/callbacks/:token',
      {
        schema: { hide: true },
        bodyLimit: MAX_BYTES,
        config: { rateLimit: { max: PER_MINUTE, timeWindow: 60_000, keyGenerator: request => request.ip } },
      },
      async request => {
        const { token } = request.params
        if (!/^[\w-]{43}$/.test(token) || !(await take(token, request.body)))
          throw new ApiError('not_found', 'No such route.')
        return { success: true }
      },
    )
  }
}
