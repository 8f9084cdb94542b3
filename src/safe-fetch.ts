import dns from 'node:dns'
import { BlockList, isIP, type LookupFunction } from 'node:net'
import type { Readable } from 'node:stream'
import { Agent, buildConnector, type Dispatcher, request } from 'undici'

/*
 * The one way to call a URL that we did not write: an upstream's results, a customer's callback. Such a URL goes to a public
 * address, over https, on port 443, without credentials (a customer's may be plain http, on port 80: it is theirs to choose); every redirect is a new such URL. The address is checked where the
 * connection is made, with the very answer of the DNS that is connected to, so that a name cannot change its mind between
 * check and use. One origin may be excepted: the base URL of the account that gave us the URL.
 */

export interface FetchOptions {
  readonly method?: 'GET' | 'POST'
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string | Uint8Array
  /** An origin the operator trusts, e.g. `http://127.0.0.1:4000`: allowed exactly as it is, http and private or not. */
  readonly allowOrigin?: string
  /** Plain http to a public address is good enough. */
  readonly allowPlain?: true
  /** Only these hosts and their subdomains, beside `allowOrigin`. */
  readonly allowHosts?: readonly string[]
  /** For everything, redirects and the whole body included; default 10 min. */
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
}

export interface Fetched {
  readonly status: number
  /** By lower-case name; of a repeated one the first. */
  readonly headers: Readonly<Record<string, string | undefined>>
  /** Must be read to its end or destroyed. */
  readonly body: Readable
}

/** A URL was refused before a byte went there. The message names the host and why, never path or credentials. */
export class UnsafeUrl extends Error {
  override readonly name = 'UnsafeUrl'
}

const MAX_REDIRECTS = 5
const REDIRECTS = new Set([301, 302, 303, 307, 308])
/** Request headers that may go on to another origin. */
const HARMLESS = new Set(['accept', 'range', 'user-agent'])

const timeouts = { headersTimeout: 30_000, bodyTimeout: 60_000 }
const connectOptions = { timeout: 10_000, allowH2: false }

const connectPublic = buildConnector({ ...connectOptions, lookup: lookupPublic as LookupFunction })
const publicAgent = new Agent({
  ...timeouts,
  connect(options, done) {
    // A literal address is connected to without a lookup.
    if (isIP(options.hostname) && !isPublicAddress(options.hostname)) done(notPublic(options.hostname), null)
    else connectPublic(options, done)
  },
})
/** For allowed origins alone. A connection of one agent is never used by the other. */
const allowedAgent = new Agent({ ...timeouts, connect: connectOptions })

/**
 * Sends one request. A GET follows up to five redirects; a POST none, its redirect is the answer. Resolves for every HTTP
 * status; throws UnsafeUrl, or the transport's error.
 */
export async function safeFetch(url: string, options: FetchOptions = {}): Promise<Fetched> {
  // Not AbortSignal.timeout, which holds on to the answer until the time is up.
  const late = new AbortController()
  const timer = setTimeout(
    () => late.abort(new DOMException('aborted by its timeout', 'TimeoutError')),
    options.timeoutMs ?? 600_000,
  )
  const signal = options.signal ? AbortSignal.any([late.signal, options.signal]) : late.signal
  try {
    const fetched = await follow(url, options, signal)
    fetched.body.once('close', () => clearTimeout(timer))
    return fetched
  } catch (error) {
    clearTimeout(timer)
    throw error
  }
}

async function follow(url: string, options: FetchOptions, signal: AbortSignal): Promise<Fetched> {
  const method = options.method ?? 'GET'
  let at = parse(url)
  let headers = options.headers ?? {}
  for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects += 1) {
    const dispatcher = admit(at, options)
    const answer = await request(at, { method, headers, body: options.body ?? null, dispatcher, signal })
    // Whoever reads the body still gets its error; one that is only destroyed must not take the process with it.
    answer.body.on('error', () => {})
    const location = first(answer.headers.location)
    if (method !== 'GET' || location === undefined || !REDIRECTS.has(answer.statusCode)) {
      return { status: answer.statusCode, headers: flat(answer.headers), body: answer.body }
    }
    await answer.body.dump({ limit: 65_536 })
    const next = parse(location, at)
    headers = headersFor(next, at, headers)
    at = next
  }
  throw new UnsafeUrl(`${at.hostname}: more than ${MAX_REDIRECTS} redirects`)
}

