import { createHash } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { progressiverobot } from '../../src/providers/progressiverobot.ts'
import type { Account, Call, Finished, Media, Pending, Ref, Task } from '../../src/providers/provider.ts'
import type { ProgressiverobotSimulator } from '../simulators/progressiverobot.ts'
import { bytesOf, callOf, failure } from './conformance.ts'
import fixture from './fixtures/progressiverobot.ts'

let upstream: ProgressiverobotSimulator
let account: Account
let call: Call

beforeEach(async () => {
  const running = await fixture.start()
  upstream = running.simulator
  account = running.account
  call = callOf(account)
})
afterEach(() => upstream.stop())

const flux = (input: Record<string, unknown> = {}) => ({ model: 'flux', input: { prompt: 'a lighthouse', ...input } })
const set = (settings: object) => {
  account = { ...account, settings: { ...(account.settings as object), ...settings } }
  call = callOf(account)
}

async function accepted(overrides?: Partial<Task>): Promise<{ ref: Ref; cost?: bigint | undefined }> {
  const answer = await progressiverobot.submit(fixture.task(overrides), call)
  if (answer.state !== 'accepted') throw new Error(`not accepted: ${answer.state}`)
  return answer
}

async function poll(...refs: Ref[]): Promise<Map<Ref, Pending | Finished>> {
  return (await progressiverobot.poll?.(refs, call)) ?? new Map()
}

async function lost(overrides?: Partial<Task>): Promise<Task> {
  const task = fixture.task(overrides)
  upstream.faults.next('submit', { kind: 'acceptThenReset' })
  await failure(progressiverobot.submit(task, call), account)
  return task
}

