import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import { formatMoney } from '../money.ts'
import { cancelOrder } from '../orders/cancel.ts'
import { createFinder } from '../orders/find.ts'
import { type OrderRow, viewOrder } from '../orders/order.ts'
import { orderBody, type ParsedOrder, parseOrderRequest } from '../orders/request.ts'
import { BODY_STATUSES, money, orderAnswer, orderStatus, pageQuery, refusals, sendJson, unchecked } from './answers.ts'
import type { App } from './app.ts'
import { callerOf } from './gate.ts'
import { hashBody, readIdempotencyKey } from './idempotency.ts'
import { isSold } from './models.ts'

const COLUMNS = 'id, model_id, status, cost, result, expires_at, error_code, error_message'
/** Where a page starts: after the order that the page before ended with. */
const AFTER = 'seq < coalesce((SELECT seq FROM orders WHERE id = $2 AND customer_id = $1), 9223372036854775807)'
const LIST = {
  name: 'list_orders',
  text: `SELECT ${COLUMNS} FROM orders WHERE customer_id = $1 AND ${AFTER} ORDER BY seq DESC LIMIT $3`,
}
const LIST_OF_STATUS = {
  name: 'list_orders_of_status',
  text: `SELECT ${COLUMNS} FROM orders WHERE customer_id = $1 AND ${AFTER} AND status = $4::order_status ORDER BY seq DESC LIMIT $3`,
}

const one = z.object({ success: z.literal(true), order: orderAnswer }).describe('The order.')
const ORDER_ID = /ord_[\w-]+/
const orderParams = z.object({ id: z.string() })

/** What a body can be refused for. */
const BODY_REFUSALS = [
  'validation_error',
  'model_not_found',
  'prompt_required',
  'media_required',
  'too_many_media',
  'invalid_media_type',
  'upload_processing',
  'file_expired',
  'file_not_found',
] as const

