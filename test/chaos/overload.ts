import { type ChildProcess, fork } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createConnection, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from '../free-port.ts'
import { isMet, type Row, table } from '../bench/report.ts'
import { catalog } from './catalog.ts'
import { createCustomer, type Market } from './customers.ts'
import type { Flood, Flooded } from './flood.ts'
import { createHistory } from './history.ts'
import { type Postgres, startPostgres } from './postgres.ts'
import { supervise } from './processes.ts'

/*
 * npm run chaos -- --overload [--seconds 60]
 *
 * One api process on a durable Postgres, asked for more than it can do: it keeps doing what it can, refuses the rest soon and
 * with a time to come back, and nobody suffers for another's greed.
 */

const ADMIN_TOKEN = 'admin-token-of-the-overload'
const ORDER = JSON.stringify({ model_id: 1, prompt: 'a lighthouse at dusk' })
const NEIGHBOURS_RATE = 50
/** Of the load at five times the peak: fewer, then more than a process takes on at once. */
const CONNECTIONS = 4_000
const TOO_MANY_CONNECTIONS = 8_000
const SLOW_BODIES = 1_000
const STALL_MS = 10_000

interface Ground {
  readonly market: Market
  readonly port: number
  readonly postgres: Postgres
  readonly seconds: number
  flood(wanted: Partial<Flood> & Pick<Flood, 'keys' | 'rate' | 'connections' | 'seconds'>): Promise<Flooded>
  /** Keys of new customers with money enough. */
  keys(count: number): Promise<string[]>
}

export async function runOverload(seconds: number, say: (line: string) => void): Promise<boolean> {
  const folder = await mkdtemp(join(tmpdir(), 'genmux-overload-'))
  const postgres = await startPostgres()
  const port = await freePort()
  const nowhere = 'http://127.0.0.1:9'
  const origins = { pluragen: nowhere, zencreator: nowhere, apixo: nowhere, progressiverobot: nowhere }
  await writeFile(join(folder, 'catalog.yaml'), catalog({ origins, oneshot: undefined, deadlineMs: 900_000 }))
  const env = {
    DATABASE_URL: postgres.url,
    DATA_DIR: folder,
    CATALOG_FILE: join(folder, 'catalog.yaml'),
    CHAOS_PLURAGEN_MAIN: 'unused',
    SANDBOX: 'off',
    ROLE: 'api',
    PORT: String(port),
    ADMIN_TOKEN,
    LOG_LEVEL: 'error',
    RATE_LIMIT_PER_MINUTE: '10000000',
  }
  const api = supervise('api', env, folder)
  const floods = new Set<ChildProcess>()
  const market: Market = {
    seed: 0,
    adminToken: ADMIN_TOKEN,
    apis: [`http://127.0.0.1:${port}`],
    modelIds: [1],
    history: createHistory(),
  }
  let customers = 0
  const ground: Ground = {
    market,
    port,
    postgres,
    seconds,
    async flood(wanted) {
      const child = fork(join(import.meta.dirname, 'flood.ts'))
      floods.add(child)
      await new Promise(done => child.once('message', done))
      child.send({ port, method: 'POST', path: '/api/v1/orders', body: ORDER, ...wanted } satisfies Flood)
      const flooded = await new Promise<Flooded>(done => child.once('message', answer => done(answer as Flooded)))
      child.disconnect()
      floods.delete(child)
      return flooded
    },
    keys: count =>
      Promise.all(
        Array.from({ length: count }, async () => {
          const { key } = await createCustomer(market, customers++, '1000000', { max_active_orders: 1_000_000 })
          return key
        }),
      ),
  }
  try {
    await api.ready()
    const rows: Row[] = []
    for (const measure of [fivefold, greed, slowBodies, stalledDatabase]) {
      rows.push(...(await measure(ground)))
      say(`${measure.name} done`)
    }
    say(table(rows))
    for (const what of [...market.history.violations, ...api.crashes]) say(`broken: ${what}`)
    return rows.every(row => isMet(row) !== false) && market.history.violations.length + api.crashes.length === 0
  } finally {
    for (const child of floods) child.kill('SIGKILL')
    await api.stop()
    await postgres.stop()
    await rm(folder, { recursive: true, force: true })
  }
}