describe('a video', () => {
  test('is made with our seed and the model of its route', async () => {
    const task = fixture.task()
    await progressiverobot.submit(task, call)
    expect(upstream.calls('submit')[0]).toMatchObject({
      path: '/api/generate',
      json: { ...task.input, model: 'wan-t2v', seed: task.nonce },
    })
  })

  test('costs the credits that were used, to the micro-dollar', async () => {
    // 10 + 81 × 0.2 + 4 × 0.5 = 28.2 → 29 credits
    expect(await accepted()).toMatchObject({ cost: 377_000n })
    set({ usd_per_credit: '0.0127' })
    expect(await accepted()).toMatchObject({ cost: 368_300n })
  })

  test('whose credits are not told has no cost of its own', async () => {
    upstream.faults.next('submit', { kind: 'alter', alter: body => ({ job_id: body.job_id }) })
    expect((await accepted()).cost).toBeUndefined()
  })

  test('alone is asked for by its id', async () => {
    const { ref } = await accepted()
    expect((await poll(ref)).get(ref)).toMatchObject({ state: 'succeeded' })
    expect([upstream.calls('poll').length, upstream.calls('list').length]).toEqual([1, 0])
  })

  test('among many is read from one list', async () => {
    upstream.limits.all = { max: 100 }
    upstream.tasks.next({ state: 'stuck' })
    upstream.tasks.next({ state: 'cancelled' })
    const refs = [(await accepted()).ref, (await accepted()).ref, (await accepted()).ref, (await accepted()).ref]
    const states = await poll(...refs)
    expect(refs.map(ref => states.get(ref)?.state)).toEqual(['pending', 'cancelled', 'succeeded', 'succeeded'])
    expect([upstream.calls('poll').length, upstream.calls('list').length]).toEqual([0, 1])
  })

  test('that failed is asked for its reason, which no list tells', async () => {
    upstream.tasks.next({ state: 'moderated' })
    const refs = [(await accepted()).ref, (await accepted()).ref] as const
    expect((await poll(...refs)).get(refs[0])).toMatchObject({ state: 'failed', fault: 'content_rejected' })
    expect(upstream.calls('poll')).toHaveLength(1)
  })

  test('that is not listed is asked for, a few at a time', async () => {
    upstream.limits.all = { max: 100 }
    upstream.listsUnfinished = false
    upstream.tasks.plan = { outcome: { state: 'stuck' } }
    const refs: Ref[] = []
    for (let i = 0; i < 8; i++) refs.push((await accepted()).ref)
    const states = await poll(...refs)
    expect(states.size).toBe(upstream.calls('poll').length)
    expect(states.size).toBeGreaterThan(0)
    expect(states.size).toBeLessThan(8)
    expect([...states.values()]).toEqual([...states].map(() => ({ state: 'pending' })))
  })

  test('cannot be read without the key, nor anything else with it', async () => {
    const { ref } = await accepted()
    const end = (await poll(ref)).get(ref)
    if (end?.state !== 'succeeded') throw new Error(`not done: ${end?.state}`)
    const [output = { url: '' }] = end.outputs
    expect((await fetch(output.url)).status).toBe(401)
    const bytes = await bytesOf(progressiverobot, output, call)
    expect(createHash('sha256').update(bytes).digest('hex')).toBe(upstream.tasks.all()[0]?.outputs()[0]?.sha256)
    const sent = upstream.requests.length
    for (const url of [
      'https://elsewhere.example/api/video/a.mp4',
      `${account.baseUrl}.elsewhere.example/api/video/a.mp4`,
      `${account.baseUrl}/api/video/../credits`,
      `${account.baseUrl}/api/video/..`,
      `${account.baseUrl}/api/video/%2e%2e/credits`,
      `${account.baseUrl}/api/video/%2E%2E`,
      `${account.baseUrl}/api/video/a.mp4?token=1`,
      `${account.baseUrl}/api/keys`,
    ]) {
      expect((await failure(bytesOf(progressiverobot, { url }, call), account)).fault).toBe('task_failed')
    }
    expect(upstream.requests).toHaveLength(sent)
  })

  test.each(['../keys', '..', 'a/b.mp4', 'a\\b.mp4', '.env'])('with the file name %s fails', async filename => {
    const { ref } = await accepted()
    upstream.faults.next('poll', { kind: 'alter', alter: body => ({ ...body, filename }) })
    expect((await poll(ref)).get(ref)).toMatchObject({ state: 'failed', fault: 'task_failed' })
  })

  test('with an odd file name keeps it', async () => {
    const { ref } = await accepted()
    const filename = 'web gen #1?%2F.mp4'
    upstream.faults.next('poll', { kind: 'alter', alter: body => ({ ...body, filename }) })
    const url = `${account.baseUrl}/api/video/web%20gen%20%231%3F%252F.mp4`
    expect((await poll(ref)).get(ref)).toEqual({ state: 'succeeded', outputs: [{ url }] })
  })
})

describe('images', () => {
  test('of one submit are one task with all its jobs', async () => {
    const { ref, cost } = await accepted(flux({ num_images: 2 }))
    expect(cost).toBe(130_000n)
    expect(upstream.calls('submit')[0]?.path).toBe('/api/generate-image')
    const end = (await poll(ref)).get(ref)
    if (end?.state !== 'succeeded') throw new Error(`not done: ${end?.state}`)
    const bytes = await Promise.all(end.outputs.map(output => bytesOf(progressiverobot, output, call)))
    expect(bytes.map(bytes => createHash('sha256').update(bytes).digest('hex'))).toEqual(
      upstream.tasks.all().map(task => task.outputs()[0]?.sha256),
    )
  })

  test.each([
    [['succeeded', 'stuck'], { state: 'pending' }],
    [['failed', 'stuck'], { state: 'pending' }],
    [['failed', 'succeeded'], { state: 'succeeded', outputs: [{}] }],
    [['cancelled', 'moderated'], { state: 'failed', fault: 'content_rejected' }],
    [['cancelled', 'cancelled'], { state: 'cancelled' }],
  ] as const)('whose jobs are %j are %j', async (outcomes, expected) => {
    for (const state of outcomes) upstream.tasks.next({ state })
    const { ref } = await accepted(flux({ num_images: 2 }))
    expect((await poll(ref)).get(ref)).toMatchObject(expected)
  })

  test('are polled with one list where that list is known', async () => {
    upstream.imageListAlike = true
    set({ image_list: true })
    const refs = [(await accepted(flux())).ref, (await accepted(flux())).ref]
    expect([...(await poll(...refs)).values()].map(({ state }) => state)).toEqual(['succeeded', 'succeeded'])
    expect([upstream.calls('poll').length, upstream.calls('list').length]).toEqual([0, 1])
  })
})

