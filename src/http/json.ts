import { ApiError } from '../errors.ts'

const MAX_DEPTH = 64

/**
 * Parses a request body. Stricter than JSON.parse, because two readers of one body must never see different orders: refuses
 * bytes that are not UTF-8, an object with the same key twice (JSON.parse keeps the last), NUL and lone surrogates in
 * strings (Postgres cannot store them), numbers beyond a double, the key `__proto__`, and nesting deeper than 64. An empty
 * body gives undefined. Throws validation_error with status 400.
 */
export function parseJson(bytes: Uint8Array): unknown {
  if (bytes.length === 0) return undefined
  let text: string
  let value: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    value = JSON.parse(text)
  } catch (error) {
    throw refused(error instanceof SyntaxError ? 'The body is not valid JSON.' : 'The body is not valid UTF-8.', error)
  }
  inspect(text)
  return value
}

function refused(message: string, cause?: unknown): ApiError {
  return new ApiError('validation_error', message, { status: 400, cause })
}

/** Walks through text that JSON.parse has accepted, looking only for what JSON.parse lets pass. */
function inspect(text: string): void {
  /** Keys of the objects around; null for an array. */
  const open: (Set<string> | null)[] = []
  let keyIsNext = false
  for (let at = 0; at < text.length; at++) {
    const character = text[at] as string
    if (character === '"') {
      const end = endOfString(text, at)
      const string = readString(text.slice(at, end + 1))
      if (keyIsNext) addKey(open.at(-1) as Set<string>, string)
      keyIsNext = false
      at = end
    } else if (character === '{' || character === '[') {
      if (open.length === MAX_DEPTH) throw refused(`The body is nested deeper than ${MAX_DEPTH} levels.`)
      open.push(character === '{' ? new Set() : null)
      keyIsNext = character === '{'
    } else if (character === '}' || character === ']') {
      open.pop()
      keyIsNext = false
    } else if (character === ',') {
      keyIsNext = open.at(-1) !== null
    } else if (character === '-' || (character >= '0' && character <= '9')) {
      NUMBER.lastIndex = at
      const [number] = NUMBER.exec(text) as RegExpExecArray
      if (!Number.isFinite(Number(number))) throw refused('A number in the body is too large.')
      at += number.length - 1
    }
  }
}

const NUMBER = /[-+.0-9eE]+/y

function endOfString(text: string, start: number): number {
  let end = start + 1
  while (text[end] !== '"') end += text[end] === '\\' ? 2 : 1
  return end
}

function readString(literal: string): string {
  // Without an escape there can be neither: JSON.parse refuses a raw NUL, and UTF-8 has no lone surrogates.
  if (!literal.includes('\\')) return literal.slice(1, -1)
  const string = JSON.parse(literal) as string
  if (string.includes('\0') || !string.isWellFormed())
    throw refused('A string in the body holds a NUL character or half of a surrogate pair.')
  return string
}

function addKey(keys: Set<string>, key: string): void {
  if (keys.has(key) || key === '__proto__')
    throw refused(
      `The body has ${key === '__proto__' ? 'a forbidden' : 'a repeated'} key: ${JSON.stringify(key.slice(0, 100))}.`,
    )
  keys.add(key)
}
