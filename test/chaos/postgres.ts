import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { type EmbeddedDb, startEmbedded } from '../../src/db/embedded.ts'
import { type FaultProxy, startProxy } from './proxy.ts'

/** A Postgres of the run's own that may be killed, reached through a bad line. It is durable: what was committed survives. */
export interface Postgres {
  /** Through the proxy: for genmux. */
  readonly url: string
  /** Past the proxy: for the oracles. Changes with each start. */
  readonly direct: string
  readonly line: FaultProxy
  /** kill -9 of the server, then a new start on the same data. */
  killAndRestart(): Promise<void>
  /** Takes every connection that is left, for so long. False when there was none to take. */
  fill(ms: number): Promise<boolean>
  /** Ends connections by the name of their application; returns how many. */
  terminate(applicationName: string): Promise<number>
  stop(): Promise<void>
}

const START_WITHIN_MS = 60_000

export async function startPostgres(): Promise<Postgres> {
  // In memory where possible: a killed process loses nothing there that it had written.
  const folder = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'genmux-chaos-'))
  const cluster = join(folder, 'postgres')
  let server: EmbeddedDb = await startEmbedded(cluster)
  const portOf = () => Number(new URL(server.url).port)
  const line = await startProxy(portOf())
  const url = new URL(server.url)
  url.port = String(line.port)

  return {
    url: url.href,
    get direct() {
      return server.url
    },
    line,
    async killAndRestart() {
      const [pid] = (await readFile(join(cluster, 'postmaster.pid'), 'utf8')).split('\n')
      process.kill(Number(pid), 'SIGKILL')
      server = await startAgain(cluster)
      line.aim(portOf())
    },
    async fill(ms) {
      const idle: pg.Client[] = []
      try {
        for (;;) {
          const client = new pg.Client({ connectionString: server.url, connectionTimeoutMillis: 2_000 })
          client.on('error', () => {})
          await client.connect()
          idle.push(client)
        }
      } catch {
        await new Promise(done => setTimeout(done, ms))
        return idle.length > 0
      } finally {
        await Promise.all(idle.map(client => client.end().catch(() => {})))
      }
    },
    async terminate(applicationName) {
      const client = new pg.Client({ connectionString: server.url, connectionTimeoutMillis: 2_000 })
      client.on('error', () => {})
      try {
        await client.connect()
        const { rowCount } = await client.query(
          'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1',
          [applicationName],
        )
        return rowCount ?? 0
      } catch {
        return 0
      } finally {
        await client.end().catch(() => {})
      }
    },
    async stop() {
      await line.close()
      await server.stop()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** The killed server's children hold its memory a moment longer: until they are gone, a start is refused. */
async function startAgain(cluster: string): Promise<EmbeddedDb> {
  const until = Date.now() + START_WITHIN_MS
  for (;;) {
    try {
      return await startEmbedded(cluster)
    } catch (error) {
      if (Date.now() > until) throw error
      await new Promise(done => setTimeout(done, 100))
    }
  }
}
