import { randomUUID } from 'node:crypto'
import autocannon from 'autocannon'

/*
 * The load generator, a process of its own: runs each load it is sent and answers with what it reached. Closed loop: a
 * connection sends its next request when it has the answer to the last.
 */

export interface Load {
  readonly url: string
  readonly method: 'GET' | 'POST'
  readonly key?: string
  readonly body?: string
  /** Gives every request an Idempotency-Key of its own. */
  readonly once?: boolean
  readonly connections: number
  readonly seconds: number
}

export interface Reached {
  readonly perSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  /** Answers other than 2xx, and requests without an answer. */
  readonly failures: number
}

async function run(load: Load): Promise<Reached> {
  const { url, method, key, body, once, connections, seconds } = load
  const headers: Record<string, string> = {
    ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
    ...(body === undefined ? {} : { 'content-type': 'application/json' }),
  }
  const setupRequest = (request: autocannon.Request): autocannon.Request => ({
    ...request,
    headers: { ...headers, 'idempotency-key': randomUUID() },
  })
  const result = await autocannon({
    url,
    method,
    headers,
    connections,
    duration: seconds,
    ...(body === undefined ? {} : { body }),
    ...(once ? { requests: [{ setupRequest }] } : {}),
  })
  return {
    perSecond: result['2xx'] / result.duration,
    p50Ms: result.latency.p50,
    p99Ms: result.latency.p99,
    failures: result.non2xx + result.errors,
  }
}

process.on('message', (load: Load) => void run(load).then(reached => process.send?.(reached)))
process.on('disconnect', () => process.exit(0))
process.send?.('ready')
