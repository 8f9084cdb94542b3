import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  asFields,
  asMoney,
  compile,
  compileMoney,
  ExpressionError,
  hasMedia,
  mapMedia,
} from '../../src/catalog/expressions.ts'
import type { MediaElement, OrderInput } from '../../src/catalog/model.ts'

const file = (n: number): MediaElement => ({
  upload: `00000000-0000-4000-8000-00000000000${n}`,
  mime_type: 'image/png',
  extension: 'png',
  size: 1_000 * n,
  width: 640,
  height: 480,
})

const order = (input: Partial<OrderInput> = {}): OrderInput => ({ media: {}, options: {}, ...input })
const evaluate = (text: string, input: Partial<OrderInput> = {}) => compile(text).evaluate(order(input))

describe('expressions', () => {
  it('see prompt, media and options', async () => {
    const input = { prompt: 'a cat', media: { image: [file(1)] }, options: { ratio: '1:1', steps: 20, audio: false } }
    expect(
      await evaluate(
        '{"p": prompt, "n": $count(media.image), "r": options.ratio, "s": options.steps, "a": options.audio}',
        input,
      ),
    ).toEqual({ p: 'a cat', n: 1, r: '1:1', s: 20, a: false })
  })

  it('leave out what is absent, and keep null', async () => {
    expect(await evaluate('{"prompt": prompt, "image": media.image, "seed": null, "x": options.x}')).toEqual({
      seed: null,
    })
  })

  it('count an empty list of files as absent', async () => {
    const text = 'media.image ? "some" : "none"'
    expect(await evaluate(text, { media: { image: [] } })).toBe('none')
    expect(await evaluate(text, { media: { image: [file(1)] } })).toBe('some')
    expect(await evaluate('$exists(media.image)', { media: { image: [] } })).toBe(false)
  })

  it.each([1, 2, 5])('keep a list of %i files a list', async count => {
    const image = Array.from({ length: count }, (_, n) => file(n + 1))
    const result = (await evaluate('{"urls": media.image}', { media: { image } })) as { urls: unknown }
    expect(result).toEqual({ urls: image })
    expect(Object.getOwnPropertyNames(result.urls)).toEqual(Object.getOwnPropertyNames(image))
  })

  it('join lists, take single files', async () => {
    const media = { image: [file(1)], end_image: [file(2)] }
    expect(await evaluate('[media.image, media.end_image]', { media })).toEqual([file(1), file(2)])
    expect(await evaluate('[media.image, media.mask]', { media })).toEqual([file(1)])
    expect(await evaluate('{"first": media.image[0]}', { media })).toEqual({ first: file(1) })
  })

  it('give plain JSON that survives being stored', async () => {
    const text = '{"a": [1..3], "b": $map([1, 2], function($n) { {"n": $n} }), "c": {"d": $split("x:y", ":")}}'
    const result = await evaluate(text)
    expect(JSON.parse(JSON.stringify(result))).toStrictEqual(result)
  })

  it.each(['function($x) { $x }', '{"f": $sum}', '1 / 0'])('refuse to give what is not JSON: %s', async text => {
    await expect(evaluate(text)).rejects.toThrow(ExpressionError)
  })

  it('tell where the syntax breaks', () => {
    expect(() => compile('{"a": }')).toThrow(ExpressionError)
    try {
      compile('1 + + 2 )')
    } catch (error) {
      expect((error as ExpressionError).offset).toBeGreaterThan(0)
    }
  })

  it('throw an Error with a message when a function is misused', async () => {
    await expect(evaluate('$number("x")')).rejects.toThrow(/Unable to cast value to a number/)
    await expect(evaluate('"a" * 2')).rejects.toBeInstanceOf(ExpressionError)
  })

  it('do not run for ever', async () => {
    const started = Date.now()
    await expect(evaluate('($f := function($n) { $f($n + 1) }; $f(0))')).rejects.toThrow(/1000 milliseconds/)
    await expect(evaluate('($f := function($n) { 1 + $f($n + 1) }; $f(0))')).rejects.toThrow(ExpressionError)
    await expect(evaluate('[1..10000000]')).rejects.toThrow(ExpressionError)
    expect(Date.now() - started).toBeLessThan(5_000)
  })

  it('do not mix up orders evaluated at the same time', async () => {
    const expression = compile('$map([1..20], function($n) { $$.prompt & $n })[19]')
    const results = await Promise.all(
      Array.from({ length: 50 }, (_, n) => expression.evaluate(order({ prompt: `p${n}-` }))),
    )
    expect(results).toEqual(Array.from({ length: 50 }, (_, n) => `p${n}-20`))
  })

  it('treat the prompt as data, whatever it holds', async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: 'grapheme' }), async prompt => {
        expect(await evaluate('{"prompt": prompt}', { prompt })).toEqual({ prompt })
      }),
    )
  })
})

