import type { MediaElement } from '../catalog/model.ts'
import { ApiError } from '../errors.ts'
import type { Media } from '../providers/provider.ts'
import { mediaUrlKey, readMediaToken, signMedia } from './media-url.ts'
import { type IncomingFile, receive, type UploadDeps } from './receive.ts'

/*
 * States of an upload.
 *
 *   processing ──▶ ready     a HEIC became a PNG; everything else is ready from its first moment
 *        └───────▶ failed    it cannot be converted; its bytes are gone
 *
 * From expires_at on it is expired, whatever the sweep has done: `file_expired` for 7 days, then it was never there. Its
 * bytes stay while an active order uses it. An upload of another customer does not exist.
 */

/** The upload object of the contract, in the contract's key order. */
export interface UploadView {
  readonly tmp_path: string
  readonly status: 'processing' | 'ready' | 'failed'
  readonly url: string | null
  readonly original_name: string
  readonly mime_type: string
  readonly size: number
  readonly error: string | null
}

/** What an order needs to know of an upload. */
export interface UploadedMedia extends MediaElement {
  readonly status: 'ready' | 'processing' | 'failed' | 'expired'
}

/** The bytes of an upload, to be handed out. */
export interface StoredUpload {
  readonly id: string
  /** Its name in our storage. */
  readonly name: string
  readonly size: number
  /** Hex. */
  readonly sha256: string
  readonly mimeType: string
  /** The customer's name for it, with the extension of what it is now. */
  readonly fileName: string
  readonly expiresAt: Date
}

export interface Uploads {
  /** Stores one file. Throws ApiError; then nothing of it is left. */
  receive(customerId: string, file: IncomingFile): Promise<UploadView>
  /** Throws ApiError validation_error, file_not_found, file_expired. */
  status(customerId: string, tmpPath: string): Promise<UploadView>
  /** Throws ApiError file_not_found, file_expired, upload_processing. */
  preview(customerId: string, id: string): Promise<StoredUpload>
  /** The customer's uploads of these ids; one that is absent from the answer does not exist. */
  lookup(customerId: string, ids: readonly string[]): Promise<Map<string, UploadedMedia>>
  /** The file that a media element stands for, with a URL signed for this attempt. Throws when its bytes are gone. */
  readonly media: (element: MediaElement, attemptId: string) => Promise<Media>
  /** What a media URL's last segment stands for; undefined: nothing (any more). */
  byMediaUrl(segment: string): Promise<StoredUpload | undefined>
}

const TOMBSTONE_MS = 7 * 86_400_000
/** Longer than any attempt; a queue at the upstream may fetch late. */
const MEDIA_URL_MS = 24 * 3_600_000
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

interface Row {
  readonly id: string
  readonly status: 'processing' | 'ready' | 'failed'
  readonly name: string
  readonly original_name: string
  readonly extension: string
  readonly mime_type: string
  readonly size: bigint
  readonly sha256: Buffer
  readonly width: number | null
  readonly height: number | null
  readonly error: string | null
  readonly expires_at: Date
  readonly purged_at: Date | null
}

const COLUMNS =
  'id, status, name, original_name, extension, mime_type, size, sha256, width, height, error, expires_at, purged_at'
const OF_CUSTOMER = {
  name: 'uploads_of_customer',
  text: `SELECT ${COLUMNS} FROM uploads WHERE customer_id = $1 AND id = ANY ($2::uuid[])`,
}
const USABLE = {
  name: 'upload_usable',
  text: `SELECT ${COLUMNS} FROM uploads WHERE id = $1 AND status = 'ready' AND purged_at IS NULL`,
}

