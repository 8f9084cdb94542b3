import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Account, Call, Finished, Media, Pending, Task } from '../../src/providers/provider.ts'
import { zencreator } from '../../src/providers/zencreator.ts'
import type { ZencreatorSimulator } from '../simulators/zencreator.ts'
import { callOf } from './conformance.ts'
import fixture from './fixtures/zencreator.ts'

let upstream: ZencreatorSimulator
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
  const accepted = await zencreator.submit(fixture.task(overrides), call)
  if (accepted.state !== 'accepted') throw new Error(`not accepted: ${accepted.state}`)
  return accepted.ref
}

async function poll(...refs: string[]): Promise<Map<string, Pending | Finished>> {
  return (await zencreator.poll?.(refs, call)) ?? new Map()
}

async function stateOf(ref: string): Promise<Pending | Finished | undefined> {
  return (await poll(ref)).get(ref)
}

async function place(media: Media): Promise<string> {
  return (await zencreator.placeMedia?.(media, call))?.handle ?? ''
}

describe('a generation', () => {
  test('is found, with its files, by reading /result alone', async () => {
    const ref = await submit()
    const state = await stateOf(ref)
    if (state?.state !== 'succeeded') throw new Error(`not done: ${state?.state}`)
    const url = state.outputs[0]?.url ?? ''
    expect(url).toMatch(/\?download=1$/)
    const bytes = Buffer.from(await (await fetch(url)).arrayBuffer())
    expect(createHash('sha256').update(bytes).digest('hex')).toBe(upstream.tasks.get(ref)?.outputs()[0]?.sha256)
    expect(upstream.calls('status')).toHaveLength(0)
  })

  test('gives the preview where there is no download', async () => {
    upstream.faults.next('poll', {
      kind: 'alter',
      alter: body => ({ ...body, outputs: [{ url: 'https://cdn.example/a' }] }),
    })
    expect(await stateOf(await submit())).toMatchObject({ outputs: [{ url: 'https://cdn.example/a' }] })
  })

  test('that is partial succeeds with what there is, and fails without', async () => {
    upstream.tasks.next({ state: 'partial', outputs: 2 })
    upstream.tasks.next({ state: 'partial', outputs: 0 })
    const [some, none] = [await submit(), await submit()]
    const states = await poll(some, none)
    expect(states.get(some)).toMatchObject({ state: 'succeeded', outputs: [{}, {}] })
    expect(states.get(none)).toMatchObject({ state: 'failed', fault: 'task_failed' })
  })

  test('that succeeded with nothing failed', async () => {
    upstream.tasks.next({ state: 'succeeded', outputs: 0 })
    expect(await stateOf(await submit())).toMatchObject({ state: 'failed', fault: 'task_failed' })
  })

  test.each([
    ['The prompt violates our content rules', 'content_rejected'],
    ['Blocked by the safety filter', 'content_rejected'],
    ['Rejected: usage policy', 'content_rejected'],
    ['NSFW result', 'content_rejected'],
    ['Output moderated', 'content_rejected'],
    ['GPU ran out of memory', 'task_failed'],
    ['Timed out', 'task_failed'],
  ])('that failed with %j is %s', async (message, fault) => {
    upstream.tasks.next({ state: 'failed', message })
    expect(await stateOf(await submit())).toEqual({ state: 'failed', fault, message: `failed: ${message}` })
  })
})

describe('a submit', () => {
  test.each([['by_prompt'], ['image_editor'], ['videogen']])('of %s without its model is never sent', async model => {
    const input = { positive_prompt: 'a', prompt: 'a' }
    await expect(submit({ model, input })).rejects.toMatchObject({ fault: 'mapping', mayHaveStarted: false })
    await expect(submit({ model, input: { ...input, model: '' } })).rejects.toMatchObject({ fault: 'mapping' })
    expect(upstream.requests).toHaveLength(0)
    expect(upstream.violations).toHaveLength(0)
  })

  test('of a tool without models is sent', async () => {
    await submit({ model: 'upscaler', input: { image_asset: await place(fixture.media), version: 'natural_clarity' } })
    expect(upstream.tasks.all()[0]?.input).toMatchObject({ tool: 'upscaler', input: { version: 'natural_clarity' } })
  })

  test('sent again is the same generation; its key with other bytes is not proof of anything', async () => {
    const task = fixture.task()
    const first = await zencreator.submit(task, call)
    expect(await zencreator.submit(task, call)).toEqual(first)
    expect(upstream.counts.accepted).toBe(1)
    const other = zencreator.submit({ ...task, input: { ...task.input, ratio: '16:9' } }, call)
    await expect(other).rejects.toMatchObject({ fault: 'unclear', mayHaveStarted: true })
  })

  test('is not sent again when its key may be forgotten', async () => {
    const late = submit({ submittedAt: new Date(Date.now() - 23.5 * 3_600_000) })
    await expect(late).rejects.toMatchObject({ fault: 'unclear', mayHaveStarted: true })
    expect(upstream.requests).toHaveLength(0)
  })

  test('over the ten a minute is told when to come back', async () => {
    for (let i = 0; i < 10; i++) await submit()
    const error = await submit().catch(error => error)
    expect(error).toMatchObject({ fault: 'rate_limited', mayHaveStarted: false })
    expect(error.retryAfterMs).toBeGreaterThan(50_000)
    expect(error.retryAfterMs).toBeLessThanOrEqual(60_000)
    expect(upstream.counts).toMatchObject({ accepted: 10, refused: 1 })
  })

  test('without credits is refused; what failed gives its credits back', async () => {
    upstream.credits = 3
    upstream.tasks.next({ state: 'failed' })
    await submit()
    await submit()
    expect(await zencreator.balance?.(call)).toEqual({ amount: 1, unit: 'credits' })
    await expect(submit()).rejects.toMatchObject({ fault: 'account_funds', mayHaveStarted: false })
  })
})

