import { describe, expect, it } from 'vitest'
import { type CatalogOptions, loadCatalog } from '../../src/catalog/catalog.ts'
import type { MediaElement, OrderInput } from '../../src/catalog/model.ts'
import { adapters, catalogFile, catalogText } from './files.ts'

const load = (text: string, options: Partial<CatalogOptions> = {}) =>
  loadCatalog(catalogFile(text), { env: {}, sandbox: undefined, publicUrlIsSet: false, adapters, ...options })

const up = (more: string, kind = 'plain') => `{ id: up, kind: ${kind}, ${more} }`
const BOTH = [
  `- { provider: up, model: m, input: '{"prompt": prompt}', cost_usd: "0.01" }`,
  `- { provider: sandbox, model: image, input: '{"prompt": prompt}', cost_usd: "0", rank: 9 }`,
].join('\n')
const KEYED = up('base_url: "https://up.example", accounts: [{ id: main, api_key: "${UP_KEY}" }]')

const image: MediaElement = {
  upload: '00000000-0000-4000-8000-000000000001',
  mime_type: 'image/png',
  extension: 'png',
  size: 10,
}
const order = (input: Partial<OrderInput> = {}): OrderInput => ({ prompt: 'a cat', media: {}, options: {}, ...input })

async function reasons(text: string, options: Partial<CatalogOptions> = {}): Promise<(string | undefined)[]> {
  const catalog = await load(text, options)
  return catalog.models.get(1)?.routes.map(route => route.unusable) ?? []
}

describe('keys from the environment', () => {
  const text = catalogText({ provider: KEYED, routes: BOTH })

  it('a set variable makes its account usable', async () => {
    const catalog = await load(text, { env: { UP_KEY: 'k-1' } })
    expect(catalog.providers.get('up')?.accounts).toEqual([
      {
        provider: 'up',
        id: 'main',
        baseUrl: 'https://up.example',
        apiKey: 'k-1',
        settings: {},
        configured: true,
        limits: { submits_per_minute: 10, reads_per_minute: 60 },
      },
    ])
    expect(await reasons(text, { env: { UP_KEY: 'k-1' } })).toEqual([undefined, 'the sandbox is off'])
  })

  it.each([{}, { UP_KEY: '' }])('an unset or empty one leaves it unconfigured: %j', async env => {
    const catalog = await load(text, { env })
    expect(catalog.providers.get('up')?.accounts[0]).toMatchObject({ apiKey: '', configured: false })
    expect(await reasons(text, { env })).toEqual(['no account has an API key', undefined])
  })

  it('may be written into the file itself', async () => {
    expect(await reasons(catalogText({ routes: BOTH }))).toEqual([undefined, 'the sandbox is off'])
  })

  it('one account of several is enough', async () => {
    const accounts = 'accounts: [{ id: a, api_key: "${A}" }, { id: b, api_key: "${B}", limits: { concurrent: 3 } }]'
    const catalog = await load(
      catalogText({ provider: up(`base_url: "https://up.example", ${accounts}`), routes: BOTH }),
      {
        env: { B: 'kb' },
      },
    )
    expect(catalog.providers.get('up')?.accounts.map(({ id, configured }) => [id, configured])).toEqual([
      ['a', false],
      ['b', true],
    ])
    expect(catalog.providers.get('up')?.accounts[1]?.limits).toEqual({
      submits_per_minute: 10,
      reads_per_minute: 60,
      concurrent: 3,
    })
    expect(catalog.usableRoutes(catalog.models.get(1) as never)).toHaveLength(1)
  })

  it('an unset base URL leaves the provider unconfigured, and says so', async () => {
    const file = catalogText({ provider: up('base_url: "${URL}", accounts: [{ id: a, api_key: k }]'), routes: BOTH })
    expect(await reasons(file, { sandbox: 'on' })).toEqual(['no base URL is set', undefined])
    expect(await reasons(file, { env: { URL: 'http://127.0.0.1:8080' } })).toEqual([undefined, 'the sandbox is off'])
  })

  it('a variable that gives no origin is a mistake', async () => {
    const file = catalogText({ provider: up('base_url: "${URL}", accounts: [{ id: a, api_key: k }]') })
    await expect(load(file, { env: { URL: 'up.example' } })).rejects.toThrow('must be an origin alone')
  })

  it('may stand inside a longer value', async () => {
    const file = catalogText({ provider: up('base_url: "https://${HOST}:8443", accounts: [{ id: a, api_key: k }]') })
    const catalog = await load(file, { env: { HOST: 'up.example' } })
    expect(catalog.providers.get('up')?.accounts[0]?.baseUrl).toBe('https://up.example:8443')
  })
})

