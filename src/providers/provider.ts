import type { Readable } from 'node:stream'
import type { z } from 'zod'
import type { Micros } from '../money.ts'
import type { Http } from './http.ts'

/*
 * The contract of an upstream API. Words: a *task* is one thing to make there; a *ref* is the upstream's handle of it,
 * opaque to us; an *attempt* is our row about it. A failed task is a value (Finished), a failed request throws a
 * ProviderError, and routing reads nothing of it but `fault` and `mayHaveStarted`.
 */

/** Documented limits of one account; an absent member is no limit. `requests_per_minute` is one limiter for all requests. */
export interface Limits {
  readonly submits_per_minute?: number | undefined
  readonly reads_per_minute?: number | undefined
  readonly uploads_per_minute?: number | undefined
  readonly requests_per_minute?: number | undefined
  /** Tasks in flight at once. */
  readonly concurrent?: number | undefined
}

/** When to ask, in ms: first after acceptance, then every; deadline counts from the submit. */
export interface PollPlan {
  readonly first_ms: number
  readonly every_ms: number
  readonly deadline_ms: number
}

/** Which documented limiter a request counts against. */
export type Bucket = 'submit' | 'read' | 'upload'

export interface Account {
  /** The catalog's id of the provider, e.g. `apixo`. */
  readonly provider: string
  /** The catalog's id of the account, e.g. `main`. */
  readonly id: string
  /** Origin alone, no trailing slash. */
  readonly baseUrl: string
  readonly apiKey: string
  /** What the API's document leaves open, parsed by the adapter's `settings`. */
  readonly settings: unknown
}

/** What an adapter works with: the account, and the one way to call it (budgets and timeouts included). */
export interface Call {
  readonly account: Account
  readonly http: Http
}

/** One file of the customer. */
export interface Media {
  readonly mimeType: string
  /** Lower case, without dot: `jpg`. */
  readonly extension: string
  /** Bytes. */
  readonly size: number
  /** Hex. */
  readonly sha256: string
  /** Our signed, expiring, public URL of exactly these bytes. */
  readonly url: string
  /** A fresh stream of the bytes. */
  open(): Promise<Readable>
}

/** One submit. Everything here was persisted before the first byte is sent: the same task gives the same bytes. */
export interface Task {
  readonly attemptId: string
  /** The route's upstream model or tool. */
  readonly model: string
  /** The route's evaluated `input`, media already placed. */
  readonly input: Readonly<Record<string, unknown>>
  readonly idempotencyKey: string
  /** Random 31-bit number of this attempt: a seed to find the task again. */
  readonly nonce: number
  /** Where the upstream may call us; absent when we have no public URL or the API has no callbacks. */
  readonly callbackUrl?: string | undefined
  /** When the first submit was about to be sent. */
  readonly submittedAt: Date
}

/** An upstream's handle of a task, in the adapter's own writing; stored with the attempt. */
export type Ref = string

/** One thing the upstream made. */
export interface Output {
  /** Absolute URL, or what the adapter's `openOutput` understands. Untrusted. */
  readonly url: string
  readonly mimeType?: string | undefined
}

export interface Pending {
  readonly state: 'pending'
}

/** The upstream has the task. `cost`: what it said it takes, in micro-dollars. */
export interface Accepted {
  readonly state: 'accepted'
  readonly ref: Ref
  readonly cost?: Micros | undefined
}

/** The task is over at the upstream. */
export type Finished =
  | {
      readonly state: 'succeeded'
      readonly ref?: Ref
      readonly outputs: readonly Output[]
      readonly cost?: Micros | undefined
    }
  | { readonly state: 'cancelled'; readonly cost?: Micros | undefined }
  | { readonly state: 'failed'; readonly fault: Fault; readonly message: string; readonly cost?: Micros | undefined }

/** One upstream API: no state, no timers, no database. A method that is present is the capability. */
export interface Provider {
  readonly kind: string
  readonly defaults: { readonly limits: Limits; readonly poll: PollPlan }
  /** What the document leaves open, set in the catalog under the provider's `settings`. */
  readonly settings: z.ZodType
  /** An unclear submit may be sent again with the same key and the same bytes. */
  readonly idempotentSubmit: boolean
  /** The API calls back when asked to. */
  readonly callbacks?: boolean
  /** One request of `poll` answers for many refs (a list call); else each ref costs a request. */
  readonly pollsMany?: boolean
  /** Why a route cannot be used with these settings, e.g. an undocumented path is not set. Absent or undefined: usable. */
  unusable?(model: string, account: Account): string | undefined
  /** Turns one file into what this API's input takes: an asset id, a path, base64. Absent: our signed URL is used. */
  placeMedia?(media: Media, call: Call): Promise<PlacedMedia>
  submit(task: Task, call: Call): Promise<Accepted | Finished>
  /**
   * Asks about many. A ref that is absent from the answer could not be asked (budget, a failed request of that one) and is
   * asked again later; a request that failed for all throws. Only a failed task is Finished.
   */
  poll?(refs: readonly Ref[], call: Call): Promise<Map<Ref, Pending | Finished>>
  /** After an unclear submit: did it start? */
  reconcile?(task: Task, call: Call): Promise<Accepted | Finished | 'absent' | 'unknown'>
  /** Which task a callback speaks of. A callback is a hint: state is read back with poll before anything moves. */
  readCallback?(body: unknown, model: string): Ref | undefined
  /** `confirmed`: it is cancelled now. `requested`: poll tells. */
  cancel?(ref: Ref, call: Call): Promise<'confirmed' | 'requested' | 'too_early' | 'too_late'>
  /** Reads an output that a plain GET cannot. Absent, or undefined: a plain GET of its URL. */
  openOutput?(output: Output, call: Call): Promise<Readable> | undefined
  /** What the account has left, in the upstream's own words. */
  balance?(call: Call): Promise<{ readonly amount: number; readonly unit: string }>
}

export interface PlacedMedia {
  readonly handle: string
  /** How long the upstream keeps it, ms; undefined: use it once. */
  readonly ttlMs?: number | undefined
}

/** Whose trouble a failure is. The table of consequences is in routing/decide.ts. */
export type Fault =
  | 'content_rejected'
  | 'invalid_input'
  | 'media_unreachable'
  | 'mapping'
  | 'account_auth'
  | 'account_funds'
  | 'account_tier'
  | 'rate_limited'
  | 'account_saturated'
  | 'unavailable'
  | 'task_failed'
  | 'unclear'

/**
 * A request to an upstream failed. `message` is for operators only. `mayHaveStarted` is false when the task cannot exist
 * because of this request.
 */
export class ProviderError extends Error {
  readonly fault: Fault
  readonly mayHaveStarted: boolean
  /** When the same request may be tried again, ms from now, if the upstream (or our own budget) said so. */
  readonly retryAfterMs: number | undefined

  constructor(
    fault: Fault,
    message: string,
    options: { mayHaveStarted?: boolean; retryAfterMs?: number | undefined; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause })
    this.name = 'ProviderError'
    this.fault = fault
    this.mayHaveStarted = options.mayHaveStarted ?? fault === 'unclear'
    this.retryAfterMs = options.retryAfterMs
  }
}
