#!/usr/bin/env node
import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Command } from 'commander'
import { ADMIN_TOKEN_FILE } from './admin-token.ts'
import { type Answer, adminClient, type Client, findCustomer, readAll } from './cli/client.ts'
import { story, table } from './cli/print.ts'
import { type Config, readConfig } from './config.ts'
import { StartError } from './errors.ts'

/*
 * The genmux command. Administrative verbs speak the admin API of a running server; migrate, ledger verify and catalog
 * check need none. What they load heavily is imported only by them.
 */

interface Settings {
  readonly json?: true
  readonly url?: string
  readonly token?: string
}

function buildProgram(): Command {
  const program = new Command('genmux')
    .description('Gateway for reselling AI generations.')
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'genmux: ')) })

  program
    .command('serve')
    .description('start the server')
    .option('--json', 'greet in JSON')
    .action(async (settings: Settings) => (await import('./main.ts')).main(settings))

  local(program.command('migrate'))
    .description('bring the database to the schema of this version')
    .action((settings: Settings) => migrateDatabase(settings))

  local(program.command('catalog').description('the file of what is sold').command('check'))
    .argument('[file]', 'default: CATALOG_FILE, or the shipped catalog')
    .description('explain every mistake of a catalog file, with its line')
    .action((file: string | undefined, settings: Settings) => check(file, settings))

  local(program.command('ledger').description('the money').command('verify'))
    .description('recompute every invariant; exit code 1 on a violation')
    .action((settings: Settings) => verify(settings))

  const customer = program.command('customer').description('resellers')
  remote(customer.command('create'))
    .argument('<name>')
    .option('--max-active-orders <count>', 'default: 1000', wholeNumber)
    .option('--rate-limit <per-minute>', "default: the server's", wholeNumber)
    .description('create a customer')
    .action(createCustomer)
  remote(customer.command('list')).description('list customers').action(listCustomers)

  const key = program.command('key').description('API keys')
  remote(key.command('create'))
    .argument('<customer>', 'id, or a name that only one has')
    .option('--name <name>', 'what it is for', 'default')
    .option('--scopes <list>', 'read, generate or both', 'read,generate')
    .description('create an API key; its secret is shown only here')
    .action(createKey)
  remote(key.command('revoke')).argument('<key>', 'id of the key').description('revoke an API key').action(revokeKey)

  remote(program.command('topup'))
    .argument('<customer>', 'id, or a name that only one has')
    .argument('<amount>', 'US dollars, e.g. 25.00')
    .option('--reference <text>', 'e.g. the number of a payment')
    .option('--key <key>', 'Idempotency-Key: the same one tops up once (default: a new one)')
    .description('top up a balance')
    .action(topUp)

  remote(program.command('order').description('orders').command('show'))
    .argument('<id>')
    .description('what happened to an order, and when')
    .action(showOrder)

  remote(program.command('providers')).description('health, budgets and spending of providers').action(listProviders)
  return program
}

const local = (command: Command) => command.option('--json', 'print JSON')
const remote = (command: Command) =>
  local(command)
    .option('--url <url>', 'of the server (default: GENMUX_URL, or localhost and PORT)')
    .option('--token <token>', 'admin token (default: ADMIN_TOKEN, or the one kept under DATA_DIR)')

async function migrateDatabase(settings: Settings): Promise<void> {
  const [{ withDatabase }, { migrate }] = await Promise.all([import('./cli/database.ts'), import('./db/migrate.ts')])
  const applied = await withDatabase(readConfig(process.env), { create: true }, migrate)
  print(settings, { applied }, () => (applied.length > 0 ? `applied ${applied.join(', ')}` : 'nothing to apply'))
}

async function check(file: string | undefined, settings: Settings): Promise<void> {
  const { checkCatalog, SHIPPED_CATALOG } = await import('./catalog/catalog.ts')
  const path = file ?? readConfig(process.env).catalogFile ?? SHIPPED_CATALOG
  const { mistakes, catalog } = await checkCatalog(path, process.env)
  if (mistakes.length > 0) process.exitCode = 1
  print(settings, { mistakes, catalog: catalog ?? null }, () => {
    if (!catalog) return mistakes.map(({ line, column, message }) => `${path}:${line}:${column}: ${message}`).join('\n')
    const off = catalog.unusable.map(({ model, provider, route, reason }) => [model, provider, route, reason])
    const summary = `${path} is correct: ${catalog.models} models (${catalog.sold} can be sold here), ${catalog.routes} routes, ${catalog.providers} providers`
    return off.length > 0 ? `${summary}\n\n${table(['MODEL', 'PROVIDER', 'ROUTE', 'NOT USED BECAUSE'], off)}` : summary
  })
}

async function verify(settings: Settings): Promise<void> {
  const [{ withDatabase }, { openDb }, { verifyLedger }] = await Promise.all([
    import('./cli/database.ts'),
    import('./db/pool.ts'),
    import('./ledger/verify.ts'),
  ])
  const invariants = await withDatabase(readConfig(process.env), { create: false }, async url => {
    const db = openDb(url, { max: 1, applicationName: 'genmux-verify' })
    try {
      return await verifyLedger(db)
    } finally {
      await db.close()
    }
  })
  const sound = invariants.every(({ violations }) => violations === 0)
  if (!sound) process.exitCode = 1
  print(settings, { sound, invariants }, () =>
    invariants
      .map(({ invariant, violations, examples }) =>
        [
          violations === 0 ? `ok    ${invariant}` : `WRONG ${invariant}: ${violations}`,
          ...examples.map(e => `        ${e}`),
        ].join('\n'),
      )
      .concat(sound ? 'The ledger is sound.' : 'The ledger is NOT sound.')
      .join('\n'),
  )
}

