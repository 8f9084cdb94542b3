import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { pluragen } from '../../src/providers/pluragen.ts'
import type { Account, Call, Finished, Media, Pending, Task } from '../../src/providers/provider.ts'
import type { PluragenState } from '../simulators/pluragen-state.ts'
import type { Simulator } from '../simulators/spec.ts'
import { callOf, failure } from './conformance.ts'
import fixture from './fixtures/pluragen.ts'

let upstream: Simulator & { readonly pluragen: PluragenState }
let account: Account
let call: Call

beforeEach(async () => {
  const running = await fixture.start()
  upstream = running.simulator
  account = running.account
  call = callOf(account)
})
afterEach(() => upstream.stop())

async function submit(overrides?: Partial<Task>): Promise<string> {
  const answer = await pluragen.submit(fixture.task(overrides), call)
  return answer.state === 'accepted' ? answer.ref : expect.fail(`not accepted: ${answer.state}`)
}

async function stateOf(ref: string): Promise<Pending | Finished | undefined> {
  return (await pluragen.poll?.([ref], call))?.get(ref)
}

async function place(media: Media): Promise<string> {
  return (await pluragen.placeMedia?.(media, call))?.handle ?? ''
}

/** An order that stays queued, or stays processing. */
function lasting(state: 'queued' | 'processing'): void {
  upstream.tasks.next({ state: 'stuck' }, state === 'queued' ? 600_000 : 0)
}

describe('an order', () => {
  test('is sent as the document says', async () => {
    const task = fixture.task()
    await pluragen.submit(task, call)
    const [sent] = upstream.calls('submit')
    expect(sent?.path).toBe('/api/v1/orders')
    expect(sent?.headers).toMatchObject({
      authorization: `Bearer ${account.apiKey}`,
      'idempotency-key': task.idempotencyKey,
      'content-type': 'application/json',
    })
    expect(sent?.json).toEqual({ model_id: 20, ...task.input })
  })

  test('tells its cost when it is accepted, and when it is done', async () => {
    lasting('processing')
    expect(await pluragen.submit(fixture.task(), call)).toMatchObject({ state: 'accepted', cost: 50_000n })
    expect(await pluragen.submit(fixture.task(), call)).toMatchObject({ state: 'succeeded', cost: 50_000n })
  })

  test('whose replay finds it over is finished', async () => {
    const task = fixture.task()
    lasting('processing')
    const accepted = await pluragen.submit(task, call)
    const id = upstream.tasks.all()[0]?.id as string
    upstream.tasks.finish(id, { state: 'succeeded' })
    expect(accepted).toMatchObject({ state: 'accepted', ref: id })
    expect(await pluragen.submit(task, call)).toMatchObject({ state: 'succeeded', ref: id })
    upstream.tasks.finish(id, { state: 'failed' })
    expect(await pluragen.submit(task, call)).toMatchObject({ state: 'failed', fault: 'task_failed' })
    expect(upstream.counts.accepted).toBe(1)
  })

  test('under a key that was used for another is unclear, not resent, not a second order', async () => {
    const task = fixture.task()
    await pluragen.submit(task, call)
    const other = pluragen.submit({ ...task, input: { prompt: 'another' } }, call)
    expect(await failure(other, account)).toMatchObject({ fault: 'unclear', mayHaveStarted: true })
    expect(upstream.counts.accepted).toBe(1)
  })

  test('beyond the balance, and beyond the active ones, is refused for certain', async () => {
    upstream.pluragen.maxActiveOrders = 1
    lasting('processing')
    await submit()
    expect(await failure(submit(), account)).toMatchObject({ fault: 'account_saturated', mayHaveStarted: false })
    upstream.pluragen.maxActiveOrders = undefined
    upstream.pluragen.balance = 49_999n
    expect(await failure(submit(), account)).toMatchObject({ fault: 'account_funds', mayHaveStarted: false })
  })

  test.each(['nano-banana', '', '1.5', '-3'])('of the model %j cannot be: ids are numbers', model => {
    expect(pluragen.unusable?.(model, account)).toMatch(/number/)
  })

  test('with several results gives all', async () => {
    upstream.tasks.next({ state: 'succeeded', outputs: 3 }, 500)
    const ref = await submit()
    expect(await stateOf(ref)).toEqual({ state: 'pending' })
    await expect.poll(() => stateOf(ref)).toMatchObject({ state: 'succeeded', ref })
    const end = (await stateOf(ref)) as Finished & { state: 'succeeded' }
    expect(end.outputs).toHaveLength(3)
  })

  test('completed without a result failed', async () => {
    lasting('processing')
    const ref = await submit()
    const alter = ({ order, ...rest }: { order: object }) => ({ ...rest, order: { ...order, status: 'completed' } })
    upstream.faults.next('poll', { kind: 'alter', alter })
    expect(await stateOf(ref)).toMatchObject({ state: 'failed', fault: 'task_failed' })
  })

  test.each([
    [{ code: 'content_rejected', message: 'no' }, 'content_rejected'],
    ['Prompt violates our policy', 'content_rejected'],
    [{ reason: { type: 'NSFW' } }, 'content_rejected'],
    [{ code: 'provider_failed', message: 'The generation failed.' }, 'task_failed'],
    ['out of memory', 'task_failed'],
    [null, 'task_failed'],
    [undefined, 'task_failed'],
  ])('that failed with %j is %s', async (error, fault) => {
    lasting('processing')
    const ref = await submit()
    const alter = ({ order }: { order: object }) => ({ order: { ...order, status: 'failed', error } })
    upstream.faults.next('poll', { kind: 'alter', alter })
    expect(await stateOf(ref)).toMatchObject({ state: 'failed', fault })
  })
})

