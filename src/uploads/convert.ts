import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { type Inspected, inspect } from './inspect.ts'
import type { UploadDeps } from './receive.ts'

/*
 * HEIC → PNG. The decoder reads bytes of strangers, so it runs in a process of its own: no environment, no rights where we
 * have some to give up, limited memory and time, and nothing but two pipes. Several processes may convert the same upload;
 * only the first UPDATE counts. A conversion that dies with its process is begun again by the sweep, at most three times.
 */

const MAX_TRIES = 3
const MAX_SECONDS = 60
/** 50 megapixels take up to 1.1 GB: the picture as it is decoded, as RGBA, and as PNG. */
const MAX_MEMORY_BYTES = 1_300_000_000
/** What is set aside counts too, not only what is used. */
const MAX_DATA_BYTES = 2_000_000_000
/** No camera's HEIC is larger; the child holds it in memory. */
const MAX_HEIC_BYTES = 100 * 1024 * 1024
const CHILD = join(import.meta.dirname, 'convert-child.ts')
const PRLIMIT = '/usr/bin/prlimit'

/** How the child says why it stopped. */
const EXIT = { tooManyPixels: 3, unreadable: 4 } as const

/** Thrown when a file will never become a PNG. The message is for the customer. */
class Unconvertible extends Error {
  override readonly name = 'Unconvertible'
}

const CLAIM = {
  name: 'claim_conversion',
  text: `UPDATE uploads SET conversions = conversions + 1 WHERE id = $1 AND status = 'processing' AND purged_at IS NULL
    RETURNING name, size, conversions`,
}
const CONVERTED = {
  name: 'upload_converted',
  text: `UPDATE uploads SET status = 'ready', name = $3, extension = $4, mime_type = $5, size = $6, sha256 = $7, width = $8, height = $9
    WHERE id = $1 AND name = $2 AND status = 'processing' AND purged_at IS NULL RETURNING id`,
}
const FAILED = {
  name: 'upload_failed',
  text: `UPDATE uploads SET status = 'failed', error = $3 WHERE id = $1 AND name = $2 AND status = 'processing' RETURNING id`,
}

/** Converts an upload, or marks it as failed. Throws only for what may pass: then it is tried again. */
export async function convert(deps: Pick<UploadDeps, 'db' | 'storage' | 'log'>, uploadId: string): Promise<void> {
  const { db, storage, log } = deps
  const [upload] = await db.run<{ name: string; size: bigint; conversions: number }>(CLAIM, [uploadId])
  if (!upload) return
  const startedAt = performance.now()
  const name = `uploads/${randomUUID()}`
  try {
    if (upload.conversions > MAX_TRIES) throw new Unconvertible('The file could not be converted.')
    if (upload.size > MAX_HEIC_BYTES) throw new Unconvertible('The file is too large to be converted: at most 100 MB.')
    const png = await decode(deps, upload.name, name)
    const values = [png.extension, png.mimeType, png.size, png.sha256, png.width, png.height]
    const [kept] = await db.run(CONVERTED, [uploadId, upload.name, name, ...values])
    await storage.remove(kept ? upload.name : name)
    log.info({ upload: uploadId, bytes: png.size, ms: Math.round(performance.now() - startedAt) }, 'upload converted')
  } catch (error) {
    if (!(error instanceof Unconvertible)) throw error
    const [failed] = await db.run(FAILED, [uploadId, upload.name, error.message])
    if (failed) await storage.remove(upload.name)
    log.info({ upload: uploadId, reason: error.message, cause: error.cause }, 'upload not convertible')
  }
}

/** Streams `from` through the child into storage as `to`. */
async function decode({ storage }: Pick<UploadDeps, 'storage'>, from: string, to: string): Promise<Inspected> {
  const source = await storage.open(from)
  const child = startChild()
  const exit = once(child, 'exit') as Promise<[number | null, string | null]>
  let unread: unknown
  const fed = pipeline(source, child.stdin).catch((error: unknown) => {
    // A child that has seen enough closes its end: its exit code tells why. Anything else is the storage's trouble.
    if (!isClosedPipe(error)) unread = error
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), MAX_SECONDS * 1_000)
  const watch = setInterval(() => void killIfLarge(child), 100)
  const look = inspect('converted.png')
  let png: Inspected | undefined
  let failure: unknown
  async function* output() {
    try {
      for await (const chunk of child.stdout as AsyncIterable<Buffer>) {
        look.feed(chunk)
        yield chunk
      }
      const [code, signal] = await exit
      await fed
      if (unread) throw unread
      if (code !== 0) throw refusal(code, signal, stderr)
      png = look.done()
    } catch (error) {
      failure = error
      throw error
    }
  }
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-2_000)
  })
  try {
    await storage.put(to, Readable.from(output(), { objectMode: false }), { contentType: 'image/png' })
  } catch (error) {
    throw failure ?? error
  } finally {
    clearTimeout(timer)
    clearInterval(watch)
    child.kill('SIGKILL')
  }
  if (!png) throw new Error('stored without having been inspected')
  return png
}

function startChild() {
  const node = [process.execPath, '--max-old-space-size=256', '--disable-warning=ExperimentalWarning', CHILD]
  const limits = ['--core=0', '--fsize=0', `--cpu=${MAX_SECONDS}`, `--data=${MAX_DATA_BYTES}`]
  const [command = '', ...args] = existsSync(PRLIMIT) ? [PRLIMIT, ...limits, ...node] : node
  return spawn(command, args, { env: {}, cwd: '/', stdio: ['pipe', 'pipe', 'pipe'] })
}

/** Where the system tells a process's memory (Linux); prlimit is the wall behind it. */
async function killIfLarge(child: ChildProcess): Promise<void> {
  const status = await readFile(`/proc/${child.pid}/status`, 'utf8').catch(() => '')
  const kilobytes = Number(/^VmRSS:\s*(\d+) kB$/m.exec(status)?.[1] ?? 0)
  if (kilobytes * 1024 > MAX_MEMORY_BYTES) child.kill('SIGKILL')
}

function refusal(code: number | null, signal: string | null, stderr: string): Unconvertible {
  const cause = `exit ${code ?? signal}: ${stderr.trim()}`
  if (code === EXIT.tooManyPixels)
    return new Unconvertible('The picture has more than 50 megapixels and cannot be converted.', { cause })
  if (code === EXIT.unreadable) return new Unconvertible('The file is not a readable HEIC or HEIF picture.', { cause })
  return new Unconvertible('The picture takes too much memory or time to be converted.', { cause })
}

function isClosedPipe(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return code === 'EPIPE' || code === 'ECONNRESET' || code === 'ERR_STREAM_PREMATURE_CLOSE'
}