describe('the sandbox', () => {
  const keyed = catalogText({ routes: BOTH })
  const unkeyed = catalogText({ provider: KEYED, routes: BOTH })

  it('needs neither URL nor key', async () => {
    const catalog = await load(unkeyed)
    expect(catalog.providers.get('sandbox')?.accounts).toMatchObject([{ id: 'local', configured: true }])
  })

  it.each([
    ['on', keyed, undefined],
    ['on', unkeyed, undefined],
    ['off', keyed, 'the sandbox is off'],
    ['off', unkeyed, 'the sandbox is off'],
    [undefined, keyed, 'the sandbox is off'],
    [undefined, unkeyed, undefined],
  ] as const)('SANDBOX=%s', async (sandbox, file, reason) => {
    expect((await reasons(file, { sandbox }))[1]).toBe(reason)
  })

  it('alone and off leaves a model without usable routes', async () => {
    const catalog = await load(unkeyed, { sandbox: 'off' })
    const [model] = catalog.models.values()
    expect(catalog.usableRoutes(model as never)).toEqual([])
  })
})

describe('routes that cannot be used', () => {
  it('say what the catalog says', async () => {
    const routes = [
      `- { provider: up, model: a, input: '{}', cost_usd: "0", enabled: false, disabled_reason: not verified }`,
      `- { provider: up, model: b, input: '{}', cost_usd: "0", enabled: false }`,
    ].join('\n')
    expect(await reasons(catalogText({ routes }))).toEqual(['not verified', 'disabled in the catalog'])
  })

  it('say what the adapter misses; an unset variable is a setting that is not given', async () => {
    const provider = up(
      'base_url: "https://a.b", settings: { path: "${P}" }, accounts: [{ id: a, api_key: k }]',
      'picky',
    )
    const routes = [
      `- { provider: up, model: image, input: '{}', cost_usd: "0" }`,
      `- { provider: up, model: video, input: '{}', cost_usd: "0" }`,
    ].join('\n')
    const file = catalogText({ provider, routes })
    expect(await reasons(file)).toEqual([undefined, 'settings.path is not set'])
    expect(await reasons(file, { env: { P: '/videos' } })).toEqual([undefined, undefined])
    await expect(load(file, { env: { P: 'videos' } })).rejects.toThrow(/settings\.path/)
  })
})

describe('a model', () => {
  it('has sensible defaults', async () => {
    const [model] = (await load(catalogText())).models.values()
    expect(model).toMatchObject({
      id: 1,
      price: 50_000n,
      prompt: { mode: 'required', maxLength: 5_000 },
      media: { required: false, maxCount: 0, accepted: [], inputs: [] },
      options: [],
      fields: ['prompt'],
      routing: 'auto',
      minMargin: 0,
    })
    expect(model?.routes[0]).toMatchObject({ upstreamModel: 'm', rank: 1, unusable: undefined })
  })

  it('fills in its media', async () => {
    const text =
      'media: { max_count: 4, accepted: [jpg, png], inputs: [{ key: image, min: 1 }, { key: mask, max: 1, accepted: [png] }] }'
    const [model] = (await load(catalogText({ model: text }))).models.values()
    expect(model?.media).toEqual({
      required: true,
      maxCount: 4,
      accepted: ['jpg', 'png'],
      inputs: [
        { key: 'image', required: true, min: 1, max: 4, accepted: ['jpg', 'png'] },
        { key: 'mask', required: false, min: 0, max: 1, accepted: ['png'] },
      ],
    })
  })

  it('lists its fields in the order of the reference: prompt, options, media', async () => {
    const options = 'options_schema: [{ key: b, type: text, label: B }, { key: a, type: text, label: A }]'
    const files = 'media: { max_count: 1, accepted: [png], inputs: [{ key: image }] }'
    const fieldsOf = async (text: string) => [...(await load(catalogText({ model: text }))).models.values()][0]?.fields
    expect(await fieldsOf(`${options}\n${files}`)).toEqual(['prompt', 'b', 'a', 'media'])
    expect(await fieldsOf(`prompt: { mode: ignored }\n${files}`)).toEqual(['media'])
    expect(await fieldsOf('fields: [prompt, seed]')).toEqual(['prompt', 'seed'])
  })

  it('passes its options through as they stand', async () => {
    const text = 'options_schema: [{ key: n, type: text, label: N, required: false, default: null, placeholder: "" }]'
    const [model] = (await load(catalogText({ model: text }))).models.values()
    expect(JSON.stringify(model?.options)).toBe(
      '[{"key":"n","type":"text","label":"N","required":false,"default":null,"placeholder":""}]',
    )
  })

  it('has a price that may depend on the order; shown is the price of default options', async () => {
    const text = [
      'price: \'options.size = "big" ? 0.30 : "0.18"\'',
      'options_schema: [{ key: size, type: select, label: S, default: small, options: [{ value: small, label: s }, { value: big, label: b }] }]',
    ].join('\n')
    const [model] = (await load(catalogText({ model: text }))).models.values()
    expect(model?.price).toBe(180_000n)
    expect(await model?.priceOf(order({ options: { size: 'big' } }))).toBe(300_000n)
    expect(await model?.priceOf(order({ options: { size: 'small' } }))).toBe(180_000n)
  })

  it.each(['-0.01', '"free"', 'options.nothing'])('never has a price of %s', async price => {
    const text = `price: 'options.a = "x" ? ${price} : 1'\noptions_schema: [{ key: a, type: text, label: A }]`
    const [model] = (await load(catalogText({ model: text }))).models.values()
    await expect(model?.priceOf(order({ options: { a: 'x' } }))).rejects.toThrow(RangeError)
  })

  it.each([
    ['0.2', 0.2],
    ['-1', -1],
    ['any', Number.NEGATIVE_INFINITY],
  ])('may have another margin: %s', async (text, margin) => {
    const [model] = (await load(catalogText({ model: `min_margin: ${text}\nrouting: fast` }))).models.values()
    expect(model).toMatchObject({ minMargin: margin, routing: 'fast' })
  })
})

