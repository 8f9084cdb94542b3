import { createHash } from 'node:crypto'
import { type Db, openDb } from '../../src/db/pool.ts'
import { verifyLedger } from '../../src/ledger/verify.ts'
import { formatMoney } from '../../src/money.ts'
import { openLocal } from '../../src/storage/local.ts'
import type { Customer } from './customers.ts'
import type { History } from './history.ts'
import { tasksOf, type Upstream, type UpstreamTask } from './upstreams.ts'

/** What the verdict is made from, once everything has settled. */
export interface Evidence {
  readonly databaseUrl: string
  /** Folder of the storage that all processes share. */
  readonly storage: string
  readonly history: History
  readonly customers: readonly Customer[]
  readonly upstreams: readonly Upstream[]
}

interface OrderRow {
  readonly id: string
  readonly customer_id: string
  readonly status: string
  readonly cost: bigint
  readonly prompt: string
  readonly kinds: string[]
}

interface AttemptRow {
  readonly id: string
  readonly order_id: string
  readonly provider: string
  readonly state: string
  readonly fault: string | null
  readonly ref: string | null
  readonly created_at: Date
}

const ORDERS = {
  name: 'chaos_orders',
  text: `SELECT id, customer_id, status, cost, input::jsonb ->> 'prompt' AS prompt,
      array(SELECT kind::text FROM transfers t WHERE t.order_id = orders.id ORDER BY t.id) AS kinds FROM orders`,
}
const ATTEMPTS = {
  name: 'chaos_attempts',
  text: 'SELECT id, order_id, provider, state, fault, ref, created_at FROM attempts ORDER BY order_id, n',
}
const OUTPUTS = {
  name: 'chaos_outputs',
  text: `SELECT order_id, token, name, encode(sha256, 'hex') AS sha256 FROM outputs ORDER BY order_id, position`,
}

/** Every promise that was broken, in words; empty when none was. */
export async function judge(evidence: Evidence): Promise<string[]> {
  const db = openDb(evidence.databaseUrl)
  try {
    const orders = await db.run<OrderRow & Record<string, unknown>>(ORDERS, [])
    const attempts = await db.run<AttemptRow & Record<string, unknown>>(ATTEMPTS, [])
    const tasks = tasksOf(evidence.upstreams)
    return [
      ...evidence.history.violations,
      ...(await ledgerIsSound(db)),
      ...keysMadeOneOrder(evidence, orders),
      ...boughtOnce(evidence, orders, attempts, tasks),
      ...chargedRightly(orders),
      ...(await bytesStand(db, evidence, orders, tasks)),
      ...(await balancesAgree(db, evidence, orders)),
    ]
  } finally {
    await db.close()
  }
}

async function ledgerIsSound(db: Db): Promise<string[]> {
  const checks = await verifyLedger(db)
  return checks.flatMap(({ invariant, violations, examples }) =>
    violations > 0 ? [`ledger: ${violations} × not so: ${invariant}: ${examples[0]}`] : [],
  )
}

/** One key, one order; every order that was answered 201 exists, and none that was refused. */
function keysMadeOneOrder({ history }: Evidence, orders: readonly OrderRow[]): string[] {
  const byPrompt = Map.groupBy(orders, order => order.prompt)
  const wanted = new Set(history.placements.map(placement => placement.prompt))
  return [
    ...orders.flatMap(({ id, prompt }) => (wanted.has(prompt) ? [] : [`nobody wanted order ${id}: ${prompt}`])),
    ...history.placements.flatMap(({ key, prompt, orderId, refused }) => {
      const ids = (byPrompt.get(prompt) ?? []).map(order => order.id)
      if (ids.length > 1) return [`${ids.length} orders for key ${key}: ${ids.join(', ')}`]
      if (orderId !== undefined && ids[0] !== orderId) return [`order ${orderId} was answered 201 and is not there`]
      if (refused !== undefined && ids.length > 0) return [`key ${key} was refused, and made ${ids[0]}: ${refused}`]
      return []
    }),
  ]
}

const UNDONE = new Set(['failed', 'moderated', 'cancelled'])
/** Faults that say that the upstream never had the task. */
const NEVER_HAD = new Set(['unavailable', 'rate_limited', 'account_saturated', 'unclear', 'absent'])

/** An order is bought again only where what was bought before is over without a result. */
function boughtOnce(
  { upstreams }: Evidence,
  orders: readonly OrderRow[],
  attempts: readonly AttemptRow[],
  tasks: readonly UpstreamTask[],
): string[] {
  const byPrompt = Map.groupBy(tasks, task => task.prompt)
  const byOrder = Map.groupBy(attempts, attempt => attempt.order_id)
  const idempotent = new Set(upstreams.flatMap(upstream => (upstream.idempotent ? [upstream.provider] : [])))
  return orders.flatMap(order => {
    const made = (byPrompt.get(order.prompt) ?? []).toSorted((a, b) => +a.task.createdAt - +b.task.createdAt)
    const own = byOrder.get(order.id) ?? []
    const matched = matchTasks(made, own, idempotent)
    if (typeof matched === 'string') return [`${order.id}: ${matched}`]
    const completed = order.status === 'completed'
    return matched.flatMap(({ task, attempt }, i) => {
      const state = task.task.now().state
      const later = own.slice(own.indexOf(attempt) + 1)
      const what = `${order.id}: its ${task.provider} task ${task.task.id} (${state}, attempt ${attempt.state})`
      if (later.length > 0 && !UNDONE.has(state)) return [`${what} still counts, yet ${later[0]?.provider} was asked`]
      if (later.length > 0 && NEVER_HAD.has(attempt.fault ?? ''))
        return [`${what} exists, yet ${later[0]?.provider} was asked because it was held not to (${attempt.fault})`]
      if (completed && i === matched.length - 1 && state !== 'succeeded' && state !== 'partial')
        return [`${what} did not succeed, yet the order completed`]
      return []
    })
  })
}

