/** Every error code that an answer can carry, with its HTTP status. The only such table. */
export const STATUS = {
  validation_error: 422,
  unauthorized: 401,
  forbidden: 403,
  not_found: 404,
  model_not_found: 404,
  order_not_found: 404,
  file_not_found: 404,
  customer_not_found: 404,
  key_not_found: 404,
  provider_not_found: 404,
  cannot_cancel: 409,
  not_ready: 409,
  cancel_pending: 409,
  cannot_resolve: 409,
  prompt_required: 422,
  media_required: 422,
  too_many_media: 422,
  invalid_media_type: 422,
  insufficient_balance: 422,
  idempotency_conflict: 422,
  upload_processing: 422,
  file_expired: 422,
  rate_limited: 429,
  too_many_active_orders: 429,
  internal_error: 500,
  server_busy: 503,
  cancel_failed: 503,
} as const

export type ErrorCode = keyof typeof STATUS

/** An answer that is an error. `message` is for the customer: no secret, no upstream's name. */
export class ApiError extends Error {
  readonly code: ErrorCode
  readonly status: number
  /** Seconds, for the `Retry-After` header. */
  readonly retryAfter: number | undefined
  /** Further members of the answer beside `error`, e.g. the order of a refused cancel. */
  readonly extra: Record<string, unknown> | undefined

  constructor(
    code: ErrorCode,
    message: string,
    options: { status?: number; retryAfter?: number; extra?: Record<string, unknown>; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause })
    this.name = 'ApiError'
    this.code = code
    this.status = options.status ?? STATUS[code]
    this.retryAfter = options.retryAfter ?? (this.status === 503 || this.status === 429 ? 1 : undefined)
    this.extra = options.extra
  }
}

/** A mistake of the operator: printed as one line, exit code 1. The message names the cause and the remedy. */
export class StartError extends Error {
  override readonly name = 'StartError'
}
