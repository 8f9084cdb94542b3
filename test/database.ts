import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { afterAll, inject } from 'vitest'
import { type Db, openDb } from '../src/db/pool.ts'

/** A database of this test file's own, migrated and empty. Call at the top of a file; it is dropped after the file. */
export async function freshDatabase(): Promise<Db & { readonly url: string }> {
  const server = inject('postgres')
  const name = `genmux_${randomBytes(6).toString('hex')}`
  await asAdmin(server, `CREATE DATABASE ${name} TEMPLATE genmux_template STRATEGY FILE_COPY`)
  const url = new URL(server)
  url.pathname = `/${name}`
  const db = openDb(url.toString())
  afterAll(async () => {
    await db.close()
    await asAdmin(server, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)
  })
  return { ...db, url: url.toString() }
}

async function asAdmin(server: string, sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: server })
  await client.connect()
  // Two files that copy the template at the same moment disturb each other: take turns.
  await client.query('SELECT pg_advisory_lock(1)')
  await client.query(sql)
  await client.end()
}
