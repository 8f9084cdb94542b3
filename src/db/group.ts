import { setTimeout as sleep } from 'node:timers/promises'

/**
 * Group commit: items that arrive while earlier ones are being written share the next transaction.
 *
 * `flush` writes a batch in one transaction and answers item by item. At most `lanes` batches are under way; a batch has at
 * most `max` items, and never two with the same `exclusive` string; after a batch of several a lane rests for `restMs`, so
 * that more come together. When a batch is refused as a whole for something other than a lost connection, its items are tried
 * one by one, so that one bad item harms no other.
 */
export function groupCommit<Item, Answer>(
  flush: (batch: readonly Item[]) => Promise<readonly Answer[]>,
  options: {
    max: number
    lanes: number
    exclusive?: (item: Item) => string | undefined
    restMs?: number
    isOutage: (error: unknown) => boolean
  },
): (item: Item) => Promise<Answer> {
  interface Waiting {
    readonly item: Item
    readonly done: (answer: Answer) => void
    readonly failed: (error: unknown) => void
  }
  let waiting: Waiting[] = []
  let busy = 0
  let gathering = false

  function takeBatch(): Waiting[] {
    const batch: Waiting[] = []
    const later: Waiting[] = []
    const seen = new Set<string>()
    for (const entry of waiting) {
      const key = options.exclusive?.(entry.item)
      if (batch.length >= options.max || (key !== undefined && seen.has(key))) {
        later.push(entry)
        continue
      }
      if (key !== undefined) seen.add(key)
      batch.push(entry)
    }
    waiting = later
    return batch
  }

  async function write(batch: readonly Waiting[]): Promise<void> {
    try {
      const answers = await flush(batch.map(entry => entry.item))
      batch.forEach((entry, i) => entry.done(answers[i] as Answer))
    } catch (error) {
      if (batch.length === 1 || options.isOutage(error)) for (const entry of batch) entry.failed(error)
      else await Promise.all(batch.map(entry => write([entry])))
    }
  }

  async function pump(): Promise<void> {
    if (busy >= options.lanes) return
    busy += 1
    try {
      while (waiting.length > 0) {
        const batch = takeBatch()
        await write(batch)
        if (options.restMs !== undefined && batch.length > 1) await sleep(options.restMs)
      }
    } finally {
      busy -= 1
    }
  }

  return item =>
    new Promise<Answer>((done, failed) => {
      waiting.push({ item, done, failed })
      // While sockets keep being ready no turn of the event loop ends: what is full does not wait for that.
      if (waiting.length >= options.max) {
        void pump()
        return
      }
      // Requests of one turn of the event loop gather before the first is written.
      if (gathering) return
      gathering = true
      setImmediate(() => {
        gathering = false
        void pump()
      })
    })
}
