import { createHash } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { apixo } from '../../src/providers/apixo.ts'
import type { Account, Call, Finished, Pending, Task } from '../../src/providers/provider.ts'
import type { ApixoSimulator } from '../simulators/apixo.ts'
import { makePng } from '../simulators/files.ts'
import type { Json } from '../simulators/spec.ts'
import { callOf } from './conformance.ts'
import fixture from './fixtures/apixo.ts'

let upstream: ApixoSimulator
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
  const accepted = await apixo.submit(fixture.task(overrides), call)
  if (accepted.state !== 'accepted') throw new Error(`not accepted: ${accepted.state}`)
  return accepted.ref
}

async function stateOf(ref: string): Promise<Pending | Finished | undefined> {
  return (await apixo.poll?.([ref], call))?.get(ref)
}

/** Polls until the task is over. */
async function outcomeOf(ref: string): Promise<Pending | Finished | undefined> {
  return vi.waitFor(async () => {
    const state = await stateOf(ref)
    if (state?.state === 'pending') throw new Error('still pending')
    return state
  })
}

const withData = (data: Json) => ({
  kind: 'alter' as const,
  alter: (body: Json) => ({ ...body, data: { ...body.data, ...data } }),
})

/** Someone of ours whom they may call: answers in turn with `statuses`, then 200. */
async function receiver(...statuses: number[]) {
  const bodies: Json[] = []
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', chunk => chunks.push(chunk))
    request.on('end', () => {
      bodies.push(request.method === 'POST' ? JSON.parse(Buffer.concat(chunks).toString()) : undefined)
      response.writeHead(statuses.shift() ?? 200).end(request.method === 'GET' ? picture : '')
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/callbacks/token`
  const close = () => {
    server.closeAllConnections()
    server.close()
  }
  return { url, bodies, [Symbol.dispose]: close }
}

let picture = makePng(3)
afterEach(() => void (picture = makePng(3)))
const withImages = (...urls: string[]) => ({ input: { mode: 'image-to-image', prompt: 'merge', image_urls: urls } })

describe('a task', () => {
  test('is asked about under its model, and its files are what was made', async () => {
    upstream.tasks.next({ state: 'succeeded', outputs: 2 })
    const ref = await submit()
    const state = await stateOf(ref)
    if (state?.state !== 'succeeded') throw new Error(`not done: ${state?.state}`)
    const task = upstream.tasks.all()[0]
    expect(ref).toBe(`nano-banana-pro/${task?.id}`)
    expect(upstream.calls('poll')[0]?.path).toBe('/api/v1/statusTask/nano-banana-pro')
    for (const [i, { url }] of state.outputs.entries()) {
      const bytes = Buffer.from(await (await fetch(url)).arrayBuffer())
      expect(createHash('sha256').update(bytes).digest('hex')).toBe(task?.outputs()[i]?.sha256)
    }
    expect(state.outputs).toHaveLength(2)
    expect(state.cost).toBeUndefined()
  })

  test('of a model whose name has a slash is found again', async () => {
    upstream.faults.next('submit', { kind: 'status', status: 200, body: { code: 200, data: { taskId: 't/1' } } })
    const ref = await submit({ model: 'bytedance/seedream?x' })
    await expect(stateOf(ref)).rejects.toMatchObject({ fault: 'mapping' })
    const [posted, asked] = upstream.requests
    expect(posted?.path).toBe('/api/v1/generateTask/bytedance%2Fseedream%3Fx')
    expect(asked?.path).toBe('/api/v1/statusTask/bytedance%2Fseedream%3Fx')
  })

  test.each([
    ['no JSON', '{"resultUrls":['],
    ['nothing', null],
    ['no URLs', '{"resultUrls":[]}'],
    ['other JSON', '"https://r2.example/a.png"'],
  ])('that succeeded with %s failed: more waiting would bring nothing', async (_what, resultJson) => {
    upstream.faults.next('poll', withData({ resultJson }))
    expect(await stateOf(await submit())).toMatchObject({ state: 'failed', fault: 'task_failed' })
  })

  test.each([
    ['CONTENT_VIOLATION', 'content_rejected'],
    ['NSFW_DETECTED', 'content_rejected'],
    ['INVALID_IMAGE_URL', 'media_unreachable'],
    ['IMAGE_DOWNLOAD_FAILED', 'media_unreachable'],
    ['PROMPT_TOO_LONG', 'mapping'],
    ['UNSUPPORTED_FORMAT', 'mapping'],
    ['INSUFFICIENT_CREDITS', 'account_funds'],
    ['PROCESSING_TIMEOUT', 'task_failed'],
    ['constructor', 'task_failed'],
  ])('that failed with %s is %s', async (code, fault) => {
    upstream.tasks.next({ state: 'failed', code, message: 'why' })
    expect(await stateOf(await submit())).toEqual({ state: 'failed', fault, message: `${code}: why` })
  })

  test.each([['pending'], ['processing'], ['archiving'], ['']])('in state %j is not over', async word => {
    upstream.tasks.next({ state: 'unknown', word })
    expect(await stateOf(await submit())).toEqual({ state: 'pending' })
  })

  test('they do not know decides nothing', async () => {
    await expect(stateOf('nano-banana-pro/task_none')).rejects.toMatchObject({ fault: 'mapping' })
  })
})

describe.each([['same'], ['ok']] as const)('a refusal whose HTTP status is %s', errorStatus => {
  beforeEach(() => void (upstream.errorStatus = errorStatus))

  test('is read from the code', async () => {
    const wrong = { input: { mode: 'text-to-image', prompt: 'a', aspect_ratio: '7:1' } }
    await expect(submit(wrong)).rejects.toMatchObject({ fault: 'mapping', mayHaveStarted: false })
    await expect(submit({ model: 'nobody' })).rejects.toMatchObject({ fault: 'mapping' })
    await expect(apixo.submit(fixture.task(), callOf({ ...account, apiKey: 'no' }))).rejects.toMatchObject({
      fault: 'account_auth',
    })
    upstream.balance = 0
    await expect(submit()).rejects.toMatchObject({ fault: 'account_funds', mayHaveStarted: false })
  })

  test('tells tasks at once from requests a minute', async () => {
    upstream.concurrent = 1
    upstream.tasks.plan = { outcome: { state: 'stuck' } }
    await submit()
    await expect(submit()).rejects.toMatchObject({ fault: 'account_saturated', mayHaveStarted: false })
    upstream.limits.all = { max: 2 }
    await expect(submit()).rejects.toMatchObject({ fault: 'rate_limited', mayHaveStarted: false })
    expect(upstream.counts).toMatchObject({ accepted: 1, refused: 1 })
  })

  test('is no balance', async () => {
    expect(await apixo.balance?.(call)).toEqual({ amount: 74.87, unit: 'USD' })
    await expect(apixo.balance?.(callOf({ ...account, apiKey: 'no' }))).rejects.toMatchObject({ fault: 'account_auth' })
  })
})

describe('reference images', () => {
  test('are fetched from our URLs', async () => {
    using ours = await receiver()
    expect(await outcomeOf(await submit(withImages(ours.url)))).toMatchObject({ state: 'succeeded' })
    const sha256 = createHash('sha256').update(picture).digest('hex')
    expect(upstream.downloads).toEqual([{ url: ours.url, size: picture.length, sha256 }])
  })

  test('that cannot be fetched, or are no pictures, fail the task', async () => {
    using ours = await receiver(404)
    const gone = await outcomeOf(await submit(withImages(ours.url)))
    expect(gone).toMatchObject({ state: 'failed', fault: 'media_unreachable' })
    picture = Buffer.from('GIF89a')
    expect(await outcomeOf(await submit(withImages(ours.url)))).toMatchObject({ state: 'failed', fault: 'mapping' })
    picture = Buffer.concat([makePng(1), Buffer.alloc(10 * 1024 * 1024)])
    expect(await outcomeOf(await submit(withImages(ours.url)))).toMatchObject({ state: 'failed', fault: 'mapping' })
  })
})

describe('a callback', () => {
  test('is asked for only with a URL to call', async () => {
    using ours = await receiver()
    await submit()
    await submit({ callbackUrl: ours.url })
    const [without, withUrl] = upstream.calls('submit').map(request => request.json)
    expect(without).toMatchObject({ request_type: 'async', provider: 'auto' })
    expect(without).not.toHaveProperty('callback_url')
    expect(withUrl).toMatchObject({ request_type: 'callback', callback_url: ours.url })
  })

  test('names its task, as often as it comes', async () => {
    using ours = await receiver()
    upstream.callbacks.copies = 2
    const ref = await submit({ callbackUrl: ours.url })
    await vi.waitFor(() => expect(ours.bodies).toHaveLength(2))
    expect(ours.bodies.map(body => apixo.readCallback?.(body, 'nano-banana-pro'))).toEqual([ref, ref])
  })

  test('is repeated until it is answered with 200', async () => {
    using ours = await receiver(500, 503)
    await submit({ callbackUrl: ours.url })
    await vi.waitFor(() => expect(upstream.callbacks.sent.map(sent => sent.status)).toEqual([500, 503, 200]))
  })

  test('that is forged names a task, and its state is still what the upstream says', async () => {
    using ours = await receiver()
    upstream.tasks.next({ state: 'stuck' })
    const ref = await submit({ callbackUrl: ours.url })
    const taskId = ref.split('/')[1] ?? ''
    const resultJson = '{"resultUrls":["https://evil.example/a.png"]}'
    await upstream.callbacks.send(taskId, { code: 200, data: { taskId, state: 'success', resultJson } })
    expect(apixo.readCallback?.(ours.bodies[0], 'nano-banana-pro')).toBe(ref)
    expect(await stateOf(ref)).toEqual({ state: 'pending' })
  })

  test.each([
    [undefined],
    [null],
    ['x'],
    [{}],
    [{ data: null }],
    [{ data: { taskId: 7 } }],
    [{ data: { taskId: '' } }],
  ])('of %j names nothing', body => expect(apixo.readCallback?.(body, 'nano-banana-pro')).toBeUndefined())
})

test('the settings choose how they route', async () => {
  await apixo.submit(fixture.task(), callOf({ ...account, settings: { provider: 'official' } }))
  expect(upstream.calls('submit')[0]?.json.provider).toBe('official')
  expect(apixo.settings.parse(undefined)).toEqual({ provider: 'auto' })
  expect(apixo.settings.safeParse({ provider: 'cheap' }).success).toBe(false)
})
