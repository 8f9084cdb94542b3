import { freePort } from '../free-port.ts'
import { catalog } from './catalog.ts'
import { ask } from './drive.ts'
import { type Measure } from './ground.ts'
import { addOrdersInFlight } from './past.ts'
import { metrics } from './scrape.ts'
import type { Seen, UpstreamInput } from './upstream.ts'

/** What the catalogue says of this upstream by default. */
const EVERY_MS = 3_000

/** Ten thousand orders in the making, watched by one process. */
export const flight: Measure = {
  name: 'flight',
  async run(ground) {
    const orders = 10_000
    const port = await freePort()
    const input: UpstreamInput = { port, finishes: false }
    const { child } = await ground.program('upstream.ts', input)
    const url = await ground.database('flight')
    const server = await ground.start({
      DATABASE_URL: url,
      CATALOG_FILE: ground.file(
        'flight.yaml',
        catalog(`http://127.0.0.1:${port}`, { first_ms: EVERY_MS, every_ms: EVERY_MS }),
      ),
    })
    const { id } = await server.customer()
    await addOrdersInFlight(url, id, orders, EVERY_MS)
    // Twice around, so that it is warm and the next polls have something to be measured from.
    await new Promise(done => setTimeout(done, 2 * EVERY_MS))
    await ask<Seen>(child, {})
    const seconds = ground.options.quick ? 3 : 9
    await new Promise(done => setTimeout(done, seconds * 1_000))
    const { polls, gapP99Ms } = await ask<Seen>(child, {})
    const after = await metrics(server)
    const due = orders / (EVERY_MS / 1_000)
    const lag = after['genmux_poll_lag_seconds{provider="instant",account="main"}'] as number
    return [
      {
        measure: '10,000 orders in flight on one process: resident memory',
        value: (after.process_resident_memory_bytes as number) / 1e6,
        unit: 'MB',
        target: { atMost: 400 },
      },
      {
        measure: '10,000 orders in flight, each polled every 3 s : polls due',
        value: polls / seconds,
        unit: 'polls/s',
        reference: due,
        ratio: polls / seconds / due,
        target: { atLeast: 0.95 },
        note: `p99 of the time between two polls of an order ${(gapP99Ms / 1_000).toFixed(2)} s; most overdue poll ${lag.toFixed(2)} s`,
      },
    ]
  },
}
