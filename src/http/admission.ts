/** So many requests under way at once are never an overload. */
const USUAL = 512
/** What a process has room for. */
const MOST = 5_000
/** What lasts longer is no burst but an overload; it is over when nothing had to be refused for as long. */
const BURST_MS = 1_000
/** How long a request may have to wait for those before it, in an overload. */
const WAIT_MS = 1_000
const WINDOW_MS = 500
/** What was possible is believed possible for a while, fading by this much a window: refusing itself slows a process down. */
const FADES = 0.97

export interface Admission {
  /** Whether a request that comes now must be refused. */
  isFull(): boolean
  /** A request has come with its whole body; the function that is returned ends it. */
  begin(): () => void
}

/**
 * Bounds the work that a process has taken on: one that takes on whatever comes answers all of it too late. Bursts are taken
 * as they come; in an overload a request is refused when those under way are more than get done in WAIT_MS (Little's law).
 */
export function createAdmission(now: () => number = () => performance.now()): Admission {
  let underway = 0
  let crowdedSince = 0
  let refusedAt = Number.NEGATIVE_INFINITY
  let windowFrom = now()
  let done = 0
  let donePerMs = 0

  function measure(at: number): void {
    if (at - windowFrom < WINDOW_MS) return
    donePerMs = Math.max(done / (at - windowFrom), donePerMs * FADES)
    windowFrom = at
    done = 0
  }

  return {
    isFull() {
      const at = now()
      measure(at)
      if (underway < USUAL) return false
      const lasts = at - crowdedSince > BURST_MS || at - refusedAt < BURST_MS
      const full = underway >= MOST || (lasts && underway > donePerMs * WAIT_MS)
      if (full) refusedAt = at
      return full
    },
    begin() {
      underway += 1
      if (underway === USUAL) crowdedSince = now()
      return () => {
        underway -= 1
        done += 1
      }
    },
  }
}
