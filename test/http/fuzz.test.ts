import fc from 'fast-check'
import { expect, test } from 'vitest'
import { z } from 'zod'
import { makePng } from '../simulators/files.ts'
import { ADMIN_TOKEN, build, type TestAnswer } from '../server.ts'
import { broken, type Hints, type Schema, valid } from './arbitrary.ts'

/*
 * Every operation of the OpenAPI document, with requests that it allows and requests that it does not: whatever comes, the
 * answer is one that the document describes, and what the document does not allow is refused. FUZZ_RUNS sets how many of
 * each every operation gets.
 */

const RUNS = Number(process.env.FUZZ_RUNS ?? 500)
const SEED = 20_260_501
const PARALLEL = 8

const { call, customer, addCustomer, db } = await build({ env: { RATE_LIMIT_PER_MINUTE: '10000000' } })
const document = inlined((await call('GET', '/openapi.json')).body)

interface Operation {
  readonly method: string
  readonly path: string
  readonly secret: string | undefined
  readonly parameters: readonly { name: string; in: string; required?: boolean; schema: Schema }[]
  readonly body: Schema | undefined
  readonly multipart: boolean
  readonly answers: ReadonlyMap<number, z.ZodType | undefined>
}

/** What the requests speak of. Admin requests change a customer and a key that nothing else needs. */
const scapegoat = await addCustomer()
const scapekey = await scapegoat.addKey()
const form = new FormData()
form.set('file', new Blob([new Uint8Array(makePng(1))]), 'a.png')
const uploaded = await sendForm(form, customer.key)
const tmpPath = JSON.parse(uploaded.text).upload.tmp_path as string
const orders = await Promise.all(
  [20, 5].map(async model_id => (await customer.post('/orders', { model_id, prompt: 'a lighthouse' })).body.order.id),
)
/** Some come again, with the same data or other, and some are new. */
const KEYS = fc.oneof(fc.constantFrom('one', 'two', '!'), fc.stringMatching(/^[!-~]{8,20}$/))
const HINTS: Hints = {
  token: fc.constantFrom(tmpPath.slice(4), 'a'.repeat(32), '..%2f..%2fetc'),
  tmp_path: fc.constantFrom(tmpPath, 'tmp/none', '../x'),
  model_id: fc.constantFrom(5, 7, 9, 20, 30),
  prompt: fc.constantFrom('a lighthouse', ''),
  media: fc.constantFrom({}, { image: [tmpPath] }, { image: [tmpPath, tmpPath, tmpPath] }, { image: ['tmp/none'] }),
  options: fc.constantFrom({}, { aspect_ratio: '16:9' }, { seconds: 3 }, { seconds: 1e308 }, { sound: true }),
  callback_url: fc.constantFrom('https://example.com/hook', 'http://127.0.0.1/', 'https://[::1]/', 'no url'),
  amount_usd: fc.constantFrom('1.00', '0.000001', '-1', '1000000', '1e3', '0'),
  cursor: fc.constantFrom(orders[0] as string, '1', '0', '-1', '9'.repeat(30)),
  'idempotency-key': KEYS,
  'Idempotency-Key': KEYS,
}

/** Mostly an id of the right kind. */
function idFor(path: string): fc.Arbitrary<string> {
  const [, kind = ''] = /\/(\w+)\/\{id\}/.exec(path) ?? []
  const right = { customers: [scapegoat.id], keys: [scapekey.id], orders, providers: ['other'] }[kind] ?? orders
  return fc.oneof({ arbitrary: fc.constantFrom(...right), weight: 5 }, fc.constantFrom('ord_none', '%', "'; --"))
}

const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, described]): Operation => {
    const admin = path.startsWith('/admin')
    const content = described.requestBody?.content
    return {
      method: method.toUpperCase(),
      path,
      secret: described.security?.length === 0 ? undefined : admin ? ADMIN_TOKEN : customer.key,
      parameters: described.parameters ?? [],
      body: content?.['application/json']?.schema,
      multipart: content?.['multipart/form-data'] !== undefined,
      answers: new Map(
        Object.entries(described.responses).map(([status, { content }]) => {
          const schema = content?.['application/json']?.schema
          return [Number(status), schema && z.fromJSONSchema(schema as z.core.JSONSchema.JSONSchema)]
        }),
      ),
    }
  }),
)
/** Operations whose valid requests were granted at least once. */
const granted = new Set<string>()
const title = ({ method, path }: Operation) => `${method} ${path}`

