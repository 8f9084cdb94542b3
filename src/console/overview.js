import { call, readAll } from './api.js'
import { marginChart } from './chart.js'
import { amount, badge, card, h, heading, link } from './dom.js'
import { button } from './form.js'
import { live } from './live.js'
import { sum } from './money.js'
import { remember } from './names.js'
import { breakerBadge, providerSwitch } from './providers.js'
import { table } from './table.js'

const STATUSES = ['queued', 'processing', 'completed', 'failed', 'cancelled']
/** There is no count in the API: orders are read until yesterday begins, or this many. */
const MOST_ORDERS = 1_000
const MOST_CUSTOMERS = 2_000
const DAY_MS = 86_400_000

export async function overview(page) {
  const [today, money, week, health] = [1, 2, 3, 4].map(() => h('div', { class: 'region' }))
  page.append(
    heading('Overview'),
    h(
      'div',
      { class: 'cards' },
      card('Orders today', today),
      card('Customers’ money', money),
      card('Margin of the last 7 days', week),
      card('Ledger', ledgerCheck()),
    ),
    card('Providers', health),
  )
  await Promise.all([
    live(today, 30, drawToday),
    live(money, 60, drawMoney),
    live(week, 60, drawWeek),
    (async () => {
      const redraw = await live(health, 15, () => drawHealth(() => redraw()))
    })(),
  ])
}

async function drawToday() {
  const midnight = new Date().setHours(0, 0, 0, 0)
  const counts = Object.fromEntries(STATUSES.map(status => [status, 0]))
  let seen = 0
  let cursor
  do {
    const { orders, next_cursor } = await call('GET /orders', { query: { limit: 100, cursor } })
    const fresh = orders.filter(order => Date.parse(order.created_at) >= midnight)
    for (const order of fresh) counts[order.status]++
    seen += fresh.length
    cursor = fresh.length === orders.length ? next_cursor : null
  } while (cursor && seen < MOST_ORDERS)
  const tile = status =>
    h('li', {}, link(`/orders?status=${status}`, h('b', {}, counts[status].toLocaleString('en')), badge(status)))
  return [
    h('ul', { class: 'tiles' }, ...STATUSES.map(tile)),
    cursor && h('p', { class: 'quiet' }, `Of the newest ${seen.toLocaleString('en')}: there are more.`),
  ]
}

async function drawMoney() {
  const { rows, complete } = await readAll('GET /customers', 'customers', MOST_CUSTOMERS)
  remember(rows)
  const active = rows.reduce((total, customer) => total + customer.active_orders, 0)
  const figure = (label, value) => h('li', {}, h('b', {}, value), h('span', {}, label))
  return [
    h(
      'ul',
      { class: 'tiles' },
      figure('available', amount(sum(rows, customer => customer.balance_usd))),
      figure('held', amount(sum(rows, customer => customer.held_usd))),
      figure('active orders', active.toLocaleString('en')),
      figure('customers', rows.length.toLocaleString('en')),
    ),
    !complete && h('p', { class: 'quiet' }, `Of the newest ${rows.length.toLocaleString('en')} customers.`),
  ]
}

async function drawWeek() {
  const days = Array.from({ length: 7 }, (_, i) => new Date(Date.now() - (6 - i) * DAY_MS).toISOString().slice(0, 10))
  const query = { from: days[0], to: days[6], group_by: 'day' }
  const { report } = await call('GET /reports/margin', { query })
  const { total } = report
  return [
    marginChart(days, report.rows),
    h(
      'p',
      { class: 'quiet' },
      amount(total.margin_usd),
      ' margin from ',
      amount(total.revenue_usd),
      ` revenue, ${total.orders.toLocaleString('en')} orders. Days are UTC. `,
      link(`/margin?from=${days[0]}&to=${days[6]}`, 'Report'),
    ),
  ]
}

async function drawHealth(redraw) {
  const { providers } = await call('GET /providers')
  const breakers = ({ accounts }) =>
    h('ul', { class: 'inline' }, ...accounts.map(a => h('li', {}, `${a.id} `, breakerBadge(a))))
  const columns = [
    { label: 'Provider', cell: provider => link('/providers', provider.id) },
    { label: 'Accounts', cell: breakers },
    { label: 'Routes', number: true, cell: ({ routes, routes_off }) => `${routes - routes_off.length} of ${routes}` },
    {
      label: 'In flight',
      number: true,
      cell: ({ accounts }) => accounts.reduce((all, { in_flight }) => all + in_flight, 0),
    },
    { label: 'Spent', usd: ({ accounts }) => sum(accounts, account => account.spent_usd) },
    { label: 'New orders', number: true, cell: provider => providerSwitch(provider, redraw) },
  ]
  return [table(columns, providers)]
}

/** Recomputing the ledger reads all of it: only when asked. */
function ledgerCheck() {
  const result = h('div', { role: 'status' }, h('p', { class: 'quiet' }, 'Recomputes every balance from its postings.'))
  const verify = button('Verify the ledger', async () => {
    result.replaceChildren(h('p', { class: 'quiet' }, 'Verifying …'))
    try {
      const { sound, invariants } = await call('GET /ledger/verify')
      const broken = invariants.filter(check => check.violations > 0)
      result.replaceChildren(
        h(
          'p',
          {},
          badge(sound ? 'sound' : 'broken'),
          ` ${invariants.length - broken.length} of ${invariants.length} invariants hold.`,
        ),
        h('ul', {}, ...broken.map(violation)),
        h(
          'details',
          {},
          h('summary', {}, 'What was checked'),
          h('ul', {}, ...invariants.map(check => h('li', {}, check.invariant))),
        ),
      )
    } catch (error) {
      result.replaceChildren(h('p', { class: 'trouble' }, error.message))
    }
  })
  return h('div', { class: 'region' }, result, verify)
}

function violation({ invariant, violations, examples }) {
  return h('li', { class: 'trouble' }, `${invariant}: ${violations}, such as ${examples.join('; ')}`)
}
