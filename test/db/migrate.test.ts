import pg from 'pg'
import { expect, test } from 'vitest'
import { migrate } from '../../src/db/migrate.ts'
import { StartError } from '../../src/errors.ts'
import { freshDatabase } from '../database.ts'

const db = await freshDatabase()

/** What a start says while another session holds something. */
async function refusalWhile(hold: string): Promise<string> {
  const other = new pg.Client({ connectionString: db.url })
  await other.connect()
  try {
    await other.query('BEGIN')
    await other.query(hold)
    const error = await migrate(db.url, { turnMs: 200, lockMs: 200 }).then(
      () => undefined,
      (reason: unknown) => reason,
    )
    expect(error).toBeInstanceOf(StartError)
    return (error as Error).message
  } finally {
    await other.end()
  }
}

test('a start does not wait for ever for another one that migrates, and says so', async () => {
  expect(await refusalWhile('SELECT pg_advisory_lock(7203961)')).toMatch(/^another genmux has been migrating/)
})

test('a start does not wait for ever for a table that is locked, and says so', async () => {
  expect(await refusalWhile('LOCK TABLE _prisma_migrations IN ACCESS EXCLUSIVE MODE')).toMatch(
    /^a migration waited 0\.2 s for a table/,
  )
})

test('what stands is not migrated again', async () => {
  expect(await migrate(db.url)).toEqual([])
})
