import { z } from 'zod'

const choice = (...values: [string, ...string[]]) =>
  z.preprocess(value => (typeof value === 'number' ? String(value) : value), z.enum(values))
const ratio = choice('16:9', '1:1', '21:9', '2:3', '3:2', '3:4', '4:3', '9:16')
const pixels = z.int().positive()
const EDIT_MODELS = [
  'NANO_BANANA',
  'QWEN_IMAGE',
  'QWEN_IMAGE_PRO',
  'SEEDREAM_5',
  'WAN_2_7_IMAGE',
  'WAN_2_7_IMAGE_PRO',
] as const

/** The documented inputs. `model` may be left out, as there; the default is why we must not. */
export const tools: Record<string, z.ZodObject> = {
  by_prompt: z.strictObject({
    positive_prompt: z.string().min(1),
    negative_prompt: z.string().optional(),
    batch_size: z.int().positive().optional(),
    model: z.enum(['GENERAL_SFW', 'WAN', ...EDIT_MODELS]).optional(),
    ratio: ratio.optional(),
    mode: z.enum(['fast', 'quality']).optional(),
    width: pixels.nullish(),
    height: pixels.nullish(),
  }),
  image_editor: z.strictObject({
    image_assets: z.array(z.string()).min(1),
    prompt: z.string().min(1),
    model: z.enum(EDIT_MODELS).optional(),
    ratio: ratio.nullish(),
    width: pixels.optional(),
    height: pixels.optional(),
    batch_mode: z.boolean().optional(),
    number_of_images: z.int().positive().optional(),
    sequential_generation: z.boolean().optional(),
  }),
  upscaler: z.strictObject({
    image_asset: z.string(),
    version: choice(
      'basic',
      'basic_safe_face',
      'natural_clarity',
      'premium_realism',
      'premium_safe_face',
      'ultra_clarity',
    ).optional(),
    megapixels: choice('4', '8', '16', '24', '32').optional(),
    creativity: choice('0', '1', '2', '3', '4', '5').optional(),
  }),
  videogen: z
    .strictObject({
      ref_asset: z.string(),
      model: choice(
        'grok@4.1',
        'kling@1.6',
        'kling@2.1',
        'kling@2.5',
        'kling@2.6',
        'seedance_pro',
        'seedance_pro_fast',
        'seedance_v1_5_pro',
        'wan@2.2',
        'wan@2.5',
        'wan@2.6',
        'wan@2.6-flash',
        'wan@2.7',
      ).optional(),
      last_frame: z.string().nullish(),
      audio_asset: z.string().nullish(),
      prompt: z.string().optional(),
      negative_prompt: z.string().optional(),
      duration: choice('5', '6', '8', '10', '12', '15').optional(),
      resolution: choice('480p', '720p', '1080p').optional(),
      generate_audio: z.boolean().optional(),
      camera_fixed: z.boolean().optional(),
      prompt_extend: z.boolean().optional(),
    })
    .refine(
      ({ model, resolution }) =>
        !(resolution === '480p' && /^(wan@2\.[67]|seedance_v1)/.test(`${model}`)) &&
        !(resolution === '1080p' && model === 'grok@4.1'),
      { path: ['resolution'], message: 'Not supported by this model' },
    ),
  video_upscaler: z.strictObject({ video_asset: z.string(), scale_factor: z.string().optional() }),
}
