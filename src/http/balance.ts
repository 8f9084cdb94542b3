import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod'
import { z } from 'zod'
import { formatMoney, type Micros } from '../money.ts'
import { money, refusals, sendJson } from './answers.ts'
import type { App } from './app.ts'
import { callerOf } from './gate.ts'

const FIND_BALANCE = { name: 'find_balance', text: 'SELECT available FROM customers WHERE id = $1' }

/** GET /balance: what is not held. */
export function balanceRoutes(app: App): FastifyPluginAsyncZod {
  return async server => {
    server.get(
      '/balance',
      {
        config: { scope: 'read' },
        schema: {
          tags: ['Account'],
          operationId: 'getBalance',
          summary: 'Available balance',
          description: 'What is not held by active orders.',
          response: {
            200: z.object({ success: z.literal(true), balance_usd: money }).describe('The balance.'),
            ...refusals([]),
          },
        },
      },
      async (request, reply) => {
        const [row] = await app.db.run<{ available: Micros }>(FIND_BALANCE, [callerOf(request).customerId])
        if (!row) throw new Error('the customer of an API key does not exist')
        return sendJson(reply, 200, { success: true, balance_usd: formatMoney(row.available) })
      },
    )
  }
}
