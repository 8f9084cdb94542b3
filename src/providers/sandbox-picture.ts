import sharp, { type Sharp } from 'sharp'
import { z } from 'zod'

/** All that a picture is drawn from. `ratio` is width by height, `seed` gives the colours and where the bubbles are. */
export const pictureSchema = z.object({
  text: z.string().max(1000),
  caption: z.string().max(200),
  seed: z.number().int().min(0),
  ratio: z.number().min(0.25).max(4),
  format: z.enum(['png', 'jpg', 'webp', 'gif']),
  moving: z.boolean(),
})
export type Picture = z.infer<typeof pictureSchema>

export const MIME_TYPES: Readonly<Record<Picture['format'], string>> = {
  png: 'image/png',
  jpg: 'image/jpeg',
  webp: 'image/webp',
  gif: 'image/gif',
}

/** Pixels of the long side. */
const STILL = 1024
const MOVING = 480
const FRAMES = 8
const FRAME_MS = 120

/** Draws it and returns the file's bytes. On a machine without fonts the letters are empty boxes, the rest is the same. */
export async function drawPicture(picture: Picture): Promise<Buffer> {
  const long = picture.moving ? MOVING : STILL
  const width = Math.round(picture.ratio >= 1 ? long : long * picture.ratio)
  const height = Math.round(picture.ratio >= 1 ? long / picture.ratio : long)
  const frame = (phase: number) => Buffer.from(svg(picture, width, height, phase))
  if (!picture.moving) return encode(sharp(frame(0)), picture.format)
  const frames = Array.from({ length: FRAMES }, (_, i) => frame(i / FRAMES))
  return encode(sharp(frames, { join: { animated: true } }), picture.format)
}

function encode(image: Sharp, format: Picture['format']): Promise<Buffer> {
  const animation = { delay: Array.from({ length: FRAMES }, () => FRAME_MS), loop: 0 }
  if (format === 'webp') return image.webp({ quality: 80, effort: 2, ...animation }).toBuffer()
  if (format === 'gif') return image.gif({ effort: 2, ...animation }).toBuffer()
  if (format === 'jpg') return image.flatten().jpeg({ quality: 88 }).toBuffer()
  return image.png({ compressionLevel: 6 }).toBuffer()
}

/** A gradient, bubbles that circle once while `phase` goes from 0 to 1, and the text on a dark card. */
function svg(picture: Picture, width: number, height: number, phase: number): string {
  const hue = picture.seed % 360
  const short = Math.min(width, height)
  const bubbles = Array.from({ length: 7 }, (_, i) => {
    const angle = 2 * Math.PI * (phase + ((picture.seed >>> (i * 3)) & 31) / 32)
    const x = width * (0.1 + 0.8 * (((picture.seed >>> i) & 15) / 15)) + Math.cos(angle) * short * 0.06
    const y = height * (0.1 + 0.8 * (((picture.seed >>> (i * 4)) & 15) / 15)) + Math.sin(angle) * short * 0.06
    const fill = `hsl(${(hue + i * 25) % 360}, 90%, 75%)`
    return `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${(short * (0.06 + 0.03 * i)).toFixed(1)}" fill="${fill}" fill-opacity="0.22"/>`
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">
<defs><linearGradient id="sky" x1="0" y1="0" x2="1" y2="1">
<stop offset="0" stop-color="hsl(${hue}, 72%, 52%)"/><stop offset="1" stop-color="hsl(${(hue + 70) % 360}, 78%, 32%)"/>
</linearGradient></defs>
<rect width="${width}" height="${height}" fill="url(#sky)"/>
${bubbles.join('\n')}
${lettering(picture, width, height)}
</svg>`
}

function lettering(picture: Picture, width: number, height: number): string {
  const text = picture.text.trim() || picture.caption
  // The largest letters with which the lines fill no more than the middle of the picture.
  const fits = (size: number) =>
    wrap(text, Math.floor((width * 0.8) / (size * 0.58))).length * size * 1.35 < height * 0.66
  const sizes = [0.11, 0.09, 0.075, 0.06, 0.05, 0.04].map(share => share * Math.min(width, height))
  const size = sizes.find(fits) ?? Math.min(width, height) * 0.03
  const lines = wrap(text, Math.floor((width * 0.8) / (size * 0.58))).slice(
    0,
    Math.floor((height * 0.7) / (size * 1.35)),
  )
  const block = lines.length * size * 1.35
  const top = (height - block) / 2
  const caption = `genmux sandbox · ${picture.caption}`
  const small = Math.min(height * 0.028, (width * 0.9) / (caption.length * 0.62))
  const middle = `x="${width / 2}" text-anchor="middle" font-family="DejaVu Sans, Noto Sans, Arial, sans-serif" fill="#fff"`
  return `<rect x="${width * 0.06}" y="${top - size * 0.7}" width="${width * 0.88}" height="${block + size * 1.4}" rx="${size * 0.5}" fill="#000" fill-opacity="0.35"/>
${lines.map((line, i) => `<text ${middle} y="${(top + size * (1 + 1.35 * i)).toFixed(1)}" font-size="${size.toFixed(1)}">${escape(line)}</text>`).join('\n')}
<text ${middle} y="${height - small}" font-size="${small.toFixed(1)}" fill-opacity="0.8">${escape(caption)}</text>`
}

/** Lines of at most `columns` characters, broken at white space where there is any. */
function wrap(text: string, columns: number): string[] {
  const room = Math.max(1, columns)
  const lines: string[] = []
  for (const word of text.split(/\s+/).filter(Boolean)) {
    for (const piece of word.match(new RegExp(`.{1,${room}}`, 'gu')) ?? []) {
      const last = lines.at(-1)
      if (last !== undefined && last.length + 1 + piece.length <= room) lines[lines.length - 1] = `${last} ${piece}`
      else lines.push(piece)
    }
  }
  return lines
}

/** Text as XML: markup becomes letters, and what XML cannot hold at all goes. */
function escape(text: string): string {
  return text
    .toWellFormed()
    .replace(/[^\t\n\r\u{20}-\u{fffd}\u{10000}-\u{10ffff}]/gu, '')
    .replace(/[<>&'"]/g, char => `&#${char.charCodeAt(0)};`)
}
