import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Account, Call } from '../../src/providers/provider.ts'
import type { InjectedFault, Simulator } from '../simulators/spec.ts'
import { callOf, endOf, failure, refOf } from './conformance.ts'
import { discover } from './discover.ts'

/** Long enough for an answer, short enough to wait out. */
const SILENCE_MS = 400

/** What a poll must survive: the state of a task is unknown then, whatever the answer looks like. */
const BROKEN_POLLS: readonly { name: string; fault: InjectedFault }[] = [
  { name: 'an internal error', fault: { kind: 'status', status: 500, body: { error: 'internal' } } },
  { name: 'a gateway error', fault: { kind: 'status', status: 502 } },
  { name: 'a refused key', fault: { kind: 'status', status: 401, body: { error: 'unauthorized' } } },
  { name: 'not found', fault: { kind: 'status', status: 404, body: { error: 'not found' } } },
  { name: 'too many requests', fault: { kind: 'status', status: 429, headers: { 'retry-after': '1' }, body: {} } },
  { name: 'a page in place of JSON', fault: { kind: 'status', status: 200 } },
  { name: 'an empty object', fault: { kind: 'status', status: 200, body: {} } },
  { name: 'a reset', fault: { kind: 'acceptThenReset' } },
  { name: 'silence', fault: { kind: 'acceptThenHang' } },
  { name: 'an answer cut off', fault: { kind: 'acceptThenTruncate' } },
  { name: 'half a JSON', fault: { kind: 'acceptThenGarble' } },
]

const { networked } = await discover()
const METHODS = ['poll', 'cancel', 'placeMedia', 'balance', 'readCallback']
const asked = networked.filter(([, { provider }]) => METHODS.some(method => method in provider))

describe.each(asked)('%s over its network', (_kind, fixture) => {
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

  if ('poll' in provider)
    describe('poll', () => {
      const poll = (...refs: string[]) =>
        Promise.resolve(provider.poll?.(refs, hasty)).then(states => states ?? new Map())

      test('tells the state of many at once', async () => {
        upstream.tasks.plan = { outcome: { state: 'stuck' } }
        const refs = await Promise.all(Array.from({ length: 20 }, () => refOf(provider, fixture.task(), call)))
        const states = await poll(...refs)
        expect(refs.map(ref => states.get(ref)?.state)).toEqual(refs.map(() => 'pending'))
      })

      test('takes a status word nobody documented for still processing', async () => {
        upstream.tasks.plan = { outcome: { state: 'unknown', word: 'hibernating' } }
        const ref = await refOf(provider, fixture.task(), call)
        expect((await poll(ref)).get(ref)).toEqual({ state: 'pending' })
      })

      test('sees a late success of a task that had failed', async () => {
        upstream.tasks.plan = { outcome: { state: 'stuck' } }
        const ref = await refOf(provider, fixture.task(), call)
        const id = upstream.tasks.all()[0]?.id as string
        upstream.tasks.finish(id, { state: 'failed' })
        expect(await endOf(provider, ref, call)).toMatchObject({ state: 'failed' })
        upstream.tasks.finish(id, { state: 'succeeded' })
        expect(await endOf(provider, ref, call)).toMatchObject({ state: 'succeeded' })
      })

      test.each(BROKEN_POLLS)('that meets $name ends no task', async ({ fault }) => {
        upstream.tasks.plan = { outcome: { state: 'stuck' } }
        const ref = await refOf(provider, fixture.task(), call)
        const other = await refOf(provider, fixture.task(), call)
        upstream.faults.next('poll', fault)
        const alone = await poll(ref).catch(error => failure(Promise.reject(error), account))
        if (alone instanceof Map) expect(alone.get(ref)).toBeUndefined()
        upstream.faults.next('poll', fault)
        const both = await poll(ref, other).catch(error => failure(Promise.reject(error), account))
        if (both instanceof Map) expect([...both.values()].map(state => state.state)).not.toContain('failed')
        upstream.faults.clear()
        expect((await poll(ref)).get(ref)).toEqual({ state: 'pending' })
      })
    })

  if ('cancel' in provider)
    describe('cancel', () => {
      const cancel = (ref: string) => Promise.resolve(provider.cancel?.(ref, hasty))

      test('of a running task is requested or done', async () => {
        upstream.tasks.plan = { outcome: { state: 'stuck' } }
        expect(['confirmed', 'requested']).toContain(await cancel(await refOf(provider, fixture.task(), call)))
      })

      test('of a task that is over is not confirmed', async () => {
        upstream.tasks.plan = { outcome: { state: 'stuck' } }
        const ref = await refOf(provider, fixture.task(), call)
        upstream.tasks.finish(upstream.tasks.all()[0]?.id as string, { state: 'succeeded' })
        expect(await cancel(ref)).not.toBe('confirmed')
        expect(await endOf(provider, ref, call)).toMatchObject({ state: 'succeeded' })
      })

      test.each([500, 502, 503])('that meets a %i throws', async status => {
        upstream.tasks.plan = { outcome: { state: 'stuck' } }
        const ref = await refOf(provider, fixture.task(), call)
        upstream.faults.next('cancel', { kind: 'status', status })
        expect(await failure(cancel(ref), account)).toMatchObject({ fault: 'unavailable' })
      })
    })

  if ('placeMedia' in provider)
    describe('placeMedia', () => {
      const place = async () => {
        if (!fixture.media) return expect.fail('the fixture needs a media')
        return provider.placeMedia?.(fixture.media, hasty)
      }

      test('turns a file into a handle', async () => {
        const placed = await place()
        expect(placed?.handle).toBeTruthy()
        expect(placed?.ttlMs ?? 1).toBeGreaterThan(0)
        expect(upstream.counts.uploads).toBe(1)
      })

      test.each([
        { kind: 'status', status: 503 },
        { kind: 'acceptThenReset' },
        { kind: 'acceptThenHang' },
        { kind: 'acceptThenGarble' },
      ] as const)('that meets $kind is unavailable, and no task can have started', async fault => {
        upstream.faults.next('upload', fault)
        expect(await failure(place(), account)).toMatchObject({ fault: 'unavailable', mayHaveStarted: false })
      })
    })

  if ('balance' in provider)
    test('balance is an amount in a unit', async () => {
      const balance = await provider.balance?.(call)
      expect(balance?.amount).toBeGreaterThanOrEqual(0)
      expect(balance?.unit).toBeTruthy()
    })

  if ('readCallback' in provider)
    test.each([undefined, null, '', 'text', 7, [], {}, { data: null }, { data: { taskId: {} } }])(
      'a callback of %j speaks of no task',
      body => {
        expect(provider.readCallback?.(body, fixture.task().model)).toBeUndefined()
      },
    )
})
