import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'

/*
 * An upstream that answers at once, a process of its own: the part of Pluragen's API that an order needs. What it makes is
 * one small picture. It notes when each submit and how many polls arrived.
 */

export interface UpstreamInput {
  readonly port: number
  /** False: every task stays in the making. */
  readonly finishes: boolean
}

export interface Seen {
  /** Prompt and wall-clock time (ms) of every submit since the last question. */
  readonly submits: readonly (readonly [string, number])[]
  /** Polls since the last question. */
  readonly polls: number
  /** Time between two polls of one task, ms: the 99th percentile since the last question. */
  readonly gapP99Ms: number
}

const { port, finishes } = JSON.parse(process.argv[2] as string) as UpstreamInput
const origin = `http://127.0.0.1:${port}`
const PICTURE = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
  'base64',
)
const now = () => performance.timeOrigin + performance.now()

let submits: [string, number][] = []
let polls = 0
let gaps: number[] = []
let made = 0
const polledAt = new Map<string, number>()

function order(id: string, done: boolean): string {
  const status = done ? 'completed' : 'processing'
  const result = done ? [`${origin}/g/picture.png`] : []
  return JSON.stringify({
    success: true,
    order: { id, model_id: 1, status, cost_usd: '0.01', result, expires_at: null, error: null },
  })
}

function respond(response: ServerResponse, status: number, body: string | Buffer, type = 'application/json'): void {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body) }).end(body)
}

function answer(request: IncomingMessage, response: ServerResponse, body: string): void {
  const { pathname } = new URL(request.url ?? '/', origin)
  if (pathname.startsWith('/g/')) return respond(response, 200, PICTURE, 'image/png')
  if (request.method === 'POST') {
    submits.push([(JSON.parse(body) as { prompt: string }).prompt, now()])
    made += 1
    return respond(response, 201, order(`task_${made}`, false))
  }
  const id = pathname.slice(pathname.lastIndexOf('/') + 1)
  const at = now()
  const last = polledAt.get(id)
  if (last !== undefined) gaps.push(at - last)
  polledAt.set(id, at)
  polls += 1
  respond(response, 200, order(id, finishes))
}

const server = createServer((request, response) => {
  let body = ''
  request.on('data', chunk => {
    body += chunk
  })
  request.on('end', () => answer(request, response, body))
})
server.keepAliveTimeout = 60_000

process.on('message', () => {
  const gapP99Ms = gaps.sort((a, b) => a - b)[Math.floor(gaps.length * 0.99)] ?? 0
  const seen: Seen = { submits, polls, gapP99Ms }
  submits = []
  polls = 0
  gaps = []
  process.send?.(seen)
})
process.on('disconnect', () => process.exit(0))
server.listen(port, '127.0.0.1', () => process.send?.('ready'))