const NONE = { count: 0, p50Ms: 0, p99Ms: 0, mostMs: 0 }

/** Everything but what is granted or refused as it should be. */
function faults({ byStatus, unanswered }: Flooded): number {
  const known = new Set(['200', '201', '429', '503'])
  return Object.entries(byStatus).reduce(
    (sum, [status, { count }]) => sum + (known.has(status) ? 0 : count),
    unanswered,
  )
}

/** POST /orders at five times what the process can do. */
async function fivefold({ flood, keys, seconds }: Ground): Promise<Row[]> {
  const all = await keys(20)
  const peaks: number[] = []
  await flood({ keys: all, rate: null, connections: 64, seconds: 3 })
  for (const connections of [64, 256, 1_000])
    peaks.push((await flood({ keys: all, rate: null, connections, seconds: Math.min(5, seconds) })).goodput)
  const peak = Math.max(...peaks)
  const rows: Row[] = []
  for (const connections of [CONNECTIONS, TOO_MANY_CONNECTIONS]) {
    const much = await flood({ keys: all, rate: Math.round(peak * 5), connections, seconds })
    rows.push(...underLoad(much, { peak, connections, seconds, recovery: await untilQuick(flood, all) }))
  }
  return rows
}

function underLoad(
  much: Flooded,
  { peak, connections, seconds, recovery }: { peak: number; connections: number; seconds: number; recovery: number },
): Row[] {
  const refused = much.byStatus[503] ?? NONE
  const by = `${connections} connections`
  const refusal = {
    measure: `p99 of the refusals (503), ${by}`,
    value: refused.p99Ms,
    unit: 'ms',
    target: { atMost: 100 },
    note: `${refused.count} refusals`,
  }
  return [
    {
      measure: `POST /orders at 5× the peak, ${by} : the peak`,
      value: much.goodput,
      reference: peak,
      ratio: much.goodput / peak,
      unit: 'orders/s',
      target: { atLeast: 0.8 },
      note: `${Math.round(much.sent / seconds)} requests/s were sent; ${much.unsent} were due and found no connection free; p99 of the granted ${Math.round((much.byStatus[201] ?? NONE).p99Ms)} ms`,
    },
    ...(refused.count > 0 ? [refusal] : []),
    {
      measure: `refusals without Retry-After, of ${refused.count}`,
      value: much.withoutRetryAfter,
      unit: 'answers',
      target: { atMost: 0 },
    },
    { measure: 'other answers, or none', value: faults(much), unit: 'requests', target: { atMost: 0 } },
    { measure: 'until an order is answered within 100 ms again', value: recovery, unit: 's', target: { atMost: 10 } },
  ]
}

/** Seconds until a second of light load passes with every answer within 100 ms. */
async function untilQuick(flood: Ground['flood'], keys: string[]): Promise<number> {
  const began = performance.now()
  for (;;) {
    const since = performance.now()
    const { byStatus } = await flood({ keys, rate: 20, connections: 20, seconds: 1 })
    const { count, p99Ms } = byStatus[201] ?? NONE
    if ((count >= 19 && p99Ms < 100) || since - began > 60_000) return Math.round((since - began) / 100) / 10
  }
}

const neighbour = (keys: string[], seconds: number) => ({ keys, rate: NEIGHBOURS_RATE, connections: 200, seconds })

