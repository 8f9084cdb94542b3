import { randomUUIDv7 } from 'node:crypto'
import type { Model, OrderInput, Routing } from '../catalog/model.ts'
import { groupCommit } from '../db/group.ts'
import { isOutage } from '../db/outage.ts'
import type { Db } from '../db/pool.ts'
import { ApiError } from '../errors.ts'
import { type Placed, type Placement, placeOrders } from '../ledger/ledger.ts'
import { formatMoney, type Micros } from '../money.ts'
import { viewOrder } from './order.ts'

/** A validated order request of an authenticated customer. */
export interface PlaceRequest {
  readonly customerId: string
  readonly apiKeyId: string
  readonly model: Model
  readonly input: OrderInput
  readonly cost: Micros
  readonly routing?: Routing | undefined
  readonly callbackUrl?: string | undefined
  /** Ids of the uploads it uses, without repetition. */
  readonly uploads: readonly string[]
  /** `hash`: SHA-256 of the canonical request data. */
  readonly idempotency?: { readonly key: string; readonly hash: Buffer } | undefined
}

export interface Placer {
  /**
   * Holds the cost and stores the order, or finds the one that the same key placed. `response` is the body to send, byte
   * for byte. Throws ApiError: insufficient_balance, too_many_active_orders, idempotency_conflict, forbidden,
   * file_not_found.
   */
  place(request: PlaceRequest): Promise<{ outcome: 'placed' | 'replayed'; response: string }>
  /** The stored answer of an earlier request with this key; undefined when the key is free. Throws idempotency_conflict. */
  replay(apiKeyId: string, key: string, hash: Buffer): Promise<string | undefined>
}

const REPLAY = {
  name: 'replay',
  text: 'SELECT request_hash, response FROM idempotency_keys WHERE scope = $1 AND key = $2',
}

/** Concurrent requests share a transaction (group commit), so one hot customer is not limited to one commit per order. */
export function createPlacer(deps: {
  readonly db: Db
  /** A batch is on its way to the database. */
  readonly placing: () => void
  readonly placed: () => void
}): Placer {
  const { db } = deps
  const write = (batch: readonly Placement[]) => {
    const answers = placeOrders(db, batch)
    deps.placing()
    return answers
  }
  const commit = groupCommit<Placement, Placed>(write, {
    max: 128,
    lanes: 2,
    exclusive: item => (item.key === null ? undefined : `${item.apiKeyId} ${item.key}`),
    isOutage,
  })

  return {
    async place(request) {
      const item = placement(request)
      const answer = await commit(item)
      if (answer.outcome === 'placed') deps.placed()
      return accept(answer, item)
    },

    async replay(apiKeyId, key, hash) {
      const [row] = await db.run<{ request_hash: Buffer; response: string }>(REPLAY, [apiKeyId, key])
      if (row && !row.request_hash.equals(hash)) throw conflict()
      return row?.response
    },
  }
}

function placement(request: PlaceRequest): Placement {
  const id = `ord_${Buffer.from(randomUUIDv7().replaceAll('-', ''), 'hex').toString('base64url')}`
  const order = viewOrder({
    id,
    model_id: request.model.id,
    status: 'queued',
    cost: request.cost,
    result: [],
    expires_at: null,
    error_code: null,
    error_message: null,
  })
  return {
    id,
    customerId: request.customerId,
    apiKeyId: request.apiKeyId,
    modelId: request.model.id,
    cost: request.cost,
    input: JSON.stringify(request.input),
    routing: request.routing ?? null,
    callbackUrl: request.callbackUrl ?? null,
    waitMs: Math.max(...request.model.routes.map(route => route.provider.poll.deadline_ms)),
    key: request.idempotency?.key ?? null,
    hash: request.idempotency?.hash.toString('hex') ?? null,
    response: JSON.stringify({ success: true, order }),
    uploads: request.uploads,
  }
}

function accept(answer: Placed, item: Placement): { outcome: 'placed' | 'replayed'; response: string } {
  switch (answer.outcome) {
    case 'placed':
      return { outcome: 'placed', response: item.response }
    case 'replay':
      return { outcome: 'replayed', response: answer.response ?? '' }
    case 'conflict':
      throw conflict()
    case 'insufficient_balance':
      throw new ApiError(
        'insufficient_balance',
        `The balance does not cover the cost of ${formatMoney(item.cost)} USD.`,
      )
    case 'too_many_active_orders':
      throw new ApiError('too_many_active_orders', 'Too many active orders. Wait for some to complete.', {
        retryAfter: 5,
      })
    case 'file_not_found':
      throw new ApiError('file_not_found', 'An uploaded file is no longer there.')
    case 'suspended':
    case 'customer_not_found':
      throw new ApiError('forbidden', 'The account is suspended.')
  }
}

function conflict(): ApiError {
  return new ApiError('idempotency_conflict', 'The Idempotency-Key was already used with other request data.')
}
