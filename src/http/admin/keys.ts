import { randomBytes } from 'node:crypto'
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod'
import { z } from 'zod'
import type { ApiKey } from '../../db/prisma/client.ts'
import { ApiError } from '../../errors.ts'
import { createSecret } from '../auth.ts'
import { pageQuery } from '../answers.ts'
import type { Admin } from './admin.ts'
import { auditLine } from './audit.ts'
import { findCustomer, forgetKeys } from './customers.ts'
import { adminBodyRefusals, adminRefusals, cutPage, idParams, nextCursor, readCursor } from './answers.ts'

const scopes = z
  .array(z.enum(['read', 'generate']))
  .min(1)
  .max(2)
  .refine(list => new Set(list).size === list.length, 'names a scope twice')
const keyBody = z.object({
  id: z.string(),
  customer_id: z.string(),
  name: z.string(),
  prefix: z.string().describe('how the secret begins, to recognise it by'),
  scopes: z.array(z.string()),
  created_at: z.string(),
  revoked_at: z.string().nullable(),
})

export const keyRoutes =
  ({ db }: Admin): FastifyPluginAsyncZod =>
  async server => {
    server.post(
      '/customers/:id/keys',
      {
        schema: {
          operationId: 'createKey',
          summary: 'Create an API key',
          description: 'The secret is shown here and never again: only its SHA-256 is stored.',
          params: idParams,
          body: z.strictObject({
            name: z.string().trim().min(1).max(200),
            scopes: scopes.default(['read', 'generate']),
          }),
          response: {
            201: z.object({ success: z.literal(true), key: keyBody.extend({ secret: z.string() }) }),
            ...adminBodyRefusals(['customer_not_found']),
          },
        },
      },
      async (request, reply) => {
        const customer = await findCustomer(db, request.params.id)
        const { name, scopes } = request.body
        const id = `key_${randomBytes(12).toString('base64url')}`
        const { secret, prefix, hash } = createSecret()
        const data = { id, customerId: customer.id, name, scopes, prefix, secretHash: Uint8Array.from(hash) }
        const [key] = await db.prisma.$transaction([
          db.prisma.apiKey.create({ data }),
          auditLine(db, 'key.create', id, { customer_id: customer.id, name, scopes, prefix }),
        ])
        return reply.code(201).send({ success: true, key: { ...view(key), secret } })
      },
    )

    server.get(
      '/customers/:id/keys',
      {
        schema: {
          operationId: 'listKeys',
          summary: "List a customer's API keys, newest first",
          params: idParams,
          querystring: pageQuery,
          response: {
            200: z.object({ success: z.literal(true), keys: z.array(keyBody), next_cursor: nextCursor }),
            ...adminRefusals(['customer_not_found']),
          },
        },
      },
      async request => {
        const { limit, cursor } = request.query
        const before = readCursor(cursor)
        const customer = await findCustomer(db, request.params.id)
        const rows = await db.prisma.apiKey.findMany({
          where: { customerId: customer.id, ...(before === undefined ? {} : { seq: { lt: before } }) },
          orderBy: { seq: 'desc' },
          take: limit + 1,
        })
        const { page, next_cursor } = cutPage(rows, limit, row => row.seq)
        return { success: true as const, keys: page.map(view), next_cursor }
      },
    )

    server.delete(
      '/keys/:id',
      {
        schema: {
          operationId: 'revokeKey',
          summary: 'Revoke an API key',
          description: 'It is dead at once on every node, 5 s later at the latest. Repeating it changes nothing.',
          params: idParams,
          response: { 200: z.object({ success: z.literal(true), key: keyBody }), ...adminRefusals(['key_not_found']) },
        },
      },
      async request => {
        const { id } = request.params
        const key = await db.prisma.apiKey.findUnique({ where: { id } })
        if (!key) throw new ApiError('key_not_found', 'No such API key.')
        if (key.revokedAt) return { success: true as const, key: view(key) }
        const [revoked] = await db.prisma.$transaction([
          db.prisma.apiKey.update({ where: { id }, data: { revokedAt: new Date() } }),
          auditLine(db, 'key.revoke', id, { customer_id: key.customerId, prefix: key.prefix }),
          forgetKeys(db),
        ])
        return { success: true as const, key: view(revoked) }
      },
    )
  }

function view(key: ApiKey): z.infer<typeof keyBody> {
  return {
    id: key.id,
    customer_id: key.customerId,
    name: key.name,
    prefix: key.prefix,
    scopes: key.scopes,
    created_at: key.createdAt.toISOString(),
    revoked_at: key.revokedAt?.toISOString() ?? null,
  }
}
