import { asFields, compile, compileMoney, ExpressionError } from './expressions.ts'
import type { MediaElement, OptionSchema, OrderInput } from './model.ts'
import type { ModelFile } from './schema.ts'
import type { Path } from './source.ts'

/** An order that gives only what it must, so that a file's expressions can be tried before a customer does. */
export function plainOrder(model: Pick<ModelFile, 'prompt' | 'media' | 'options_schema'>): OrderInput {
  const files = model.media.inputs.map(input => {
    const wanted = input.required ? Math.max(1, input.min) : 0
    return [input.key, Array.from({ length: wanted }, () => sampleFile(input.accepted[0] ?? 'png'))] as const
  })
  const [first] = files
  if (model.media.required && first && files.every(([, list]) => list.length === 0)) {
    const [input] = model.media.inputs
    for (let n = 0; n < Math.max(1, input?.min ?? 1); n++) first[1].push(sampleFile(input?.accepted[0] ?? 'png'))
  }
  const options = model.options_schema.map(option => [option.key, plainValue(option)] as const)
  return {
    ...(model.prompt.mode === 'required' ? { prompt: 'a lighthouse at dusk' } : {}),
    media: Object.fromEntries(files),
    options: Object.fromEntries(options.filter(([, value]) => value !== undefined)) as OrderInput['options'],
  }
}

/** Tries a model's expressions with a plain order and tells what would have failed. */
export async function rehearse(model: ModelFile, report: (path: Path, message: string) => void): Promise<void> {
  const order = plainOrder(model)
  const attempt = async (path: Path, run: () => Promise<unknown>): Promise<unknown> => {
    try {
      return await run()
    } catch (error) {
      if (!(error instanceof ExpressionError || error instanceof RangeError)) throw error
      report(path, `fails for an order with default options: ${error.message}`)
      return undefined
    }
  }
  const { price } = model
  if (price !== undefined) await attempt(['price'], () => compileMoney(price)(order))
  for (const [index, route] of model.routes.entries()) {
    const path = ['routes', index]
    const { when } = route
    if (when !== undefined && !(await attempt([...path, 'when'], () => compile(when).evaluate(order)))) continue
    await attempt([...path, 'input'], async () => asFields(await compile(route.input).evaluate(order)))
    await attempt([...path, 'cost_usd'], () => compileMoney(route.cost_usd)(order))
  }
}

function plainValue(option: OptionSchema): string | number | boolean | undefined {
  if (option.default !== undefined && option.default !== null) return option.default
  if (!option.required) return undefined
  const values = {
    select: option.options?.[0]?.value,
    text: 'text',
    number: option.min ?? option.max ?? 1,
    boolean: false,
  }
  return values[option.type]
}

function sampleFile(extension: string): MediaElement {
  return {
    upload: '00000000-0000-4000-8000-000000000000',
    mime_type: ['mp4', 'mov', 'webm'].includes(extension) ? 'video/mp4' : 'image/png',
    extension,
    size: 1_000_000,
    width: 1024,
    height: 1024,
  }
}
