import { StartError } from '../errors.ts'

// oxlint-disable-next-line typescript/no-explicit-any -- what the server answers is printed, not computed with
export type Answer = Record<string, any>

export interface Client {
  /** The answer without `success`. Throws StartError with one line for the operator. */
  send(
    method: 'GET' | 'POST' | 'DELETE',
    path: string,
    body?: object,
    headers?: Record<string, string>,
  ): Promise<Answer>
}

const TIMEOUT_MS = 30_000

/** Speaks the admin API of a running server. */
export function adminClient(url: string, token: string): Client {
  return {
    async send(method, path, body, headers = {}) {
      let response: Response
      let text: string
      try {
        response = await fetch(`${url.replace(/\/+$/, '')}/admin/v1${path}`, {
          method,
          headers: {
            authorization: `Bearer ${token}`,
            ...(body === undefined ? {} : { 'content-type': 'application/json' }),
            ...headers,
          },
          ...(body === undefined ? {} : { body: JSON.stringify(body) }),
          signal: AbortSignal.timeout(TIMEOUT_MS),
        })
        text = await response.text()
      } catch (error) {
        throw new StartError(
          `${url} cannot be reached (${reason(error)}): start it with genmux serve, or name another with --url`,
        )
      }
      const answer = parse(text)
      if (answer === undefined) throw new StartError(`${url} answered ${response.status}, but not as a genmux does`)
      if (!response.ok)
        throw new StartError(`${answer.error?.message ?? response.status} (${answer.error?.code ?? 'error'})`)
      const { success: _, ...rest } = answer
      return rest
    },
  }
}

/** The id of a customer that is named by its id, or by a name that only one has. */
export async function findCustomer(client: Client, idOrName: string): Promise<string> {
  if (idOrName.startsWith('cus_')) return idOrName
  const { customers } = await client.send('GET', `/customers?limit=2&name=${encodeURIComponent(idOrName)}`)
  if (customers.length === 0) throw new StartError(`no customer is called ${idOrName}`)
  if (customers.length > 1) throw new StartError(`several customers are called ${idOrName}: use an id`)
  return customers[0].id
}

/** All rows of a list, page by page. */
export async function readAll(client: Client, path: string, name: string): Promise<Answer[]> {
  const rows: Answer[] = []
  let cursor: string | null = null
  do {
    const answer: Answer = await client.send('GET', `${path}?limit=100${cursor === null ? '' : `&cursor=${cursor}`}`)
    rows.push(...answer[name])
    cursor = answer.next_cursor
  } while (cursor !== null)
  return rows
}

function parse(text: string): Answer | undefined {
  try {
    const answer: unknown = JSON.parse(text)
    return typeof answer === 'object' && answer !== null ? answer : undefined
  } catch {
    return undefined
  }
}

function reason(error: unknown): string {
  const { name, cause, message } = error as Error & { cause?: { code?: string; message?: string } }
  if (name === 'TimeoutError') return `no answer in ${TIMEOUT_MS / 1000} s`
  return cause?.code ?? (cause?.message || message)
}
