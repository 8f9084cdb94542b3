import { expect, test } from 'vitest'
import { MODEL_IDS } from './catalog.ts'
import { fingerprint, planFaults, scaleOf } from './plan.ts'
import { runChaos } from './run.ts'

/*
 * The short form of `npm run chaos`: about half a minute of every fault, a minute and a half in all. Each fault fires at least
 * once; one worker is paused past its lease. The slow synchronous upstream takes no part.
 */

const MINUTES = 0.55

test('the same seed gives the same plan, another seed another one', () => {
  expect(planFaults(7, scaleOf(3))).toEqual(planFaults(7, scaleOf(3)))
  expect(fingerprint(7, 3, MODEL_IDS)).toBe(fingerprint(7, 3, MODEL_IDS))
  expect(fingerprint(8, 3, MODEL_IDS)).not.toBe(fingerprint(7, 3, MODEL_IDS))
})

test('nothing is lost, made twice or wrongly charged while everything breaks', { timeout: 200_000 }, async () => {
  const said: string[] = []
  const { broken, orders } = await runChaos({ seed: 1, minutes: MINUTES, say: line => said.push(line) })
  expect(broken, said.join('\n')).toEqual([])
  expect(orders.get('completed')).toBeGreaterThan(20)
})
