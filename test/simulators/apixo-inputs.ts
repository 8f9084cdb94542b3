import { z } from 'zod'

const urls = z.array(z.url({ protocol: /^https?$/ }))
/** The one model whose parameters are documented. */
const nanoBananaPro = z
  .strictObject({
    mode: z.enum(['text-to-image', 'image-to-image']),
    prompt: z.string().min(1),
    aspect_ratio: z.enum(['1:1', '3:2', '16:9', '9:16', '21:9']).optional(),
    resolution: z.enum(['1K', '2K', '4K']).optional(),
    image_urls: urls.max(10).optional(),
    output_format: z.enum(['png', 'jpeg']).optional(),
  })
  .refine(input => input.mode === 'text-to-image' || input.image_urls?.length, { message: 'image_urls is required' })
const other = z.looseObject({
  mode: z.string().optional(),
  prompt: z.string().min(1),
  image_urls: urls.max(14).optional(),
})

/** By model. */
export const inputs: Record<string, z.ZodType<{ image_urls?: string[] | undefined }>> = {
  'nano-banana-pro': nanoBananaPro,
  'nano-banana': other,
  'nano-banana-2': other,
  'seedream-5-0': other,
  flux2: other,
  'wan-2-5': other,
  'kling-2-1': other,
}

/** The body of a submit. */
export const submitBody = z
  .strictObject({
    request_type: z.enum(['async', 'callback']).default('async'),
    callback_url: z.url({ protocol: /^https?$/ }).optional(),
    provider: z.enum(['auto', 'value', 'official']).default('auto'),
    input: z.record(z.string(), z.unknown()),
  })
  .refine(body => body.request_type === 'async' || body.callback_url, { message: 'callback_url is required' })
