import { call } from './api.js'
import { badge, code, h, heading, time } from './dom.js'
import { ask, button, notify } from './form.js'
import { live } from './live.js'
import { table } from './table.js'

/** What a limiter limits. */
const WINDOWS = {
  submit: 'submits',
  read: 'reads',
  upload: 'uploads',
  all: 'requests',
  'all:read': 'reads',
  'all:rest': 'submits and uploads',
}

export async function providers(page) {
  const region = h('div', { class: 'region' })
  page.append(heading('Providers'), region)
  const redraw = await live(region, 15, async () => {
    const { providers } = await call('GET /providers')
    return providers.map(provider => providerCard(provider, () => redraw()))
  })
}

/** The state of an account's breaker, or why the account is not used at all. */
export function breakerBadge({ configured, breaker }) {
  if (!configured) return badge('no key', 'plain')
  const state = badge(
    breaker.state.replace('_', ' '),
    breaker.state === 'closed' && breaker.failures > 0 ? 'wait' : undefined,
  )
  state.title = [breaker.reason, `${breaker.failures} failures in a row`].filter(Boolean).join(', ')
  return state
}

/** Lets new orders go to the provider, or not. */
export function providerSwitch({ id, enabled }, changed) {
  const flip = async () => {
    const sure =
      !enabled ||
      (await ask(
        `Switch ${id} off?`,
        'It gets no new order from any node. What it is making is still fetched.',
        'Switch off',
      ))
    if (!sure) return
    await call('PATCH /providers/{id}', { id, body: { enabled: !enabled } })
    notify(`${id} is ${enabled ? 'off' : 'on'}.`)
    await changed()
  }
  const label = `New orders go to ${id}`
  const props = {
    role: 'switch',
    'aria-checked': String(enabled),
    'aria-label': label,
    id: `switch-${id}`,
    class: 'switch',
  }
  return button(enabled ? 'on' : 'off', flip, props)
}

function providerCard(provider, redraw) {
  const { id, kind, routes, routes_off: off, accounts } = provider
  const columns = [
    { label: 'Account', cell: account => account.id },
    { label: 'Breaker', cell: breakerCell },
    { label: 'Left this minute', cell: budgets },
    {
      label: 'In flight',
      number: true,
      cell: ({ in_flight, in_flight_limit: limit }) => (limit === null ? in_flight : `${in_flight} of ${limit}`),
    },
    { label: 'Spent', usd: account => account.spent_usd },
  ]
  const offColumns = [
    { label: 'Model', number: true, cell: route => route.model_id },
    { label: 'Upstream model', cell: route => code(route.upstream_model) },
    { label: 'Reason', cell: route => route.reason },
  ]
  return h(
    'section',
    { class: 'card' },
    h(
      'div',
      { class: 'heading' },
      h('h2', {}, id, ' ', kind !== id && h('small', {}, kind)),
      providerSwitch(provider, redraw),
    ),
    h('div', { class: 'accounts' }, table(columns, accounts)),
    off.length === 0
      ? h('p', { class: 'quiet' }, `All ${routes} routes can be used.`)
      : h(
          'details',
          { id: `off-${id}` },
          h('summary', {}, `${off.length} of ${routes} routes are off`),
          table(offColumns, off),
        ),
  )
}

function breakerCell(account) {
  const { failures, reason, open_until: until } = account.breaker
  const notes = [
    reason && code(reason),
    failures > 0 && `${failures} failures in a row`,
    until && h('span', {}, 'probed from ', time(until)),
  ].filter(Boolean)
  return [breakerBadge(account), ...notes.map(note => h('small', {}, note))]
}

function budgets(account) {
  if (account.budgets.length === 0) return 'no limit'
  const one = ({ window, limit, left, blocked_ms: blocked }) => {
    const label = `${WINDOWS[window] ?? window}: ${left} of ${limit}`
    return h(
      'li',
      {},
      h('meter', { min: 0, max: limit, value: left, low: limit * 0.1, optimum: limit, 'aria-label': label }),
      ` ${label}`,
      blocked > 0 && badge(`refused for ${Math.ceil(blocked / 1000)} s`, 'bad'),
    )
  }
  return h('ul', { class: 'budgets' }, ...account.budgets.map(one))
}
