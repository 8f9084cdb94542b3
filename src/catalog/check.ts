import type { z } from 'zod'
import type { Provider } from '../providers/provider.ts'
import { checkVariables, type Complaint, type Environment, resolveProvider } from './accounts.ts'
import type { ProviderEntry } from './model.ts'
import { rehearse } from './rehearsal.ts'
import { CatalogSchema, type ModelFile, ModelSchema, ProviderSchema } from './schema.ts'
import { type Mistake, type Path, readSource } from './source.ts'

export type Adapters = ReadonlyMap<string, Provider>

/** A catalog file without mistakes. */
export interface CatalogFile {
  readonly providers: readonly ProviderEntry[]
  readonly models: readonly ModelFile[]
}

type Report = (path: Path, message: string, where?: { key?: boolean; offset?: number | undefined }) => void

/** Finds every mistake of a catalog's text, in the order of its lines; `file` when there is none. */
export async function checkText(
  text: string,
  env: Environment,
  adapters: Adapters,
): Promise<{ mistakes: Mistake[]; file?: CatalogFile }> {
  const { source, mistakes } = readSource(text)
  if (!source) return { mistakes }
  const report: Report = (path, message, where) => {
    const name = path
      .map(step => (typeof step === 'number' ? `[${step}]` : `.${String(step)}`))
      .join('')
      .slice(1)
    const mistake = source.mistake(path, name === '' ? message : `${name}: ${message}`, where)
    // An aliased value is wrong once, however often it is used.
    const same = (other: Mistake) => other.line === mistake.line && other.column === mistake.column
    if (!mistakes.some(other => same(other) && other.message.endsWith(`: ${message}`))) mistakes.push(mistake)
  }

  const lists = validate(CatalogSchema, source.data, [], report)
  const data = (lists ?? source.data) as { providers?: unknown; models?: unknown } | null
  const rawProviders = Array.isArray(data?.providers) ? data.providers : []
  const rawModels = Array.isArray(data?.models) ? data.models : []
  const providers = rawProviders.map((raw, index) => checkProvider(raw, index, env, adapters, report))
  unique(rawProviders, ['providers'], report)
  const known = new Set(rawProviders.map(raw => memberOf(raw, 'id')))
  const models = rawModels.map((raw, index) => checkModel(raw, index, known, report))
  unique(rawModels, ['models'], report)
  for (const [index, model] of models.entries()) {
    if (model) await rehearse(model, (path, message) => report(['models', index, ...path], message))
  }
  mistakes.sort((a, b) => a.line - b.line || a.column - b.column)
  if (mistakes.length > 0) return { mistakes }
  return {
    mistakes,
    file: { providers: providers.filter(p => p !== undefined), models: models.filter(m => m !== undefined) },
  }
}

function checkProvider(
  raw: unknown,
  index: number,
  env: Environment,
  adapters: Adapters,
  report: Report,
): ProviderEntry | undefined {
  const path = ['providers', index]
  const file = validate(ProviderSchema, raw, path, report)
  const kind = memberOf(raw, 'kind')
  const adapter = adapters.get(String(kind))
  if (typeof kind === 'string' && !adapter) {
    report([...path, 'kind'], `there is no adapter ${kind}; there are ${[...adapters.keys()].sort().join(', ')}`)
  }
  const accounts = memberOf(raw, 'accounts')
  if (Array.isArray(accounts)) unique(accounts, [...path, 'accounts'], report)
  const complain = ({ path: below, message }: Complaint) => report([...path, ...below], message)
  if (file && adapter) return resolveProvider(file, adapter, env, complain)
  if (file) checkVariables(file, complain)
  return undefined
}

function checkModel(raw: unknown, index: number, known: ReadonlySet<unknown>, report: Report): ModelFile | undefined {
  const path = ['models', index]
  const routes = memberOf(raw, 'routes')
  for (const [at, route] of (Array.isArray(routes) ? routes : []).entries()) {
    const provider = memberOf(route, 'provider')
    if (typeof provider === 'string' && !known.has(provider)) {
      report([...path, 'routes', at, 'provider'], `there is no provider ${provider}`)
    }
  }
  const options = memberOf(raw, 'options_schema')
  if (Array.isArray(options)) unique(options, [...path, 'options_schema'], report, 'key')
  return validate(ModelSchema, raw, path, report)
}

/** Reports each issue where it stands. The names of missing and of unknown members are part of the message. */
function validate<T extends z.ZodType>(schema: T, raw: unknown, path: Path, report: Report): z.output<T> | undefined {
  const parsed = schema.safeParse(raw, { error: wording })
  for (const issue of parsed.error?.issues ?? []) {
    const at = [...path, ...issue.path]
    if (issue.code === 'unrecognized_keys') {
      for (const key of issue.keys) report([...at, key], 'is not a field of the catalog', { key: true })
    } else {
      report(at, issue.message, {
        offset: issue.code === 'custom' ? (issue.params?.offset as number | undefined) : undefined,
      })
    }
  }
  return parsed.data
}

const wording: z.core.$ZodErrorMap = issue => {
  if (issue.code !== 'invalid_type' && issue.code !== 'invalid_value') return undefined
  if (issue.input === undefined) return 'is missing'
  if (issue.code === 'invalid_value')
    return `must be ${issue.values
      .map(String)
      .join(', ')
      .replace(/, ([^,]*)$/, ' or $1')}`
  const names: Record<string, string> = {
    object: 'a mapping',
    record: 'a mapping',
    array: 'a list',
    int: 'a whole number',
  }
  return `must be ${names[issue.expected] ?? `a ${issue.expected}`}`
}

function unique(entries: readonly unknown[], path: Path, report: Report, name: 'id' | 'key' = 'id'): void {
  const seen = new Set<unknown>()
  for (const [index, entry] of entries.entries()) {
    const value = memberOf(entry, name)
    if (value !== undefined && seen.has(value)) report([...path, index, name], `${JSON.stringify(value)} stands twice`)
    seen.add(value)
  }
}

function memberOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined
}
