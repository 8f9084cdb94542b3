import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod'
import { z } from 'zod'
import type { Db } from '../../db/pool.ts'
import type { Attempt, Order, Transfer } from '../../db/prisma/client.ts'
import { ApiError } from '../../errors.ts'
import { formatMoney } from '../../money.ts'
import { money, orderStatus, pageQuery } from '../answers.ts'
import type { Admin } from './admin.ts'
import { adminBodyRefusals, adminRefusals, cutPage, idParams, nextCursor, readCursor } from './answers.ts'
import { resolveOrder } from './resolve.ts'

const time = z.string().nullable()

const orderBody = z.object({
  id: z.string(),
  customer_id: z.string(),
  api_key_id: z.string(),
  model_id: z.int(),
  status: orderStatus,
  cost_usd: money,
  result: z.array(z.string()),
  expires_at: time,
  error: z.object({ code: z.string(), message: z.string() }).nullable(),
  routing: z.string().nullable(),
  callback_url: z.string().nullable(),
  created_at: z.string(),
  started_at: time,
  finished_at: time,
  deadline_at: z.string(),
  cancel_requested_at: time,
})

const attemptBody = z.object({
  id: z.string(),
  n: z.int(),
  provider: z.string(),
  account: z.string(),
  upstream_model: z.string(),
  upstream_id: z.string().nullable(),
  state: z.string(),
  fault: z.string().nullable(),
  message: z.string().nullable(),
  expected_cost_usd: money,
  cost_usd: money.nullable().describe('what the upstream reported'),
  submits: z.int(),
  created_at: z.string(),
  submitted_at: time,
  accepted_at: time,
  finished_at: time,
})

const inside = orderBody.extend({
  attempts: z.array(attemptBody),
  transfers: z.array(z.object({ kind: z.string(), amount_usd: money, created_at: z.string() })),
})
const one = z.object({ success: z.literal(true), order: inside })

export const orderRoutes =
  ({ db }: Admin): FastifyPluginAsyncZod =>
  async server => {
    server.get(
      '/orders',
      {
        schema: {
          operationId: 'listAllOrders',
          summary: 'List orders of all customers, newest first',
          querystring: pageQuery.extend({
            customer_id: z.string().max(100).optional(),
            status: orderStatus.optional(),
          }),
          response: {
            200: z.object({ success: z.literal(true), orders: z.array(orderBody), next_cursor: nextCursor }),
            ...adminRefusals([]),
          },
        },
      },
      async request => {
        const { limit, cursor, customer_id, status } = request.query
        const before = readCursor(cursor)
        const rows = await db.prisma.order.findMany({
          where: {
            ...(customer_id === undefined ? {} : { customerId: customer_id }),
            ...(status === undefined ? {} : { status }),
            ...(before === undefined ? {} : { seq: { lt: before } }),
          },
          orderBy: { seq: 'desc' },
          take: limit + 1,
        })
        const { page, next_cursor } = cutPage(rows, limit, row => row.seq)
        return { success: true as const, orders: page.map(viewOrder), next_cursor }
      },
    )

    server.get(
      '/orders/:id',
      {
        schema: {
          operationId: 'inspectOrder',
          summary: 'One order from the inside',
          params: idParams,
          response: { 200: one, ...adminRefusals(['order_not_found']) },
        },
      },
      async request => ({ success: true as const, order: await readInside(db, request.params.id) }),
    )

    server.post(
      '/orders/:id/resolve',
      {
        schema: {
          operationId: 'resolveOrder',
          summary: 'End an order whose submission stayed unknown',
          description: 'It fails as submission_unknown, its hold is released, the expected cost is booked to suspense.',
          params: idParams,
          body: z.strictObject({ outcome: z.literal('failed') }),
          response: { 200: one, ...adminBodyRefusals(['order_not_found', 'cannot_resolve']) },
        },
      },
      async request => {
        await resolveOrder(db, request.params.id)
        return { success: true as const, order: await readInside(db, request.params.id) }
      },
    )
  }

async function readInside(db: Db, id: string): Promise<z.infer<typeof inside>> {
  const order = await db.prisma.order.findUnique({ where: { id }, include: { attempts: { orderBy: { n: 'asc' } } } })
  if (!order) throw new ApiError('order_not_found', 'No such order.')
  const transfers = await db.prisma.transfer.findMany({ where: { orderId: id }, orderBy: { id: 'asc' } })
  return { ...viewOrder(order), attempts: order.attempts.map(viewAttempt), transfers: transfers.map(viewTransfer) }
}

const iso = (date: Date | null) => date?.toISOString() ?? null

function viewOrder(order: Order): z.infer<typeof orderBody> {
  return {
    id: order.id,
    customer_id: order.customerId,
    api_key_id: order.apiKeyId,
    model_id: order.modelId,
    status: order.status,
    cost_usd: formatMoney(order.cost),
    result: order.result,
    expires_at: iso(order.expiresAt),
    error: order.errorCode === null ? null : { code: order.errorCode, message: order.errorMessage ?? '' },
    routing: order.routing,
    callback_url: order.callbackUrl,
    created_at: order.createdAt.toISOString(),
    started_at: iso(order.startedAt),
    finished_at: iso(order.finishedAt),
    deadline_at: order.deadlineAt.toISOString(),
    cancel_requested_at: iso(order.cancelRequestedAt),
  }
}

function viewAttempt(attempt: Attempt): z.infer<typeof attemptBody> {
  return {
    id: attempt.id,
    n: attempt.n,
    provider: attempt.provider,
    account: attempt.account,
    upstream_model: attempt.upstreamModel,
    upstream_id: attempt.ref,
    state: attempt.state,
    fault: attempt.fault,
    message: attempt.faultMessage,
    expected_cost_usd: formatMoney(attempt.expectedCost),
    cost_usd: attempt.cost === null ? null : formatMoney(attempt.cost),
    submits: attempt.submits,
    created_at: attempt.createdAt.toISOString(),
    submitted_at: iso(attempt.submittedAt),
    accepted_at: iso(attempt.acceptedAt),
    finished_at: iso(attempt.finishedAt),
  }
}

function viewTransfer(transfer: Transfer): z.infer<typeof inside>['transfers'][number] {
  return {
    kind: transfer.kind,
    amount_usd: formatMoney(transfer.amount),
    created_at: transfer.createdAt.toISOString(),
  }
}
