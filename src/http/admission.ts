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

/** So many are refused at once in a second; further refusals are held back, which slows down whoever asks on and on. */
const REFUSED_AT_ONCE = 1_000
const HELD_BACK_MS = 1_000

export interface Admission {
  /** Whether a request that comes now must be refused. */
  isFull(): boolean
  /** How long to wait before saying so, ms: refusing costs half of what granting does. */
  holdBack(): number
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
  let refusing = { from: now(), count: 0 }

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
    holdBack() {
      const at = now()
      if (at - refusing.from >= 1_000) refusing = { from: at, count: 0 }
      refusing.count += 1
      return refusing.count > REFUSED_AT_ONCE ? HELD_BACK_MS : 0
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
