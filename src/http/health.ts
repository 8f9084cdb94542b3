import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod'
import { collectDefaultMetrics } from 'prom-client'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import type { App } from './app.ts'

const CHECK_TIMEOUT_MS = 3_000

/** GET /healthz (the process is alive), /readyz (what it needs can be reached), /metrics (Prometheus). */
export function healthRoutes(app: App): FastifyPluginAsyncZod {
  const parts: Record<string, () => Promise<unknown>> = {
    database: () => app.db.pool.query('SELECT 1'),
    queue: () => app.checkQueue(),
    storage: () => app.storage.check(),
  }
  const part = z.enum(['ok', 'unreachable'])

  return async server => {
    // The event loop's delay is sampled ten times a second: at a hundred, sampling is most of what an idle process does.
    collectDefaultMetrics({ register: app.metrics, eventLoopMonitoringPrecision: 100 })

    server.get(
      '/healthz',
      {
        schema: {
          tags: ['Operation'],
          security: [],
          operationId: 'getHealth',
          summary: 'Process alive',
          response: { 200: z.object({ success: z.literal(true) }).describe('Alive.') },
        },
      },
      async () => ({ success: true as const }),
    )

    const readiness = z.object({ database: part, queue: part, storage: part })
    server.get(
      '/readyz',
      {
        schema: {
          tags: ['Operation'],
          security: [],
          operationId: 'getReadiness',
          summary: 'Database, queue and storage reachable',
          response: {
            200: z.object({ success: z.literal(true), parts: readiness }).describe('Ready.'),
            503: z
              .object({
                success: z.literal(false),
                error: z.object({ code: z.literal('server_busy'), message: z.string() }),
                parts: readiness,
              })
              .describe('server_busy'),
          },
        },
      },
      async () => {
        const names = Object.keys(parts)
        const checks = await Promise.allSettled(Object.values(parts).map(check => soon(check())))
        const states = Object.fromEntries(
          names.map((name, i) => [name, checks[i]?.status === 'fulfilled' ? 'ok' : 'unreachable']),
        ) as z.infer<typeof readiness>
        const broken = names.filter((_, i) => checks[i]?.status === 'rejected')
        if (broken.length > 0)
          throw new ApiError('server_busy', `Not ready: ${broken.join(', ')}.`, { extra: { parts: states } })
        return { success: true as const, parts: states }
      },
    )

    server.get('/metrics', { schema: { hide: true } }, async (_request, reply) =>
      reply.type(app.metrics.contentType).send(await app.metrics.metrics()),
    )
  }
}

async function soon<T>(check: Promise<T>): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(() => reject(new Error('took too long')), CHECK_TIMEOUT_MS)
  try {
    return await Promise.race([check, promise])
  } finally {
    clearTimeout(timer)
  }
}
