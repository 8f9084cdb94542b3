import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod'
import { z } from 'zod'
import { ApiError } from '../../errors.ts'
import { marginReport } from '../../ledger/margin.ts'
import { verifyLedger } from '../../ledger/verify.ts'
import { formatMoney } from '../../money.ts'
import { money } from '../answers.ts'
import type { Admin } from './admin.ts'
import { adminRefusals } from './answers.ts'

const DAY_MS = 86_400_000

const sums = z.object({
  orders: z.int(),
  revenue_usd: money,
  upstream_cost_usd: money.describe('of the attempts that delivered'),
  failed_attempts_cost_usd: money.describe('charged, or perhaps charged, for the others'),
  margin_usd: money.describe('revenue less both costs'),
})
const date = z.iso.date('must be a date such as 2026-11-20')
const groupBy = z.enum(['model', 'provider', 'customer', 'day'])
const report = z.object({
  from: z.string(),
  to: z.string(),
  group_by: groupBy,
  rows: z.array(sums.extend({ key: z.string().describe('id of the model, provider or customer, or the day') })),
  total: sums,
})

export const reportRoutes =
  ({ db }: Admin): FastifyPluginAsyncZod =>
  async server => {
    server.get(
      '/reports/margin',
      {
        schema: {
          operationId: 'getMarginReport',
          summary: 'What orders brought and cost',
          description: 'Days are UTC and both inclusive; by default the last 30.',
          querystring: z.object({ from: date.optional(), to: date.optional(), group_by: groupBy.default('model') }),
          response: { 200: z.object({ success: z.literal(true), report }), ...adminRefusals([]) },
        },
      },
      async request => {
        const { from, to, group_by } = request.query
        const last = new Date(to ?? new Date().toISOString().slice(0, 10))
        const first = from === undefined ? new Date(last.getTime() - 29 * DAY_MS) : new Date(from)
        if (first > last) throw new ApiError('validation_error', 'from: must not be after to.')
        const until = new Date(last.getTime() + DAY_MS)
        const rows = await marginReport(db, { from: first, until, groupBy: group_by })
        const day = (date: Date) => date.toISOString().slice(0, 10)
        return {
          success: true as const,
          report: {
            from: day(first),
            to: day(last),
            group_by,
            rows: rows.map(row => ({ key: row.key, ...view(row) })),
            total: view({
              orders: rows.reduce((sum, row) => sum + row.orders, 0),
              revenue: rows.reduce((sum, row) => sum + row.revenue, 0n),
              upstreamCost: rows.reduce((sum, row) => sum + row.upstreamCost, 0n),
              failedCost: rows.reduce((sum, row) => sum + row.failedCost, 0n),
            }),
          },
        }
      },
    )

    const check = z.object({ invariant: z.string(), violations: z.int(), examples: z.array(z.string()) })
    server.get(
      '/ledger/verify',
      {
        schema: {
          operationId: 'verifyLedger',
          summary: 'Recompute every invariant of money',
          description: 'All `violations` are 0 when the ledger is sound; examples name the first few rows.',
          response: {
            200: z.object({ success: z.literal(true), sound: z.boolean(), invariants: z.array(check) }),
            ...adminRefusals([]),
          },
        },
      },
      async () => {
        const invariants = await verifyLedger(db)
        return { success: true as const, sound: invariants.every(check => check.violations === 0), invariants }
      },
    )
  }

function view(row: {
  orders: number
  revenue: bigint
  upstreamCost: bigint
  failedCost: bigint
}): z.infer<typeof sums> {
  return {
    orders: row.orders,
    revenue_usd: formatMoney(row.revenue),
    upstream_cost_usd: formatMoney(row.upstreamCost),
    failed_attempts_cost_usd: formatMoney(row.failedCost),
    margin_usd: formatMoney(row.revenue - row.upstreamCost - row.failedCost),
  }
}
