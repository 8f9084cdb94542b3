import { call } from './api.js'
import { badge, h, heading, link, time } from './dom.js'
import { field, form, input, notify } from './form.js'
import { remember } from './names.js'
import { pages, table } from './table.js'

/** How far a search reads on. */
const MOST = 2_000

const COLUMNS = [
  { label: 'Name', cell: customer => link(`/customers/${customer.id}`, customer.name) },
  { label: 'Status', cell: customer => badge(customer.status) },
  { label: 'Available', usd: customer => customer.balance_usd },
  { label: 'Held', usd: customer => customer.held_usd },
  {
    label: 'Active orders',
    number: true,
    cell: customer => `${customer.active_orders} of ${customer.max_active_orders}`,
  },
  { label: 'Created', cell: customer => time(customer.created_at) },
]

export async function customers(page) {
  const search = input('search', { type: 'search', placeholder: 'name or id' })
  const wanted = () => search.value.trim().toLowerCase()
  const list = pages({
    empty: 'There are no customers yet.',
    async load(cursor) {
      const { customers, next_cursor } = await call('GET /customers', { query: { limit: 50, cursor } })
      remember(customers)
      return { rows: customers, next: next_cursor }
    },
    draw(rows) {
      const found = rows.filter(({ id, name }) => `${name} ${id}`.toLowerCase().includes(wanted()))
      return found.length > 0 ? table(COLUMNS, found) : h('p', { class: 'quiet' }, 'Nobody is called so.')
    },
  })
  search.addEventListener('input', async () => {
    list.show()
    try {
      if (wanted() && !(await list.all(MOST))) notify(`Only the newest ${MOST} customers were searched.`, 'wait')
    } catch (error) {
      notify(error.message, 'bad')
    }
  })
  page.append(
    heading('Customers'),
    h('details', { class: 'card' }, h('summary', {}, 'New customer'), createForm()),
    h('search', { class: 'card' }, field('Search', search), list.element),
  )
  await list.reload()
}

function createForm() {
  const controls = [
    field('Name', input('name', { required: true, maxlength: 200 })),
    ...limitFields({ max_active_orders: 1000, rate_limit_per_minute: null }),
  ]
  return form(
    'Create',
    controls,
    async values => {
      const { customer } = await call('POST /customers', { body: { name: values.name, ...readLimits(values) } })
      notify(`${customer.name} was created. Give it a key and a balance.`)
      location.hash = `#/customers/${customer.id}`
    },
    { class: 'row' },
  )
}

/** The inputs of a customer's limits. */
export function limitFields({ max_active_orders: most, rate_limit_per_minute: rate }) {
  const number = (name, props) => input(name, { type: 'number', step: 1, ...props })
  return [
    field('Active orders at most', number('max_active_orders', { min: 0, max: 1e6, required: true, value: most })),
    field(
      'Requests per minute',
      number('rate_limit_per_minute', { min: 1, max: 1e7, value: rate ?? '', placeholder: 'the server’s default' }),
    ),
  ]
}

export function readLimits({ max_active_orders: most, rate_limit_per_minute: rate }) {
  return { max_active_orders: Number(most), rate_limit_per_minute: rate === '' ? null : Number(rate) }
}
