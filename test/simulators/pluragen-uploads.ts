import { randomUUID } from 'node:crypto'
import { type PluragenState, refusal, type SimUpload } from './pluragen-state.ts'
import type { SimAnswer, SimRequest } from './spec.ts'

const MIME_TYPES: Readonly<Record<string, string>> = {
  jpg: 'image/jpeg',
  jpeg: 'image/jpeg',
  png: 'image/png',
  webp: 'image/webp',
  gif: 'image/gif',
  heic: 'image/heic',
  heif: 'image/heif',
  mp4: 'video/mp4',
  mov: 'video/quicktime',
  webm: 'video/webm',
}
const MAX_SIZE = 300 * 1024 * 1024

export function receiveUpload(state: PluragenState, request: SimRequest): SimAnswer {
  const [file, ...others] = request.files
  if (!file || others.length > 0 || file.field !== 'file') return refusal(422, 'validation_error', 'file: send one')
  const mimeType = MIME_TYPES[extensionOf(file.name)]
  if (!mimeType) return refusal(422, 'validation_error', 'file: type is not supported')
  if (file.size > MAX_SIZE) return refusal(422, 'validation_error', 'file: larger than 300 MB')
  const { name, size, sha256, head } = file
  const readyAt = Date.now() + (isHeic(mimeType) ? state.conversion.ms : 0)
  const upload = {
    owner: request.key,
    token: randomUUID(),
    name,
    size,
    mimeType,
    sha256,
    head,
    readyAt,
    expired: false,
  }
  state.uploads.set(`tmp/${upload.token}`, upload)
  return { status: 201, json: { success: true, upload: showUpload(state, upload, request.origin) } }
}

export function showUpload(state: PluragenState, upload: SimUpload, origin: string): object {
  const status = uploadStatus(state, upload)
  return {
    tmp_path: `tmp/${upload.token}`,
    status,
    url: status === 'ready' ? `${origin}/api/v1/upload/preview/${upload.token}` : null,
    original_name: upload.name,
    mime_type: status === 'ready' ? uploadType(upload) : upload.mimeType,
    size: upload.size,
    error: status === 'failed' ? 'Conversion failed' : null,
  }
}

export function uploadStatus(state: PluragenState, upload: SimUpload): 'ready' | 'processing' | 'failed' {
  if (Date.now() < upload.readyAt) return 'processing'
  return isHeic(upload.mimeType) && !state.conversion.works ? 'failed' : 'ready'
}

/** What it is once ready. */
export function uploadType(upload: SimUpload): string {
  return isHeic(upload.mimeType) ? 'image/png' : upload.mimeType
}

/** The key's own upload. */
export function uploadOf(state: PluragenState, tmpPath: unknown, owner: string): SimUpload | undefined {
  const upload = typeof tmpPath === 'string' ? state.uploads.get(tmpPath) : undefined
  return upload?.owner === owner ? upload : undefined
}

/** The key's own upload while it lasts, else the refusal. */
export function readUpload(state: PluragenState, tmpPath: unknown, owner: string): SimUpload | SimAnswer {
  const upload = uploadOf(state, tmpPath, owner)
  if (!upload) return refusal(404, 'file_not_found', 'Temporary file not found')
  return upload.expired ? refusal(422, 'file_expired', 'Temporary file expired') : upload
}

function isHeic(mimeType: string): boolean {
  return mimeType === 'image/heic' || mimeType === 'image/heif'
}

function extensionOf(name: string): string {
  return name.toLowerCase().split('.').at(-1) ?? ''
}
