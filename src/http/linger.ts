import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyRequest } from 'fastify'

/** How long the rest of a body that was answered early may still come. */
const LINGER_MS = 5_000
/** So little is read to its end, and the connection lives on. */
const SMALL_BYTES = 65_536

/**
 * A client that is still sending when its connection is closed never sees why. A body that is answered before it was read is
 * therefore read on, and dropped: the answer is sent at once, and the connection closed when the client has stopped sending,
 * at the latest after LINGER_MS.
 */
export function lingerOnUnreadBodies(server: FastifyInstance): void {
  server.addHook('onSend', (request, reply, payload, done) => {
    const { raw } = request
    if (!hasBody(request) || raw.readableEnded || raw.destroyed) return done()
    // Whoever read it must not go on: a body that ends now would still be acted on.
    raw.unpipe()
    raw.removeAllListeners('data').removeAllListeners('end')
    raw.resume()
    if (raw.complete || isSmall(request) || typeof payload !== 'string') return done()
    reply.header('connection', 'close').header('content-length', Buffer.byteLength(payload))
    done(null, Readable.from(lingering(raw, payload), { objectMode: false }))
  })
}

/** An answer that ends, and with it the connection, only when its request is over. */
async function* lingering(request: IncomingMessage, answer: string): AsyncGenerator<string> {
  yield answer
  await new Promise<void>(resolve => {
    const timer = setTimeout(resolve, LINGER_MS)
    const over = () => {
      clearTimeout(timer)
      resolve()
    }
    if (request.readableEnded || request.destroyed) over()
    else request.once('end', over).once('close', over)
  })
}

function hasBody({ headers }: FastifyRequest): boolean {
  return headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined
}

function isSmall({ headers }: FastifyRequest): boolean {
  if (headers['transfer-encoding'] !== undefined) return false
  return Number(headers['content-length'] ?? 0) <= SMALL_BYTES
}
