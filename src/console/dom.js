import { dollars } from './money.js'

/** Elements, and the small pieces that every page shows. Data becomes text nodes and attributes, never markup. */

/**
 * An element. `props`: `on…` functions are listeners, true is an attribute without a value, false and undefined are left
 * out. Children: elements, text, or arrays of them; undefined, null and false are left out.
 */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children)
}

/** Likewise in SVG. */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), props, children)
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === 'function') element.addEventListener(name.slice(2), value)
    else if (value !== undefined && value !== null && value !== false)
      element.setAttribute(name, value === true ? '' : value)
  }
  element.append(...children.flat(2).filter(child => child !== undefined && child !== null && child !== false))
  return element
}

const two = number => String(number).padStart(2, '0')

/** `2026-11-20`, where the operator is. */
export function localDay(date) {
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`
}

/** A moment in local time; its title says it in ISO 8601. */
export function time(iso) {
  if (!iso) return '–'
  const at = new Date(iso)
  const clock = [at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(':')
  return h('time', { datetime: iso, title: iso }, `${localDay(at)} ${clock}`)
}

/** How long from one moment to another: `1.2 s`, `3 min 20 s`. */
export function duration(from, to) {
  const ms = new Date(to) - new Date(from)
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`
  const minutes = Math.floor(ms / 60_000)
  if (minutes < 60) return `${minutes} min ${Math.floor(ms / 1000) % 60} s`
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

/** An amount. With `decimals`, it is as wide as one that has so many, so that points stand below each other. */
export function amount(usd, decimals = 0) {
  const text = dollars(usd)
  const missing = decimals - text.split('.')[1].length
  const pad = missing > 0 && h('span', { class: 'pad', 'aria-hidden': 'true' }, '0'.repeat(missing))
  return h('span', { class: usd.startsWith('-') ? 'money negative' : 'money' }, text, pad)
}

const TONES = {
  good: ['active', 'completed', 'succeeded', 'closed', 'capture', 'topup', 'on', 'sound'],
  bad: ['failed', 'suspended', 'open', 'abandoned', 'revoked', 'off', 'broken', 'suspense'],
  wait: ['queued', 'processing', 'preparing', 'submitting', 'unclear', 'accepted', 'finished', 'half open', 'hold'],
}

/** A state in its word and a colour. */
export function badge(word, tone = Object.keys(TONES).find(name => TONES[name].includes(word)) ?? 'plain') {
  return h('span', { class: `badge ${tone}` }, word)
}

export function code(text) {
  return h('code', {}, text)
}

export function link(path, ...children) {
  return h('a', { href: `#${path}` }, ...children)
}

/** A link out of the page, when it is one to a web page; else its text. */
export function outside(url) {
  const safe = URL.canParse(url) && /^https?:$/.test(new URL(url).protocol)
  return safe ? h('a', { href: url, target: '_blank', rel: 'noopener noreferrer' }, url) : url
}

/** Names and values: `[['Created', time(…)], …]`. Values that are undefined are left out with their names. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== undefined && value !== null)
  return h('dl', {}, ...shown.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))))
}

/** A titled part of a page. */
export function card(title, ...children) {
  return h('section', { class: 'card' }, h('h2', {}, title), ...children)
}

/** A page's heading with what can be done beside it. The router moves the focus to it. */
export function heading(title, ...beside) {
  document.title = `${title} · genmux`
  return h('div', { class: 'heading' }, h('h1', { tabindex: '-1' }, title), ...beside)
}
