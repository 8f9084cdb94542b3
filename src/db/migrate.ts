import { createHash, randomUUID } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import pg from 'pg'
import { StartError } from '../errors.ts'

const MIGRATIONS = join(import.meta.dirname, '../../prisma/migrations')
/** Any constant: processes that start together take this lock in turn. */
const LOCK = 7_203_961
/** Building an index over many orders takes its time. */
const STATEMENT_MS = 1_800_000
/** For an answer after the server should have given up by itself. */
const ANSWER_MS = 30_000

const BOOKKEEPING = `CREATE TABLE IF NOT EXISTS _prisma_migrations (
  id varchar(36) PRIMARY KEY, checksum varchar(64) NOT NULL, finished_at timestamptz, migration_name varchar(255) NOT NULL,
  logs text, rolled_back_at timestamptz, started_at timestamptz NOT NULL DEFAULT now(), applied_steps_count integer NOT NULL DEFAULT 0)`

/**
 * Applies what is missing of prisma/migrations, each in one transaction, with the bookkeeping of `prisma migrate deploy`
 * (whose engine is a download). Returns the names it applied. Throws StartError when a migration that stands in the
 * database was changed on disk, or is unknown here (the database is newer than this genmux), when another genmux does not
 * end its own within `turnMs`, and when somebody keeps a table locked for `lockMs`: whoever waits for one blocks all others.
 */
export async function migrate(
  url: string,
  { turnMs = 600_000, lockMs = 5_000 }: { turnMs?: number; lockMs?: number } = {},
): Promise<string[]> {
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: 5_000,
    statement_timeout: STATEMENT_MS,
    query_timeout: STATEMENT_MS + ANSWER_MS,
    idle_in_transaction_session_timeout: ANSWER_MS,
    keepAlive: true,
  })
  // The query under way fails; an error that nobody listens to would end the process instead.
  client.on('error', () => {})
  await client.connect()
  try {
    await client.query(`SET lock_timeout = ${turnMs}`)
    await client
      .query('SELECT pg_advisory_lock($1)', [LOCK])
      .catch(
        whenLocked(`another genmux has been migrating the database for ${turnMs / 1_000} s: wait for it, or stop it`),
      )
    await client.query(`SET lock_timeout = ${lockMs}`)
    return await applyMissing(client).catch(
      whenLocked(
        `a migration waited ${lockMs / 1_000} s for a table that another session has locked: end that session, and start again`,
      ),
    )
  } finally {
    await client.end()
  }
}

function whenLocked(message: string): (error: unknown) => never {
  return error => {
    throw (error as { code?: string }).code === '55P03' ? new StartError(message, { cause: error }) : error
  }
}

async function applyMissing(client: pg.Client): Promise<string[]> {
  await client.query(BOOKKEEPING)
  const { rows } = await client.query<{ migration_name: string; checksum: string }>(
    'SELECT migration_name, checksum FROM _prisma_migrations WHERE rolled_back_at IS NULL AND finished_at IS NOT NULL',
  )
  const stands = new Map(rows.map(row => [row.migration_name, row.checksum]))
  const entries = await readdir(MIGRATIONS, { withFileTypes: true })
  const names = entries.flatMap(entry => (entry.isDirectory() ? [entry.name] : [])).sort()
  const unknown = [...stands.keys()].find(name => !names.includes(name))
  if (unknown)
    throw new StartError(
      `the database has migration ${unknown}, which this genmux does not know: start the newer version`,
    )
  const applied: string[] = []
  for (const name of names) {
    const sql = await readFile(join(MIGRATIONS, name, 'migration.sql'), 'utf8')
    const checksum = createHash('sha256').update(sql).digest('hex')
    const earlier = stands.get(name)
    if (earlier === checksum) continue
    if (earlier) throw new StartError(`migration ${name} was changed after it was applied: restore prisma/migrations`)
    await apply(client, name, sql, checksum)
    applied.push(name)
  }
  return applied
}

async function apply(client: pg.Client, name: string, sql: string, checksum: string): Promise<void> {
  await client.query('BEGIN')
  try {
    await client.query(sql)
    await client.query(
      'INSERT INTO _prisma_migrations (id, checksum, migration_name, finished_at, applied_steps_count) VALUES ($1, $2, $3, now(), 1)',
      [randomUUID(), checksum, name],
    )
    await client.query('COMMIT')
  } catch (error) {
    // On a connection that is lost this fails too; why it was lost says more.
    await client.query('ROLLBACK').catch(() => {})
    throw error
  }
}
