import { freePort } from '../free-port.ts'
import { catalog, ORDER } from './catalog.ts'
import { driver } from './drive.ts'
import { type Measure } from './ground.ts'
import { inTurns } from './report.ts'

/** GET /orders/{id} against a bare Fastify route that answers the same body. */
export const reading: Measure = {
  name: 'reading',
  async run(ground) {
    const server = await ground.start({
      DATABASE_URL: await ground.database('reading'),
      ROLE: 'api',
      CATALOG_FILE: ground.file('reading.yaml', catalog('http://127.0.0.1:9')),
    })
    const { key } = await server.customer()
    const answer = await fetch(`${server.origin}/api/v1/orders`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: JSON.stringify(ORDER),
    })
    const body = (await answer.json()) as { order: { id: string } }
    const port = await freePort()
    await ground.program('bare.ts', { body, port })
    const send = await driver(ground)
    const load = { method: 'GET', connections: 64, seconds: ground.options.quick ? 1 : 2 } as const
    const path = `/orders/${body.order.id}`
    return [
      {
        measure: 'GET /orders/{id}, 64 connections : a bare Fastify route with the same body',
        unit: 'requests/s',
        ...(await inTurns(
          4,
          async () => (await send({ ...load, url: `http://127.0.0.1:${port}${path}` })).perSecond,
          async () => (await send({ ...load, url: `${server.origin}/api/v1${path}`, key })).perSecond,
        )),
        target: { atLeast: 0.6 },
      },
    ]
  },
}
