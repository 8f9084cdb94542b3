import { formatMoney, type Micros } from '../money.ts'

/*
 * States of an order.
 *
 *   queued ──▶ processing ──▶ completed   its outputs stand in our storage, the hold is captured
 *     │            │─────────▶ failed      no route could make it; the hold is released
 *     │            └─────────▶ cancelled   the upstream confirmed; the hold is released
 *     └──────────────────────▶ failed
 *
 * It is queued until an upstream has accepted it, and may go through several attempts while processing. Each transition is
 * one UPDATE that names the states it may come from, so a replay is a no-op. Only settle.ts ends an order.
 */

export type OrderStatus = 'queued' | 'processing' | 'completed' | 'failed' | 'cancelled'

/** `order.error.code`. */
export type OrderFault = 'content_rejected' | 'invalid_media' | 'provider_failed' | 'timed_out' | 'submission_unknown'

/** What customers read beside the code: no upstream's name, id or words. */
export const ORDER_FAULT_MESSAGES: Record<OrderFault, string> = {
  content_rejected: 'The request was refused by content moderation.',
  invalid_media: 'An uploaded file cannot be used for this model.',
  provider_failed: 'The generation failed. You were not charged.',
  timed_out: 'The generation did not finish in time. You were not charged.',
  submission_unknown: 'It could not be established whether the generation started. You were not charged.',
}

/** The columns of a row that the customer's view needs. */
export interface OrderRow {
  readonly id: string
  readonly model_id: number
  readonly status: OrderStatus
  readonly cost: Micros
  readonly result: readonly string[]
  readonly expires_at: Date | null
  readonly error_code: string | null
  readonly error_message: string | null
}

/** The order object of the contract, in the contract's key order. */
export interface OrderView {
  readonly id: string
  readonly model_id: number
  readonly status: OrderStatus
  readonly cost_usd: string
  readonly result: readonly string[]
  readonly expires_at: string | null
  readonly error: { readonly code: string; readonly message: string } | null
}

export function viewOrder(row: OrderRow): OrderView {
  return {
    id: row.id,
    model_id: row.model_id,
    status: row.status,
    cost_usd: formatMoney(row.cost),
    result: row.result,
    expires_at: row.expires_at?.toISOString().replace('.000Z', 'Z') ?? null,
    error: row.error_code === null ? null : { code: row.error_code, message: row.error_message ?? '' },
  }
}
