/** Whether an error says that Postgres cannot be reached or is shutting down, rather than that a statement is wrong. */
export function isOutage(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  const { code, meta } = error as {
    code?: unknown
    meta?: { driverAdapterError?: { cause?: { originalCode?: unknown } } }
  }
  // Prisma has one code for whatever Postgres says, and keeps its word beneath.
  if (isOutageCode(code) || isOutageCode(meta?.driverAdapterError?.cause?.originalCode)) return true
  if (
    /Connection terminated|timeout exceeded when trying to connect|Query read timeout|Cannot use a pool after/.test(
      error.message,
    )
  )
    return true
  return error.cause !== undefined && isOutage(error.cause)
}

/** Likewise, but not when a statement waited too long for a lock: that may be the trouble of one row among many. */
export function isLost(error: unknown): boolean {
  return isOutage(error) && (error as { code?: unknown }).code !== '55P03'
}

function isOutageCode(code: unknown): boolean {
  if (typeof code !== 'string') return false
  // 08: connection, 53: resources, 57P: shutdown, 57014: statement timeout, 55P03: lock timeout, 25P03: idle in transaction
  if (/^(08|53|57P)/.test(code) || code === '57014' || code === '55P03' || code === '25P03') return true
  if (/^(ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EHOSTUNREACH|EAI_AGAIN|ENOENT)/.test(code)) return true
  // Prisma: cannot reach, timed out, closed connection, pool exhausted
  return /^P(1001|1002|1008|1017|2024|2037)$/.test(code)
}
