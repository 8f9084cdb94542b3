import type { AccountEntry, Model, OrderInput, Route, Routing } from '../catalog/model.ts'
import type { Micros } from '../money.ts'
import type { Verdict } from './decide.ts'
import type { Observer } from './observed.ts'

/** One way to make an order: a route through one account of its provider. */
export interface Candidate {
  readonly route: Route
  readonly account: AccountEntry
  readonly cost: Micros
}

/**
 * The ways to make this order, best first. `auto`: rank, then cost, then observed success, then latency. `value`: cost first.
 * `fast`: observed latency first. A route that would leave less than the model's margin is not among them. Accounts of one
 * provider are pooled: which comes first is chance.
 */
export async function candidates(
  model: Model,
  order: { readonly input: OrderInput; readonly price: Micros; readonly routing: Routing | null },
  verdict: Verdict,
  health: { readonly off: ReadonlySet<string>; readonly observer: Observer },
): Promise<Candidate[]> {
  const found: Candidate[] = []
  for (const route of model.routes) {
    if (route.unusable !== undefined || health.off.has(route.provider.id)) continue
    const accounts = route.provider.accounts.filter(
      account => account.configured && verdict.allows(route.provider.id, account.id, route.upstreamModel),
    )
    if (accounts.length === 0 || !(await route.eligible(order.input))) continue
    const cost = await costOf(route, order.input)
    if (cost === undefined || !leavesMargin(order.price, cost, model.minMargin)) continue
    found.push(...shuffled(accounts).map(account => ({ route, account, cost })))
  }
  const routing = order.routing ?? model.routing
  return found.sort((a, b) => compare(routing, a, b, health.observer))
}

/** A cost expression that fails for this order makes the route unfit for it, not the order. */
async function costOf(route: Route, input: OrderInput): Promise<Micros | undefined> {
  try {
    return await route.costOf(input)
  } catch {
    return undefined
  }
}

function leavesMargin(price: Micros, cost: Micros, minMargin: number): boolean {
  return minMargin === Number.NEGATIVE_INFINITY || Number(price - cost) >= minMargin * Number(price)
}

function compare(routing: Routing, a: Candidate, b: Candidate, observer: Observer): number {
  const rank = a.route.rank - b.route.rank
  const cost = Number(a.cost - b.cost)
  const seen = [a, b].map(c => observer.of(c.route.provider.id, c.route.upstreamModel))
  const success = (seen[1]?.success ?? 1) - (seen[0]?.success ?? 1)
  const [left, right] = seen.map(o => o?.latencyMs ?? Number.POSITIVE_INFINITY) as [number, number]
  const latency = left === right ? 0 : left - right
  const order = {
    auto: [rank, cost, success, latency],
    value: [cost, rank, success, latency],
    fast: [latency, rank, cost, success],
  }
  return order[routing].find(difference => difference !== 0) ?? 0
}

export function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map(item => ({ item, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item)
}
