import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'

export const ADMIN_TOKEN = 'admin-token-for-tests'

export interface GenmuxProcess {
  readonly origin: string
  readonly child: ChildProcess
  /** Everything it printed so far. */
  output(): string
  /** Resolves with the exit code; null after a signal. */
  readonly exited: Promise<number | null>
  signal(signal: NodeJS.Signals): Promise<void>
}

const PROJECT = join(import.meta.dirname, '..')
/** What a process that ended in peace has compiled, the next ones need not: starting is most of what killing tests do. */
const NODE_COMPILE_CACHE = join(PROJECT, 'node_modules/.cache/genmux-compiled')

const running = new Set<ChildProcess>()
const folders: string[] = []
afterAll(() => {
  for (const child of running) child.kill('SIGKILL')
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

/** A folder of this test file's own, removed after it. */
export function freshFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'genmux-test-'))
  folders.push(folder)
  return folder
}

/** Starts the real server as a process and waits until it listens. Rejects with what it printed when it exits instead. */
export async function startGenmux(env: Record<string, string>, project = PROJECT): Promise<GenmuxProcess> {
  const child = spawn(process.execPath, ['src/main.ts'], {
    cwd: project,
    env: {
      PATH: process.env.PATH,
      HOME: process.env.HOME,
      NODE_COMPILE_CACHE,
      PORT: '0',
      ADMIN_TOKEN,
      LOG_LEVEL: 'warn',
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  running.add(child)
  let output = ''
  child.stderr.on('data', chunk => {
    output += chunk
  })
  const exited = new Promise<number | null>(done => child.once('exit', code => done(code)))
  void exited.then(() => running.delete(child))
  const origin = await new Promise<string>((done, failed) => {
    child.stdout.on('data', chunk => {
      output += chunk
      const match = /genmux listens on (\S+)/.exec(output)
      if (match) done(match[1] as string)
    })
    void exited.then(code => failed(new Error(`genmux exited with ${code}: ${output}`)))
  })
  return {
    origin,
    child,
    exited,
    output: () => output,
    async signal(signal) {
      child.kill(signal)
      await exited
    },
  }
}

export interface Reply {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  /** Some JSON of a test, free to be walked. */
  readonly json: ReturnType<typeof JSON.parse>
}

/** One HTTP request, its answer read whole. */
export async function call(
  url: string,
  options: { method?: string; token?: string; body?: unknown; headers?: Record<string, string> } = {},
): Promise<Reply> {
  const response = await fetch(url, {
    method: options.method ?? (options.body === undefined ? 'GET' : 'POST'),
    headers: {
      ...(options.token ? { authorization: `Bearer ${options.token}` } : {}),
      ...(options.body === undefined ? {} : { 'content-type': 'application/json' }),
      ...options.headers,
    },
    ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
    signal: AbortSignal.timeout(30_000),
  })
  const text = await response.text()
  const isJson = response.headers.get('content-type')?.includes('json')
  return { status: response.status, headers: response.headers, text, json: isJson ? JSON.parse(text) : undefined }
}

/** A customer with money and a key, made through the admin API. */
export async function makeCustomer(
  origin: string,
  amountUsd: string,
  more: Record<string, unknown> = {},
): Promise<{ id: string; key: string }> {
  const admin = `${origin}/admin/v1`
  const customer = await call(`${admin}/customers`, { token: ADMIN_TOKEN, body: { name: 'Test', ...more } })
  const { id } = customer.json.customer
  await call(`${admin}/customers/${id}/topups`, {
    token: ADMIN_TOKEN,
    body: { amount_usd: amountUsd },
    headers: { 'idempotency-key': `topup-${id}` },
  })
  const key = await call(`${admin}/customers/${id}/keys`, { token: ADMIN_TOKEN, body: { name: 'test' } })
  return { id, key: key.json.key.secret }
}

/** Asks until the condition holds; throws after `ms`. */
export async function until<T>(ask: () => Promise<T>, holds: (value: T) => boolean, ms = 30_000): Promise<T> {
  const deadline = Date.now() + ms
  for (;;) {
    const value = await ask()
    if (holds(value)) return value
    if (Date.now() > deadline) throw new Error(`not within ${ms} ms; last: ${JSON.stringify(value)}`)
    await new Promise(done => setTimeout(done, 50))
  }
}
