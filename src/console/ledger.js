import { call, newKey } from './api.js'
import { badge, card, code, link, time } from './dom.js'
import { AMOUNT, amountInput, field, form, input, notify } from './form.js'
import { dollars } from './money.js'
import { pages, table } from './table.js'

const COLUMNS = [
  { label: 'When', cell: entry => time(entry.created_at) },
  { label: 'Kind', cell: entry => badge(entry.kind) },
  { label: 'Amount', usd: entry => entry.amount_usd },
  { label: 'Available after', usd: entry => entry.balance_after_usd },
  { label: 'Held after', usd: entry => entry.held_after_usd },
  { label: 'Order or reference', cell: origin },
]

function origin({ order_id: order, reference }) {
  return order ? link(`/orders/${encodeURIComponent(order)}`, code(order)) : (reference ?? '–')
}

/** A customer's ledger, by pages. */
export function ledgerCard(id) {
  const list = pages({
    empty: 'Nothing was ever booked.',
    async load(cursor) {
      const { entries, next_cursor } = await call('GET /customers/{id}/ledger', { id, query: { cursor } })
      return { rows: entries, next: next_cursor }
    },
    draw: rows => table(COLUMNS, rows),
  })
  return { element: card('Ledger', list.element), reload: list.reload }
}

/** The forms that move a customer's money; `moved` is called afterwards. */
export function moneyCards({ id, name }, moved) {
  const topUp = moneyForm(
    'Top up',
    [
      field('Amount in USD', amountInput({ placeholder: '25.00' })),
      field('Reference', input('reference', { maxlength: 500, placeholder: 'payment number' })),
    ],
    moved,
    async ({ amount_usd, reference }, once) => {
      const body = reference ? { amount_usd, reference } : { amount_usd }
      const { topup } = await call('POST /customers/{id}/topups', { id, body, once })
      return `${name} was topped up with ${dollars(topup.amount_usd)}; ${dollars(topup.balance_usd)} are available.`
    },
  )
  const adjust = moneyForm(
    'Adjust',
    [
      field('Amount in USD (may be negative)', amountInput({ placeholder: '-5.00', pattern: `-?${AMOUNT}` })),
      field('Reason', input('reason', { required: true, maxlength: 500 })),
    ],
    moved,
    async ({ amount_usd, reason }, once) => {
      const body = { amount_usd, reason }
      const { adjustment } = await call('POST /customers/{id}/adjustments', { id, body, once })
      return `Adjusted by ${dollars(adjustment.amount_usd)}; ${dollars(adjustment.balance_usd)} are available.`
    },
  )
  return [topUp, adjust]
}

/**
 * A form whose Idempotency-Key is its own until the money has moved: pressed twice, or sent again after an answer that got
 * lost, it moves once. `send(values, once)` resolves with what to tell the operator.
 */
function moneyForm(title, controls, moved, send) {
  let once = newKey()
  const submit = async (values, element) => {
    try {
      notify(await send(values, once))
      element.reset()
    } catch (error) {
      if (error.code !== 'idempotency_conflict') throw error
      notify('The first try did go through, with the data it had; this one was not made. See the ledger.', 'wait')
    }
    once = newKey()
    await moved().catch(error => notify(`The page is not up to date: ${error.message}`, 'bad'))
  }
  return card(title, form(title, controls, submit, { class: 'row' }))
}
