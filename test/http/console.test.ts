import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { formatMoney } from '../../src/money.ts'
import { build } from '../server.ts'

const FOLDER = join(import.meta.dirname, '../../src/console')
const { url, call } = await build()
const page = await call('GET', '/console')
const files = readdirSync(FOLDER).map(name => ({ name, text: readFileSync(join(FOLDER, name), 'utf8') }))
const scripts = files.filter(({ name }) => name.endsWith('.js'))

test('the page is served under a policy that lets nothing in or out, and is not kept', () => {
  expect(page.status).toBe(200)
  expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8')
  const policy = page.headers.get('content-security-policy')?.split('; ')
  expect(policy).toEqual(
    expect.arrayContaining([
      "default-src 'none'",
      "script-src 'self'",
      "style-src 'self'",
      "connect-src 'self'",
      "img-src 'self' data:",
      "frame-ancestors 'none'",
      "base-uri 'none'",
      "form-action 'self'",
      "require-trusted-types-for 'script'",
    ]),
  )
  expect(page.headers.get('x-content-type-options')).toBe('nosniff')
  expect(page.headers.get('referrer-policy')).toBe('no-referrer')
  expect(page.headers.get('cache-control')).toBe('no-store')
})

test('the page has no script or style inside', () => {
  expect(page.text).not.toMatch(/<style|style=|\son\w+=|javascript:/i)
  expect(page.text.match(/<script[^>]*>[^<]*/g)).toEqual(['<script type="module" src="console/console.js">'])
})

test('what the page names and imports is served, with its type, and every file is reached', async () => {
  const linked = [...page.text.matchAll(/(?:href|src)="([^"]+)"/g)].map(
    match => new URL(match[1] ?? '', `${url}/console`),
  )
  const reached = new Set<string>()
  const visit = async ({ pathname }: URL): Promise<void> => {
    if (reached.has(pathname)) return
    reached.add(pathname)
    const asset = await call('GET', pathname)
    expect(asset.status, pathname).toBe(200)
    expect(asset.headers.get('x-content-type-options')).toBe('nosniff')
    expect(asset.headers.get('content-type')).toMatch(
      { js: /^text\/javascript/, css: /^text\/css/, svg: /^image\/svg\+xml$/ }[pathname.split('.')[1] ?? ''] ?? /^$/,
    )
    for (const [, name] of asset.text.matchAll(/^import .*'(\.\/[^']+)'$/gm))
      await visit(new URL(name ?? '', url + pathname))
  }
  for (const asset of linked) await visit(asset)
  expect([...reached].sort()).toEqual(
    files.flatMap(({ name }) => (name === 'index.html' ? [] : [`/console/${name}`])).sort(),
  )
})

test('an asset that the browser has is not sent again', async () => {
  const asset = await call('GET', '/console/console.js')
  const etag = asset.headers.get('etag') ?? ''
  expect(etag).toMatch(/^"[0-9a-f]{64}"$/)
  const again = await call('GET', '/console/console.js', { headers: { 'if-none-match': etag } })
  expect(again).toMatchObject({ status: 304, text: '' })
})

test('nothing else is served from there', async () => {
  for (const path of ['/console/index.html', '/console/%2e%2e%2fhttp/server.ts'])
    expect((await call('GET', path)).status, path).toBe(404)
  const slash = await call('GET', '/console/')
  expect([slash.status, new URL(slash.headers.get('location') ?? '', `${url}/console/`).pathname]).toEqual([
    308,
    '/console',
  ])
})

test('every operation that the page calls is one of the admin API', async () => {
  const { paths } = (await call('GET', '/openapi.json')).body
  const named = new Set(
    scripts.flatMap(({ text }) =>
      [...text.matchAll(/'((?:GET|POST|PATCH|PUT|DELETE) [^']+)'/g)].map(match => match[1]),
    ),
  )
  expect(named.size).toBeGreaterThan(15)
  for (const operation of named) {
    const [method = '', path = ''] = operation?.split(' ') ?? []
    expect(paths[`/admin/v1${path}`]?.[method.toLowerCase()], operation).toBeDefined()
  }
})

test('no file names another origin', () => {
  for (const { name, text } of files) {
    const urls = text.replaceAll('http://www.w3.org/2000/svg', '').match(/(?:https?:|wss?:)?\/\/[\w-]+\.\S*/g)
    expect(urls, name).toBeNull()
  }
})

test('data never becomes markup, and the token is kept in the session alone', () => {
  for (const { name, text } of scripts) {
    expect(text, name).not.toMatch(
      /innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|eval\(|Function\(/,
    )
    expect(text, name).not.toMatch(/localStorage|indexedDB|document\.cookie/)
  }
  expect(scripts.filter(({ text }) => text.includes('sessionStorage')).map(({ name }) => name)).toEqual(['api.js'])
})

test('amounts are read, summed and written without losing a micro-dollar', async () => {
  const money = await import(join(FOLDER, 'money.js'))
  for (const amount of [0n, 1n, 10n, 37_500n, 50_000n, 1_000_000n, 9_007_199_254_740_993n, -1n, -1_234_500_000n]) {
    expect(money.micros(formatMoney(amount))).toBe(amount)
    expect(money.decimal(amount)).toBe(formatMoney(amount))
  }
  expect(money.sum([{ usd: '0.1' }, { usd: '0.2' }, { usd: '-0.000001' }], (row: { usd: string }) => row.usd)).toBe(
    '0.299999',
  )
  expect(['1234567.5', '-0.0375', '0.00'].map(money.dollars)).toEqual(['$1,234,567.50', '−$0.0375', '$0.00'])
})
