import type { Micros } from '../../src/money.ts'
import type { SimModel } from './pluragen-models.ts'
import type { SimAnswer } from './spec.ts'
import type { TaskStore } from './tasks.ts'

/** What a test may look at and change. */
export interface PluragenState {
  /** What its customer, we, has left. */
  balance: Micros
  /** More active orders are refused; undefined: any number. */
  maxActiveOrders: number | undefined
  /** How long a HEIC file stays `processing`, and whether it becomes a PNG then. */
  conversion: { ms: number; works: boolean }
  /** How long after its request a cancel is confirmed; 0: at once. */
  cancelMs: number
  /** By tmp_path. */
  readonly uploads: Map<string, SimUpload>
  readonly orders: Map<string, PlacedOrder>
}

export interface Pluragen {
  readonly state: PluragenState
  readonly tasks: TaskStore
}

export interface SimUpload {
  readonly owner: string
  readonly token: string
  readonly name: string
  readonly size: number
  /** As it was sent. */
  readonly mimeType: string
  /** Hex, of the bytes that came. */
  readonly sha256: string
  /** The first bytes, for the preview. */
  readonly head: Buffer
  /** ms since 1970. */
  readonly readyAt: number
  /** A test may let it expire. */
  expired: boolean
}

export interface PlacedOrder {
  readonly model: SimModel
  /** RFC 8785. */
  readonly body: string
  /** ms since 1970. */
  cancelAskedAt?: number
}

/** The document's standard error response. */
export function refusal(status: number, code: string, message: string, beside: object = {}): SimAnswer {
  return { status, json: { success: false, error: { code, message }, ...beside } }
}
