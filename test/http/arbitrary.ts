import fc from 'fast-check'

/** The part of JSON Schema that our OpenAPI document uses. */
export interface Schema {
  readonly type?: string | readonly string[]
  readonly enum?: readonly unknown[]
  readonly anyOf?: readonly Schema[]
  readonly properties?: Readonly<Record<string, Schema>>
  readonly required?: readonly string[]
  readonly additionalProperties?: boolean | Schema
  readonly items?: Schema
  readonly format?: string
  readonly minimum?: number
  readonly maximum?: number
  readonly minLength?: number
  readonly maxLength?: number
  readonly minItems?: number
  readonly maxItems?: number
}

/** Values that mean something here, by the name of the member or parameter: half of what is made is one of them. */
export type Hints = Readonly<Record<string, fc.Arbitrary<unknown>>>

const BOUND = 1_000_000_000
/** Strings without what no JSON may hold here: NUL and half characters. */
const text = (from: number, to: number) =>
  fc
    .string({ unit: 'binary', minLength: from, maxLength: Math.max(from, Math.min(to, 300)) })
    .map(s => s.replaceAll('\0', '0'))

/** Values that a schema allows. */
export function valid(schema: Schema, hints: Hints, name = ''): fc.Arbitrary<unknown> {
  const made = byForm(schema, hints)
  const hint = hints[name]
  return hint ? fc.oneof(hint, made) : made
}

function byForm(schema: Schema, hints: Hints): fc.Arbitrary<unknown> {
  if (schema.enum) return fc.constantFrom(...schema.enum)
  if (schema.anyOf) return fc.oneof(...schema.anyOf.map(one => valid(one, hints)))
  const types = [schema.type ?? 'object'].flat()
  return fc.oneof(...types.map(type => byType(type, schema, hints)))
}

function byType(type: string, schema: Schema, hints: Hints): fc.Arbitrary<unknown> {
  const { minimum = -BOUND, maximum = BOUND, minLength = 0, maxLength = 40, minItems = 0, maxItems = 4 } = schema
  switch (type) {
    case 'string':
      if (schema.format === 'date')
        return fc.date({ min: new Date('2020-01-01'), max: new Date('2030-01-01'), noInvalidDate: true }).map(day)
      return text(minLength, maxLength)
    case 'integer':
      return fc.integer({ min: Math.max(minimum, -BOUND), max: Math.min(maximum, BOUND) })
    case 'number':
      return fc.double({ min: minimum, max: maximum, noNaN: true, noDefaultInfinity: true })
    case 'boolean':
      return fc.boolean()
    case 'null':
      return fc.constant(null)
    case 'array':
      return fc.array(valid(schema.items ?? {}, hints), { minLength: minItems, maxLength: maxItems })
    default:
      return object(schema, hints)
  }
}

function day(date: Date): string {
  return date.toISOString().slice(0, 10)
}

function object({ properties = {}, required = [], additionalProperties }: Schema, hints: Hints): fc.Arbitrary<unknown> {
  if (typeof additionalProperties === 'object') {
    const key = hints.key ? fc.oneof(hints.key, text(1, 20)) : text(1, 20)
    return fc.dictionary(key.map(String), valid(additionalProperties, hints), { maxKeys: 3, noNullPrototype: true })
  }
  const members = Object.entries(properties).map(([name, schema]) => [name, valid(schema, hints, name)] as const)
  return fc.record(Object.fromEntries(members), { requiredKeys: [...required], noNullPrototype: true })
}

/** Bodies, as text, that a closed object schema does not allow, each with what is wrong with it. */
export function broken(schema: Schema, hints: Hints): fc.Arbitrary<{ why: string; body: string }> {
  const base = valid(schema, hints) as fc.Arbitrary<Record<string, unknown>>
  const names = Object.keys(schema.properties ?? {})
  const required = schema.required ?? []
  const ways: fc.Arbitrary<{ why: string; body: string }>[] = [
    fc
      .constantFrom('', '{', '{"a":1,}', '[]', '"text"', '7', 'null', '{"a":1,"a":2}', '\uFEFF{', 'undefined')
      .map(body => ({
        why: 'is no object',
        body,
      })),
    base.map(body => ({ why: 'has an unknown member', body: JSON.stringify({ ...body, no_such_member: 1 }) })),
    fc.tuple(base, fc.constantFrom(...names)).map(([body, name]) => ({
      why: `${name} is of no known type`,
      body: JSON.stringify({ ...body, [name]: [{ no: ['such', 'type'] }] }),
    })),
    base.map(body => ({
      why: 'is nested too deep',
      body: JSON.stringify({ ...body, [names[0] as string]: nested(80) }),
    })),
  ]
  if (required.length > 0)
    ways.push(
      fc.tuple(base, fc.constantFrom(...required)).map(([body, name]) => {
        const { [name]: _, ...rest } = body
        return { why: `${name} is missing`, body: JSON.stringify(rest) }
      }),
    )
  return fc.oneof(...ways)
}

function nested(depth: number): unknown {
  return depth === 0 ? 1 : [nested(depth - 1)]
}
