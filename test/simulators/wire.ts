import type { IncomingMessage, ServerResponse } from 'node:http'
import { readMultipart } from './multipart.ts'
import type { Json, LoggedRequest, SimAnswer, SimRequest } from './spec.ts'

export async function readRequest(
  request: IncomingMessage,
  url: URL,
  pattern: RegExp | undefined,
): Promise<SimRequest> {
  const type = request.headers['content-type'] ?? ''
  const read = {
    method: request.method ?? 'GET',
    path: url.pathname,
    origin: `http://${request.headers.host}`,
    params: paramsOf(pattern, url.pathname),
    query: url.searchParams,
    headers: request.headers,
    key: /^Bearer (\S+)$/.exec(request.headers.authorization ?? '')?.[1] ?? '',
  }
  if (type.startsWith('multipart/')) {
    return { ...read, ...(await readMultipart(request, type)), raw: Buffer.alloc(0), json: undefined }
  }
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  const raw = Buffer.concat(chunks)
  return { ...read, raw, json: parse(raw), fields: {}, files: [] }
}

function parse(raw: Buffer): Json {
  try {
    return JSON.parse(raw.toString('utf8'))
  } catch {
    return undefined
  }
}

export function patternOf(path: string): RegExp {
  return new RegExp(`^${path.replace(/:(\w+)/g, '(?<$1>[^/]+)')}$`)
}

function paramsOf(pattern: RegExp | undefined, path: string): Record<string, string> {
  const groups = pattern?.exec(path)?.groups ?? {}
  return Object.fromEntries(Object.entries(groups).map(([name, value]) => [name, decodeURIComponent(value)]))
}

export function given(fault: { status: number; headers?: Record<string, string>; body?: unknown }): SimAnswer {
  const { status, headers = {}, body = '<html><body>Bad gateway</body></html>' } = fault
  return typeof body === 'string'
    ? { status, bytes: Buffer.from(body), headers: { 'content-type': 'text/html', ...headers } }
    : { status, json: body, headers }
}

export function bodyOf(answer: SimAnswer): Buffer {
  return answer.bytes ?? Buffer.from(JSON.stringify(answer.json ?? null))
}

export function send(response: ServerResponse, logged: LoggedRequest, answer: SimAnswer): void {
  const body = bodyOf(answer)
  const type = answer.bytes ? 'application/octet-stream' : 'application/json'
  logged.status = answer.status
  response.writeHead(answer.status, { 'content-type': type, 'content-length': body.length, ...answer.headers })
  response.end(body)
}

export function truncate(response: ServerResponse, answer: SimAnswer): void {
  const body = bodyOf(answer)
  response.writeHead(answer.status, { 'content-type': 'application/json', 'content-length': body.length })
  response.write(body.subarray(0, Math.ceil(body.length / 2)), () => response.socket?.destroy())
}