describe('a spent minute', () => {
  test('of ten requests refuses the eleventh, whatever it is', async () => {
    const refs: Ref[] = []
    for (let i = 0; i < 9; i++) refs.push((await accepted()).ref)
    await poll(refs[0] as Ref)
    expect(await failure(poll(refs[1] as Ref), account)).toMatchObject({ fault: 'rate_limited' })
    expect(await failure(Promise.resolve(progressiverobot.balance?.(call)), account)).toMatchObject({
      fault: 'rate_limited',
    })
    expect(upstream.counts.refused).toBe(2)
  })

  test('leaves out of a poll what could not be asked', async () => {
    const refs = [(await accepted(flux())).ref, (await accepted(flux())).ref, (await accepted(flux())).ref]
    upstream.limits.all = { max: 5 }
    expect((await poll(...refs)).size).toBe(2)
  })
})

describe('an unclear submit', () => {
  test('is found by its seed, not by its prompt', async () => {
    await accepted()
    const task = await lost()
    await accepted()
    const found = await progressiverobot.reconcile?.(task, call)
    expect(found).toEqual({ state: 'accepted', ref: `v:${upstream.tasks.all()[1]?.id}` })
  })

  test('is not taken for a task of another day with the same seed', async () => {
    const task = await lost()
    const later = { ...task, submittedAt: new Date(Date.now() + 2 * 86_400_000) }
    expect(await progressiverobot.reconcile?.(later, call)).toBe('absent')
  })

  test('stays unknown where the list is full and not newest first', async () => {
    const generations = Array.from({ length: 200 }, (_, i) => ({
      job_id: `old${i}`,
      seed: null,
      status: 'completed',
      created_at: `2026-03-30 12:${String(Math.floor(i / 60)).padStart(2, '0')}:${String(i % 60).padStart(2, '0')}`,
    }))
    upstream.faults.next('list', { kind: 'alter', alter: () => ({ generations, total: 5000 }) })
    expect(await progressiverobot.reconcile?.(fixture.task(), call)).toBe('unknown')
    upstream.faults.next('list', { kind: 'alter', alter: () => ({ generations: generations.reverse(), total: 5000 }) })
    expect(await progressiverobot.reconcile?.(fixture.task(), call)).toBe('absent')
  })

  test('that no list shows while it runs is absent only after the deadline', async () => {
    upstream.listsUnfinished = false
    set({ lists_unfinished: false })
    const task = await lost()
    upstream.tasks.finish(upstream.tasks.all()[0]?.id as string, { state: 'stuck' })
    expect(await progressiverobot.reconcile?.(task, call)).toBe('unknown')
    const old = { ...task, submittedAt: new Date(Date.now() - 901_000) }
    expect(await progressiverobot.reconcile?.(old, call)).toBe('absent')
  })

  test('of images is found only where their list is readable, and never absent unless it is known', async () => {
    const task = await lost(flux({ num_images: 2 }))
    expect(await progressiverobot.reconcile?.(task, call)).toBe('unknown')
    upstream.imageListAlike = true
    const found = await progressiverobot.reconcile?.(task, call)
    expect(found).toMatchObject({ state: 'accepted', ref: expect.stringMatching(/^i:img_\w+,img_\w+$/) })
    expect(await progressiverobot.reconcile?.(fixture.task(flux()), call)).toBe('unknown')
    set({ image_list: true })
    expect(await progressiverobot.reconcile?.(fixture.task(flux()), call)).toBe('absent')
  })

  test('of images that are not all listed yet stays unknown', async () => {
    upstream.imageListAlike = true
    const task = await lost(flux({ num_images: 2 }))
    upstream.faults.next('list', { kind: 'alter', alter: body => ({ generations: body.generations.slice(1) }) })
    expect(await progressiverobot.reconcile?.(task, call)).toBe('unknown')
  })
})

