import { describe, expect, it } from 'vitest'
import { checkCatalog, loadCatalog } from '../../src/catalog/catalog.ts'
import type { MediaElement, Model, OptionSchema, OrderInput, Route } from '../../src/catalog/model.ts'
import { formatMoney } from '../../src/money.ts'

const KEYS = {
  APIXO_API_KEY: 'k',
  PLURAGEN_API_KEY: 'k',
  ZENCREATOR_API_KEY: 'k',
  PROGRESSIVEROBOT_API_KEY: 'k',
  ONESHOT_API_KEY: 'k',
  ONESHOT_BASE_URL: 'https://oneshot.example',
}
const SETTINGS = {
  PROGRESSIVEROBOT_UPLOAD_FIELD: 'file',
  PROGRESSIVEROBOT_UPLOAD_RESPONSE_FIELD: 'filename',
  PROGRESSIVEROBOT_IMAGE_FIELD: 'image',
  ONESHOT_VIDEOS_PATH: '/api/v1/videos',
  ONESHOT_MODEL3D_PATH: '/api/v1/3d',
}
const load = (env: Record<string, string>, sandbox?: 'on' | 'off') =>
  loadCatalog(undefined, { env, sandbox, publicUrlIsSet: true })

const catalog = await load({ ...KEYS, ...SETTINGS }, 'on')
const models = [...catalog.models.values()]

/** Each way of filling in the options that can matter: every choice, and the ends of every range. */
function* combinations([option, ...rest]: readonly OptionSchema[]): Generator<OrderInput['options']> {
  if (!option) {
    yield {}
    return
  }
  const values = {
    select: option.options?.map(choice => choice.value) ?? [],
    boolean: [true, false],
    number: [option.min ?? 0, Number(option.default), option.max ?? 100],
    text: [undefined, 'blurry'],
  }[option.type]
  for (const others of combinations(rest)) {
    for (const value of values) yield value === undefined ? others : { [option.key]: value, ...others }
  }
}

/** Orders of a model with the fewest files, one of each, and the most. */
function* orders(model: Model): Generator<OrderInput> {
  const counts = [
    (min: number) => min,
    (min: number, max: number) => Math.min(max, Math.max(1, min)),
    (_: number, max: number) => max,
  ]
  for (const options of combinations(model.options)) {
    for (const count of model.media.inputs.length > 0 ? counts : counts.slice(0, 1)) {
      const media = Object.fromEntries(
        model.media.inputs.map(({ key, min, max, accepted }) => [
          key,
          Array.from({ length: count(min, max) }, (_, n) => file(accepted[0], n)),
        ]),
      )
      yield { ...(model.prompt.mode === 'required' ? { prompt: 'a cat' } : {}), media, options }
    }
  }
}

function file(extension = 'png', n = 0): MediaElement {
  return {
    upload: `00000000-0000-4000-8000-0000000000${10 + n}`,
    mime_type: extension === 'mp4' ? 'video/mp4' : `image/${extension}`,
    extension,
    size: 2_000_000,
    width: 1280,
    height: 960,
  }
}

const routeNamed = (id: number, provider: string, upstream: string): Route => {
  const route = catalog.models.get(id)?.routes.find(r => r.provider.id === provider && r.upstreamModel === upstream)
  if (!route) throw new Error(`no route ${provider}/${upstream} of ${id}`)
  return route
}

