import { createHash } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Account, Call } from '../../src/providers/provider.ts'
import { providers } from '../../src/providers/registry.ts'
import type { Simulator } from '../simulators/spec.ts'
import {
  BROKEN_ANSWERS,
  bytesOf,
  COMMON_REFUSALS,
  callOf,
  endOf,
  failure,
  outcomeOf,
  withExtras,
} from './conformance.ts'
import { discover } from './discover.ts'

const { fixtures, networked } = await discover()

test('every adapter has a fixture, and every fixture an adapter', () => {
  expect(fixtures.map(([kind]) => kind)).toEqual([...providers.keys()].sort())
})

/** Long enough for an answer, short enough to wait out. */
const SILENCE_MS = 400

describe.each(fixtures)('%s', (_kind, fixture) => {
  const { provider } = fixture
  let account: Account
  let call: Call
  let stop: () => Promise<void>
  beforeEach(async () => {
    const running = await fixture.start()
    account = running.account
    call = callOf(account)
    stop = async () => running.simulator?.stop()
  })
  afterEach(() => stop())

  test('has sane defaults, and settings that may be left out', () => {
    const { first_ms, every_ms, deadline_ms } = provider.defaults.poll
    expect(Math.min(first_ms, every_ms)).toBeGreaterThan(0)
    expect(deadline_ms).toBeGreaterThan(first_ms + every_ms)
    for (const limit of Object.values(provider.defaults.limits)) expect(limit).toBeGreaterThan(0)
    expect(provider.settings.safeParse({}).success).toBe(true)
    expect(provider.unusable?.(fixture.task().model, account)).toBeUndefined()
  })

  test('makes a task and reads its outputs', async () => {
    const end = await outcomeOf(provider, fixture.task(), call)
    if (end.state !== 'succeeded') return expect.fail(JSON.stringify(end))
    expect(end.outputs.length).toBeGreaterThan(0)
    for (const output of end.outputs) expect((await bytesOf(provider, output, call)).length).toBeGreaterThan(0)
  })
})

