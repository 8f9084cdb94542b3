/** Amounts come as decimal strings of US dollars. They are summed as whole micro-dollars (bigint), never as floats. */

/** `"-3.5"` → `-3500000n` */
export function micros(usd) {
  const [, sign, whole, fraction = ''] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(usd)
  const amount = BigInt(whole) * 1_000_000n + BigInt(fraction.padEnd(6, '0'))
  return sign ? -amount : amount
}

/** `-3500000n` → `"-3.50"` */
export function decimal(amount) {
  const digits = String(amount < 0n ? -amount : amount).padStart(7, '0')
  const fraction = digits.slice(-6).replace(/0{1,4}$/, '')
  return `${amount < 0n ? '-' : ''}${digits.slice(0, -6)}.${fraction}`
}

/** The sum of the amounts that `get` finds in the rows, as a decimal string. */
export function sum(rows, get) {
  return decimal(rows.reduce((total, row) => total + micros(get(row)), 0n))
}

/** `"-1234.5"` → `"−$1,234.50"` */
export function dollars(usd) {
  const [whole, fraction = ''] = usd.replace('-', '').split('.')
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ',')
  return `${usd.startsWith('-') ? '−' : ''}$${grouped}.${fraction.padEnd(2, '0')}`
}
