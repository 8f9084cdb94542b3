import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { writeFileSync } from 'node:fs'
import { freePort } from '../free-port.ts'
import { openDb } from '../../src/db/pool.ts'
import { catalog, MODEL_IDS, ONESHOT_MODEL_ID } from './catalog.ts'
import { createCustomer, type Customer, drive, insist, type Market } from './customers.ts'
import { runFaults } from './faults.ts'
import { createHistory } from './history.ts'
import { judge } from './oracles.ts'
import { type FaultName, fingerprint, planFaults, type Scale, scaleOf } from './plan.ts'
import { type Postgres, startPostgres } from './postgres.ts'
import { type Supervised, supervise } from './processes.ts'
import { findSecrets } from './secrets.ts'
import { providerKey, startUpstreams, tasksOf, type Upstream } from './upstreams.ts'

export interface ChaosOptions {
  readonly seed: number
  /** How long the faults last. */
  readonly minutes: number
  readonly say: (line: string) => void
}

export interface ChaosReport {
  /** What was broken, in words; the run is good when there is nothing. */
  readonly broken: string[]
  readonly fired: ReadonlyMap<FaultName, number>
  /** Orders by how they ended. */
  readonly orders: ReadonlyMap<string, number>
  /** Answers by operation and status. */
  readonly answers: ReadonlyMap<string, number>
  /** Tasks that the upstreams accepted. */
  readonly tasks: number
  readonly plan: string
}

const ADMIN_TOKEN = 'canary-admin-token-k3V9pW'
const CUSTOMERS = 8
/** Orders end within their deadline and this, once the faults are over. */
const SETTLE_MS = 60_000
/** Of all orders: with fewer completed, the run has proved little. */
const LEAST_COMPLETED = 0.15
const ONESHOT_FROM_MINUTES = 10

interface Ground {
  readonly scale: Scale
  readonly postgres: Postgres
  readonly upstreams: readonly Upstream[]
  readonly apis: readonly Supervised[]
  readonly workers: readonly Supervised[]
  readonly sleepers: readonly Supervised[]
  readonly market: Market
  readonly folder: string
  readonly storage: string
  /** After a broken run they are worth reading. */
  keepLogs: boolean
  stop(): Promise<void>
}

/** A whole run: everything is started, driven, broken, mended, waited for and judged. */
export async function runChaos({ seed, minutes, say }: ChaosOptions): Promise<ChaosReport> {
  const ground = await lay(seed, minutes)
  const { scale, market, postgres, upstreams } = ground
  const { history } = market
  const plan = fingerprint(seed, minutes, market.modelIds)
  try {
    await Promise.all(all(ground).map(process => process.ready()))
    const customers = await Promise.all(
      // The last one is poor: it is refused for want of money now and then.
      Array.from({ length: CUSTOMERS }, (_, i) => createCustomer(market, i, i === CUSTOMERS - 1 ? '0.80' : '40')),
    )
    say(`seed ${seed}, plan ${plan}: ${scale.faultsMs / 1000} s of faults, ${customers.length} customers`)
    let going = true
    const driven = customers.map(customer => drive(market, customer, () => going))
    const fired = await runFaults(planFaults(seed, scale), ground, scale.faultsMs)
    going = false
    say('faults over: settling')
    await Promise.all([...driven, ...all(ground).map(process => process.ready())])
    say('customers done: every key is resolved')
    await resolveUnknown(market, customers)
    const unsettled = await settle(ground)
    say('orders over: judging')
    const metrics = await Promise.all(market.apis.map(async origin => (await fetch(`${origin}/metrics`)).text()))
    const orders = await endsOf(postgres.direct)
    const broken = [
      ...tooFew(fired, scale),
      ...unsettled,
      ...(await judge({ databaseUrl: postgres.direct, storage: ground.storage, history, customers, upstreams })),
      ...all(ground).flatMap(process => process.crashes),
      ...tooIdle(orders),
    ]
    say('stopping')
    await Promise.all(all(ground).map(process => process.stop()))
    say('stopped')
    broken.push(
      ...(await findSecrets({
        secrets: secretsOf(customers, upstreams),
        logFiles: all(ground).map(process => process.logFile),
        metrics,
        databaseUrl: postgres.direct,
      })),
    )
    ground.keepLogs = broken.length > 0
    if (ground.keepLogs) say(`logs of the processes are kept in ${ground.folder}`)
    return { broken, fired, orders, answers: history.counts, tasks: tasksOf(upstreams).length, plan }
  } finally {
    await ground.stop()
  }
}

function all({ apis, workers, sleepers }: Ground): Supervised[] {
  return [...apis, ...workers, ...sleepers]
}

