import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'

/** Small real files of every accepted format. */

export interface Sample {
  /** As a customer names it. */
  readonly fileName: string
  readonly bytes: Buffer
  readonly mimeType: string
  readonly width?: number
  readonly height?: number
}

/** A file of test/fixtures/media: made by a real encoder. */
export function fixture(name: string): Buffer {
  return readFileSync(join(import.meta.dirname, '../fixtures/media', name))
}

const picture = (width = 60, height = 40) =>
  sharp({
    create: { width, height, channels: 3, background: '#c04020', noise: { type: 'gaussian', mean: 128, sigma: 40 } },
  })

export async function makeSamples(): Promise<Record<string, Sample>> {
  const size = { width: 60, height: 40 }
  const frames = Buffer.concat(await Promise.all([1, 2, 3].map(() => picture().raw().toBuffer())))
  const animation = () => sharp(frames, { raw: { width: 60, height: 120, channels: 3, pageHeight: 40 } })
  return {
    jpg: { fileName: 'photo.jpg', mimeType: 'image/jpeg', bytes: await picture().jpeg().toBuffer(), ...size },
    jpeg: {
      fileName: 'Photo 1.JPEG',
      mimeType: 'image/jpeg',
      bytes: await picture().jpeg({ progressive: true }).toBuffer(),
      ...size,
    },
    png: { fileName: 'a.b.png', mimeType: 'image/png', bytes: await picture().png().toBuffer(), ...size },
    palette: {
      fileName: 'palette.PNG',
      mimeType: 'image/png',
      bytes: await picture().png({ palette: true }).toBuffer(),
      ...size,
    },
    webp: { fileName: 'lossy.webp', mimeType: 'image/webp', bytes: await picture().webp().toBuffer(), ...size },
    lossless: {
      fileName: 'less.webp',
      mimeType: 'image/webp',
      bytes: await picture().webp({ lossless: true }).toBuffer(),
      ...size,
    },
    moving: { fileName: 'moving.webp', mimeType: 'image/webp', bytes: await animation().webp().toBuffer(), ...size },
    gif: { fileName: 'one.gif', mimeType: 'image/gif', bytes: await picture().gif().toBuffer(), ...size },
    animation: { fileName: 'three.gif', mimeType: 'image/gif', bytes: await animation().gif().toBuffer(), ...size },
    heic: { fileName: 'IMG_9508.HEIC', mimeType: 'image/heic', bytes: fixture('quadrants-p3.heic') },
    heif: { fileName: 'picture.heif', mimeType: 'image/heic', bytes: fixture('quadrants.heif') },
    mp4: { fileName: 'clip.mp4', mimeType: 'video/mp4', bytes: fixture('clip.mp4') },
    mov: { fileName: 'clip.MOV', mimeType: 'video/quicktime', bytes: fixture('clip.mov') },
    webm: { fileName: 'clip.webm', mimeType: 'video/webm', bytes: fixture('clip.webm') },
    recorded: { fileName: 'recorded.webm', mimeType: 'video/webm', bytes: fixture('live.webm') },
    apng: { fileName: 'moving.png', mimeType: 'image/png', bytes: fixture('animation.png'), width: 64, height: 48 },
    nameless: { fileName: 'blob', mimeType: 'image/png', bytes: await picture().png().toBuffer(), ...size },
  }
}

/** One box of an ISO base media file. */
export function box(type: string, ...content: (Buffer | string)[]): Buffer {
  const body = Buffer.concat(content.map(part => (typeof part === 'string' ? Buffer.from(part, 'latin1') : part)))
  const head = Buffer.alloc(8)
  head.writeUInt32BE(body.length + 8)
  head.write(type, 4, 'latin1')
  return Buffer.concat([head, body])
}

/** A movie without a track: header, index, data. */
export function movie(...brands: string[]): Buffer {
  const [major = 'isom'] = brands
  const header = Buffer.alloc(100)
  header.writeUInt32BE(1_000, 12)
  return Buffer.concat([
    box('ftyp', major, '\0\0\x02\0', ...brands),
    box('free'),
    box('mdat', Buffer.alloc(300, 7)),
    box('moov', box('mvhd', header)),
  ])
}

function element(id: string, content: Buffer): Buffer {
  const size = Buffer.alloc(4)
  size.writeUInt32BE(content.length + 0x1000_0000)
  return Buffer.concat([Buffer.from(id, 'hex'), size, content])
}

/** A segment with nothing but an Info element. */
export function webm(docType: string): Buffer {
  const header = element(
    '1a45dfa3',
    Buffer.concat([element('4286', Buffer.from([1])), element('4282', Buffer.from(docType))]),
  )
  const info = element('1549a966', element('2ad7b1', Buffer.from([0x0f, 0x42, 0x40])))
  return Buffer.concat([header, element('18538067', info)])
}
