import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { type Logger, pino } from 'pino'
import { Registry } from 'prom-client'
import { afterAll } from 'vitest'
import { freePort } from './free-port.ts'
import { loadCatalog } from '../src/catalog/catalog.ts'
import { readConfig } from '../src/config.ts'
import type { Db } from '../src/db/pool.ts'
import type { App } from '../src/http/app.ts'
import { createSecret } from '../src/http/auth.ts'
import { buildServer } from '../src/http/server.ts'
import { moveMoney } from '../src/ledger/ledger.ts'
import type { Micros } from '../src/money.ts'
import { createEngine, type RunningEngine } from '../src/orders/start.ts'
import { openLocal } from '../src/storage/local.ts'
import type { Storage } from '../src/storage/storage.ts'
import { createUploads } from '../src/uploads/uploads.ts'
import { freshDatabase } from './database.ts'

export const ADMIN_TOKEN = 'admin-token-of-the-tests'

/** 20: pictures with media and options. 5: prompt alone. 7: media alone. 9: priced by its options. 30: not for sale. */
export const TEST_CATALOG = `
providers:
  - { id: sandbox, kind: sandbox }
  - { id: other, kind: sandbox }
models:
  - id: 20
    name: Test Picture
    type: image
    price_usd: "0.05"
    prompt: { mode: required, max_length: 2000 }
    media:
      required: false
      max_count: 2
      accepted: [jpg, jpeg, png, webp]
      inputs: [{ key: image, required: false, min: 0, max: 2, accepted: [jpg, jpeg, png, webp] }]
    options_schema:
      - key: aspect_ratio
        type: select
        label: Aspect Ratio
        required: false
        default: "1:1"
        options: [{ value: "1:1", label: "1:1" }, { value: "16:9", label: "16:9" }]
    routes: [{ provider: sandbox, model: picture, input: '{ "prompt": prompt, "aspect_ratio": options.aspect_ratio }', cost_usd: "0.01" }]
  - id: 5
    name: Test Prompt
    type: image
    price_usd: "0.0375"
    prompt: { mode: required, max_length: 100 }
    routes: [{ provider: sandbox, model: picture, input: '{ "prompt": prompt }', cost_usd: "0.01" }]
  - id: 7
    name: Test Upscale
    type: upscale
    price_usd: "0.02"
    prompt: { mode: ignored }
    media:
      required: true
      max_count: 1
      accepted: [png]
      inputs: [{ key: image, required: true, min: 1, max: 1, accepted: [png] }]
    routes: [{ provider: sandbox, model: picture, input: '{ "images": media.image }', cost_usd: "0.01" }]
  - id: 9
    name: Test Video
    type: video
    price_usd: "0.10"
    price: "options.seconds * 0.10"
    prompt: { mode: optional, max_length: 100 }
    options_schema:
      - { key: seconds, type: number, label: Seconds, required: false, default: 1, min: 1, max: 10, step: 1 }
      - { key: sound, type: boolean, label: Sound, required: false, default: false }
      - { key: style, type: text, label: Style, required: false, max: 20 }
    routes: [{ provider: other, model: video, input: '{ "prompt": prompt }', cost_usd: "0.01" }]
  - id: 30
    name: Not For Sale
    type: image
    price_usd: "1"
    routes: [{ provider: sandbox, model: picture, input: '{ "prompt": prompt }', cost_usd: "0.01", enabled: false }]
`

export interface TestServer {
  /** Origin, without a slash at the end. */
  readonly url: string
  readonly db: Db & { readonly url: string }
  readonly app: App
  readonly server: FastifyInstance
  readonly engine: RunningEngine
  /** A customer with $100. */
  readonly customer: TestCustomer
  addCustomer(settings?: CustomerSettings): Promise<TestCustomer>
  /** One request; `key` undefined: without authentication. Paths begin with a slash. */
  call(method: string, path: string, options?: CallOptions): Promise<TestAnswer>
}

export interface CustomerSettings {
  readonly balance?: Micros
  readonly maxActiveOrders?: number
  readonly rateLimitPerMinute?: number
}

export interface TestCustomer {
  readonly id: string
  readonly apiKeyId: string
  /** The secret of an API key with all scopes. */
  readonly key: string
  /** Requests with that key. */
  get(path: string, headers?: Record<string, string>): Promise<TestAnswer>
  post(path: string, body?: unknown, headers?: Record<string, string>): Promise<TestAnswer>
  addKey(scopes?: readonly string[]): Promise<{ id: string; key: string }>
}

export interface CallOptions {
  readonly key?: string | undefined
  /** A string or bytes are sent as they stand, anything else as JSON. */
  readonly body?: unknown
  readonly headers?: Record<string, string> | undefined
}

export interface TestAnswer {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  readonly bytes: Buffer
  /** The body as JSON; undefined when it is none. */
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look at what came, whatever it is
  readonly body: any
}

