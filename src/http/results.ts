import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import { fileAnswers, refusals } from './answers.ts'
import { type App, TRANSFER_TIMEOUT_MS } from './app.ts'
import { sendFile } from './bytes.ts'

const FIND_OUTPUT = {
  name: 'find_output',
  text: `SELECT order_id, position, name, mime_type, size, sha256, expires_at FROM outputs
    WHERE token = $1 AND expires_at > now() AND purged_at IS NULL`,
}

interface OutputRow {
  readonly order_id: string
  readonly position: number
  readonly name: string
  readonly mime_type: string
  readonly size: bigint
  readonly sha256: Buffer
  readonly expires_at: Date
}

/** GET /g/{token}: what an order produced. Public; the token is the right to it, until it expires. */
export function resultRoutes(app: App): FastifyPluginAsyncZod {
  return async server => {
    server.route({
      method: ['GET', 'HEAD'],
      url: '/g/:token',
      handlerTimeout: TRANSFER_TIMEOUT_MS,
      schema: {
        tags: ['Results'],
        operationId: 'getResult',
        summary: 'What an order produced',
        description:
          'A link from `order.result`: no login, 404 after `expires_at`. One range of bytes can be asked for; a request for several gets the whole file.',
        security: [],
        params: z.object({ token: z.string() }),
        response: {
          ...fileAnswers,
          ...refusals(['not_found'], { at: { 416: ['validation_error'] }, open: true }),
        },
      },
      async handler(request, reply) {
        const { token } = request.params
        const [output] = /^[\w-]{16,128}$/.test(token) ? await app.db.run<OutputRow>(FIND_OUTPUT, [token]) : []
        if (!output) throw new ApiError('not_found', 'There is no such file.')
        return sendFile(request, reply, app.storage, {
          name: output.name,
          size: Number(output.size),
          mimeType: output.mime_type,
          etag: output.sha256.toString('hex'),
          disposition: 'inline',
          filename: `${output.order_id}-${output.position + 1}${extensionOf(output.mime_type)}`,
          expiresAt: output.expires_at,
        })
      },
    })
  }
}

const EXTENSIONS: Record<string, string> = {
  jpeg: 'jpg',
  quicktime: 'mov',
  'svg+xml': 'svg',
  mpeg: 'mp3',
  'gltf-binary': 'glb',
}

/** The file extension of a MIME type, with its dot; empty when its name is no extension. */
function extensionOf(mimeType: string): string {
  const subtype = mimeType.split('/')[1] ?? ''
  const extension = EXTENSIONS[subtype] ?? subtype
  return /^[a-z0-9]{2,5}$/.test(extension) ? `.${extension}` : ''
}
