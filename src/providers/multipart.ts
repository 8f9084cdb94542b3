import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import type { Media } from './provider.ts'

/** A form with one file. */
export interface Multipart {
  /** Text fields, sent before the file. */
  readonly fields?: Readonly<Record<string, string>>
  readonly file: Pick<Media, 'mimeType' | 'extension' | 'size' | 'open'>
  /** The file's field; `file` unless given. */
  readonly fileField?: string
}

/** Frames a form as RFC 7578 does. Its length is known beforehand, and the file is opened when its turn comes. */
export function multipartBody(form: Multipart): { headers: Record<string, string>; body: Readable } {
  const boundary = `genmux-${randomBytes(18).toString('base64url')}`
  const part = (disposition: string) => `--${boundary}\r\ncontent-disposition: form-data; ${disposition}\r\n`
  const { file, fileField = 'file', fields = {} } = form
  const texts = Object.entries(fields).map(([name, value]) => `${part(`name="${name}"`)}\r\n${value}\r\n`)
  const opening = part(`name="${fileField}"; filename="file.${file.extension}"`)
  const head = Buffer.from(`${texts.join('')}${opening}content-type: ${file.mimeType}\r\n\r\n`)
  const tail = Buffer.from(`\r\n--${boundary}--\r\n`)

  async function* chunks(): AsyncGenerator<Buffer> {
    yield head
    yield* await file.open()
    yield tail
  }
  return {
    headers: {
      'content-type': `multipart/form-data; boundary=${boundary}`,
      'content-length': String(head.length + file.size + tail.length),
    },
    body: Readable.from(chunks(), { objectMode: false }),
  }
}
