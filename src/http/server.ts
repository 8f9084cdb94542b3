import { randomUUID } from 'node:crypto'
import fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify'
import { serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod'
import { ApiError } from '../errors.ts'
import { hint } from '../orders/hint.ts'
import { adminRoutes } from './admin/admin.ts'
import { type App, HANDLER_TIMEOUT_MS } from './app.ts'
import { createKeys } from './auth.ts'
import { balanceRoutes } from './balance.ts'
import { callbackRoutes } from './callbacks.ts'
import { consoleRoutes } from './console.ts'
import { docsRoutes } from './docs.ts'
import { addGate, addLimits } from './gate.ts'
import { healthRoutes } from './health.ts'
import { parseJson } from './json.ts'
import { lingerOnUnreadBodies } from './linger.ts'
import { mediaRoutes } from './media.ts'
import { modelRoutes } from './models.ts'
import { observe } from './observe.ts'
import { addOpenApi } from './openapi.ts'
import { orderRoutes } from './orders.ts'
import { refuse, refuseConnection } from './refuse.ts'
import { resultRoutes } from './results.ts'
import { transactionRoutes } from './transactions.ts'
import { uploadRoutes } from './uploads.ts'

const MAX_JSON_BYTES = 1024 * 1024
/** A request with all its bytes: long enough for 300 MB at 3 Mbit/s. JSON bodies end with HANDLER_TIMEOUT_MS. */
const REQUEST_TIMEOUT_MS = 15 * 60_000
/** A connection on which nothing moves in either direction. */
const IDLE_TIMEOUT_MS = 120_000
const HEADERS_TIMEOUT_MS = 20_000
const KEEP_ALIVE_TIMEOUT_MS = 65_000
/** How long requests may take that are under way when the server closes. */
const CLOSE_MS = 15_000

/** The HTTP server of one process, ready to listen. Closing it lets requests that are under way end. */
export async function buildServer(app: App): Promise<FastifyInstance> {
  const server = fastify({
    loggerInstance: app.log as FastifyBaseLogger,
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'request_id' }),
    genReqId: request => {
      const given = request.headers['x-request-id']
      return typeof given === 'string' && /^[\w-]{1,64}$/.test(given) ? given : randomUUID()
    },
    rewriteUrl: request => decodable(request.url ?? '/'),
    // Longer than any URL that Node accepts: an overlong id is an unknown id.
    routerOptions: { maxParamLength: 16_384 },
    bodyLimit: MAX_JSON_BYTES,
    requestTimeout: REQUEST_TIMEOUT_MS,
    connectionTimeout: IDLE_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    pluginTimeout: 30_000,
    http: { headersTimeout: HEADERS_TIMEOUT_MS },
    trustProxy: false,
    forceCloseConnections: 'idle',
    // While it closes, requests on connections that are open are still served; each is told to close its connection.
    return503OnClosing: false,
    clientErrorHandler: refuseConnection,
    frameworkErrors: refuse,
  })
  server.setErrorHandler(refuse)
  server.setNotFoundHandler(noSuchRoute)
  server.setValidatorCompiler(validatorCompiler)
  server.setSerializerCompiler(serializerCompiler)
  server.decorateRequest('caller', undefined)
  server.decorateRequest('facts', undefined)
  limitBodies(server)
  closeConnections(server)
  readJsonOnly(server)
  lingerOnUnreadBodies(server)
  observe(server, app)
  await addOpenApi(server, app.config.publicUrl)
  await addLimits(server, app)

  await server.register(healthRoutes(app))
  if (app.config.role !== 'worker') await addRoutes(server, app)
  await server.ready()
  return server
}

/** What others are served. A worker has only its health. */
async function addRoutes(server: FastifyInstance, app: App): Promise<void> {
  await server.register(docsRoutes)
  await server.register(consoleRoutes)
  await server.register(resultRoutes(app))
  await server.register(mediaRoutes, app)
  await server.register(callbackRoutes((token, body) => hint(app, token, body)))
  await server.register(adminRoutes(app), { prefix: '/admin/v1' })
  await server.register(customerApi(app), { prefix: '/api/v1' })
}

/** Everything under /api/v1, behind the gate. */
function customerApi(app: App) {
  return async (server: FastifyInstance): Promise<void> => {
    const keys = createKeys(app.db, app.databaseUrl)
    server.addHook('onClose', () => keys.close())
    addGate(server, keys)
    server.setNotFoundHandler(noSuchRoute)
    await server.register(balanceRoutes(app))
    await server.register(modelRoutes(app))
    await server.register(orderRoutes(app))
    await server.register(transactionRoutes(app))
    await server.register(uploadRoutes, app)
  }
}

/**
 * Closing looks for idle connections only once: one whose answer was still under way would be waited for until it times out.
 * What has not ended after CLOSE_MS, such as a slow download, is cut off.
 */
function closeConnections(server: FastifyInstance): void {
  const timers: NodeJS.Timeout[] = []
  server.addHook('preClose', async () => {
    timers.push(setInterval(() => server.server.closeIdleConnections(), 50))
    timers.push(setTimeout(() => server.server.closeAllConnections(), CLOSE_MS))
  })
  server.addHook('onClose', async () => timers.forEach(clearTimeout))
}

/** A body must come in time. What has none is only waited for where the database is, and every wait for that is bounded. */
function limitBodies(server: FastifyInstance): void {
  server.addHook('onRoute', route => {
    if (![route.method].flat().every(method => method === 'GET' || method === 'HEAD'))
      route.handlerTimeout ??= HANDLER_TIMEOUT_MS
  })
  // What no route takes is not read at all.
  server.addHook('preParsing', (request, _reply, payload, done) => {
    if (request.is404) done(new ApiError('not_found', 'No such route.'))
    else done(null, payload)
  })
}

function noSuchRoute(): never {
  throw new ApiError('not_found', 'No such route.')
}

/** A path with a stray `%` or a NUL (nothing in Postgres has one) is a path that does not exist, not an error of its own kind. */
function decodable(url: string): string {
  if (!url.includes('%')) return url
  try {
    if (!decodeURIComponent(url).includes('\0')) return url
  } catch {}
  return url.replaceAll('%', '%25')
}

function readJsonOnly(server: FastifyInstance): void {
  server.removeAllContentTypeParsers()
  server.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, bytes, done) => {
    const charset = /;\s*charset="?([^";\s]+)/i.exec(request.headers['content-type'] ?? '')?.[1] ?? 'utf-8'
    try {
      if (!/^utf-?8$/i.test(charset))
        throw new ApiError('validation_error', 'Content-Type: the charset must be UTF-8.', { status: 400 })
      done(null, parseJson(bytes as Buffer))
    } catch (error) {
      done(error as Error)
    }
  })
  // Some clients name a type for a body that they do not send, as with POST …/cancel.
  server.addHook('onRequest', ({ headers }, _reply, done) => {
    const { 'content-length': length = '0', 'transfer-encoding': coding, 'content-type': type } = headers
    if (type !== undefined && length === '0' && coding === undefined) delete headers['content-type']
    done()
  })
}
