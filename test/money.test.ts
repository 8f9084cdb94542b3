import fc from 'fast-check'
import { expect, test } from 'vitest'
import { formatMoney, parseMoney, roundToMicros } from '../src/money.ts'

test('an amount is written with two to six decimals and no trailing zeros past two', () => {
  expect(formatMoney(124_500_000n)).toBe('124.50')
  expect(formatMoney(37_500n)).toBe('0.0375')
  expect(formatMoney(0n)).toBe('0.00')
  expect(formatMoney(1n)).toBe('0.000001')
  expect(formatMoney(-50_000n)).toBe('-0.05')
  expect(formatMoney(100_000n)).toBe('0.10')
})

test('what is not a plain decimal amount is refused', () => {
  for (const text of [
    '',
    ' 1',
    '1 ',
    '+1',
    '1e3',
    '01',
    '.5',
    '1.',
    '1.0000001',
    '1,5',
    'NaN',
    '0x1',
    '١',
    '1234567890123',
  ])
    expect(parseMoney(text), text).toBeUndefined()
})

test('every amount survives writing and reading', () => {
  fc.assert(
    fc.property(
      fc.bigInt({ min: -(10n ** 17n), max: 10n ** 17n }),
      micros => parseMoney(formatMoney(micros)) === micros,
    ),
    { numRuns: 5_000 },
  )
})

test('dollars of an expression are rounded half-up by their decimal form', () => {
  expect(roundToMicros(0.18)).toBe(180_000n)
  expect(roundToMicros(0.0000005)).toBe(1n)
  expect(roundToMicros(1.0000005)).toBe(1_000_001n)
  expect(roundToMicros(0.0000004)).toBe(0n)
  expect(roundToMicros(-0.0000005)).toBe(0n)
  expect(roundToMicros(2.675e2)).toBe(267_500_000n)
  expect(roundToMicros(1e-20)).toBe(0n)
  expect(() => roundToMicros(Number.NaN)).toThrow(RangeError)
  expect(() => roundToMicros(Number.POSITIVE_INFINITY)).toThrow(RangeError)
})

test('whole micro-dollars pass through rounding unchanged', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: -1_000_000_000, max: 1_000_000_000 }),
      micros => roundToMicros(micros / 1e6) === BigInt(micros),
    ),
    { numRuns: 5_000 },
  )
})
