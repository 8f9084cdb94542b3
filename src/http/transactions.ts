import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod'
import { z } from 'zod'
import type { Transfer } from '../db/prisma/client.ts'
import { ApiError } from '../errors.ts'
import { formatMoney } from '../money.ts'
import { money, pageQuery, refusals } from './answers.ts'
import type { App } from './app.ts'
import { callerOf } from './gate.ts'

const transaction = z
  .object({
    id: z.string(),
    type: z.enum(['topup', 'adjustment', 'hold', 'capture', 'release']),
    amount_usd: money.describe(
      'How much was moved; the type tells which way: a topup or release adds to the available balance, a hold takes from it, and a capture takes what was held. Only an adjustment may be negative.',
    ),
    balance_after_usd: money,
    order_id: z.string().nullable(),
    created_at: z.string().describe('ISO 8601'),
  })
  .meta({ id: 'Transaction' })

/** GET /transactions: the customer's view of the ledger, newest first. */
export function transactionRoutes(app: App): FastifyPluginAsyncZod {
  return async server => {
    server.get(
      '/transactions',
      {
        config: { scope: 'read' },
        schema: {
          tags: ['Account'],
          operationId: 'listTransactions',
          summary: 'What changed the balance, newest first',
          querystring: pageQuery,
          response: {
            200: z
              .object({
                success: z.literal(true),
                transactions: z.array(transaction),
                next_cursor: z.string().nullable(),
              })
              .describe('A page.'),
            ...refusals(['validation_error']),
          },
        },
      },
      async request => {
        const { limit, cursor } = request.query
        if (cursor !== undefined && !/^\d{1,18}$/.test(cursor))
          throw new ApiError('validation_error', 'cursor: must be the next_cursor of a page.')
        const rows = await app.db.prisma.transfer.findMany({
          where: {
            customerId: callerOf(request).customerId,
            ...(cursor === undefined ? {} : { id: { lt: BigInt(cursor) } }),
          },
          orderBy: { id: 'desc' },
          take: limit + 1,
        })
        const page = rows.slice(0, limit)
        const next_cursor = rows.length > limit ? (page.at(-1)?.id.toString() ?? null) : null
        return { success: true as const, transactions: page.map(view), next_cursor }
      },
    )
  }
}

function view(row: Transfer): z.infer<typeof transaction> {
  if (row.kind === 'suspense') throw new Error(`transfer ${row.id} of the house names a customer`)
  return {
    id: row.id.toString(),
    type: row.kind,
    amount_usd: formatMoney(row.amount),
    balance_after_usd: formatMoney(row.availableAfter ?? 0n),
    order_id: row.orderId,
    created_at: row.createdAt.toISOString(),
  }
}