/** What of a request's headers goes on after a redirect: everything within the origin, only harmless ones to another. */
export function headersFor(next: URL, from: URL, headers: Readonly<Record<string, string>>): Record<string, string> {
  if (next.origin === from.origin) return { ...headers }
  return Object.fromEntries(Object.entries(headers).filter(([name]) => HARMLESS.has(name.toLowerCase())))
}

function parse(text: string, base?: URL): URL {
  const url = URL.parse(text, base?.href)
  if (!url) throw new UnsafeUrl('not an absolute URL')
  return url
}

/** Says which agent may go there; throws UnsafeUrl. The address itself is checked when it connects. */
function admit(url: URL, options: FetchOptions): Dispatcher {
  const refuse = (why: string) => new UnsafeUrl(`${url.hostname || url.protocol}: ${why}`)
  if (url.protocol !== 'https:' && url.protocol !== 'http:') throw refuse('only https is allowed')
  if (url.username !== '' || url.password !== '') throw refuse('credentials in a URL are not allowed')
  if (options.allowOrigin !== undefined && url.origin === URL.parse(options.allowOrigin)?.origin) return allowedAgent
  if (url.protocol !== 'https:' && !options.allowPlain) throw refuse('only https is allowed')
  if (url.port !== '') throw refuse('only the default port is allowed')
  const listed = (host: string) => url.hostname === host || url.hostname.endsWith(`.${host}`)
  if (options.allowHosts && !options.allowHosts.some(listed)) throw refuse('the host is not on the list')
  return publicAgent
}

/** Resolves a name for net.connect. One address that is not public refuses the name: nobody honest mixes them. */
function lookupPublic(
  hostname: string,
  options: dns.LookupOptions,
  done: (error: Error | null, address?: string | dns.LookupAddress[], family?: number) => void,
): void {
  dns.lookup(hostname, { ...options, all: true }, (error, addresses) => {
    if (error) return done(error)
    const [address] = addresses
    if (!address || !addresses.every(one => isPublicAddress(one.address))) return done(notPublic(hostname))
    return options.all ? done(null, addresses) : done(null, address.address, address.family)
  })
}

function notPublic(host: string): UnsafeUrl {
  return new UnsafeUrl(`${host}: not a public address`)
}

// IANA's special-purpose registries, multicast and what is reserved.
const notPublic4 = new BlockList()
for (const [network, prefix] of [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.0.2.0', 24],
  ['192.88.99.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['198.51.100.0', 24],
  ['203.0.113.0', 24],
  ['224.0.0.0', 3],
] as const) {
  notPublic4.addSubnet(network, prefix)
}

// All of the public IPv6 internet lies here. Outside are loopback, link-local, unique local, multicast, NAT64 and mapped IPv4.
const global6 = new BlockList()
global6.addSubnet('2000::', 3, 'ipv6')
// Teredo and other protocols' addresses, documentation, 6to4.
const notPublic6 = new BlockList()
notPublic6.addSubnet('2001::', 23, 'ipv6')
notPublic6.addSubnet('2001:db8::', 32, 'ipv6')
notPublic6.addSubnet('2002::', 16, 'ipv6')
notPublic6.addSubnet('3fff::', 20, 'ipv6')

/** Whether an IP address is one of the public internet. A name, or an address with a zone, is not. */
export function isPublicAddress(address: string): boolean {
  if (isIP(address) === 4) return !notPublic4.check(address)
  return (
    isIP(address) === 6 &&
    !address.includes('%') &&
    global6.check(address, 'ipv6') &&
    !notPublic6.check(address, 'ipv6')
  )
}

function flat(headers: Dispatcher.ResponseData['headers']): Record<string, string | undefined> {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, first(value)]))
}

function first(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value
}
