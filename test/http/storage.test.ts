import { createServer } from 'node:http'
import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { expect, test } from 'vitest'
import { openS3, parseS3Url } from '../../src/storage/s3.ts'
import { build } from '../server.ts'
import { makePng } from '../simulators/files.ts'
import { startS3 } from '../storage/s3-server.ts'

const s3 = await startS3()

const storage = openS3(parseS3Url(s3.url))
const { app, call, customer, db } = await build({ storage: () => storage })

async function upload(): Promise<{ status: number; body: { upload: { tmp_path: string } }; headers: Headers }> {
  const form = new FormData()
  form.set('file', new Blob([new Uint8Array(makePng(5))]), 'kite.png')
  const request = new Request('http://localhost', { method: 'POST', body: form })
  const headers = { 'content-type': request.headers.get('content-type') ?? '' }
  return customer.post('/upload', Buffer.from(await request.arrayBuffer()), headers)
}

async function addResult(): Promise<string> {
  const { body } = await customer.post('/orders', { model_id: 20, prompt: 'x' })
  const token = randomBytes(24).toString('base64url')
  const name = `results/${token}`
  await app.storage.put(name, Readable.from([Buffer.from('0123456789')]))
  const data = { token, orderId: body.order.id, position: 0, name, mimeType: 'image/png', size: 10 }
  await db.prisma.output.create({
    data: { ...data, sha256: new Uint8Array(32), expiresAt: new Date(Date.now() + 3_600_000) },
  })
  return `/g/${token}`
}

test('while the storage is away, its files are 503 server_busy, and come back with it', async () => {
  const result = await addResult()
  const uploaded = await upload()
  const preview = `/api/v1/upload/preview/${uploaded.body.upload.tmp_path.replace('tmp/', '')}`
  const read = () => Promise.all([call('GET', result), call('GET', preview, { key: customer.key })])
  const busy = { status: 503, code: 'server_busy', again: true }
  const summary = (answers: { status: number; headers: Headers; body?: unknown }[]) =>
    answers.map(({ status, headers, body }) => ({
      status,
      code: (body as { error?: { code: string } } | undefined)?.error?.code,
      again: Number(headers.get('retry-after')) > 0,
    }))
  expect((await read()).map(({ status }) => status)).toEqual([200, 200])

  await s3.away()
  expect(summary([...(await read()), await upload()])).toEqual([busy, busy, busy])

  const ill = createServer((_request, response) => response.writeHead(500).end()).listen(s3.port, '127.0.0.1')
  expect(summary([...(await read()), await upload()])).toEqual([busy, busy, busy])
  ill.closeAllConnections()
  await new Promise(done => ill.close(done))

  await s3.back()
  expect((await read()).map(({ status }) => status)).toEqual([200, 200])
})
