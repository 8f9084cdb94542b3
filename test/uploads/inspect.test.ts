import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ApiError } from '../../src/errors.ts'
import { type Inspected, inspect } from '../../src/uploads/inspect.ts'
import { makeHostile } from './hostile.ts'
import { makeSamples, movie } from './samples.ts'

const samples = await makeSamples()
const hostile = await makeHostile()

function look(fileName: string, bytes: Buffer, pieces = [bytes.length]): Inspected {
  const found = inspect(fileName)
  let at = 0
  for (let i = 0; at < bytes.length; i++) {
    const length = Math.max(1, pieces[i % pieces.length] ?? 1)
    found.feed(bytes.subarray(at, at + length))
    at += length
  }
  return found.done()
}

describe('every accepted format', () => {
  test.each(Object.entries(samples))(
    '%s is recognised, with its size and hash',
    (_, { fileName, bytes, mimeType, ...size }) => {
      const found = look(fileName, bytes)
      expect(found.mimeType).toBe(mimeType)
      expect(found).toMatchObject(size)
      expect(found.size).toBe(bytes.length)
      expect(found.sha256.equals(createHash('sha256').update(bytes).digest())).toBe(true)
    },
  )

  test.each(Object.entries(samples))('%s is recognised however it is cut into pieces', (_, { fileName, bytes }) => {
    const whole = look(fileName, bytes)
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1, maxLength: 20 }), pieces => {
        expect(look(fileName, bytes, pieces)).toMatchObject(whole)
      }),
      { numRuns: 25 },
    )
    expect(look(fileName, bytes, [1])).toMatchObject(whole)
  })

  test('zeros after the end do no harm, and a phone may append to a JPEG', () => {
    const { jpg, gif } = samples
    expect(look('a.gif', Buffer.concat([gif?.bytes ?? Buffer.alloc(0), Buffer.alloc(3)])).extension).toBe('gif')
    expect(look('a.jpg', Buffer.concat([jpg?.bytes ?? Buffer.alloc(0), movie('mp42')])).extension).toBe('jpg')
  })

  test('a movie that says it is both is what its name says', () => {
    const both = movie('mp42', 'qt  ')
    expect(look('a.mov', both).mimeType).toBe('video/quicktime')
    expect(look('a.mp4', both).mimeType).toBe('video/mp4')
  })
})

describe('hostile files', () => {
  test('there are at least sixty', () => {
    expect(hostile.length).toBeGreaterThanOrEqual(60)
  })

  test.each(hostile)('$what is refused', ({ fileName, bytes }) => {
    for (const pieces of [[bytes.length], [1], [7, 100]]) {
      const refusal = attempt(() => look(fileName, bytes, pieces))
      expect(refusal).toBeInstanceOf(ApiError)
      expect(refusal).toMatchObject({ status: 422, message: expect.stringMatching(/^file: /) })
    }
  })

  test('random damage is either refused or harmless, never a crash', () => {
    const all = Object.values(samples)
    const damage = fc.record({ sample: fc.nat(all.length - 1), at: fc.nat(), value: fc.nat(255), cut: fc.nat() })
    fc.assert(
      fc.property(damage, ({ sample, at, value, cut }) => {
        const { fileName, bytes } = all[sample] ?? { fileName: '', bytes: Buffer.alloc(0) }
        const copy = Buffer.from(bytes.subarray(0, cut % 3 === 0 ? cut % bytes.length : bytes.length))
        copy[at % Math.max(1, copy.length)] = value
        const outcome = attempt(() => look(fileName, copy))
        if (outcome !== undefined) expect(outcome).toBeInstanceOf(ApiError)
      }),
      { numRuns: 2_000 },
    )
  })
})

function attempt(act: () => unknown): unknown {
  try {
    act()
    return undefined
  } catch (error) {
    return error
  }
}
