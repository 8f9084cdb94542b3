import type { Db, Statement } from '../db/pool.ts'
import type { Transfer, TransferKind } from '../db/prisma/client.ts'
import { formatMoney, type Micros } from '../money.ts'

/*
 * The only file that calls the SQL functions which move money (prisma/migrations): post_money, place_orders, settle_orders.
 *
 *   topup, adjustment   cash → available
 *   hold                available → held      with the order's row
 *   capture             held → revenue        the order is completed
 *   release             held → available      the order failed or was cancelled
 *   suspense            cash → suspense       what an upstream may have taken without delivering
 */

/** One order to place. */
export interface Placement {
  readonly id: string
  readonly customerId: string
  readonly apiKeyId: string
  readonly modelId: number
  readonly cost: Micros
  /** The order's body as it is kept. */
  readonly input: string
  readonly routing: string | null
  readonly callbackUrl: string | null
  /** How long the order may take, from now. */
  readonly waitMs: number
  /** The Idempotency-Key header; null: none was sent. */
  readonly key: string | null
  /** SHA-256 (hex) of the request's data; read only with a key. */
  readonly hash: string | null
  /** The answer's body, repeated byte for byte on a replay. */
  readonly response: string
  /** Ids of the uploads it uses, each once. */
  readonly uploads: readonly string[]
}

export interface Placed {
  readonly outcome:
    | 'placed'
    | 'replay'
    | 'conflict'
    | 'suspended'
    | 'too_many_active_orders'
    | 'insufficient_balance'
    | 'file_not_found'
    | 'customer_not_found'
  /** The first answer's body, of a replay or a conflict. */
  readonly response: string | null
}

const PLACE: Statement = {
  name: 'ledger_place_orders',
  text: 'SELECT n, outcome, response FROM place_orders($1::jsonb)',
}

/** Places a batch in one transaction: idempotency key, hold, order. Answers in the batch's order. */
export async function placeOrders(db: Db, batch: readonly Placement[]): Promise<Placed[]> {
  const items = batch.map((item, n) => ({
    n,
    id: item.id,
    customer_id: item.customerId,
    api_key_id: item.apiKeyId,
    model_id: item.modelId,
    cost: item.cost.toString(),
    input: item.input,
    routing: item.routing,
    callback_url: item.callbackUrl,
    wait_ms: item.waitMs,
    key: item.key,
    hash: item.hash,
    response: item.response,
    uploads: item.uploads,
  }))
  const rows = await db.run<Placed & { n: number }>(PLACE, [JSON.stringify(items)])
  const placed: Placed[] = batch.map(() => ({ outcome: 'customer_not_found', response: null }))
  for (const { n, outcome, response } of rows) placed[n] = { outcome, response }
  return placed
}

/** One order to end, with the attempt that ends with it. */
export interface Settlement {
  readonly orderId: string
  /** The order is ended only while its fence is this; null: whatever it is. */
  readonly fence: number | null
  readonly status: 'completed' | 'failed' | 'cancelled'
  /** Names the failure; exactly when it failed. */
  readonly errorCode?: string
  readonly errorMessage?: string
  readonly result?: readonly string[]
  /** Until when the result links answer. */
  readonly expiresAt?: Date
  readonly attemptId?: string
  readonly attemptState?: 'succeeded' | 'failed' | 'cancelled' | 'absent' | 'abandoned'
  readonly fault?: string
  readonly faultMessage?: string
  /** What the upstream charged for the attempt, when it is known. */
  readonly upstreamCost?: Micros
  /** When an abandoned attempt is looked at once more. */
  readonly recheckAt?: Date
  /** What an upstream may have taken without delivering. */
  readonly suspense?: Micros
}

const SETTLE: Statement = { name: 'ledger_settle_orders', text: 'SELECT order_id FROM settle_orders($1::jsonb)' }

/** One statement, so that the order never ends without its line, nor is there a line of an order that did not end. */
const SETTLE_AUDITED: Statement = {
  name: 'ledger_settle_audited',
  text: `WITH settled AS MATERIALIZED (SELECT order_id FROM settle_orders($1::jsonb))
    INSERT INTO audit (actor, action, subject, detail) SELECT $2, $3, order_id, $4::jsonb FROM settled RETURNING subject`,
}

/** What an operator did, for GET /admin/v1/audit. */
export interface Audited {
  readonly actor: string
  readonly action: string
  readonly detail: Readonly<Record<string, string>>
}

/** Ends one order by an operator's hand, with its audit line. False when it was over, or its fence has moved. */
export async function settleByHand(db: Db, settlement: Settlement, line: Audited): Promise<boolean> {
  const values = [JSON.stringify([itemOf(settlement)]), line.actor, line.action, JSON.stringify(line.detail)]
  return (await db.run(SETTLE_AUDITED, values)).length > 0
}