describe.each(networked)('%s over its network', (_kind, fixture) => {
  const { provider } = fixture
  let account: Account
  let call: Call
  /** The same, but silence ends soon. */
  let hasty: Call
  let upstream: Simulator
  beforeEach(async () => {
    const running = await fixture.start()
    account = running.account
    upstream = running.simulator as Simulator
    call = callOf(account)
    hasty = callOf(account, SILENCE_MS)
    for (const name of Object.keys(upstream.limits)) delete upstream.limits[name as keyof typeof upstream.limits]
  })
  afterEach(() => upstream.stop())

  describe('submit', () => {
    test('gives the bytes that the upstream made', async () => {
      const end = await outcomeOf(provider, fixture.task(), call)
      if (end.state !== 'succeeded') return expect.fail(JSON.stringify(end))
      const hashes = await Promise.all(end.outputs.map(async output => sha256(await bytesOf(provider, output, call))))
      expect(hashes).toEqual(
        upstream.tasks
          .all()[0]
          ?.outputs()
          .map(file => file.sha256),
      )
    })

    test.each([...COMMON_REFUSALS, ...fixture.refusals])('refused: $name → $fault', async refusal => {
      upstream.faults.next('submit', { kind: 'status', ...refusal.answer })
      const error = await failure(provider.submit(fixture.task(), call), account)
      expect(error.fault).toBe(refusal.fault)
      expect(error.mayHaveStarted).toBe(refusal.mayHaveStarted ?? false)
      if (refusal.retryAfterMs !== undefined) expect(error.retryAfterMs).toBe(refusal.retryAfterMs)
      expect(upstream.counts.accepted).toBe(0)
    })

    test.each([500, 503])('an unexplained %i is never taken for a verdict on the task', async status => {
      upstream.faults.next('submit', { kind: 'status', status })
      const error = await failure(provider.submit(fixture.task(), call), account)
      expect(['unavailable', 'unclear']).toContain(error.fault)
    })

    test('over the limit of the key: rate_limited, with the time to wait', async () => {
      upstream.limits.all = { max: 1 }
      await provider.submit(fixture.task(), call)
      const error = await failure(provider.submit(fixture.task(), call), account)
      expect(error.fault).toBe('rate_limited')
      expect(error.retryAfterMs).toBeGreaterThan(0)
      expect(error.retryAfterMs).toBeLessThanOrEqual(61_000)
      expect(upstream.counts).toMatchObject({ accepted: 1, refused: 1 })
    })

    test('with a key it does not know: account_auth', async () => {
      const stranger = { ...account, apiKey: 'a-key-that-was-revoked-long-ago' }
      const error = await failure(provider.submit(fixture.task(), callOf(stranger)), stranger)
      expect(error).toMatchObject({ fault: 'account_auth', mayHaveStarted: false })
    })

    test('refused with the key quoted: the message does not repeat it', async () => {
      const quote = `Incorrect API key provided: ${account.apiKey}`
      const body = { success: false, code: 401, message: quote, error: { code: 'unauthorized', message: quote } }
      upstream.faults.next('submit', { kind: 'status', status: 401, body })
      await failure(provider.submit(fixture.task(), call), account)
    })

    test.each(BROKEN_ANSWERS)('$name: unclear', async ({ fault, made }) => {
      upstream.faults.next('submit', fault)
      const error = await failure(provider.submit(fixture.task(), hasty), account)
      expect(error).toMatchObject({ fault: 'unclear', mayHaveStarted: true })
      expect(upstream.counts.accepted).toBe(made ? 1 : 0)
      expect(upstream.calls('submit')).toHaveLength(1)
    })

    test('with the upstream down: unavailable, and nothing can have started', async () => {
      await upstream.stop()
      const error = await failure(provider.submit(fixture.task(), call), account)
      expect(error).toMatchObject({ fault: 'unavailable', mayHaveStarted: false })
      await upstream.start()
    })

    test('sends the same bytes for the same task', async () => {
      const task = fixture.task()
      await provider.submit(task, call)
      await provider.submit(task, call)
      const [first, second] = upstream.calls('submit')
      expect(first?.raw.length).toBeGreaterThan(0)
      expect(second?.raw.equals(first?.raw as Buffer)).toBe(true)
    })

    test('takes an answer with fields nobody documented', async () => {
      upstream.faults.next('submit', { kind: 'alter', alter: withExtras })
      upstream.faults.next('poll', { kind: 'alter', alter: withExtras }, 5)
      expect(await outcomeOf(provider, fixture.task(), call)).toMatchObject({ state: 'succeeded' })
    })

    test.each([
      { state: 'failed', fault: 'task_failed' },
      { state: 'moderated', fault: fixture.moderated ?? 'content_rejected' },
    ] as const)('of a task that is $state ends in $fault', async ({ state, fault }) => {
      upstream.tasks.next({ state })
      expect(await outcomeOf(provider, fixture.task(), call)).toMatchObject({ state: 'failed', fault })
    })
  })

  if (provider.idempotentSubmit)
    test('a replay after a lost answer gives the one task that was made', async () => {
      const task = fixture.task()
      upstream.faults.next('submit', { kind: 'acceptThenReset' })
      await failure(provider.submit(task, call), account)
      upstream.tasks.plan = { outcome: { state: 'stuck' } }
      const answers = [await provider.submit(task, call), await provider.submit(task, call)]
      const refs = new Set(answers.map(answer => ('ref' in answer ? answer.ref : undefined)))
      expect(refs.size).toBe(1)
      expect(upstream.counts.accepted).toBe(1)
      expect(await provider.submit(fixture.task(), call)).not.toMatchObject({ ref: [...refs][0] })
      expect(upstream.counts.accepted).toBe(2)
    })

  if ('reconcile' in provider)
    describe('reconcile', () => {
      test('finds a task whose answer was lost', async () => {
        const task = fixture.task()
        upstream.faults.next('submit', { kind: 'acceptThenReset' })
        await failure(provider.submit(task, call), account)
        const found = await provider.reconcile?.(task, call)
        if (typeof found !== 'object') return expect.fail(`found: ${found}`)
        const end = found.state === 'accepted' ? await endOf(provider, found.ref, call) : found
        expect(end).toMatchObject({ state: 'succeeded' })
        expect(upstream.counts.accepted).toBe(1)
      })

      test('says absent of a task that never arrived', async () => {
        const task = fixture.task({ submittedAt: new Date(Date.now() - (fixture.absentAfterMs ?? 0)) })
        upstream.faults.next('submit', { kind: 'resetBeforeAccept' })
        await failure(provider.submit(task, call), account)
        expect(await provider.reconcile?.(task, call)).toBe('absent')
      })

      test('that fails throws, and says nothing', async () => {
        await upstream.stop()
        const error = await failure(Promise.resolve(provider.reconcile?.(fixture.task(), call)), account)
        expect(error.fault).toBe('unavailable')
        await upstream.start()
      })
    })
})

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}
