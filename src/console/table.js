import { amount, h } from './dom.js'
import { button } from './form.js'
import { failure } from './live.js'

/**
 * A table. A column is `{ label, cell(row) }`, or `{ label, usd(row) }` for money: right-aligned, with the points below
 * each other. `number: true` aligns right too. `total` is a row for the foot.
 */
export function table(columns, rows, { total } = {}) {
  const shown = columns.map(column => ({ ...column, decimals: decimalsOf(column, total ? [...rows, total] : rows) }))
  const line = row => h('tr', {}, ...shown.map(column => cell(column, row)))
  return h(
    'table',
    {},
    h('thead', {}, h('tr', {}, ...shown.map(column => h('th', { scope: 'col', class: align(column) }, column.label)))),
    h('tbody', {}, ...rows.map(line)),
    total && h('tfoot', {}, line(total)),
  )
}

function cell(column, row) {
  const usd = column.usd?.(row)
  const content = column.usd ? (usd ? amount(usd, column.decimals) : '–') : (column.cell(row) ?? '–')
  return h('td', { class: align(column), 'data-label': column.label }, content)
}

function align(column) {
  return column.usd || column.number ? 'number' : undefined
}

function decimalsOf(column, rows) {
  return Math.max(2, ...rows.map(row => (column.usd?.(row) ?? '').split('.')[1]?.length ?? 0))
}

/**
 * A list that grows by pages. `load(cursor)` resolves with `{ rows, next }`. `draw(rows)` shows what was read so far;
 * `empty` stands when there is nothing. Returns the element, `show()`, which draws again, `reload()` from the first page, and
 * `all(most)`, which reads on until the end.
 */
export function pages({ load, draw, empty }) {
  const body = h('div', {}, h('p', { class: 'quiet' }, 'Loading …'))
  const more = button('Show more', () => read())
  const element = h('div', { class: 'pages' }, body, more)
  let rows = []
  let next
  let reading
  const show = () => {
    body.replaceChildren(rows.length > 0 ? draw(rows) : h('p', { class: 'quiet' }, empty))
    more.hidden = !next
  }
  const readNext = async () => {
    const page = await load(next ?? undefined)
    rows = [...rows, ...page.rows]
    next = page.next
    show()
  }
  /** Two that ask for the next page at once get the same one. */
  const read = () => {
    reading ??= readNext().finally(() => {
      reading = undefined
    })
    return reading
  }
  const reload = async () => {
    try {
      const page = await load(undefined)
      rows = page.rows
      next = page.next
      show()
    } catch (error) {
      body.replaceChildren(failure(error, reload))
      more.hidden = true
    }
  }
  more.hidden = true
  return {
    element,
    show,
    reload,
    /** Whether everything is read now. */
    async all(most) {
      while (next && rows.length < most) await read()
      return !next
    },
  }
}
