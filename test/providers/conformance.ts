import { inspect } from 'node:util'
import { buffer } from 'node:stream/consumers'
import { Agent, request } from 'undici'
import { expect } from 'vitest'
import { createHttp } from '../../src/providers/http.ts'
import {
  type Account,
  type Call,
  type Fault,
  type Finished,
  type Media,
  type Output,
  type Provider,
  ProviderError,
  type Ref,
  type Task,
} from '../../src/providers/provider.ts'
import type { InjectedFault, Json, Simulator } from '../simulators/spec.ts'

/*
 * What the conformance suite must know of an adapter. Each kind in the registry has test/providers/fixtures/KIND.ts with
 * `export default fixture` of this type; the suite finds it by the kind and runs all that applies:
 *
 * - always: happy path to the bytes of an output, the shape of `defaults` and `settings`;
 * - with a simulator: each `refusals` entry, 429 with Retry-After, every broken answer to a submit, refused connections,
 *   unknown status words, failed and moderated tasks, failed polls, unknown extra fields, no key in any message;
 * - with `idempotentSubmit`: a replay gives the same ref and one task at the upstream;
 * - with `reconcile`, `cancel`, `placeMedia`, `balance`: those too.
 *
 * The simulator must name its operations `submit`, `poll` (what the adapter's poll calls), `cancel`, `upload`, `balance`
 * (as far as the API has them); what else it has is its own matter. A synchronous API has no poll: submit is Finished, and its
 * simulator decides failed and moderated by `tasks` at once.
 */
export interface Fixture {
  readonly provider: Provider
  /** A fresh upstream, listening. Without a simulator (an adapter that needs no network) only the happy path runs. */
  start(): Promise<Running>
  /** A task the simulator accepts, without media. Two calls give two tasks: other key, nonce, attempt. */
  task(overrides?: Partial<Task>): Task
  /** How this API words its refusals of a submit: the injected answer, and what the adapter must make of it. */
  readonly refusals: readonly Refusal[]
  /** The fault of a moderated task. Default content_rejected. */
  readonly moderated?: Fault
  /** Where an unclear submit is looked up: how long after it an absent task is certain, ms. Default 0. */
  readonly absentAfterMs?: number
  /** A file that `placeMedia` can place; needed where the adapter has it. */
  readonly media?: Media
}

export interface Running {
  readonly account: Account
  readonly simulator?: Simulator
}

export interface Refusal {
  /** As in a test's name: `bad parameters`. */
  readonly name: string
  /** `body` is JSON, or text when a string. */
  readonly answer: { readonly status: number; readonly headers?: Record<string, string>; readonly body?: unknown }
  readonly fault: Fault
  /** Default false. */
  readonly mayHaveStarted?: boolean
  readonly retryAfterMs?: number
}

/** Answers to a submit that every adapter must read alike. */
export const COMMON_REFUSALS: readonly Refusal[] = [
  // What stands behind a gateway may have taken the task before the gateway gave up.
  { name: 'a gateway error', answer: { status: 502 }, fault: 'unclear', mayHaveStarted: true },
  { name: "a gateway's timeout", answer: { status: 504 }, fault: 'unclear', mayHaveStarted: true },
  {
    name: 'too many requests, without a reason',
    answer: { status: 429, headers: { 'retry-after': '7' } },
    fault: 'rate_limited',
    retryAfterMs: 7000,
  },
  { name: 'a key it does not know, without a reason', answer: { status: 401 }, fault: 'account_auth' },
]

/** Answers to a submit that leave open whether the task was made. `made`: it was. */
export const BROKEN_ANSWERS: readonly {
  readonly name: string
  readonly fault: InjectedFault
  readonly made: boolean
}[] = [
  { name: 'reset after acceptance', fault: { kind: 'acceptThenReset' }, made: true },
  { name: 'silence after acceptance', fault: { kind: 'acceptThenHang' }, made: true },
  { name: 'an answer cut off after acceptance', fault: { kind: 'acceptThenTruncate' }, made: true },
  { name: 'half a JSON after acceptance', fault: { kind: 'acceptThenGarble' }, made: true },
  { name: 'an answer without its fields after acceptance', fault: { kind: 'alter', alter: () => ({}) }, made: true },
  { name: 'a gateway error after acceptance', fault: { kind: 'acceptThenStatus', status: 502 }, made: true },
  { name: 'reset before acceptance', fault: { kind: 'resetBeforeAccept' }, made: false },
  { name: 'silence before acceptance', fault: { kind: 'hangBeforeAccept' }, made: false },
]

const agent = new Agent({ connect: { timeout: 2000 } })

/** A call without budgets. `timeoutMs` cuts every request short, as a test of silence needs. */
export function callOf(account: Account, timeoutMs?: number): Call {
  const options = { take: async () => {}, dispatcher: agent }
  if (timeoutMs === undefined) return { account, http: createHttp(account, options) }
  const http = createHttp(account, options)
  return { account, http: { ...http, send: request => http.send({ ...request, timeoutMs }) } }
}

/** What a request failed with. It must be a ProviderError, and must not tell the key. */
export async function failure(asked: Promise<unknown>, account: Account): Promise<ProviderError> {
  const error = await asked.then(
    answer => expect.fail(`expected a failure, not ${inspect(answer)}`),
    (error: unknown) => error,
  )
  if (!(error instanceof ProviderError)) throw error
  expect(inspect(error, { depth: 10 })).not.toContain(account.apiKey)
  return error
}

/** Submits and waits for the end, as the engine does. A synchronous API's refusal of the task counts as its end. */
export async function outcomeOf(provider: Provider, task: Task, call: Call): Promise<Finished> {
  try {
    const answer = await provider.submit(task, call)
    return answer.state === 'accepted' ? await endOf(provider, answer.ref, call) : answer
  } catch (error) {
    if (provider.poll || !(error instanceof ProviderError)) throw error
    return { state: 'failed', fault: error.fault, message: error.message }
  }
}

export async function endOf(provider: Provider, ref: Ref, call: Call): Promise<Finished> {
  for (const giveUp = Date.now() + 5_000; Date.now() < giveUp; ) {
    const state = (await provider.poll?.([ref], call))?.get(ref)
    if (state && state.state !== 'pending') return state
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  return expect.fail(`${ref} did not end`)
}

/** Submits a task that must not end at once. */
export async function refOf(provider: Provider, task: Task, call: Call): Promise<Ref> {
  const answer = await provider.submit(task, call)
  return answer.state === 'accepted' ? answer.ref : expect.fail(`not accepted: ${inspect(answer)}`)
}

/** The bytes, the way the engine gets them. */
export async function bytesOf(provider: Provider, output: Output, call: Call): Promise<Buffer> {
  const opened = provider.openOutput?.(output, call)
  if (opened) return buffer(await opened)
  const { statusCode, body } = await request(output.url)
  expect(statusCode).toBe(200)
  return Buffer.from(await body.arrayBuffer())
}

/** The same JSON with a member nobody documented in every object. */
export function withExtras(value: Json): Json {
  if (Array.isArray(value)) return value.map(withExtras)
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).map(([name, inner]) => [name, withExtras(inner)])
  return { ...Object.fromEntries(entries), brand_new: { since: 'yesterday', list: [1, null] } }
}
