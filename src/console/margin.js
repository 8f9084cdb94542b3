import { call } from './api.js'
import { h, heading } from './dom.js'
import { choice, field, form, input } from './form.js'
import { failure } from './live.js'
import { customerLink } from './names.js'
import { table } from './table.js'

const GROUPS = ['model', 'provider', 'customer', 'day']

const DAY_MS = 86_400_000
const DAYS = 30

/** `query`: `from`, `to` (UTC days) and `group_by`, as the API has them. */
export async function margin(page, { query }) {
  const day = ago => new Date(Date.now() - ago * DAY_MS).toISOString().slice(0, 10)
  const wanted = { from: day(DAYS - 1), to: day(0), group_by: 'model', ...query }
  const region = h('div', { class: 'region' }, h('p', { class: 'quiet' }, 'Loading …'))
  page.append(heading('Margin'), h('div', { class: 'card' }, filters(wanted), region))
  const load = async () => {
    try {
      const { report } = await call('GET /reports/margin', { query: wanted })
      region.replaceChildren(...view(report))
    } catch (error) {
      region.replaceChildren(failure(error, load))
    }
  }
  await load()
}

function view({ rows, total, group_by }) {
  const note =
    'Days are UTC and both count. Margin is revenue less both costs; failed attempts count with what they were charged, or perhaps were.'
  return [
    rows.length === 0
      ? h('p', { class: 'quiet' }, 'Nothing was sold or bought in that time.')
      : table(columns(group_by), group_by === 'day' ? newestFirst(rows) : rows, { total }),
    h('p', { class: 'quiet' }, note),
  ]
}

/** The API puts what sold most first. */
function newestFirst(rows) {
  return rows.toSorted((a, b) => (a.key < b.key ? 1 : -1))
}

function columns(group) {
  const name = key => (group === 'customer' ? customerLink(key) : key || 'unknown')
  return [
    { label: group[0].toUpperCase() + group.slice(1), cell: ({ key }) => (key === undefined ? 'Total' : name(key)) },
    { label: 'Orders', number: true, cell: row => row.orders.toLocaleString('en') },
    { label: 'Revenue', usd: row => row.revenue_usd },
    { label: 'Upstream cost', usd: row => row.upstream_cost_usd },
    { label: 'Failed attempts', usd: row => row.failed_attempts_cost_usd },
    { label: 'Margin', usd: row => row.margin_usd },
  ]
}

/** Choosing changes the address, so that going back and sharing work. */
function filters({ from, to, group_by }) {
  const day = (name, value) => input(name, { type: 'date', value, required: true })
  const grouping = choice(
    'group_by',
    GROUPS.map(group => [group, group]),
    group_by,
  )
  const controls = [field('From', day('from', from)), field('To', day('to', to)), field('By', grouping)]
  const element = form(
    'Show',
    controls,
    async values => {
      location.hash = `#/margin?${new URLSearchParams(values)}`
    },
    { class: 'row' },
  )
  grouping.addEventListener('change', () => element.requestSubmit())
  return element
}
