import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { StartError } from '../errors.ts'
import { providers as registry } from '../providers/registry.ts'
import { type Environment, hasKey, reachesMedia, whyUnusable } from './accounts.ts'
import { type Adapters, type CatalogFile, checkText } from './check.ts'
import { asFields, compile, compileMoney } from './expressions.ts'
import type { Catalog, Model, ProviderEntry, Route } from './model.ts'
import { plainOrder } from './rehearsal.ts'
import type { ModelFile, RouteFile } from './schema.ts'
import type { Mistake } from './source.ts'

/** The catalog that comes with genmux. */
export const SHIPPED_CATALOG = fileURLToPath(new URL('catalog.yaml', import.meta.url))

export interface CatalogOptions {
  /** Where `${VARIABLE}` is looked up. */
  readonly env: Environment
  /** undefined: on only while no account of another provider has a key. */
  readonly sandbox: 'on' | 'off' | undefined
  /** Whether upstreams can fetch files from us. */
  readonly publicUrlIsSet: boolean
  /** By kind; default: every adapter of the registry. */
  readonly adapters?: Adapters
}

/** Reads and builds a catalog; `file` undefined: the shipped one. Throws StartError naming the first mistake. */
export async function loadCatalog(file: string | undefined, options: CatalogOptions): Promise<Catalog> {
  const path = file ?? SHIPPED_CATALOG
  const { mistakes, read } = await readCatalog(path, options.env, options.adapters ?? registry)
  const [first] = mistakes
  if (first) {
    const more = mistakes.length > 1 ? ` (and ${mistakes.length - 1} more: genmux catalog check ${path})` : ''
    const variable = file === undefined ? '' : 'CATALOG_FILE '
    throw new StartError(`${variable}${path}:${first.line}:${first.column}: ${first.message}${more}`)
  }
  return build(read as CatalogFile, options)
}

/** What a correct catalog offers. */
export interface CatalogSummary {
  readonly providers: number
  readonly models: number
  readonly routes: number
  /** Models with at least one usable route. */
  readonly sold: number
  readonly unusable: readonly {
    readonly model: number
    readonly provider: string
    readonly route: string
    readonly reason: string
  }[]
}

/** Every mistake of a catalog file, in the order of its lines; without any, what the file offers in this environment. */
export async function checkCatalog(
  file: string | undefined,
  env: Environment,
  adapters: Adapters = registry,
): Promise<{ mistakes: readonly Mistake[]; catalog?: CatalogSummary }> {
  const { mistakes, read } = await readCatalog(file ?? SHIPPED_CATALOG, env, adapters)
  if (!read) return { mistakes }
  const sandbox = env.SANDBOX === 'on' || env.SANDBOX === 'off' ? env.SANDBOX : undefined
  const catalog = await build(read, { sandbox, publicUrlIsSet: false })
  const models = [...catalog.models.values()]
  const routes = models.flatMap(model => model.routes.map(route => ({ model: model.id, route })))
  const unusable = routes.flatMap(({ model, route }) =>
    route.unusable === undefined
      ? []
      : [{ model, provider: route.provider.id, route: route.upstreamModel, reason: route.unusable }],
  )
  const sold = models.filter(model => catalog.usableRoutes(model).length > 0).length
  return {
    mistakes,
    catalog: { providers: catalog.providers.size, models: models.length, routes: routes.length, sold, unusable },
  }
}

async function readCatalog(
  path: string,
  env: Environment,
  adapters: Adapters,
): Promise<{ mistakes: Mistake[]; read?: CatalogFile }> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const reason = { ENOENT: 'there is no such file', EACCES: 'it may not be read', EISDIR: 'it is a directory' }[
      code ?? ''
    ]
    return { mistakes: [{ line: 1, column: 1, message: `the catalog cannot be read: ${reason ?? message}` }] }
  }
  const { mistakes, file } = await checkText(text, env, adapters)
  return { mistakes, ...(file ? { read: file } : {}) }
}

async function build(file: CatalogFile, options: Pick<CatalogOptions, 'sandbox' | 'publicUrlIsSet'>): Promise<Catalog> {
  const providers = new Map(file.providers.map(provider => [provider.id, provider]))
  const sandboxOn = options.sandbox === undefined ? !hasKey(providers.values()) : options.sandbox === 'on'
  const built = await Promise.all(
    file.models.map(async model => {
      const routes = model.routes.map(route => {
        const provider = providers.get(route.provider) as ProviderEntry
        return buildRoute(route, provider, { sandboxOn, publicUrlIsSet: options.publicUrlIsSet })
      })
      return buildModel(model, routes)
    }),
  )
  return {
    models: new Map(built.map(model => [model.id, model])),
    providers,
    usableRoutes: model => model.routes.filter(route => route.unusable === undefined),
  }
}

async function buildModel(file: ModelFile, routes: readonly Route[]): Promise<Model> {
  const priceOf = compileMoney(file.price ?? file.price_usd)
  const { prompt, media, options_schema: options } = file
  const fields = [
    ...(prompt.mode === 'ignored' ? [] : ['prompt']),
    ...options.map(option => option.key),
    ...(media.inputs.length > 0 ? ['media'] : []),
  ]
  return {
    id: file.id,
    name: file.name,
    type: file.type,
    price: await priceOf(plainOrder(file)),
    priceOf,
    prompt: { mode: prompt.mode, maxLength: prompt.max_length },
    media: { required: media.required, maxCount: media.max_count, accepted: media.accepted, inputs: media.inputs },
    options,
    fields: file.fields ?? fields,
    routing: file.routing,
    minMargin: file.min_margin === 'any' ? Number.NEGATIVE_INFINITY : file.min_margin,
    routes,
  }
}

function buildRoute(
  file: RouteFile,
  provider: ProviderEntry,
  { sandboxOn, publicUrlIsSet }: { sandboxOn: boolean; publicUrlIsSet: boolean },
): Route {
  const when = file.when === undefined ? undefined : compile(file.when)
  const input = compile(file.input)
  const mediaReach = reachesMedia(provider, publicUrlIsSet)
  return {
    provider,
    upstreamModel: file.model,
    rank: file.rank,
    async eligible(order) {
      if (!mediaReach && Object.values(order.media).some(files => files.length > 0)) return false
      if (!when) return true
      try {
        return Boolean(await when.evaluate(order))
      } catch {
        return false
      }
    },
    inputOf: async order => asFields(await input.evaluate(order)),
    costOf: compileMoney(file.cost_usd),
    unusable: file.enabled
      ? whyUnusable(provider, file.model, sandboxOn)
      : (file.disabled_reason ?? 'disabled in the catalog'),
  }
}