/** Which attempt made which task; a text when a task has none: it was accepted twice. */
function matchTasks(
  tasks: readonly UpstreamTask[],
  attempts: readonly AttemptRow[],
  idempotent: ReadonlySet<string>,
): { task: UpstreamTask; attempt: AttemptRow }[] | string {
  const free = new Set(attempts)
  const found: { task: UpstreamTask; attempt: AttemptRow }[] = []
  const isOf = (task: UpstreamTask) => (attempt: AttemptRow) =>
    attempt.provider === task.provider &&
    (idempotent.has(task.provider)
      ? task.task.idempotencyKey === `gm-${attempt.id}`
      : attempt.ref === null || attempt.ref.includes(task.task.id)) &&
    +attempt.created_at <= +task.task.createdAt + CLOCK_SLACK_MS
  // Those that name their task come before those that could have made any.
  for (const task of tasks.toSorted((a, b) => Number(named(b, attempts)) - Number(named(a, attempts)))) {
    const attempt = [...free].filter(isOf(task)).toSorted((a, b) => Number(a.ref === null) - Number(b.ref === null))[0]
    if (!attempt) return `${task.provider} accepted ${task.task.id} beside what its attempts account for: bought twice`
    free.delete(attempt)
    found.push({ task, attempt })
  }
  return found.toSorted((a, b) => attempts.indexOf(a.attempt) - attempts.indexOf(b.attempt))
}

const CLOCK_SLACK_MS = 50

function named({ task }: UpstreamTask, attempts: readonly AttemptRow[]): boolean {
  return attempts.some(attempt => attempt.ref?.includes(task.id))
}

const RIGHT: Record<string, string> = { completed: 'hold,capture', failed: 'hold,release', cancelled: 'hold,release' }

function chargedRightly(orders: readonly OrderRow[]): string[] {
  return orders.flatMap(({ id, status, kinds }) => {
    const money = kinds.filter(kind => kind !== 'suspense').join()
    return money === RIGHT[status] ? [] : [`${id} is ${status}, its money went ${money}`]
  })
}

/** What was captured for stands in the storage, whole, and is what the upstream made for this order. */
async function bytesStand(
  db: Db,
  { storage, history }: Evidence,
  orders: readonly OrderRow[],
  tasks: readonly UpstreamTask[],
): Promise<string[]> {
  const rows = await db.run<{ order_id: string; token: string; name: string; sha256: string }>(OUTPUTS, [])
  const byOrder = Map.groupBy(rows, row => row.order_id)
  const made = Map.groupBy(tasks, task => task.prompt)
  const files = await openLocal(storage)
  const broken: string[] = []
  for (const { id, prompt } of orders.filter(order => order.status === 'completed')) {
    const originals = (made.get(prompt) ?? []).flatMap(({ task }) => task.outputs().map(file => file.sha256))
    const outputs = byOrder.get(id) ?? []
    if (outputs.length === 0) broken.push(`${id} was captured without a result`)
    for (const { token, name, sha256 } of outputs) {
      const stored = await hashOf(await files.open(name).catch(() => undefined))
      if (stored !== sha256) broken.push(`${id}: ${name} is ${stored ?? 'missing'} instead of ${sha256}`)
      if (!originals.includes(sha256)) broken.push(`${id}: ${name} is not what an upstream made for it`)
      const seen = history.downloads.get(token)
      if (seen !== undefined && seen !== sha256) broken.push(`${id}: its link gave ${seen} instead of ${sha256}`)
    }
  }
  return broken
}

async function hashOf(stream: AsyncIterable<Buffer> | undefined): Promise<string | undefined> {
  if (!stream) return undefined
  const hash = createHash('sha256')
  for await (const chunk of stream) hash.update(chunk)
  return hash.digest('hex')
}

/** What came in, less what completed orders cost. */
async function balancesAgree(db: Db, { history, customers }: Evidence, orders: readonly OrderRow[]): Promise<string[]> {
  const rows = await db.prisma.customer.findMany()
  return customers.flatMap(({ index, id }) => {
    const came = history.topups.filter(topup => topup.customer === index && topup.done)
    const spent = orders.filter(order => order.customer_id === id && order.status === 'completed')
    const expected =
      came.reduce((sum, topup) => sum + topup.micros, 0n) - spent.reduce((sum, order) => sum + order.cost, 0n)
    const row = rows.find(row => row.id === id)
    if (row?.available === expected && row.held === 0n) return []
    return [
      `customer ${index} has ${formatMoney(row?.available ?? 0n)} and holds ${formatMoney(row?.held ?? 0n)}; the model has ${formatMoney(expected)}`,
    ]
  })
}
