import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'
import { z } from 'zod'
import type { Provider } from '../../src/providers/provider.ts'

/** Adapters as small as they can be: the catalog reads no more of one than this. */
export const adapters: ReadonlyMap<string, Provider> = new Map(
  [
    adapter('plain', {}),
    adapter('placing', { placeMedia: async () => ({ handle: 'asset' }) }),
    adapter('picky', {
      settings: z.strictObject({ path: z.string().startsWith('/').optional() }),
      unusable: (model, { settings }) =>
        model === 'video' && !(settings as { path?: string }).path ? 'settings.path is not set' : undefined,
    }),
    adapter('sandbox', {}),
  ].map(provider => [provider.kind, provider]),
)

function adapter(kind: string, more: Partial<Provider>): Provider {
  return {
    kind,
    defaults: {
      limits: { submits_per_minute: 10, reads_per_minute: 60 },
      poll: { first_ms: 1_000, every_ms: 500, deadline_ms: 60_000 },
    },
    settings: z.strictObject({}).default({}),
    idempotentSubmit: false,
    submit: async () => ({ state: 'accepted', ref: 'task' }),
    ...more,
  }
}

const folder = mkdtempSync(join(tmpdir(), 'genmux-catalog-'))
let files = 0
afterAll(() => rmSync(folder, { recursive: true }))

/** Writes a catalog file and gives its path. */
export function catalogFile(text: string): string {
  files += 1
  const path = join(folder, `${files}.yaml`)
  writeFileSync(path, text)
  return path
}

/** A correct catalog with one model; `{}` in the parameters replaces its parts. */
export function catalogText(
  parts: { provider?: string; model?: string; route?: string; more?: string; routes?: string } = {},
): string {
  const route = parts.route ?? `{ provider: up, model: m, input: '{"prompt": prompt}', cost_usd: "0.01" }`
  return [
    'providers:',
    `  - ${parts.provider ?? '{ id: up, kind: plain, base_url: "https://up.example", accounts: [{ id: main, api_key: k }] }'}`,
    '  - { id: sandbox, kind: sandbox }',
    'models:',
    '  - id: 1',
    '    name: One',
    '    type: image',
    '    price_usd: "0.05"',
    ...(parts.model ?? 'prompt: { mode: required }').split('\n').map(line => `    ${line}`),
    '    routes:',
    ...(parts.routes ?? `- ${route}`).split('\n').map(line => `      ${line}`),
    ...(parts.more ?? '').split('\n').map(line => (line === '' ? '' : `  ${line}`)),
    '',
  ].join('\n')
}
