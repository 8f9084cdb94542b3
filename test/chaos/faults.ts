import { FAULTS, type FaultName, type PlannedFault } from './plan.ts'
import type { Postgres } from './postgres.ts'
import type { Supervised } from './processes.ts'
import { cutAnswers, met, storm, type Upstream } from './upstreams.ts'

/** Whom the faults meet. */
export interface Targets {
  readonly postgres: Postgres
  readonly upstreams: readonly Upstream[]
  readonly apis: readonly Supervised[]
  readonly workers: readonly Supervised[]
  /** Workers that are paused instead of killed. */
  readonly sleepers: readonly Supervised[]
}

const RETRY_MS = 150
/** A fault that met nothing looks for another one to meet. */
const ANOTHER = 0.382
/** A share of the run's time: so much longer faults may last that have met nothing yet. */
const OVERTIME = 0.5
const LISTENERS = 'genmux-listen'

/** Lets a planned fault happen; false when there was nothing that it could meet. */
async function happen({ fault, pick, ms }: PlannedFault, targets: Targets): Promise<boolean> {
  const { postgres } = targets
  const upstream = one(targets.upstreams, pick)
  const line = fault.endsWith('to postgres') ? postgres.line : upstream.line
  switch (fault) {
    case 'kill -9 api':
      return one(targets.apis, pick).kill()
    case 'kill -9 worker':
      return one(targets.workers, pick).kill()
    case 'kill -9 postgres':
      await postgres.killAndRestart()
      return true
    case 'worker paused past its lease':
      return one(targets.sleepers, pick).pause(ms)
    case 'postgres connections filled':
      return postgres.fill(ms)
    case 'listen connections dropped':
      return (await postgres.terminate(LISTENERS)) > 0
    case 'upstream answers 5xx':
      storm(upstream, pick)
      return true
    case 'upstream answer cut':
      cutAnswers(upstream, pick)
      return true
    case 'latency to postgres':
    case 'latency to upstream':
      return line.latency(5 + pick * 60, ms)
    case 'reset to postgres':
    case 'reset to upstream':
      return line.reset(0.2 + pick * 0.8)
    case 'stall to postgres':
    case 'stall to upstream':
      return line.stall(ms)
    case 'half-open to postgres':
    case 'half-open to upstream':
      return line.halfOpen(pick)
    case 'bandwidth to postgres':
    case 'bandwidth to upstream':
      return line.bandwidth(8_000 + pick * 40_000, ms)
  }
}

function one<T>(items: readonly T[], pick: number): T {
  return items[Math.floor(pick * items.length)] as T
}

/** What must not happen to two at once: the server of Postgres, which is killed and counted on. */
const ALONE = new Set<FaultName>(['kill -9 postgres', 'postgres connections filled', 'listen connections dropped'])

/**
 * Lets every planned fault happen at its time; one that met nothing is tried again while the faults last. Resolves, when all
 * are over, with how often each fired.
 */
export async function runFaults(
  plan: readonly PlannedFault[],
  targets: Targets,
  lastMs: number,
): Promise<Map<FaultName, number>> {
  const fired = new Map<FaultName, number>(FAULTS.map(fault => [fault, 0]))
  const began = performance.now()
  const left = () => lastMs - (performance.now() - began)
  let alone = Promise.resolve()

  const attempt = async (planned: PlannedFault): Promise<void> => {
    await new Promise(done => setTimeout(done, Math.max(0, planned.at - (performance.now() - began))))
    for (let tries = 0; left() > -lastMs * OVERTIME; tries++) {
      if (await happen({ ...planned, pick: (planned.pick + tries * ANOTHER) % 1 }, targets)) {
        fired.set(planned.fault, (fired.get(planned.fault) ?? 0) + 1)
        return
      }
      await new Promise(done => setTimeout(done, RETRY_MS))
    }
  }
  await Promise.all(
    plan.map(planned => {
      if (!ALONE.has(planned.fault)) return attempt(planned)
      alone = alone.then(() => attempt(planned))
      return alone
    }),
  )
  for (const { line, simulator } of targets.upstreams) {
    line.heal()
    simulator.faults.clear()
  }
  targets.postgres.line.heal()
  // Of the storms and cuts, what counts is the requests that met them.
  const { broken, cut } = met(targets.upstreams)
  fired.set('upstream answers 5xx', broken)
  fired.set('upstream answer cut', cut)
  return fired
}
