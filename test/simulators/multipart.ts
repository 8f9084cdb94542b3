import { createHash } from 'node:crypto'
import type { Readable } from 'node:stream'

/** A file part, hashed as it came; only its first 64 KiB are kept, so that large uploads cost no memory. */
export interface ReceivedFile {
  readonly field: string
  readonly name: string
  readonly mimeType: string
  readonly size: number
  /** Hex. */
  readonly sha256: string
  readonly head: Buffer
}

export interface Multipart {
  readonly fields: Record<string, string>
  readonly files: ReceivedFile[]
}

const KEPT = 64 * 1024

/** Reads a multipart/form-data body as RFC 7578 frames it. Throws an Error on any framing mistake: simulators are strict. */
export async function readMultipart(body: Readable, contentType: string): Promise<Multipart> {
  const boundary = /^multipart\/form-data;.*boundary="?([^";]+)"?/i.exec(contentType)?.[1]
  if (!boundary) throw new Error('multipart without a boundary')
  const result: Multipart = { fields: {}, files: [] }
  const delimiter = Buffer.from(`\r\n--${boundary}`)
  let part: ReturnType<typeof openPart> | undefined
  let ended = false
  // A leading line break lets the first delimiter look like all others.
  let rest: Buffer = Buffer.from('\r\n')

  for await (const chunk of body) {
    rest = rest.length === 0 ? (chunk as Buffer) : Buffer.concat([rest, chunk as Buffer])
    for (;;) {
      if (ended) break
      if (!part) {
        const at = rest.indexOf('\r\n\r\n')
        if (rest.subarray(0, delimiter.length + 2).equals(Buffer.concat([delimiter, Buffer.from('--')]))) ended = true
        if (at < 0 || ended) break
        if (!rest.subarray(0, delimiter.length).equals(delimiter)) throw new Error('multipart: no delimiter')
        part = openPart(rest.subarray(delimiter.length, at).toString('utf8'))
        rest = rest.subarray(at + 4)
      }
      const at = rest.indexOf(delimiter)
      const safe = at < 0 ? Math.max(0, rest.length - delimiter.length + 1) : at
      part.write(rest.subarray(0, safe))
      rest = rest.subarray(safe)
      if (at < 0) break
      part.close(result)
      part = undefined
    }
  }
  if (!ended) throw new Error('multipart: ended before its last delimiter')
  return result
}

function openPart(header: string) {
  const disposition = /content-disposition: form-data; *([^\r\n]*)/i.exec(header)?.[1] ?? ''
  const field = /(?:^|; *)name="([^"]*)"/.exec(disposition)?.[1]
  if (field === undefined) throw new Error('multipart: a part without a name')
  const name = /filename="([^"]*)"/.exec(disposition)?.[1]
  const mimeType = /content-type: *([^\r\n]+)/i.exec(header)?.[1] ?? 'text/plain'
  const hash = createHash('sha256')
  let head = Buffer.alloc(0)
  let size = 0
  return {
    write(bytes: Buffer) {
      size += bytes.length
      if (bytes.length > 0) hash.update(bytes)
      if (head.length < KEPT) head = Buffer.concat([head, bytes.subarray(0, KEPT - head.length)])
    },
    close(result: Multipart) {
      if (name === undefined) result.fields[field] = head.toString('utf8')
      else result.files.push({ field, name, mimeType, size, sha256: hash.digest('hex'), head })
    },
  }
}
