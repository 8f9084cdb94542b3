import { request } from 'undici'
import { freePort } from '../free-port.ts'
import { catalog, ORDER } from './catalog.ts'
import { ask } from './drive.ts'
import { type Measure } from './ground.ts'
import { percentile } from './report.ts'
import type { Seen, UpstreamInput } from './upstream.ts'

const PER_SECOND = 100

/** From the moment that POST /orders is sent until the submit arrives at the upstream, at a steady 100 orders a second. */
export const submitting: Measure = {
  name: 'submitting',
  async run(ground) {
    const port = await freePort()
    const input: UpstreamInput = { port, finishes: true }
    const { child } = await ground.program('upstream.ts', input)
    const server = await ground.start({
      DATABASE_URL: await ground.database('submitting'),
      CATALOG_FILE: ground.file(
        'submitting.yaml',
        catalog(`http://127.0.0.1:${port}`, { first_ms: 4_000, every_ms: 3_000 }),
      ),
    })
    const { key } = await server.customer()
    const sentAt = new Map<string, number>()
    const post = async (n: number) => {
      const prompt = `order ${n}`
      sentAt.set(prompt, performance.timeOrigin + performance.now())
      const answer = await request(`${server.origin}/api/v1/orders`, {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        body: JSON.stringify({ ...ORDER, prompt }),
      })
      await answer.body.dump()
      if (answer.statusCode !== 201) throw new Error(`POST /orders: ${answer.statusCode}`)
    }

    const warmUp = PER_SECOND * 2
    const count = warmUp + PER_SECOND * (ground.options.quick ? 3 : 10)
    const posts: Promise<void>[] = []
    const began = performance.now()
    for (let n = 0; n < count; n++) {
      const wait = began + (n * 1_000) / PER_SECOND - performance.now()
      if (wait > 1) await new Promise(done => setTimeout(done, wait))
      posts.push(post(n))
    }
    await Promise.all(posts)
    await new Promise(done => setTimeout(done, 1_000))
    const { submits } = await ask<Seen>(child, {})
    const times = submits
      .filter(([prompt]) => Number(prompt.slice('order '.length)) >= warmUp)
      .map(([prompt, at]) => at - (sentAt.get(prompt) as number))
    return [
      {
        measure: 'POST /orders sent → submit at the upstream, p50 at 100 orders/s',
        value: percentile(times, 50),
        unit: 'ms',
        target: { atMost: 15 },
        note: `p90 ${percentile(times, 90).toFixed(1)} ms, p99 ${percentile(times, 99).toFixed(1)} ms, ${times.length} of ${count - warmUp} orders`,
      },
    ]
  },
}
