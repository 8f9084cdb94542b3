import { readdirSync } from 'node:fs'
import type { Fixture } from './conformance.ts'

/** All fixtures by kind, in the alphabet's order; `networked` are those with a simulator. */
export async function discover(): Promise<{ fixtures: [string, Fixture][]; networked: [string, Fixture][] }> {
  const files = readdirSync(new URL('./fixtures/', import.meta.url)).filter(name => name.endsWith('.ts'))
  const kinds = files.map(name => name.replace('.ts', '')).sort()
  const fixtures: [string, Fixture][] = []
  const networked: [string, Fixture][] = []
  for (const kind of kinds) {
    const { default: fixture } = (await import(`./fixtures/${kind}.ts`)) as { default: Fixture }
    fixtures.push([kind, fixture])
    const { simulator } = await fixture.start()
    await simulator?.stop()
    if (simulator) networked.push([kind, fixture])
  }
  return { fixtures, networked }
}
