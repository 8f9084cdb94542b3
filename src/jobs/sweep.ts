import type { Logger } from 'pino'
import type { Db } from '../db/pool.ts'
import type { Storage } from '../storage/storage.ts'

export interface SweepDeps {
  readonly db: Db
  readonly storage: Storage
  readonly log: Logger
}

/*
 * Sweeps remove what time has made worthless. Nobody waits for them: an upload or a result is expired from its moment on,
 * whether it was swept or not.
 */

const BATCH = 500
/** Longer than any transfer may take: its file or row may still come. */
const ORPHAN_MS = 2 * 3_600_000

const PURGE_UPLOADS = { name: 'purge_uploads', text: 'SELECT name FROM purge_uploads($1)' }
const EXPIRED_RESULTS = {
  name: 'expired_results',
  text: 'SELECT token, name FROM outputs WHERE expires_at <= now() AND purged_at IS NULL ORDER BY expires_at LIMIT $1',
}
const PURGE_RESULTS = {
  name: 'purge_results',
  text: 'UPDATE outputs SET purged_at = now() WHERE token = ANY ($1::text[])',
}
/** Queued conversions that were lost, or whose process died. */
const UNCONVERTED = {
  name: 'unconverted_uploads',
  text: `SELECT id FROM uploads WHERE status = 'processing' AND purged_at IS NULL AND created_at < now() - interval '2 minutes'
    ORDER BY created_at LIMIT $1`,
}
const FORGET_UPLOADS = {
  name: 'forget_uploads',
  text: `DELETE FROM uploads WHERE id IN (
    SELECT id FROM uploads WHERE expires_at <= now() - interval '7 days' AND purged_at IS NOT NULL LIMIT $1) RETURNING id`,
}
const FORGET_RESERVATIONS = {
  name: 'forget_reservations',
  text: `DELETE FROM upload_reservations WHERE id IN (
    SELECT id FROM upload_reservations WHERE created_at <= now() - interval '2 hours' LIMIT $1) RETURNING id`,
}
const FORGET_KEYS = {
  name: 'forget_idempotency_keys',
  text: `DELETE FROM idempotency_keys WHERE (scope, key) IN (
    SELECT k.scope, k.key FROM idempotency_keys k
    WHERE k.created_at <= now() - interval '30 days'
      AND NOT EXISTS (SELECT FROM orders o WHERE o.id = k.order_id AND o.status IN ('queued', 'processing'))
    LIMIT $1) RETURNING scope`,
}

/** Every minute: bytes of expired uploads and results, rows past their keeping, conversions that got stuck. */
export async function sweepExpired(
  deps: SweepDeps & { convertLater: (uploadId: string) => Promise<void> },
): Promise<Record<string, number>> {
  const { db, storage, log } = deps
  const swept = {
    uploads: await inBatches(async () => {
      const rows = await db.run<{ name: string }>(PURGE_UPLOADS, [BATCH])
      // Marked first: a crash in between leaves bytes without a row, which sweepOrphans finds.
      for (const { name } of rows) await storage.remove(name)
      return rows.length
    }),
    results: await inBatches(async () => {
      const rows = await db.run<{ token: string; name: string }>(EXPIRED_RESULTS, [BATCH])
      for (const { name } of rows) await storage.remove(name)
      await db.run(PURGE_RESULTS, [rows.map(row => row.token)])
      return rows.length
    }),
    forgotten_uploads: await inBatches(async () => (await db.run(FORGET_UPLOADS, [BATCH])).length),
    reservations: await inBatches(async () => (await db.run(FORGET_RESERVATIONS, [BATCH])).length),
    idempotency_keys: await inBatches(async () => (await db.run(FORGET_KEYS, [BATCH])).length),
  }
  for (const { id } of await db.run<{ id: string }>(UNCONVERTED, [BATCH])) await deps.convertLater(id)
  if (Object.values(swept).some(count => count > 0)) log.info(swept, 'swept')
  return swept
}

async function inBatches(sweep: () => Promise<number>): Promise<number> {
  let all = 0
  for (;;) {
    const count = await sweep()
    all += count
    if (count < BATCH) return all
  }
}

const KNOWN = {
  'uploads/': {
    name: 'known_uploads',
    text: 'SELECT name FROM uploads WHERE name = ANY ($1::text[]) AND purged_at IS NULL',
  },
  'results/': {
    name: 'known_results',
    text: 'SELECT name FROM outputs WHERE name = ANY ($1::text[]) AND purged_at IS NULL',
  },
} as const

/** Every hour: files that no row speaks of, and unfinished ones, left by processes that died. Returns how many. */
export async function sweepOrphans(
  { db, storage, log }: SweepDeps,
  before = new Date(Date.now() - ORPHAN_MS),
): Promise<number> {
  let orphans = await storage.sweep(before)
  for (const [prefix, known] of Object.entries(KNOWN)) {
    let names: string[] = []
    const flush = async () => {
      const rows = await db.run<{ name: string }>(known, [names])
      const standing = new Set(rows.map(row => row.name))
      const lost = names.filter(name => !standing.has(name))
      for (const name of lost) await storage.remove(name)
      orphans += lost.length
      names = []
    }
    for await (const file of storage.list(prefix)) {
      if (file.modifiedAt < before) names.push(file.name)
      if (names.length >= BATCH) await flush()
    }
    await flush()
  }
  if (orphans > 0) log.info({ orphans }, 'orphans swept')
  return orphans
}
