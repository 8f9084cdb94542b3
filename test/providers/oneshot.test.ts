import { createHash } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { oneshot } from '../../src/providers/oneshot.ts'
import type { Account, Call, Finished, Task } from '../../src/providers/provider.ts'
import { makePng } from '../simulators/files.ts'
import type { OneshotSimulator } from '../simulators/oneshot.ts'
import { callOf, failure } from './conformance.ts'
import fixture from './fixtures/oneshot.ts'

let upstream: OneshotSimulator
let account: Account
let call: Call

beforeEach(async () => {
  const running = await fixture.start()
  upstream = running.simulator
  account = running.account
  call = callOf(account)
})
afterEach(() => upstream.stop())

const MINUTE = 60_000
const ago = (ms: number) => new Date(Date.now() - ms)
const reconcile = (task: Task) => Promise.resolve(oneshot.reconcile?.(task, call))

async function succeeded(answer: Promise<unknown>): Promise<Finished & { state: 'succeeded' }> {
  const end = (await answer) as Finished
  if (end.state !== 'succeeded') throw new Error(`not done: ${JSON.stringify(end)}`)
  return end
}

async function hashes(end: Finished & { state: 'succeeded' }): Promise<string[]> {
  const responses = await Promise.all(end.outputs.map(({ url }) => fetch(url)))
  const bodies = await Promise.all(responses.map(response => response.arrayBuffer()))
  return bodies.map(body => createHash('sha256').update(Buffer.from(body)).digest('hex'))
}

async function lost(overrides?: Partial<Task>): Promise<Task> {
  const task = fixture.task(overrides)
  upstream.faults.next('submit', { kind: 'acceptThenReset' })
  await failure(oneshot.submit(task, call), account)
  return task
}

describe('a submit', () => {
  test('answers with the finished picture, after the time it takes', async () => {
    upstream.tasks.next({ state: 'succeeded' }, 150)
    const task = fixture.task()
    const started = Date.now()
    const end = await succeeded(oneshot.submit(task, call))
    expect(Date.now() - started).toBeGreaterThanOrEqual(145)
    expect(end).toMatchObject({ ref: upstream.tasks.all()[0]?.id, outputs: [{ mimeType: 'image/png' }] })
    expect(await hashes(end)).toEqual(
      upstream.tasks
        .all()[0]
        ?.outputs()
        .map(({ sha256 }) => sha256),
    )
    expect(upstream.calls('submit')[0]?.json).toEqual({ ...task.input, model: 'nano-banana' })
  })

  test('of several pictures gives them all', async () => {
    const end = await succeeded(oneshot.submit(fixture.task({ input: { prompt: 'three', num_images: 3 } }), call))
    expect(new Set(await hashes(end)).size).toBe(3)
  })

  test.each(['vidu-q2', 'ltx-2'])('of %s goes to the path that is set', async model => {
    const task = fixture.task({ model, input: { prompt: 'a nebula', duration: 4, resolution: '720p' } })
    const end = await succeeded(oneshot.submit(task, call))
    expect(upstream.calls('submit')[0]).toMatchObject({ path: '/api/v1/videos', json: { model } })
    expect(end).toMatchObject({ ref: upstream.tasks.all()[0]?.id, outputs: [{}] })
  })

  test('of a 3D model sends the URL of the picture, and no model', async () => {
    const { token, sha256 } = upstream.files.put(makePng(5))
    const input = { image_url: `${account.baseUrl}/cdn/${token}`, texture_quality: 'no' }
    const end = await succeeded(oneshot.submit(fixture.task({ model: 'image-to-3d', input }), call))
    expect(upstream.calls('submit')[0]).toMatchObject({ path: '/api/v1/3d', json: input })
    expect(upstream.calls('submit')[0]?.json).not.toHaveProperty('model')
    expect(upstream.fetched).toEqual([sha256])
    expect(end.outputs).toHaveLength(1)
  })

  test('without points left needs another account', async () => {
    upstream.points = 3
    expect(await failure(oneshot.submit(fixture.task(), call), account)).toMatchObject({ fault: 'account_funds' })
  })

  test('over the hour waits for the Unix time of the reset', async () => {
    const reset = Math.ceil(Date.now() / 1000) + 1800
    const headers = { 'x-ratelimit-reset': String(reset) }
    upstream.faults.next('submit', { kind: 'status', status: 429, headers, body: { success: false, error: 'Limit' } })
    const error = await failure(oneshot.submit(fixture.task(), call), account)
    expect(error.fault).toBe('rate_limited')
    expect(error.retryAfterMs).toBeGreaterThan(29 * MINUTE)
    expect(error.retryAfterMs).toBeLessThanOrEqual(30 * MINUTE + 1000)
  })

  test('is the hundred-and-first of the hour: refused by the key, whatever it asks', async () => {
    upstream.limits.all = { max: 2, windowMs: 60 * MINUTE }
    await oneshot.submit(fixture.task(), call)
    await reconcile(fixture.task())
    const error = await failure(oneshot.submit(fixture.task(), call), account)
    expect(error.retryAfterMs).toBeGreaterThan(59 * MINUTE)
    expect(await failure(reconcile(fixture.task()), account)).toMatchObject({ fault: 'rate_limited' })
    expect(upstream.counts).toMatchObject({ accepted: 1, refused: 2 })
  })
})

