import type { Answer } from './client.ts'

type Cell = string | number | null | undefined

/** Text of others (names, upstream messages) must not steer the terminal. */
function printable(value: Cell): string {
  return String(value ?? '').replace(/\p{C}/gu, '?')
}

/** Aligned columns; numbers stand right. */
export function table(head: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const cells = [head, ...rows].map(row => row.map(printable))
  const columns = head.map((_, i) => ({
    width: Math.max(...cells.map(row => row[i]?.length ?? 0)),
    numeric: rows.length > 0 && cells.slice(1).every(row => /^(-?[\d.]+)?$/.test(row[i] ?? '')),
  }))
  return cells
    .map(row =>
      columns
        .map(({ width, numeric }, i) => (numeric ? (row[i] ?? '').padStart(width) : (row[i] ?? '').padEnd(width)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

/** The story of an order: what happened when. */
export function story(order: Answer): string {
  const events: [string | null, string][] = [
    [order.created_at, `ordered by ${order.customer_id} with ${order.api_key_id}`],
    [order.cancel_requested_at, 'the customer asked to cancel'],
    [order.finished_at, ending(order)],
  ]
  for (const transfer of order.transfers)
    events.push([transfer.created_at, `${transfer.kind} of ${transfer.amount_usd}`])
  for (const attempt of order.attempts) events.push(...chapter(attempt))
  const lines = events
    .filter((event): event is [string, string] => event[0] !== null)
    .sort(([a], [b]) => a.localeCompare(b))
    .map(([at, what]) => `${at.replace('T', ' ')}  ${printable(what)}`)
  const live = order.attempts.at(-1)
  if (order.finished_at === null)
    lines.push(
      live ? `now: ${order.status}, attempt ${live.n} is ${live.state}` : `now: ${order.status}, no attempt yet`,
    )
  return [
    `${order.id}: model ${order.model_id}, ${order.status}, costs ${order.cost_usd}`,
    ...lines,
    ...order.result,
  ].join('\n')
}

function chapter(attempt: Answer): [string | null, string][] {
  const name = `attempt ${attempt.n}`
  const cost = attempt.cost_usd === null ? '' : `, cost ${attempt.cost_usd}`
  const fault = attempt.fault === null ? '' : `: ${attempt.fault}`
  const message = attempt.message === null ? '' : ` (${attempt.message})`
  return [
    [
      attempt.created_at,
      `${name} at ${attempt.provider}/${attempt.account}, ${attempt.upstream_model}, expected to cost ${attempt.expected_cost_usd}`,
    ],
    [attempt.submitted_at, `${name} submitted${attempt.submits > 1 ? ` (${attempt.submits} times)` : ''}`],
    [attempt.accepted_at, `${name} accepted${attempt.upstream_id === null ? '' : ` as ${attempt.upstream_id}`}`],
    [attempt.finished_at, `${name} ${attempt.state}${fault}${message}${cost}`],
  ]
}

function ending(order: Answer): string {
  return order.error === null ? order.status : `${order.status}: ${order.error.code}. ${order.error.message}`
}
