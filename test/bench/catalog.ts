/** A catalog with one picture for sale, made by one upstream that is called at `upstream`. */
export function catalog(upstream: string, poll = { first_ms: 1_000, every_ms: 1_000 }): string {
  return `
providers:
  - id: instant
    kind: pluragen
    base_url: ${upstream}
    accounts: [{ id: main, api_key: key-of-the-bench }]
    poll: { first_ms: ${poll.first_ms}, every_ms: ${poll.every_ms}, deadline_ms: 900000 }
models:
  - id: 20
    name: Picture
    type: image
    price_usd: "0.05"
    prompt: { mode: required, max_length: 2000 }
    options_schema:
      - { key: aspect_ratio, type: select, label: Aspect ratio, default: "1:1", options: [{ value: "1:1", label: "1:1" }, { value: "16:9", label: "16:9" }] }
    routes:
      - { provider: instant, model: "1", input: '{ "prompt": prompt, "options": options }', cost_usd: "0.01" }
`
}

export const ORDER = { model_id: 20, prompt: 'a lighthouse at dusk', options: { aspect_ratio: '16:9' } }
