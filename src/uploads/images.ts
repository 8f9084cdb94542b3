import { crc32 } from 'node:zlib'
import { type Facts, Malformed, skip, take, type Walk } from './walk.ts'

/* The structure of JPEG, PNG, GIF and WEBP: dimensions, number of frames, and that the file is whole. */

const MAX_SIDE = 32_767
const MAX_PIXELS = 100_000_000
const MAX_FRAMES = 1_000

/** Limits of uploaded pictures: 100 megapixels, 32,767 pixels a side, 1,000 frames. */
function picture(width: number, height: number, frames: number, more: Pick<Facts, 'mayTrail'> = {}): Facts {
  if (frames < 1) throw new Malformed('has no picture in it')
  if (width < 1 || height < 1) throw new Malformed('has no width or height')
  if (width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS)
    throw new Malformed(`is ${width} × ${height} pixels; at most 100 megapixels and ${MAX_SIDE} a side are accepted`)
  return { width, height, frames, ...more }
}

function countFrame(frames: number): number {
  if (frames >= MAX_FRAMES) throw new Malformed(`has more than ${MAX_FRAMES} frames`)
  return frames + 1
}

const PNG_DEPTHS: Readonly<Record<number, readonly number[]>> = {
  0: [1, 2, 4, 8, 16],
  2: [8, 16],
  3: [1, 2, 4, 8],
  4: [8, 16],
  6: [8, 16],
}

export function* png(): Walk {
  yield* take(8)
  const head = yield* take(25)
  if (head.readUInt32BE(0) !== 13 || head.toString('latin1', 4, 8) !== 'IHDR') throw new Malformed('is not a valid PNG')
  if (crc32(head.subarray(4, 21)) !== head.readUInt32BE(21)) throw new Malformed('is a damaged PNG')
  if (!PNG_DEPTHS[head.readUInt8(17)]?.includes(head.readUInt8(16))) throw new Malformed('is not a valid PNG')
  // Refuse dimensions before the rest arrives.
  picture(head.readUInt32BE(8), head.readUInt32BE(12), 1)
  let frames = 0
  for (;;) {
    const chunk = yield* take(8)
    const length = chunk.readUInt32BE(0)
    const type = chunk.toString('latin1', 4, 8)
    if (!/^[A-Za-z]{4}$/.test(type) || length > 0x7fff_ffff) throw new Malformed('is a damaged PNG')
    if (type === 'IDAT' && frames === 0) frames = 1
    if (type === 'acTL' && length === 8) {
      const animated = (yield* take(8)).readUInt32BE(0)
      if (animated > MAX_FRAMES) throw new Malformed(`has more than ${MAX_FRAMES} frames`)
      yield* skip(4)
    } else yield* skip(length + 4)
    if (type === 'IEND') return picture(head.readUInt32BE(8), head.readUInt32BE(12), frames)
  }
}

export function* gif(): Walk {
  const head = yield* take(13)
  const [width, height] = [head.readUInt16LE(6), head.readUInt16LE(8)]
  yield* skip(colours(head.readUInt8(10)))
  let frames = 0
  for (;;) {
    const kind = (yield* take(1)).readUInt8(0)
    if (kind === 0x3b) return picture(width, height, frames)
    if (kind === 0x2c) {
      frames = countFrame(frames)
      const frame = yield* take(9)
      yield* skip(colours(frame.readUInt8(8)) + 1)
    } else if (kind === 0x21) yield* skip(1)
    else throw new Malformed('is a damaged GIF')
    for (;;) {
      const length = (yield* take(1)).readUInt8(0)
      if (length === 0) break
      yield* skip(length)
    }
  }
}

/** Bytes of the colour table that a GIF's flags announce. */
function colours(flags: number): number {
  return flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0
}

export function* webp(): Walk {
  const riff = yield* take(12)
  let left = riff.readUInt32LE(4) - 4
  let size: { width: number; height: number } | undefined
  let frames = 0
  while (left > 0) {
    if (left < 8) throw new Malformed('is a damaged WEBP')
    const chunk = yield* take(8)
    const type = chunk.toString('latin1', 0, 4)
    const length = chunk.readUInt32LE(4)
    const padded = length + (length & 1)
    left -= 8 + padded
    // Some encoders leave out the last byte of padding in the total.
    if (left < -1) throw new Malformed('is a damaged WEBP')
    if (type === 'VP8X' || type === 'VP8 ' || type === 'VP8L') {
      if (length < 10) throw new Malformed('is a damaged WEBP')
      const head = yield* take(10)
      size ??= webpSize(type, head)
      picture(size.width, size.height, 1)
      yield* skip(padded - 10)
    } else yield* skip(padded)
    if (type === 'ANMF') frames = countFrame(frames)
    if (type === 'VP8 ' || type === 'VP8L') frames = Math.max(frames, 1)
  }
  return picture(size?.width ?? 0, size?.height ?? 0, frames)
}

function webpSize(type: string, head: Buffer): { width: number; height: number } {
  if (type === 'VP8X') return { width: head.readUIntLE(4, 3) + 1, height: head.readUIntLE(7, 3) + 1 }
  if (type === 'VP8 ') {
    if (head.readUIntBE(3, 3) !== 0x9d012a) throw new Malformed('is a damaged WEBP')
    return { width: head.readUInt16LE(6) & 0x3fff, height: head.readUInt16LE(8) & 0x3fff }
  }
  if (head.readUInt8(0) !== 0x2f) throw new Malformed('is a damaged WEBP')
  const bits = head.readUInt32LE(1)
  return { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1 }
}

const MARKER = 0xff
const [START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN, TEMPORARY] = [0xd8, 0xd9, 0xda, 0x01]

export function* jpeg(): Walk {
  yield* take(2)
  let size: { width: number; height: number } | undefined
  let scans = 0
  let scanning = false
  for (;;) {
    if (scanning) yield { past: MARKER }
    else if ((yield* take(1)).readUInt8(0) !== MARKER) throw new Malformed('is a damaged JPEG')
    let code = MARKER
    while (code === MARKER) code = (yield* take(1)).readUInt8(0)
    const restart = code >= 0xd0 && code <= 0xd7
    // Inside a scan, a zero after the marker byte stands for the byte itself.
    if (scanning && (code === 0 || restart)) continue
    if (code === END_OF_IMAGE) return picture(size?.width ?? 0, size?.height ?? 0, scans && 1, { mayTrail: true })
    if (code === 0 || code === START_OF_IMAGE) throw new Malformed('is a damaged JPEG')
    scanning = false
    if (restart || code === TEMPORARY) continue
    const length = (yield* take(2)).readUInt16BE(0) - 2
    if (length < 0) throw new Malformed('is a damaged JPEG')
    if (isFrameHeader(code)) {
      if (length < 6) throw new Malformed('is a damaged JPEG')
      const frame = yield* take(6)
      size = { height: frame.readUInt16BE(1), width: frame.readUInt16BE(3) }
      picture(size.width, size.height, 1)
      yield* skip(length - 6)
    } else yield* skip(length)
    if (code === START_OF_SCAN) {
      if (!size) throw new Malformed('is a damaged JPEG')
      scans++
      scanning = true
    }
  }
}

/** SOF0 to SOF15, without the tables that share the range. */
function isFrameHeader(code: number): boolean {
  return code >= 0xc0 && code <= 0xcf && code !== 0xc4 && code !== 0xc8 && code !== 0xcc
}