describe('money expressions', () => {
  it.each([
    ['0.05', 50_000n],
    ['0', 0n],
    ['1 / 3', 333_333n],
    ['0.0000005', 1n],
    ['"0.30"', 300_000n],
    ['options.k = "4K" ? 0.30 : 0.18', 180_000n],
    ['$ceil((10000 + 81 * 200 + 4 * 500) / 1000) * 13 / 1000', 377_000n],
    ['0.1 + 0.2', 300_000n],
  ])('%s', async (text, micros) => {
    expect(await compileMoney(text)(order())).toBe(micros)
  })

  it.each(['-0.01', '"x"', '1e12', 'true', 'null', 'options.missing', '[1, 2]', '{"a": 1}', '"1.0000001"'])(
    'gives no amount: %s',
    async text => {
      const run = async () => asMoney(await evaluate(text))
      await expect(run()).rejects.toThrow(RangeError)
    },
  )

  it('never mis-ceils credits written in integers', async () => {
    const cost = compileMoney('$ceil((12000 + options.frames * 200 + options.steps * 400) / 1000) * 13 / 1000')
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 301 }), fc.integer({ min: 1, max: 50 }), async (frames, steps) => {
        const credits = (12_000n + BigInt(frames) * 200n + BigInt(steps) * 400n + 999n) / 1000n
        expect(await cost(order({ options: { frames, steps } }))).toBe(credits * 13_000n)
      }),
    )
  })
})

describe('fields of an upstream', () => {
  it('must be an object', () => {
    expect(asFields({ a: 1 })).toEqual({ a: 1 })
    for (const value of [undefined, null, 'a', 1, [], [{}], file(1)])
      expect(() => asFields(value)).toThrow(ExpressionError)
  })
})

describe('media in an evaluated input', () => {
  it('are found and replaced, also after the input was stored, in order', async () => {
    const media = { image: [file(1), file(2)], mask: [file(3)] }
    const text =
      '{"list": media.image, "one": media.mask[0], "deep": {"a": [{"b": media.image[1]}]}, "n": 5, "z": null}'
    const input: unknown = JSON.parse(JSON.stringify(await evaluate(text, { media })))
    expect(hasMedia(input)).toBe(true)
    const seen: number[] = []
    const placed = await mapMedia(input, async element => {
      seen.push(element.size)
      return `asset-${element.size}`
    })
    expect(placed).toEqual({
      list: ['asset-1000', 'asset-2000'],
      one: 'asset-3000',
      deep: { a: [{ b: 'asset-2000' }] },
      n: 5,
      z: null,
    })
    expect(seen).toEqual([1000, 2000, 3000, 2000])
    expect(hasMedia(placed)).toBe(false)
  })

  it('are nothing that a customer can write', async () => {
    await fc.assert(
      fc.asyncProperty(fc.dictionary(fc.string(), fc.oneof(fc.string(), fc.double(), fc.boolean())), async options => {
        expect(hasMedia(options)).toBe(false)
        expect(await mapMedia(options, async () => 'replaced')).toEqual(options)
      }),
    )
  })

  it('stop at the first that cannot be placed', async () => {
    let calls = 0
    const place = async () => {
      calls += 1
      throw new Error('no space')
    }
    await expect(mapMedia([file(1), file(2)], place)).rejects.toThrow('no space')
    expect(calls).toBe(1)
  })
})
