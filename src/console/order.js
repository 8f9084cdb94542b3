import { call } from './api.js'
import { amount, badge, card, code, duration, facts, h, heading, outside, time } from './dom.js'
import { ask, button, notify } from './form.js'
import { live } from './live.js'
import { customerLink } from './names.js'
import { table } from './table.js'

const UNKNOWN = ['unclear', 'submitting']
const ACTIVE = ['queued', 'processing']

const TRANSFERS = [
  { label: 'When', cell: transfer => time(transfer.created_at) },
  { label: 'Kind', cell: transfer => badge(transfer.kind) },
  { label: 'Amount', usd: transfer => transfer.amount_usd },
]

/** An order that every upstream keeps refusing is tried hundreds of times. */
const LATEST = 10

/** The story of one order; followed until it ends. */
export async function order(page, { id }) {
  const region = h('div', { class: 'region' })
  page.append(heading('Order', code(id)), region)
  let ended = false
  const redraw = await live(region, 5, async () => {
    if (ended) return undefined
    const { order } = await call('GET /orders/{id}', { id })
    ended = !ACTIVE.includes(order.status)
    return story(order, () => redraw())
  })
}

function story(order, redraw) {
  const { id, attempts, transfers } = order
  const unknown = ACTIVE.includes(order.status) && attempts.some(({ state }) => UNKNOWN.includes(state))
  return [
    h('div', { class: 'card' }, summary(order), unknown && resolution(id, redraw)),
    h('h2', {}, 'Attempts'),
    attemptList(attempts),
    card('Money', table(TRANSFERS, transfers)),
  ]
}

function attemptList(attempts) {
  if (attempts.length === 0) return h('p', { class: 'quiet' }, 'None yet.')
  const items = list => list.map(attempt => h('li', { class: 'card' }, attemptFacts(attempt)))
  const latest = h('ol', { class: 'attempts' }, ...items(attempts.slice(-LATEST)))
  const earlier = attempts.slice(0, -LATEST)
  if (earlier.length === 0) return latest
  const before = h('details', { id: 'earlier' }, h('summary', {}, `${earlier.length} earlier attempts`))
  before.addEventListener('toggle', () => before.append(h('ol', { class: 'attempts' }, ...items(earlier))), {
    once: true,
  })
  return [before, latest]
}

function summary(order) {
  const { created_at: created, started_at: started, finished_at: finished, error, result } = order
  const links = result.map(url => h('li', {}, outside(url)))
  return facts([
    ['Status', badge(order.status)],
    ['Error', error && [code(error.code), h('small', {}, error.message)]],
    ['Cost', h('b', {}, amount(order.cost_usd))],
    ['Customer', customerLink(order.customer_id)],
    ['API key', code(order.api_key_id)],
    ['Model', order.model_id],
    ['Routing', order.routing],
    ['Created', time(created)],
    ['Started', started && [time(started), h('small', {}, `after ${duration(created, started)}`)]],
    ['Finished', finished && [time(finished), h('small', {}, `after ${duration(created, finished)}`)]],
    ['Cancel asked for', order.cancel_requested_at && time(order.cancel_requested_at)],
    ['Deadline', finished ? undefined : time(order.deadline_at)],
    ['Called back at', order.callback_url && code(order.callback_url)],
    ['Result', links.length > 0 ? h('ul', { class: 'links' }, ...links) : undefined],
    ['Links end', order.expires_at && time(order.expires_at)],
  ])
}

function attemptFacts(attempt) {
  const {
    n,
    provider,
    account,
    created_at: created,
    submitted_at: submitted,
    accepted_at: accepted,
    finished_at: finished,
  } = attempt
  const after = (from, to) => to && [time(to), from && h('small', {}, `after ${duration(from, to)}`)]
  return [
    h('h3', {}, `${n}. ${provider} / ${account} `, badge(attempt.state)),
    facts([
      ['Fault', attempt.fault && [code(attempt.fault), attempt.message && h('small', {}, attempt.message)]],
      ['Upstream model', code(attempt.upstream_model)],
      ['Upstream id', attempt.upstream_id && code(attempt.upstream_id)],
      ['Cost', attempt.cost_usd ? amount(attempt.cost_usd) : 'not reported'],
      ['Expected cost', amount(attempt.expected_cost_usd)],
      ['Submits', attempt.submits],
      ['Created', time(created)],
      ['Submitted', after(created, submitted)],
      ['Accepted', after(submitted, accepted)],
      ['Finished', after(accepted ?? submitted, finished)],
    ]),
  ]
}

function resolution(id, redraw) {
  const resolve = async () => {
    const warning =
      'The customer gets the money back. The expected cost is booked to suspense, as the upstream may charge it. It cannot be undone.'
    if (!(await ask('End this order as failed?', warning, 'End it as failed'))) return
    await call('POST /orders/{id}/resolve', { id, body: { outcome: 'failed' } })
    notify('The order has failed, its hold is released.')
    await redraw()
  }
  return h(
    'p',
    { class: 'trouble' },
    'It is not known whether the upstream took the submission. ',
    button('Resolve as failed', resolve, { class: 'danger' }),
  )
}
