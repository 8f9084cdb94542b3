import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import sharp from 'sharp'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { type Call, ProviderError, type Task } from '../../src/providers/provider.ts'
import { providers } from '../../src/providers/registry.ts'
import { sandbox } from '../../src/providers/sandbox.ts'

// The sandbox calls nobody: what it is given to call with is never touched.
const call = {
  account: { provider: 'sandbox', id: 'main', baseUrl: 'https://sandbox.invalid', apiKey: '', settings: {} },
  http: { send: () => Promise.reject(new Error('called')), download: () => Promise.reject(new Error('called')) },
} satisfies Call

function task(input: Record<string, unknown>, model = 'image'): Task {
  const submittedAt = new Date()
  return { attemptId: 'att_1', model, input, idempotencyKey: 'key-1', nonce: 4711, submittedAt }
}

afterEach(() => void vi.useRealTimers())

/** Submits, lets `ms` go by, and asks once. */
async function stateAfter(ms: number, made: Task) {
  vi.useFakeTimers({ toFake: ['Date'], now: made.submittedAt })
  const accepted = await sandbox.submit(made, call)
  if (accepted.state !== 'accepted') throw new Error(`not accepted: ${accepted.state}`)
  vi.setSystemTime(made.submittedAt.getTime() + ms)
  const state = (await sandbox.poll?.([accepted.ref], call))?.get(accepted.ref)
  return { ref: accepted.ref, state }
}

async function fileOf(made: Task): Promise<{ bytes: Buffer; mimeType: string | undefined }> {
  const { state } = await stateAfter(1000, made)
  if (state?.state !== 'succeeded') throw new Error(`no picture: ${state?.state}`)
  const [output] = state.outputs
  if (!output) throw new Error('no output')
  const stream = await sandbox.openOutput?.(output, call)
  if (!stream) throw new Error('no stream')
  return { bytes: await buffer(stream), mimeType: output.mimeType }
}

