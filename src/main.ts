import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type Logger, pino } from 'pino'
import { Registry } from 'prom-client'
import { ADMIN_TOKEN_FILE, adminToken } from './admin-token.ts'
import { loadCatalog } from './catalog/catalog.ts'
import { type Config, readConfig } from './config.ts'
import { type EmbeddedDb, startEmbedded } from './db/embedded.ts'
import { migrate } from './db/migrate.ts'
import { isOutage } from './db/outage.ts'
import { type Db, openDb } from './db/pool.ts'
import { createDemo } from './demo.ts'
import { StartError } from './errors.ts'
import { buildServer } from './http/server.ts'
import { startJobs } from './jobs/jobs.ts'
import { addMetrics } from './metrics.ts'
import type { CrashPoint } from './orders/engine.ts'
import { createEngine } from './orders/start.ts'
import { openStorage } from './storage/open.ts'
import { createUploads } from './uploads/uploads.ts'

/** How long what is under way may take after SIGTERM; what is not done by then is resumed by whoever claims it. */
const DRAIN_MS = 20_000

export interface StartOptions {
  /** Greet in one line of JSON. */
  readonly json?: boolean | undefined
}

export interface Running {
  /** Where it listens, e.g. http://127.0.0.1:3000. */
  readonly origin: string
  stop(): Promise<void>
}

/** Starts genmux: database, catalog, storage, engine, jobs, HTTP. Throws StartError with one line for the operator. */
export async function start(config: Config, env: NodeJS.ProcessEnv, options: StartOptions = {}): Promise<Running> {
  const log = pino({ level: config.logLevel, base: { role: config.role } })
  const undo: (() => Promise<unknown>)[] = []
  const stop = async () => {
    for (const step of undo.splice(0).reverse())
      await step().catch(error => log.error({ err: error }, 'stop step failed'))
  }
  try {
    const catalog = await loadCatalog(config.catalogFile, {
      env,
      sandbox: config.sandbox,
      publicUrlIsSet: config.publicUrlIsSet,
    })
    const token = await adminToken(config)
    const { url, embedded } = await findDatabase(config)
    if (embedded) undo.push(embedded.stop)
    await prepareDatabase(url, config)
    const db = openDb(url, { max: 20, applicationName: `genmux-${config.role}` })
    undo.push(db.close)
    const storage = await openStorage(config)
    const jobs = await startJobs({ db, databaseUrl: url, storage, log, config, work: config.role !== 'api' })
    undo.push(jobs.stop)
    const uploads = createUploads({ db, storage, config, log, convertLater: jobs.convertLater })
    const running = createEngine({
      db,
      databaseUrl: url,
      catalog,
      storage,
      log,
      publicUrl: config.publicUrl,
      publicUrlIsSet: config.publicUrlIsSet,
      resultTtlMs: config.resultTtlMs,
      media: uploads.media,
      reached: crashAt(env),
    })
    undo.push(() => running.stop(DRAIN_MS))
    const metrics = new Registry()
    addMetrics({ ...running.engine, registry: metrics })
    const server = await buildServer({
      ...running.engine,
      config,
      databaseUrl: url,
      adminToken: token.token,
      placer: running.placer,
      uploads,
      metrics,
      checkQueue: jobs.check,
    })
    undo.push(() => server.close())
    const origin = await listenOn(server, config)
    if (config.role !== 'api') running.startLoops()
    await greet({
      config,
      db,
      log,
      origin,
      token,
      fresh: embedded?.fresh === true,
      json: options.json === true,
      catalog,
    })
    return { origin, stop }
  } catch (error) {
    await stop()
    if (error instanceof StartError || !isOutage(error)) throw error
    throw new StartError(`the database was lost during the start: ${(error as Error).message}`, { cause: error })
  }
}

async function findDatabase(config: Config): Promise<{ url: string; embedded?: EmbeddedDb }> {
  if (config.databaseUrl !== undefined) return { url: config.databaseUrl }
  const embedded = await startEmbedded(join(config.dataDir, 'postgres'))
  return { url: embedded.url, embedded }
}