export function createUploads(deps: UploadDeps): Uploads {
  const { db, storage, config } = deps
  let key: Promise<Buffer> | undefined
  const signingKey = () => {
    key ??= mediaUrlKey(db).catch((error: unknown) => {
      key = undefined
      throw error
    })
    return key
  }

  async function find(customerId: string, id: string): Promise<Row> {
    const [row] = UUID.test(id) ? await db.run<Row>(OF_CUSTOMER, [customerId, [id]]) : []
    const state = row && lifeOf(row)
    if (!row || state === 'forgotten') throw new ApiError('file_not_found', 'There is no such file.')
    if (state === 'expired') throw new ApiError('file_expired', 'The file has expired. Upload it again.')
    return row
  }

  return {
    async receive(customerId, file) {
      const row = await receive(deps, customerId, file)
      return view({ ...row, error: null }, config.publicUrl)
    },

    async status(customerId, tmpPath) {
      if (!tmpPath.startsWith('tmp/'))
        throw new ApiError('validation_error', 'tmp_path: must be the tmp_path of an upload.')
      return view(await find(customerId, tmpPath.slice(4)), config.publicUrl)
    },

    async preview(customerId, id) {
      const row = await find(customerId, id)
      if (row.status === 'processing') throw new ApiError('upload_processing', 'The file is still being processed.')
      if (row.status === 'failed') throw new ApiError('file_not_found', 'The file could not be processed.')
      return stored(row)
    },

    async lookup(customerId, ids) {
      const rows = await db.run<Row>(OF_CUSTOMER, [customerId, ids.filter(id => UUID.test(id))])
      const known = rows.flatMap(row => {
        const life = lifeOf(row)
        return life === 'forgotten' ? [] : [{ ...element(row), status: life === 'expired' ? life : row.status }]
      })
      return new Map(known.map(media => [media.upload, media]))
    },

    async media({ upload }, attemptId) {
      const [row] = await db.run<Row>(USABLE, [upload])
      if (!row) throw new Error(`upload ${upload} is gone`)
      const token = signMedia(await signingKey(), row.id, attemptId, new Date(Date.now() + MEDIA_URL_MS))
      return {
        mimeType: row.mime_type,
        extension: row.extension,
        size: Number(row.size),
        sha256: row.sha256.toString('hex'),
        url: `${config.publicUrl}/media/${token}.${row.extension}`,
        open: () => storage.open(row.name),
      }
    },

    async byMediaUrl(segment) {
      const [token = '', extension, more] = segment.split('.')
      const made = readMediaToken(await signingKey(), token, new Date())
      if (!made || more !== undefined) return undefined
      const [row] = await db.run<Row>(USABLE, [made.upload])
      return row && row.extension === extension ? stored(row) : undefined
    },
  }
}

function lifeOf(row: Row): 'alive' | 'expired' | 'forgotten' {
  const age = Date.now() - row.expires_at.getTime()
  if (age >= TOMBSTONE_MS) return 'forgotten'
  return age >= 0 || row.purged_at ? 'expired' : 'alive'
}

function element(row: Row): MediaElement {
  return {
    upload: row.id,
    mime_type: row.mime_type,
    extension: row.extension,
    size: Number(row.size),
    ...(row.width && row.height ? { width: row.width, height: row.height } : {}),
  }
}

function stored(row: Row): StoredUpload {
  return {
    id: row.id,
    name: row.name,
    size: Number(row.size),
    sha256: row.sha256.toString('hex'),
    mimeType: row.mime_type,
    fileName: `${row.original_name.replace(/\.[^.]*$/, '')}.${row.extension}`,
    expiresAt: row.expires_at,
  }
}

function view(
  row: Pick<Row, 'id' | 'status' | 'original_name' | 'mime_type' | 'size' | 'error'>,
  publicUrl: string,
): UploadView {
  return {
    tmp_path: `tmp/${row.id}`,
    status: row.status,
    url: row.status === 'ready' ? `${publicUrl}/api/v1/upload/preview/${row.id}` : null,
    original_name: row.original_name,
    mime_type: row.mime_type,
    size: Number(row.size),
    error: row.error,
  }
}