test.each(operations.map(operation => [title(operation), operation] as const))(
  '%s answers whatever it allows as it says',
  async (_title, operation) => {
    await check(requestTo(operation), async request => {
      const answer = await send(operation, request)
      conforms(operation, answer, request)
      if (answer.status < 300) granted.add(title(operation))
    })
  },
)

test('of all that is allowed, only what needs a provider was never granted', () => {
  expect(operations.map(title).filter(name => !granted.has(name))).toEqual([
    'GET /g/{token}',
    'HEAD /g/{token}',
    'POST /admin/v1/orders/{id}/resolve',
    'POST /api/v1/orders/{id}/cancel',
  ])
})

test.each(
  operations
    .filter(operation => operation.secret ?? operation.body ?? operation.path.includes('{'))
    .map(operation => [title(operation), operation] as const),
)('%s refuses what it does not allow', async (_title, operation) => {
  await check(brokenRequestTo(operation), async request => {
    const answer = await send(operation, request)
    conforms(operation, answer, request)
    expect(answer.status, `${request.why}: ${JSON.stringify(request)} → ${answer.text}`).toBeGreaterThanOrEqual(400)
  })
})

test('none of it broke the ledger or asked for more than there was', async () => {
  const rows = await db.pool.query('SELECT FROM customers WHERE available < 0 OR held < 0')
  expect(rows.rowCount).toBe(0)
  expect((await call('GET', '/healthz')).status).toBe(200)
})

interface Request {
  readonly path: string
  readonly headers: Record<string, string>
  readonly body?: string | undefined
  /** The file of a multipart body, and its field. */
  readonly file?: { field: string; name: string; bytes: Uint8Array<ArrayBuffer> } | undefined
  readonly secret: string | undefined
  /** What is wrong with it. */
  readonly why?: string
}

/** Runs the property on RUNS generated requests, some at a time. */
async function check(requests: fc.Arbitrary<Request>, holds: (request: Request) => Promise<void>): Promise<void> {
  const samples = fc.sample(requests, { numRuns: RUNS, seed: SEED }).values()
  await Promise.all(
    Array.from({ length: PARALLEL }, async () => {
      for (const sample of samples) await holds(sample)
    }),
  )
}

function requestTo(operation: Operation): fc.Arbitrary<Request> {
  const values = Object.fromEntries(
    operation.parameters.map(({ name, required, schema }) => {
      const value = valid(schema, { ...HINTS, id: idFor(operation.path) }, name).map(String)
      return [name, required ? value : fc.option(value, { nil: undefined })]
    }),
  )
  return fc
    .record({
      parameters: fc.record(values),
      body: operation.body ? valid(operation.body, HINTS).map(body => JSON.stringify(body)) : fc.constant(undefined),
      file: operation.multipart ? file('file') : fc.constant(undefined),
    })
    .map(({ parameters, body, file }) => ({
      ...placed(operation, parameters as Record<string, string | undefined>),
      body,
      file,
      secret: operation.secret,
    }))
}

const file = (field: string) =>
  fc.record({
    field: fc.constant(field),
    name: fc.constantFrom('a.png', 'a.jpg', 'a.heic', 'a', '../a.png', 'ä\u202e.png', 'x'.repeat(300)),
    bytes: fc.oneof(
      fc.integer({ min: 0, max: 9_999 }).map(seed => new Uint8Array(makePng(seed))),
      fc.uint8Array({ maxLength: 5_000 }).map(bytes => new Uint8Array(bytes)),
    ),
  })

function placed({ path, parameters }: Operation, values: Record<string, string | undefined>) {
  let filled = path
  const query = new URLSearchParams()
  const headers: Record<string, string> = {}
  for (const { name, in: where } of parameters) {
    const value = values[name]
    if (value === undefined) continue
    if (where === 'path') filled = filled.replace(`{${name}}`, segment(value))
    else if (where === 'query') query.set(name, value)
    // What HTTP itself does not carry cannot be sent.
    else if (/^[\x21-\x7e]*$/.test(value)) headers[name] = value
  }
  return { path: query.size > 0 ? `${filled}?${query.toString()}` : filled, headers }
}

/** No client sends an empty segment, or one that leads upwards, to a route. */
function segment(value: string): string {
  return /^\.{0,2}$/.test(value) ? '-' : encodeURIComponent(value.toWellFormed())
}

