import { getHeapStatistics } from 'node:v8'

const EVERY_MS = 250
/** An event loop that is so late makes answers that come too late to be of use. */
const LATE_MS = 1_000
/** Once may be the machine's doing; so many times running it is overload. */
const TIMES = 3
const HEAP_SHARE = 0.9
/** So long after the last sign of it. */
const LASTS_MS = 1_000
/** What loading the program held up is no overload: this long after the start nothing is refused for it. */
const START_GRACE_MS = 3_000

export interface Strain {
  isFelt(): boolean
  stop(): void
}

/** Watches over what a bound on requests does not see: an event loop that is held up, and memory that runs out. */
export function watchStrain(): Strain {
  let feltUntil = 0
  let late = 0
  let due = performance.now() + START_GRACE_MS
  const timer = setInterval(() => {
    const at = performance.now()
    const { used_heap_size: used, heap_size_limit: limit } = getHeapStatistics()
    late = at - due > LATE_MS ? late + 1 : 0
    if (late >= TIMES || used > limit * HEAP_SHARE) feltUntil = at + LASTS_MS
    due = Math.max(due, at + EVERY_MS)
  }, EVERY_MS)
  timer.unref()
  return {
    isFelt: () => performance.now() < feltUntil,
    stop: () => clearInterval(timer),
  }
}
