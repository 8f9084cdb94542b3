import type { App } from '../../../src/http/app.ts'
import { ADMIN_TOKEN, build, type TestAnswer, type TestServer } from '../../server.ts'

const CATALOG = `
providers:
  - id: apixo
    kind: apixo
    base_url: https://api.apixo.example
    accounts:
      - { id: main, api_key: '\${APIXO_API_KEY}', limits: { submits_per_minute: 60, concurrent: 10 } }
      - { id: spare, api_key: '\${APIXO_SPARE_KEY}' }
  - { id: sandbox, kind: sandbox }
models:
  - id: 20
    name: Nano Banana
    type: image
    price_usd: "0.06"
    routes:
      - { provider: apixo, model: nano-banana-pro, cost_usd: "0.03", input: '{ "prompt": prompt }' }
      - { provider: apixo, model: old, cost_usd: "0.03", input: '{ "prompt": prompt }', enabled: false, disabled_reason: retired }
      - { provider: sandbox, model: picture, cost_usd: "0.01", input: '{ "prompt": prompt }', rank: 9 }
`

export interface AdminServer {
  readonly db: TestServer['db']
  readonly app: App
  readonly url: string
  /** Sends a request with the admin token. */
  readonly send: (
    method: 'GET' | 'POST' | 'PATCH' | 'DELETE',
    path: string,
    body?: unknown,
    headers?: Record<string, string>,
  ) => Promise<TestAnswer>
}

/** A server whose catalog has one configured account, one without a key, and the sandbox. Its orders stay queued. */
export async function adminServer(): Promise<AdminServer> {
  const { db, app, url, call } = await build({ catalog: CATALOG, env: { APIXO_API_KEY: 'secret-of-apixo' } })
  return {
    db,
    app,
    url,
    send: (method, path, body, headers) => call(method, `/admin/v1${path}`, { key: ADMIN_TOKEN, body, headers }),
  }
}
