import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { readConfig } from '../src/config.ts'
import { StartError } from '../src/errors.ts'

const ROOT = join(import.meta.dirname, '..')
const read = (file: string) => readFileSync(join(ROOT, file), 'utf8')
const example = Object.fromEntries(
  [...read('.env.example').matchAll(/^([A-Z0-9_]+)=(.*)$/gm)].map(match => [match[1] as string, match[2] as string]),
)

describe('.env.example', () => {
  test('lists every variable that the configuration and the shipped catalog read', () => {
    const configured = [...read('src/config.ts').matchAll(/^ {2}([A-Z_]+):/gm)].map(match => match[1] as string)
    const provided = [...read('src/catalog/catalog.yaml').matchAll(/\$\{([A-Z0-9_]+)\}/g)].map(
      match => match[1] as string,
    )
    expect(configured.length).toBeGreaterThan(12)
    expect(provided.length).toBeGreaterThan(5)
    expect([...configured, ...provided].filter(name => !(name in example))).toEqual([])
  })

  test('shows the defaults', () => {
    expect(readConfig(example)).toEqual(readConfig({}))
  })
})

test('the compose file gives the servers only variables that exist', () => {
  const compose = parse(read('docker-compose.yml'), { merge: true })
  for (const service of ['api', 'worker']) {
    const names = Object.keys(compose.services[service].environment)
    expect(names).toContain('DATABASE_URL')
    expect(names.filter(name => !(name in example))).toEqual([])
    expect(compose.services[service].deploy.replicas).toBe(2)
  }
})

test('an empty value counts as unset', () => {
  expect(readConfig({ PORT: '', SANDBOX: '' })).toMatchObject({ port: 3000, sandbox: undefined })
})

test('times may be fractions, and a public URL loses its last slash', () => {
  expect(
    readConfig({ UPLOAD_TTL_HOURS: '0.5', RESULT_TTL_DAYS: '0.001', PUBLIC_URL: 'https://a.example/x/' }),
  ).toMatchObject({
    uploadTtlMs: 1_800_000,
    resultTtlMs: 86_400,
    publicUrl: 'https://a.example/x',
    publicUrlIsSet: true,
  })
})

test.each([
  ['PORT', '65536'],
  ['PORT', '-1'],
  ['PUBLIC_URL', 'example.com'],
  ['DATABASE_URL', 'mysql://x'],
  ['ADMIN_TOKEN', 'short'],
  ['SANDBOX', 'yes'],
  ['ROLE', 'both'],
  ['STORAGE_URL', '/var/data'],
  ['REDIS_URL', 'http://x'],
  ['RATE_LIMIT_PER_MINUTE', '0'],
  ['UPLOAD_TTL_HOURS', '-1'],
  ['RESULT_TTL_DAYS', 'soon'],
  ['LOG_LEVEL', 'loud'],
  ['UPLOAD_TTL_HOURS', '99999999999'],
  ['ADMIN_TOKEN', 'sixteen letters and spaces'],
  ['PUBLIC_URL', 'https://a.example/?b=c'],
  ['STORAGE_URL', 'file:'],
])('%s=%s is refused by name', (name, value) => {
  expect(() => readConfig({ [name]: value })).toThrow(StartError)
  expect(() => readConfig({ [name]: value })).toThrow(new RegExp(`^${name}: `))
})
