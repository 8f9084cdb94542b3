import { call } from './api.js'
import { code, h, heading, link, time } from './dom.js'
import { field, form, input } from './form.js'
import { pages, table } from './table.js'

const COLUMNS = [
  { label: 'When', cell: line => time(line.at) },
  { label: 'Who', cell: line => line.actor },
  { label: 'Did', cell: line => code(line.action) },
  { label: 'To', cell: ({ subject }) => subjectLink(subject) },
  { label: 'Detail', cell: ({ detail }) => details(detail) },
]

/** `query.subject`: the id of what was changed. */
export async function audit(page, { query }) {
  const { subject } = query
  const list = pages({
    empty: 'Nothing was changed.',
    async load(cursor) {
      const { audit, next_cursor } = await call('GET /audit', { query: { limit: 50, cursor, subject } })
      return { rows: audit, next: next_cursor }
    },
    draw: rows => table(COLUMNS, rows),
  })
  const wanted = input('subject', {
    type: 'search',
    value: subject,
    placeholder: 'id of a customer, key, order or provider',
  })
  const filter = form(
    'Show',
    [field('Of', wanted)],
    async values => {
      location.hash = values.subject ? `#/audit?${new URLSearchParams(values)}` : '#/audit'
    },
    { class: 'row' },
  )
  page.append(heading('Audit'), h('div', { class: 'card' }, filter, list.element))
  await list.reload()
}

function subjectLink(subject) {
  const [, kind] = /^(cus|ord)_/.exec(subject) ?? []
  const place = { cus: 'customers', ord: 'orders' }[kind]
  return place ? link(`/${place}/${encodeURIComponent(subject)}`, code(subject)) : code(subject)
}

function details(detail) {
  const words = Object.entries(detail).map(
    ([name, value]) => `${name}: ${typeof value === 'string' ? value : JSON.stringify(value)}`,
  )
  return h('ul', { class: 'details' }, ...words.map(text => h('li', {}, text)))
}
