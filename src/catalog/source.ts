import {
  type Document,
  isAlias,
  isMap,
  isPair,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  type Pair,
  parseDocument,
} from 'yaml'

/** Something wrong in a catalog file. Lines and columns count from 1. */
export interface Mistake {
  readonly line: number
  readonly column: number
  readonly message: string
}

export type Path = readonly PropertyKey[]

/** A read YAML file that knows where each of its values stands. */
export interface Source {
  readonly data: unknown
  /**
   * A mistake about the value at `path`, or about the nearest one around it. `key`: about the last key of the path itself.
   * `offset`: about that character of a string.
   */
  mistake(path: Path, message: string, where?: { key?: boolean; offset?: number | undefined }): Mistake
}

/** Reads YAML 1.2 with merge keys. What is not YAML, or has a key twice, gives mistakes and no source. */
export function readSource(text: string): { source?: Source; mistakes: Mistake[] } {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, merge: true, prettyErrors: false, uniqueKeys: true })
  const mistakes: Mistake[] = [...document.errors, ...document.warnings].map(error => {
    const { line, col } = lines.linePos(error.pos[0])
    return { line, column: col, message: error.message }
  })
  if (mistakes.length > 0) return { mistakes }
  let data: unknown
  try {
    data = document.toJS({ maxAliasCount: 1_000 })
  } catch (error) {
    return { mistakes: [{ line: 1, column: 1, message: error instanceof Error ? error.message : String(error) }] }
  }
  const at = (offset: number) => {
    const { line, col } = lines.linePos(offset)
    return { line: Math.max(1, line), column: Math.max(1, col) }
  }
  const source: Source = {
    data,
    mistake(path, message, { key = false, offset } = {}) {
      const node = nodeAt(document, path, key)
      if (offset === undefined || !node) return { ...at(node?.range?.[0] ?? 0), message }
      return { ...at(offsetInside(node, offset, text)), message }
    },
  }
  return { source, mistakes: [] }
}

/** The node at a path; where a key is missing, the node that should have it. */
function nodeAt(document: Document, path: Path, key: boolean): Node | undefined {
  let node = resolve(document, document.contents)
  for (const [depth, step] of path.entries()) {
    const pair = isMap(node) ? pairOf(document, node, step) : undefined
    if (key && depth === path.length - 1) return (pair?.key as Node | undefined) ?? node
    const next = isSeq(node) ? node.items[Number(step)] : (pair?.value ?? pair?.key)
    if (!next) return node
    node = resolve(document, next) ?? node
  }
  return node
}

function pairOf(document: Document, map: Node | undefined, key: PropertyKey): Pair | undefined {
  if (!isMap(map)) return undefined
  const own = map.items.find(pair => isScalar(pair.key) && String(pair.key.value) === String(key))
  if (own) return own
  const merged = map.items.find(pair => isScalar(pair.key) && pair.key.value === '<<')?.value
  const from = isSeq(merged) ? merged.items : [merged]
  return from.map(part => pairOf(document, resolve(document, part), key)).find(pair => pair !== undefined)
}

function resolve(document: Document, node: unknown): Node | undefined {
  if (isAlias(node)) return node.resolve(document)
  if (isPair(node)) return resolve(document, node.value)
  return (node ?? undefined) as Node | undefined
}

/** Where in the file a character of a string stands: exact in literal blocks and on single lines, else where the string begins. */
function offsetInside(node: Node, offset: number, text: string): number {
  const start = node.range?.[0] ?? 0
  if (!isScalar(node) || typeof node.value !== 'string') return start
  if (node.type !== 'BLOCK_LITERAL') {
    const written = text.slice(start, node.range?.[1])
    if (node.type === 'BLOCK_FOLDED' || written.includes('\n') || written.includes('\\')) return start
    return start + offset + (node.type === 'PLAIN' ? 0 : 1)
  }
  const before = node.value.slice(0, offset).split('\n')
  const first = text.indexOf('\n', start) + 1
  const body = text.slice(first).split('\n')
  const indent = body.find(line => line.trim() !== '')?.search(/\S/) ?? 0
  const skipped = body.slice(0, before.length - 1).reduce((sum, line) => sum + line.length + 1, 0)
  return first + skipped + indent + (before.at(-1)?.length ?? 0)
}
