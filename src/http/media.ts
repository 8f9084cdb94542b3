import type { FastifyInstance } from 'fastify'
import { ApiError } from '../errors.ts'
import type { Storage } from '../storage/storage.ts'
import type { Uploads } from '../uploads/uploads.ts'
import { TRANSFER_TIMEOUT_MS } from './app.ts'
import { sendFile } from './bytes.ts'

/** `GET /media/{token}`: a customer's file for an upstream that fetches. Public; the token is the right to it. */
export async function mediaRoutes(
  server: FastifyInstance,
  { uploads, storage }: { uploads: Uploads; storage: Storage },
): Promise<void> {
  server.route<{ Params: { token: string } }>({
    method: ['GET', 'HEAD'],
    url: '/media/:token',
    handlerTimeout: TRANSFER_TIMEOUT_MS,
    schema: { hide: true },
    async handler(request, reply) {
      const file = await uploads.byMediaUrl(request.params.token)
      if (!file) throw new ApiError('not_found', 'There is no such file.')
      return sendFile(request, reply, storage, {
        name: file.name,
        size: file.size,
        mimeType: file.mimeType,
        etag: file.sha256,
        disposition: 'inline',
        // Not the customer's name for it: an upstream has no need to know.
        filename: file.id + file.fileName.slice(file.fileName.lastIndexOf('.')),
        expiresAt: file.expiresAt,
      })
    },
  })
}
