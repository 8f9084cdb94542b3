import { catalog } from './catalog.ts'
import type { Measure } from './ground.ts'
import { metrics } from './scrape.ts'

/** What a server that has nothing to do takes of one processor core. */
export const idle: Measure = {
  name: 'idle',
  async run(ground) {
    const server = await ground.start({
      DATABASE_URL: await ground.database('idle'),
      CATALOG_FILE: ground.file('idle.yaml', catalog('http://127.0.0.1:9')),
    })
    const seconds = ground.options.quick ? 5 : 10
    await new Promise(done => setTimeout(done, 3_000))
    await metrics(server)
    // Told from memory: what reading the database for it takes is not idleness.
    const before = await metrics(server)
    await new Promise(done => setTimeout(done, seconds * 1_000))
    const after = await metrics(server)
    const used = (after.process_cpu_seconds_total as number) - (before.process_cpu_seconds_total as number)
    return [
      {
        measure: 'CPU of an idle server, of one core',
        value: (used / seconds) * 100,
        unit: '%',
        target: { atMost: 1 },
        note: `resident memory ${((after.process_resident_memory_bytes as number) / 1e6).toFixed(0)} MB`,
      },
    ]
  },
}
