import { createConnection, type Socket } from 'node:net'
import { percentile } from '../bench/report.ts'

/*
 * An open-loop load, a process of its own: requests are sent when they are due, whether or not earlier ones were answered.
 * It speaks just enough HTTP to cost little beside the server it measures.
 */

export interface Flood {
  readonly port: number
  readonly method: 'GET' | 'POST'
  readonly path: string
  /** Each request takes the next one. */
  readonly keys: readonly string[]
  readonly body?: string
  /** Requests a second; Infinity (null on the wire): a connection sends when it has its answer. */
  readonly rate: number | null
  /** At most so many at once. */
  readonly connections: number
  readonly seconds: number
}

export interface Flooded {
  /** 201, answered while the load lasted, per second. */
  readonly goodput: number
  readonly sent: number
  /** Due, and not sent for want of a free connection. */
  readonly unsent: number
  readonly unanswered: number
  readonly byStatus: Readonly<Record<number, { count: number; p50Ms: number; p99Ms: number; mostMs: number }>>
  /** Answers 429 and 503 without Retry-After. */
  readonly withoutRetryAfter: number
}

const TICK_MS = 4
/** How long after the end answers are waited for. */
const PATIENCE_MS = 35_000

interface Line {
  readonly socket: Socket
  sentAt: number
  text: string
}

async function flood({ port, method, path, keys, body, rate, connections, seconds }: Flood): Promise<Flooded> {
  const requests = keys.map(key =>
    [
      `${method} ${path} HTTP/1.1`,
      'host: 127.0.0.1',
      `authorization: Bearer ${key}`,
      ...(body === undefined ? [] : ['content-type: application/json', `content-length: ${Buffer.byteLength(body)}`]),
      '',
      body ?? '',
    ].join('\r\n'),
  )
  const idle: Line[] = []
  const latencies = new Map<number, number[]>()
  let open = 0
  let [sent, unsent, unanswered, answered, granted, withoutRetryAfter] = [0, 0, 0, 0, 0, 0]
  let going = true

  const request = (line: Line) => {
    line.sentAt = performance.now()
    line.text = ''
    line.socket.write(requests[sent % requests.length] as string)
    sent++
  }
  const connect = () => {
    open++
    const socket = createConnection({ port, host: '127.0.0.1', noDelay: true })
    const line: Line = { socket, sentAt: 0, text: '' }
    socket.setEncoding('latin1')
    socket.on('data', chunk => {
      line.text += String(chunk)
      const answer = readAnswer(line.text)
      if (!answer) return
      answered++
      if (answer.status === 201 && going) granted++
      const times = latencies.get(answer.status) ?? []
      latencies.set(answer.status, times)
      times.push(performance.now() - line.sentAt)
      if ((answer.status === 503 || answer.status === 429) && !answer.retryAfter) withoutRetryAfter++
      line.sentAt = 0
      if (answer.close) socket.destroy()
      else if (going && rate === null) request(line)
      else idle.push(line)
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      open--
      if (line.sentAt > 0) unanswered++
      const at = idle.indexOf(line)
      if (at >= 0) idle.splice(at, 1)
    })
    request(line)
  }
  const begin = () => {
    const line = idle.pop()
    if (line) request(line)
    else if (open < connections) connect()
    else unsent++
  }

  const began = performance.now()
  if (rate === null) for (let i = 0; i < connections; i++) connect()
  let due = 0
  while (performance.now() - began < seconds * 1_000) {
    await new Promise(done => setTimeout(done, TICK_MS))
    if (rate === null) continue
    for (const now = ((performance.now() - began) / 1_000) * rate; due < now; due++) begin()
  }
  going = false
  while (answered + unanswered < sent && performance.now() - began < seconds * 1_000 + PATIENCE_MS)
    await new Promise(done => setTimeout(done, 20))
  for (const { socket } of idle.splice(0)) socket.destroy()
  return {
    goodput: granted / seconds,
    sent,
    unsent,
    unanswered: sent - answered,
    withoutRetryAfter,
    byStatus: Object.fromEntries(
      [...latencies].map(([status, times]) => [
        status,
        {
          count: times.length,
          p50Ms: percentile(times, 50),
          p99Ms: percentile(times, 99),
          mostMs: percentile(times, 100),
        },
      ]),
    ),
  }
}

/** The answer, once it is whole. */
function readAnswer(text: string): { status: number; retryAfter: boolean; close: boolean } | undefined {
  const end = text.indexOf('\r\n\r\n')
  if (end < 0) return undefined
  const head = text.slice(0, end)
  const length = Number(/content-length: (\d+)/i.exec(head)?.[1] ?? 0)
  if (text.length < end + 4 + length) return undefined
  return {
    status: Number(text.slice(9, 12)),
    retryAfter: /\r\nretry-after: \d/i.test(head),
    close: /\r\nconnection: close/i.test(head),
  }
}

process.on('message', (wanted: Flood) => void flood(wanted).then(flooded => process.send?.(flooded)))
process.on('disconnect', () => process.exit(0))
process.send?.('ready')