describe('a poll', () => {
  test('leaves out the one that could not be asked', async () => {
    const refs = [await submit(), await submit(), '3f0c8f0e-6a44-4f3d-9d0c-000000000000']
    upstream.faults.next('poll', { kind: 'status', status: 500 })
    const states = await poll(...refs)
    expect([...states.values()].map(state => state.state)).toEqual(['succeeded'])
    expect(upstream.calls('poll')).toHaveLength(3)
  })

  test('of a generation they do not know decides nothing', async () => {
    await expect(poll('3f0c8f0e-6a44-4f3d-9d0c-000000000000')).rejects.toMatchObject({ fault: 'mapping' })
  })

  test('stops at the limit and keeps what was answered', async () => {
    upstream.limits.read = { max: 2 }
    const refs = await Promise.all(Array.from({ length: 10 }, () => submit()))
    const others = Array.from({ length: 90 }, (_, i) => `none-${i}`)
    const states = await poll(...refs, ...others)
    expect(states.size).toBe(2)
    expect(upstream.calls('poll').length).toBeLessThan(100)
  })
})

describe('a file', () => {
  test('becomes an asset with exactly its bytes, for as long as the settings say', async () => {
    const placed = await zencreator.placeMedia?.(
      fixture.media,
      callOf({ ...account, settings: { asset_ttl_hours: 2 } }),
    )
    expect(placed?.ttlMs).toBe(2 * 3_600_000)
    const { size, sha256 } = fixture.media
    expect(upstream.assets.get(placed?.handle ?? '')).toEqual({ mediaType: 'image/png', size, sha256 })
    expect((await zencreator.placeMedia?.(fixture.media, call))?.ttlMs).toBe(24 * 3_600_000)
  })

  test.each([
    ['a gif', { mimeType: 'image/gif' }],
    ['a webm', { mimeType: 'video/webm' }],
    ['more than 50 MB', { size: 50 * 1024 * 1024 + 1 }],
  ])('that is %s is not sent', async (_what, wrong) => {
    const open = () => Promise.reject(new Error('opened'))
    await expect(place({ ...fixture.media, ...wrong, open })).rejects.toMatchObject({ fault: 'mapping' })
    expect(upstream.requests).toHaveLength(0)
  })

  test('of 50 MB streams through', async () => {
    const chunk = Buffer.alloc(1024 * 1024, 1)
    const open = async () => Readable.from(Array.from({ length: 50 }, () => chunk))
    const handle = await place({
      ...fixture.media,
      mimeType: 'video/mp4',
      extension: 'mp4',
      size: 50 * chunk.length,
      open,
    })
    expect(upstream.assets.get(handle)?.size).toBe(50 * chunk.length)
  })

  test('that went too early is asked for again', async () => {
    const image = await place(fixture.media)
    upstream.assets.delete(image)
    const input = { model: 'SEEDREAM_5', prompt: 'brighter', image_assets: [image] }
    await expect(submit({ model: 'image_editor', input })).rejects.toMatchObject({ fault: 'media_unreachable' })
  })
})

test('settings have defaults and refuse what nobody reads', () => {
  expect(zencreator.settings.parse(undefined)).toEqual({ asset_ttl_hours: 24 })
  expect(zencreator.settings.safeParse({ asset_ttl: 1 }).success).toBe(false)
  expect(zencreator.settings.safeParse({ asset_ttl_hours: 0 }).success).toBe(false)
})
