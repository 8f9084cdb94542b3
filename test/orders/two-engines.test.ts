import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { openDb } from '../../src/db/pool.ts'
import { verifyLedger } from '../../src/ledger/verify.ts'
import { createEngine } from '../../src/orders/start.ts'
import { freshDatabase } from '../database.ts'
import { call, freshFolder, makeCustomer, startGenmux } from '../process.ts'
import { apixoSimulator } from '../simulators/apixo.ts'
import { createPluragen } from '../simulators/pluragen.ts'
import { createProgressiverobot } from '../simulators/progressiverobot.ts'
import { FAST, gateway, isOver, until } from './gateway.ts'

const ORDERS = 120

const apixo = apixoSimulator()
const robot = createProgressiverobot()
robot.credits = 1_000_000
delete robot.limits.all
for (const { tasks } of [apixo, robot]) tasks.plan = { outcome: { state: 'succeeded' }, afterMs: 300 }

const genmux = await gateway({
  upstreams: [
    { id: 'supplier-a', kind: 'apixo', simulator: apixo },
    {
      id: 'supplier-r',
      kind: 'progressiverobot',
      simulator: robot,
      more: { limits: { requests_per_minute: 1_000_000, concurrent: 20 } },
    },
  ],
  models: {
    1: [{ provider: 'supplier-a', model: 'nano-banana' }],
    2: [{ provider: 'supplier-r', model: 'wan-t2v' }],
  },
})

test('two engines on one database share the orders: each is submitted once, and no account gets more than it takes at a time', async () => {
  const { app } = genmux
  const db = openDb(genmux.db.url)
  let begun = 0
  const second = createEngine({
    ...app.config,
    db,
    databaseUrl: app.databaseUrl,
    catalog: app.catalog,
    storage: app.storage,
    log: app.log,
    media: app.uploads.media,
    reached: point => void (begun += point === 'attempt-written' ? 1 : 0),
  })
  second.startLoops()
  afterAll(async () => {
    await second.stop(5_000)
    await db.close()
  })

  let most = 0
  const watching = setInterval(() => {
    most = Math.max(most, robot.tasks.all().filter(task => task.now().state !== 'succeeded').length)
  }, 5)
  const ids = await Promise.all(Array.from({ length: ORDERS }, (_, i) => genmux.place(1 + (i % 2))))
  const orders = await Promise.all(ids.map(id => genmux.ended(id, 60_000)))
  clearInterval(watching)

  expect(orders.map(({ status }) => status)).toEqual(Array(ORDERS).fill('completed'))
  expect(apixo.calls('submit')).toHaveLength(ORDERS / 2)
  expect(robot.calls('submit')).toHaveLength(ORDERS / 2)
  expect(begun).toBeGreaterThan(0)
  expect(begun).toBeLessThan(ORDERS)
  expect(most).toBeLessThanOrEqual(20)
  expect(await genmux.violations()).toEqual([])
})

test('a process that is paused past its leases loses its orders to another one, and does no harm when it wakes', {
  timeout: 120_000,
}, async () => {
  const shared = await freshDatabase()
  const [pluragen, slow] = [createPluragen(), createProgressiverobot()]
  delete slow.limits.all
  for (const simulator of [pluragen, slow]) {
    await simulator.start()
    afterAll(() => simulator.stop())
    simulator.faults.next('submit', { kind: 'slow', ms: 2_000 }, 3)
  }
  const folder = freshFolder()
  const file = join(folder, 'catalog.yaml')
  const route = (provider: string, model: string) => ({
    provider,
    model,
    input: '{ "prompt": prompt }',
    cost_usd: '0.05',
  })
  const model = (id: number, routes: unknown[]) => ({
    id,
    name: `Model ${id}`,
    type: 'image',
    price_usd: '0.06',
    routes,
  })
  const provider = (id: string, { url, apiKey }: { url: string; apiKey: string }) => ({
    id,
    kind: id,
    base_url: url,
    accounts: [{ id: 'main', api_key: apiKey }],
    limits: { requests_per_minute: 100_000 },
    poll: { ...FAST, deadline_ms: 300_000 },
  })
  const catalog = {
    providers: [provider('pluragen', pluragen), provider('progressiverobot', slow)],
    models: [model(1, [route('pluragen', '5')]), model(2, [route('progressiverobot', 'wan-t2v')])],
  }
  writeFileSync(file, JSON.stringify(catalog))
  const env = { DATABASE_URL: shared.url, DATA_DIR: folder, CATALOG_FILE: file }

  const paused = await startGenmux(env)
  const customer = await makeCustomer(paused.origin, '1.00')
  const placed = await Promise.all(
    [1, 1, 1, 2, 2, 2].map(model_id =>
      call(`${paused.origin}/api/v1/orders`, { token: customer.key, body: { model_id, prompt: 'a kite' } }),
    ),
  )
  await until(
    () => pluragen.calls('submit').length + slow.calls('submit').length,
    submits => submits === 6,
  )
  paused.child.kill('SIGSTOP')

  const other = await startGenmux(env)
  const ids = placed.map(({ json }) => json.order.id as string)
  const look = async (id: string) =>
    (await call(`${other.origin}/api/v1/orders/${id}`, { token: customer.key })).json.order
  for (const id of ids) expect(await until(() => look(id), isOver, 60_000)).toMatchObject({ status: 'completed' })
  paused.child.kill('SIGCONT')
  await new Promise(done => setTimeout(done, 3_000))

  expect(pluragen.tasks.all()).toHaveLength(3)
  expect(slow.tasks.all()).toHaveLength(3)
  for (const id of ids) expect(await look(id)).toMatchObject({ status: 'completed' })
  const attempts = await shared.prisma.attempt.findMany()
  expect(attempts.map(({ state }) => state)).toEqual(Array(6).fill('succeeded'))
  expect((await verifyLedger(shared)).filter(({ violations }) => violations > 0)).toEqual([])
  for (const process of [paused, other]) await process.signal('SIGTERM')
})
