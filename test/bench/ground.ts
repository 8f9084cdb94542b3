import { type ChildProcess, fork, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { freePort } from '../free-port.ts'
import { startEmbedded } from '../../src/db/embedded.ts'
import { migrate } from '../../src/db/migrate.ts'
import { openDb } from '../../src/db/pool.ts'
import { verifyLedger } from '../../src/ledger/verify.ts'
import type { Row } from './report.ts'

/** What `npm start` tells V8. */
const V8_OPTIONS = (
  JSON.parse(readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8')) as { scripts: { start: string } }
).scripts.start
  .split(' ')
  .filter(word => word.startsWith('--') && !word.startsWith('--env'))
const ADMIN_TOKEN = 'admin-token-of-the-bench'

/** What the measures stand on: one durable Postgres, real genmux processes, everything on loopback. */
export interface Ground {
  readonly options: Options
  /** The path of Postgres' own log. */
  readonly postgresLog: string
  /** The URL of a migrated database of the measure's own. Its ledger is verified at the end of the run. */
  database(name: string): Promise<string>
  /** Starts a genmux process and waits until it listens. */
  start(env: Record<string, string>): Promise<Server>
  /** Starts one of the bench's own programs and waits for its first message. */
  program<T>(file: string, input: unknown): Promise<{ message: T; child: ChildProcess }>
  /** Writes a file and returns its path. */
  file(name: string, content: string): string
  /** An empty folder for the measure. */
  folder(name: string): string
  /** Ends processes started since the last call, as each measure does. */
  clear(): Promise<void>
}

export interface Options {
  /** Smaller amounts, for a first look. */
  readonly quick: boolean
  /** Prints query plans. */
  readonly plans: boolean
  /** A folder for CPU profiles of the genmux processes. */
  readonly profile: string | undefined
}

export interface Server {
  readonly origin: string
  readonly pid: number
  stop(): Promise<void>
  /** A customer with money enough and an API key. */
  customer(): Promise<{ id: string; key: string }>
}

export interface Measure {
  readonly name: string
  run(ground: Ground): Promise<Row[]>
}

export async function startGround(
  options: Options,
): Promise<Ground & { verify(): Promise<Row>; stop(): Promise<void> }> {
  const folder = mkdtempSync(join(tmpdir(), 'genmux-bench-'))
  const postgres = await startEmbedded(join(folder, 'postgres'))
  const children = new Set<ChildProcess>()
  const databases: string[] = []
  const keep = (child: ChildProcess) => {
    children.add(child)
    child.once('exit', () => children.delete(child))
  }
  const clear = async () => {
    await Promise.all([...children].map(end))
  }
  process.once('exit', () => {
    for (const child of children) child.kill('SIGKILL')
  })

  return {
    options,
    postgresLog: join(folder, 'postgres', 'server.log'),
    clear,
    async database(name) {
      const url = new URL(postgres.url)
      const admin = new pg.Client({ connectionString: url.href })
      await admin.connect()
      await admin.query(`CREATE DATABASE "${name}"`)
      await admin.end()
      url.pathname = `/${name}`
      await migrate(url.href)
      databases.push(url.href)
      return url.href
    },
    async start(env) {
      const port = await freePort()
      const data = mkdtempSync(join(folder, 'data-'))
      const own = { PORT: String(port), DATA_DIR: data, ADMIN_TOKEN, SANDBOX: 'off', LOG_LEVEL: 'silent' }
      const profile = options.profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${options.profile}`]
      const child = spawn(process.execPath, [...V8_OPTIONS, ...profile, 'src/main.ts'], {
        cwd: join(import.meta.dirname, '../..'),
        env: {
          PATH: process.env.PATH,
          NODE_ENV: 'production',
          RATE_LIMIT_PER_MINUTE: '10000000',
          ...own,
          ...env,
        },
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      keep(child)
      await new Promise<void>((done, failed) => {
        child.stdout?.on('data', chunk => String(chunk).includes('genmux listens on') && done())
        child.once('exit', code => failed(new Error(`genmux exited with ${code}`)))
      })
      const origin = `http://127.0.0.1:${port}`
      return { origin, pid: child.pid as number, stop: () => end(child), customer: () => customer(origin) }
    },
    async program<T>(file: string, input: unknown) {
      const child = fork(join(import.meta.dirname, file), [JSON.stringify(input)])
      keep(child)
      const message = await new Promise<T>((done, failed) => {
        child.once('message', message => done(message as T))
        child.once('exit', code => failed(new Error(`${file} exited with ${code}`)))
      })
      return { message, child }
    },
    file(name, content) {
      const path = join(folder, name)
      writeFileSync(path, content)
      return path
    },
    folder(name) {
      const path = join(folder, name)
      mkdirSync(path)
      return path
    },
    async verify() {
      const found: string[] = []
      for (const url of databases) {
        const db = openDb(url)
        for (const check of await verifyLedger(db))
          if (check.violations > 0)
            found.push(`${check.violations} × ${check.invariant} (${check.examples[0]} in ${new URL(url).pathname})`)
        await db.close()
      }
      return {
        measure: `broken money invariants, in ${databases.length} databases`,
        value: found.length,
        unit: 'found',
        target: { atMost: 0 },
        ...(found.length > 0 ? { note: found.join('; ') } : {}),
      }
    },
    async stop() {
      await clear()
      await postgres.stop()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = new Promise(done => child.once('exit', done))
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), 10_000)
  await exited
  clearTimeout(timer)
}

async function customer(origin: string): Promise<{ id: string; key: string }> {
  const admin = async (path: string, body: object, headers = {}) => {
    const answer = await fetch(`${origin}/admin/v1${path}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${ADMIN_TOKEN}`, 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
    })
    if (answer.status !== 201) throw new Error(`POST ${path}: ${answer.status} ${await answer.text()}`)
    return (await answer.json()) as { customer: { id: string }; key: { secret: string } }
  }
  const made = await admin('/customers', { name: 'Bench', max_active_orders: 1_000_000 })
  const { id } = made.customer
  await admin(`/customers/${id}/topups`, { amount_usd: '1000000' }, { 'idempotency-key': id })
  const { key } = await admin(`/customers/${id}/keys`, { name: 'bench' })
  return { id, key: key.secret }
}
