/** The admin API, and the token it wants. The token lives in this tab's session only, and travels in a header only. */

const BASE = new URL('../admin/v1', import.meta.url).href
const TOKEN = 'genmux-admin-token'
/** A little longer than the server gives itself. */
const TIMEOUT_MS = 35_000

/** The API refused, or could not be reached (`code` unreachable). `message` is for the operator. */
export class Refusal extends Error {
  constructor(code, message, status = 0) {
    super(message)
    this.name = 'Refusal'
    this.code = code
    this.status = status
  }
}

export function isSignedIn() {
  return sessionStorage.getItem(TOKEN) !== null
}

/** Keeps the token when the server takes it. Throws Refusal. */
export async function signIn(token) {
  if (!/^[\x21-\x7e]+$/.test(token)) throw new Refusal('unauthorized', 'The token has characters that no token has.')
  await call('GET /customers', { query: { limit: 1 } }, token)
  sessionStorage.setItem(TOKEN, token)
}

/** Forgets the token and tells the page, with the reason when it was not the operator's wish. */
export function signOut(reason) {
  sessionStorage.removeItem(TOKEN)
  dispatchEvent(new CustomEvent('signedout', { detail: reason }))
}

/**
 * Calls one operation, named as in the OpenAPI document: `call('GET /customers/{id}', { id })`. `query` members that are
 * undefined or empty are left out; `once` is the Idempotency-Key. Resolves with the answer's body; throws Refusal.
 */
export async function call(operation, { id, query = {}, body, once } = {}, token = sessionStorage.getItem(TOKEN)) {
  const [method, path] = operation.split(' ')
  const url = new URL(BASE + path.replace('{id}', encodeURIComponent(id ?? '')))
  for (const [name, value] of Object.entries(query)) if (value ?? '') url.searchParams.set(name, value)
  const headers = { authorization: `Bearer ${token}` }
  if (body !== undefined) headers['content-type'] = 'application/json'
  if (once !== undefined) headers['idempotency-key'] = once
  const { status, answer } = await send(url, { method, headers, body: body && JSON.stringify(body) })
  if (answer.success === true) return answer
  const { code = 'unreachable', message = `The server answered ${status}.`, request_id } = answer.error ?? {}
  if (status === 401 && isSignedIn()) signOut('The server no longer takes this token.')
  throw new Refusal(code, request_id ? `${message} (request ${request_id})` : message, status)
}

async function send(url, init) {
  let response
  try {
    response = await fetch(url, {
      ...init,
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    })
    return { status: response.status, answer: await response.json() }
  } catch {
    const what = response ? `The server answered ${response.status}, but not in full.` : 'The server cannot be reached.'
    throw new Refusal('unreachable', init.method === 'GET' ? what : `${what} ${doubt(init)}`)
  }
}

function doubt({ headers }) {
  return headers['idempotency-key']
    ? 'Whether it was done is not known. Sent again unchanged, it is done once.'
    : 'Whether it was done is not known: look before you try again.'
}

/** A fresh Idempotency-Key. Not crypto.randomUUID: browsers hide that from pages that came over plain http. */
export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map(byte => byte.toString(16).padStart(2, '0')).join('')
}

/** Every row of a list, newest first, but at most `most`; `complete` tells whether that was all. */
export async function readAll(operation, member, most) {
  const rows = []
  let cursor
  do {
    const answer = await call(operation, { query: { limit: 100, cursor } })
    rows.push(...answer[member])
    cursor = answer.next_cursor
  } while (cursor && rows.length < most)
  return { rows, complete: !cursor }
}
