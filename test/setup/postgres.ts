import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import type { TestProject } from 'vitest/node'
import { startEmbedded } from '../../src/db/embedded.ts'
import { migrate } from '../../src/db/migrate.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    postgres: string
  }
}

const IMAGE = 'postgres:18-alpine'

/** One Postgres for the whole run, with a migrated template database. Which one: see the README, "Tests". */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const server = await startServer()
  const admin = new pg.Client({ connectionString: server.url })
  await admin.connect()
  await admin.query('DROP DATABASE IF EXISTS genmux_template')
  await admin.query('CREATE DATABASE genmux_template')
  await migrate(named(server.url, 'genmux_template'))
  await admin.end()
  project.provide('postgres', server.url)
  return server.stop
}

async function startServer(): Promise<{ url: string; stop: () => Promise<void> }> {
  const given = process.env.TEST_DATABASE_URL
  if (given) return { url: given, stop: async () => {} }
  if (dockerHasImage()) {
    const { PostgreSqlContainer } = await import('@testcontainers/postgresql')
    const container = await new PostgreSqlContainer(IMAGE).withTmpFs({ '/var/lib/postgresql': 'rw' }).start()
    return { url: container.getConnectionUri(), stop: async () => void (await container.stop()) }
  }
  const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'genmux-test-'))
  const db = await startEmbedded(join(folder, 'postgres'), { fast: true })
  return {
    url: db.url,
    async stop() {
      await db.stop()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

function dockerHasImage(): boolean {
  const docker = (...args: string[]) => execFileSync('docker', args, { stdio: 'ignore', timeout: 60_000 })
  try {
    docker('info')
    try {
      docker('image', 'inspect', IMAGE)
    } catch {
      docker('pull', '--quiet', IMAGE)
    }
    return true
  } catch {
    return false
  }
}

function named(url: string, database: string): string {
  const named = new URL(url)
  named.pathname = `/${database}`
  return named.toString()
}
