import { z } from 'zod'
import { ApiError, type ErrorCode } from '../../errors.ts'
import { BODY_STATUSES, refusals } from '../answers.ts'

/** The error answers of an admin operation: those that each may answer, and its own. */
export function adminRefusals(own: readonly ErrorCode[]) {
  return refusals(['unauthorized', 'validation_error', ...own], { open: true })
}

/** Likewise, of an operation that takes a body. */
export function adminBodyRefusals(own: readonly ErrorCode[]) {
  return refusals(['unauthorized', 'validation_error', ...own], { open: true, at: BODY_STATUSES })
}

/** An id in a path. */
export const idParams = z.object({ id: z.string() })

export const nextCursor = z.string().nullable().describe('null: there is no further page')

/** The sequence number that a cursor stands for. Throws validation_error when it is none of ours. */
export function readCursor(cursor: string | undefined): bigint | undefined {
  if (cursor === undefined) return undefined
  const text = Buffer.from(cursor, 'base64url').toString('latin1')
  if (!/^\d{1,18}$/.test(text))
    throw new ApiError('validation_error', 'cursor: must be next_cursor of the page before.')
  return BigInt(text)
}

/** Cuts rows, of which one more than `limit` was read, to the page and tells where the next one starts. */
export function cutPage<Row>(
  rows: readonly Row[],
  limit: number,
  position: (row: Row) => bigint,
): { page: Row[]; next_cursor: string | null } {
  const page = rows.slice(0, limit)
  const last = rows.length > limit ? page.at(-1) : undefined
  return {
    page,
    next_cursor: last === undefined ? null : Buffer.from(position(last).toString()).toString('base64url'),
  }
}
