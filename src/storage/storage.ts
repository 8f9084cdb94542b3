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
  /** Throws when the storage cannot be reached or written. */
  check(): Promise<void>
  /** Bytes that can still be written; Infinity where nobody knows. */
  freeBytes(): Promise<number>
}

/** Thrown by open when there is no such file. Not thrown for a broken connection. */
export class MissingFile extends Error {
  override readonly name = 'MissingFile'
}
