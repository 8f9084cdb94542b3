import { createHash } from 'node:crypto'
import { type Random, seeded } from './random.ts'

/*
 * What happens in a run, as far as a seed can decide it: which fault comes when and how long, what each customer does at each
 * step, what becomes of each upstream task. How the processes' work falls between them is left to chance.
 */

export const FAULTS = [
  'kill -9 api',
  'kill -9 worker',
  'kill -9 postgres',
  'worker paused past its lease',
  'postgres connections filled',
  'listen connections dropped',
  'upstream answers 5xx',
  'upstream answer cut',
  'latency to postgres',
  'reset to postgres',
  'stall to postgres',
  'half-open to postgres',
  'bandwidth to postgres',
  'latency to upstream',
  'reset to upstream',
  'stall to upstream',
  'half-open to upstream',
  'bandwidth to upstream',
] as const
export type FaultName = (typeof FAULTS)[number]

export interface PlannedFault {
  readonly fault: FaultName
  /** ms since the faults began. */
  readonly at: number
  /** Whom it meets: 0 ≤ pick < 1. */
  readonly pick: number
  /** How long it lasts, where it lasts. */
  readonly ms: number
}

/** A worker's lease is 20 s. */
export const PAUSE_MS = 22_500
/** A paused worker works between its pauses at least this long, ms. */
const AWAKE_MS = 3_500
/** From this on, every fault fires at least 20 times. */
const FULL_MINUTES = 3

export interface Scale {
  /** Long enough for every fault to fire 20 times. */
  readonly full: boolean
  readonly faultsMs: number
  /** How often each fault must have fired. */
  readonly least: number
  /** Workers that are paused again and again. */
  readonly sleepers: number
  /** How often each fault is planned. */
  readonly each: number
}

/** Runs shorter than 3 minutes are for a look: each fault fires at least once in them. */
export function scaleOf(minutes: number): Scale {
  const full = minutes >= FULL_MINUTES
  return {
    full,
    faultsMs: minutes * 60_000,
    least: full ? 20 : 1,
    sleepers: full ? 4 : 1,
    each: full ? Math.ceil((27 * minutes) / FULL_MINUTES) : Math.max(2, Math.round(4 * minutes)),
  }
}

/** How long a fault lasts, ms; the others are over at once. */
const LASTS: Partial<Record<FaultName, readonly [number, number]>> = {
  'postgres connections filled': [500, 1_200],
  'latency to postgres': [800, 2_000],
  'stall to postgres': [300, 1_500],
  'bandwidth to postgres': [800, 2_000],
  'latency to upstream': [1_000, 3_000],
  'stall to upstream': [500, 2_500],
  'bandwidth to upstream': [1_000, 3_000],
}

/** In the order of their times. */
export function planFaults(seed: number, scale: Scale): PlannedFault[] {
  const random = seeded(seed, 'faults')
  const planned = FAULTS.flatMap(fault =>
    fault === 'worker paused past its lease' ? pauses(random, scale) : spread(random, scale, fault),
  )
  return planned.sort((a, b) => a.at - b.at)
}

function spread(random: Random, { each, faultsMs }: Scale, fault: FaultName): PlannedFault[] {
  const slot = faultsMs / each
  const [from, to] = LASTS[fault] ?? [0, 0]
  return Array.from({ length: each }, (_, i) => ({
    fault,
    at: Math.round((i + random.next() * 0.9) * slot),
    pick: random.next(),
    ms: random.between(from, to),
  }))
}

/** Each sleeper in turn; `pick` names the sleeper. */
function pauses(random: Random, { sleepers, faultsMs }: Scale): PlannedFault[] {
  const rounds = Math.max(1, Math.floor(faultsMs / (PAUSE_MS + AWAKE_MS)))
  return Array.from({ length: sleepers }, (_, sleeper) =>
    Array.from({ length: rounds }, (_, round) => ({
      fault: 'worker paused past its lease' as const,
      at: Math.round(round * (PAUSE_MS + AWAKE_MS) + random.next() * AWAKE_MS),
      pick: (sleeper + 0.5) / sleepers,
      ms: PAUSE_MS,
    })),
  ).flat()
}

const ACTIONS = {
  place: 32,
  retry: 10,
  conflict: 2,
  poll: 22,
  cancel: 10,
  upload: 5,
  topup: 3,
  list: 5,
  balance: 5,
  download: 6,
} as const
export type ActionName = keyof typeof ACTIONS

export interface Action {
  readonly name: ActionName
  /** Which of the things it may concern: 0 ≤ pick < 1. */
  readonly pick: number
  /** Which api process is asked. */
  readonly api: number
  readonly modelId: number
  /** Before the next one. */
  readonly pauseMs: number
}

/** What a customer does at a step. */
export function actionAt(seed: number, customer: number, step: number, modelIds: readonly number[]): Action {
  const random = seeded(seed, 'customer', customer, step)
  const entries = Object.entries(ACTIONS) as [ActionName, number][]
  let at = random.next() * entries.reduce((sum, [, weight]) => sum + weight, 0)
  const [name] = entries.find(([, weight]) => (at -= weight) < 0) ?? ['poll' as const]
  return {
    name,
    pick: random.next(),
    api: random.between(0, 1),
    modelId: random.pick(modelIds),
    pauseMs: random.between(20, 400),
  }
}

/** A name for the whole plan: equal for equal seeds. */
export function fingerprint(seed: number, minutes: number, modelIds: readonly number[]): string {
  const actions = Array.from({ length: 100 }, (_, step) => actionAt(seed, step % 4, step, modelIds))
  const text = JSON.stringify([planFaults(seed, scaleOf(minutes)), actions])
  return createHash('sha256').update(text).digest('hex').slice(0, 12)
}
