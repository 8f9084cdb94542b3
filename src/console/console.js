import { audit } from './audit.js'
import { isSignedIn, signIn, signOut } from './api.js'
import { customer } from './customer.js'
import { customers } from './customers.js'
import { h, link } from './dom.js'
import { button, field, form } from './form.js'
import { failure } from './live.js'
import { margin } from './margin.js'
import { order } from './order.js'
import { orders } from './orders.js'
import { overview } from './overview.js'
import { providers } from './providers.js'

/**
 * The pages, by the path in the fragment. Each is `async (page, { id, query })` and appends to the element `page`; an
 * element that is no longer shown is of no consequence, so pages need not know when they are left.
 */
const PAGES = [
  ['/', overview, 'Overview'],
  ['/customers', customers, 'Customers'],
  ['/customers/:id', customer],
  ['/orders', orders, 'Orders'],
  ['/orders/:id', order],
  ['/providers', providers, 'Providers'],
  ['/margin', margin, 'Margin'],
  ['/audit', audit, 'Audit'],
]

const notices = h('div', { id: 'notices', role: 'status' })
const main = h('main', { id: 'main' })

function frame(...head) {
  // A link to #main would be a page of its own here.
  const skip = h(
    'button',
    { type: 'button', class: 'skip', onclick: () => main.querySelector('h1')?.focus() },
    'Skip to content',
  )
  document.body.replaceChildren(skip, h('header', {}, link('/', h('strong', {}, 'genmux')), ...head), notices, main)
}

function showSignIn(reason) {
  document.title = 'Sign in · genmux'
  // Without a name the token is in no form data, whatever becomes of the script.
  const token = h('input', {
    type: 'password',
    autocomplete: 'off',
    required: true,
    autofocus: true,
    spellcheck: 'false',
  })
  const entry = form('Sign in', [field('Admin token', token)], async () => {
    await signIn(token.value.trim())
    token.value = ''
    showConsole()
  })
  const hint =
    'It is ADMIN_TOKEN of the server, or in the file admin-token under its DATA_DIR. This tab keeps it until it is closed.'
  frame()
  main.replaceChildren(
    h(
      'section',
      { class: 'card sign-in' },
      h('h1', { tabindex: '-1' }, 'Sign in'),
      reason && h('p', { class: 'trouble', role: 'alert' }, reason),
      entry,
      h('p', { class: 'quiet' }, hint),
    ),
  )
  token.focus()
}

function showConsole() {
  const places = PAGES.filter(([, , label]) => label).map(([path, , label]) => link(path, label))
  frame(
    h('nav', { 'aria-label': 'Console' }, ...places),
    button('Sign out', () => signOut()),
  )
  void showPage()
}

async function showPage() {
  const [pathname, search] = (location.hash.slice(1) || '/').split('?')
  const [, place, id] = /^\/([^/]*)(?:\/([^/]+))?$/.exec(pathname) ?? []
  const path = id === undefined ? `/${place}` : `/${place}/:id`
  const [, show] = PAGES.find(([known]) => known === path) ?? [path, nowhere]
  for (const anchor of document.querySelectorAll('nav a')) {
    const here = anchor.getAttribute('href') === `#/${place}`
    anchor.setAttribute('aria-current', here ? 'page' : 'false')
    if (here) anchor.scrollIntoView({ block: 'nearest', inline: 'nearest' })
  }
  const page = h('div', { class: 'page' })
  main.replaceChildren(page)
  scrollTo(0, 0)
  try {
    const shown = show(page, { id: id && decode(id), query: Object.fromEntries(new URLSearchParams(search)) })
    page.querySelector('h1')?.focus({ preventScroll: true })
    await shown
    if (document.activeElement === document.body) page.querySelector('h1')?.focus({ preventScroll: true })
  } catch (error) {
    page.append(failure(error, showPage))
  }
}

function decode(text) {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

async function nowhere(page) {
  page.append(h('h1', { tabindex: '-1' }, 'No such page'), link('/', 'To the overview'))
}

addEventListener('hashchange', () => isSignedIn() && void showPage())
addEventListener('signedout', event => showSignIn(event.detail))
if (isSignedIn()) showConsole()
else showSignIn()
