import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { call, freshFolder, startGenmux, until } from './process.ts'

/** What a start prints before it gives up; it must be one line. */
async function refusal(env: Record<string, string>): Promise<string> {
  const error = await startGenmux({ DATA_DIR: join(freshFolder(), 'data'), ...env }).then(
    () => undefined,
    (reason: Error) => reason,
  )
  expect(error?.message).toContain('genmux exited with 1: ')
  const said = (error?.message ?? '').replace('genmux exited with 1: ', '').trim()
  expect(said.split('\n')).toHaveLength(1)
  return said
}

test('the first start makes a demo whose printed lines work when pasted', async () => {
  const data = join(freshFolder(), 'data')
  const { origin, output, signal, exited } = await startGenmux({ DATA_DIR: data, ADMIN_TOKEN: '' })
  await until(
    async () => output(),
    text => text.split('\n').filter(line => /^(curl|ORDER|sleep)/.test(line)).length === 3,
  )
  expect(output()).toMatch(/admin token: gma_/)
  const lines = output()
    .split('\n')
    .filter(line => /^(curl|ORDER|sleep)/.test(line))
  const pasted = execFileSync('bash', ['-c', [...lines, lines[2]].join('\n')], { encoding: 'utf8' })
  const answers = pasted
    .trim()
    .split('\n')
    .map(line => JSON.parse(line))
  expect(answers[0]).toEqual({ success: true, balance_usd: '25.00' })
  expect(answers[1].order.status).toBe('queued')
  expect(answers[3].order.status).toBe('completed')
  const link = answers[3].order.result[0].replace(/^http:\/\/localhost:\d+/, origin)
  const picture = await fetch(link)
  expect(picture.headers.get('content-type')).toMatch(/^image\//)
  expect((await picture.arrayBuffer()).byteLength).toBeGreaterThan(1_000)

  await signal('SIGTERM')
  expect(await exited).toBe(0)
  const began = performance.now()
  const second = await startGenmux({ DATA_DIR: data })
  expect(performance.now() - began).toBeLessThan(10_000)
  expect(second.output()).not.toContain('demo customer')
  await second.signal('SIGTERM')
})

test('a start after kill -9 takes over the database that was left running', async () => {
  const data = join(freshFolder(), 'data')
  const first = await startGenmux({ DATA_DIR: data })
  await first.signal('SIGKILL')
  const second = await startGenmux({ DATA_DIR: data })
  expect((await call(`${second.origin}/readyz`)).status).toBe(200)
  await second.signal('SIGTERM')
})

test('a second genmux on the same folder is refused', async () => {
  const data = join(freshFolder(), 'data')
  const first = await startGenmux({ DATA_DIR: data })
  expect(await refusal({ DATA_DIR: data })).toMatch(
    /another genmux runs on .*: stop it, or set DATA_DIR or DATABASE_URL/,
  )
  await first.signal('SIGTERM')
})

test('a wrong variable stops the start with one line that names it', async () => {
  expect(await refusal({ PORT: 'eighty' })).toBe('genmux: PORT: must be a whole number (see .env.example)')
  expect(await refusal({ SANDBOX: 'maybe' })).toContain('SANDBOX: must be on or off')
  expect(await refusal({ PUBLIC_URL: 'ftp://x' })).toContain('PUBLIC_URL')
  expect(await refusal({ RESULT_TTL_DAYS: '0' })).toContain('RESULT_TTL_DAYS: must be more than 0')
  expect(await refusal({ ADMIN_TOKEN: 'short' })).toContain('ADMIN_TOKEN')
})

test('a folder that cannot be made is named, also where the system contradicts itself', async () => {
  expect(await refusal({ DATA_DIR: '/proc/x' })).toMatch(/^genmux: DATA_DIR \/proc\/x: cannot be made/)
  expect(await refusal({ DATA_DIR: '/proc/x', ADMIN_TOKEN: '' })).toMatch(/^genmux: DATA_DIR \/proc\/x: cannot be made/)
  expect(await refusal({ STORAGE_URL: 'file:/proc/x' })).toMatch(/^genmux: STORAGE_URL file:\/proc\/x: cannot store/)
})

test('a database that cannot be reached is named', async () => {
  expect(await refusal({ DATABASE_URL: 'postgresql://nobody@127.0.0.1:1/none' })).toMatch(
    /^genmux: DATABASE_URL \(127\.0\.0\.1:1\) cannot be used: .*ECONNREFUSED/,
  )
})

test('a used port is named', async () => {
  const other = createServer()
  await new Promise<void>(done => other.listen(0, '127.0.0.1', done))
  const { port } = other.address() as { port: number }
  expect(await refusal({ PORT: String(port) })).toBe(
    `genmux: PORT ${port} on 127.0.0.1 is in use: stop the other program, or set PORT`,
  )
  await new Promise(done => other.close(done))
})

test('a broken catalog is named with its line', async () => {
  const folder = freshFolder()
  mkdirSync(folder, { recursive: true })
  const file = join(folder, 'catalog.yaml')
  writeFileSync(file, 'providers:\n  - { id: sandbox, kind: sandbox }\nmodels:\n  - id: twenty\n')
  expect(await refusal({ CATALOG_FILE: file })).toContain(`${file}:4:`)
  expect(await refusal({ CATALOG_FILE: join(folder, 'none.yaml') })).toContain('none.yaml')
})
