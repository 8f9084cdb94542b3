import { createHash, randomUUID } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdir, open, opendir, rename, rm, stat, statfs, unlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { ApiError } from '../errors.ts'
import { makeFolder } from '../folder.ts'
import { checkName, MissingFile, type Storage } from './storage.ts'

/** What gathers during one write goes out in the next: twice as fast as chunk by chunk. */
const WRITE_BUFFER_BYTES = 1024 * 1024

/**
 * Storage in a folder. A file is written under `partial/` in the same file system, synced, and renamed to its place, so what
 * stands under a name is whole even after a power cut. Files fan out over 256 folders per kind. Several processes may
 * share the folder.
 */
export async function openLocal(root: string): Promise<Storage> {
  const partial = join(root, 'partial')
  await makeFolder(partial, 0o700)

  return {
    async put(name, body) {
      const target = place(root, name)
      const draft = join(partial, randomUUID())
      try {
        // flush: fsync before close, so that the rename never outlives the bytes. Larger writes cost fewer of them.
        await pipeline(
          body,
          createWriteStream(draft, { flags: 'wx', mode: 0o600, flush: true, highWaterMark: WRITE_BUFFER_BYTES }),
        )
        await mkdir(dirname(target), { recursive: true, mode: 0o700 })
        await rename(draft, target)
        await syncFolder(dirname(target))
      } catch (error) {
        body.destroy()
        await rm(draft, { force: true })
        throw asFull(error)
      }
    },

    async open(name, range) {
      const file = await open(place(root, name)).catch((error: unknown) => {
        throw isMissing(error) ? new MissingFile(name) : error
      })
      return file.createReadStream(range ?? {})
    },

    async size(name) {
      try {
        return (await stat(place(root, name))).size
      } catch (error) {
        if (isMissing(error)) return undefined
        throw error
      }
    },

    async remove(name) {
      await rm(place(root, name), { force: true })
    },

    async *list(prefix) {
      const kind = prefix.replace(/\/$/, '')
      for await (const folder of entries(join(root, kind)))
        for await (const base of entries(join(root, kind, folder))) {
          const found = await stat(join(root, kind, folder, base)).catch(() => undefined)
          if (found?.isFile()) yield { name: `${kind}/${base}`, size: found.size, modifiedAt: found.mtime }
        }
    },

    async sweep(before) {
      let removed = 0
      for await (const base of entries(partial)) {
        const path = join(partial, base)
        const found = await stat(path).catch(() => undefined)
        // The time of the last byte: a slow upload that still arrives is not leftover.
        if (!found || found.mtime >= before) continue
        await rm(path, { force: true })
        removed++
      }
      return removed
    },

    async check() {
      const probe = join(partial, randomUUID())
      await writeFile(probe, '')
      await unlink(probe)
    },

    async freeBytes() {
      const { bavail, bsize } = await statfs(root)
      return bavail * bsize
    },
  }
}

function place(root: string, name: string): string {
  checkName(name)
  const [kind = '', base = ''] = name.split('/')
  return join(root, kind, createHash('sha256').update(base).digest('hex').slice(0, 2), base)
}

/** Names in a folder; none when it does not exist. */
async function* entries(folder: string): AsyncGenerator<string> {
  const dir = await opendir(folder).catch((error: unknown) => {
    if (isMissing(error)) return undefined
    throw error
  })
  if (dir) for await (const entry of dir) yield entry.name
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path)
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}

/** A full disk is our trouble and passes: try again later. */
function asFull(error: unknown): unknown {
  const full = error instanceof Error && 'code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT')
  return full
    ? new ApiError('server_busy', 'The storage is full. Try again later.', { retryAfter: 60, cause: error })
    : error
}
