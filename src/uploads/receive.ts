import { randomUUID } from 'node:crypto'
import { Readable } from 'node:stream'
import type { Logger } from 'pino'
import type { Config } from '../config.ts'
import type { Db } from '../db/pool.ts'
import { ApiError } from '../errors.ts'
import type { Storage } from '../storage/storage.ts'
import { type Inspected, inspect } from './inspect.ts'

/** 300 MB as the contract has it, counted in the larger megabytes. */
export const MAX_UPLOAD_BYTES = 300 * 1024 * 1024
/** What one customer may have stored at a time. */
export const QUOTA_BYTES = 20 * 1024 ** 3
export const QUOTA_COUNT = 5_000
/** What uploads leave free on the disk: results and the database need it too. */
const FLOOR_BYTES = 1024 ** 3
/** An upload that sends nothing for so long is given up. */
const STALLED_MS = 60_000

export interface UploadDeps {
  readonly db: Db
  readonly storage: Storage
  readonly config: Pick<Config, 'publicUrl' | 'uploadTtlMs'>
  readonly log: Logger
  /** Has `convert` run soon, in whatever process. A lost call is made up for by the sweep. */
  readonly convertLater: (uploadId: string) => Promise<void>
}

/** A file on its way in. */
export interface IncomingFile {
  /** As the customer wrote it. */
  readonly originalName: string
  /** The bytes; destroyed when the file is refused. */
  readonly body: Readable
  /** At most so many bytes will come; undefined: unknown. */
  readonly announced?: number | undefined
  /** Awaited after the last byte: throws when what follows in the request makes the file invalid. */
  complete(): Promise<void>
}

/** The row of a file that has arrived. */
interface Received {
  readonly id: string
  readonly status: 'processing' | 'ready'
  readonly original_name: string
  readonly mime_type: string
  readonly size: bigint
}

/**
 * Streams a file into storage while it is measured, hashed and inspected; the row stands after the bytes, so a crash leaves
 * at most bytes that the sweep finds. Throws ApiError: validation_error, invalid_media_type, server_busy.
 */
export async function receive(deps: UploadDeps, customerId: string, file: IncomingFile): Promise<Received> {
  const originalName = cleanName(file.originalName)
  if (originalName === '') throw new ApiError('validation_error', 'file: must have a name.')
  const look = inspect(originalName)
  const id = randomUUID()
  await reserve(deps, id, customerId, Math.min(file.announced ?? MAX_UPLOAD_BYTES, MAX_UPLOAD_BYTES))
  const name = `uploads/${randomUUID()}`
  try {
    const found = await store(deps, name, file.body, look)
    await file.complete()
    const status = found.extension === 'heic' ? 'processing' : 'ready'
    await deps.db.prisma.upload.create({
      data: {
        id,
        customerId,
        status,
        name,
        originalName,
        extension: found.extension,
        mimeType: found.mimeType,
        size: found.size,
        sha256: new Uint8Array(found.sha256),
        width: found.width ?? null,
        height: found.height ?? null,
        expiresAt: new Date(Date.now() + deps.config.uploadTtlMs),
      },
    })
    if (status === 'processing')
      await deps
        .convertLater(id)
        .catch((error: unknown) => deps.log.warn({ err: error, upload: id }, 'conversion not queued'))
    return { id, status, original_name: originalName, mime_type: found.mimeType, size: BigInt(found.size) }
  } catch (error) {
    await deps.storage.remove(name).catch((err: unknown) => deps.log.warn({ err, upload: id }, 'left for the sweep'))
    throw error
  } finally {
    await deps.db.prisma.uploadReservation.deleteMany({ where: { id } }).catch(() => {})
  }
}

const RESERVE = { name: 'reserve_upload', text: 'SELECT reserve_upload($1, $2, $3, $4, $5) AS reserved' }

async function reserve({ db, storage }: UploadDeps, id: string, customerId: string, bytes: number): Promise<void> {
  if ((await storage.freeBytes()) < FLOOR_BYTES + bytes)
    throw new ApiError('server_busy', 'The storage is nearly full. Try again later.', { retryAfter: 60 })
  const [row] = await db.run<{ reserved: boolean }>(RESERVE, [id, customerId, bytes, QUOTA_BYTES, QUOTA_COUNT])
  if (!row?.reserved)
    throw new ApiError(
      'validation_error',
      `file: your uploads would exceed ${QUOTA_BYTES / 1024 ** 3} GB or ${QUOTA_COUNT} files. They expire by themselves; try again later.`,
    )
}

async function store(
  { storage, log }: UploadDeps,
  name: string,
  body: Readable,
  look: ReturnType<typeof inspect>,
): Promise<Inspected> {
  let size = 0
  let found: Inspected | undefined
  let refusal: unknown
  const stalled = setTimeout(() => body.destroy(brokenOff()), STALLED_MS)
  async function* watched() {
    try {
      for await (const chunk of body as AsyncIterable<Buffer>) {
        stalled.refresh()
        size += chunk.length
        if (size > MAX_UPLOAD_BYTES) throw tooLarge()
        look.feed(chunk)
        yield chunk
      }
      found = look.done()
    } catch (error) {
      refusal = error instanceof ApiError ? error : brokenOff(error)
      throw error
    }
  }
  try {
    await storage.put(name, Readable.from(watched(), { objectMode: false }))
  } catch (error) {
    if (refusal) throw refusal
    if (error instanceof ApiError) throw error
    log.error({ err: error }, 'upload not stored')
    throw new ApiError('server_busy', 'The file could not be stored. Try again later.', { cause: error })
  } finally {
    clearTimeout(stalled)
  }
  if (!found) throw new Error('stored without having been inspected')
  return found
}

export function tooLarge(): ApiError {
  return new ApiError('validation_error', 'file: must not be larger than 300 MB.', { status: 413 })
}

function brokenOff(cause?: unknown): ApiError {
  return new ApiError('validation_error', 'file: the upload broke off.', { status: 400, cause })
}

/** The last part of what may be a path, without control and direction characters, at most 255 characters. */
function cleanName(text: string): string {
  const base = text.toWellFormed().split(/[/\\]/).at(-1) ?? ''
  const clean = base.replace(/[\p{Cc}\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu, '').trim()
  if (/^\.*$/.test(clean)) return ''
  // Too long: the end, with the extension, tells more.
  return clean.slice(-255).toWellFormed()
}