export function orderRoutes(app: App): FastifyPluginAsyncZod {
  const findOrder = createFinder(app.db)

  /** Validates and prices a body. Throws ApiError. */
  async function parse(body: unknown, customerId: string): Promise<ParsedOrder> {
    const order = await parseOrderRequest(body, app.catalog, ids => app.uploads.lookup(customerId, ids))
    if (!isSold(app.catalog, order.model, await app.switches.off()))
      throw new ApiError('model_not_found', 'The selected model does not exist or is disabled.')
    return order
  }

  async function find(id: string, customerId: string): Promise<OrderRow | undefined> {
    if (!/^ord_[\w-]{1,64}$/.test(id)) return undefined
    return findOrder(id, customerId)
  }

  return async server => {
    server.post(
      '/orders',
      {
        config: { scope: 'generate' },
        // Against the model, after the idempotency key.
        validatorCompiler: unchecked,
        schema: {
          tags: ['Orders'],
          operationId: 'createOrder',
          summary: 'Create an order',
          description:
            'Holds its cost. With an `Idempotency-Key` (1 to 255 visible ASCII characters), a repeated request gives the first answer again, ' +
            'byte for byte, with `Idempotent-Replayed: true`; a refused request leaves its key free.',
          headers: z.object({ 'Idempotency-Key': z.string().min(1).max(255).optional() }),
          body: orderBody,
          response: {
            201: one,
            ...refusals([...BODY_REFUSALS, 'insufficient_balance', 'idempotency_conflict', 'too_many_active_orders'], {
              at: BODY_STATUSES,
            }),
          },
        },
      },
      async (request, reply) => {
        const { customerId, apiKeyId } = callerOf(request)
        const key = readIdempotencyKey(request)
        const body = requireBody(request.body)
        const idempotency = key === undefined ? undefined : { key, hash: hashBody(body) }
        let order: ParsedOrder
        try {
          order = await parse(body, customerId)
        } catch (error) {
          // What was valid at its first try is answered as it was then, whatever has changed since.
          const first = idempotency && (await app.placer.replay(apiKeyId, idempotency.key, idempotency.hash))
          if (first === undefined) throw error
          return sendJson(reply.header('idempotent-replayed', 'true'), 201, first)
        }
        request.facts = { model: order.model.id }
        const { outcome, response } = await app.placer.place({ ...order, customerId, apiKeyId, idempotency })
        request.facts.order = ORDER_ID.exec(response)?.[0] ?? ''
        if (outcome === 'replayed') reply.header('idempotent-replayed', 'true')
        return sendJson(reply, 201, response)
      },
    )

    server.post(
      '/quote',
      {
        config: { scope: 'read' },
        validatorCompiler: unchecked,
        schema: {
          tags: ['Orders'],
          operationId: 'quoteOrder',
          summary: 'What an order would cost',
          description: 'Takes the body of an order and checks it likewise. Nothing is stored or held.',
          body: orderBody,
          response: {
            200: z
              .object({ success: z.literal(true), quote: z.object({ model_id: z.int(), cost_usd: money }) })
              .describe('The price.'),
            ...refusals(BODY_REFUSALS, { at: BODY_STATUSES }),
          },
        },
      },
      async request => {
        const { model, cost } = await parse(requireBody(request.body), callerOf(request).customerId)
        return { success: true as const, quote: { model_id: model.id, cost_usd: formatMoney(cost) } }
      },
    )

    server.get(
      '/orders',
      {
        config: { scope: 'read' },
        schema: {
          tags: ['Orders'],
          operationId: 'listOrders',
          summary: 'Orders, newest first',
          querystring: pageQuery.extend({ status: orderStatus.optional() }),
          response: {
            200: z.object({
              success: z.literal(true),
              orders: z.array(orderAnswer),
              next_cursor: z.string().nullable(),
            }),
            ...refusals(['validation_error']),
          },
        },
      },
      async (request, reply) => {
        const { customerId } = callerOf(request)
        const { status, limit, cursor } = request.query
        if (cursor !== undefined && !(await find(cursor, customerId)))
          throw new ApiError('validation_error', 'cursor: must be the next_cursor of a page.')
        const values = [customerId, cursor ?? null, limit + 1]
        const rows = await (status === undefined
          ? app.db.run<OrderRow>(LIST, values)
          : app.db.run<OrderRow>(LIST_OF_STATUS, [...values, status]))
        const orders = rows.slice(0, limit).map(viewOrder)
        const next_cursor = rows.length > limit ? (orders.at(-1)?.id ?? null) : null
        return sendJson(reply, 200, { success: true, orders, next_cursor })
      },
    )

    server.get(
      '/orders/:id',
      {
        config: { scope: 'read' },
        schema: {
          tags: ['Orders'],
          operationId: 'getOrder',
          summary: 'One order',
          params: orderParams,
          response: { 200: one, ...refusals(['order_not_found']) },
        },
      },
      async (request, reply) => {
        const order = await find(request.params.id, callerOf(request).customerId)
        if (!order) throw new ApiError('order_not_found', 'Order not found.')
        return sendJson(reply, 200, { success: true, order: viewOrder(order) })
      },
    )

    server.post(
      '/orders/:id/cancel',
      {
        config: { scope: 'generate', waits: true },
        schema: {
          tags: ['Orders'],
          operationId: 'cancelOrder',
          summary: 'Cancel an order that has started',
          description: 'May take the provider some seconds: repeat it, or read the order, until it is cancelled.',
          params: orderParams,
          response: {
            200: one,
            ...refusals(['order_not_found', 'cannot_cancel', 'not_ready', 'cancel_pending', 'cancel_failed'], {
              at: BODY_STATUSES,
              beside: { order: orderAnswer },
            }),
          },
        },
      },
      async (request, reply) => {
        const { customerId } = callerOf(request)
        const { id } = request.params
        request.facts = { order: id.slice(0, 64) }
        if (!(await find(id, customerId))) throw new ApiError('order_not_found', 'Order not found.')
        const order = await cancelOrder(app, customerId, id)
        return sendJson(reply, 200, { success: true, order: viewOrder(order) })
      },
    )
  }
}

function requireBody(body: unknown): unknown {
  if (body === undefined) throw new ApiError('validation_error', 'The body must be a JSON object.', { status: 400 })
  return body
}
