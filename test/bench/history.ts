import { readFileSync } from 'node:fs'
import { Client } from 'undici'
import { catalog, ORDER } from './catalog.ts'
import type { Ground, Measure, Server } from './ground.ts'
import { addFinishedOrders, withClient } from './past.ts'
import { inTurns, percentile, type Row } from './report.ts'

interface Endpoint {
  readonly name: string
  readonly path: string
  readonly method: 'GET' | 'POST'
}

const ENDPOINTS: readonly Endpoint[] = [
  { name: 'GET /balance', path: '/balance', method: 'GET' },
  { name: 'GET /orders/{id}', path: '/orders/ord_past00000000000007', method: 'GET' },
  { name: 'GET /orders', path: '/orders', method: 'GET' },
  { name: 'GET /orders?status=completed', path: '/orders?status=completed', method: 'GET' },
  { name: 'GET /transactions', path: '/transactions', method: 'GET' },
  { name: 'POST /orders', path: '/orders', method: 'POST' },
]

/** Does it get slower with the years? The same requests, in turns, of a customer with 20 past orders and one with very many. */
export const history: Measure = {
  name: 'history',
  async run(ground) {
    const { quick, plans } = ground.options
    const many = quick ? 20_000 : 100_000
    const file = ground.file('history.yaml', catalog('http://127.0.0.1:9'))
    const young = await grow(ground, 'young', 20, file)
    const old = await grow(ground, 'old', many, file)
    const rows: Row[] = []
    for (const endpoint of ENDPOINTS) {
      const block = { young: [] as number[], old: [] as number[] }
      const p50 = { young: 0, old: 0 }
      const p99 = async (which: 'young' | 'old') => {
        // The reference is asked for first, and both are measured then.
        if (which === 'young') await turns(block, young, old, endpoint, quick ? 100 : 200)
        p50[which] = percentile(block[which], 50)
        return percentile(block[which], 99)
      }
      rows.push({
        measure: `${endpoint.name}, p99 with ${many.toLocaleString('en')} finished orders : with 20`,
        unit: 'ms',
        ...(await inTurns(
          5,
          () => p99('young'),
          () => p99('old'),
        )),
        target: { atMost: 1.5 },
        note: `p50 ${p50.old.toFixed(2)} : ${p50.young.toFixed(2)} ms`,
      })
    }
    await Promise.all([young.close(), old.close()])
    if (plans) process.stderr.write(await explain(ground, old.url, old.key, file))
    return rows
  },
}

/** Asks both in turns, request by request: what disturbs the machine then disturbs both alike. */
async function turns(
  times: { young: number[]; old: number[] },
  young: Grown,
  old: Grown,
  endpoint: Endpoint,
  count: number,
): Promise<void> {
  times.young = []
  times.old = []
  for (let i = 0; i < count; i++) {
    times.young.push(await young.ask(endpoint))
    times.old.push(await old.ask(endpoint))
  }
}

interface Grown {
  readonly url: string
  readonly key: string
  ask(endpoint: Endpoint): Promise<number>
  close(): Promise<void>
}

async function grow(ground: Ground, name: string, orders: number, file: string): Promise<Grown> {
  const url = await ground.database(name)
  const server = await ground.start({ DATABASE_URL: url, ROLE: 'api', CATALOG_FILE: file })
  const { id, key } = await server.customer()
  await addFinishedOrders(url, id, orders)
  const { ask, close } = asker(server, key)
  return { url, key, ask, close }
}

/** One connection, one request at a time. Resolves with how long it took, ms. */
function asker(server: Server, key: string): Pick<Grown, 'ask' | 'close'> {
  const client = new Client(server.origin)
  const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
  return {
    async ask({ method, path }) {
      const began = performance.now()
      const body = method === 'POST' ? JSON.stringify(ORDER) : null
      const answer = await client.request({ method, path: `/api/v1${path}`, headers, body })
      const text = await answer.body.text()
      if (answer.statusCode >= 300) throw new Error(`${method} ${path}: ${answer.statusCode} ${text}`)
      return performance.now() - began
    },
    close: () => client.close(),
  }
}

/** The plans of every statement behind these requests, as Postgres logs them, those inside functions too. */
async function explain(ground: Ground, url: string, key: string, file: string): Promise<string> {
  const name = new URL(url).pathname.slice(1)
  await withClient(url, async client => {
    await client.query(`ALTER DATABASE "${name}" SET session_preload_libraries = 'auto_explain'`)
    for (const [setting, value] of [
      ['log_min_duration', '0'],
      ['log_analyze', 'on'],
      ['log_buffers', 'on'],
      ['log_nested_statements', 'on'],
    ])
      await client.query(`ALTER DATABASE "${name}" SET auto_explain.${setting} = '${value}'`)
  })
  const server = await ground.start({ DATABASE_URL: url, ROLE: 'api', CATALOG_FILE: file })
  const { ask, close } = asker(server, key)
  let report = ''
  for (const endpoint of ENDPOINTS) {
    await ask(endpoint)
    const from = readFileSync(ground.postgresLog, 'utf8').length
    await ask(endpoint)
    await new Promise(done => setTimeout(done, 200))
    report += `\n── ${endpoint.name}\n${readFileSync(ground.postgresLog, 'utf8').slice(from)}`
  }
  await close()
  return report
}
