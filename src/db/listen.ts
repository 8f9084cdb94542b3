import pg from 'pg'

/**
 * Listens on Postgres channels with a connection of its own, reconnecting after 1 s. `heard` gets the channel and payload; it
 * is also called with payload undefined after every (re)connect, since something may have been missed.
 */
export function listen(
  url: string,
  channels: readonly string[],
  heard: (channel: string, payload: string | undefined) => void,
): { close(): Promise<void> } {
  let closed = false
  let client: pg.Client | undefined
  let timer: NodeJS.Timeout | undefined

  async function connect(): Promise<void> {
    const fresh = new pg.Client({
      connectionString: url,
      connectionTimeoutMillis: 5_000,
      keepAlive: true,
      application_name: 'genmux-listen',
    })
    client = fresh
    fresh.on('error', () => {
      fresh.end().catch(() => {})
    })
    fresh.on('end', again)
    fresh.on('notification', message => heard(message.channel, message.payload ?? ''))
    try {
      await fresh.connect()
      for (const channel of channels) await fresh.query(`LISTEN ${pg.escapeIdentifier(channel)}`)
      for (const channel of channels) heard(channel, undefined)
    } catch {
      await fresh.end().catch(() => {})
      again()
    }
  }

  function again(): void {
    if (closed || timer) return
    timer = setTimeout(() => {
      timer = undefined
      void connect()
    }, 1_000)
  }

  void connect()
  return {
    async close() {
      closed = true
      clearTimeout(timer)
      await client?.end().catch(() => {})
    },
  }
}
