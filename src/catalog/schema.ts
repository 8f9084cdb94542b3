import { z } from 'zod'
import { parseMoney } from '../money.ts'
import { compile, ExpressionError } from './expressions.ts'
import type { OptionSchema } from './model.ts'
import { optionMistake } from './options.ts'

/*
 * The catalog file as the operator writes it. What follows from one value alone is checked where that value is described, so
 * that one mistake hides no other; what needs several entries is checked in check.ts.
 */

const id = z.string().regex(/^[a-z0-9][a-z0-9_.-]{0,62}$/, 'must be lower-case letters, digits, "_", "-", "."')
const key = z.string().regex(/^[a-zA-Z][a-zA-Z0-9_]{0,62}$/, 'must be letters, digits and "_", beginning with a letter')
const count = z.int().min(0).max(100)

/** The wording for a value of another type, unless it is not there at all. */
const otherwise = (message: string) => ({
  error: (issue: { input?: unknown }) => (issue.input === undefined ? 'is missing' : message),
})

const Expression = z.string().superRefine((text, context) => checkSyntax(text, context))
const Money = z
  .string(otherwise('must be an amount in quotes, such as "0.05"'))
  .refine(text => (parseMoney(text) ?? -1n) >= 0n, 'must be an amount such as "0.05"')
const MoneyExpression = z
  .string(otherwise('must be in quotes: an amount such as "0.05", or an expression'))
  .superRefine((text, context) => {
    const amount = parseMoney(text)
    if (amount === undefined) checkSyntax(text, context)
    else if (amount < 0n) context.addIssue({ code: 'custom', message: 'must not be negative' })
  })

/** The types of file that POST /upload takes. */
const Extension = z.enum(['jpg', 'jpeg', 'png', 'webp', 'gif', 'heic', 'heif', 'mp4', 'mov', 'webm'])

const positive = z.int().min(1)
const Limits = z.strictObject({
  submits_per_minute: positive.optional(),
  reads_per_minute: positive.optional(),
  uploads_per_minute: positive.optional(),
  requests_per_minute: positive.optional(),
  concurrent: positive.optional(),
})

const Poll = z.strictObject({
  first_ms: positive.exactOptional(),
  every_ms: positive.exactOptional(),
  deadline_ms: positive.exactOptional(),
})

/** Strings in it may hold `${VARIABLE}`. */
export const ProviderSchema = z
  .strictObject({
    id,
    /** The adapter. */
    kind: z.string(),
    /** Origin alone. */
    base_url: z.string().optional(),
    accounts: z
      .array(z.strictObject({ id, api_key: z.string(), limits: Limits.optional() }))
      .min(1)
      .optional(),
    limits: Limits.optional(),
    poll: Poll.optional(),
    /** What the adapter's `settings` describe. */
    settings: z.record(z.string(), z.unknown()).optional(),
  })
  .superRefine((provider, context) => {
    if (provider.kind === 'sandbox') return
    if (provider.base_url === undefined) missing(context, 'base_url')
    if (provider.accounts === undefined) missing(context, 'accounts')
  })
export type ProviderFile = z.output<typeof ProviderSchema>

const value = z.union(
  [z.string(), z.number(), z.boolean(), z.null()],
  'must be a string, a number, true, false or null',
)

const Option = z
  .strictObject({
    key,
    type: z.enum(['select', 'text', 'number', 'boolean']),
    label: z.string(),
    required: z.boolean().default(false),
    default: value.optional(),
    options: z
      .array(
        z.strictObject({
          value: z.string(otherwise('must be a string (in quotes)')),
          label: z.string(otherwise('must be a string (in quotes)')),
        }),
      )
      .min(1)
      .optional(),
    min: z.number().optional(),
    max: z.number().optional(),
    step: z.number().positive().optional(),
    placeholder: z.string().optional(),
    help: z.string().optional(),
  })
  .superRefine(checkOption)

const Input = z.strictObject({
  key,
  /** Default: whether `min` is more than 0. With false, `min` holds once there is a file. */
  required: z.boolean().optional(),
  min: count.optional(),
  max: count.optional(),
  accepted: z.array(Extension).min(1).optional(),
})

const Media = z
  .strictObject({
    required: z.boolean().optional(),
    max_count: count.optional(),
    accepted: z.array(Extension).optional(),
    inputs: z.array(Input).default([]),
  })
  .transform(fillMedia)
  .superRefine(checkMedia)

const Route = z.strictObject({
  provider: z.string(),
  /** Upstream model or tool. */
  model: z.string(otherwise('must be a string (in quotes)')).min(1),
  when: Expression.optional(),
  input: Expression,
  cost_usd: MoneyExpression,
  rank: z.int().default(1),
  /** false: kept in the file, never used. */
  enabled: z.boolean().default(true),
  disabled_reason: z.string().optional(),
})