/**
 * Ends a batch in one transaction: terminal status, capture or release, the attempt's end, suspense. Each order at most
 * once in a batch. Returns the ids of the orders that ended here; one that was over, or whose fence has moved, is left alone.
 */
export async function settleOrders(db: Db, batch: readonly Settlement[]): Promise<string[]> {
  const rows = await db.run<{ order_id: string }>(SETTLE, [JSON.stringify(batch.map(itemOf))])
  return rows.map(row => row.order_id)
}

function itemOf(item: Settlement) {
  return {
    order_id: item.orderId,
    fence: item.fence,
    status: item.status,
    error_code: item.errorCode,
    error_message: item.errorMessage,
    result: item.result,
    expires_at: item.expiresAt,
    attempt_id: item.attemptId,
    attempt_state: item.attemptState,
    fault: item.fault,
    fault_message: item.faultMessage,
    upstream_cost: item.upstreamCost?.toString(),
    recheck_at: item.recheckAt,
    suspense: item.suspense?.toString(),
  }
}

/** Money in from outside, or a correction. */
export interface Movement {
  readonly kind: 'topup' | 'adjustment'
  readonly customerId: string
  /** Negative only in an adjustment. */
  readonly amount: Micros
  /** The operator's words: a payment's number, a reason. */
  readonly reference: string | null
  /** Who asks, for the audit. */
  readonly actor: string
  /** Idempotency-Key with the SHA-256 of the request's data; null: happens each time. */
  readonly once: { readonly key: string; readonly hash: Buffer } | null
}

export type Moved =
  | { readonly outcome: 'done' | 'replay'; readonly entry: Entry }
  | { readonly outcome: 'conflict' | 'not_found' | 'insufficient' }

// The audit line commits with the money.
const MOVE: Statement = {
  name: 'ledger_move',
  text: `WITH moved AS (SELECT outcome, transfer_id FROM post_money($1::text, $2::text::transfer_kind, $3, $4, 'admin', $5, $6)), line AS (
      INSERT INTO audit (actor, action, subject, detail)
      SELECT $7::text, 'customer.' || $2::text, $1::text, $8::jsonb || jsonb_build_object('transfer_id', transfer_id::text)
      FROM moved WHERE outcome = 'done')
    SELECT outcome, transfer_id FROM moved`,
}

/** Tops up or corrects a customer's available balance, in one transaction with its audit line. Never below zero. */
export async function moveMoney(db: Db, movement: Movement): Promise<Moved> {
  const { kind, customerId, amount, reference, actor, once } = movement
  const detail = JSON.stringify({ amount_usd: formatMoney(amount), reference })
  const values = [customerId, kind, amount, reference, once?.key ?? null, once?.hash ?? null, actor, detail]
  const move = () =>
    db.run<{ outcome: 'done' | 'replay' | 'conflict' | 'not_found' | 'insufficient'; transfer_id: bigint | null }>(
      MOVE,
      values,
    )
  // Two customers' rows do not serialise one key: the loser of that race finds the key standing at its second try.
  const rows = await move().catch(error => {
    if ((error as { constraint?: string }).constraint === 'idempotency_keys_pkey') return move()
    throw error
  })
  const { outcome, transfer_id } = rows[0] as (typeof rows)[number]
  if (outcome !== 'done' && outcome !== 'replay') return { outcome }
  const transfer = await db.prisma.transfer.findUniqueOrThrow({ where: { id: transfer_id as bigint } })
  return { outcome, entry: entryOf(transfer) }
}

/** One line of a customer's ledger. */
export interface Entry {
  readonly id: bigint
  readonly kind: TransferKind
  readonly orderId: string | null
  /** Negative only in an adjustment: the kind tells which way it went. */
  readonly amount: Micros
  /** Balances of the customer when it stood. */
  readonly availableAfter: Micros
  readonly heldAfter: Micros
  readonly reference: string | null
  readonly createdAt: Date
}

/** A customer's entries, newest first; `before` is the id of the last one already seen. */
export async function readEntries(
  db: Db,
  customerId: string,
  page: { limit: number; before?: bigint | undefined },
): Promise<Entry[]> {
  const transfers = await db.prisma.transfer.findMany({
    where: { customerId, ...(page.before === undefined ? {} : { id: { lt: page.before } }) },
    orderBy: { id: 'desc' },
    take: page.limit,
  })
  return transfers.map(entryOf)
}

function entryOf(transfer: Transfer): Entry {
  const { id, kind, orderId, amount, availableAfter, heldAfter, reference, createdAt } = transfer
  return {
    id,
    kind,
    orderId,
    amount,
    availableAfter: availableAfter ?? 0n,
    heldAfter: heldAfter ?? 0n,
    reference,
    createdAt,
  }
}
