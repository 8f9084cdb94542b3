import { PrismaPg } from '@prisma/adapter-pg'
import pg from 'pg'
import { PrismaClient } from './prisma/client.ts'

// BIGINT arrives as bigint: money and sequence numbers must not pass through a float. Prisma parses for itself.
const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text') =>
    oid === pg.types.builtins.INT8 ? BigInt : pg.types.getTypeParser(oid, format)) as typeof pg.types.getTypeParser,
}

/** A hot statement: `name` makes Postgres plan it once per connection. */
export interface Statement {
  readonly name: string
  readonly text: string
}

export interface Db {
  readonly pool: pg.Pool
  /** Prisma rides on the same pool: everything that is not hot. */
  readonly prisma: PrismaClient
  /** Runs a hot statement and returns its rows. */
  run<Row extends pg.QueryResultRow>(statement: Statement, values: unknown[]): Promise<Row[]>
  close(): Promise<void>
}

/**
 * One pool for the whole process. Every wait is bounded: 5 s for a connection, 15 s for a statement, 10 s for a lock,
 * 10 s for a transaction that sits idle.
 */
export function openDb(url: string, options: { max?: number; applicationName?: string } = {}): Db {
  const pool = new pg.Pool({
    connectionString: url,
    max: options.max ?? 10,
    application_name: options.applicationName ?? 'genmux',
    connectionTimeoutMillis: 5_000,
    statement_timeout: 15_000,
    query_timeout: 20_000,
    lock_timeout: 10_000,
    idle_in_transaction_session_timeout: 10_000,
    keepAlive: true,
  })
  // An idle connection that breaks is replaced at the next use.
  pool.on('error', () => {})
  const prisma = new PrismaClient({ adapter: new PrismaPg(pool) })
  return {
    pool,
    prisma,
    async run<Row extends pg.QueryResultRow>(statement: Statement, values: unknown[]) {
      const result = await pool.query<Row>({ name: statement.name, text: statement.text, values, types })
      return result.rows
    },
    async close() {
      await prisma.$disconnect()
      await pool.end()
    },
  }
}