async function lay(seed: number, minutes: number): Promise<Ground> {
  const scale = scaleOf(minutes)
  const withOneshot = minutes >= ONESHOT_FROM_MINUTES
  const folder = await mkdtemp(join(tmpdir(), 'genmux-chaos-'))
  const postgres = await startPostgres()
  const upstreams = await startUpstreams(seed, { withOneshot, patient: scale.full })
  const ports = await Promise.all([freePort(), freePort()])
  const apiOrigins = ports.map(port => `http://127.0.0.1:${port}`)
  const storage = join(folder, 'storage')
  const catalogFile = join(folder, 'catalog.yaml')
  const origins = Object.fromEntries(upstreams.map(({ provider, origin }) => [provider, origin]))
  const known = origins as Record<'pluragen' | 'zencreator' | 'apixo' | 'progressiverobot', string>
  const deadlineMs = scale.full ? 25_000 : 12_000
  writeFileSync(catalogFile, catalog({ origins: known, oneshot: origins.oneshot, deadlineMs }))

  const env = {
    DATABASE_URL: postgres.url,
    STORAGE_URL: `file:${storage}`,
    CATALOG_FILE: catalogFile,
    PUBLIC_URL: apiOrigins[0] as string,
    RATE_LIMIT_PER_MINUTE: '10000000',
    SANDBOX: 'off',
    // Processes start again and again here: what they compile is kept.
    NODE_COMPILE_CACHE: join(folder, 'compiled'),
    ADMIN_TOKEN,
    ...keysOf(upstreams),
  }
  const begin = (name: string, more: Record<string, string>) =>
    supervise(name, { ...env, DATA_DIR: join(folder, name), ...more }, folder)
  const workers = (kind: string, count: number) =>
    Array.from({ length: count }, (_, i) => begin(`${kind}-${i + 1}`, { ROLE: 'worker', PORT: '0' }))
  const ground: Ground = {
    scale,
    postgres,
    upstreams,
    folder,
    storage,
    keepLogs: false,
    apis: ports.map((port, i) => begin(`api-${i + 1}`, { ROLE: 'api', PORT: String(port) })),
    workers: workers('worker', 2),
    sleepers: workers('sleeper', scale.sleepers),
    market: {
      seed,
      adminToken: ADMIN_TOKEN,
      apis: apiOrigins,
      modelIds: withOneshot ? [...MODEL_IDS, ONESHOT_MODEL_ID] : MODEL_IDS,
      history: createHistory(),
    },
    async stop() {
      await Promise.all(all(ground).map(process => process.stop()))
      await Promise.all(upstreams.flatMap(({ line, simulator }) => [line.close(), simulator.stop()]))
      await postgres.stop()
      if (!ground.keepLogs) await rm(folder, { recursive: true, force: true })
    },
  }
  return ground
}

function keysOf(upstreams: readonly Upstream[]): Record<string, string> {
  return Object.fromEntries(
    upstreams.flatMap(({ provider }) =>
      ['main', 'spare'].map(account => [`CHAOS_${provider}_${account}`.toUpperCase(), providerKey(provider, account)]),
    ),
  )
}

function secretsOf(customers: readonly Customer[], upstreams: readonly Upstream[]): Map<string, string> {
  const callbacks = upstreams.flatMap(({ simulator }) =>
    simulator.calls('submit').flatMap(request => /callbacks\/([\w-]{43})/.exec(request.raw.toString())?.[1] ?? []),
  )
  return new Map([
    ['the admin token', ADMIN_TOKEN],
    ...customers.map(({ index, key }): [string, string] => [`the key of customer ${index}`, key]),
    ...Object.entries(keysOf(upstreams)),
    ...callbacks.map((token, i): [string, string] => [`callback token ${i}`, token]),
  ])
}

/** Clients repeat what they do not know the end of, with the same key, until they know. */
async function resolveUnknown(market: Market, customers: readonly Customer[]): Promise<void> {
  for (const placement of market.history.placements) {
    if (placement.orderId !== undefined || placement.refused !== undefined) continue
    const { key: token } = customers[placement.customer] as Customer
    const request = { operation: 'resolve', token, body: placement.body, idempotencyKey: placement.key }
    market.history.placed(placement, await insist(market, '/api/v1/orders', request))
  }
}

// Until its deadline an order may begin an attempt, which has a deadline of its own.
const LATE = `SELECT id, status, greatest(deadline_at, $1::timestamptz,
    (SELECT max(attempts.deadline_at) FROM attempts WHERE attempts.order_id = orders.id)) + interval '${SETTLE_MS} milliseconds' <= now() AS late
  FROM orders WHERE status IN ('queued', 'processing')`

/** Waits until every order is over; those that are not within their time are named. */
async function settle({ postgres }: Ground): Promise<string[]> {
  const db = openDb(postgres.direct, { max: 1 })
  const faultsOver = new Date()
  try {
    for (;;) {
      const { rows } = await db.pool.query<{ id: string; status: string; late: boolean }>(LATE, [faultsOver])
      const late = rows.filter(row => row.late)
      if (late.length > 0) return late.map(({ id, status }) => `${id} is still ${status}`)
      if (rows.length === 0) return []
      await new Promise(done => setTimeout(done, 250))
    }
  } finally {
    await db.close()
  }
}

async function endsOf(url: string): Promise<Map<string, number>> {
  const db = openDb(url, { max: 1 })
  const text = `SELECT concat_ws(' ', status, error_code) AS ended, count(*)::int AS orders FROM orders GROUP BY 1 ORDER BY 2 DESC`
  const { rows } = await db.pool.query<{ ended: string; orders: number }>(text)
  await db.close()
  return new Map(rows.map(row => [row.ended, row.orders]))
}

function tooFew(fired: ReadonlyMap<FaultName, number>, { least }: Scale): string[] {
  return [...fired].flatMap(([fault, times]) =>
    times < least ? [`${fault} fired ${times} times, fewer than ${least}: this run proves too little`] : [],
  )
}

function tooIdle(orders: ReadonlyMap<string, number>): string[] {
  const total = [...orders.values()].reduce((sum, count) => sum + count, 0)
  const completed = orders.get('completed') ?? 0
  if (completed >= total * LEAST_COMPLETED && completed > 0) return []
  return [`only ${completed} of ${total} orders completed: this run proves too little`]
}
