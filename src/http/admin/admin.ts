import { createHash, timingSafeEqual } from 'node:crypto'
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod'
import { ApiError } from '../../errors.ts'
import type { App } from '../app.ts'
import { auditRoutes } from './audit.ts'
import { customerRoutes } from './customers.ts'
import { keyRoutes } from './keys.ts'
import { moneyRoutes } from './money.ts'
import { orderRoutes } from './orders.ts'
import { providerRoutes } from './providers.ts'
import { reportRoutes } from './reports.ts'

/** What the operator's routes work with. */
export type Admin = Pick<App, 'db' | 'catalog' | 'adminToken' | 'breaker' | 'budgets'>

/** The operator's API. Register it with the prefix `/admin/v1`; every request needs the admin token. */
export function adminRoutes(admin: Admin): FastifyPluginAsyncZod {
  const expected = sha256(admin.adminToken)
  return async server => {
    server.addHook('onRoute', route => {
      route.schema = { ...route.schema, tags: ['Admin'], security: [{ adminToken: [] }] }
    })
    server.addHook('onRequest', async request => {
      const [, token] = /^bearer +(\S+) *$/i.exec(request.headers.authorization ?? '') ?? []
      // Hashes have one length, and comparing them tells nothing about the token.
      if (token === undefined || !timingSafeEqual(sha256(token), expected))
        throw new ApiError('unauthorized', 'Admin token missing or invalid.')
    })
    for (const routes of [
      customerRoutes,
      keyRoutes,
      moneyRoutes,
      orderRoutes,
      providerRoutes,
      reportRoutes,
      auditRoutes,
    ]) {
      await server.register(routes(admin))
    }
  }
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
