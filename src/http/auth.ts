import { hash, randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { listen } from '../db/listen.ts'
import type { Db, Statement } from '../db/pool.ts'

/** What an API key allows. */
export type Scope = 'read' | 'generate'

/** The API key and the customer behind a request. */
export interface Caller {
  readonly apiKeyId: string
  readonly customerId: string
  readonly scopes: readonly string[]
  readonly suspended: boolean
  /** The customer's own limit; null: the configured one. */
  readonly rateLimitPerMinute: number | null
}

/*
 * A secret: `gm_live_`, 128 random bits in 22 base62 digits, and a checksum of both in 6 (CRC-32). The checksum keeps junk
 * and mistyped keys away from the database.
 */
const PREFIX = 'gm_live_'
const SHAPE = /^gm_live_[0-9A-Za-z]{28}$/
const DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

/** A new API key. Only `prefix` (to recognise it by) and `hash` (SHA-256) are stored. */
export function createSecret(): { secret: string; prefix: string; hash: Buffer } {
  const body = PREFIX + base62(BigInt(`0x${randomBytes(16).toString('hex')}`), 22)
  const secret = body + checksum(body)
  return { secret, prefix: secret.slice(0, PREFIX.length + 4), hash: hashSecret(secret) }
}

/** The hash to look a secret up by; undefined when it cannot be one of ours. */
export function parseSecret(text: string): Buffer | undefined {
  if (!SHAPE.test(text) || checksum(text.slice(0, -6)) !== text.slice(-6)) return undefined
  return hashSecret(text)
}

function checksum(body: string): string {
  let digits = ''
  for (let rest = crc32(body); digits.length < 6; rest = Math.floor(rest / 62)) digits = DIGITS[rest % 62] + digits
  return digits
}

function hashSecret(secret: string): Buffer {
  return hash('sha256', secret, 'buffer')
}

function base62(value: bigint, length: number): string {
  let digits = ''
  for (let rest = value; digits.length < length; rest /= 62n) digits = DIGITS[Number(rest % 62n)] + digits
  return digits
}

/** The channel on which a revoked key or a changed customer is announced. The payload is not read. */
export const KEYS_CHANNEL = 'genmux_keys'

const FIND: Statement = {
  name: 'auth_find_key',
  text: `SELECT k.id AS "apiKeyId", k.customer_id AS "customerId", k.scopes, c.status = 'suspended' AS suspended,
      c.rate_limit_per_minute AS "rateLimitPerMinute"
    FROM api_keys k JOIN customers c ON c.id = k.customer_id
    WHERE k.secret_hash = $1 AND k.revoked_at IS NULL`,
}

export interface Keys {
  /** Who a secret (by its hash) belongs to, as the database said at most 5 s ago; undefined: nobody, or revoked. */
  find(hash: Buffer): Promise<Caller | undefined>
  close(): Promise<void>
}

const FRESH_MS = 5_000
/** An answer this old is asked for again while it still holds, so that nobody waits for it. */
const RENEW_MS = 4_000
/** Unknown keys are remembered briefly: long enough against a flood of one, short for a key made a moment ago. */
const UNKNOWN_FRESH_MS = 1_000
const MAX_REMEMBERED = 10_000

/** Looks API keys up, remembering answers for 5 s. NOTIFY makes it forget at once; without it the 5 s hold. */
export function createKeys(db: Db, databaseUrl: string): Keys {
  const remembered = new Map<string, { caller: Caller | undefined; askedAt: number; until: number }>()
  const asked = new Map<string, Promise<Caller | undefined>>()
  // What was asked for before a forgetting is neither remembered nor waited for after it.
  const listener = listen(databaseUrl, [KEYS_CHANNEL], () => {
    asked.clear()
    remembered.clear()
  })

  /** However many requests want to know, the database is asked once. */
  function ask(key: string, hash: Buffer): Promise<Caller | undefined> {
    const underway = asked.get(key)
    if (underway) return underway
    const askedAt = performance.now()
    const answer = db.run<Caller>(FIND, [hash]).then(
      ([caller]) => {
        if (asked.get(key) !== answer) return caller
        asked.delete(key)
        // The oldest goes first, so junk cannot make it grow.
        remembered.delete(key)
        if (remembered.size >= MAX_REMEMBERED) remembered.delete(remembered.keys().next().value as string)
        remembered.set(key, { caller, askedAt, until: askedAt + (caller ? FRESH_MS : UNKNOWN_FRESH_MS) })
        return caller
      },
      (error: unknown) => {
        if (asked.get(key) === answer) asked.delete(key)
        throw error
      },
    )
    asked.set(key, answer)
    return answer
  }

  return {
    async find(hash) {
      const key = hash.toString('base64')
      const now = performance.now()
      const known = remembered.get(key)
      if (!known || known.until <= now) return ask(key, hash)
      if (now - known.askedAt > RENEW_MS) ask(key, hash).catch(() => {})
      return known.caller
    },
    close: listener.close,
  }
}
