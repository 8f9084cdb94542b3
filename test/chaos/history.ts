/** One answer as the client got it. */
export interface Reply {
  readonly status: number
  readonly text: string
  readonly retryAfter: string | null
  // oxlint-disable-next-line typescript/no-explicit-any -- whatever JSON came
  readonly json: any
}

/** One POST /orders that a customer wants, under one key, however often it is sent. */
export interface Placement {
  readonly customer: number
  readonly key: string
  readonly modelId: number
  /** Of this placement alone: it is found again in the database and at the upstreams. */
  readonly prompt: string
  readonly body: Record<string, unknown>
  /** The first 201, whose bytes all others must equal. */
  answer?: string
  orderId?: string
  /** The last answer that was a refusal: then nothing is stored under the key. */
  refused?: string | undefined
}

/** What the clients saw, judged as it comes. */
export interface History {
  readonly violations: string[]
  /** Answers by operation and status, and requests that got none. */
  readonly counts: Map<string, number>
  readonly placements: Placement[]
  /** SHA-256 (hex) of what a result link gave, by its token. */
  readonly downloads: Map<string, string>
  /** Micro-dollars, acknowledged or not: each is repeated until it is. */
  readonly topups: { customer: number; key: string; micros: bigint; done: boolean }[]
  answered(operation: string, reply: Reply): void
  unanswered(operation: string, waitedMs: number): void
  placed(placement: Placement, reply: Reply): void
  /** An order as an answer showed it. */
  saw(order: unknown, text?: string): void
}

interface SeenOrder {
  readonly id: string
  readonly status: string
  readonly cost_usd: string
}

const OVER = new Set(['completed', 'failed', 'cancelled'])
const RANK: Record<string, number> = { queued: 0, processing: 1, completed: 2, failed: 2, cancelled: 2 }
/** Every request is answered within its handler's 30 s; the rest is the machine's. */
const HANG_MS = 50_000
const UPSTREAM_NAMES = /pluragen|zencreator|apixo|progressiverobot|oneshot|canary-/i

export function createHistory(): History {
  const violations: string[] = []
  const counts = new Map<string, number>()
  const seen = new Map<string, SeenOrder>()
  const count = (what: string) => counts.set(what, (counts.get(what) ?? 0) + 1)

  return {
    violations,
    counts,
    placements: [],
    downloads: new Map(),
    topups: [],
    answered(operation, { status, text, retryAfter, json }) {
      count(`${operation} ${status}`)
      const said = `${operation} answered ${status}: ${text.slice(0, 300)}`
      if (status >= 500 && status !== 503) violations.push(said)
      if ((status === 503 || status === 429) && retryAfter === null) violations.push(`without Retry-After: ${said}`)
      if (json === undefined) violations.push(`no JSON: ${said}`)
      else if (json.success !== status < 300) violations.push(`no envelope: ${said}`)
      if (UPSTREAM_NAMES.test(text)) violations.push(`names an upstream or a secret: ${said}`)
    },
    unanswered(operation, waitedMs) {
      count(`${operation} unanswered`)
      if (waitedMs > HANG_MS) violations.push(`${operation} hung for ${Math.round(waitedMs)} ms`)
    },
    placed(placement, { status, text, json }) {
      if (status === 201) {
        if (placement.answer !== undefined && placement.answer !== text)
          violations.push(`key ${placement.key} was answered first ${placement.answer}, then ${text}`)
        placement.answer ??= text
        placement.orderId ??= json.order.id
        placement.refused = undefined
      } else if (status < 500) {
        if (placement.answer !== undefined)
          violations.push(`key ${placement.key} has an order, and was refused: ${text}`)
        placement.refused = text
      }
    },
    saw(order) {
      const now = order as SeenOrder
      const before = seen.get(now.id)
      seen.set(now.id, now)
      if (!before) return
      if (before.cost_usd !== now.cost_usd) violations.push(`the cost of ${now.id} changed`)
      if ((RANK[now.status] ?? 0) < (RANK[before.status] ?? 0))
        violations.push(`${now.id} went from ${before.status} back to ${now.status}`)
      if (OVER.has(before.status) && JSON.stringify(before) !== JSON.stringify(now))
        violations.push(`${now.id} was over and changed: ${JSON.stringify(before)} → ${JSON.stringify(now)}`)
    },
  }
}
