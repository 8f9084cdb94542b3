import type { Db } from '../db/pool.ts'

const OFF = { name: 'switched_off', text: 'SELECT provider FROM provider_switches WHERE NOT enabled' }
/** An answer holds for so long, and is asked for again ahead of its end. */
const FRESH_MS = 1_000
const RENEW_MS = 500

/** Providers that an operator switched off, as the database said at most a second ago. */
export function createSwitches(db: Db): { off(): Promise<ReadonlySet<string>> } {
  let known: ReadonlySet<string> = new Set()
  let readAt = Number.NEGATIVE_INFINITY
  let reading: Promise<ReadonlySet<string>> | undefined

  async function read(): Promise<ReadonlySet<string>> {
    const askedAt = performance.now()
    try {
      known = new Set((await db.run<{ provider: string }>(OFF, [])).map(row => row.provider))
      readAt = askedAt
      return known
    } finally {
      reading = undefined
    }
  }

  return {
    async off() {
      const age = performance.now() - readAt
      if (age < RENEW_MS) return known
      reading ??= read()
      if (age >= FRESH_MS) return reading
      reading.catch(() => {})
      return known
    },
  }
}
