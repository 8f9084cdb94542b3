import { h } from './dom.js'
import { button } from './form.js'

/**
 * Draws a region now, and again every `seconds` for as long as the region is on the page and the tab is looked at.
 * `draw()` resolves with what the region shows, as children of `h`, or undefined to leave it as it is. Resolves when the
 * first drawing stands, with a function that draws again.
 */
export async function live(region, seconds, draw) {
  region.append(h('p', { class: 'quiet' }, 'Loading …'))
  let latest = 0
  let drawn
  const redraw = async () => {
    const turn = ++latest
    try {
      const elements = await draw()
      if (turn !== latest || elements === undefined) return
      swap(region, elements)
      drawn = new Date()
    } catch (error) {
      if (turn !== latest) return
      if (drawn) stale(region, `Not up to date since ${drawn.toLocaleTimeString()}: ${error.message}`)
      else region.replaceChildren(failure(error, redraw))
    }
  }
  await redraw()
  const timer = setInterval(() => {
    if (!region.isConnected) clearInterval(timer)
    else if (!document.hidden) void redraw()
  }, seconds * 1000)
  return redraw
}

/** What stands where something could not be shown. */
export function failure(error, again) {
  return h('div', { class: 'trouble', role: 'alert' }, h('p', {}, error.message), button('Try again', again))
}

function stale(region, text) {
  region.querySelector(':scope > .stale')?.remove()
  region.prepend(h('p', { class: 'trouble stale', role: 'status' }, text))
}

/** What is opened stays open and what has the focus keeps it, where it has an id. */
function swap(region, elements) {
  const open = [...region.querySelectorAll('details[open][id]')].map(details => details.id)
  const focused = region.contains(document.activeElement) ? document.activeElement.id : ''
  region.replaceChildren(...elements.flat().filter(Boolean))
  for (const id of open) document.getElementById(id)?.setAttribute('open', '')
  if (focused) document.getElementById(focused)?.focus()
}
