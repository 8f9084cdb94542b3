import { createHash } from 'node:crypto'

/** Numbers that only the seed decides. */
export interface Random {
  /** 0 ≤ x < 1. */
  next(): number
  /** Whole, `from` ≤ x ≤ `to`. */
  between(from: number, to: number): number
  pick<T>(items: readonly T[]): T
}

/** Two with equal seeds give the same numbers (mulberry32). */
export function seeded(...seed: readonly (string | number)[]): Random {
  let state = createHash('sha256').update(seed.join('/')).digest().readUInt32LE()
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const between = (from: number, to: number) => from + Math.floor(next() * (to - from + 1))
  return {
    next,
    between,
    pick: items => items[between(0, items.length - 1)] as (typeof items)[number],
  }
}