describe('the shipped catalog', () => {
  it('has no mistakes, with and without keys', async () => {
    for (const env of [{}, KEYS, { ...KEYS, ...SETTINGS }])
      expect((await checkCatalog(undefined, env)).mistakes).toEqual([])
  })

  it('offers 25 models without any key, all through the sandbox', async () => {
    const bare = await load({})
    const sold = [...bare.models.values()].filter(model => bare.usableRoutes(model).length > 0)
    expect(sold).toHaveLength(25)
    for (const model of sold) {
      const providers = bare.usableRoutes(model).map(route => route.provider.id)
      expect(providers, model.name).toEqual(['sandbox'])
    }
  })

  it('never falls back to the sandbox once a provider has a key', async () => {
    for (const key of Object.keys(KEYS).filter(name => name.endsWith('_KEY'))) {
      const keyed = await load({ [key]: 'k' })
      const routes = [...keyed.models.values()].flatMap(model => keyed.usableRoutes(model))
      expect(
        routes.some(route => route.provider.id === 'sandbox'),
        key,
      ).toBe(false)
    }
  })

  it('puts the sandbox behind the real routes of every model, for nothing', async () => {
    for (const model of models) {
      const [sandbox, ...others] = [...model.routes].sort((a, b) => b.rank - a.rank)
      expect(sandbox?.provider.id, model.name).toBe('sandbox')
      expect(['image', 'video']).toContain(sandbox?.upstreamModel)
      expect(others.length, model.name).toBeGreaterThan(0)
      for (const route of others) expect(route.rank, model.name).toBeLessThan(sandbox?.rank ?? 0)
      for (const order of orders(model)) {
        expect(await sandbox?.eligible(order)).toBe(true)
        expect(await sandbox?.costOf(order)).toBe(0n)
      }
    }
  })

  it.each(models.map(model => [model.name, model] as const))(
    '%s: every order has a price, every route its input and cost',
    async (_, model) => {
      for (const order of orders(model)) {
        const price = await model.priceOf(order)
        expect(price).toBeGreaterThan(0n)
        for (const route of model.routes) {
          if (!(await route.eligible(order))) continue
          const what = `${route.provider.id}/${route.upstreamModel} ${JSON.stringify(order.options)}`
          const input = await route.inputOf(order)
          expect(JSON.parse(JSON.stringify(input)), what).toStrictEqual(input)
          const cost = await route.costOf(order)
          if (route.unusable === undefined) expect(cost, what).toBeLessThanOrEqual(price)
          for (const side of ['width', 'height', 'frames', 'duration']) {
            if (typeof input[side] === 'number') expect(Number.isInteger(input[side]), `${what} ${side}`).toBe(true)
          }
        }
      }
    },
  )

  it.each(models.map(model => [model.name, model] as const))(
    '%s: the price in the file is the price with default options',
    async (_, model) => {
      const written: Record<number, string> = {
        20: '0.06',
        21: '0.18',
        22: '0.12',
        23: '0.08',
        24: '0.06',
        25: '0.12',
        26: '0.06',
        27: '0.12',
        28: '0.09',
        29: '0.14',
        30: '0.04',
        40: '0.60',
        41: '0.55',
        42: '0.60',
        43: '0.45',
        44: '0.35',
        45: '0.25',
        46: '0.25',
        47: '0.45',
        48: '0.40',
        49: '0.70',
        7: '0.10',
        60: '0.50',
        61: '0.03',
        70: '0.80',
      }
      expect(formatMoney(model.price)).toBe(written[model.id])
    },
  )

  it('reaches the highest prices of its rules', async () => {
    const most = async (id: number) => {
      const model = catalog.models.get(id) as Model
      let highest = 0n
      for (const order of orders(model)) {
        const price = await model.priceOf(order)
        if (price > highest) highest = price
      }
      return formatMoney(highest)
    }
    const expected = { 21: '0.30', 40: '0.78', 42: '1.80', 43: '0.85', 44: '1.30', 45: '0.85', 46: '2.00', 49: '0.80' }
    for (const [id, price] of Object.entries(expected)) expect(await most(Number(id)), id).toBe(price)
  })

  it('always names a model where the default of ZenCreator would be outside the content policy', async () => {
    for (const model of models) {
      for (const route of model.routes.filter(r =>
        ['by_prompt', 'image_editor', 'videogen'].includes(r.upstreamModel),
      )) {
        for (const order of orders(model)) expect((await route.inputOf(order)).model, model.name).toMatch(/^[\w@.]+$/)
      }
    }
  })

  it('says why routes are off', async () => {
    const off = (await load(KEYS, 'on')).models
    const reasonsOf = (id: number) => off.get(id)?.routes.map(route => route.unusable) ?? []
    expect(reasonsOf(40)[1]).toMatch(/settings\.image_field/)
    expect(reasonsOf(48)[0]).toMatch(/settings\.paths\.videos/)
    expect(reasonsOf(70)[0]).toMatch(/settings\.paths\.model3d/)
    expect(reasonsOf(60)[0]).toMatch(/length and frame rate/)
    expect(reasonsOf(21)[1]).toMatch(/GET \/models/)
    expect(routeNamed(40, 'progressiverobot', 'wan-i2v').unusable).toBeUndefined()
    expect(routeNamed(48, 'oneshot', 'vidu-q2').unusable).toBeUndefined()
  })

  it('gives a lower tier only to who allows it', async () => {
    const pro = catalog.models.get(21) as Model
    for (const order of orders(pro)) {
      for (const route of pro.routes.filter(r => r.provider.id === 'zencreator' || r.provider.id === 'oneshot')) {
        if (await route.eligible(order))
          expect(order.options).toMatchObject({ allow_downgrade: true, resolution: '1K' })
      }
    }
  })

  it('buys what the documents price', async () => {
    const order = (options: OrderInput['options']): OrderInput => ({ prompt: 'x', media: { image: [file()] }, options })
    const cost = async (id: number, provider: string, upstream: string, options: OrderInput['options']) =>
      formatMoney(await routeNamed(id, provider, upstream).costOf(order(options)))
    expect(await cost(41, 'progressiverobot', 'wan-t2v', { duration: '5' })).toBe('0.377')
    expect(await cost(49, 'progressiverobot', 'hunyuan15-t2v', { duration: '3' })).toBe('0.455')
    expect(await cost(47, 'progressiverobot', 'ltx-t2v', { duration: '4' })).toBe('0.312')
    expect(await cost(40, 'zencreator', 'videogen', { duration: '8' })).toBe('0.52')
    expect(await cost(42, 'zencreator', 'videogen', { duration: '10', resolution: '1080p' })).toBe('1.20')
    expect(await cost(44, 'zencreator', 'videogen', { duration: '10', generate_audio: true })).toBe('0.80')
    expect(
      await cost(46, 'zencreator', 'videogen', { duration: '10', resolution: '1080p', generate_audio: true }),
    ).toBe('1.28')
  })

  it('asks for pictures of the ratio that was ordered', async () => {
    const flux = routeNamed(28, 'progressiverobot', 'flux')
    for (const [ratio, width, height] of [
      ['1:1', 1024, 1024],
      ['3:2', 1248, 832],
      ['9:16', 768, 1360],
      ['21:9', 1568, 672],
    ] as const) {
      const input = await flux.inputOf({ prompt: 'x', media: {}, options: { aspect_ratio: ratio } })
      expect(input).toMatchObject({ width, height })
    }
  })

  it('turns an upscale factor into the next size that ZenCreator makes', async () => {
    const upscaler = routeNamed(7, 'zencreator', 'upscaler')
    const order = (width: number, height: number, factor: string): OrderInput => ({
      media: { image: [{ ...file(), width, height }] },
      options: { upscale_factor: factor },
    })
    expect(await upscaler.inputOf(order(1000, 1000, 'x2'))).toMatchObject({ megapixels: 4 })
    expect(await upscaler.inputOf(order(1001, 1000, 'x2'))).toMatchObject({ megapixels: 8 })
    expect(await upscaler.inputOf(order(1000, 1000, 'x4'))).toMatchObject({ megapixels: 16 })
    expect(await upscaler.eligible(order(4000, 2000, 'x2'))).toBe(true)
    expect(await upscaler.eligible(order(4000, 2001, 'x2'))).toBe(false)
    const { width: _, ...unmeasured } = file()
    expect(await upscaler.eligible({ media: { image: [unmeasured] }, options: { upscale_factor: 'x2' } })).toBe(false)
  })

  it('sends nobody a file that is too large there', async () => {
    const order = (size: number): OrderInput => ({
      prompt: 'x',
      media: { image: [{ ...file(), size }] },
      options: { aspect_ratio: '1:1', output_format: 'png', resolution: '1K', duration: '5' },
    })
    const MB = 1024 * 1024
    expect(await routeNamed(21, 'apixo', 'nano-banana-pro').eligible(order(10 * MB))).toBe(true)
    expect(await routeNamed(21, 'apixo', 'nano-banana-pro').eligible(order(10 * MB + 1))).toBe(false)
    expect(await routeNamed(23, 'zencreator', 'image_editor').eligible(order(50 * MB))).toBe(true)
    expect(await routeNamed(23, 'zencreator', 'image_editor').eligible(order(50 * MB + 1))).toBe(false)
    expect(await routeNamed(42, 'zencreator', 'videogen').eligible(order(50 * MB + 1))).toBe(false)
    expect(await routeNamed(20, 'pluragen', '20').eligible(order(300 * MB))).toBe(true)
  })

  it('names nothing that is outside the content policy', async () => {
    const text = JSON.stringify(
      models.map(model => [model.name, model.type, model.options, model.routes.map(r => r.upstreamModel)]),
    )
    expect(text).not.toMatch(/undress|nude|nsfw|swap|adult|lora/i)
  })
})
