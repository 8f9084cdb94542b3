/** An amount in micro-dollars: 1 USD = 1_000_000n. Money is never a float. */
export type Micros = bigint

const PATTERN = /^(-?)(0|[1-9]\d{0,11})(?:\.(\d{1,6}))?$/

/**
 * Reads a decimal string of US dollars: `"0.05"`, `"124.5"`, `"-3"`. At most twelve digits before and six after the
 * point; no exponent, no plus sign, no leading zeros, no white space. Returns undefined for anything else.
 */
export function parseMoney(text: string): Micros | undefined {
  const match = PATTERN.exec(text)
  if (!match) return undefined
  const [, sign, whole, fraction = ''] = match
  const micros = BigInt(whole as string) * 1_000_000n + BigInt(fraction.padEnd(6, '0'))
  return sign ? -micros : micros
}

/** Writes micro-dollars as on the wire: at least two decimals, at most six, no trailing zeros past two. */
export function formatMoney(micros: Micros): string {
  const absolute = micros < 0n ? -micros : micros
  const fraction = (absolute % 1_000_000n)
    .toString()
    .padStart(6, '0')
    .replace(/0{1,4}$/, '')
  return `${micros < 0n ? '-' : ''}${absolute / 1_000_000n}.${fraction}`
}

/**
 * Rounds the result of a money expression (a number of dollars) half-up to a micro-dollar. It works on the number's
 * shortest decimal form, so 0.0000005 is half and rounds up. Throws a RangeError when it is not a finite amount below 10^12.
 */
export function roundToMicros(dollars: number): Micros {
  if (!Number.isFinite(dollars) || Math.abs(dollars) >= 1e12) throw new RangeError(`not an amount of money: ${dollars}`)
  const [mantissa, exponent] = dollars.toExponential().split('e') as [string, string]
  const negative = mantissa.startsWith('-')
  const [whole, fraction = ''] = mantissa.replace('-', '').split('.') as [string, string?]
  const shift = Number(exponent) + 6 - fraction.length
  const digits = BigInt(whole + fraction)
  if (shift >= 0) return (negative ? -1n : 1n) * digits * 10n ** BigInt(shift)
  const unit = 10n ** BigInt(-shift)
  const rounded = negative ? -((digits * 2n + unit - 1n) / (unit * 2n)) : (digits * 2n + unit) / (unit * 2n)
  return rounded
}
