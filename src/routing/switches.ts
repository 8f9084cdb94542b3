import type { Db } from '../db/pool.ts'

const OFF = { name: 'switched_off', text: 'SELECT provider FROM provider_switches WHERE NOT enabled' }
const FRESH_MS = 1_000

/** Providers that an operator switched off, read at most once a second. */
export function createSwitches(db: Db): { off(): Promise<ReadonlySet<string>> } {
  let known: ReadonlySet<string> = new Set()
  let readAt = Number.NEGATIVE_INFINITY
  return {
    async off() {
      if (performance.now() - readAt >= FRESH_MS) {
        readAt = performance.now()
        known = new Set((await db.run<{ provider: string }>(OFF, [])).map(row => row.provider))
      }
      return known
    },
  }
}
