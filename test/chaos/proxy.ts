import { createServer, createConnection, type AddressInfo, type Socket } from 'node:net'
import { Transform } from 'node:stream'

/*
 * A TCP proxy whose line can be bad: slow, thin, dead for a while, cut, or half-open (what the client sends arrives, nothing
 * comes back, and nobody tells it). It knows nothing of what it carries.
 */

export interface FaultProxy {
  readonly port: number
  /** Where new connections go, on loopback. */
  aim(port: number): void
  /** Each chunk waits this long. Resolves when it is over: true when something was carried meanwhile. */
  latency(eachMs: number, forMs: number): Promise<boolean>
  /** Everything together passes at this rate. Resolves likewise. */
  bandwidth(bytesPerSecond: number, forMs: number): Promise<boolean>
  /** Nothing passes in either direction, then everything does. Resolves likewise. */
  stall(forMs: number): Promise<boolean>
  /** Resets a share (0–1) of the connections, at least one; false when there is none. */
  reset(share: number): boolean
  /** One connection hears nothing any more; `pick` (0–1) says which. False when there is none. */
  halfOpen(pick: number): boolean
  /** A good line again; half-open connections are reset. */
  heal(): void
  /** Resets everything and takes no more connections. */
  close(): Promise<void>
}

interface Line {
  readonly client: Socket
  readonly server: Socket
  mute: boolean
}

const sleep = (ms: number) => new Promise<void>(done => setTimeout(done, ms))

export async function startProxy(target: number): Promise<FaultProxy> {
  const lines = new Set<Line>()
  let aimed = target
  let latencyMs = 0
  let bytesPerSecond = Number.POSITIVE_INFINITY
  let stalled: Promise<void> | undefined
  /** When the thin line is free again. */
  let freeAt = 0
  let carried = 0

  const delay = async (bytes: number) => {
    carried += bytes
    while (stalled) await stalled
    if (latencyMs > 0) await sleep(latencyMs)
    if (!Number.isFinite(bytesPerSecond)) return
    freeAt = Math.max(freeAt, performance.now()) + (bytes / bytesPerSecond) * 1_000
    await sleep(Math.max(0, freeAt - performance.now()))
  }
  const carry = (hears: () => boolean) =>
    new Transform({
      async transform(chunk: Buffer, _encoding, done) {
        await delay(chunk.length)
        done(null, hears() ? chunk : undefined)
      },
      // A half-open line does not tell of its end either.
      flush(done) {
        if (hears()) done()
      },
    })
  const cut = ({ client, server }: Line) => {
    client.resetAndDestroy()
    server.resetAndDestroy()
  }

  const server = createServer({ allowHalfOpen: true, noDelay: true }, client => {
    const line: Line = {
      client,
      server: createConnection({ port: aimed, host: '127.0.0.1', allowHalfOpen: true, noDelay: true }),
      mute: false,
    }
    lines.add(line)
    for (const [from, to] of [
      [client, line.server],
      [line.server, client],
    ] as const) {
      from.on('error', () => {})
      from.on('close', hadError => {
        if (from === line.server && line.mute) return
        lines.delete(line)
        if (hadError) to.resetAndDestroy()
        else if (!to.writableEnded) to.destroySoon()
      })
    }
    client.pipe(carry(() => true)).pipe(line.server)
    line.server.pipe(carry(() => !line.mute)).pipe(client)
  })
  await new Promise<void>((done, failed) => server.once('error', failed).listen(0, '127.0.0.1', done))

  const during = async (forMs: number, begin: () => void, end: () => void) => {
    const before = carried
    begin()
    await sleep(forMs)
    end()
    return carried > before
  }
  const quicken = () => {
    latencyMs = 0
  }
  const widen = () => {
    bytesPerSecond = Number.POSITIVE_INFINITY
  }

  return {
    port: (server.address() as AddressInfo).port,
    aim(port) {
      aimed = port
    },
    latency: (eachMs, forMs) => during(forMs, () => (latencyMs = eachMs), quicken),
    bandwidth: (rate, forMs) => during(forMs, () => (bytesPerSecond = rate), widen),
    async stall(forMs) {
      const over = sleep(forMs)
      stalled = over
      const before = carried
      await over
      if (stalled === over) stalled = undefined
      return carried > before
    },
    reset(share) {
      const all = [...lines]
      const some = all.slice(0, Math.ceil(all.length * share))
      some.forEach(cut)
      return some.length > 0
    },
    halfOpen(pick) {
      const hearing = [...lines].filter(line => !line.mute)
      const line = hearing[Math.floor(pick * hearing.length)]
      if (line) line.mute = true
      return line !== undefined
    },
    heal() {
      quicken()
      widen()
      stalled = undefined
      for (const line of lines) if (line.mute) cut(line)
    },
    async close() {
      const closed = new Promise(done => server.close(done))
      for (const line of lines) cut(line)
      await closed
    },
  }
}
