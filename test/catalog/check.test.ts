import { describe, expect, it } from 'vitest'
import { checkCatalog, loadCatalog } from '../../src/catalog/catalog.ts'
import { StartError } from '../../src/errors.ts'
import { adapters, catalogFile, catalogText } from './files.ts'

/** Mistakes as `line:column message`. */
async function mistakesOf(text: string, env = {}): Promise<string[]> {
  const { mistakes } = await checkCatalog(catalogFile(text), env, adapters)
  return mistakes.map(({ line, column, message }) => `${line}:${column} ${message}`)
}

/** Where the one occurrence of a snippet begins, `line:column`. */
function placeOf(text: string, snippet: string): string {
  const at = text.indexOf(snippet)
  if (at < 0 || text.indexOf(snippet, at + 1) >= 0) throw new Error(`not exactly once: ${snippet}`)
  const before = text.slice(0, at).split('\n')
  return `${before.length}:${(before.at(-1)?.length ?? 0) + 1}`
}

const model = (text: string) => catalogText({ model: text })
const route = (text: string) => catalogText({ route: text })
const provider = (text: string) => catalogText({ provider: text })
const option = (text: string) => model(`options_schema:\n  - ${text}`)
const media = (text: string) => model(`media: ${text}`)

describe('genmux catalog check', () => {
  it('finds nothing wrong with a correct file', async () => {
    expect(await mistakesOf(catalogText())).toEqual([])
  })

  // What is wrong, the file, the snippet that the mistake points at, and what it says.
  it.each<[string, string, string, RegExp]>([
    [
      'a misspelt field',
      model('promt: { mode: required }'),
      'promt:',
      /models\[0\]\.promt: is not a field of the catalog/,
    ],
    ['a model without a name', catalogText().replace('    name: One\n', ''), 'id: 1', /models\[0\]\.name: is missing/],
    ['a price that is no money', catalogText().replace('"0.05"', '"five"'), '"five"', /price_usd: must be an amount/],
    ['a price that is not in quotes', catalogText().replace('"0.05"', '0.05'), '0.05', /must be an amount in quotes/],
    ['a negative price', catalogText().replace('"0.05"', '"-0.05"'), '"-0.05"', /must be an amount/],
    ['a model id that is text', catalogText().replace('id: 1\n', 'id: one\n'), 'one', /models\[0\]\.id: must be a/],
    [
      'an unknown prompt mode',
      model('prompt: { mode: maybe }'),
      'maybe',
      /prompt\.mode: must be required, optional or ignored/,
    ],
    [
      'a route to nobody',
      route(`{ provider: nobody, model: m, input: '{}', cost_usd: "0" }`),
      'nobody',
      /there is no provider nobody/,
    ],
    ['no routes', catalogText({ routes: '[]' }), '[]', /routes/],
    [
      'an unknown adapter',
      provider('{ id: up, kind: odd, base_url: "https://a.b", accounts: [{ id: a, api_key: k }] }'),
      'odd',
      /there is no adapter odd; there are picky, placing, plain, sandbox/,
    ],
    [
      'a provider without accounts',
      provider('{ id: up, kind: plain, base_url: "https://a.b" }'),
      '{ id: up',
      /providers\[0\]\.accounts: is missing/,
    ],
    [
      'a provider without a base URL',
      provider('{ id: up, kind: plain, accounts: [{ id: a, api_key: k }] }'),
      '{ id: up',
      /base_url: is missing/,
    ],
    [
      'a base URL with a path',
      provider('{ id: up, kind: plain, base_url: "https://a.b/api", accounts: [{ id: a, api_key: k }] }'),
      '"https://a.b/api"',
      /must be an origin alone/,
    ],
    [
      'a base URL with a slash',
      provider('{ id: up, kind: plain, base_url: "https://a.b/", accounts: [{ id: a, api_key: k }] }'),
      '"https://a.b/"',
      /must be an origin alone/,
    ],
    [
      'a base URL with a password',
      provider('{ id: up, kind: plain, base_url: "https://u:p@a.b", accounts: [{ id: a, api_key: k }] }'),
      '"https://u:p@a.b"',
      /must be an origin alone/,
    ],
    [
      'a base URL of another protocol',
      provider('{ id: up, kind: plain, base_url: "ftp://a.b", accounts: [{ id: a, api_key: k }] }'),
      '"ftp://a.b"',
      /must be an origin alone/,
    ],
    [
      'a variable that is not closed',
      provider('{ id: up, kind: plain, base_url: "https://a.b", accounts: [{ id: a, api_key: "${KEY" }] }'),
      '"${KEY"',
      /written \$\{NAME\}/,
    ],
    [
      'a variable that is not closed, of an adapter that there is not',
      provider('{ id: up, kind: odd, base_url: "https://a.b", accounts: [{ id: a, api_key: "${KEY" }] }'),
      '"${KEY"',
      /accounts\[0\]\.api_key: a variable is written \$\{NAME\}/,
    ],
    [
      'two accounts of one name',
      provider(
        '{ id: up, kind: plain, base_url: "https://a.b", accounts: [{ id: a, api_key: k }, { id: "a", api_key: k }] }',
      ),
      '"a"',
      /accounts\[1\]\.id: "a" stands twice/,
    ],
    [
      'a limit of nothing',
      provider(
        '{ id: up, kind: plain, base_url: "https://a.b", limits: { concurrent: 0 }, accounts: [{ id: a, api_key: k }] }',
      ),
      '0 }',
      /limits\.concurrent/,
    ],
    [
      'a setting that the adapter does not have',
      provider(
        '{ id: up, kind: plain, base_url: "https://a.b", settings: { colour: red }, accounts: [{ id: a, api_key: k }] }',
      ),
      '{ colour',
      /colour is no setting of plain/,
    ],
    [
      'a wrong setting',
      provider(
        '{ id: up, kind: picky, base_url: "https://a.b", settings: { path: here }, accounts: [{ id: a, api_key: k }] }',
      ),
      'here',
      /settings\.path/,
    ],
    [
      'an expression that is not JSONata',
      route(`{ provider: up, model: m, when: 'prompt = ', input: '{}', cost_usd: "0" }`),
      `'prompt = '`,
      /routes\[0\]\.when: is not JSONata/,
    ],
    [
      'a cost that is neither',
      route(`{ provider: up, model: m, input: '{}', cost_usd: "0.03 USD" }`),
      'USD',
      /cost_usd: is not JSONata/,
    ],
    [
      'an input that gives no object',
      route(`{ provider: up, model: m, input: '[prompt]', cost_usd: "0" }`),
      `'[prompt]'`,
      /input: fails for an order with default options: gives no object/,
    ],
    [
      'a cost that gives no amount',
      route(`{ provider: up, model: m, input: '{}', cost_usd: "options.nothing" }`),
      '"options.nothing"',
      /cost_usd: fails/,
    ],
    ['a price that gives no amount', model('price: $number("x")'), '$number', /price: fails/],
    [
      'a select without choices',
      option('{ key: a, type: select, label: A }'),
      '{ key: a',
      /options_schema\[0\]\.options: is missing/,
    ],
    [
      'a default that is no choice',
      option('{ key: a, type: select, label: A, default: z, options: [{ value: x, label: X }] }'),
      'z,',
      /default: must be one of "x"/,
    ],
    [
      'a choice that is a number',
      option('{ key: a, type: select, label: A, options: [{ value: 5, label: X }] }'),
      '5,',
      /value: must be a string \(in quotes\)/,
    ],
    [
      'a choice twice',
      option('{ key: a, type: select, label: A, options: [{ value: x, label: X }, { value: "x", label: Y }] }'),
      '"x"',
      /"x" stands twice/,
    ],
    [
      'a default out of range',
      option('{ key: a, type: number, label: A, default: 11, min: 1, max: 10 }'),
      '11',
      /default: must be at most 10/,
    ],
    [
      'a default between steps',
      option('{ key: a, type: number, label: A, default: 1.3, min: 1, step: 0.5 }'),
      '1.3',
      /in steps of 0.5 from 1/,
    ],
    [
      'a default of another type',
      option('{ key: a, type: boolean, label: A, default: "yes" }'),
      '"yes"',
      /default: must be true or false/,
    ],
    ['min above max', option('{ key: a, type: number, label: A, min: 7, max: 6 }'), '7', /min: is more than max/],
    [
      'choices of a number',
      option('{ key: a, type: number, label: A, options: [{ value: x, label: X }] }'),
      '[{ value',
      /belongs to type select only/,
    ],
    [
      'an option twice',
      model('options_schema: [{ key: a, type: text, label: A }, { key: "a", type: text, label: B }]'),
      '"a"',
      /"a" stands twice/,
    ],
    [
      'media: min above max',
      media('{ max_count: 3, accepted: [png], inputs: [{ key: image, min: 2, max: 1 }] }'),
      '2,',
      /inputs\[0\]\.min: is more than max/,
    ],
    [
      'media: max above max_count',
      media('{ max_count: 3, accepted: [png], inputs: [{ key: image, max: 4 }] }'),
      '4 }',
      /max: is more than max_count \(3\)/,
    ],
    [
      'media: less room than needed',
      media(
        '{ max_count: 1, accepted: [png], inputs: [{ key: a, max: 1, required: true }, { key: b, max: 1, required: true }] }',
      ),
      '1, accepted',
      /max_count: is less than the inputs need \(2\)/,
    ],
    [
      'media: required, but no inputs',
      media('{ required: true, max_count: 1, accepted: [png] }'),
      'true',
      /there are no inputs/,
    ],
    [
      'media: an input twice',
      media('{ max_count: 1, accepted: [png], inputs: [{ key: a }, { key: "a" }] }'),
      '"a"',
      /a stands twice/,
    ],
    [
      'media: a type that cannot be uploaded',
      media('{ max_count: 1, accepted: [bmp], inputs: [{ key: a }] }'),
      'bmp',
      /must be jpg, jpeg/,
    ],
    [
      'media: a type that the model does not accept',
      media('{ max_count: 1, accepted: [png], inputs: [{ key: a, accepted: [gif] }] }'),
      '[gif]',
      /gif is not among media.accepted/,
    ],
    [
      'a model twice',
      catalogText({ more: '- { id: "x" }' }).replace('"x"', '1'),
      '1 }',
      /models\[1\]\.id: 1 stands twice/,
    ],
  ])('points at %s', async (_, text, snippet, message) => {
    const mistakes = await mistakesOf(text)
    expect(mistakes.join('\n')).toMatch(message)
    expect(mistakes.find(mistake => message.test(mistake))?.split(' ')[0]).toMatch(
      // An expression that breaks in the middle is pointed at there: on the same line.
      /JSONata/.test(message.source)
        ? new RegExp(`^${placeOf(text, snippet).split(':')[0]}:`)
        : new RegExp(`^${placeOf(text, snippet)}$`),
    )
  })

  it('points into an expression of several lines', async () => {
    const text = catalogText({
      routes: [
        '- provider: up',
        '  model: m',
        '  input: |',
        '    { "prompt": prompt,',
        '',
        '      "size": ] }',
        '  cost_usd: "0"',
      ].join('\n'),
    })
    const [mistake, ...others] = await mistakesOf(text)
    expect(others).toEqual([])
    expect(mistake).toMatch(/input: is not JSONata/)
    expect(mistake?.split(':')[0]).toBe(placeOf(text, '"size"').split(':')[0])
  })

  it('lists every mistake at once, in the order of the lines', async () => {
    const text = catalogText({
      provider: '{ id: up, kind: odd, base_url: "x", accounts: [] }',
      model: 'promt: 1\noptions_schema:\n  - { key: a, type: number, label: A, default: x }',
      routes: [
        `- { provider: nobody, model: m, when: '(', input: '{', cost_usd: "-1" }`,
        `- { provider: up, model: 5, input: '{}' }`,
      ].join('\n'),
      more: '- { id: 1, name: Two, type: image, price_usd: free, routes: [] }',
    })
    const mistakes = await mistakesOf(text)
    for (const expected of [
      /adapter odd/,
      /accounts/,
      /promt/,
      /default: must be a number/,
      /no provider nobody/,
      /when: is not JSONata/,
      /input: is not JSONata/,
      /cost_usd: must not be negative/,
      /routes\[1\]\.model: must be a string/,
      /routes\[1\]\.cost_usd: is missing/,
      /models\[1\]\.id: 1 stands twice/,
      /models\[1\]\.price_usd/,
      /models\[1\]\.routes/,
    ]) {
      expect(
        mistakes.filter(mistake => expected.test(mistake)),
        String(expected),
      ).toHaveLength(1)
    }
    const lines = mistakes.map(mistake => Number.parseInt(mistake, 10))
    expect(lines).toEqual([...lines].sort((a, b) => a - b))
  })

  it('tells of one wrong value once, however many models use it', async () => {
    const text = catalogText({
      model: 'options_schema: [&o { key: a, type: number, label: A, default: x }]',
      more: `- { id: 2, name: Two, type: image, price_usd: "0", options_schema: [*o], routes: [{ provider: up, model: m, input: '{}', cost_usd: "0" }] }`,
    })
    expect(await mistakesOf(text)).toEqual([
      `${placeOf(text, 'x }]')} models[0].options_schema[0].default: must be a number`,
    ])
  })

  it.each<[string, string, RegExp]>([
    ['is not YAML', 'providers: [', /^1:1\d /],
    ['has a key twice', 'providers: []\nproviders: []\n', /^2:1 .*unique/],
    ['is empty', '', /must be a mapping/],
    ['is a list', '- 1', /^1:1 must be a mapping/],
    ['is two documents', 'a: 1\n---\nb: 2\n', /multiple documents/],
    ['uses an alias that does not exist', 'providers: *p\nmodels: []\n', /alias/i],
  ])('explains a file that %s', async (_, text, message) => {
    expect((await mistakesOf(text)).join('\n')).toMatch(message)
  })

  it('explains a file that cannot be read', async () => {
    const { mistakes } = await checkCatalog('/nowhere/catalog.yaml', {}, adapters)
    expect(mistakes).toEqual([{ line: 1, column: 1, message: 'the catalog cannot be read: there is no such file' }])
    expect((await checkCatalog('/', {}, adapters)).mistakes[0]?.message).toMatch(/directory/)
  })

  it('summarises a correct file', async () => {
    const text = catalogText({
      routes: [
        `- { provider: up, model: m, input: '{}', cost_usd: "0" }`,
        `- { provider: up, model: n, input: '{}', cost_usd: "0", enabled: false, disabled_reason: too slow }`,
      ].join('\n'),
    })
    const { mistakes, catalog } = await checkCatalog(catalogFile(text), {}, adapters)
    expect(mistakes).toEqual([])
    expect(catalog).toEqual({
      providers: 2,
      models: 1,
      routes: 2,
      sold: 1,
      unusable: [{ model: 1, provider: 'up', route: 'n', reason: 'too slow' }],
    })
  })

  it('never shows a key', async () => {
    const text = provider('{ id: up, kind: plain, base_url: "https://a.b", accounts: [{ id: a, api_key: "${KEY}" }] }')
    const mistakes = await mistakesOf(text, { KEY: 'secret key\n' })
    expect(mistakes).toHaveLength(1)
    expect(mistakes[0]).toMatch(/api_key: the key has characters/)
    expect(mistakes[0]).not.toMatch(/secret/)
  })
})

describe('starting with a broken catalog', () => {
  const options = { env: {}, sandbox: undefined, publicUrlIsSet: false, adapters } as const

  it('prints one line: the first mistake, how many more, and the remedy', async () => {
    const file = catalogFile(catalogText({ model: 'promt: 1\nprise: 2' }))
    const error = await loadCatalog(file, options).catch((reason: unknown) => reason)
    expect(error).toBeInstanceOf(StartError)
    expect((error as Error).message).toBe(
      `CATALOG_FILE ${file}:9:5: models[0].promt: is not a field of the catalog (and 1 more: genmux catalog check ${file})`,
    )
  })

  it('names the file that is missing', async () => {
    await expect(loadCatalog('/nowhere.yaml', options)).rejects.toThrow('/nowhere.yaml:1:1: the catalog cannot be read')
  })
})
