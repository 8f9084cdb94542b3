import { call } from './api.js'
import { amount, badge, card, code, facts, h, heading, link, time } from './dom.js'
import { limitFields, readLimits } from './customers.js'
import { ask, button, copyable, field, form, input, notify } from './form.js'
import { ledgerCard, moneyCards } from './ledger.js'
import { remember } from './names.js'
import { pages, table } from './table.js'

export async function customer(page, { id }) {
  const { customer } = await call('GET /customers/{id}', { id })
  remember([customer])
  const state = h('div', { class: 'card' })
  const status = h('span')
  const ledger = ledgerCard(id)
  const keys = keysCard(id)
  const show = now => {
    state.replaceChildren(balances(now))
    status.replaceChildren(badge(now.status), ' ', statusButton(now, show))
  }
  const refresh = async () => {
    const [answer] = await Promise.all([call('GET /customers/{id}', { id }), ledger.reload()])
    show(answer.customer)
  }
  show(customer)
  page.append(
    heading(customer.name, status),
    state,
    h('div', { class: 'cards' }, ...moneyCards(customer, refresh)),
    keys.element,
    ledger.element,
    settingsCard(customer, show),
    h('p', {}, link(`/audit?subject=${encodeURIComponent(id)}`, 'Audit of this customer')),
  )
  await Promise.all([keys.reload(), ledger.reload()])
}

function balances(customer) {
  const { id, active_orders: active, max_active_orders: most, rate_limit_per_minute: rate } = customer
  return facts([
    ['Id', code(id)],
    ['Available', h('b', {}, amount(customer.balance_usd))],
    ['Held', amount(customer.held_usd)],
    ['Active orders', link(`/orders?customer_id=${encodeURIComponent(id)}`, `${active} of ${most}`)],
    ['Requests per minute', rate ?? 'the server’s default'],
    ['Created', time(customer.created_at)],
  ])
}

function statusButton({ id, name, status }, show) {
  const suspend = status === 'active'
  const change = async () => {
    const warning = 'Its keys are refused at once. Orders under way are still delivered.'
    if (suspend && !(await ask(`Suspend ${name}?`, warning, 'Suspend'))) return
    const body = { status: suspend ? 'suspended' : 'active' }
    const { customer } = await call('PATCH /customers/{id}', { id, body })
    show(customer)
    notify(`${name} is ${customer.status}.`)
  }
  return button(suspend ? 'Suspend' : 'Activate', change)
}

function settingsCard(customer, show) {
  const controls = [
    field('Name', input('name', { required: true, maxlength: 200, value: customer.name })),
    ...limitFields(customer),
  ]
  const save = form(
    'Save',
    controls,
    async values => {
      const body = { name: values.name, ...readLimits(values) }
      const answer = await call('PATCH /customers/{id}', { id: customer.id, body })
      show(answer.customer)
      remember([answer.customer])
      document.querySelector('h1').textContent = answer.customer.name
      notify('Saved.')
    },
    { class: 'row' },
  )
  return card('Name and limits', save)
}

function keysCard(id) {
  const list = pages({
    empty: 'No key yet: without one the customer cannot order.',
    async load(cursor) {
      const { keys, next_cursor } = await call('GET /customers/{id}/keys', { id, query: { cursor } })
      return { rows: keys, next: next_cursor }
    },
    draw: rows =>
      table(
        keyColumns(() => list.reload()),
        rows,
      ),
  })
  const secret = h('div', { role: 'status' })
  const scopes = ['read', 'generate'].map(scope =>
    h('label', { class: 'check' }, h('input', { type: 'checkbox', name: scope, checked: true }), scope),
  )
  const controls = [
    field('Name', input('name', { required: true, maxlength: 200, placeholder: 'e.g. production' })),
    h('fieldset', {}, h('legend', {}, 'Scopes'), ...scopes),
  ]
  const create = async (values, element) => {
    const body = { name: values.name, scopes: ['read', 'generate'].filter(scope => values[scope]) }
    const { key } = await call('POST /customers/{id}/keys', { id, body })
    element.reset()
    const done = button('Done', async () => secret.replaceChildren())
    const note = h('p', {}, h('strong', {}, `The secret of “${key.name}”, shown only now:`))
    secret.replaceChildren(h('div', { class: 'secret' }, note, copyable(key.secret), done))
    await list.reload()
  }
  const element = card('API keys', list.element, secret, form('Create key', controls, create, { class: 'row' }))
  return { element, reload: list.reload }
}

function keyColumns(changed) {
  const revoke = key => async () => {
    const warning = `Whoever uses “${key.name}” (${key.prefix}…) is refused within 5 seconds. It cannot be undone.`
    if (!(await ask('Revoke this key?', warning, 'Revoke'))) return
    await call('DELETE /keys/{id}', { id: key.id })
    notify(`“${key.name}” is revoked.`)
    await changed()
  }
  return [
    { label: 'Name', cell: key => key.name },
    { label: 'Begins with', cell: key => code(`${key.prefix}…`) },
    { label: 'Scopes', cell: key => key.scopes.join(', ') },
    { label: 'Created', cell: key => time(key.created_at) },
    {
      label: 'State',
      cell: key =>
        key.revoked_at
          ? [badge('revoked'), h('small', {}, time(key.revoked_at))]
          : button('Revoke', revoke(key), { 'aria-label': `Revoke ${key.name}` }),
    },
  ]
}
