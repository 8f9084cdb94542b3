import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import type { Db } from '../db/pool.ts'

/*
 * The public URL under which an upstream fetches a file: `{PUBLIC_URL}/media/{token}.{extension}`. The token holds the
 * upload's id, when it expires, the attempt it was made for, and an HMAC over them; nothing is stored. The extension is there
 * because some upstreams look at it.
 */

const MAC_BYTES = 16
const KEY_NAME = 'media-url'

const INSERT_KEY = {
  name: 'insert_secret',
  text: 'INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING',
}
const READ_KEY = { name: 'read_secret', text: 'SELECT value FROM secrets WHERE name = $1' }

/** The key that signs media URLs: one for all processes, made by whoever is first. */
export async function mediaUrlKey(db: Db): Promise<Buffer> {
  await db.run(INSERT_KEY, [KEY_NAME, randomBytes(32)])
  const [row] = await db.run<{ value: Buffer }>(READ_KEY, [KEY_NAME])
  if (!row) throw new Error('the media URL key vanished')
  return row.value
}

/** `upload` is a UUID. */
export function signMedia(key: Buffer, upload: string, attempt: string, expiresAt: Date): string {
  const body = Buffer.alloc(20)
  body.write(upload.replaceAll('-', ''), 'hex')
  body.writeUInt32BE(Math.ceil(expiresAt.getTime() / 1000), 16)
  const signed = Buffer.concat([body, Buffer.from(attempt)])
  return Buffer.concat([mac(key, signed), signed]).toString('base64url')
}

/** The upload and the attempt that a token was made for; undefined when it is not ours or has expired. */
export function readMediaToken(key: Buffer, token: string, now: Date): { upload: string; attempt: string } | undefined {
  if (!/^[A-Za-z0-9_-]{48,200}$/.test(token)) return undefined
  const bytes = Buffer.from(token, 'base64url')
  const signed = bytes.subarray(MAC_BYTES)
  // One spelling per token: base64url has spare bits.
  if (bytes.toString('base64url') !== token || signed.length < 20) return undefined
  if (!timingSafeEqual(mac(key, signed), bytes.subarray(0, MAC_BYTES))) return undefined
  if (signed.readUInt32BE(16) * 1000 <= now.getTime()) return undefined
  const upload = signed.toString('hex', 0, 16).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
  return { upload, attempt: signed.toString('utf8', 20) }
}

function mac(key: Buffer, signed: Buffer): Buffer {
  return createHmac('sha256', key).update(signed).digest().subarray(0, MAC_BYTES)
}
