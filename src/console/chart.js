import { h, svg } from './dom.js'
import { dollars, micros } from './money.js'

const WIDTH = 350
const HEIGHT = 150
const TOP = 18
const BOTTOM = 22
const EMPTY = { revenue_usd: '0.00', margin_usd: '0.00', orders: 0 }

/** Margin by day as bars, over the day's revenue as a paler bar. `days` are `2026-11-20`; `rows` those that had any. */
export function marginChart(days, rows) {
  const points = days.map(day => ({ day, ...(rows.find(row => row.key === day) ?? EMPTY) }))
  const values = points.map(point => ({
    ...point,
    revenue: dollarsOf(point.revenue_usd),
    margin: dollarsOf(point.margin_usd),
  }))
  const highest = Math.max(0, ...values.map(({ revenue, margin }) => Math.max(revenue, margin)))
  const lowest = Math.min(0, ...values.map(({ margin }) => margin))
  const scale = (HEIGHT - TOP - BOTTOM) / (highest - lowest || 1)
  const y = value => TOP + (highest - value) * scale
  const bar = (value, x, width, name) =>
    svg('rect', { x, y: y(Math.max(0, value)), width, height: Math.abs(value) * scale, rx: 2, class: name })
  const slot = WIDTH / days.length
  const day = (point, i) => {
    const text = `${point.day}: margin ${dollars(point.margin_usd)}, revenue ${dollars(point.revenue_usd)}, ${point.orders} orders`
    const middle = (i + 0.5) * slot
    return svg(
      'g',
      {},
      svg('title', {}, text),
      svg('rect', { x: i * slot, y: 0, width: slot, height: HEIGHT, class: 'slot' }),
      bar(point.revenue, i * slot + 7, slot - 14, 'revenue'),
      bar(point.margin, i * slot + 7, slot - 14, point.margin < 0 ? 'loss' : 'margin'),
      point.margin !== 0 &&
        svg('text', { x: middle, y: y(Math.max(point.revenue, point.margin, 0)) - 5 }, short(point.margin)),
      svg('text', { x: middle, y: HEIGHT - 6, class: 'day' }, point.day.slice(5)),
    )
  }
  const label = points.map(point => `${point.day} ${dollars(point.margin_usd)}`).join(', ')
  return h(
    'figure',
    {},
    svg(
      'svg',
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': `Margin by day: ${label}` },
      ...values.map(day),
      svg('line', { x1: 0, x2: WIDTH, y1: y(0), y2: y(0) }),
    ),
    h('figcaption', {}, h('i', { class: 'margin' }), 'margin', h('i', { class: 'revenue' }), 'revenue'),
  )
}

/** Only for the heights of bars. */
function dollarsOf(usd) {
  return Number(micros(usd)) / 1e6
}

function short(value) {
  const size = Math.abs(value)
  const text = size >= 10_000 ? `${(size / 1000).toFixed(0)}k` : size >= 100 ? size.toFixed(0) : size.toFixed(2)
  return `${value < 0 ? '−' : ''}$${text}`
}
