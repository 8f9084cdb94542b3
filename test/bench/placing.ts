import { catalog, ORDER } from './catalog.ts'
import { ask, driver } from './drive.ts'
import type { Direct } from './direct.ts'
import type { Measure } from './ground.ts'
import { inTurns } from './report.ts'

const CONNECTIONS = 64

/** POST /orders of one hot customer against one transaction per order, on the same Postgres, by as many connections. */
export const placing: Measure = {
  name: 'placing',
  async run(ground) {
    const url = await ground.database('placing')
    const server = await ground.start({
      DATABASE_URL: url,
      ROLE: 'api',
      CATALOG_FILE: ground.file('placing.yaml', catalog('http://127.0.0.1:9')),
    })
    const { id, key } = await server.customer()
    const send = await driver(ground)
    const { child } = await ground.program('direct.ts', { url, connections: CONNECTIONS })
    const seconds = ground.options.quick ? 1 : 2
    let p99Ms = 0

    const post = async () => {
      const reached = await send({
        url: `${server.origin}/api/v1/orders`,
        method: 'POST',
        key,
        body: JSON.stringify(ORDER),
        once: true,
        connections: CONNECTIONS,
        seconds,
      })
      p99Ms = reached.p99Ms
      return reached.perSecond
    }
    const direct = (kind: Direct['kind']) => async () => {
      const wanted: Direct = { kind, customerId: id, connections: CONNECTIONS, seconds }
      return (await ask<{ perSecond: number }>(child, wanted)).perSecond
    }
    return [
      {
        measure: 'POST /orders, one customer, 64 connections : one transaction per order with pg',
        unit: 'orders/s',
        ...(await inTurns(3, direct('statements'), post)),
        target: { atLeast: 3 },
        note: `p99 ${p99Ms} ms in the last round`,
      },
      {
        measure: 'the same : one order per call of our own SQL function',
        unit: 'orders/s',
        ...(await inTurns(1, direct('function'), post)),
      },
    ]
  },
}
