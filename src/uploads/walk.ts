/*
 * Files are checked while they stream past, in constant memory and without decoding anything: a format's walker is a
 * generator that asks for a few bytes, or for bytes to pass, and returns what it learned at the end of the file's structure.
 */

/**
 * The next n bytes (at most 64 KiB); the same without consuming them; n bytes pass; bytes pass up to and with a value.
 * `orEnd`: the file may end here, which is answered with no bytes.
 */
export type Want = (
  | { readonly take: number }
  | { readonly peek: number }
  | { readonly skip: number }
  | { readonly past: number }
) & { readonly orEnd?: true }

/** What a walker learned; a picture has dimensions and frames. */
export interface Facts {
  readonly width?: number
  readonly height?: number
  readonly frames?: number
  /** Other data may follow the end: phones append clips and previews to JPEGs. */
  readonly mayTrail?: boolean
}

export type Walk<T = Facts> = Generator<Want, T, Buffer>

/** Thrown when a file is not whole or not what it seems. The message continues "file: …". */
export class Malformed extends Error {
  override readonly name = 'Malformed'
}

export function* take(n: number): Walk<Buffer> {
  return yield { take: n }
}

export function* skip(n: number): Walk<void> {
  if (n > 0) yield { skip: n }
}

const HEAD = 1024
/** A ZIP's last record: 22 bytes and a comment of up to 65,535. */
const TAIL = 65_557
const EMPTY = Buffer.alloc(0)

/** Feeds a stream's chunks to a walker. */
export class Inspection<T extends Facts> {
  readonly #walk: Walk<T>
  #want: Want | undefined
  #held = EMPTY
  #passing = 0
  #facts: T | undefined
  #trails = false
  #head = EMPTY
  #last: Buffer[] = []

  constructor(walk: Walk<T>) {
    this.#walk = walk
    this.#step(undefined)
  }

  /** Throws what the walker throws. */
  feed(chunk: Buffer): void {
    if (this.#head.length < HEAD) this.#head = Buffer.concat([this.#head, chunk.subarray(0, HEAD - this.#head.length)])
    this.#keepTail(chunk)
    let rest = chunk
    while (this.#want && rest.length > 0) rest = this.#advance(this.#want, rest)
    this.#trails ||= rest.some(byte => byte !== 0)
  }

  /** At the stream's end. Throws Malformed unless the file was whole and nothing else hides in it. */
  finish(): T {
    if (this.#want?.orEnd && this.#held.length === 0) this.#step(EMPTY)
    if (!this.#facts) throw new Malformed('is not complete')
    if (this.#trails && !this.#facts.mayTrail) throw new Malformed('has other data after its end')
    // A PDF may begin anywhere in the first KiB; an archive is read from its end.
    if (this.#head.includes('%PDF-') || endsAsZip(Buffer.concat(this.#last)))
      throw new Malformed('is also a file of another type')
    return this.#facts
  }

  /** Gives the walker what it wants of `rest`; returns what is left. */
  #advance(want: Want, rest: Buffer): Buffer {
    if ('skip' in want) {
      const n = Math.min(this.#passing, rest.length)
      this.#passing -= n
      if (this.#passing === 0) this.#step(EMPTY)
      return rest.subarray(n)
    }
    if ('past' in want) {
      const at = rest.indexOf(want.past)
      if (at < 0) return EMPTY
      this.#step(EMPTY)
      return rest.subarray(at + 1)
    }
    const n = 'take' in want ? want.take : want.peek
    const missing = n - this.#held.length
    if (rest.length < missing) {
      this.#held = Buffer.concat([this.#held, rest])
      return EMPTY
    }
    const bytes = this.#held.length > 0 ? Buffer.concat([this.#held, rest.subarray(0, missing)]) : rest.subarray(0, n)
    this.#held = EMPTY
    this.#step(bytes)
    const left = rest.subarray(missing)
    return 'peek' in want ? Buffer.concat([bytes, left]) : left
  }

  #step(bytes: Buffer | undefined): void {
    const next = bytes ? this.#walk.next(bytes) : this.#walk.next()
    if (next.done) this.#facts = next.value
    this.#want = next.done ? undefined : next.value
    this.#passing = this.#want && 'skip' in this.#want ? this.#want.skip : 0
  }

  #keepTail(chunk: Buffer): void {
    this.#last.push(chunk)
    let length = this.#last.reduce((sum, kept) => sum + kept.length, 0)
    while (length - (this.#last[0]?.length ?? 0) >= TAIL) length -= this.#last.shift()?.length ?? 0
  }
}

function endsAsZip(tail: Buffer): boolean {
  for (let at = tail.lastIndexOf('PK\x05\x06'); at >= 0; at = at > 0 ? tail.lastIndexOf('PK\x05\x06', at - 1) : -1)
    if (at + 22 <= tail.length && at + 22 + tail.readUInt16LE(at + 20) === tail.length) return true
  return false
}
