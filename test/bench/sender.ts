import { Agent, request } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'

/* Sends files, a process of its own: multipart uploads of a video that is whole, as large as wanted. */

export interface Sending {
  readonly url: string
  readonly key?: string
  readonly megabytes: number
  /** How many at once. */
  readonly files: number
}

export interface Sent {
  readonly seconds: number
  /** Answers other than 201, with what they said. */
  readonly refused: readonly string[]
}

const MEGABYTE = 1_000_000
const BOUNDARY = 'boundary-of-the-bench'
const CHUNK = Buffer.alloc(64 * 1024, 'genmux')
const agent = new Agent({ keepAlive: true })

/** An MP4 in form: its brand, an empty index, and data to the end. */
function* video(bytes: number): Generator<Buffer> {
  const head = Buffer.alloc(40)
  head.writeUInt32BE(24, 0)
  head.write('ftypisom', 4, 'latin1')
  head.write('isommp42', 16, 'latin1')
  head.writeUInt32BE(8, 24)
  head.write('moov', 28, 'latin1')
  head.writeUInt32BE(bytes - 32, 32)
  head.write('mdat', 36, 'latin1')
  yield head
  for (let left = bytes - head.length; left > 0; left -= CHUNK.length)
    yield CHUNK.subarray(0, Math.min(left, CHUNK.length))
}

function* form(bytes: number): Generator<Buffer> {
  yield before
  yield* video(bytes)
  yield after
}
const before = Buffer.from(
  `--${BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="clip.mp4"\r\ncontent-type: video/mp4\r\n\r\n`,
)
const after = Buffer.from(`\r\n--${BOUNDARY}--\r\n`)

async function sendOne({ url, key, megabytes }: Sending): Promise<string | undefined> {
  const bytes = megabytes * MEGABYTE
  const sending = request(url, {
    method: 'POST',
    agent,
    headers: {
      'content-type': `multipart/form-data; boundary=${BOUNDARY}`,
      'content-length': before.length + bytes + after.length,
      ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
    },
  })
  const answered = new Promise<string | undefined>((done, failed) => {
    sending.once('error', failed)
    sending.once('response', response => {
      let text = ''
      response.on('data', chunk => {
        text += chunk
      })
      response.on('end', () => done(response.statusCode === 201 ? undefined : `${response.statusCode} ${text}`))
    })
  })
  await pipeline(Readable.from(form(bytes), { objectMode: false }), sending)
  return answered
}

async function sendAll(sending: Sending): Promise<void> {
  const began = performance.now()
  const answers = await Promise.all(Array.from({ length: sending.files }, () => sendOne(sending)))
  const sent: Sent = {
    seconds: (performance.now() - began) / 1_000,
    refused: answers.filter(answer => answer !== undefined),
  }
  process.send?.(sent)
}

process.on('message', (sending: Sending) => void sendAll(sending))
process.on('disconnect', () => process.exit(0))
process.send?.('ready')