async function createCustomer(name: string, settings: Settings & { maxActiveOrders?: number; rateLimit?: number }) {
  const { maxActiveOrders, rateLimit } = settings
  const client = await connect(settings)
  const answer = await client.send('POST', '/customers', {
    name,
    ...(maxActiveOrders === undefined ? {} : { max_active_orders: maxActiveOrders }),
    ...(rateLimit === undefined ? {} : { rate_limit_per_minute: rateLimit }),
  })
  print(settings, answer, () => customers([answer.customer]))
}

async function listCustomers(settings: Settings): Promise<void> {
  const rows = await readAll(await connect(settings), '/customers', 'customers')
  print(settings, { customers: rows }, () => customers(rows))
}

function customers(rows: Answer[]): string {
  return table(
    ['CUSTOMER', 'NAME', 'STATUS', 'BALANCE', 'HELD', 'ACTIVE', 'MAX ACTIVE'],
    rows.map(c => [c.id, c.name, c.status, c.balance_usd, c.held_usd, c.active_orders, c.max_active_orders]),
  )
}

async function createKey(customer: string, settings: Settings & { name: string; scopes: string }): Promise<void> {
  const client = await connect(settings)
  const id = await findCustomer(client, customer)
  const scopes = settings.scopes.split(',').map(scope => scope.trim())
  const answer = await client.send('POST', `/customers/${encodeURIComponent(id)}/keys`, { name: settings.name, scopes })
  print(
    settings,
    answer,
    () =>
      `${answer.key.secret}\n\nkey ${answer.key.id} (${answer.key.scopes.join(', ')}). The secret is not shown again.`,
  )
}

async function revokeKey(key: string, settings: Settings): Promise<void> {
  const answer = await (await connect(settings)).send('DELETE', `/keys/${encodeURIComponent(key)}`)
  print(settings, answer, () => `key ${answer.key.id} (${answer.key.prefix}…) revoked at ${answer.key.revoked_at}`)
}

async function topUp(customer: string, amount: string, settings: Settings & { reference?: string; key?: string }) {
  const client = await connect(settings)
  const id = await findCustomer(client, customer)
  const { reference, key = randomUUID() } = settings
  const body = { amount_usd: amount, ...(reference === undefined ? {} : { reference }) }
  const answer = await client.send('POST', `/customers/${encodeURIComponent(id)}/topups`, body, {
    'idempotency-key': key,
  })
  print(settings, answer, () => `${id}: ${answer.topup.amount_usd} added, balance ${answer.topup.balance_usd}`)
}

async function showOrder(id: string, settings: Settings): Promise<void> {
  const answer = await (await connect(settings)).send('GET', `/orders/${encodeURIComponent(id)}`)
  print(settings, answer, () => story(answer.order))
}

async function listProviders(settings: Settings): Promise<void> {
  const answer = await (await connect(settings)).send('GET', '/providers')
  print(settings, answer, () =>
    table(
      ['PROVIDER', 'ACCOUNT', 'STATE', 'BREAKER', 'IN FLIGHT', 'LEFT THIS MINUTE', 'SPENT', 'ROUTES', 'OFF'],
      answer.providers.flatMap((p: Answer) =>
        p.accounts.map((a: Answer) => [
          p.id,
          a.id,
          p.enabled ? (a.configured ? 'on' : 'no key') : 'off',
          a.breaker.reason === null ? a.breaker.state : `${a.breaker.state} (${a.breaker.reason})`,
          a.in_flight,
          a.budgets.map((b: Answer) => `${b.window} ${b.left}/${b.limit}`).join(', '),
          a.spent_usd,
          p.routes,
          p.routes_off.length,
        ]),
      ),
    ),
  )
}

async function connect(settings: Settings): Promise<Client> {
  const config = readConfig(process.env)
  const url = settings.url ?? (process.env.GENMUX_URL || `http://localhost:${config.port}`)
  return adminClient(url, settings.token ?? (await findToken(config)))
}

async function findToken(config: Config): Promise<string> {
  if (config.adminToken !== undefined) return config.adminToken
  const file = join(config.dataDir, ADMIN_TOKEN_FILE)
  const kept = await readFile(file, 'utf8').catch(() => undefined)
  if (kept === undefined)
    throw new StartError(`no admin token: set ADMIN_TOKEN, pass --token, or run where ${file} can be read`)
  return kept.trim()
}

function print(settings: Settings, value: object, text: () => string): void {
  process.stdout.write(`${settings.json ? JSON.stringify(value, null, 2) : text()}\n`)
}

function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new StartError(`${text} is not a whole number`)
  return Number(text)
}

if (Number.parseInt(process.versions.node, 10) < 24) {
  process.stderr.write(`genmux: needs Node 24 and this is ${process.versions.node}: use npm run genmux -- …\n`)
  process.exit(1)
}
try {
  await buildProgram().parseAsync()
} catch (error) {
  process.stderr.write(`genmux: ${(error as Error).message || String(error)}\n`)
  process.exitCode = 1
}