export const ModelSchema = z.strictObject({
  id: z.int().min(1).max(2_147_483_647),
  name: z.string().min(1),
  type: z.string().min(1),
  price_usd: Money,
  price: MoneyExpression.optional(),
  prompt: z
    .strictObject({
      mode: z.enum(['required', 'optional', 'ignored']),
      max_length: z.int().min(1).max(100_000).default(5_000),
    })
    .default({ mode: 'required', max_length: 5_000 }),
  media: Media.default({ required: false, max_count: 0, accepted: [], inputs: [] }),
  options_schema: z.array(Option).default([]),
  fields: z.array(z.string()).optional(),
  routing: z.enum(['auto', 'value', 'fast']).default('auto'),
  /** Share of the price that must remain, e.g. 0.1. 0: no route at a loss; `any`: every route. */
  min_margin: z.union([z.number().max(1), z.literal('any')], 'must be a number up to 1, or any').default(0),
  routes: z.array(Route).min(1),
})
export type ModelFile = z.output<typeof ModelSchema>
export type RouteFile = ModelFile['routes'][number]

export const CatalogSchema = z.strictObject({
  providers: z.array(z.unknown()).min(1),
  models: z.array(z.unknown()).min(1),
})

type Context = z.core.$RefinementCtx

function missing(context: Context, name: string): void {
  context.addIssue({ code: 'custom', path: [name], message: 'is missing' })
}

function checkSyntax(text: string, context: Context): void {
  try {
    compile(text)
  } catch (error) {
    const { message, offset } = error as ExpressionError
    context.addIssue({ code: 'custom', message: `is not JSONata: ${message}`, params: { offset } })
  }
}

function checkOption(option: OptionSchema, context: Context): void {
  const add = (path: string, message: string) => context.addIssue({ code: 'custom', path: [path], message })
  const { type, options, min, max, step } = option
  if (type === 'select' && !options) missing(context, 'options')
  if (type !== 'select' && options) add('options', 'belongs to type select only')
  const values = (options ?? []).map(choice => choice.value)
  for (const [index, text] of values.entries()) {
    if (values.indexOf(text) < index) {
      context.addIssue({
        code: 'custom',
        path: ['options', index, 'value'],
        message: `${JSON.stringify(text)} stands twice`,
      })
    }
  }
  if (type === 'select' || type === 'boolean') {
    for (const name of ['min', 'max', 'step'] as const) {
      if (option[name] !== undefined) add(name, 'belongs to types number and text only')
    }
  }
  if (type === 'text' && step !== undefined) add('step', 'belongs to type number only')
  if (min !== undefined && max !== undefined && min > max) add('min', 'is more than max')
  if (option.default === undefined || option.default === null || (type === 'select' && !options)) return
  const mistake = optionMistake(option, option.default)
  if (mistake) add('default', mistake)
}

interface MediaFile {
  required?: boolean | undefined
  max_count?: number | undefined
  accepted?: z.output<typeof Extension>[] | undefined
  inputs: z.output<typeof Input>[]
}

function fillMedia({ required, max_count, accepted, inputs }: MediaFile) {
  const most = max_count ?? inputs.reduce((sum, input) => sum + (input.max ?? 1), 0)
  const all = accepted ?? [...new Set(inputs.flatMap(input => input.accepted ?? []))]
  return {
    required: required ?? inputs.some(isRequired),
    max_count: most,
    accepted: all,
    inputs: inputs.map(input => ({
      key: input.key,
      required: isRequired(input),
      min: input.min ?? 0,
      max: input.max ?? most,
      accepted: input.accepted ?? all,
    })),
  }
}

function isRequired({ required, min }: z.output<typeof Input>): boolean {
  return required ?? (min ?? 0) > 0
}

function checkMedia(media: ReturnType<typeof fillMedia>, context: Context): void {
  const add = (path: PropertyKey[], message: string) => context.addIssue({ code: 'custom', path, message })
  const { inputs } = media
  if (media.required && inputs.length === 0) add(['required'], 'there are no inputs')
  if (media.required && inputs.length > 0 && media.max_count === 0)
    add(['max_count'], 'is 0 although files are required')
  for (const [index, input] of inputs.entries()) {
    if (inputs.findIndex(other => other.key === input.key) < index)
      add(['inputs', index, 'key'], `${input.key} stands twice`)
    if (input.min > input.max) add(['inputs', index, 'min'], 'is more than max')
    if (input.required && input.max === 0) add(['inputs', index, 'max'], 'is 0 although the input is required')
    if (input.max > media.max_count) add(['inputs', index, 'max'], `is more than max_count (${media.max_count})`)
    if (input.accepted.length === 0) add(['inputs', index], 'accepts no file type')
    const stray = input.accepted.find(extension => !media.accepted.includes(extension))
    if (stray) add(['inputs', index, 'accepted'], `${stray} is not among media.accepted`)
  }
  const least = inputs.reduce((sum, input) => sum + (input.required ? Math.max(1, input.min) : 0), 0)
  if (least > media.max_count) add(['max_count'], `is less than the inputs need (${least})`)
}
