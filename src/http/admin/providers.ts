import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod'
import { z } from 'zod'
import type { Catalog, ProviderEntry } from '../../catalog/model.ts'
import type { Statement } from '../../db/pool.ts'
import { ApiError } from '../../errors.ts'
import { formatMoney, type Micros } from '../../money.ts'
import type { Trouble } from '../../routing/breaker.ts'
import { money } from '../answers.ts'
import type { Admin } from './admin.ts'
import { adminBodyRefusals, adminRefusals, idParams } from './answers.ts'
import { auditLine } from './audit.ts'

const accountBody = z.object({
  id: z.string(),
  configured: z.boolean().describe('false: its key is not set, its routes are not used'),
  breaker: z.object({
    state: z.enum(['closed', 'open', 'half_open']),
    failures: z.int(),
    reason: z.string().nullable(),
    opened_at: z.string().nullable(),
    open_until: z.string().nullable().describe('when the next order may probe it'),
  }),
  budgets: z.array(
    z.object({
      window: z.string(),
      limit: z.number(),
      left: z.number(),
      blocked_ms: z.number().describe("how long the upstream's own refusal still holds"),
    }),
  ),
  in_flight: z.int(),
  in_flight_limit: z.number().nullable(),
  spent_usd: money,
})
const providerBody = z.object({
  id: z.string(),
  kind: z.string(),
  enabled: z.boolean(),
  routes: z.int(),
  routes_off: z.array(z.object({ model_id: z.int(), upstream_model: z.string(), reason: z.string() })),
  accounts: z.array(accountBody),
})
type ProviderBody = z.infer<typeof providerBody>

const SPENT: Statement = {
  name: 'admin_spent',
  text: `SELECT provider, account,
      sum(coalesce(cost, CASE WHEN state IN ('succeeded', 'abandoned', 'late') THEN expected_cost END))::bigint AS spent
    FROM attempts WHERE finished_at IS NOT NULL GROUP BY provider, account`,
}

export const providerRoutes =
  (admin: Admin): FastifyPluginAsyncZod =>
  async server => {
    const { db, catalog } = admin

    server.get(
      '/providers',
      {
        schema: {
          operationId: 'listProviders',
          summary: 'Providers: switches, breakers, budgets, spending',
          response: {
            200: z.object({ success: z.literal(true), providers: z.array(providerBody) }),
            ...adminRefusals([]),
          },
        },
      },
      async () => ({ success: true as const, providers: await viewAll(admin, [...catalog.providers.values()]) }),
    )

    server.patch(
      '/providers/:id',
      {
        schema: {
          operationId: 'updateProvider',
          summary: 'Switch a provider on or off',
          description: 'Off: it gets no new order from any node. What it is making is still fetched.',
          params: idParams,
          body: z.strictObject({ enabled: z.boolean() }),
          response: {
            200: z.object({ success: z.literal(true), provider: providerBody }),
            ...adminBodyRefusals(['provider_not_found']),
          },
        },
      },
      async request => {
        const { id } = request.params
        const { enabled } = request.body
        const entry = catalog.providers.get(id)
        if (!entry) throw new ApiError('provider_not_found', 'No such provider in the catalog.')
        await db.prisma.$transaction([
          db.prisma.providerSwitch.upsert({
            where: { provider: id },
            create: { provider: id, enabled },
            update: { enabled, changedAt: new Date() },
          }),
          auditLine(db, 'provider.switch', id, { enabled }),
        ])
        const [provider] = (await viewAll(admin, [entry])) as [ProviderBody]
        return { success: true as const, provider }
      },
    )
  }

async function viewAll(admin: Admin, entries: readonly ProviderEntry[]): Promise<ProviderBody[]> {
  const { db, catalog, breaker } = admin
  const [off, troubles, spent] = await Promise.all([
    db.prisma.providerSwitch.findMany({ where: { enabled: false } }),
    breaker.list(),
    db.run<{ provider: string; account: string; spent: Micros | null }>(SPENT, []),
  ])
  const views: ProviderBody[] = []
  for (const entry of entries) {
    const accounts: ProviderBody['accounts'] = []
    for (const account of entry.accounts) {
      const is = (row: { provider: string; account: string }) => row.provider === entry.id && row.account === account.id
      accounts.push({
        id: account.id,
        configured: account.configured,
        breaker: viewBreaker(troubles.find(is)),
        budgets: (await admin.budgets.left(account)).map(({ blockedMs, ...left }) => ({
          ...left,
          blocked_ms: blockedMs,
        })),
        in_flight: await admin.budgets.inFlight(account),
        in_flight_limit: account.limits.concurrent ?? null,
        spent_usd: formatMoney(spent.find(is)?.spent ?? 0n),
      })
    }
    const enabled = !off.some(row => row.provider === entry.id)
    views.push({ id: entry.id, kind: entry.adapter.kind, enabled, ...viewRoutes(catalog, entry), accounts })
  }
  return views
}

function viewBreaker(trouble: Trouble | undefined): ProviderBody['accounts'][number]['breaker'] {
  return {
    state: trouble?.state ?? 'closed',
    failures: trouble?.failures ?? 0,
    reason: trouble?.reason ?? null,
    opened_at: trouble?.openedAt?.toISOString() ?? null,
    open_until: trouble?.openUntil?.toISOString() ?? null,
  }
}

function viewRoutes(catalog: Catalog, entry: ProviderEntry): Pick<ProviderBody, 'routes' | 'routes_off'> {
  const routes = [...catalog.models.values()].flatMap(model =>
    model.routes.flatMap(route => (route.provider.id === entry.id ? [{ model, route }] : [])),
  )
  const off = routes.flatMap(({ model, route }) =>
    route.unusable === undefined
      ? []
      : [{ model_id: model.id, upstream_model: route.upstreamModel, reason: route.unusable }],
  )
  return { routes: routes.length, routes_off: off }
}
