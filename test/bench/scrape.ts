import type { Server } from './ground.ts'

/** GET /metrics: every sample by its name and labels. */
export async function metrics(server: Pick<Server, 'origin'>): Promise<Record<string, number>> {
  const text = await (await fetch(`${server.origin}/metrics`)).text()
  return Object.fromEntries(
    text
      .split('\n')
      .filter(line => line !== '' && !line.startsWith('#'))
      .map(line => {
        const end = line.lastIndexOf(' ')
        return [line.slice(0, end), Number(line.slice(end + 1))]
      }),
  )
}
