/** One line of the table. */
export interface Row {
  readonly measure: string
  /** What genmux reached, with its unit. */
  readonly value: number
  readonly unit: string
  /** What the reference reached, in the same unit; absent where the target is absolute. */
  readonly reference?: number
  /** Value over reference: of neighbouring runs, the median. */
  readonly ratio?: number
  /** What is promised of the ratio, or of the value where there is no reference. Absent: for information. */
  readonly target?: { readonly atLeast: number } | { readonly atMost: number }
  readonly note?: string
}

/** Whether the target is met; undefined without a target. */
export function isMet({ value, ratio, target }: Row): boolean | undefined {
  if (!target) return undefined
  const reached = ratio ?? value
  return 'atLeast' in target ? reached >= target.atLeast : reached <= target.atMost
}

const HEADINGS = ['measure', 'value', 'reference', 'ratio', 'target', 'met']

export function table(rows: readonly Row[]): string {
  const lines = rows.map(row => {
    const met = isMet(row)
    return [
      row.measure,
      `${number(row.value)} ${row.unit}`,
      row.reference === undefined ? '' : `${number(row.reference)} ${row.unit}`,
      row.ratio === undefined ? '' : `${row.ratio.toFixed(2)} ×`,
      targetOf(row),
      met === undefined ? '' : met ? 'yes' : 'NO',
    ]
  })
  const all = [HEADINGS, HEADINGS.map(() => '---'), ...lines]
  const widths = HEADINGS.map((_, i) => Math.max(...all.map(line => (line[i] as string).length)))
  const print = (line: string[]) => `| ${line.map((cell, i) => cell.padEnd(widths[i] as number)).join(' | ')} |`
  const notes = rows.flatMap(row => (row.note ? [`${row.measure}: ${row.note}`] : []))
  return [...all.map(print), ...(notes.length > 0 ? ['', ...notes] : [])].join('\n')
}

function targetOf({ target, ratio, unit }: Row): string {
  if (!target) return ''
  const [sign, limit] = 'atLeast' in target ? ['≥', target.atLeast] : ['≤', target.atMost]
  return `${sign} ${limit} ${ratio === undefined ? unit : '×'}`
}

function number(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString('en') : value.toPrecision(3).replace(/\.?0+$/, '')
}

export function median(values: readonly number[]): number {
  return percentile(values, 50)
}

/** Nearest rank. */
export function percentile(values: readonly number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil((p / 100) * sorted.length) - 1)] as number
}

/**
 * Runs reference and subject in turns, because the machine is shared: what disturbs one round disturbs both. The first round
 * warms up and is not counted.
 */
export async function inTurns(
  rounds: number,
  reference: () => Promise<number>,
  subject: () => Promise<number>,
): Promise<{ value: number; reference: number; ratio: number }> {
  const pairs: { value: number; reference: number }[] = []
  for (let round = 0; round <= rounds; round++) {
    const pair = { reference: await reference(), value: await subject() }
    if (round > 0) pairs.push(pair)
  }
  return {
    value: median(pairs.map(pair => pair.value)),
    reference: median(pairs.map(pair => pair.reference)),
    ratio: median(pairs.map(pair => pair.value / pair.reference)),
  }
}
