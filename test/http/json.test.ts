import fc from 'fast-check'
import { expect, test } from 'vitest'
import { parseJson } from '../../src/http/json.ts'

const parse = (text: string) => parseJson(Buffer.from(text))
const refusal = expect.objectContaining({ code: 'validation_error', status: 400 })

test('reads every JSON document as JSON.parse does', () => {
  const document = fc.jsonValue({ maxDepth: 6 }).filter(value => !JSON.stringify(value).includes('__proto__'))
  fc.assert(
    fc.property(document, fc.constantFrom(undefined, 2), (value, indent) => {
      const text = JSON.stringify(value, null, indent)
      if (text.includes('\\u0000') || !JSON.stringify(value).isWellFormed()) return
      // JSON.stringify writes lone surrogates as escapes, which are refused.
      if (/\\ud[89a-f]/i.test(text)) return
      expect(parse(text)).toEqual(JSON.parse(text))
    }),
  )
})

test.each([
  ['nothing that is JSON', '{"a":'],
  ['two documents', '{} {}'],
  ['a repeated key', '{"a":1,"a":2}'],
  ['a repeated key, differently escaped', '{"ab":1,"\\u0061b":2}'],
  ['a repeated key deep inside', '[{"x":{"y":[1,{"k":"}","z":2,"k":3}]}}]'],
  ['a lone surrogate', '{"a":"\\ud800"}'],
  ['a lone surrogate in a key', '{"\\udfff":1}'],
  ['a NUL character', '["\\u0000"]'],
  ['a number beyond a double', '{"a":-1e999}'],
  ['the key __proto__', '{"__proto__":{}}'],
  ['nesting deeper than 64', `${'['.repeat(65)}${']'.repeat(65)}`],
])('refuses %s', (_what, text) => {
  expect(() => parse(text)).toThrow(refusal)
})

test('refuses bytes that are not UTF-8', () => {
  expect(() => parseJson(Buffer.from([0x22, 0xc3, 0x28, 0x22]))).toThrow(refusal)
})

test('keys may repeat in different objects, and quotes, braces and commas in strings mean nothing', () => {
  const text = '{"a":{"b":"\\"b\\":{,"},"b":[{"a":1},{"a":"\\\\"}],"c":"😀\\ud83d\\ude00"}'
  expect(parse(text)).toEqual(JSON.parse(text))
  expect(parse(`${'['.repeat(64)}${']'.repeat(64)}`)).toBeDefined()
})

test('an empty body is no value', () => {
  expect(parseJson(Buffer.alloc(0))).toBeUndefined()
})
