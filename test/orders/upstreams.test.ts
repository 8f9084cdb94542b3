import { expect, test } from 'vitest'
import { apixoSimulator } from '../simulators/apixo.ts'
import { makePng } from '../simulators/files.ts'
import { createOneshot } from '../simulators/oneshot.ts'
import { createPluragen } from '../simulators/pluragen.ts'
import { createProgressiverobot } from '../simulators/progressiverobot.ts'
import type { Simulator } from '../simulators/spec.ts'
import { zencreatorSimulator } from '../simulators/zencreator.ts'
import { gateway, madeHashes, sha256 } from './gateway.ts'

const pluragen = createPluragen()
const robot = createProgressiverobot()
const oneshot = createOneshot()
const zen = zencreatorSimulator()
const apixo = apixoSimulator()
delete robot.limits.all
delete oneshot.limits.all
for (const { tasks } of [pluragen, robot, oneshot, zen, apixo]) {
  tasks.plan = { outcome: { state: 'succeeded' }, afterMs: 200 }
}

const genmux = await gateway({
  publicUrl: true,
  upstreams: [
    { id: 'first-supplier', kind: 'pluragen', simulator: pluragen },
    {
      id: 'second-supplier',
      kind: 'progressiverobot',
      simulator: robot,
      more: {
        settings: {
          upload_field: robot.uploadField,
          upload_response_field: robot.uploadResponseField,
          image_field: robot.imageField,
        },
      },
    },
    { id: 'third-supplier', kind: 'oneshot', simulator: oneshot },
    { id: 'fourth-supplier', kind: 'zencreator', simulator: zen },
    { id: 'fifth-supplier', kind: 'apixo', simulator: apixo },
  ],
  models: {
    1: [{ provider: 'first-supplier', model: '5' }],
    2: [{ provider: 'first-supplier', model: '20', input: '{ "prompt": prompt, "media": { "image": media.image } }' }],
    3: [{ provider: 'second-supplier', model: 'wan-t2v' }],
    4: [{ provider: 'second-supplier', model: 'wan-i2v', input: '{ "prompt": prompt, "image": media.image[0] }' }],
    5: [{ provider: 'second-supplier', model: 'flux', input: '{ "prompt": prompt, "num_images": 2 }' }],
    6: [{ provider: 'third-supplier', model: 'nano-banana' }],
    7: [
      {
        provider: 'fourth-supplier',
        model: 'by_prompt',
        input: '{ "positive_prompt": prompt, "model": "SEEDREAM_5" }',
      },
    ],
    8: [
      {
        provider: 'fourth-supplier',
        model: 'image_editor',
        input: '{ "prompt": prompt, "image_assets": media.image, "model": "SEEDREAM_5" }',
      },
    ],
    9: [
      {
        provider: 'fifth-supplier',
        model: 'nano-banana-pro',
        input: '{ "mode": "text-to-image", "prompt": prompt }',
      },
    ],
    10: [
      {
        provider: 'fifth-supplier',
        model: 'nano-banana-pro',
        input: '{ "mode": "image-to-image", "prompt": prompt, "image_urls": media.image }',
      },
    ],
  },
})

interface Case {
  readonly what: string
  readonly model: number
  readonly simulator: Simulator
  /** Tasks that one order makes there. */
  readonly tasks?: number
  /** SHA-256 of the files it has of us. */
  readonly received?: () => (string | undefined)[]
}

const CASES: Case[] = [
  { what: 'pluragen', model: 1, simulator: pluragen },
  {
    what: 'pluragen with two pictures',
    model: 2,
    simulator: pluragen,
    received: () => [...pluragen.pluragen.uploads.values()].map(upload => upload.sha256),
  },
  { what: 'progressiverobot, a video', model: 3, simulator: robot },
  {
    what: 'progressiverobot, a video from a picture',
    model: 4,
    simulator: robot,
    received: () => [...robot.pictures.values()].map(picture => picture.sha256),
  },
  { what: 'progressiverobot, two pictures of one order', model: 5, simulator: robot, tasks: 2 },
  { what: 'the upstream that answers with the result', model: 6, simulator: oneshot },
  { what: 'zencreator', model: 7, simulator: zen },
  {
    what: 'zencreator with two pictures',
    model: 8,
    simulator: zen,
    received: () => [...zen.assets.values()].map(asset => asset.sha256),
  },
  { what: 'apixo', model: 9, simulator: apixo },
  {
    what: 'apixo, which fetches the two pictures from our signed URLs',
    model: 10,
    simulator: apixo,
    received: () => apixo.downloads.map(download => download.sha256),
  },
]

test.each(CASES)('an order of $what is made once, delivered byte for byte and charged once', async c => {
  const before = c.simulator.tasks.all().length
  const pictures = c.received ? [makePng(1_000 + c.model), makePng(2_000 + c.model)] : []
  const count = c.model === 4 ? 1 : pictures.length
  const image = await Promise.all(pictures.slice(0, count).map(bytes => genmux.upload(bytes)))
  const order = await genmux.order(c.model, {
    prompt: `a kite of ${c.what}`,
    ...(c.received ? { media: { image } } : {}),
  })

  expect(order).toMatchObject({ status: 'completed', cost_usd: '0.06', error: null })
  expect(c.simulator.tasks.all().length - before).toBe(c.tasks ?? 1)
  expect(await genmux.resultHashes(order)).toEqual(madeHashes(c.simulator).slice(before))
  if (c.received) {
    const wanted = pictures.slice(0, count).map(sha256)
    expect(c.received()).toEqual(expect.arrayContaining(wanted))
  }
  expect(await genmux.transfers(order.id)).toEqual(['hold', 'capture'])
  expect(await genmux.violations()).toEqual([])
})

test('the attempt is recorded with what the upstream said it took', async () => {
  const order = await genmux.order(3)
  const [attempt] = await genmux.attempts(order.id)
  expect(attempt?.cost).toBe(21n * 13_000n)
})

test('a file that was placed once is not sent to the same account again', async () => {
  const bytes = makePng(77)
  const image = [await genmux.upload(bytes)]
  await genmux.order(8, { media: { image } })
  const again = [await genmux.upload(bytes)]
  const sent = zen.counts.uploads
  const order = await genmux.order(8, { media: { image: again } })
  expect(order.status).toBe('completed')
  expect(zen.counts.uploads).toBe(sent)
})

test('no answer to the customer names an upstream, its host, its ids or its tasks', async () => {
  await genmux.call('GET', '/api/v1/models', { key: genmux.customer.key })
  await genmux.call('GET', '/api/v1/transactions', { key: genmux.customer.key })
  await genmux.call('GET', '/api/v1/orders?limit=100', { key: genmux.customer.key })
  expect(genmux.leaks(['supplier', 'nano-banana', 'wan-t2v', 'by_prompt'])).toEqual([])
})
