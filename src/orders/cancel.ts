import { ApiError } from '../errors.ts'
import type { AttemptRow, Engine } from './engine.ts'
import { type OrderRow, viewOrder } from './order.ts'
import { accountOf, asProviderError } from './submit.ts'

/** What cancelling needs of the engine; an api process has it without running loops. */
export type Canceller = Pick<Engine, 'db' | 'catalog' | 'calls' | 'settle' | 'log' | 'batches'>

const FIND_ORDER = {
  name: 'find_order',
  text: `SELECT id, model_id, status, cost, result, expires_at, error_code, error_message FROM orders WHERE id = $1 AND customer_id = $2`,
}

/**
 * Asks the upstream to cancel. Resolves with the cancelled order once that is confirmed; throws ApiError with the order
 * beside it: cannot_cancel, not_ready, cancel_pending, cancel_failed; order_not_found.
 */
export async function cancelOrder(engine: Canceller, customerId: string, orderId: string): Promise<OrderRow> {
  const order = await find(engine, customerId, orderId)
  const refuse = (
    code: 'cannot_cancel' | 'not_ready' | 'cancel_pending' | 'cancel_failed',
    message: string,
    cause?: unknown,
  ) => new ApiError(code, message, { extra: { order: viewOrder(order) }, cause })
  if (order.status !== 'queued' && order.status !== 'processing')
    throw refuse('cannot_cancel', 'Order cannot be cancelled')
  const attempt = (await engine.batches.attemptsOf(orderId)).at(-1)
  if (attempt?.state === 'finished') throw refuse('cannot_cancel', 'The generation is already finished.')
  if (attempt?.state !== 'accepted' || attempt.ref === null) {
    throw refuse('not_ready', 'Generation not started yet. Try again shortly.')
  }
  const { account, adapter } = accountOf(engine, attempt)
  if (!account || !adapter?.cancel)
    throw refuse('cannot_cancel', 'This generation cannot be cancelled once it has started.')
  await wanted(engine, attempt)
  if (attempt.cancel_requested_at) throw refuse('cancel_pending', 'Cancellation in progress')
  try {
    switch (await adapter.cancel(attempt.ref, engine.calls.of(account))) {
      case 'confirmed':
        return await confirm(engine, customerId, attempt)
      case 'requested':
        await requested(engine, attempt)
        throw refuse('cancel_pending', 'Cancellation in progress')
      case 'too_early':
        await unwanted(engine, attempt)
        throw refuse('not_ready', 'Generation not started yet. Try again shortly.')
      case 'too_late':
        await unwanted(engine, attempt)
        throw refuse('cannot_cancel', 'Order cannot be cancelled')
    }
  } catch (error) {
    if (error instanceof ApiError) throw error
    engine.log.warn(
      { order: orderId, attempt: attempt.id, provider: attempt.provider, reason: asProviderError(error).message },
      'cancel failed',
    )
    throw refuse('cancel_failed', 'The cancellation request failed. Try again shortly.', error)
  }
}

async function find(engine: Canceller, customerId: string, orderId: string): Promise<OrderRow> {
  const [order] = await engine.db.run<OrderRow>(FIND_ORDER, [orderId, customerId])
  if (!order) throw new ApiError('order_not_found', 'Order not found.')
  return order
}

async function confirm(engine: Canceller, customerId: string, attempt: AttemptRow): Promise<OrderRow> {
  await engine.settle({
    orderId: attempt.order_id,
    fence: null,
    status: 'cancelled',
    attemptId: attempt.id,
    attemptState: 'cancelled',
  })
  const order = await find(engine, customerId, attempt.order_id)
  if (order.status === 'cancelled') return order
  // It ended otherwise in the same moment.
  throw new ApiError('cannot_cancel', 'Order cannot be cancelled', { extra: { order: viewOrder(order) } })
}

const WANTED = {
  name: 'cancel_wanted',
  text: 'UPDATE orders SET cancel_requested_at = coalesce(cancel_requested_at, now()) WHERE id = $1',
}
const UNWANTED = {
  name: 'cancel_unwanted',
  text: `UPDATE orders SET cancel_requested_at = NULL
    WHERE id = $1 AND NOT EXISTS (SELECT FROM attempts WHERE id = $2 AND cancel_requested_at IS NOT NULL)`,
}

/**
 * Stands before the upstream is asked: a poll may see the task cancelled first, and must not take the order elsewhere. It stays
 * when nobody knows what came of the request.
 */
async function wanted(engine: Canceller, attempt: AttemptRow): Promise<void> {
  await engine.db.run(WANTED, [attempt.order_id])
}

async function unwanted(engine: Canceller, attempt: AttemptRow): Promise<void> {
  await engine.db.run(UNWANTED, [attempt.order_id, attempt.id])
}

const REQUESTED = {
  name: 'cancel_requested',
  text: `UPDATE attempts SET cancel_requested_at = now(), next_poll_at = least(next_poll_at, now() + interval '1 second')
    WHERE id = $1 AND state = 'accepted'`,
}

async function requested(engine: Canceller, attempt: AttemptRow): Promise<void> {
  await engine.db.run(REQUESTED, [attempt.id])
}
