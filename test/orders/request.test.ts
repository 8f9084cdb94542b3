import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { loadCatalog } from '../../src/catalog/catalog.ts'
import { ApiError } from '../../src/errors.ts'
import { type FoundUpload, orderBody, parseOrderRequest } from '../../src/orders/request.ts'
import { adapters, catalogFile } from '../catalog/files.ts'

const ROUTES = `[{ provider: up, model: m, input: '{"prompt": prompt}', cost_usd: "0" }]`
const catalog = await loadCatalog(
  catalogFile(`
providers:
  - { id: up, kind: plain, base_url: "https://up.example", accounts: [{ id: main, api_key: k }] }
  - { id: down, kind: plain, base_url: "https://down.example", accounts: [{ id: main, api_key: "\${NONE}" }] }
models:
  - id: 1
    name: Everything
    type: image
    price_usd: "0.05"
    price: 'options.size = "big" ? "0.30" : $count(media.image) > 1 ? "0.10" : "0.05"'
    prompt: { mode: required, max_length: 10 }
    media: { max_count: 3, accepted: [jpg, png, mp4], inputs: [{ key: image, max: 3, accepted: [jpg, png] }, { key: clip, max: 1, accepted: [mp4] }] }
    options_schema:
      - { key: size, type: select, label: Size, default: small, options: [{ value: small, label: s }, { value: big, label: b }] }
      - { key: steps, type: number, label: Steps, min: 1, max: 50, step: 0.5 }
      - { key: note, type: text, label: Note, max: 5 }
      - { key: essay, type: text, label: Essay }
      - { key: audio, type: boolean, label: Audio, default: false }
    routes: ${ROUTES}
  - { id: 2, name: Tool, type: upscale, price_usd: "0.01", prompt: { mode: ignored }, media: { max_count: 2, accepted: [png], inputs: [{ key: image, required: true, min: 2, max: 2 }] }, routes: ${ROUTES} }
  - { id: 3, name: Text, type: image, price_usd: "0.01", prompt: { mode: optional }, options_schema: [{ key: style, type: text, label: Style, required: true }], routes: ${ROUTES} }
  - { id: 4, name: Off, type: image, price_usd: "0.01", routes: [{ provider: down, model: m, input: '{}', cost_usd: "0" }] }
  - { id: 5, name: Either, type: video, price_usd: "0.01", prompt: { mode: optional }, media: { required: true, max_count: 3, accepted: [png], inputs: [{ key: first, max: 2 }, { key: pair, required: false, min: 2, max: 2 }] }, routes: ${ROUTES} }
`),
  { env: {}, sandbox: undefined, publicUrlIsSet: false, adapters },
)

const id = (n: number) => `0196f7a0-0000-7000-8000-${String(n).padStart(12, '0')}`
const tmp = (n: number) => `tmp/${id(n)}`
const upload = (n: number, extension = 'png', status: FoundUpload['status'] = 'ready'): FoundUpload => ({
  upload: id(n),
  mime_type: 'image/png',
  extension,
  size: 100 + n,
  width: 10,
  height: 20,
  status,
})
const UPLOADS = new Map(
  [
    upload(1),
    upload(2, 'jpg'),
    upload(3, 'jpeg'),
    upload(4, 'mp4'),
    upload(5, 'png', 'processing'),
    upload(6, 'png', 'failed'),
    upload(7, 'png', 'expired'),
    upload(8),
    upload(9),
  ].map(found => [found.upload, found]),
)

let lookups: string[][] = []
function parse(body: unknown) {
  lookups = []
  return parseOrderRequest(body, catalog, async ids => {
    lookups.push(ids)
    return new Map(ids.flatMap(wanted => (UPLOADS.has(wanted) ? [[wanted, UPLOADS.get(wanted) as FoundUpload]] : [])))
  })
}

/** What a body is refused with, as `code: message`. */
async function refusal(body: unknown): Promise<string> {
  try {
    await parse(body)
  } catch (error) {
    if (error instanceof ApiError) return `${error.code}: ${error.message}`
    throw error
  }
  return 'accepted'
}

const one = (more: object = {}) => ({ model_id: 1, prompt: 'a cat', ...more })
const options = (values: object) => one({ options: values })
const media = (lists: object) => one({ media: lists })

