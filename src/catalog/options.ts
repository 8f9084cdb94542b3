import type { OptionSchema } from './model.ts'

const MAX_TEXT = 2_000

/** What is wrong with an option's value, as the end of a sentence such as "must be a whole number"; undefined: nothing. */
export function optionMistake(option: OptionSchema, value: unknown): string | undefined {
  switch (option.type) {
    case 'select': {
      const values = (option.options ?? []).map(({ value }) => value)
      return values.some(allowed => allowed === value) ? undefined : `must be one of ${values.map(quote).join(', ')}`
    }
    case 'boolean':
      return typeof value === 'boolean' ? undefined : 'must be true or false'
    case 'text':
      return typeof value === 'string'
        ? textMistake(value, option.min ?? 0, option.max ?? MAX_TEXT)
        : 'must be a string'
    case 'number':
      return typeof value === 'number' ? numberMistake(value, option) : 'must be a number'
  }
}

/** Lengths count Unicode code points. */
export function textMistake(text: string, min: number, max: number): string | undefined {
  // PostgreSQL stores neither, and no upstream can mean anything by them.
  if (text.includes('\0') || !text.isWellFormed()) return 'must be Unicode text without NUL characters'
  const length = text.length > max * 2 ? text.length : Array.from(text).length
  if (length > max) return `must have at most ${max} characters`
  return length < min ? `must have at least ${min} characters` : undefined
}

function numberMistake(value: number, { min, max, step }: OptionSchema): string | undefined {
  if (!Number.isFinite(value)) return 'must be a number'
  if (min !== undefined && value < min) return `must be at least ${min}`
  if (max !== undefined && value > max) return `must be at most ${max}`
  if (step === undefined) return undefined
  // 0.3 is three steps of 0.1 although binary fractions say 2.9999999999999996.
  const steps = (value - (min ?? 0)) / step
  if (Math.abs(steps - Math.round(steps)) <= 1e-9 * Math.max(1, Math.abs(steps))) return undefined
  return `must be in steps of ${step}${min ? ` from ${min}` : ''}`
}

function quote(value: string): string {
  return JSON.stringify(value)
}
