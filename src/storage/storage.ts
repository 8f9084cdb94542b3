import type { Readable } from 'node:stream'

/** Where bytes live: uploads under `uploads/…`, results under `results/…`. Names are our own random ids, never a customer's. */
export interface Storage {
  /** Streams to the end, then the file stands whole under `name`; on any failure nothing stands there. */
  put(name: string, body: Readable, options?: { contentType?: string }): Promise<void>
  /** A stream of the bytes from `start` to `end` (inclusive); throws MissingFile. */
  open(name: string, range?: { start: number; end: number }): Promise<Readable>
  /** Bytes, or undefined when there is no such file. */
  size(name: string): Promise<number | undefined>
  /** Removing what is not there is no error. */
  remove(name: string): Promise<void>
  /** Every file under a prefix such as `uploads/`. */
  list(prefix: string): AsyncIterable<{ readonly name: string; readonly size: number; readonly modifiedAt: Date }>
  /** Removes what puts that began before `before` have left unfinished (their process died). Returns how many. */
  sweep(before: Date): Promise<number>
  /** Throws when the storage cannot be reached or written. */
  check(): Promise<void>
  /** Bytes that can still be written; Infinity where nobody knows. */
  freeBytes(): Promise<number>
}

/** Thrown by open when there is no such file. Not thrown for a broken connection. */
export class MissingFile extends Error {
  override readonly name = 'MissingFile'
}

const NAME = /^[a-z]+\/[A-Za-z0-9_-]{8,100}(?:\.[a-z0-9]{1,8})?$/

/** Names are `kind/random.extension`, nothing else: a name that is not ours never reaches a disk. Throws TypeError. */
export function checkName(name: string): void {
  if (!NAME.test(name)) throw new TypeError(`not a storage name: ${JSON.stringify(name.slice(0, 120))}`)
}
