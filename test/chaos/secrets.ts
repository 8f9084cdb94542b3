import { readFile } from 'node:fs/promises'
import pg from 'pg'

/** Finds secrets where none may be: in logs, in metrics, and in any column of any table, plain, hex or base64. */
export async function findSecrets(places: {
  readonly secrets: ReadonlyMap<string, string>
  readonly logFiles: readonly string[]
  readonly metrics: readonly string[]
  readonly databaseUrl: string
}): Promise<string[]> {
  const forms = [...places.secrets].flatMap(([name, secret]) =>
    [secret, Buffer.from(secret).toString('hex'), Buffer.from(secret).toString('base64').replace(/=+$/, '')].map(
      form => ({ name, form }),
    ),
  )
  const found = new Set<string>()
  const look = (where: string, text: string) => {
    for (const { name, form } of forms) if (text.includes(form)) found.add(`${name} stands in ${where}`)
  }
  for (const file of places.logFiles) look(file.slice(file.lastIndexOf('/') + 1), await readFile(file, 'utf8'))
  for (const text of places.metrics) look('metrics', text)

  const client = new pg.Client({ connectionString: places.databaseUrl })
  await client.connect()
  try {
    const tables = await client.query<{ name: string }>(
      `SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
       WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`,
    )
    for (const { name } of tables.rows) {
      const { rows } = await client.query<{ row: string }>(`SELECT t::text AS row FROM ${name} t`)
      look(`table ${name}`, rows.map(row => row.row).join('\n'))
    }
  } finally {
    await client.end()
  }
  return [...found]
}
