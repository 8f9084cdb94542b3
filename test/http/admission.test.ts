import { expect, test } from 'vitest'
import { createAdmission } from '../../src/http/admission.ts'

/** A process whose clock stands until it is moved. */
function processAt() {
  let at = 0
  const admission = createAdmission(() => at)
  const underway: (() => void)[] = []
  return {
    /** How many of so many requests that come at once are taken. */
    come(count: number): number {
      let taken = 0
      for (let i = 0; i < count; i++) {
        if (admission.isFull()) continue
        underway.push(admission.begin())
        taken += 1
      }
      return taken
    },
    end(count: number): void {
      for (const end of underway.splice(0, count)) end()
    },
    later(ms: number): void {
      at += ms
    },
    get underway() {
      return underway.length
    },
  }
}

test('a burst is taken whole, up to what there is room for', () => {
  const one = processAt()
  expect(one.come(4_000)).toBe(4_000)
  expect(one.come(4_000)).toBe(1_000)
  one.end(5_000)
  one.later(10_000)
  expect(one.come(4_000)).toBe(4_000)
})

test('in an overload no more are under way than get done in a second', () => {
  const one = processAt()
  for (let tenth = 0; tenth < 100; tenth++) {
    one.come(500)
    one.end(100)
    one.later(100)
  }
  expect(one.underway).toBeGreaterThan(800)
  expect(one.underway).toBeLessThan(1_200)
})

test('when nothing gets done, few are let in to wait', () => {
  const one = processAt()
  one.come(600)
  one.later(1_100)
  expect(one.come(1_000)).toBe(0)
  one.end(100)
  expect(one.come(1_000)).toBe(12)
})

test('no new burst is taken while some are still refused', () => {
  const one = processAt()
  one.come(600)
  one.later(1_100)
  one.come(1)
  one.end(600)
  one.later(900)
  const taken = one.come(5_000)
  expect(taken).toBeLessThan(1_000)
  one.end(taken)
  one.later(1_100)
  expect(one.come(4_000)).toBe(4_000)
})

test('a thousand refusals a second are told at once, more of them a second later', () => {
  let at = 0
  const { holdBack } = createAdmission(() => at)
  const held = () => Array.from({ length: 1_500 }, holdBack).filter(ms => ms > 0)
  expect(held()).toEqual(Array(500).fill(1_000))
  at += 1_000
  expect(held()).toHaveLength(500)
})
