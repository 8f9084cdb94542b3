import type { FastifyInstance } from 'fastify'
import { Histogram } from 'prom-client'
import type { App } from './app.ts'

/** X-Request-Id on every answer; one log line and one measurement per request. No bodies, headers or addresses are logged. */
export function observe(server: FastifyInstance, app: App): void {
  const durations = new Histogram({
    name: 'genmux_http_request_seconds',
    help: 'Duration of HTTP requests, by route and status.',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    registers: [app.metrics],
  })

  server.addHook('onRequest', (request, reply, done) => {
    reply.header('x-request-id', request.id)
    done()
  })

  server.addHook('onResponse', (request, reply, done) => {
    const status = reply.statusCode
    const route = request.routeOptions.url ?? 'unknown'
    const ms = reply.elapsedTime
    durations.observe({ method: request.method, route, status }, ms / 1000)
    const line = {
      method: request.method,
      route,
      status,
      ms: Math.round(ms * 10) / 10,
      ...(request.caller ? { customer: request.caller.customerId, api_key: request.caller.apiKeyId } : {}),
      ...(reply.raw.writableFinished ? {} : { cut_off: true }),
      ...request.facts,
    }
    if (status >= 500) request.log.warn(line, 'request')
    else request.log.info(line, 'request')
    done()
  })
}
