import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod'
import { z } from 'zod'
import type { Db } from '../../db/pool.ts'
import type { Prisma } from '../../db/prisma/client.ts'
import { pageQuery } from '../answers.ts'
import type { Admin } from './admin.ts'
import { adminRefusals, cutPage, nextCursor, readCursor } from './answers.ts'

/** The audit line of a change, to commit with it in one `$transaction([…])`. `detail` holds no secret. */
export function auditLine(db: Db, action: string, subject: string, detail: Prisma.InputJsonObject) {
  return db.prisma.audit.create({ data: { actor: 'admin', action, subject, detail } })
}

const line = z.object({
  id: z.string(),
  at: z.string(),
  actor: z.string(),
  action: z.string().describe('e.g. customer.create'),
  subject: z.string().describe('id of what was changed'),
  detail: z.record(z.string(), z.unknown()),
})

export const auditRoutes =
  ({ db }: Admin): FastifyPluginAsyncZod =>
  async server => {
    server.get(
      '/audit',
      {
        schema: {
          operationId: 'listAudit',
          summary: 'Who changed what, newest first',
          querystring: pageQuery.extend({ subject: z.string().max(100).optional() }),
          response: {
            200: z.object({ success: z.literal(true), audit: z.array(line), next_cursor: nextCursor }),
            ...adminRefusals([]),
          },
        },
      },
      async request => {
        const { limit, cursor, subject } = request.query
        const before = readCursor(cursor)
        const rows = await db.prisma.audit.findMany({
          where: {
            ...(subject === undefined ? {} : { subject }),
            ...(before === undefined ? {} : { id: { lt: before } }),
          },
          orderBy: { id: 'desc' },
          take: limit + 1,
        })
        const { page, next_cursor } = cutPage(rows, limit, row => row.id)
        const audit = page.map(row => ({
          id: row.id.toString(),
          at: row.at.toISOString(),
          actor: row.actor,
          action: row.action,
          subject: row.subject,
          detail: row.detail as Record<string, unknown>,
        }))
        return { success: true as const, audit, next_cursor }
      },
    )
  }
