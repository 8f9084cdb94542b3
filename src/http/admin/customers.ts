import { randomBytes } from 'node:crypto'
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod'
import { z } from 'zod'
import type { Db } from '../../db/pool.ts'
import type { Customer } from '../../db/prisma/client.ts'
import { ApiError } from '../../errors.ts'
import { formatMoney } from '../../money.ts'
import { KEYS_CHANNEL } from '../auth.ts'
import { money, pageQuery } from '../answers.ts'
import type { Admin } from './admin.ts'
import { auditLine } from './audit.ts'
import { adminBodyRefusals, adminRefusals, cutPage, idParams, nextCursor, readCursor } from './answers.ts'

const DEFAULT_MAX_ACTIVE_ORDERS = 1000

const name = z.string().trim().min(1).max(200)
const maxActiveOrders = z.int().min(0).max(1_000_000)
const rateLimit = z.int().min(1).max(10_000_000).nullable().describe('null: the default of the server')

const customerBody = z.object({
  id: z.string(),
  name: z.string(),
  status: z.enum(['active', 'suspended']),
  balance_usd: money,
  held_usd: money,
  active_orders: z.int(),
  max_active_orders: z.int(),
  rate_limit_per_minute: z.int().nullable(),
  created_at: z.string(),
})
const one = z.object({ success: z.literal(true), customer: customerBody })

/** Throws customer_not_found. */
export async function findCustomer(db: Db, id: string): Promise<Customer> {
  const customer = await db.prisma.customer.findUnique({ where: { id } })
  if (!customer) throw new ApiError('customer_not_found', 'No such customer.')
  return customer
}

/** Tells every node, when the transaction commits, that what it knows of API keys and their customers is old. */
export function forgetKeys(db: Db) {
  return db.prisma.$executeRaw`SELECT pg_notify(${KEYS_CHANNEL}, '')`
}

export const customerRoutes =
  ({ db }: Admin): FastifyPluginAsyncZod =>
  async server => {
    server.post(
      '/customers',
      {
        schema: {
          operationId: 'createCustomer',
          summary: 'Create a customer',
          body: z.strictObject({
            name,
            max_active_orders: maxActiveOrders.default(DEFAULT_MAX_ACTIVE_ORDERS),
            rate_limit_per_minute: rateLimit.default(null),
          }),
          response: { 201: one, ...adminBodyRefusals([]) },
        },
      },
      async (request, reply) => {
        const id = `cus_${randomBytes(12).toString('base64url')}`
        const { name, max_active_orders, rate_limit_per_minute } = request.body
        const data = { id, name, maxActiveOrders: max_active_orders, rateLimitPerMinute: rate_limit_per_minute }
        const [customer] = await db.prisma.$transaction([
          db.prisma.customer.create({ data }),
          auditLine(db, 'customer.create', id, request.body),
        ])
        return reply.code(201).send({ success: true, customer: view(customer) })
      },
    )

    server.get(
      '/customers',
      {
        schema: {
          operationId: 'listCustomers',
          summary: 'List customers, newest first',
          querystring: pageQuery.extend({ name: z.string().max(200).optional().describe('exactly this name') }),
          response: {
            200: z.object({ success: z.literal(true), customers: z.array(customerBody), next_cursor: nextCursor }),
            ...adminRefusals([]),
          },
        },
      },
      async request => {
        const { limit, cursor, name } = request.query
        const before = readCursor(cursor)
        const rows = await db.prisma.customer.findMany({
          where: { ...(name === undefined ? {} : { name }), ...(before === undefined ? {} : { seq: { lt: before } }) },
          orderBy: { seq: 'desc' },
          take: limit + 1,
        })
        const { page, next_cursor } = cutPage(rows, limit, row => row.seq)
        return { success: true as const, customers: page.map(view), next_cursor }
      },
    )

    server.get(
      '/customers/:id',
      {
        schema: {
          operationId: 'getCustomer',
          summary: 'One customer',
          params: idParams,
          response: { 200: one, ...adminRefusals(['customer_not_found']) },
        },
      },
      async request => ({ success: true as const, customer: view(await findCustomer(db, request.params.id)) }),
    )

    server.patch(
      '/customers/:id',
      {
        schema: {
          operationId: 'updateCustomer',
          summary: 'Change a customer',
          params: idParams,
          body: z
            .strictObject({
              name: name.optional(),
              status: z.enum(['active', 'suspended']).optional(),
              max_active_orders: maxActiveOrders.optional(),
              rate_limit_per_minute: rateLimit.optional(),
            })
            .refine(body => Object.keys(body).length > 0, 'nothing to change'),
          response: { 200: one, ...adminBodyRefusals(['customer_not_found']) },
        },
      },
      async request => {
        const { id } = request.params
        await findCustomer(db, id)
        const { name, status, max_active_orders, rate_limit_per_minute } = request.body
        const data = {
          ...(name === undefined ? {} : { name }),
          ...(status === undefined ? {} : { status }),
          ...(max_active_orders === undefined ? {} : { maxActiveOrders: max_active_orders }),
          ...(rate_limit_per_minute === undefined ? {} : { rateLimitPerMinute: rate_limit_per_minute }),
        }
        const [customer] = await db.prisma.$transaction([
          db.prisma.customer.update({ where: { id }, data }),
          auditLine(db, 'customer.change', id, request.body),
          forgetKeys(db),
        ])
        return { success: true as const, customer: view(customer) }
      },
    )
  }

function view(customer: Customer): z.infer<typeof customerBody> {
  return {
    id: customer.id,
    name: customer.name,
    status: customer.status,
    balance_usd: formatMoney(customer.available),
    held_usd: formatMoney(customer.held),
    active_orders: customer.activeOrders,
    max_active_orders: customer.maxActiveOrders,
    rate_limit_per_minute: customer.rateLimitPerMinute,
    created_at: customer.createdAt.toISOString(),
  }
}