describe('an order request', () => {
  it('needs no more than a model and what the model needs; options get their defaults', async () => {
    const order = await parse(one())
    expect(order).toEqual({
      model: catalog.models.get(1),
      input: { prompt: 'a cat', media: {}, options: { size: 'small', audio: false } },
      cost: 50_000n,
      uploads: [],
    })
    expect(lookups).toEqual([])
  })

  it('may use everything', async () => {
    const order = await parse(
      one({
        media: { image: [tmp(1), tmp(2)], clip: [tmp(4)] },
        options: { size: 'big', steps: 2.5, note: 'héllo', audio: true },
        routing: 'value',
        callback_url: 'https://example.com/hook?a=1',
      }),
    )
    const { status: _, ...first } = upload(1)
    expect(order.input.options).toEqual({ size: 'big', steps: 2.5, note: 'héllo', audio: true })
    expect(order.input.media.image?.[0]).toEqual(first)
    expect(Object.keys(order.input.media)).toEqual(['image', 'clip'])
    expect(order).toMatchObject({
      cost: 300_000n,
      routing: 'value',
      callbackUrl: 'https://example.com/hook?a=1',
      uploads: [id(1), id(2), id(4)],
    })
    expect(lookups).toEqual([[id(1), id(2), id(4)]])
  })

  it('takes null for absent', async () => {
    const order = await parse({
      model_id: 3,
      prompt: null,
      media: null,
      options: { style: 'ink' },
      routing: null,
      callback_url: null,
    })
    expect(order.input).toEqual({ media: {}, options: { style: 'ink' } })
    expect((await parse(options({ size: null, steps: null, note: null }))).input.options).toEqual({
      size: 'small',
      audio: false,
    })
    expect((await parse(media({ image: null, clip: [] }))).input.media).toEqual({})
  })

  it('is priced by its files too', async () => {
    expect((await parse(media({ image: [tmp(1), tmp(2)] }))).cost).toBe(100_000n)
  })

  it('may use one upload twice; it is looked up and kept once', async () => {
    const order = await parse(media({ image: [tmp(1), tmp(1)] }))
    expect(order.input.media.image).toHaveLength(2)
    expect(order.uploads).toEqual([id(1)])
    expect(lookups).toEqual([[id(1)]])
  })

  it('drops the prompt of a model that ignores it', async () => {
    for (const prompt of ['text', 5, null, 'x'.repeat(100_000)]) {
      const order = await parse({ model_id: 2, prompt, media: { image: [tmp(1), tmp(8)] } })
      expect(order.input).not.toHaveProperty('prompt')
    }
  })

  it('leaves out an optional prompt that is blank', async () => {
    expect((await parse({ model_id: 3, prompt: ' \n', options: { style: 'ink' } })).input).not.toHaveProperty('prompt')
    expect((await parse({ model_id: 3, prompt: ' x ', options: { style: 'ink' } })).input.prompt).toBe(' x ')
  })

  it('counts the characters of a prompt, not its UTF-16 units', async () => {
    expect((await parse(one({ prompt: '😀'.repeat(10) }))).input.prompt).toHaveLength(20)
    expect(await refusal(one({ prompt: '😀'.repeat(11) }))).toBe(
      'validation_error: prompt: must have at most 10 characters',
    )
  })

  it('keeps a callback URL in its normal form', async () => {
    expect((await parse(one({ callback_url: 'HTTP://Example.com' }))).callbackUrl).toBe('http://example.com/')
  })

  it('treats jpg and jpeg as one format', async () => {
    expect((await parse(media({ image: [tmp(3)] }))).input.media.image?.[0]?.extension).toBe('jpeg')
  })

  it('may leave out an input that is not required, but not half fill it', async () => {
    expect((await parse({ model_id: 5, media: { first: [tmp(1)] } })).uploads).toEqual([id(1)])
    expect(await refusal({ model_id: 5, media: { pair: [tmp(1)] } })).toMatch(
      /^media_required: media\.pair: at least 2/,
    )
  })
})