function brokenRequestTo(operation: Operation): fc.Arbitrary<Request> {
  const base = requestTo(operation)
  const ways: fc.Arbitrary<Request>[] = []
  if (operation.secret !== undefined) {
    const junk = fc.constantFrom(
      undefined,
      'junk',
      `${operation.secret.slice(0, -1)}~`,
      'gm_live_0000000000000000000000000000',
    )
    ways.push(fc.tuple(base, junk).map(([request, secret]) => ({ ...request, secret, why: 'no such key' })))
  }
  if (operation.body) {
    const bodies = broken(operation.body, HINTS)
    ways.push(fc.tuple(base, bodies).map(([request, { why, body }]) => ({ ...request, body, why })))
    const types = fc.constantFrom('text/plain', 'application/xml', 'application/json; charset=utf-16')
    ways.push(
      fc.tuple(base, types).map(([request, type]) => ({
        ...request,
        headers: { ...request.headers, 'content-type': type },
        why: 'a type of content that is not taken',
      })),
    )
  }
  if (operation.multipart) {
    ways.push(fc.tuple(base, file('other')).map(([request, file]) => ({ ...request, file, why: 'another field' })))
    ways.push(base.map(request => ({ ...request, file: undefined, body: '{}', why: 'no form' })))
  }
  for (const { name, in: where, schema } of operation.parameters) {
    if (where !== 'query' || (schema.type === 'string' && !schema.enum && !schema.maxLength && !schema.format)) continue
    const value = fc.constantFrom(schema.type === 'integer' ? '1.5' : 'x'.repeat(5_000), '\u0000'.repeat(300))
    ways.push(
      fc.tuple(base, value).map(([request, value]) => {
        const url = new URL(request.path, 'http://x')
        url.searchParams.set(name, value)
        return { ...request, path: url.pathname + url.search, why: `${name} is not allowed` }
      }),
    )
  }
  if (operation.path.includes('{')) {
    const none = fc.constantFrom('none', '%00', '%ff', 'ord_%0a', 'x'.repeat(3_000))
    ways.push(
      none.map(id => ({
        path: operation.path.replace(/\{\w+\}/, id),
        headers: {},
        secret: operation.secret,
        body: operation.body && '{}',
        why: 'nobody of that name',
      })),
    )
  }
  return fc.oneof(...ways)
}

async function send({ method }: Operation, request: Request): Promise<TestAnswer> {
  const { path, headers, body, secret: key } = request
  if (!request.file) return call(method, path, { key, headers, body })
  const form = new FormData()
  form.set(request.file.field, new Blob([request.file.bytes]), request.file.name)
  return sendForm(form, key)
}

async function sendForm(form: FormData, key: string | undefined): Promise<TestAnswer> {
  const packed = new Response(form)
  const headers = { 'content-type': packed.headers.get('content-type') as string }
  return call('POST', '/api/v1/upload', { key, headers, body: new Uint8Array(await packed.arrayBuffer()) })
}

/** The status is one that the operation names, the body has the form that it gives it, and it is no fault of ours. */
function conforms({ method, answers }: Operation, answer: TestAnswer, request: Request): void {
  const what = `${method} ${JSON.stringify(request).slice(0, 1_000)} → ${answer.status} ${answer.text.slice(0, 500)}`
  expect(answer.status === 503 || answer.status < 500, what).toBe(true)
  expect([...answers.keys()], what).toContain(answer.status)
  const schema = answers.get(answer.status)
  if (!schema || method === 'HEAD') return
  expect(schema.safeParse(answer.body).error?.message, what).toBeUndefined()
}

interface Described {
  readonly parameters?: Operation['parameters']
  readonly requestBody?: { content: Record<string, { schema: Schema }> }
  readonly responses: Record<string, { content?: Record<string, { schema: object }> }>
  readonly security?: object[]
}

/** The document with every reference replaced by what it refers to; none refers to itself. */
function inlined(document: { components: { schemas: Record<string, unknown> } }): {
  paths: Record<string, Record<string, Described>>
} {
  const inline = (part: unknown): unknown => {
    if (Array.isArray(part)) return part.map(inline)
    if (typeof part !== 'object' || part === null) return part
    const { $ref } = part as { $ref?: string }
    if ($ref !== undefined) return inline(document.components.schemas[$ref.slice('#/components/schemas/'.length)])
    return Object.fromEntries(Object.entries(part).map(([name, value]) => [name, inline(value)]))
  }
  return inline(document) as ReturnType<typeof inlined>
}
