import { createHash } from 'node:crypto'
import { ApiError } from '../errors.ts'
import { boxes, brands, webm } from './containers.ts'
import { gif, jpeg, png, webp } from './images.ts'
import { type Facts, Inspection, Malformed, type Walk } from './walk.ts'

/** What an upload's bytes are. */
interface Kind {
  readonly mimeType: string
  /** Lower case, without dot; one spelling per format (`jpg`, `heic`). */
  readonly extension: string
}

/** Width and height are known of pictures, but for HEIC before its conversion. */
export interface Inspected extends Kind {
  readonly width?: number
  readonly height?: number
  /** Bytes. */
  readonly size: number
  readonly sha256: Buffer
}

const ACCEPTED = ['jpg', 'jpeg', 'png', 'webp', 'gif', 'heic', 'heif', 'mp4', 'mov', 'webm']
const SYNONYMS: Readonly<Record<string, string>> = { jpeg: 'jpg', heif: 'heic' }

/**
 * Looks at a file while it streams past: size and hash; which format, by its content alone; that its name's extension, if it
 * has one, agrees; that it is whole, within the limits, and nothing else besides. The name's extension alone may be enough
 * to refuse. Everything throws ApiError: invalid_media_type when the type is wrong, validation_error when the file is.
 */
export function inspect(fileName: string): { feed(chunk: Buffer): void; done(): Inspected } {
  const written = /\.([^.]+)$/.exec(fileName)?.[1]?.toLowerCase()
  if (written !== undefined && !ACCEPTED.includes(written)) throw unsupported()
  const inspection = new Inspection(file(written && (SYNONYMS[written] ?? written)))
  const hash = createHash('sha256')
  let size = 0
  return {
    feed(chunk) {
      size += chunk.length
      hash.update(chunk)
      explained(() => inspection.feed(chunk))
    },
    done() {
      if (size === 0) throw new ApiError('validation_error', 'file: is empty.')
      const { mimeType, extension, width, height } = explained(() => inspection.finish())
      return { mimeType, extension, ...(width && height ? { width, height } : {}), size, sha256: hash.digest() }
    },
  }
}

interface Format extends Kind {
  matches(head: Buffer): boolean
  walk(): Walk
}

const text = (head: Buffer, from: number, to: number) => head.toString('latin1', from, to)

/** Those that the first bytes tell. */
const FORMATS: readonly Format[] = [
  { mimeType: 'image/jpeg', extension: 'jpg', walk: jpeg, matches: head => text(head, 0, 3) === '\xff\xd8\xff' },
  { mimeType: 'image/png', extension: 'png', walk: png, matches: head => text(head, 0, 8) === '\x89PNG\r\n\x1a\n' },
  { mimeType: 'image/gif', extension: 'gif', walk: gif, matches: head => /^GIF8[79]a/.test(text(head, 0, 6)) },
  { mimeType: 'image/webp', extension: 'webp', walk: webp, matches: head => /^RIFF[^]{4}WEBP/.test(text(head, 0, 12)) },
  { mimeType: 'video/webm', extension: 'webm', walk: webm, matches: head => text(head, 0, 4) === '\x1a\x45\xdf\xa3' },
  // QuickTime older than the ftyp box.
  { ...quickTime(), walk: () => boxes('moov'), matches: head => /^(moov|mdat|wide)$/.test(text(head, 4, 8)) },
]

function* file(extension: string | undefined): Walk<Kind & Facts> {
  const head = yield { peek: 12 }
  const format = FORMATS.find(each => each.matches(head))
  if (format) {
    agree(format, extension)
    return { mimeType: format.mimeType, extension: format.extension, ...(yield* format.walk()) }
  }
  if (text(head, 4, 8) !== 'ftyp') throw unsupported()
  const kind = isoKind(yield* brands(), extension)
  agree(kind, extension)
  return { ...kind, ...(yield* boxes(kind.extension === 'heic' ? 'meta' : 'moov')) }
}

const HEIC = /^(hei[cxms]|hev[cxms])$/
const HEIF = /^(mif1|msf1)$/
const MP4 = /^(isom|iso[2-9a-c]|mp4[12]|avc1|hvc1|hev1|M4V.|MSNV|dash|cmf[2cs]|f4v |XAVC|3gp.)$/
/** AVIF, audio, camera raw, JPEG 2000 and JPEG XL come in the same container. */
const OTHER = /^(avi[fs]|M4[ABP] |crx |jp[2xm] |jxl )$/

/** What an ISO base media file is, by its brands, the first of which is its own. */
function isoKind(brands: readonly string[], extension: string | undefined): Kind {
  const has = (brand: RegExp) => brands.some(each => brand.test(each))
  if (has(/^avi[fs]$/) || OTHER.test(brands[0] ?? '')) throw unsupported()
  if (has(HEIC)) return { mimeType: 'image/heic', extension: 'heic' }
  if (has(HEIF)) return { mimeType: 'image/heif', extension: 'heic' }
  const [mov, mp4] = [has(/^qt {2}$/), has(MP4)]
  // A file may say that it is both: then its name decides.
  if (mov && (extension === 'mov' || !mp4 || (brands[0] === 'qt  ' && extension !== 'mp4'))) return quickTime()
  if (mp4) return { mimeType: 'video/mp4', extension: 'mp4' }
  throw unsupported()
}

function quickTime(): Kind {
  return { mimeType: 'video/quicktime', extension: 'mov' }
}

function agree(kind: Kind, extension: string | undefined): void {
  if (extension !== undefined && extension !== kind.extension)
    throw new ApiError(
      'invalid_media_type',
      `file: its content is ${kind.extension.toUpperCase()}, but its name says otherwise.`,
    )
}

function unsupported(): ApiError {
  return new ApiError('invalid_media_type', `file: must be one of ${ACCEPTED.join(', ').toUpperCase()}.`)
}

function explained<T>(act: () => T): T {
  try {
    return act()
  } catch (error) {
    if (error instanceof Malformed) throw new ApiError('validation_error', `file: ${error.message}.`, { cause: error })
    throw error
  }
}