describe('an unclear submit', () => {
  test('that was broken off is found once it is finished', async () => {
    upstream.tasks.next({ state: 'succeeded' }, 300)
    const task = fixture.task()
    await failure(oneshot.submit(task, callOf(account, 100)), account)
    expect(await reconcile(task)).toBe('unknown')
    await expect.poll(() => reconcile(task)).toMatchObject({ state: 'succeeded', ref: upstream.tasks.all()[0]?.id })
    const end = await succeeded(reconcile(task))
    expect(await hashes(end)).toEqual([upstream.tasks.all()[0]?.outputs()[0]?.sha256])
    expect(upstream.counts.accepted).toBe(1)
  })

  test('is absent only after the longest time it may take', async () => {
    expect(await reconcile(fixture.task({ submittedAt: ago(3.9 * MINUTE) }))).toBe('unknown')
    expect(await reconcile(fixture.task({ submittedAt: ago(4.1 * MINUTE) }))).toBe('absent')
    account = { ...account, settings: { timeout_ms: 10 * MINUTE } }
    call = callOf(account)
    expect(await reconcile(fixture.task({ submittedAt: ago(4.1 * MINUTE) }))).toBe('unknown')
  })

  test('is not taken for what was made before it, nor for another prompt', async () => {
    const task = await lost()
    await lost()
    const later = { ...task, submittedAt: new Date(Date.now() + MINUTE) }
    expect(await reconcile(later)).toBe('unknown')
    expect(await reconcile({ ...task, input: { prompt: `${String(task.input.prompt)}!` } })).toBe('unknown')
    expect(await reconcile(task)).toMatchObject({ ref: upstream.tasks.all()[0]?.id })
  })

  test('stays unknown where two have its prompt, or where one URL cannot be all of it', async () => {
    const task = await lost()
    await lost({ input: task.input })
    expect(await reconcile({ ...task, submittedAt: ago(5 * MINUTE) })).toBe('unknown')
    const several = await lost({ input: { prompt: 'two of them', num_images: 2 } })
    expect(await reconcile({ ...several, submittedAt: ago(5 * MINUTE) })).toBe('unknown')
  })

  test('of a video is looked up among the videos', async () => {
    const input = { prompt: 'the same words' }
    await lost({ input })
    const video = await lost({ model: 'ltx-2', input })
    expect(await reconcile(video)).toMatchObject({ state: 'succeeded', ref: upstream.tasks.all()[1]?.id })
  })

  test('of a 3D model, which has no prompt, stays unknown', async () => {
    const task = fixture.task({
      model: 'image-to-3d',
      input: { image_url: 'https://a.example/b.png' },
      submittedAt: ago(9e6),
    })
    expect(await reconcile(task)).toBe('unknown')
    expect(upstream.requests).toHaveLength(0)
  })

  test('is looked for on two pages; beyond them nothing is proven', async () => {
    upstream.limits.all = { max: 1000 }
    const task = await lost({ submittedAt: ago(5 * MINUTE) })
    for (let i = 0; i < 150; i++) await oneshot.submit(fixture.task(), call)
    expect(await reconcile(task)).toMatchObject({ ref: upstream.tasks.all()[0]?.id })
    expect(upstream.calls('list')).toHaveLength(2)
    for (let i = 0; i < 50; i++) await oneshot.submit(fixture.task(), call)
    expect(await reconcile(task)).toBe('unknown')
    expect(upstream.calls('list')).toHaveLength(4)
  })
})

describe('what the document leaves open', () => {
  const reason = (model: string, settings: unknown) => oneshot.unusable?.(model, { ...account, settings })

  test('keeps videos and 3D off, and says what is missing', () => {
    expect(reason('vidu-q2', {})).toMatch(/settings\.paths\.videos/)
    expect(reason('image-to-3d', { paths: { videos: '/v' } })).toMatch(/settings\.paths\.model3d/)
    expect(reason('nano-banana', {})).toBeUndefined()
    for (const model of ['ltx-2', 'image-to-3d']) expect(reason(model, account.settings)).toBeUndefined()
  })

  test('refuses a path that is none, an unknown one, and less time than a generation needs', () => {
    for (const settings of [{ paths: { videos: 'videos' } }, { paths: { video: '/v' } }, { timeout_ms: 30_000 }]) {
      expect(oneshot.settings.safeParse(settings).success).toBe(false)
    }
  })
})
