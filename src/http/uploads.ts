import multipart, { type Multipart } from '@fastify/multipart'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { ZodTypeProvider } from 'fastify-type-provider-zod'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import type { Storage } from '../storage/storage.ts'
import { MAX_UPLOAD_BYTES, tooLarge } from '../uploads/receive.ts'
import type { Uploads, UploadView } from '../uploads/uploads.ts'
import { BODY_STATUSES, fileAnswers, refusals, unchecked } from './answers.ts'
import { TRANSFER_TIMEOUT_MS } from './app.ts'
import { sendFile } from './bytes.ts'

const answer = z.object({
  success: z.literal(true),
  upload: z.object({
    tmp_path: z.string().describe('Goes into `media` of an order.'),
    status: z.enum(['ready', 'processing', 'failed']).describe('HEIC and HEIF are `processing` until they became PNG.'),
    url: z.string().nullable().describe('Preview, with the same authentication; null until it is ready.'),
    original_name: z.string(),
    mime_type: z.string(),
    size: z.number().int().describe('Bytes.'),
    error: z.string().nullable().describe('Why it failed.'),
  }),
})

/** `POST /upload`, `GET /upload/status`, `GET /upload/preview/{token}`. */
export async function uploadRoutes(
  server: FastifyInstance,
  { uploads, storage }: { uploads: Uploads; storage: Storage },
): Promise<void> {
  // One byte more than is accepted: receive() counts, and refuses what the parser would only cut off.
  await server.register(multipart, {
    throwFileSizeLimit: false,
    limits: { fileSize: MAX_UPLOAD_BYTES + 1, files: 2, fields: 2, parts: 3, headerPairs: 50, fieldSize: 1_024 },
  })
  const typed = server.withTypeProvider<ZodTypeProvider>()

  typed.route({
    method: 'POST',
    url: '/upload',
    handlerTimeout: TRANSFER_TIMEOUT_MS,
    config: { scope: 'generate', waits: true },
    // The body is a stream.
    validatorCompiler: unchecked,
    schema: {
      operationId: 'createUpload',
      summary: 'Upload a file',
      description:
        'multipart/form-data with one field `file`: JPG, JPEG, PNG, WEBP, GIF, HEIC, HEIF, MP4, MOV or WEBM, up to 300 MB, whole, ' +
        'its name agreeing with its content. Pictures have at most 100 megapixels, 32,767 pixels a side and 1,000 frames. It lives for 24 ' +
        'hours. A customer may have 20 GB or 5,000 files at a time.',
      tags: ['Uploads'],
      consumes: ['multipart/form-data'],
      body: z.object({ file: z.file() }),
      response: {
        201: answer,
        ...refusals(['validation_error', 'invalid_media_type'], { at: BODY_STATUSES }),
      },
    },
    async handler(request, reply) {
      const upload = await receiveOne(request, uploads)
      return reply.code(201).send({ success: true, upload })
    },
  })

  typed.route({
    method: 'GET',
    url: '/upload/status',
    config: { scope: 'read' },
    schema: {
      operationId: 'getUploadStatus',
      summary: 'State of an upload',
      tags: ['Uploads'],
      querystring: z.object({ tmp_path: z.string().max(100) }),
      response: { 200: answer, ...refusals(['validation_error', 'file_not_found', 'file_expired']) },
    },
    async handler(request) {
      return { success: true as const, upload: await uploads.status(customerOf(request), request.query.tmp_path) }
    },
  })

  typed.route({
    method: ['GET', 'HEAD'],
    url: '/upload/preview/:token',
    handlerTimeout: TRANSFER_TIMEOUT_MS,
    config: { scope: 'read', waits: true },
    schema: {
      operationId: 'getUploadPreview',
      summary: 'The bytes of an upload',
      description: 'For previewing only. Range is supported.',
      tags: ['Uploads'],
      params: z.object({ token: z.string() }),
      response: {
        ...fileAnswers,
        ...refusals(['file_not_found', 'file_expired', 'upload_processing'], { at: { 416: ['validation_error'] } }),
      },
    },
    async handler(request, reply) {
      const file = await uploads.preview(customerOf(request), request.params.token)
      return sendFile(request, reply, storage, {
        name: file.name,
        size: file.size,
        mimeType: file.mimeType,
        etag: file.sha256,
        disposition: 'attachment',
        filename: file.fileName,
        expiresAt: file.expiresAt,
      })
    },
  })
}

/** The one file of the request. What comes before and after it must not be there. */
async function receiveOne(request: FastifyRequest, uploads: Uploads): Promise<UploadView> {
  if (!request.isMultipart())
    throw new ApiError('validation_error', 'The body must be multipart/form-data.', { status: 400 })
  const announced = Number(request.headers['content-length']) || undefined
  // The form around the file takes less than 64 KiB.
  if (announced !== undefined && announced > MAX_UPLOAD_BYTES + 65_536) throw tooLarge()
  const parts = readParts(request)
  const part = await parts()
  if (!part) throw new ApiError('validation_error', 'file: is missing.')
  if (part.type !== 'file' || part.fieldname !== 'file') throw unexpected(part)
  return await uploads.receive(customerOf(request), {
    originalName: part.filename ?? '',
    body: part.file,
    announced,
    async complete() {
      const more = await parts()
      if (more) throw unexpected(more)
    },
  })
}

/** Reads one part after the other; a form that cannot be read is a 400. */
function readParts(request: FastifyRequest): () => Promise<Multipart | undefined> {
  let parts: AsyncIterableIterator<Multipart> | undefined
  return async () => {
    try {
      parts ??= request.parts()
      return (await parts.next()).value as Multipart | undefined
    } catch (error) {
      throw new ApiError('validation_error', 'The multipart body is malformed.', { status: 400, cause: error })
    }
  }
}

function unexpected(part: Multipart): ApiError {
  const name = part.fieldname?.slice(0, 100) ?? ''
  const message =
    part.type !== 'file' && name === 'file' ? 'must be a file with a name' : 'only one part is accepted, `file`'
  return new ApiError('validation_error', `${name}: ${message}.`)
}

function customerOf(request: FastifyRequest): string {
  if (!request.caller) throw new Error('an unauthenticated request reached an upload route')
  return request.caller.customerId
}
