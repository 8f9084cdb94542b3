/** The addresses of the upstreams, and whether the slow synchronous one takes part. */
export interface CatalogOf {
  readonly origins: Readonly<Record<'pluragen' | 'zencreator' | 'apixo' | 'progressiverobot', string>>
  /** Its answers may take minutes, so short runs do without. */
  readonly oneshot: string | undefined
  /** How long an upstream may take, ms. */
  readonly deadlineMs: number
}

export const MODEL_IDS = [1, 2, 3, 4, 5] as const
export const ONESHOT_MODEL_ID = 6
/** Takes a file. */
export const EDIT_MODEL_ID = 4

const LIMITS =
  '{ requests_per_minute: 60000, submits_per_minute: 60000, reads_per_minute: 60000, uploads_per_minute: 60000, concurrent: 500 }'

/** Models whose routes lead from upstreams with idempotency to those without, and the other way round. */
export function catalog({ origins, oneshot, deadlineMs }: CatalogOf): string {
  const provider = (kind: keyof CatalogOf['origins'], more = '') => `
  - id: ${kind}
    kind: ${kind}
    base_url: ${origins[kind]}
    accounts: [{ id: main, api_key: "\${CHAOS_${kind.toUpperCase()}_MAIN}" }, { id: spare, api_key: "\${CHAOS_${kind.toUpperCase()}_SPARE}" }]
    limits: ${LIMITS}
    poll: { first_ms: 300, every_ms: 700, deadline_ms: ${deadlineMs} }${more}`
  const slow = `
  - id: oneshot
    kind: oneshot
    base_url: ${oneshot}
    accounts: [{ id: main, api_key: "\${CHAOS_ONESHOT_MAIN}" }]
    limits: { requests_per_minute: 60000, concurrent: 4 }
    settings: { timeout_ms: 180000 }
    poll: { first_ms: 300, every_ms: 700, deadline_ms: 200000 }`
  const slowModel = `
  - id: ${ONESHOT_MODEL_ID}
    name: Slow
    type: image
    price_usd: "0.30"
    min_margin: any
    routes: [{ provider: oneshot, model: nano-banana, input: '{ "prompt": prompt, "num_images": 1 }', cost_usd: "0.05" }]`
  return `
providers:${provider('pluragen')}${provider('zencreator')}${provider('apixo')}${provider('progressiverobot', '\n    settings: { image_list: true }')}${oneshot ? slow : ''}
models:
  - id: 1
    name: Idempotent twice
    type: image
    price_usd: "0.05"
    routes:
      - { provider: pluragen, model: "5", input: '{ "prompt": prompt }', cost_usd: "0.01", rank: 1 }
      - { provider: zencreator, model: by_prompt, input: '{ "positive_prompt": prompt, "model": "WAN" }', cost_usd: "0.01", rank: 2 }
  - id: 2
    name: Callback first
    type: image
    price_usd: "0.06"
    routes:
      - { provider: apixo, model: flux2, input: '{ "prompt": prompt }', cost_usd: "0.01", rank: 1 }
      - { provider: pluragen, model: "5", input: '{ "prompt": prompt }', cost_usd: "0.01", rank: 2 }
  - id: 3
    name: Video
    type: video
    price_usd: "0.20"
    routes:
      - { provider: progressiverobot, model: wan-t2v, input: '{ "prompt": prompt, "frames": 41 }', cost_usd: "0.1", rank: 1 }
      - { provider: apixo, model: kling-2-1, input: '{ "prompt": prompt }', cost_usd: "0.1", rank: 2 }
  - id: ${EDIT_MODEL_ID}
    name: Edit
    type: image
    price_usd: "0.1"
    media: { required: true, max_count: 1, accepted: [png], inputs: [{ key: image, required: true, min: 1, max: 1, accepted: [png] }] }
    routes:
      - { provider: zencreator, model: image_editor, input: '{ "prompt": prompt, "model": "WAN_2_7_IMAGE", "image_assets": media.image }', cost_usd: "0.01", rank: 1 }
      - { provider: apixo, model: nano-banana, input: '{ "prompt": prompt, "image_urls": media.image }', cost_usd: "0.01", rank: 2 }
      - { provider: pluragen, model: "20", input: '{ "prompt": prompt, "media": { "image": media.image } }', cost_usd: "0.01", rank: 3 }
  - id: 5
    name: List first
    type: image
    price_usd: "0.07"
    routes:
      - { provider: progressiverobot, model: flux, input: '{ "prompt": prompt, "num_images": 1 }', cost_usd: "0.01", rank: 1 }
      - { provider: zencreator, model: by_prompt, input: '{ "positive_prompt": prompt, "model": "WAN" }', cost_usd: "0.01", rank: 2 }${oneshot ? slowModel : ''}
`
}