describe('cancel', () => {
  const cancel = (ref: string) => pluragen.cancel?.(ref, call)

  test('before it has started comes too early', async () => {
    lasting('queued')
    expect(await cancel(await submit())).toBe('too_early')
  })

  test('is confirmed at once, or later by a poll', async () => {
    lasting('processing')
    const ref = await submit()
    expect(await cancel(ref)).toBe('confirmed')
    expect(await stateOf(ref)).toEqual({ state: 'cancelled' })

    upstream.pluragen.cancelMs = 60
    lasting('processing')
    const slow = await submit()
    expect(await cancel(slow)).toBe('requested')
    expect(await cancel(slow)).toBe('requested')
    await expect.poll(() => stateOf(slow)).toEqual({ state: 'cancelled' })
    expect(await cancel(slow)).toBe('too_late')
  })

  test('of a finished order comes too late', async () => {
    lasting('processing')
    const ref = await submit()
    upstream.tasks.finish(ref, { state: 'failed' })
    expect(await cancel(ref)).toBe('too_late')
  })

  test('that the upstream could not do throws', async () => {
    lasting('processing')
    const ref = await submit()
    const body = { success: false, error: { code: 'cancel_failed', message: 'try again' } }
    upstream.faults.next('cancel', { kind: 'status', status: 503, body })
    expect(await failure(Promise.resolve(cancel(ref)), account)).toMatchObject({ fault: 'unavailable' })
    expect(await failure(Promise.resolve(cancel('ord_none')), account)).toMatchObject({ fault: 'unavailable' })
  })
})

describe('a file', () => {
  test('is uploaded byte for byte, and can be used in an order', async () => {
    const handle = await place(fixture.media)
    expect(handle).toMatch(/^tmp\//)
    expect(upstream.pluragen.uploads.get(handle)).toMatchObject({
      sha256: fixture.media.sha256,
      size: fixture.media.size,
      mimeType: 'image/png',
    })
    const input = { media: { image: [handle] }, options: { upscale_factor: 'x2' } }
    expect(await pluragen.submit(fixture.task({ model: '7', input }), call)).toMatchObject({ state: 'succeeded' })
  })

  test('that expired or is unknown must be uploaded again', async () => {
    const handle = await place(fixture.media)
    const task = (image: string) => fixture.task({ model: '7', input: { media: { image: [image] } } })
    for (const upload of upstream.pluragen.uploads.values()) upload.expired = true
    const expired = await failure(pluragen.submit(task(handle), call), account)
    const unknown = await failure(pluragen.submit(task('tmp/none'), call), account)
    expect([expired, unknown]).toMatchObject([
      { fault: 'media_unreachable', mayHaveStarted: false },
      { fault: 'media_unreachable', mayHaveStarted: false },
    ])
  })

  const heic: Media = {
    ...fixture.media,
    mimeType: 'image/heic',
    extension: 'heic',
    size: 5,
    sha256: createHash('sha256').update('heic!').digest('hex'),
    open: async () => Readable.from(['heic!']),
  }

  test('that is converted over there is waited for', async () => {
    const handle = await place(heic)
    expect(upstream.calls('uploadStatus').length).toBeGreaterThan(0)
    const task = fixture.task({ model: '7', input: { media: { image: [handle] } } })
    expect(await pluragen.submit(task, call)).toMatchObject({ state: 'succeeded' })
  })

  test('that cannot be converted over there is not used', async () => {
    upstream.pluragen.conversion = { ms: 40, works: false }
    expect(await failure(place(heic), account)).toMatchObject({ fault: 'media_unreachable' })
  })

  test('of a type it does not take is refused', async () => {
    const odd = { ...fixture.media, extension: 'bmp', mimeType: 'image/bmp' }
    expect(await failure(place(odd), account)).toMatchObject({ fault: 'mapping' })
  })
})

test('balance is in dollars', async () => {
  upstream.pluragen.balance = 124_500_000n
  expect(await pluragen.balance?.(call)).toEqual({ amount: 124.5, unit: 'USD' })
})
