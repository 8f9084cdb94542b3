import { h } from './dom.js'

/** What the operator acts with: buttons, forms, questions, and the line that says what came of it. */

/** A button. While its action runs it cannot be pressed again; what goes wrong is said in a notice. */
export function button(label, action, props = {}) {
  const element = h('button', { type: 'button', ...props }, label)
  element.addEventListener('click', async () => {
    if (element.getAttribute('aria-busy') === 'true') return
    element.setAttribute('aria-busy', 'true')
    try {
      await action()
    } catch (error) {
      notify(error.message, 'bad')
    }
    element.removeAttribute('aria-busy')
  })
  return element
}

/** One labelled control. */
export function field(label, control) {
  return h('label', {}, h('span', {}, label), control)
}

/** A text input; `props` as its attributes. */
export function input(name, props = {}) {
  return h('input', { name, autocomplete: 'off', ...props })
}

/** An amount as the API takes it, as a pattern. */
export const AMOUNT = '(0|[1-9]\\d{0,11})(\\.\\d{1,6})?'

/** An input for US dollars. */
export function amountInput(props = {}) {
  const title = 'US dollars such as 25 or 0.05: at most six decimals, no sign of the currency, no commas'
  return input('amount_usd', { inputmode: 'decimal', pattern: AMOUNT, title, required: true, ...props })
}

/** A choice: `[[value, label], …]`. */
export function choice(name, options, chosen = '') {
  const list = options.map(([value, label]) => h('option', { value, selected: value === chosen }, label))
  return h('select', { name, autocomplete: 'off' }, ...list)
}

/**
 * A form. `submit` gets the trimmed values by name; while it runs the form cannot be sent again. What goes wrong is said in
 * the form, and its values stay.
 */
export function form(label, controls, submit, props = {}) {
  const send = h('button', { type: 'submit', class: 'primary' }, label)
  const trouble = h('p', { class: 'trouble', role: 'alert', hidden: true })
  const element = h('form', props, h('div', { class: 'fields' }, ...controls, send), trouble)
  element.addEventListener('submit', async event => {
    event.preventDefault()
    if (element.getAttribute('aria-busy') === 'true') return
    element.setAttribute('aria-busy', 'true')
    trouble.hidden = true
    try {
      await submit(valuesOf(element), element)
    } catch (error) {
      trouble.textContent = error.message
      trouble.hidden = false
    }
    element.removeAttribute('aria-busy')
  })
  return element
}

function valuesOf(element) {
  const texts = [...new FormData(element)].filter(([, value]) => typeof value === 'string')
  return Object.fromEntries(texts.map(([name, value]) => [name, value.trim()]))
}

/** Asks before something that cannot be taken back, or that customers notice. Resolves with whether to do it. */
export function ask(title, text, action) {
  const cancel = h('button', { value: 'no', autofocus: true }, 'Cancel')
  const go = h('button', { value: 'yes', class: 'danger' }, action)
  const dialog = h(
    'dialog',
    { 'aria-labelledby': 'question' },
    h('h2', { id: 'question' }, title),
    h('p', {}, text),
    h('form', { method: 'dialog', class: 'actions' }, cancel, go),
  )
  document.body.append(dialog)
  dialog.showModal()
  return new Promise(done => {
    dialog.addEventListener('close', () => {
      dialog.remove()
      done(dialog.returnValue === 'yes')
    })
  })
}

/** Says what came of an action, also to screen readers. Success gives way to what comes next; trouble stays until it is dismissed. */
export function notify(text, tone = 'good') {
  const notice = h('p', { class: `notice ${tone}` }, text)
  notice.append(h('button', { type: 'button', 'aria-label': 'Dismiss', onclick: () => notice.remove() }, '×'))
  const notices = document.querySelector('#notices')
  for (const done of notices.querySelectorAll('.good')) done.remove()
  notices.append(notice)
  if (tone === 'good') setTimeout(() => notice.remove(), 8_000)
}

/** A secret to be copied, shown in full. */
export function copyable(text) {
  const box = h('input', { readonly: true, value: text, 'aria-label': 'Secret', spellcheck: 'false' })
  const copy = button('Copy', async () => {
    box.select()
    // Browsers hide the clipboard from pages that came over plain http.
    if (navigator.clipboard) await navigator.clipboard.writeText(text)
    else if (!document.execCommand('copy'))
      throw new Error('The browser does not copy here: select the text and copy it.')
    copy.textContent = 'Copied'
  })
  return h('div', { class: 'copyable' }, box, copy)
}