describe('an order request is refused', () => {
  it.each<[string, unknown, string | RegExp]>([
    ['no object', null, 'validation_error: The body must be a JSON object.'],
    ['a list', [], 'validation_error: The body must be a JSON object.'],
    ['a string', 'x', 'validation_error: The body must be a JSON object.'],
    ['an unknown field', one({ promt: 'x' }), 'validation_error: promt: is not a field of an order'],
    [
      'a field of every object',
      JSON.parse('{"model_id":1,"prompt":"x","__proto__":{}}'),
      /^validation_error: __proto__/,
    ],
    ['no model', { prompt: 'x' }, 'validation_error: model_id: is missing'],
    ['a model in quotes', { model_id: '1', prompt: 'x' }, /^validation_error: model_id: must be/],
    ['half a model', { model_id: 1.5, prompt: 'x' }, /^validation_error: model_id/],
    ['an unknown model', { model_id: 999 }, /^model_not_found/],
    ['a negative model', { model_id: -1 }, /^model_not_found/],
    ['a model that nobody can make', { model_id: 4, prompt: 'x' }, /^model_not_found/],
    ['no prompt', { model_id: 1 }, /^prompt_required/],
    ['an empty prompt', one({ prompt: '' }), /^prompt_required/],
    ['a blank prompt', one({ prompt: ' \t\n ' }), /^prompt_required/],
    ['a prompt that is no text', one({ prompt: 5 }), 'validation_error: prompt: must be a string'],
    ['a prompt list', one({ prompt: ['x'] }), 'validation_error: prompt: must be a string'],
    ['a long prompt', one({ prompt: 'x'.repeat(11) }), 'validation_error: prompt: must have at most 10 characters'],
    ['a NUL in the prompt', one({ prompt: 'a\0b' }), /^validation_error: prompt: must be Unicode text/],
    ['half a surrogate pair', one({ prompt: 'a\ud800' }), /^validation_error: prompt: must be Unicode text/],
    ['options in a list', one({ options: [] }), 'validation_error: options: must be an object'],
    [
      'an unknown option',
      options({ colour: 'red' }),
      'validation_error: options.colour: is not an option of this model',
    ],
    ['an option of every object', options({ constructor: 'x' }), /^validation_error: options\.constructor/],
    [
      'a choice that is not offered',
      options({ size: 'huge' }),
      'validation_error: options.size: must be one of "small", "big"',
    ],
    ['a choice of another type', options({ size: 5 }), /^validation_error: options\.size: must be one of/],
    ['a number in quotes', options({ steps: '5' }), 'validation_error: options.steps: must be a number'],
    ['a number too small', options({ steps: 0 }), 'validation_error: options.steps: must be at least 1'],
    ['a number too large', options({ steps: 50.5 }), 'validation_error: options.steps: must be at most 50'],
    ['a number between steps', options({ steps: 1.25 }), /^validation_error: options\.steps: must be in steps of 0\.5/],
    ['a number that is none', options({ steps: Number.NaN }), 'validation_error: options.steps: must be a number'],
    ['a text that is none', options({ note: 5 }), 'validation_error: options.note: must be a string'],
    ['a text too long', options({ note: 'abcdef' }), 'validation_error: options.note: must have at most 5 characters'],
    [
      'a text longer than any',
      options({ essay: 'x'.repeat(2001) }),
      'validation_error: options.essay: must have at most 2000 characters',
    ],
    ['a NUL in a text', options({ note: '\0' }), /^validation_error: options\.note: must be Unicode/],
    ['a boolean in quotes', options({ audio: 'true' }), 'validation_error: options.audio: must be true or false'],
    ['no required option', { model_id: 3, prompt: 'x' }, 'validation_error: options.style: is required'],
    [
      'a blank required option',
      { model_id: 3, options: { style: ' ' } },
      'validation_error: options.style: is required',
    ],
    ['media in a list', media([]), 'validation_error: media: must be an object'],
    ['an unknown input', media({ mask: [tmp(1)] }), 'validation_error: media.mask: is not a media input of this model'],
    [
      'files for a model without',
      { model_id: 3, options: { style: 'x' }, media: { image: [tmp(1)] } },
      'validation_error: media.image: this model takes no files',
    ],
    ['a path without a list', media({ image: tmp(1) }), 'validation_error: media.image: must be a list of tmp_path'],
    [
      'a path that is none',
      media({ image: [tmp(1), '/etc/passwd'] }),
      /^validation_error: media\.image\[1\]: must be the tmp_path/,
    ],
    ['a URL', media({ image: ['https://example.com/a.png'] }), /^validation_error: media\.image\[0\]/],
    ['a path that is a number', media({ image: [5] }), /^validation_error: media\.image\[0\]/],
    ['a path with more behind it', media({ image: [`${tmp(1)}\n`] }), /^file_not_found: media\.image\[0\]/],
    ['a path that leads elsewhere', media({ image: ['tmp/../etc'] }), /^file_not_found: media\.image\[0\]/],
    ['an unknown upload', media({ image: [tmp(1), tmp(99)] }), /^file_not_found: media\.image\[1\]/],
    ['an expired upload', media({ image: [tmp(7)] }), /^file_expired: media\.image\[0\]/],
    ['an upload in conversion', media({ image: [tmp(5)] }), /^upload_processing: media\.image\[0\]/],
    ['a failed upload', media({ image: [tmp(6)] }), /^validation_error: media\.image\[0\]: could not be converted/],
    [
      'another type of file',
      media({ image: [tmp(4)] }),
      /^invalid_media_type: media\.image\[0\]: mp4 files are not accepted here, only jpg, png/,
    ],
    ['too many of an input', media({ clip: [tmp(4), tmp(4)] }), /^too_many_media: media\.clip: at most 1/],
    [
      'too many in all',
      media({ image: [tmp(1), tmp(1), tmp(1)], clip: [tmp(4)] }),
      /^too_many_media: media: at most 3/,
    ],
    ['no required files', { model_id: 2 }, /^media_required: media\.image: at least 2/],
    ['too few files', { model_id: 2, media: { image: [tmp(1)] } }, /^media_required: media\.image: at least 2/],
    ['no files at all', { model_id: 5 }, /^media_required/],
    ['an unknown routing', one({ routing: 'cheap' }), /^validation_error: routing: must be one of/],
    ['a routing of every object', one({ routing: 'toString' }), /^validation_error: routing/],
    ['a callback that is no URL', one({ callback_url: 'example.com' }), /^validation_error: callback_url/],
    ['a callback of another protocol', one({ callback_url: 'ftp://example.com' }), /^validation_error: callback_url/],
    ['a callback with a password', one({ callback_url: 'https://a:b@example.com' }), /^validation_error: callback_url/],
    [
      'a callback too long',
      one({ callback_url: `https://example.com/${'x'.repeat(2048)}` }),
      /^validation_error: callback_url/,
    ],
    [
      'a callback that grows too long',
      one({ callback_url: `https://example.com/${'é'.repeat(2000)}` }),
      /^validation_error: callback_url/,
    ],
    ['a callback that is no text', one({ callback_url: {} }), /^validation_error: callback_url/],
  ])('for %s', async (_, body, expected) => {
    if (typeof expected === 'string') expect(await refusal(body)).toBe(expected)
    else expect(await refusal(body)).toMatch(expected)
  })

  it('before any upload is looked up, when something else is wrong', async () => {
    for (const body of [
      one({ media: { image: [tmp(1)] }, options: { size: 'huge' } }),
      one({ media: { image: [tmp(1)] }, callback_url: 'x' }),
      media({ image: [tmp(1), tmp(1), tmp(1), tmp(1)] }),
      { ...media({ image: [tmp(1)] }), prompt: '' },
    ]) {
      expect(await refusal(body)).not.toBe('accepted')
      expect(lookups).toEqual([])
    }
  })

  it('or accepted, but never broken, whatever it is', async () => {
    const value = fc.oneof(fc.jsonValue(), fc.constantFrom(tmp(1), [tmp(1)], [tmp(99)], 'small', 5, true))
    const record = (keys: string[]) =>
      fc.record(Object.fromEntries(keys.map(key => [key, value])), { requiredKeys: [] })
    const body = fc.oneof(
      fc.jsonValue(),
      fc.record(
        {
          model_id: fc.oneof(fc.constantFrom(1, 2, 3, 4, 5), fc.jsonValue()),
          prompt: fc.oneof(fc.string({ maxLength: 12 }), fc.jsonValue()),
          media: fc.oneof(record(['image', 'clip', 'first', 'pair', 'x']), fc.jsonValue()),
          options: fc.oneof(record(['size', 'steps', 'note', 'audio', 'style', 'x']), fc.jsonValue()),
          routing: fc.oneof(fc.constantFrom('auto', 'fast'), fc.jsonValue()),
          callback_url: fc.oneof(fc.webUrl(), fc.jsonValue()),
        },
        { requiredKeys: ['model_id'] },
      ),
    )
    await fc.assert(
      fc.asyncProperty(body, async data => {
        const outcome = await refusal(data)
        if (outcome !== 'accepted') return
        const order = await parse(data)
        expect(order.cost).toBeGreaterThanOrEqual(0n)
        const used = Object.values(order.input.media).flat()
        expect(used.length).toBeLessThanOrEqual(order.model.media.maxCount)
        expect(new Set(used.map(element => element.upload))).toEqual(new Set(order.uploads))
        expect(JSON.parse(JSON.stringify(order.input))).toStrictEqual(order.input)
        expect(orderBody.safeParse(data).success).toBe(true)
      }),
      { numRuns: 1_000 },
    )
  })
})
