import type { IncomingMessage } from 'node:http'
import type { FileStore } from './files.ts'
import type { ReceivedFile } from './multipart.ts'
import type { TaskStore } from './tasks.ts'

/** What happens to the next request of an operation instead of, or around, its ordinary answer. */
export type InjectedFault =
  /** Answered so, and nothing is done. `body`: a string is sent as text, anything else as JSON. */
  | { kind: 'status'; status: number; headers?: Record<string, string>; body?: unknown }
  /** Received whole, nothing is done, the connection is reset. */
  | { kind: 'resetBeforeAccept' }
  /** Received whole, nothing is done, never answered. */
  | { kind: 'hangBeforeAccept' }
  /** Done, then the connection is reset before a byte of the answer. */
  | { kind: 'acceptThenReset' }
  /** Done, never answered. */
  | { kind: 'acceptThenHang' }
  /** Done, then the connection breaks in the middle of the answer. */
  | { kind: 'acceptThenTruncate' }
  /** Done, then a well-formed HTTP answer whose JSON ends in the middle. */
  | { kind: 'acceptThenGarble' }
  /** Done, then a gateway's answer in place of the real one. */
  | { kind: 'acceptThenStatus'; status: number; headers?: Record<string, string>; body?: unknown }
  /** Done; the JSON of the answer goes through `alter`. */
  | { kind: 'alter'; alter(body: Json): Json }
  /** Done after a pause. */
  | { kind: 'slow'; ms: number }

/** Some JSON of a test, free to be walked; `any` by way of JSON.parse, so that tests need no casts. */
export type Json = ReturnType<typeof JSON.parse>

export interface SimRequest {
  readonly method: string
  readonly path: string
  /** Where the client found us, `http://127.0.0.1:PORT`: for links in answers. */
  readonly origin: string
  /** From `:name` in the route's path, decoded. */
  readonly params: Readonly<Record<string, string>>
  readonly query: URLSearchParams
  readonly headers: IncomingMessage['headers']
  /** The bearer key, already checked unless the route is open. */
  readonly key: string
  /** The body, unless it is multipart. */
  readonly raw: Buffer
  /** Parsed body; undefined when it is no JSON. */
  readonly json: Json
  /** Parts of a multipart body: text fields and files (their bytes are not kept, only the first 64 KiB). */
  readonly fields: Readonly<Record<string, string>>
  readonly files: readonly ReceivedFile[]
}

export interface SimAnswer {
  readonly status: number
  readonly json?: unknown
  readonly bytes?: Buffer
  readonly headers?: Record<string, string>
}

export interface SimRoute {
  /** Names it for faults, counters and the log: use `submit`, `poll`, `cancel`, `upload`, `list`, `balance`, `file`. */
  readonly operation: string
  readonly method: 'GET' | 'POST'
  /** With `:name` segments: `/api/v1/orders/:id`. */
  readonly path: string
  /** Which limit it counts against; undefined: only `all`. */
  readonly bucket?: 'submit' | 'read' | 'upload'
  /** No bearer key asked for. */
  readonly open?: true
  handle(request: SimRequest): SimAnswer | Promise<SimAnswer>
}

/** At most `max` requests per key in any `windowMs` (60 s unless given). */
export interface SimLimit {
  max: number
  windowMs?: number
}

export type SimLimits = Partial<Record<'submit' | 'read' | 'upload' | 'all', SimLimit>>

export interface Spec {
  readonly routes: readonly SimRoute[]
  /** How this API words what the base refuses by itself. `retryAfter`: seconds. */
  refuse(why: 'unauthorized' | 'not_found' | 'rate_limited' | 'internal', retryAfter: number): SimAnswer
  /** The documented limits; a test may change `simulator.limits`. */
  readonly limits?: SimLimits
  /** Keys that are let in; default one. The first is `simulator.apiKey`. */
  readonly keys?: readonly string[]
}

export interface LoggedRequest {
  /** `unknown` for a path without a route. */
  readonly operation: string
  readonly method: string
  readonly path: string
  readonly headers: IncomingMessage['headers']
  readonly key: string
  readonly raw: Buffer
  readonly json: Json
  readonly at: number
  /** The fault that met it, if any. */
  readonly fault: InjectedFault['kind'] | undefined
  /** Undefined while, or because, it was not answered. */
  status: number | undefined
}

export interface Simulator {
  /** Listens on 127.0.0.1 (a free port unless given) and answers with the origin, `http://127.0.0.1:PORT`. */
  start(port?: number): Promise<string>
  /** Closes at once, also what hangs. May be started again. */
  stop(): Promise<void>
  /** The origin, once started; kept after stop, so that a test can have a refused connection. */
  readonly url: string
  /** A key that is let in. */
  readonly apiKey: string
  readonly keys: Set<string>
  readonly requests: LoggedRequest[]
  /** Requests of one operation, faulted ones included. */
  calls(operation: string): LoggedRequest[]
  readonly counts: {
    /** Tasks that were made. */
    readonly accepted: number
    /** Requests over a limit. */
    readonly refused: number
    /** Files taken. */
    readonly uploads: number
  }
  readonly limits: SimLimits
  readonly tasks: TaskStore
  readonly files: FileStore
  readonly faults: {
    /** Meets the next `times` (1) requests of the operation, after those already ordered. */
    next(operation: string, fault: InjectedFault, times?: number): void
    clear(): void
  }
}
