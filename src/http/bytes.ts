import type { Readable } from 'node:stream'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { ApiError } from '../errors.ts'
import { MissingFile, type Storage } from '../storage/storage.ts'

/** A stored file as it is handed out. */
export interface ServedFile {
  /** Its name in our storage. */
  readonly name: string
  /** Bytes. */
  readonly size: number
  readonly mimeType: string
  /** Changes with the bytes; without quotes. Its SHA-256 in hex is a good one. */
  readonly etag: string
  readonly disposition: 'inline' | 'attachment'
  /** The name under which a browser saves it. */
  readonly filename: string
  /** Private caches may keep it until then. */
  readonly expiresAt: Date
}

/**
 * Sends a stored file: 200, or 206 for one range, 304 for what the client already has, 416 for a range outside of it. A
 * request for several ranges gets the whole file, as HTTP allows. Routes that use it answer GET and HEAD explicitly (an
 * implied HEAD route would read the whole file) and set `handlerTimeout: TRANSFER_TIMEOUT_MS`. Throws not_found when the
 * bytes are gone.
 */
export async function sendFile(
  request: FastifyRequest,
  reply: FastifyReply,
  storage: Storage,
  file: ServedFile,
): Promise<FastifyReply> {
  const etag = `"${file.etag}"`
  const known = knows(request.headers['if-none-match'], etag)
  const range = known ? undefined : readRange(request, etag, file.size)
  if (range === 'outside') {
    reply.header('content-range', `bytes */${file.size}`)
    throw new ApiError('validation_error', `Range: the file has ${file.size} bytes.`, { status: 416 })
  }
  const body = known || request.method === 'HEAD' ? undefined : await open(storage, file.name, range)
  reply.headers({
    'cache-control': `private, max-age=${Math.max(0, Math.floor((file.expiresAt.getTime() - Date.now()) / 1000))}`,
    etag,
    'x-content-type-options': 'nosniff',
    'content-security-policy': "default-src 'none'; sandbox",
  })
  if (known) return reply.code(304).send()
  reply.headers({
    'accept-ranges': 'bytes',
    'content-type': file.mimeType,
    'content-disposition': disposition(file.disposition, file.filename),
    'content-length': range ? range.end - range.start + 1 : file.size,
  })
  if (range) reply.code(206).header('content-range', `bytes ${range.start}-${range.end}/${file.size}`)
  body?.once('error', error => {
    request.facts = { ...request.facts, reason: error.message }
  })
  return reply.send(body)
}

async function open(
  storage: Storage,
  name: string,
  range: { start: number; end: number } | undefined,
): Promise<Readable> {
  try {
    return await storage.open(name, range)
  } catch (error) {
    if (!(error instanceof MissingFile)) throw error
    throw new ApiError('not_found', 'The file is no longer there.', { cause: error })
  }
}

/** If-None-Match compares weakly: a proxy may have marked our tag with W/. */
function knows(header: string | undefined, etag: string): boolean {
  if (header === undefined) return false
  return header.split(',').some(tag => tag.trim() === '*' || tag.trim().replace(/^W\//, '') === etag)
}

/** The one range that was asked for, cut to the file; undefined: send all of it. */
function readRange(
  request: FastifyRequest,
  etag: string,
  size: number,
): { start: number; end: number } | 'outside' | undefined {
  const { range, 'if-range': ifRange } = request.headers
  if (request.method !== 'GET' || range === undefined || (ifRange !== undefined && ifRange !== etag)) return undefined
  const [, first, last] = /^bytes=(\d*)-(\d*)$/.exec(range.replaceAll(' ', '')) ?? []
  if (first === undefined || last === undefined || (first === '' && last === '')) return undefined
  const start = first === '' ? Math.max(0, size - Number(last)) : Number(first)
  const end = first === '' || last === '' ? size - 1 : Math.min(Number(last), size - 1)
  if (first !== '' && last !== '' && Number(last) < Number(first)) return undefined
  return start > end ? 'outside' : { start, end }
}

/** RFC 6266: a plain name for old clients, and the real one when it has more than ASCII. */
function disposition(kind: 'inline' | 'attachment', filename: string): string {
  const plain = filename.replace(/[^\x20-\x7e]|["\\%/]/g, '_')
  if (plain === filename) return `${kind}; filename="${plain}"`
  const encoded = encodeURIComponent(filename.toWellFormed()).replace(
    /['()*]/g,
    c => `%${c.charCodeAt(0).toString(16)}`,
  )
  return `${kind}; filename="${plain}"; filename*=UTF-8''${encoded}`
}
