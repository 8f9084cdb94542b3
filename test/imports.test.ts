import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { expect, test } from 'vitest'

const SRC = join(import.meta.dirname, '../src')

/** Lower may be imported by higher, never the other way. Files directly under src are placed by name. */
const LAYERS = [
  ['money.ts', 'errors.ts', 'config.ts', 'folder.ts'],
  ['db', 'storage', 'providers', 'safe-fetch.ts'],
  ['catalog', 'routing', 'ledger', 'uploads'],
  ['orders'],
  ['http', 'jobs', 'metrics.ts', 'console'],
  ['admin-token.ts', 'demo.ts'],
  ['main.ts', 'cli.ts', 'cli'],
]

interface Edge {
  readonly from: string
  readonly to: string
}

const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter(
  file => file.endsWith('.ts') && !file.startsWith('db/prisma/'),
)
const edges: Edge[] = files.flatMap(file => {
  const text = readFileSync(join(SRC, file), 'utf8')
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)].map(match => ({
    from: file,
    to: relative(SRC, resolve(dirname(join(SRC, file)), match[1] as string)),
  }))
})

const noun = (file: string) => file.split('/')[0] as string
const layer = (file: string) => LAYERS.findIndex(names => names.includes(noun(file)))

test('every file belongs to a layer', () => {
  expect(files.filter(file => layer(file) < 0)).toEqual([])
})

test('imports point downwards', () => {
  expect(edges.length).toBeGreaterThan(100)
  const upwards = edges.filter(({ from, to }) => !to.startsWith('db/prisma/') && layer(to) > layer(from))
  expect(upwards).toEqual([])
})

test('an adapter imports only its own folder and money', () => {
  const foreign = edges.filter(
    ({ from, to }) => noun(from) === 'providers' && noun(to) !== 'providers' && to !== 'money.ts',
  )
  expect(foreign).toEqual([])
})

test('only the ledger calls the functions that move money', () => {
  const callers = files.filter(file =>
    /\b(post_money|place_orders|settle_orders)\s*\(/.test(readFileSync(join(SRC, file), 'utf8')),
  )
  expect(callers).toEqual(['ledger/ledger.ts'])
})

test('nothing imports the program itself but the command line', () => {
  expect(edges.filter(({ to }) => to === 'main.ts').map(({ from }) => from)).toEqual(['cli.ts'])
})
