import { randomBytes } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Config } from './config.ts'
import { StartError } from './errors.ts'
import { makeFolder } from './folder.ts'

export const ADMIN_TOKEN_FILE = 'admin-token'

/** ADMIN_TOKEN, or the one that the first start made and keeps under DATA_DIR (readable by its owner only). */
export async function adminToken(
  config: Pick<Config, 'adminToken' | 'dataDir'>,
): Promise<{ token: string; made: boolean }> {
  if (config.adminToken !== undefined) return { token: config.adminToken, made: false }
  const file = join(config.dataDir, ADMIN_TOKEN_FILE)
  try {
    await makeFolder(config.dataDir)
  } catch (error) {
    throw new StartError(`DATA_DIR ${config.dataDir}: cannot be made (${(error as Error).message})`, { cause: error })
  }
  const token = `gma_${randomBytes(32).toString('base64url')}`
  try {
    // Of two processes that start together one makes it and both read it.
    await writeFile(file, `${token}\n`, { mode: 0o600, flag: 'wx' })
    return { token, made: true }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    return { token: (await readFile(file, 'utf8')).trim(), made: false }
  }
}
