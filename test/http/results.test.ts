import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { expect, test } from 'vitest'
import { build } from '../server.ts'

const { app, call, customer, db } = await build()
const BYTES = Buffer.from('0123456789')

async function addOutput(settings: { expiresInMs?: number; stored?: boolean; mimeType?: string } = {}) {
  const { expiresInMs = 3_600_000, stored = true, mimeType = 'image/jpeg' } = settings
  const { body } = await customer.post('/orders', { model_id: 20, prompt: 'x' })
  const token = randomBytes(24).toString('base64url')
  const name = `results/${token}`
  if (stored) await app.storage.put(name, Readable.from([BYTES]))
  const data = { token, orderId: body.order.id, position: 0, name, mimeType, size: BYTES.length }
  const expiresAt = new Date(Date.now() + expiresInMs)
  await db.prisma.output.create({ data: { ...data, sha256: new Uint8Array(32).fill(7), expiresAt } })
  return { path: `/g/${token}`, order: body.order.id as string }
}

const get = (path: string, headers: Record<string, string> = {}) => call('GET', path, { headers })

test('a result is served whole, without login, as something a browser shows but never runs', async () => {
  const { path, order } = await addOutput()
  const { status, headers, bytes } = await get(path)
  expect(status).toBe(200)
  expect(bytes).toEqual(BYTES)
  expect(Object.fromEntries(headers)).toMatchObject({
    'accept-ranges': 'bytes',
    'content-disposition': `inline; filename="${order}-1.jpg"`,
    'content-length': '10',
    'content-security-policy': "default-src 'none'; sandbox",
    'content-type': 'image/jpeg',
    'x-content-type-options': 'nosniff',
    etag: `"${'07'.repeat(32)}"`,
  })
  expect(headers.get('cache-control')).toMatch(/^private, max-age=(3600|359\d)$/)
})

test.each([
  ['bytes=0-3', 'bytes 0-3/10', '0123'],
  ['bytes=4-', 'bytes 4-9/10', '456789'],
  ['bytes=-3', 'bytes 7-9/10', '789'],
  ['bytes=-99', 'bytes 0-9/10', '0123456789'],
  ['bytes=8-99', 'bytes 8-9/10', '89'],
])('Range: %s → 206', async (range, contentRange, text) => {
  const { path } = await addOutput()
  const answer = await get(path, { range })
  expect(answer.status).toBe(206)
  expect(answer.headers.get('content-range')).toBe(contentRange)
  expect(answer.headers.get('content-length')).toBe(String(text.length))
  expect(answer.text).toBe(text)
})

test.each(['bytes=10-', 'bytes=99-100', 'bytes=-0'])('Range: %s → 416', async range => {
  const { path } = await addOutput()
  const answer = await get(path, { range })
  expect({ status: answer.status, code: answer.body.error.code }).toEqual({ status: 416, code: 'validation_error' })
  expect(answer.headers.get('content-range')).toBe('bytes */10')
  expect(answer.headers.get('cache-control')).toBeNull()
})

test.each(['bytes=0-1,4-5', 'bytes=5-2', 'bytes=a-b', 'bytes=-', 'items=0-1'])(
  'Range: %s is not one range: the whole file',
  async range => {
    const { path } = await addOutput()
    const answer = await get(path, { range })
    expect({ status: answer.status, text: answer.text }).toEqual({ status: 200, text: BYTES.toString() })
  },
)

test('a range holds only for the file that the client means (If-Range)', async () => {
  const { path } = await addOutput()
  const etag = (await get(path)).headers.get('etag') ?? ''
  expect((await get(path, { range: 'bytes=0-1', 'if-range': etag })).status).toBe(206)
  expect((await get(path, { range: 'bytes=0-1', 'if-range': '"other"' })).status).toBe(200)
})

test('what the client has is not sent again', async () => {
  const { path } = await addOutput()
  const etag = (await get(path)).headers.get('etag') ?? ''
  for (const tag of [etag, `W/${etag}`, `"x", ${etag}`, '*']) {
    const answer = await get(path, { 'if-none-match': tag })
    expect({ status: answer.status, length: answer.bytes.length }).toEqual({ status: 304, length: 0 })
    expect(answer.headers.get('etag')).toBe(etag)
  }
  expect((await get(path, { 'if-none-match': '"x"' })).status).toBe(200)
})

test('HEAD tells what GET would send', async () => {
  const { path } = await addOutput()
  const { status, headers, bytes } = await call('HEAD', path, { headers: { range: 'bytes=0-1' } })
  expect({ status, length: headers.get('content-length'), sent: bytes.length }).toEqual({
    status: 200,
    length: '10',
    sent: 0,
  })
})

test('an expired, purged or unknown result → 404 not_found', async () => {
  const expired = await addOutput({ expiresInMs: -1 })
  const purged = await addOutput()
  await db.prisma.output.update({ where: { token: purged.path.slice(3) }, data: { purgedAt: new Date() } })
  const lost = await addOutput({ stored: false })
  const unknown = `/g/${randomBytes(24).toString('base64url')}`
  for (const path of [expired.path, purged.path, lost.path, unknown, '/g/', '/g/x', '/g/%00', '/g/..%2f..%2fetc']) {
    const answer = await get(path)
    expect({ status: answer.status, code: answer.body.error.code }).toEqual({ status: 404, code: 'not_found' })
    expect(answer.headers.get('cache-control')).toBeNull()
  }
})

test('a type that names no extension gives a name without one', async () => {
  const { path, order } = await addOutput({ mimeType: 'application/octet-stream' })
  expect((await get(path)).headers.get('content-disposition')).toBe(`inline; filename="${order}-1"`)
})