export interface BuildOptions {
  /** Environment variables over the tests' own. */
  readonly env?: Record<string, string>
  /** YAML. */
  readonly catalog?: string
  /** Whether orders are worked on. Default: they stay queued. */
  readonly loops?: boolean
  readonly log?: Logger
  readonly convertLater?: (uploadId: string) => Promise<void>
  readonly checkQueue?: () => Promise<void>
  readonly storage?: (local: Storage) => Storage
  /** Sets PUBLIC_URL to where it listens, so that upstreams are asked to call back. */
  readonly publicUrl?: boolean
}

/** A whole genmux of this test file's own, listening on loopback, on a fresh database. Call it at the top of a file. */
export async function build(options: BuildOptions = {}): Promise<TestServer> {
  const db = await freshDatabase()
  const folder = mkdtempSync(join(tmpdir(), 'genmux-server-'))
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const ownUrl = options.publicUrl ? { PUBLIC_URL: url } : {}
  const env = { LOG_LEVEL: 'silent', PORT: String(port), DATA_DIR: folder, ADMIN_TOKEN, ...ownUrl, ...options.env }
  const config = readConfig(env)
  const log = options.log ?? pino({ level: config.logLevel })
  const catalogFile = join(folder, 'catalog.yaml')
  writeFileSync(catalogFile, options.catalog ?? TEST_CATALOG)
  const catalog = await loadCatalog(catalogFile, { env, sandbox: 'on', publicUrlIsSet: config.publicUrlIsSet })
  const local = await openLocal(join(folder, 'storage'))
  const storage = options.storage?.(local) ?? local
  const uploads = createUploads({ db, storage, config, log, convertLater: options.convertLater ?? (async () => {}) })
  const engine = createEngine({ ...config, db, databaseUrl: db.url, catalog, storage, log, media: uploads.media })
  const app: App = {
    ...engine.engine,
    config,
    databaseUrl: db.url,
    adminToken: ADMIN_TOKEN,
    placer: engine.placer,
    uploads,
    metrics: new Registry(),
    checkQueue: options.checkQueue ?? (async () => {}),
  }
  const server = await buildServer(app)
  await server.listen({ port, host: '127.0.0.1' })
  if (options.loops) engine.startLoops()
  afterAll(async () => {
    await server.close()
    await engine.stop(5_000)
    rmSync(folder, { recursive: true, force: true })
  })

  const call = (method: string, path: string, options: CallOptions = {}) => request(method, url + path, options)
  const addCustomer = (settings?: CustomerSettings) => createCustomer(db, call, settings)
  return { url, db, app, server, engine, call, addCustomer, customer: await addCustomer() }
}

async function request(method: string, url: string, { key, body, headers }: CallOptions): Promise<TestAnswer> {
  const raw = body === undefined || typeof body === 'string' || body instanceof Uint8Array
  const answer = await fetch(url, {
    method,
    redirect: 'manual',
    headers: {
      ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    body: raw ? ((body as string | Uint8Array<ArrayBuffer> | undefined) ?? null) : JSON.stringify(body),
  })
  const bytes = Buffer.from(await answer.arrayBuffer())
  const json = answer.headers.get('content-type')?.startsWith('application/json') && bytes.length > 0
  const text = bytes.toString()
  return { status: answer.status, headers: answer.headers, bytes, text, body: json ? JSON.parse(text) : undefined }
}

async function createCustomer(
  db: Db,
  call: TestServer['call'],
  settings: CustomerSettings = {},
): Promise<TestCustomer> {
  const { balance = 100_000_000n, maxActiveOrders = 1_000, rateLimitPerMinute } = settings
  const id = `cus_${randomBytes(12).toString('base64url')}`
  await db.prisma.customer.create({
    data: { id, name: 'Test', maxActiveOrders, rateLimitPerMinute: rateLimitPerMinute ?? null },
  })
  if (balance > 0n)
    await moveMoney(db, { kind: 'topup', customerId: id, amount: balance, reference: null, actor: 'test', once: null })
  const addKey = async (scopes: readonly string[] = ['read', 'generate']) => {
    const { secret, prefix, hash } = createSecret()
    const keyId = `key_${randomBytes(12).toString('base64url')}`
    const data = {
      id: keyId,
      customerId: id,
      name: 'Test',
      prefix,
      secretHash: new Uint8Array(hash),
      scopes: [...scopes],
    }
    await db.prisma.apiKey.create({ data })
    return { id: keyId, key: secret }
  }
  const { id: apiKeyId, key } = await addKey()
  return {
    id,
    apiKeyId,
    key,
    addKey,
    get: (path, headers) => call('GET', `/api/v1${path}`, { key, headers }),
    post: (path, body, headers) => call('POST', `/api/v1${path}`, { key, body, headers }),
  }
}
