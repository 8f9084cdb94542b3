import { Malformed, skip, take, type Walk } from './walk.ts'

/* Containers of video and of HEIC: that they are whole and hold what they must. What is inside is not read. */

const HEADER_MAX = 4_096

/** The brands of an ISO base media file's first box, which is consumed. */
export function* brands(): Walk<string[]> {
  const size = (yield* take(8)).readUInt32BE(0)
  if (size < 16 || size > HEADER_MAX || size % 4 !== 0) throw new Malformed('is damaged at its beginning')
  const rest = yield* take(size - 8)
  const words = Array.from({ length: rest.length / 4 }, (_, i) => rest.toString('latin1', i * 4, i * 4 + 4))
  // The second word is the version of the first.
  return words.filter((_, i) => i !== 1)
}

/** Walks boxes to the end of the file, which must hold a `required` one. */
export function* boxes(required: 'moov' | 'meta'): Walk {
  let found = false
  for (;;) {
    const head = yield { take: 8, orEnd: true }
    if (head.length === 0) break
    const type = head.toString('latin1', 4, 8)
    if (!/^[\x20-\x7e\xa9]{4}$/.test(type)) throw new Malformed('is damaged')
    if (type === required) found = true
    const size = head.readUInt32BE(0)
    if (size === 0) {
      yield { skip: Infinity, orEnd: true }
      break
    }
    // One: the size follows as 64 bits.
    const content = size === 1 ? Number((yield* take(8)).readBigUInt64BE(0)) - 16 : size - 8
    if (content < 0) throw new Malformed('is damaged')
    yield* skip(content)
  }
  if (!found) throw new Malformed(required === 'moov' ? 'has no video in it' : 'has no picture in it')
  return {}
}

const SEGMENT = 0x18538067
const DOC_TYPE = 0x4282

/** The EBML header, which must say WebM (Matroska looks alike), then one segment to the end of the file. */
export function* webm(): Walk {
  yield* take(4)
  const length = yield* variableSize()
  if (length > HEADER_MAX) throw new Malformed('is damaged at its beginning')
  const header = yield* take(length)
  if (docType(header) !== 'webm') throw new Malformed('is Matroska, not WEBM')
  if ((yield* take(4)).readUInt32BE(0) !== SEGMENT) throw new Malformed('has no video in it')
  const size = yield* variableSize()
  if (size === 0) throw new Malformed('has no video in it')
  if (size === Infinity) yield { skip: Infinity, orEnd: true }
  else yield* skip(size)
  return {}
}

function* variableSize(): Walk<number> {
  const first = yield* take(1)
  const more = sizeLength(first) - 1
  return readSize(more > 0 ? Buffer.concat([first, yield* take(more)]) : first)
}

/** EBML's sizes: the leading zeros of the first byte say how many bytes follow it. */
function sizeLength(bytes: Buffer): number {
  const first = bytes[0]
  if (!first) throw new Malformed('is damaged')
  return Math.clz32(first) - 23
}

/** All ones: unknown, up to the end of the file. */
function readSize(bytes: Buffer): number {
  const mask = 0xff >>> bytes.length
  const [first = 0, ...rest] = bytes
  const unknown = (first & mask) === mask && rest.every(byte => byte === 0xff)
  return unknown ? Infinity : rest.reduce((value, byte) => value * 256 + byte, first & mask)
}

function docType(header: Buffer): string | undefined {
  for (let at = 0; at + 2 < header.length; ) {
    // Ids in this header have two bytes, but for CRC-32 (0xbf) and Void (0xec).
    const idLength = header[at] === 0xbf || header[at] === 0xec ? 1 : 2
    const content = at + idLength + sizeLength(header.subarray(at + idLength))
    const end = content + readSize(header.subarray(at + idLength, content))
    if (idLength === 2 && header.readUInt16BE(at) === DOC_TYPE)
      return header.toString('latin1', content, end).replace(/\0+$/, '')
    at = end
  }
  return undefined
}
