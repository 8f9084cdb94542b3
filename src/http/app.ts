import type { Registry } from 'prom-client'
import type { Config } from '../config.ts'
import type { Engine } from '../orders/engine.ts'
import type { Placer } from '../orders/place.ts'
import type { Uploads } from '../uploads/uploads.ts'
import type { Caller, Scope } from './auth.ts'

/** What routes work with. */
export interface App extends Engine {
  readonly config: Config
  /** The URL that `db` is connected to, also when it is the embedded database: for connections that listen. */
  readonly databaseUrl: string
  readonly adminToken: string
  readonly placer: Placer
  readonly uploads: Uploads
  /** What GET /metrics shows. One per app, so that two in one process do not mix. */
  readonly metrics: Registry
  /** Throws when jobs cannot be queued; a part of GET /readyz. */
  checkQueue(): Promise<void>
}

/** A request with a JSON answer is over after this long, its body included. */
export const HANDLER_TIMEOUT_MS = 30_000
/** Likewise for routes that carry files: set it as the route's `handlerTimeout`. */
export const TRANSFER_TIMEOUT_MS = 3_600_000

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What the API key must allow. Present on every route of the customers' API. */
    scope?: Scope
    /** Files on their way, or another server's answer, are waited for: such a request takes no place among those under way. */
    waits?: true
  }
  interface FastifyRequest {
    /** The customer behind the request; set before any handler of the customers' API runs. */
    caller: Caller | undefined
    /** Further members of the request's one log line, named as in the glossary. */
    facts: Record<string, string | number> | undefined
  }
}
