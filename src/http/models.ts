import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod'
import { z } from 'zod'
import type { Catalog, Model } from '../catalog/model.ts'
import { formatMoney } from '../money.ts'
import { money, refusals } from './answers.ts'
import type { App } from './app.ts'

const modelAnswer = z
  .object({
    id: z.int().describe('For `model_id` of an order.'),
    name: z.string(),
    type: z.string().describe('General category, such as image, video, upscale or remove_bg.'),
    price_usd: money.describe('Price of one generation with default options; POST /quote tells it for any order.'),
    fields: z.array(z.string()).readonly().describe('Request fields that the model takes.'),
    prompt: z.object({ mode: z.enum(['required', 'optional', 'ignored']) }),
    media: z.object({
      required: z.boolean(),
      max_count: z.int(),
      accepted: z.array(z.string()).readonly(),
      inputs: z
        .array(
          z.object({
            key: z.string(),
            required: z.boolean(),
            min: z.int(),
            max: z.int(),
            accepted: z.array(z.string()).readonly(),
          }),
        )
        .readonly(),
    }),
    options_schema: z
      .array(
        z.object({
          key: z.string(),
          type: z.enum(['select', 'text', 'number', 'boolean']),
          label: z.string(),
          required: z.boolean(),
          default: z.union([z.string(), z.number(), z.boolean()]).nullish(),
          options: z
            .array(z.object({ value: z.string(), label: z.string() }))
            .readonly()
            .optional(),
          min: z.number().optional(),
          max: z.number().optional(),
          step: z.number().optional(),
          placeholder: z.string().optional(),
          help: z.string().optional(),
        }),
      )
      .readonly()
      .describe('What may be sent in `options`.'),
  })
  .meta({ id: 'Model' })

/** Whether an order of this model can be made at all: the provider of some usable route is not switched off. */
export function isSold(catalog: Catalog, model: Model, off: ReadonlySet<string>): boolean {
  return catalog.usableRoutes(model).some(route => !off.has(route.provider.id))
}

/** GET /models: what can be ordered. */
export function modelRoutes(app: App): FastifyPluginAsyncZod {
  return async server => {
    server.get(
      '/models',
      {
        config: { scope: 'read' },
        schema: {
          tags: ['Orders'],
          operationId: 'listModels',
          summary: 'Models that can be ordered',
          response: {
            200: z.object({ success: z.literal(true), models: z.array(modelAnswer) }).describe('The models.'),
            ...refusals([]),
          },
        },
      },
      async () => {
        const off = await app.switches.off()
        const models = [...app.catalog.models.values()].filter(model => isSold(app.catalog, model, off)).map(view)
        return { success: true as const, models }
      },
    )
  }
}

function view(model: Model): z.infer<typeof modelAnswer> {
  return {
    id: model.id,
    name: model.name,
    type: model.type,
    price_usd: formatMoney(model.price),
    fields: model.fields,
    prompt: { mode: model.prompt.mode },
    media: {
      required: model.media.required,
      max_count: model.media.maxCount,
      accepted: model.media.accepted,
      inputs: model.media.inputs,
    },
    options_schema: model.options,
  }
}
