import { call } from './api.js'
import { badge, code, h, heading, link, time } from './dom.js'
import { button, choice, field, form, input } from './form.js'
import { customerLink, remember } from './names.js'
import { pages, table } from './table.js'

const STATUSES = ['queued', 'processing', 'completed', 'failed', 'cancelled']

const COLUMNS = [
  { label: 'Order', cell: order => link(`/orders/${encodeURIComponent(order.id)}`, code(order.id)) },
  { label: 'Created', cell: order => time(order.created_at) },
  { label: 'Customer', cell: order => customerLink(order.customer_id) },
  { label: 'Model', number: true, cell: order => order.model_id },
  { label: 'Status', cell: order => [badge(order.status), order.error && h('small', {}, order.error.code)] },
  { label: 'Cost', usd: order => order.cost_usd },
]

/** `query`: `status` and `customer_id`, as the API has them. */
export async function orders(page, { query }) {
  const { status, customer_id } = query
  const list = pages({
    empty: status || customer_id ? 'No such orders.' : 'Nothing was ordered yet.',
    async load(cursor) {
      const { orders, next_cursor } = await call('GET /orders', { query: { limit: 50, cursor, status, customer_id } })
      return { rows: orders, next: next_cursor }
    },
    draw: rows => table(COLUMNS, rows),
  })
  page.append(
    heading('Orders', button('Refresh', list.reload)),
    h('div', { class: 'card' }, filters(query), list.element),
  )
  await list.reload()
}

/** Choosing changes the address, so that going back and sharing work. */
function filters({ status, customer_id }) {
  const known = h('datalist', { id: 'customers' })
  const typed = input('customer', { list: 'customers', type: 'search', value: customer_id, placeholder: 'name or id' })
  typed.addEventListener('focus', () => void suggest(known), { once: true })
  const chosen = choice('status', [['', 'any'], ...STATUSES.map(name => [name, name])], status)
  const show = async values => {
    const named = [...known.children].filter(option => option.label === values.customer)
    // Two customers may have one name: then it takes the id.
    if (named.length > 1) throw new Error('Several customers are called so: choose one from the list.')
    const wanted = { status: values.status, customer_id: named[0]?.value ?? values.customer }
    location.hash = `#/orders?${new URLSearchParams(Object.entries(wanted).filter(([, value]) => value))}`
  }
  const element = form('Show', [field('Status', chosen), field('Customer', typed), known], show, { class: 'row' })
  chosen.addEventListener('change', () => element.requestSubmit())
  return element
}

async function suggest(list) {
  const { customers } = await call('GET /customers', { query: { limit: 100 } }).catch(() => ({ customers: [] }))
  remember(customers)
  list.replaceChildren(...customers.map(({ id, name }) => h('option', { value: id, label: name })))
}
