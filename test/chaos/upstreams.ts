import { apixoSimulator } from '../simulators/apixo.ts'
import { createOneshot } from '../simulators/oneshot.ts'
import { createPluragen } from '../simulators/pluragen.ts'
import { createProgressiverobot } from '../simulators/progressiverobot.ts'
import type { InjectedFault, Simulator } from '../simulators/spec.ts'
import type { Outcome, SimTask } from '../simulators/tasks.ts'
import { zencreatorSimulator } from '../simulators/zencreator.ts'
import { type FaultProxy, startProxy } from './proxy.ts'
import { type Random, seeded } from './random.ts'

/** The upstreams: they live in this process, so what they accepted is known whatever is killed. */
export interface Upstream {
  readonly provider: string
  readonly simulator: Simulator
  readonly line: FaultProxy
  /** As genmux sees it: through the proxy. */
  readonly origin: string
  /** It knows a submit again by its key. */
  readonly idempotent: boolean
}

export interface UpstreamTask {
  readonly provider: string
  readonly prompt: string
  readonly task: SimTask
}

const TASKS_PLANNED = 20_000

export async function startUpstreams(
  seed: number,
  { withOneshot, patient }: { withOneshot: boolean; patient: boolean },
): Promise<Upstream[]> {
  const pluragen = createPluragen()
  pluragen.pluragen.balance = 10n ** 15n
  pluragen.pluragen.cancelMs = 600
  const zencreator = Object.assign(zencreatorSimulator(), { credits: 1e9 })
  const progressiverobot = Object.assign(createProgressiverobot(), { credits: 1e9, imageListAlike: true })
  const all: [string, Simulator, boolean][] = [
    ['pluragen', pluragen, true],
    ['zencreator', zencreator, true],
    ['apixo', apixoSimulator(), false],
    ['progressiverobot', progressiverobot, false],
  ]
  if (withOneshot) all.push(['oneshot', Object.assign(createOneshot(), { points: 1e9 }), false])

  return Promise.all(
    all.map(async ([provider, simulator, idempotent]) => {
      for (const bucket of ['all', 'submit', 'read', 'upload'] as const) delete simulator.limits[bucket]
      for (const account of ['main', 'spare']) simulator.keys.add(providerKey(provider, account))
      const random = seeded(seed, provider)
      for (let i = 0; i < TASKS_PLANNED; i++) simulator.tasks.next(outcome(random, patient), random.between(50, 2_500))
      const url = await simulator.start()
      const line = await startProxy(Number(new URL(url).port))
      const origin = `http://127.0.0.1:${line.port}`
      // APIXO gives absolute links to its files: they lead through the proxy too.
      Object.defineProperty(simulator, 'url', { value: origin })
      return { provider, simulator, line, origin, idempotent }
    }),
  )
}

/** A canary: found anywhere but in requests to the upstream, it has leaked. */
export function providerKey(provider: string, account: string): string {
  return `canary-${provider}-${account}-7Yq2mZ`
}

/** Most succeed; the rest go every way that a task can go. What can only be waited out needs a patient run. */
function outcome(random: Random, patient: boolean): Outcome {
  const at = random.between(0, 99)
  if (at < 82) return { state: 'succeeded', outputs: random.between(1, 2) }
  if (at < 89) return { state: 'failed' }
  if (at < 92) return { state: 'moderated' }
  if (at < 95) return { state: 'partial' }
  return patient && at < 98 ? { state: 'unknown' } : { state: 'stuck' }
}

const BROKEN: readonly InjectedFault[] = [500, 503].map(status => ({ kind: 'status', status, body: {} }))
/** What was done is answered, but the answer does not come whole. */
const CUT_SUBMIT: readonly InjectedFault[] = [
  { kind: 'acceptThenReset' },
  { kind: 'acceptThenTruncate' },
  { kind: 'acceptThenGarble' },
  { kind: 'acceptThenStatus', status: 502 },
  { kind: 'resetBeforeAccept' },
]
const CUT_READ: readonly InjectedFault[] = [{ kind: 'acceptThenTruncate' }, { kind: 'acceptThenReset' }]

/** The next requests of every kind are answered with 5xx. */
export function storm(upstream: Upstream, pick: number): void {
  const fault = BROKEN[Math.floor(pick * 97) % BROKEN.length] as InjectedFault
  upstream.simulator.faults.next('submit', fault, 3)
  upstream.simulator.faults.next('poll', fault, 3)
  upstream.simulator.faults.next('file', fault, 1)
  upstream.simulator.faults.next('upload', fault, 1)
}

/** The answers to the next requests are cut short. */
export function cutAnswers(upstream: Upstream, pick: number): void {
  const submit = CUT_SUBMIT[Math.floor(pick * 97) % CUT_SUBMIT.length] as InjectedFault
  const read = CUT_READ[Math.floor(pick * 97) % CUT_READ.length] as InjectedFault
  upstream.simulator.faults.next('submit', submit)
  upstream.simulator.faults.next('poll', read)
  upstream.simulator.faults.next('file', read)
}

/** How many requests met which fault of the simulators. */
export function met(upstreams: readonly Upstream[]): { broken: number; cut: number } {
  const faults = upstreams.flatMap(({ simulator }) => simulator.requests.flatMap(request => request.fault ?? []))
  const broken = faults.filter(kind => kind === 'status').length
  return { broken, cut: faults.length - broken }
}

/** Everything the upstreams accepted. */
export function tasksOf(upstreams: readonly Upstream[]): UpstreamTask[] {
  return upstreams.flatMap(({ provider, simulator }) =>
    simulator.tasks.all().map(task => ({ provider, prompt: promptOf(task.input), task })),
  )
}

/** Each API has its own place for it. */
function promptOf(input: unknown): string {
  const { prompt, input: inner } = input as { prompt?: string; input?: { prompt?: string; positive_prompt?: string } }
  return prompt ?? inner?.prompt ?? inner?.positive_prompt ?? ''
}