/** One customer sends a hundred times what it may. */
async function greed({ flood, keys, market, seconds }: Ground): Promise<Row[]> {
  const perMinute = 600
  const quiet = await keys(1)
  const { key } = await createCustomer(market, 1_000, '1000', { rate_limit_per_minute: perMinute })
  const span = Math.min(20, seconds)
  await flood(neighbour(quiet, 2))
  const before = await flood(neighbour(quiet, span))
  const [during, greedy] = await Promise.all([
    flood(neighbour(quiet, span)),
    flood({ keys: [key], rate: (perMinute / 60) * 100, connections: 200, seconds: span }),
  ])
  return [
    {
      ...compared("a neighbour's orders while one customer is at 100× its limit", before, during),
      target: { atMost: 2 },
    },
    {
      measure: 'of the greedy requests refused (429)',
      value: (100 * (greedy.byStatus[429] ?? NONE).count) / greedy.sent,
      unit: '%',
      target: { atLeast: 90 },
    },
    {
      measure: 'other answers, or none, to both',
      value: faults(during) + faults(greedy),
      unit: 'requests',
      target: { atMost: 0 },
    },
  ]
}

/** A thousand clients whose bodies come a byte a second. */
async function slowBodies({ flood, keys, port, seconds }: Ground): Promise<Row[]> {
  const [key, ...quiet] = await keys(2)
  const span = Math.min(20, seconds)
  const before = await flood(neighbour(quiet, span))
  const slow: Socket[] = Array.from({ length: SLOW_BODIES }, () => {
    const socket = createConnection({ port, host: '127.0.0.1' })
    socket.on('error', () => {})
    socket.resume()
    socket.write(
      `POST /api/v1/orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${key}\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{`,
    )
    return socket
  })
  // They know nothing of each other: a tenth of them each tenth of a second.
  let turn = 0
  const trickle = setInterval(() => {
    for (let i = turn; i < slow.length; i += 10) slow[i]?.write(' ')
    turn = (turn + 1) % 10
  }, 100)
  await new Promise(done => setTimeout(done, 1_000))
  const during = await flood(neighbour(quiet, span))
  clearInterval(trickle)
  for (const socket of slow) socket.destroy()
  return [
    { ...compared(`orders of others beside ${SLOW_BODIES} slow bodies`, before, during), target: { atMost: 2 } },
    {
      measure: 'of them not granted',
      value: during.sent - (during.byStatus[201] ?? NONE).count,
      unit: 'requests',
      target: { atMost: 0 },
    },
  ]
}

/** Postgres hears nothing and says nothing for ten seconds. */
async function stalledDatabase({ flood, keys, postgres, seconds }: Ground): Promise<Row[]> {
  const all = await keys(2)
  const span = STALL_MS / 1_000 + 2
  const [writes, reads] = await Promise.all([
    flood({ keys: all, rate: 50, connections: 2_000, seconds: span }),
    flood({ keys: all, rate: 50, connections: 2_000, seconds: span, method: 'GET', path: '/api/v1/orders', body: '' }),
    postgres.line.stall(STALL_MS),
  ])
  const recovery = await untilQuick(flood, all)
  const slowest = [writes, reads].flatMap(({ byStatus }) => Object.values(byStatus).map(({ mostMs }) => mostMs))
  return [
    {
      measure: 'Postgres stalled for 10 s: answers other than 2xx and 503, or none',
      value: faults(writes) + faults(reads),
      unit: 'requests',
      target: { atMost: 0 },
    },
    {
      measure: 'the longest that one waited',
      value: Math.max(...slowest) / 1_000,
      unit: 's',
      target: { atMost: 31 },
      note: `of ${writes.sent + reads.sent} requests in ${Math.min(span, seconds + span)} s`,
    },
    { measure: 'until an order is answered within 100 ms again', value: recovery, unit: 's', target: { atMost: 10 } },
  ]
}

function compared(measure: string, before: Flooded, during: Flooded): Row {
  const [reference, value] = [before, during].map(({ byStatus }) => (byStatus[201] ?? NONE).p99Ms) as [number, number]
  return { measure: `p99 of ${measure} : alone`, value, reference, ratio: value / reference, unit: 'ms' }
}
