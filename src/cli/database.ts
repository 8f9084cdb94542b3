import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Config } from '../config.ts'
import { startEmbedded } from '../db/embedded.ts'
import { StartError } from '../errors.ts'

/**
 * Runs `use` on the database of the configuration, also while a server runs on it. The embedded one is started for the
 * time when it is not running, and made only with `create`. Throws StartError when it cannot be used.
 */
export async function withDatabase<T>(
  config: Config,
  options: { create: boolean },
  use: (url: string) => Promise<T>,
): Promise<T> {
  const folder = join(config.dataDir, 'postgres')
  if (config.databaseUrl === undefined && !options.create && !existsSync(join(folder, 'PG_VERSION')))
    throw new StartError(`there is no database under ${config.dataDir}: set DATA_DIR or DATABASE_URL`)
  const embedded = config.databaseUrl === undefined ? await startEmbedded(folder, { attach: true }) : undefined
  try {
    return await use(embedded?.url ?? (config.databaseUrl as string))
  } catch (error) {
    if (error instanceof StartError) throw error
    const name = embedded ? 'the embedded database' : `DATABASE_URL (${new URL(config.databaseUrl as string).host})`
    const { message, code } = error as Error & { code?: string }
    const remedy = code === '42P01' ? ': its tables are missing, run genmux migrate' : ''
    throw new StartError(`${name} cannot be used: ${message || code}${remedy}`, { cause: error })
  } finally {
    await embedded?.stop()
  }
}
