import type { OrderInput } from '../catalog/model.ts'
import { type Candidate, candidates } from '../routing/candidates.ts'
import { judge, type PastAttempt } from '../routing/decide.ts'
import type { AttemptRow, Engine, HeldOrder, Next } from './engine.ts'
import { ORDER_FAULT_MESSAGES, type OrderFault } from './order.ts'
import { beginAttempt } from './prepare.ts'

const WAITING = {
  name: 'orders_waiting',
  text: 'SELECT count(*)::int AS waiting FROM orders WHERE wake_at IS NOT NULL',
}
/** Orders that wait for a place are looked at this far apart, all together, and each at least this often. */
const LOOK_EVERY_MS = 20
const LOOK_AT_LEAST_MS = 20_000

/** Begins the best attempt that may be begun now, or ends the order when there is none. */
export async function nextRoute(engine: Engine, order: HeldOrder, past: readonly AttemptRow[]): Promise<Next> {
  if (order.cancel_requested_at && past.length > 0) return end(engine, order, 'cancelled')
  const verdict = judge(past.map(asPast))
  if (verdict.fail) return end(engine, order, 'failed', verdict.fail)
  const model = engine.catalog.models.get(order.model_id)
  if (!model) return end(engine, order, 'failed', 'provider_failed')
  await engine.observer.refresh()
  const wanted = { input: JSON.parse(order.input) as OrderInput, price: order.cost, routing: order.routing }
  const found = await candidates(model, wanted, verdict, {
    off: await engine.switches.off(),
    observer: engine.observer,
  })
  const last = past.at(-1)?.fault
  if (found.length === 0) return end(engine, order, 'failed', last === 'timed_out' ? 'timed_out' : 'provider_failed')
  if (order.overdue)
    return end(engine, order, 'failed', last === undefined || last === 'timed_out' ? 'timed_out' : 'provider_failed')

  let waitMs = 30_000
  let unfit = 0
  for (const candidate of found) {
    const input = await inputOf(engine, order, candidate)
    if (!input) {
      unfit += 1
      continue
    }
    const { concurrent } = candidate.account.limits
    if (concurrent !== undefined && (await engine.budgets.inFlight(candidate.account)) >= concurrent) {
      waitMs = Math.min(waitMs, 1_000)
      continue
    }
    // Looked at before the breaker is asked, whose one probe must not be lost for want of budget.
    if ((await engine.budgets.available(candidate.account, 'submit')) <= 0) {
      waitMs = Math.min(waitMs, 2_000)
      continue
    }
    if (!(await engine.breaker.allow(candidate.account))) {
      waitMs = Math.min(waitMs, 2_000)
      continue
    }
    const taken = await engine.budgets.take(candidate.account, 'submit')
    if (!taken.granted) {
      waitMs = Math.min(waitMs, taken.retryAfterMs)
      continue
    }
    const next = await beginAttempt(engine, order, candidate, input, past.length + 1)
    if (next !== 'saturated') return next
    waitMs = Math.min(waitMs, 1_000)
  }
  if (unfit === found.length) return end(engine, order, 'failed', 'provider_failed')
  return { wakeInMs: await spread(engine, waitMs) }
}

/** The route's fields for this order; undefined when its expression fails for it. */
async function inputOf(
  engine: Engine,
  order: HeldOrder,
  { route }: Candidate,
): Promise<Record<string, unknown> | undefined> {
  try {
    return await route.inputOf(JSON.parse(order.input) as OrderInput)
  } catch (error) {
    const { provider, upstreamModel } = route
    engine.log.error(
      { order: order.id, provider: provider.id, model: upstreamModel, reason: String(error) },
      'input expression failed',
    )
    return undefined
  }
}

/** Orders that wait for the same thing do not all come back at the same moment, and the more wait the less often each looks. */
async function spread(engine: Engine, waitMs: number): Promise<number> {
  const [row] = await engine.db.run<{ waiting: number }>(WAITING, [])
  const turn = Math.min(LOOK_AT_LEAST_MS, (row?.waiting ?? 0) * LOOK_EVERY_MS)
  return Math.max(100, waitMs, turn) * (1 + Math.random() / 4)
}

function asPast(attempt: AttemptRow): PastAttempt {
  return {
    provider: attempt.provider,
    account: attempt.account,
    upstreamModel: attempt.upstream_model,
    fault: (attempt.fault ?? 'task_failed') as PastAttempt['fault'],
  }
}

async function end(
  engine: Engine,
  order: HeldOrder,
  status: 'failed' | 'cancelled',
  code?: OrderFault,
): Promise<'left'> {
  await engine.settle({
    orderId: order.id,
    fence: order.fence,
    status,
    ...(code ? { errorCode: code, errorMessage: ORDER_FAULT_MESSAGES[code] } : {}),
  })
  return 'left'
}
