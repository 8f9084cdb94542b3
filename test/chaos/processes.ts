import { type ChildProcess, spawn } from 'node:child_process'
import { createWriteStream, type WriteStream } from 'node:fs'
import { join } from 'node:path'

/** A genmux process that is started again whenever it is gone, as a supervisor would. */
export interface Supervised {
  readonly name: string
  /** Listens now, and is not paused. */
  readonly up: boolean
  /** What it wrote, of all its lives, is in this file. */
  readonly logFile: string
  /** Ends that nobody ordered, after it had begun to listen. */
  readonly crashes: readonly string[]
  /** kill -9; false when it is not up. */
  kill(): boolean
  /** Stops it where it stands, then lets it go on; false when it is not up. */
  pause(ms: number): Promise<boolean>
  /** Waits until it listens. */
  ready(): Promise<void>
  /** SIGTERM, and no new start; its exit code. */
  stop(): Promise<number | null>
}

const RESTART_AFTER_MS = 200
const STOP_WITHIN_MS = 40_000

export function supervise(name: string, env: Record<string, string>, folder: string): Supervised {
  const logFile = join(folder, `${name}.log`)
  const log = createWriteStream(logFile, { flags: 'a' })
  const crashes: string[] = []
  let child: ChildProcess
  let listening = false
  let paused = false
  let ordered = false
  let ended = false
  let exitCode: number | null = null

  const begin = () => {
    listening = false
    ordered = false
    let tail = ''
    const own = launch(env, log, text => {
      tail = (tail + text).slice(-2_000)
      if (text.includes('genmux listens on')) listening = true
    })
    child = own
    own.once('close', (code, signal) => {
      if (listening && !ordered && !ended) crashes.push(`${name} ended by itself (${signal ?? code}): ${tail}`)
      listening = false
      exitCode = code
      if (!ended) setTimeout(begin, RESTART_AFTER_MS)
    })
  }
  begin()

  return {
    name,
    logFile,
    crashes,
    get up() {
      return listening && !paused && !ended
    },
    kill() {
      if (!this.up) return false
      ordered = true
      listening = false
      return child.kill('SIGKILL')
    },
    async pause(ms) {
      if (!this.up) return false
      const own = child
      paused = true
      own.kill('SIGSTOP')
      await new Promise(done => setTimeout(done, ms))
      own.kill('SIGCONT')
      paused = false
      return own.exitCode === null
    },
    async ready() {
      while (!this.up) await new Promise(done => setTimeout(done, 50))
    },
    async stop() {
      ended = true
      if (child.exitCode === null && child.signalCode === null) {
        const gone = new Promise(done => child.once('close', done))
        const timer = setTimeout(() => child.kill('SIGKILL'), STOP_WITHIN_MS)
        child.kill('SIGTERM')
        await gone
        clearTimeout(timer)
      }
      await new Promise(done => log.end(done))
      return exitCode
    },
  }
}

function launch(env: Record<string, string>, log: WriteStream, heard: (text: string) => void): ChildProcess {
  const child = spawn(process.execPath, ['src/main.ts'], {
    cwd: join(import.meta.dirname, '../..'),
    env: { PATH: process.env.PATH, HOME: process.env.HOME, NODE_ENV: 'production', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  // Whatever ends this process ends what it started.
  const end = () => void child.kill('SIGKILL')
  process.once('exit', end)
  child.once('close', () => process.off('exit', end))
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      log.write(chunk)
      heard(chunk.toString())
    })
  return child
}
