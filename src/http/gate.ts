import { setTimeout as sleep } from 'node:timers/promises'
import rateLimit, { normalizeIP } from '@fastify/rate-limit'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { Redis } from 'ioredis'
import { ApiError } from '../errors.ts'
import { createAdmission } from './admission.ts'
import type { App } from './app.ts'
import { type Caller, type Keys, parseSecret } from './auth.ts'
import { watchStrain } from './strain.ts'

/** Made once: in an overload, refusals must cost little. */
const BUSY = new ApiError('server_busy', 'Server is temporarily under high load. Try again shortly.', { retryAfter: 2 })

/** Makes rate limits known to the whole server; what is limited says so itself. */
export async function addLimits(server: FastifyInstance, app: App): Promise<void> {
  await server.register(rateLimit, {
    global: false,
    timeWindow: 60_000,
    max: (request: FastifyRequest) => request.caller?.rateLimitPerMinute ?? app.config.rateLimitPerMinute,
    keyGenerator: (request: FastifyRequest) => request.caller?.apiKeyId ?? `ip:${normalizeIP(request.ip)}`,
    errorResponseBuilder: (_request, { ttl }) => tooMany(ttl / 1000),
    cache: 50_000,
    ...sharedCounters(server, app),
  })
}

function tooMany(seconds: number): ApiError {
  return new ApiError('rate_limited', 'Too many requests.', { retryAfter: seconds })
}

/** The customer behind a request. Only behind the gate, which lets nobody else through. */
export function callerOf(request: FastifyRequest): Caller {
  if (!request.caller) throw new Error('a request without a customer came through the gate')
  return request.caller
}

/**
 * What every request of the customers' API passes, known route or not, in this order: who is it, the rate limit (by API key;
 * by address when there is none, so that guessing keys is limited too), overload, and whether the key may do this.
 */
export function addGate(server: FastifyInstance, keys: Keys): void {
  const count = server.createRateLimit()
  const admission = createAdmission()
  const strain = watchStrain()
  server.addHook('onClose', async () => strain.stop())
  server.addHook('onRequest', async (request, reply) => {
    const identified = await identify(request, keys)
    request.caller = identified.caller
    const limit = await count(request)
    if (!limit.isAllowed) {
      reply.header('x-ratelimit-limit', limit.max)
      reply.header('x-ratelimit-remaining', limit.remaining)
      reply.header('x-ratelimit-reset', limit.ttlInSeconds)
      if (limit.isExceeded) throw tooMany(limit.ttlInSeconds)
    }
    if (identified.failure !== undefined) throw identified.failure
    if (admission.isFull() || strain.isFelt()) {
      const ms = admission.holdBack()
      if (ms > 0) await sleep(ms)
      throw BUSY
    }
    if (!request.is404) authorize(request)
  })
  // Only now its body is there: one that comes slowly takes no place. Whose client has left by now is never closed again.
  server.addHook('preValidation', (request, reply, done) => {
    const counts = request.routeOptions.config.waits !== true && !reply.raw.destroyed
    if (counts) reply.raw.once('close', admission.begin())
    done()
  })
}

async function identify(
  request: FastifyRequest,
  keys: Keys,
): Promise<{ caller?: Caller | undefined; failure?: unknown }> {
  const [, secret] = /^bearer +(\S+) *$/i.exec(request.headers.authorization ?? '') ?? []
  const hash = secret === undefined ? undefined : parseSecret(secret)
  if (!hash) return {}
  try {
    return { caller: await keys.find(hash) }
  } catch (failure) {
    return { failure }
  }
}

function authorize(request: FastifyRequest): void {
  const { caller } = request
  if (!caller) throw new ApiError('unauthorized', 'API key missing or invalid.')
  if (caller.suspended) throw new ApiError('forbidden', 'The account is suspended.')
  const { scope } = request.routeOptions.config
  if (scope === undefined) throw new Error(`route ${request.routeOptions.url} names no scope`)
  if (!caller.scopes.includes(scope)) throw new ApiError('forbidden', `The API key lacks the scope: ${scope}.`)
}

/** With Redis, all processes count together. When it cannot be reached, requests pass uncounted rather than fail. */
function sharedCounters(server: FastifyInstance, app: App): { redis?: Redis; nameSpace?: string; skipOnError?: true } {
  if (app.config.redisUrl === undefined) return {}
  const redis = new Redis(app.config.redisUrl, {
    maxRetriesPerRequest: 1,
    enableOfflineQueue: false,
    connectTimeout: 500,
    commandTimeout: 500,
  })
  let reachable = true
  redis.on('ready', () => {
    reachable = true
  })
  redis.on('error', (error: Error) => {
    if (reachable) app.log.warn({ reason: error.message }, 'Redis cannot be reached: rate limits are not enforced')
    reachable = false
  })
  server.addHook('onClose', () => redis.disconnect())
  return { redis, nameSpace: 'genmux-rate-', skipOnError: true }
}