describe('the sandbox', () => {
  test('is registered', () => {
    expect(providers.get('sandbox')).toBe(sandbox)
  })

  test('has a picture ready for the first poll, not earlier', async () => {
    const { state } = await stateAfter(sandbox.defaults.poll.first_ms, task({ prompt: 'a red bicycle' }))
    expect(state).toMatchObject({ state: 'succeeded', outputs: [{ mimeType: 'image/png' }] })
    expect((await stateAfter(100, task({ prompt: 'a red bicycle' }))).state).toEqual({ state: 'pending' })
  })

  test('gives the same ref for the same task, also when the submit is sent again later', async () => {
    const made = task({ prompt: 'a red bicycle' })
    const first = await sandbox.submit(made, call)
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 5000 })
    expect(await sandbox.submit(made, call)).toEqual(first)
    expect(await sandbox.submit({ ...made, nonce: 4712 }, call)).not.toEqual(first)
  })

  test.each([
    [{ aspect_ratio: '16:9' }, 'png', 'image/png', 1024, 576],
    [{ aspect_ratio: '9:16', format: 'jpg' }, 'jpeg', 'image/jpeg', 576, 1024],
    [{ aspect_ratio: '4:3', format: 'JPEG' }, 'jpeg', 'image/jpeg', 1024, 768],
    [{ format: 'webp' }, 'webp', 'image/webp', 1024, 1024],
    [{ format: 'gif', aspect_ratio: '1:1' }, 'gif', 'image/gif', 1024, 1024],
    [{ format: 'bmp', aspect_ratio: '0:0' }, 'png', 'image/png', 1024, 1024],
    [{ aspect_ratio: '1:1000' }, 'png', 'image/png', 256, 1024],
    [{ aspect_ratio: 7, format: null }, 'png', 'image/png', 1024, 1024],
  ])('draws %j', async (input, format, mimeType, width, height) => {
    const file = await fileOf(task({ prompt: 'a red bicycle', ...input }))
    const read = await sharp(file.bytes).metadata()
    expect({ ...file, bytes: undefined }).toEqual({ mimeType, bytes: undefined })
    expect(read).toMatchObject({ format, width, height })
  })

  test.each([['webp'], ['gif']])('makes a moving %s for a video model', async format => {
    const file = await fileOf(task({ prompt: 'waves', aspect_ratio: '16:9', format }, 'video'))
    const read = await sharp(file.bytes, { animated: true }).metadata()
    expect(read).toMatchObject({ format, width: 480, pageHeight: 270, pages: 8 })
    expect(file.bytes.length).toBeLessThan(500_000)
    expect((await fileOf(task({ prompt: 'waves', format: 'png' }, 'video'))).mimeType).toBe('image/webp')
  })

  test('draws the words of the prompt: other words, another picture', async () => {
    const draw = async (prompt: string) => (await fileOf(task({ prompt }))).bytes
    expect((await draw('a cat')).equals(await draw('a cat'))).toBe(true)
    expect((await draw('a cat')).equals(await draw('a dog'))).toBe(false)
  })

  test('notes how many images came with the order, and needs no prompt', async () => {
    const plain = await fileOf(task({}, 'upscale'))
    const withMedia = await fileOf(task({ images: ['https://a.example/1', 'https://a.example/2'] }, 'upscale'))
    expect((await sharp(plain.bytes).metadata()).format).toBe('png')
    expect(plain.bytes.equals(withMedia.bytes)).toBe(false)
  })

  test.each([
    ['</text></svg><script>alert(1)</script>'],
    ['&lt; &#0; ]]> <!ENTITY x SYSTEM "file:///etc/passwd"> &x;'],
    ['\u0000\u0001\u000b\ufffe\uffff \ud800 lone'],
    ['日本語のプロンプト 🚲🏳️‍🌈 عربى'],
    ['x'.repeat(20_000)],
    ['word '.repeat(4_000)],
    ['   \n\t  '],
  ])('draws %j as letters', async prompt => {
    const file = await fileOf(task({ prompt, aspect_ratio: '1:1' }))
    expect(await sharp(file.bytes).metadata()).toMatchObject({ format: 'png', width: 1024, height: 1024 })
  })

  test('draws on a machine that has no fonts', () => {
    const folder = mkdtempSync(join(tmpdir(), 'genmux-fonts-'))
    try {
      const config = join(folder, 'fonts.conf')
      writeFileSync(config, '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig/>')
      const module = new URL('../../src/providers/sandbox-picture.ts', import.meta.url).href
      const picture = { text: 'hello', caption: 'image', seed: 5, ratio: 1, format: 'png', moving: false }
      const script = `import { drawPicture } from ${JSON.stringify(module)}
        process.stdout.write(await drawPicture(${JSON.stringify(picture)}))`
      const env = { ...process.env, FONTCONFIG_FILE: config }
      const bytes = execFileSync(process.execPath, ['--input-type=module', '-e', script], { env, maxBuffer: 1 << 24 })
      expect(bytes.subarray(1, 4).toString()).toBe('PNG')
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  test('sandbox:fail fails, sandbox:reject is refused by moderation', async () => {
    const failed = await stateAfter(1000, task({ prompt: 'a cat sandbox:fail' }))
    expect(failed.state).toMatchObject({ state: 'failed', fault: 'task_failed' })
    const rejected = await stateAfter(1000, task({ prompt: 'a cat sandbox:reject' }))
    expect(rejected.state).toMatchObject({ state: 'failed', fault: 'content_rejected' })
  })

  test.each([
    ['sandbox:busy', 'rate_limited'],
    ['sandbox:down', 'unavailable'],
  ])('%s refuses the submit, and nothing has started', async (word, fault) => {
    const refused = { ...task({ prompt: `a cat ${word}` }), nonce: 1 }
    const refusal = await sandbox.submit(refused, call).catch((error: unknown) => error)
    expect(refusal).toBeInstanceOf(ProviderError)
    expect(refusal).toMatchObject({ fault, mayHaveStarted: false })
  })

  test('sandbox:slow takes 30 s and can be cancelled until then', async () => {
    const slow = task({ prompt: 'a cat sandbox:slow' })
    const { ref, state } = await stateAfter(29_000, slow)
    expect(state).toEqual({ state: 'pending' })
    expect(await sandbox.cancel?.(ref, call)).toBe('confirmed')
    const over = await stateAfter(30_000, slow)
    expect(over.state?.state).toBe('succeeded')
    expect(await sandbox.cancel?.(ref, call)).toBe('too_late')
  })

  test('answers for a ref or an output that is not its own without falling over', async () => {
    const refs = ['', 'nonsense', Buffer.from('{"done":1}').toString('base64url')]
    const states = await sandbox.poll?.(refs, call)
    expect([...(states?.values() ?? [])].map(state => state.state)).toEqual(['failed', 'failed', 'failed'])
    await expect(sandbox.openOutput?.({ url: 'https://example.com/a.png' }, call)).rejects.toThrow(ProviderError)
    await expect(sandbox.openOutput?.({ url: 'sandbox:nonsense' }, call)).rejects.toThrow(ProviderError)
  })
})
