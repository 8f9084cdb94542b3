import { createHash, randomBytes } from 'node:crypto'
import { crc32, deflateSync } from 'node:zlib'

/** A file that an upstream made, served under an unguessable token. */
export interface StoredFile {
  readonly token: string
  readonly bytes: Buffer
  readonly mimeType: string
  /** Hex. */
  readonly sha256: string
}

export interface FileStore {
  /** A new file; without bytes a real PNG unlike any other. */
  put(bytes?: Buffer, mimeType?: string): StoredFile
  get(token: string): StoredFile | undefined
}

export function fileStore(): FileStore {
  const files = new Map<string, StoredFile>()
  return {
    put(bytes = makePng(files.size), mimeType = 'image/png') {
      const token = randomBytes(16).toString('base64url')
      const file = { token, bytes, mimeType, sha256: createHash('sha256').update(bytes).digest('hex') }
      files.set(token, file)
      return file
    },
    get: token => files.get(token),
  }
}

/** A valid 8×8 RGB picture whose colour, and so whose SHA-256, depends on `seed`. */
export function makePng(seed: number): Buffer {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(8, 0)
  header.writeUInt32BE(8, 4)
  header.set([8, 2, 0, 0, 0], 8)
  const row = Buffer.from([
    0,
    ...Array.from({ length: 8 }, () => [seed & 255, (seed >> 8) & 255, (seed >> 16) & 255]).flat(),
  ])
  const pixels = deflateSync(Buffer.concat(Array.from({ length: 8 }, () => row)))
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
  return Buffer.concat([signature, chunk('IHDR', header), chunk('IDAT', pixels), chunk('IEND', Buffer.alloc(0))])
}

function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data])
  const length = Buffer.alloc(4)
  length.writeUInt32BE(data.length)
  const checksum = Buffer.alloc(4)
  checksum.writeUInt32BE(crc32(body))
  return Buffer.concat([length, body, checksum])
}
