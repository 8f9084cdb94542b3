import { parseArgs } from 'node:util'
import { runOverload } from './overload.ts'
import { type ChaosReport, runChaos } from './run.ts'

/*
 * npm run chaos -- --minutes 3 --seed 7        breaks things
 * npm run chaos -- --overload --seconds 60     asks for too much: see overload.ts
 *
 * The first breaks a whole genmux for so many minutes and judges what is left. The seed gives the same plan of faults and of customers
 * again. Prints a table and one closing line; exits with 1 when a promise was broken, or when too little was tried.
 */

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '3' },
    seed: { type: 'string' },
    overload: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '60' },
  },
})
const minutes = Number(values.minutes)
const seconds = Number(values.seconds)
const seed = values.seed === undefined ? Math.floor(Math.random() * 1e6) : Number(values.seed)
if (!(minutes > 0) || !(seconds > 0) || !Number.isInteger(seed)) {
  console.error('usage: npm run chaos -- [--minutes MINUTES] [--seed WHOLE_NUMBER] | --overload [--seconds SECONDS]')
  process.exit(2)
}
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130))

const say = (line: string) => console.log(line)
const kept = values.overload ? await overloaded() : await broken()
process.exit(kept ? 0 : 1)

async function overloaded(): Promise<boolean> {
  const kept = await runOverload(seconds, say)
  say(kept ? 'overload: OK' : 'overload: FAILED')
  return kept
}

async function broken(): Promise<boolean> {
  const report = await runChaos({ seed, minutes, say })
  print(report)
  const total = [...report.orders.values()].reduce((sum, count) => sum + count, 0)
  const ran = `seed ${seed}, plan ${report.plan}, ${minutes} min, ${total} orders, ${report.tasks} upstream tasks`
  const found = report.broken.length
  say(found === 0 ? `chaos: OK (${ran})` : `chaos: FAILED: ${found} broken (${ran})`)
  return found === 0
}

function print({ fired, orders, answers, broken }: ChaosReport): void {
  const table = (title: string, rows: ReadonlyMap<string, number>) => {
    say(`\n${title}`)
    for (const [name, count] of rows) say(`  ${String(count).padStart(6)}  ${name}`)
  }
  table('faults that fired', fired)
  table('orders', orders)
  table('answers', new Map([...answers].toSorted(([a], [b]) => a.localeCompare(b))))
  say('')
  for (const what of broken.slice(0, 40)) say(`  broken: ${what}`)
  if (broken.length > 40) say(`  … and ${broken.length - 40} more`)
}