async function prepareDatabase(url: string, config: Config): Promise<void> {
  try {
    await migrate(url)
  } catch (error) {
    if (error instanceof StartError) throw error
    const { host } = new URL(url)
    const variable = config.databaseUrl === undefined ? 'the embedded database' : `DATABASE_URL (${host})`
    throw new StartError(
      `${variable} cannot be used: ${(error as Error).message || (error as { code?: string }).code}`,
      { cause: error },
    )
  }
}

/** A storm of new connections waits to be accepted rather than try again a second later. The system may allow less. */
const BACKLOG = 4_096

async function listenOn(
  server: { listen(at: { port: number; host: string; backlog: number }): Promise<string> },
  config: Config,
): Promise<string> {
  try {
    return await server.listen({ port: config.port, host: config.host, backlog: BACKLOG })
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'EADDRINUSE')
      throw new StartError(`PORT ${config.port} on ${config.host} is in use: stop the other program, or set PORT`)
    throw new StartError(`HOST ${config.host}, PORT ${config.port}: cannot listen there (${message})`, { cause: error })
  }
}

interface Greeting {
  readonly config: Config
  readonly db: Db
  readonly log: Logger
  readonly origin: string
  readonly token: { readonly token: string; readonly made: boolean }
  readonly fresh: boolean
  readonly json: boolean
  readonly catalog: Awaited<ReturnType<typeof loadCatalog>>
}

/** What a person sees at start. The admin token is printed when it was made here, so it does not stay in every log. */
async function greet({ config, db, origin, token, fresh, catalog, json }: Greeting): Promise<void> {
  const demo = fresh ? await createDemo(db, catalog, origin) : undefined
  if (json) {
    const admin = token.made ? { admin_token: token.token } : {}
    process.stdout.write(`${JSON.stringify({ origin, role: config.role, ...admin, ...(demo ? { demo } : {}) })}\n`)
    return
  }
  const pages =
    config.role === 'worker' ? 'health and metrics only' : `reference: ${origin}/docs, operators: ${origin}/console`
  const lines = [`genmux listens on ${origin} (${config.role}); ${pages}`]
  const kept = join(config.dataDir, ADMIN_TOKEN_FILE)
  if (token.made) lines.push(`admin token: ${token.token} (kept in ${kept})`)
  else if (config.adminToken === undefined) lines.push(`admin token: in ${kept}`)
  if (demo) lines.push('', 'A demo customer with $25 was made. Paste these:', '', ...demo, '')
  process.stdout.write(`${lines.join('\n')}\n`)
}

/** GENMUX_CRASH_AT ends the process at a named point, for the tests that prove nothing is lost there. */
function crashAt(env: NodeJS.ProcessEnv): (point: CrashPoint) => void {
  const wanted = env.GENMUX_CRASH_AT
  if (!wanted) return () => {}
  return point => {
    if (point !== wanted) return
    const die = () => process.kill(process.pid, 'SIGKILL')
    // The bytes of a submit leave the process a moment after it was called, those of a statement with the turn's end.
    if (point === 'submit-sent') setTimeout(die, 40)
    else if (point === 'placing') setImmediate(die)
    else die()
  }
}

/** The process: starts, and stops on SIGTERM or SIGINT. */
export async function main(options: StartOptions = {}): Promise<void> {
  let running: Running
  try {
    running = await start(readConfig(process.env), process.env, options)
  } catch (error) {
    if (!(error instanceof StartError)) throw error
    process.stderr.write(`genmux: ${error.message}\n`)
    process.exit(1)
  }
  let stopping = false
  const stop = async () => {
    if (stopping) return
    stopping = true
    await running.stop()
    process.exit(0)
  }
  process.on('SIGTERM', () => void stop())
  process.on('SIGINT', () => void stop())
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main()
