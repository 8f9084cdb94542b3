import { buffer } from 'node:stream/consumers'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { crc32, deflateSync } from 'node:zlib'

/*
 * A process of its own: HEIC on stdin, PNG on stdout, the reason in the exit code. Orientation: the decoder applies what the
 * container says (irot, imir), as the standard wants; EXIF's orientation is a copy of it and is not looked at. Colours: the
 * pixels keep their values, and the profile they mean goes along.
 */

const MAX_PIXELS = 50_000_000
/** See EXIT in convert.ts, which is not imported: this process should hold as little as it can. */
const TOO_MANY_PIXELS = 3
const UNREADABLE = 4
const NOBODY = 65_534

// The decoder reports what it cannot read there, in the middle of our PNG.
console.log = console.error

const { default: sharp } = await import('sharp')
const { default: heic } = await import('heic-decode')
sharp.cache(false)
sharp.concurrency(1)
// Loads what is loaded late, while files can still be read.
await sharp({ create: { width: 1, height: 1, channels: 3, background: '#000' } })
  .png()
  .toBuffer()
if (process.getuid?.() === 0) {
  process.setgroups?.([])
  process.setgid?.(NOBODY)
  process.setuid?.(NOBODY)
}

const input = await buffer(process.stdin)
const pictures = await heic.all({ buffer: input }).catch(unreadable)
// Its size is ours to judge. All of this is about the primary picture, which need not be the first of several.
const { icc, hasAlpha, pagePrimary = 0 } = await sharp(input, { limitInputPixels: false }).metadata().catch(unreadable)
const picture = pictures[pagePrimary] ?? unreadable(new Error('no picture'))
if (picture.width * picture.height > MAX_PIXELS) process.exit(TOO_MANY_PIXELS)
const { width, height, data } = await picture.decode().catch(unreadable)
const png = sharp(data, { raw: { width, height, channels: 4 } })
await pipeline((hasAlpha ? png : png.removeAlpha()).png(), withProfile(icc), process.stdout)

function unreadable(error: unknown): never {
  console.error(error)
  process.exit(UNREADABLE)
}

/** Puts an iCCP chunk behind the PNG's signature and IHDR, which are 33 bytes. */
function withProfile(profile: Buffer | undefined): Transform {
  let head: Buffer | undefined = Buffer.alloc(0)
  return new Transform({
    transform(bytes: Buffer, _encoding, done) {
      if (!head) return done(null, bytes)
      head = Buffer.concat([head, bytes])
      if (head.length < 33) return done()
      this.push(head.subarray(0, 33))
      if (profile) this.push(chunk('iCCP', Buffer.concat([Buffer.from('profile\0\0'), deflateSync(profile)])))
      done(null, head.subarray(33))
      head = undefined
    },
  })
}

function chunk(type: string, content: Buffer): Buffer {
  const typed = Buffer.concat([Buffer.from(type), content])
  const length = Buffer.alloc(4)
  length.writeUInt32BE(content.length)
  const check = Buffer.alloc(4)
  check.writeUInt32BE(crc32(typed))
  return Buffer.concat([length, typed, check])
}
