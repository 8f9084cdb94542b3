import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Config } from '../config.ts'
import { StartError } from '../errors.ts'
import { openLocal } from './local.ts'
import type { Storage } from './storage.ts'

/** The storage that STORAGE_URL names; unset: a folder under DATA_DIR. Throws StartError when it cannot be written. */
export async function openStorage(config: Pick<Config, 'storageUrl' | 'dataDir'>): Promise<Storage> {
  try {
    const storage = await choose(config)
    await storage.check()
    return storage
  } catch (error) {
    const where = config.storageUrl ? `STORAGE_URL ${config.storageUrl}` : `DATA_DIR ${config.dataDir}`
    throw new StartError(`${where}: cannot store files there (${reason(error)})`, { cause: error })
  }
}

async function choose({ storageUrl, dataDir }: Pick<Config, 'storageUrl' | 'dataDir'>): Promise<Storage> {
  if (storageUrl === undefined) return openLocal(join(dataDir, 'storage'))
  if (storageUrl.startsWith('s3:')) {
    // Large, and without S3 not needed.
    const { openS3, parseS3Url } = await import('./s3.ts')
    return openS3(parseS3Url(storageUrl))
  }
  // `file:data` and `file:./data` are relative to the working directory, as everywhere but in a URL.
  return openLocal(storageUrl.startsWith('file:/') ? fileURLToPath(storageUrl) : resolve(storageUrl.slice(5)))
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message || error.name : String(error)
}
