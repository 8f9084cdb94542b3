import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { freePort } from '../free-port.ts'
import { catalog } from './catalog.ts'
import { ask, driver } from './drive.ts'
import { type Measure, type Server } from './ground.ts'
import { inTurns } from './report.ts'
import { metrics } from './scrape.ts'
import type { Sending, Sent } from './sender.ts'

const FIXTURES = join(import.meta.dirname, '../fixtures/media')

/** Uploads by rate and by memory, previews, and a picture from a phone. */
export const uploading: Measure = {
  name: 'uploading',
  async run(ground) {
    const { quick } = ground.options
    const server = await ground.start({
      DATABASE_URL: await ground.database('uploading'),
      CATALOG_FILE: ground.file('uploading.yaml', catalog('http://127.0.0.1:9')),
    })
    const { key } = await server.customer()
    const port = await freePort()
    await ground.program('sink.ts', { port, folder: ground.folder('sink') })
    const { child } = await ground.program('sender.ts', {})
    const send = async (sending: Sending) => {
      const { seconds, refused } = await ask<Sent>(child, sending)
      if (refused[0] !== undefined) throw new Error(`upload: ${refused[0]}`)
      return (sending.files * sending.megabytes) / seconds
    }

    const megabytes = quick ? 50 : 250
    const url = `${server.origin}/api/v1/upload`
    const rate = await inTurns(
      3,
      () => send({ url: `http://127.0.0.1:${port}/`, megabytes, files: 1 }),
      () => send({ url, key, megabytes, files: 1 }),
    )
    const large = quick ? 30 : 300
    const memory = await peak(server, () => send({ url, key, megabytes: large, files: 20 }))
    const heic = await convert(server, key)
    const preview = await upload(server, key, 'animation.png')
    const previews = await (await driver(ground))({
      url: `${server.origin}/api/v1/upload/preview/${preview}`,
      method: 'GET',
      key,
      connections: 32,
      seconds: quick ? 1 : 3,
    })
    return [
      {
        measure: `upload of ${megabytes} MB : a bare Node server that pipes it to a file`,
        unit: 'MB/s',
        ...rate,
        target: { atLeast: 0.7 },
      },
      {
        measure: `20 uploads of ${large} MB at once: resident memory`,
        value: memory.megabytes,
        unit: 'MB',
        target: { atMost: 400 },
        note: `${memory.result.toFixed(0)} MB/s in all`,
      },
      { measure: 'HEIC of 12 megapixels to PNG', value: heic, unit: 's', target: { atMost: 5 } },
      {
        measure: 'previews of a small file, one process',
        value: previews.perSecond,
        unit: 'requests/s',
        target: { atLeast: 1_000 },
      },
    ]
  },
}

/** The most memory that a server had resident while something went on, MB. */
async function peak<T>(server: Server, work: () => Promise<T>): Promise<{ megabytes: number; result: T }> {
  let most = 0
  const look = async () => {
    most = Math.max(most, (await metrics(server)).process_resident_memory_bytes as number)
  }
  const timer = setInterval(() => void look().catch(() => {}), 250)
  const result = await work()
  clearInterval(timer)
  await look()
  return { megabytes: most / 1e6, result }
}

async function upload(server: Server, key: string, name: string): Promise<string> {
  const body = new FormData()
  body.append('file', new Blob([readFileSync(join(FIXTURES, name))]), name)
  const answer = await fetch(`${server.origin}/api/v1/upload`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}` },
    body,
  })
  const json = (await answer.json()) as { upload: { tmp_path: string } }
  if (answer.status !== 201) throw new Error(`upload of ${name}: ${JSON.stringify(json)}`)
  return json.upload.tmp_path.slice('tmp/'.length)
}

/** Seconds from the upload's answer until it is ready. */
async function convert(server: Server, key: string): Promise<number> {
  const id = await upload(server, key, '12-megapixels.heic')
  const began = performance.now()
  for (;;) {
    const answer = await fetch(`${server.origin}/api/v1/upload/status?tmp_path=tmp/${id}`, {
      headers: { authorization: `Bearer ${key}` },
    })
    const { upload } = (await answer.json()) as { upload: { status: string; error: string | null } }
    if (upload.status === 'ready') return (performance.now() - began) / 1_000
    if (upload.status === 'failed') throw new Error(`HEIC: ${upload.error}`)
    await new Promise(done => setTimeout(done, 100))
  }
}
