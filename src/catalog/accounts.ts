import { BlockList } from 'node:net'
import type { Account, Provider } from '../providers/provider.ts'
import type { AccountEntry, ProviderEntry } from './model.ts'
import type { ProviderFile } from './schema.ts'
import type { Path } from './source.ts'

export type Environment = Readonly<Record<string, string | undefined>>

/** A mistake about the value at a path below the provider. */
export interface Complaint {
  readonly path: Path
  readonly message: string
}

/** The sandbox has no network. Account still promises an origin, so it has one that leads nowhere. */
const NOWHERE = 'http://sandbox.invalid'
const LOCAL = { id: 'local', api_key: '', limits: undefined }

const MALFORMED = 'a variable is written ${NAME}'

/** Only what can be told without the adapter: variables that are not written as they should be. */
export function checkVariables(provider: ProviderFile, complain: (complaint: Complaint) => void): void {
  fillDeep(provider, [], (text, path) => {
    if (interpolate(text, {}).broken) complain({ path, message: MALFORMED })
    return text
  })
}

/** Fills in the environment and the adapter's defaults. What is wrong is told to `complain`, and replaced by something harmless. */
export function resolveProvider(
  file: ProviderFile,
  adapter: Provider,
  env: Environment,
  complain: (complaint: Complaint) => void,
): ProviderEntry {
  const fill = (text: string, path: Path): string | undefined => {
    const { filled, unset, broken } = interpolate(text, env)
    if (broken) complain({ path, message: MALFORMED })
    return unset ? undefined : filled
  }
  const isSandbox = adapter.kind === 'sandbox'
  const baseUrl = file.base_url === undefined ? undefined : fill(file.base_url, ['base_url'])
  if (baseUrl !== undefined && !isOrigin(baseUrl)) {
    complain({ path: ['base_url'], message: 'must be an origin alone, such as https://api.example.com' })
  }
  const parsed = adapter.settings.safeParse(fillDeep(file.settings ?? {}, ['settings'], fill))
  for (const issue of parsed.error?.issues ?? []) {
    const unknown =
      issue.code === 'unrecognized_keys' ? issue.keys.map(key => `${key} is no setting of ${file.kind}`) : []
    complain({ path: ['settings', ...issue.path], message: unknown.join('; ') || issue.message })
  }
  const limits = { ...adapter.defaults.limits, ...file.limits }
  const accounts = (file.accounts ?? [LOCAL]).map((account, index): AccountEntry => {
    const path = ['accounts', index, 'api_key']
    const apiKey = fill(account.api_key, path) ?? ''
    if (!/^[\x21-\x7e]*$/.test(apiKey))
      complain({ path, message: 'the key has characters that no key has (a space? a line break?)' })
    return {
      provider: file.id,
      id: account.id,
      baseUrl: baseUrl ?? NOWHERE,
      apiKey,
      settings: parsed.data,
      configured: isSandbox || (apiKey !== '' && baseUrl !== undefined),
      limits: { ...limits, ...account.limits },
    }
  })
  return { id: file.id, adapter, limits, poll: { ...adapter.defaults.poll, ...file.poll }, accounts }
}

/** Whether some upstream besides the sandbox has a key: then the sandbox must be asked for. */
export function hasKey(providers: Iterable<ProviderEntry>): boolean {
  return [...providers].some(
    ({ adapter, accounts }) => adapter.kind !== 'sandbox' && accounts.some(a => a.apiKey !== ''),
  )
}

/** Why a provider's routes to this upstream model cannot be used; undefined: they can. */
export function whyUnusable(provider: ProviderEntry, upstreamModel: string, sandboxOn: boolean): string | undefined {
  if (provider.adapter.kind === 'sandbox' && !sandboxOn) return 'the sandbox is off'
  const configured = provider.accounts.filter(account => account.configured)
  if (configured.length === 0) {
    return provider.accounts.some(account => account.apiKey !== '') ? 'no base URL is set' : 'no account has an API key'
  }
  const reasons = configured.map(account => provider.adapter.unusable?.(upstreamModel, account))
  return reasons.includes(undefined) ? undefined : reasons[0]
}

const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4')
LOOPBACK.addAddress('::1', 'ipv6')

/**
 * Whether files can reach the upstream. An API that fetches them from our URL needs a public one; without it only an upstream
 * on this machine finds us.
 */
export function reachesMedia({ adapter, accounts }: ProviderEntry, publicUrlIsSet: boolean): boolean {
  if (publicUrlIsSet || adapter.placeMedia || adapter.kind === 'sandbox') return true
  return accounts.some(account => account.configured && isLoopback(account))
}

function isLoopback({ baseUrl }: Account): boolean {
  const host = new URL(baseUrl).hostname.replace(/^\[|\]$/g, '')
  return host === 'localhost' || LOOPBACK.check(host, host.includes(':') ? 'ipv6' : 'ipv4')
}

function isOrigin(text: string): boolean {
  return /^https?:/.test(text) && URL.canParse(text) && new URL(text).origin === text
}

/** An unset or empty variable makes the whole string unset. */
function interpolate(text: string, env: Environment): { filled: string; unset: boolean; broken: boolean } {
  let unset = false
  const rest = text.replace(/\$\{[A-Za-z_][A-Za-z0-9_]*\}/g, '')
  const filled = text.replace(/\$\{([A-Za-z_][A-Za-z0-9_]*)\}/g, (_, name: string) => {
    unset ||= !env[name]
    return env[name] ?? ''
  })
  return { filled, unset, broken: rest.includes('${') }
}

/** Members whose variable is unset are left out, so that the adapter sees them as not given. */
function fillDeep(value: unknown, path: Path, fill: (text: string, path: Path) => string | undefined): unknown {
  if (typeof value === 'string') return fill(value, path)
  if (Array.isArray(value)) return value.map((item, index) => fillDeep(item, [...path, index], fill))
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).map(([key, member]) => [key, fillDeep(member, [...path, key], fill)] as const)
  return Object.fromEntries(entries.filter(([, member]) => member !== undefined))
}
