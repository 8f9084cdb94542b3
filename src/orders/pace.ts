const TICK_MS = 200
const QUIET_AFTER_MS = 60_000
/** When it is quiet, one tick in so many is taken. */
const QUIET_TICKS = 5

/** How often the loops look for work by themselves: five times a second, or once when there was none for a minute. */
export interface Pace {
  /** There is work. */
  stir(): void
  /** Calls `look` from now on. Returns how to stop it. */
  every(look: () => void): () => void
}

export function createPace(): Pace {
  let stirredAt = Number.NEGATIVE_INFINITY
  return {
    stir() {
      stirredAt = performance.now()
    },
    every(look) {
      let ticks = 0
      const ticker = setInterval(() => {
        ticks += 1
        const quiet = performance.now() - stirredAt > QUIET_AFTER_MS
        if (!quiet || ticks % QUIET_TICKS === 0) look()
      }, TICK_MS)
      return () => clearInterval(ticker)
    },
  }
}
