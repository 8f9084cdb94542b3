import { freePort } from '../free-port.ts'
import { catalog, ORDER } from './catalog.ts'
import { ask, driver } from './drive.ts'
import type { Direct } from './direct.ts'
import { type Ground, type Measure, type Server } from './ground.ts'
import { withClient } from './past.ts'
import { inTurns } from './report.ts'
import { metrics } from './scrape.ts'
import type { UpstreamInput } from './upstream.ts'

const CONNECTIONS = 16

/** A whole order (placed, submitted, polled, mirrored, settled) against the same writes sent to Postgres directly. */
export const lifecycle: Measure = {
  name: 'lifecycle',
  async run(ground) {
    const url = await ground.database('lifecycle')
    const server = await ground.start({ DATABASE_URL: url, CATALOG_FILE: await instantCatalog(ground) })
    const { key } = await server.customer()
    const send = await driver(ground)
    // In a database beside it, where no worker takes the orders.
    const beside = await ground.database('writes')
    const keeper = await ground.start({ DATABASE_URL: beside, ROLE: 'api', CATALOG_FILE: await instantCatalog(ground) })
    const { id } = await keeper.customer()
    const { child } = await ground.program('direct.ts', { url: beside, connections: CONNECTIONS })
    const seconds = ground.options.quick ? 2 : 4
    const cpuBefore = (await metrics(server)).process_cpu_seconds_total as number
    let orders = 0
    const reached = await inTurns(
      1,
      async () => {
        const direct: Direct = { kind: 'lifecycle', customerId: id, connections: CONNECTIONS, seconds }
        return (await ask<{ perSecond: number }>(child, direct)).perSecond
      },
      async () => {
        const run = await wholeOrders({ url, send, servers: [server], key, seconds })
        orders += run.orders
        return run.perSecond
      },
    )
    const cpu = ((await metrics(server)).process_cpu_seconds_total as number) - cpuBefore
    return [
      {
        measure: 'whole orders with an instant upstream : their writes alone with pg, 16 connections',
        unit: 'orders/s',
        ...reached,
        note: `${((cpu / orders) * 1_000).toFixed(1)} ms of CPU an order, its files and HTTP included`,
      },
    ]
  },
}

/** Two api processes and two workers, against one process that does everything. */
export const fleet: Measure = {
  name: 'fleet',
  async run(ground) {
    const file = await instantCatalog(ground)
    const start = async (database: string, roles: readonly string[]) => {
      const env = { DATABASE_URL: await ground.database(database), CATALOG_FILE: file }
      const shared = ground.folder(`storage-${database}`)
      const servers: Server[] = []
      for (const ROLE of roles) servers.push(await ground.start({ ...env, ROLE, STORAGE_URL: `file:${shared}` }))
      const { key } = await (servers[0] as Server).customer()
      return { url: env.DATABASE_URL, servers, key }
    }
    const one = await start('alone', ['all'])
    const four = await start('fleet', ['api', 'api', 'worker', 'worker'])
    const send = await driver(ground)
    const seconds = ground.options.quick ? 2 : 4
    const run = async (which: typeof one) => {
      const servers = which.servers.filter((_, i) => i < 2)
      return (await wholeOrders({ ...which, servers, send, seconds })).perSecond
    }
    return [
      {
        measure: 'whole orders, two api and two worker processes : one process',
        unit: 'orders/s',
        ...(await inTurns(
          1,
          () => run(one),
          () => run(four),
        )),
      },
    ]
  },
}

async function instantCatalog(ground: Ground): Promise<string> {
  const port = await freePort()
  const input: UpstreamInput = { port, finishes: true }
  await ground.program('upstream.ts', input)
  return ground.file(`instant-${port}.yaml`, catalog(`http://127.0.0.1:${port}`, { first_ms: 100, every_ms: 100 }))
}

interface Run {
  readonly url: string
  readonly servers: readonly Pick<Server, 'origin'>[]
  readonly key: string
  readonly send: Awaited<ReturnType<typeof driver>>
  readonly seconds: number
}

/** Places orders for some seconds, then waits until the last one is completed: orders over the whole time. */
async function wholeOrders({ url, servers, key, send, seconds }: Run): Promise<{ orders: number; perSecond: number }> {
  const began = performance.now()
  const [before] = await count(url)
  for (const { origin } of servers)
    await send({
      url: `${origin}/api/v1/orders`,
      method: 'POST',
      key,
      body: JSON.stringify(ORDER),
      connections: CONNECTIONS,
      seconds: seconds / servers.length,
    })
  for (;;) {
    const [completed, active, failed] = await count(url)
    if (failed > 0) throw new Error(`${failed} orders failed`)
    if (active === 0) {
      const orders = completed - before
      return { orders, perSecond: orders / ((performance.now() - began) / 1_000) }
    }
    if (performance.now() - began > 60_000) throw new Error(`${active} orders are not over after 60 s`)
    await new Promise(done => setTimeout(done, 100))
  }
}

function count(url: string): Promise<[number, number, number]> {
  return withClient(url, async client => {
    const { rows } = await client.query(`SELECT count(*) FILTER (WHERE status = 'completed')::int AS completed,
      count(*) FILTER (WHERE status IN ('queued', 'processing'))::int AS active,
      count(*) FILTER (WHERE status IN ('failed', 'cancelled'))::int AS failed FROM orders`)
    return [rows[0].completed, rows[0].active, rows[0].failed]
  })
}
