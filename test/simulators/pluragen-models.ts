const PICTURES = ['jpg', 'jpeg', 'png', 'webp']

export interface SimModel {
  readonly id: number
  readonly name: string
  readonly type: string
  readonly price_usd: string
  readonly fields: readonly string[]
  readonly prompt: { readonly mode: 'required' | 'optional' | 'ignored' }
  readonly media: {
    readonly required: boolean
    readonly max_count: number
    readonly accepted: readonly string[]
    readonly inputs: readonly SimMediaInput[]
  }
  readonly options_schema: readonly SimOption[]
}

export interface SimMediaInput {
  readonly key: string
  readonly required: boolean
  readonly min: number
  readonly max: number
  readonly accepted: readonly string[]
}

interface SimOption {
  readonly key: string
  readonly type: 'select'
  readonly label: string
  readonly required: boolean
  readonly default: string
  readonly options: readonly { readonly value: string; readonly label: string }[]
}

/** The models of the document's examples. */
export const MODELS: readonly SimModel[] = [
  {
    id: 20,
    name: 'Nano Banana',
    type: 'image',
    price_usd: '0.05',
    fields: ['prompt', 'aspect_ratio', 'output_format', 'media'],
    prompt: { mode: 'required' },
    media: { required: false, max_count: 6, accepted: PICTURES, inputs: [picture('image', 0, 6)] },
    options_schema: [
      select('aspect_ratio', 'match_input_image', '1:1', '16:9', '9:16', '3:2', '21:9'),
      select('output_format', 'png', 'jpg'),
    ],
  },
  {
    id: 3,
    name: 'Two Pictures',
    type: 'image',
    price_usd: '0.08',
    fields: ['prompt', 'media'],
    prompt: { mode: 'optional' },
    media: {
      required: true,
      max_count: 2,
      accepted: PICTURES,
      inputs: [picture('character_image', 1, 1), picture('target_image', 1, 1)],
    },
    options_schema: [],
  },
  {
    id: 5,
    name: 'Prompt Only',
    type: 'image',
    price_usd: '0.04',
    fields: ['prompt', 'aspect_ratio', 'output_format'],
    prompt: { mode: 'required' },
    media: { required: false, max_count: 0, accepted: [], inputs: [] },
    options_schema: [select('aspect_ratio', '1:1', '16:9', '9:16'), select('output_format', 'jpg', 'png')],
  },
  {
    id: 7,
    name: 'Image Upscaler',
    type: 'upscale',
    price_usd: '0.06',
    fields: ['media', 'upscale_factor'],
    prompt: { mode: 'ignored' },
    media: { required: true, max_count: 1, accepted: PICTURES, inputs: [picture('image', 1, 1)] },
    options_schema: [select('upscale_factor', 'x2', 'x4')],
  },
]

function picture(key: string, min: number, max: number): SimMediaInput {
  return { key, required: min > 0, min, max, accepted: PICTURES }
}

/** The first value is the default. */
function select(key: string, first: string, ...others: string[]): SimOption {
  const options = [first, ...others].map(value => ({ value, label: value }))
  return { key, type: 'select', label: key, required: false, default: first, options }
}