describe('a cancel', () => {
  test('is seen by the next poll', async () => {
    upstream.tasks.plan = { outcome: { state: 'stuck' } }
    const { ref } = await accepted(flux({ num_images: 2 }))
    expect(await progressiverobot.cancel?.(ref, call)).toBe('requested')
    expect((await poll(ref)).get(ref)).toEqual({ state: 'cancelled' })
  })

  test('of what is over is too late', async () => {
    const { ref } = await accepted()
    expect(await progressiverobot.cancel?.(ref, call)).toBe('too_late')
    expect(await progressiverobot.cancel?.('v:neverheardof', call)).toBe('too_late')
  })
})

describe('what the document leaves open', () => {
  const reason = (model: string, settings: unknown) => progressiverobot.unusable?.(model, { ...account, settings })

  test('keeps its routes off, and says what is missing', () => {
    expect(reason('wan-i2v', {})).toMatch(/settings.upload_field, settings.upload_response_field, settings.image_field/)
    expect(reason('flux-edit', { upload_field: 'image', upload_response_field: 'name' })).toMatch(
      /: settings.image_field$/,
    )
    expect(reason('wan-i2v', account.settings)).toBeUndefined()
    for (const model of ['wan-t2v', 'ltx-t2v', 'flux', 'sd15']) expect(reason(model, {})).toBeUndefined()
    for (const model of ['hunyuan3d', 'wan-flf', 'tools/remove-background', 'dreamidv']) {
      expect(reason(model, account.settings)).toContain(model)
    }
  })

  test('refuses a setting that it does not know, or a price that is none', () => {
    expect(progressiverobot.settings.safeParse({ upload_feild: 'image' }).success).toBe(false)
    expect(progressiverobot.settings.safeParse({ usd_per_credit: 'cheap' }).success).toBe(false)
  })

  test('once set, brings a picture to a video', async () => {
    const image = (await progressiverobot.placeMedia?.(fixture.media, call))?.handle
    await accepted({ model: 'wan-i2v', input: { prompt: 'it moves', image } })
    expect(upstream.calls('submit')[0]?.json).toMatchObject({ image_filename: image })
    expect(upstream.pictures.get(image ?? '')?.sha256).toBe(fixture.media.sha256)
  })

  test.each<Partial<Media>>([{ mimeType: 'image/gif' }, { size: 11 * 1024 * 1024 }])(
    'a file that they would refuse is not sent: %j',
    async wrong => {
      const placed = Promise.resolve(progressiverobot.placeMedia?.({ ...fixture.media, ...wrong }, call))
      expect(await failure(placed, account)).toMatchObject({ fault: 'mapping' })
      expect(upstream.requests).toHaveLength(0)
    },
  )
})

test('more frames than the plan allows need another account', async () => {
  upstream.maxFrames = 41
  expect(await failure(progressiverobot.submit(fixture.task(), call), account)).toMatchObject({ fault: 'account_tier' })
})

test('an empty account is told apart from a wrong request', async () => {
  upstream.credits = 28
  expect(await failure(progressiverobot.submit(fixture.task(), call), account)).toMatchObject({
    fault: 'account_funds',
  })
  expect(await progressiverobot.balance?.(call)).toEqual({ amount: 28, unit: 'credits' })
})

test.each(['credits', 'balance', 'credit_balance'])('the balance is read from %s', async key => {
  upstream.faults.next('balance', { kind: 'alter', alter: () => ({ [key]: 12 }) })
  expect(await progressiverobot.balance?.(call)).toEqual({ amount: 12, unit: 'credits' })
})
