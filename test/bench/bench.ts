import { cpus, loadavg } from 'node:os'
import { parseArgs } from 'node:util'
import { flight } from './flight.ts'
import { type Measure, startGround } from './ground.ts'
import { history } from './history.ts'
import { idle } from './idle.ts'
import { fleet, lifecycle } from './lifecycle.ts'
import { placing } from './placing.ts'
import { reading } from './reading.ts'
import { isMet, type Row, table } from './report.ts'
import { submitting } from './submitting.ts'
import { uploading } from './uploading.ts'

/*
 * npm run bench [-- --json] [--only NAME[,NAME]] [--quick] [--plans] [--profile DIR]
 *
 * Starts its own Postgres (durable, as in production: every commit is synced), real genmux processes and upstream
 * simulators on loopback, and measures what is promised about speed and memory. Where a promise is a ratio, reference and
 * subject run in turns in the same run. Ends with exit code 1 when a target is missed.
 */

const MEASURES: readonly Measure[] = [placing, reading, submitting, lifecycle, idle, flight, history, uploading, fleet]

const { values } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    only: { type: 'string' },
    quick: { type: 'boolean', default: false },
    plans: { type: 'boolean', default: false },
    profile: { type: 'string' },
  },
})
const wanted = values.only?.split(',')
const unknown = wanted?.find(name => !MEASURES.some(measure => measure.name === name))
if (unknown !== undefined) {
  process.stderr.write(`no measure ${unknown}: ${MEASURES.map(measure => measure.name).join(', ')}\n`)
  process.exit(1)
}

const ground = await startGround({ quick: values.quick, plans: values.plans, profile: values.profile })
const rows: Row[] = []
let failed = false
const machine = () =>
  `${cpus().length} cores (${cpus()[0]?.model}), load ${loadavg()[0]?.toFixed(1)}, Node ${process.versions.node}`
process.stderr.write(`${machine()}\n`)
try {
  for (const measure of MEASURES) {
    if (wanted && !wanted.includes(measure.name)) continue
    const began = performance.now()
    try {
      rows.push(...(await measure.run(ground)))
    } catch (error) {
      failed = true
      process.stderr.write(`${measure.name} failed: ${(error as Error).stack}\n`)
    }
    await ground.clear()
    process.stderr.write(`${measure.name}: ${((performance.now() - began) / 1_000).toFixed(0)} s\n`)
  }
  rows.push(await ground.verify())
} finally {
  await ground.stop()
}
process.stdout.write(
  values.json
    ? `${JSON.stringify(
        rows.map(row => ({ ...row, met: isMet(row) })),
        null,
        2,
      )}\n`
    : `${table(rows)}\n\n${machine()}\n`,
)
process.exitCode = failed || rows.some(row => isMet(row) === false) ? 1 : 0