describe('a route', () => {
  const routeOf = async (
    when: string,
    options: Partial<CatalogOptions> = {},
    kind = 'plain',
    host = 'https://up.example',
  ) => {
    const catalog = await load(
      catalogText({
        provider: up(`base_url: "${host}", accounts: [{ id: main, api_key: k }]`, kind),
        route: `{ provider: up, model: m, ${when} input: '{"prompt": prompt, "urls": media.image}', cost_usd: "$count(media.image) * 0.02" }`,
      }),
      options,
    )
    const route = catalog.models.get(1)?.routes[0]
    if (!route) throw new Error('no route')
    return route
  }

  it('is eligible when its condition holds; a condition that fails or is absent from the order is no', async () => {
    const few = await routeOf('when: "$count(media.image) <= 1",', { publicUrlIsSet: true })
    expect(await few.eligible(order())).toBe(true)
    expect(await few.eligible(order({ media: { image: [image] } }))).toBe(true)
    expect(await few.eligible(order({ media: { image: [image, image] } }))).toBe(false)
    const broken = await routeOf(`when: '$length(options.n) > 1',`)
    expect(await broken.eligible(order({ options: { n: 5 } }))).toBe(false)
    expect(await broken.eligible(order())).toBe(false)
  })

  it('makes the upstream input and the expected cost of an order', async () => {
    const route = await routeOf('')
    expect(await route.inputOf(order())).toEqual({ prompt: 'a cat' })
    expect(await route.inputOf(order({ media: { image: [image] } }))).toEqual({ prompt: 'a cat', urls: [image] })
    expect(await route.costOf(order({ media: { image: [image, image] } }))).toBe(40_000n)
    expect(await route.costOf(order())).toBe(0n)
  })

  it('with files needs an upstream that can get them', async () => {
    const files = order({ media: { image: [image] } })
    expect(await (await routeOf('')).eligible(files)).toBe(false)
    expect(await (await routeOf('')).eligible(order())).toBe(true)
    expect(await (await routeOf('', { publicUrlIsSet: true })).eligible(files)).toBe(true)
    expect(await (await routeOf('', {}, 'placing')).eligible(files)).toBe(true)
    for (const host of ['http://127.0.0.1:9', 'http://localhost:9', 'http://[::1]:9']) {
      expect(await (await routeOf('', {}, 'plain', host)).eligible(files)).toBe(true)
    }
  })
})

describe('a provider', () => {
  it('has its adapter, and its own limits and polls over the defaults', async () => {
    const text = up(
      'base_url: "https://a.b", limits: { reads_per_minute: 5 }, poll: { every_ms: 50 }, accounts: [{ id: a, api_key: k, limits: { submits_per_minute: 1 } }]',
    )
    const provider = (await load(catalogText({ provider: text }))).providers.get('up')
    expect(provider?.adapter.kind).toBe('plain')
    expect(provider?.poll).toEqual({ first_ms: 1_000, every_ms: 50, deadline_ms: 60_000 })
    expect(provider?.limits).toEqual({ submits_per_minute: 10, reads_per_minute: 5 })
    expect(provider?.accounts[0]?.limits).toEqual({ submits_per_minute: 1, reads_per_minute: 5 })
  })
})
