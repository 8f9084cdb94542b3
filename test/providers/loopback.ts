import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Agent, type Dispatcher } from 'undici'
import { expect } from 'vitest'
import { createHttp, type Http, type TakeBudget } from '../../src/providers/http.ts'
import { type Account, ProviderError } from '../../src/providers/provider.ts'

/*
 * Real servers on loopback that answer as a test says, and our HTTP client to call them.
 */

export type Answerer = (request: IncomingMessage, response: ServerResponse) => unknown

export const KEY = 'a-key-of-some-length'

const servers: Server[] = []
const agent = new Agent()

/** Starts one; answers with its origin. */
export async function listen(answer: Answerer): Promise<string> {
  const server = createServer((request, response) => void answer(request, response))
  servers.push(server)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** An origin where nothing listens. */
export async function nowhere(): Promise<string> {
  const url = await listen(() => {})
  await new Promise(resolve => servers.pop()?.close(resolve))
  return url
}

export async function closeAll(): Promise<void> {
  for (const server of servers.splice(0)) {
    server.closeAllConnections()
    await new Promise(resolve => server.close(resolve))
  }
}

export function httpTo(
  baseUrl: string,
  options: { take?: TakeBudget; signal?: AbortSignal; dispatcher?: Dispatcher } = {},
): Http {
  const account: Account = { provider: 'some', id: 'main', baseUrl, apiKey: KEY, settings: {} }
  return createHttp(account, { take: async () => {}, dispatcher: agent, ...options })
}

export async function failureOf(asked: Promise<unknown>): Promise<ProviderError> {
  const error = await asked.then(
    () => expect.fail('it succeeded'),
    (error: unknown) => error,
  )
  if (!(error instanceof ProviderError)) throw error
  return error
}

export function json(
  response: ServerResponse,
  body: unknown,
  status = 200,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
}
