import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { join } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { convert } from '../../src/uploads/convert.ts'
import { QUOTA_BYTES, QUOTA_COUNT } from '../../src/uploads/receive.ts'
import { build } from '../server.ts'
import { makeHostile } from '../uploads/hostile.ts'
import { fixture, makeSamples } from '../uploads/samples.ts'

const queued: string[] = []
let freeBytes: number | undefined
const genmux = await build({
  env: { RATE_LIMIT_PER_MINUTE: '100000' },
  convertLater: async id => void queued.push(id),
  storage: local => ({ ...local, freeBytes: async () => freeBytes ?? local.freeBytes() }),
})
const { db, customer, app } = genmux
const samples = await makeSamples()
const png = samples.png?.bytes ?? Buffer.alloc(0)

beforeEach(() => {
  freeBytes = undefined
})

function send(form: FormData, key = customer.key) {
  return fetch(`${genmux.url}/api/v1/upload`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}` },
    body: form,
  })
}

function formOf(fileName: string, bytes: Buffer): FormData {
  const form = new FormData()
  form.append('file', new Blob([new Uint8Array(bytes)]), fileName)
  return form
}

async function upload(fileName: string, bytes: Buffer, key?: string) {
  const answer = await send(formOf(fileName, bytes), key)
  return { status: answer.status, body: JSON.parse(await answer.text()) }
}

const status = (tmpPath: string, key = customer.key) =>
  genmux.call('GET', `/api/v1/upload/status?tmp_path=${encodeURIComponent(tmpPath)}`, { key })
const preview = (id: string, headers: Record<string, string> = {}, key = customer.key) =>
  genmux.call('GET', `/api/v1/upload/preview/${id}`, { key, headers })
const idOf = (tmpPath: string) => tmpPath.slice(4)

async function storedFiles(): Promise<string[]> {
  const names = readdirSync(join(app.config.dataDir, 'storage/partial'))
  for await (const file of app.storage.list('uploads/')) names.push(file.name)
  return names.sort()
}

describe('uploading', () => {
  test.each(Object.entries(samples))(
    '%s: the answer, the state and the bytes',
    async (_, { fileName, bytes, mimeType }) => {
      const { status: code, body } = await upload(fileName, bytes)
      const processing = mimeType === 'image/heic'
      const { tmp_path } = body.upload
      expect(code).toBe(201)
      expect(tmp_path).toMatch(/^tmp\/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/)
      expect(JSON.stringify(body)).toBe(
        JSON.stringify({
          success: true,
          upload: {
            tmp_path,
            status: processing ? 'processing' : 'ready',
            url: processing ? null : `${app.config.publicUrl}/api/v1/upload/preview/${idOf(tmp_path)}`,
            original_name: fileName,
            mime_type: mimeType,
            size: bytes.length,
            error: null,
          },
        }),
      )
      expect((await status(tmp_path)).body).toEqual(body)
      const seen = await preview(idOf(tmp_path))
      if (processing) expect([seen.status, seen.body.error.code]).toEqual([422, 'upload_processing'])
      else {
        expect(seen.bytes.equals(bytes)).toBe(true)
        expect(seen.headers.get('content-type')).toBe(mimeType)
      }
    },
  )

  test('names are kept as they were sent, without paths and control characters', async () => {
    const names = {
      'Отпуск на море.png': 'Отпуск на море.png',
      '../../etc/passwd.png': 'passwd.png',
      'C:\\dir\\a b.png': 'a b.png',
    }
    for (const [sent, kept] of Object.entries(names))
      expect((await upload(sent, png)).body.upload.original_name).toBe(kept)
    const long = (await upload(`${'x'.repeat(400)}.png`, png)).body.upload.original_name
    expect(long).toHaveLength(255)
    expect(long.endsWith('x.png')).toBe(true)
    expect((await upload('a\u202egnp.png', png)).body.upload.original_name).toBe('agnp.png')
  })

  test('a preview can be read in parts and is never shown as a page', async () => {
    const id = idOf((await upload('photo "1".png', png)).body.upload.tmp_path)
    const whole = await preview(id)
    expect(whole.headers.get('x-content-type-options')).toBe('nosniff')
    expect(whole.headers.get('content-security-policy')).toBe("default-src 'none'; sandbox")
    expect(whole.headers.get('content-disposition')).toMatch(/^attachment; filename=/)
    const part = await preview(id, { range: 'bytes=1-3' })
    expect([part.status, part.text, part.headers.get('content-range')]).toEqual([206, 'PNG', `bytes 1-3/${png.length}`])
    expect((await preview(id, { range: `bytes=${png.length}-` })).status).toBe(416)
  })
})

describe('refused', () => {
  const code = async (answer: Response) => [answer.status, JSON.parse(await answer.text()).error?.code]

  test('every hostile file, and nothing of it stays', async () => {
    const before = await storedFiles()
    const hostile = await makeHostile()
    for (const { what, fileName, bytes } of hostile) {
      const answer = await upload(fileName, bytes)
      expect([
        what,
        answer.status,
        ['validation_error', 'invalid_media_type'].includes(answer.body.error.code),
      ]).toEqual([what, 422, true])
    }
    expect(await storedFiles()).toEqual(before)
    expect(await db.prisma.uploadReservation.count()).toBe(0)
  })

  test('a form without a file, with another field, with two files, with a field beside it', async () => {
    const before = await storedFiles()
    const other = new FormData()
    other.append('image', new Blob([new Uint8Array(png)]), 'a.png')
    const twice = formOf('a.png', png)
    twice.append('file', new Blob([new Uint8Array(png)]), 'b.png')
    const beside = formOf('a.png', png)
    beside.append('folder', 'x')
    const text = new FormData()
    text.append('file', 'just text')
    for (const form of [new FormData(), other, twice, beside, text])
      expect(await code(await send(form))).toEqual([422, 'validation_error'])
    expect(await storedFiles()).toEqual(before)
  })

  test('what is not multipart, or is malformed', async () => {
    const before = await storedFiles()
    const post = (type: string, body: string | Buffer) =>
      genmux.call('POST', '/api/v1/upload', { key: customer.key, body, headers: { 'content-type': type } })
    expect((await post('application/json', '{}')).status).toBe(400)
    expect((await post('image/png', png)).status).toBe(400)
    expect((await post('multipart/form-data', png)).status).toBe(400)
    expect((await post('multipart/form-data; boundary=x', 'no boundary here')).status).toBe(400)
    const head = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    const unended = await post('multipart/form-data; boundary=x', Buffer.concat([Buffer.from(head), png]))
    expect([unended.status, unended.body.error.code]).toEqual([400, 'validation_error'])
    const unnamed = head.replace('a.png', '')
    expect(
      (
        await post(
          'multipart/form-data; boundary=x',
          Buffer.concat([Buffer.from(unnamed), png, Buffer.from('\r\n--x--\r\n')]),
        )
      ).status,
    ).toBe(422)
    expect(await storedFiles()).toEqual(before)
  })

  test('a file over 300 MB, without reading the rest', async () => {
    const before = await storedFiles()
    const announced = await rawUpload({ announce: 400 * 1024 * 1024, send: 1024 * 1024 })
    expect(announced).toMatchObject({ status: 413, closed: true })
    expect(announced.body).toContain('"validation_error"')
    // Not announced: chunked. It is a movie so that its content is no reason to refuse it.
    const counted = await rawUpload({ send: 400 * 1024 * 1024 })
    expect(counted).toMatchObject({ status: 413, closed: true })
    expect(counted.sent).toBeLessThan(330 * 1024 * 1024)
    expect(await storedFiles()).toEqual(before)
  })

  test('a file of nobody, whose answer comes while it is being sent', async () => {
    const before = await storedFiles()
    const refused = await rawUpload({ announce: 200 * 1024 * 1024, send: 200 * 1024 * 1024, key: 'nobody' })
    expect(refused).toMatchObject({ status: 401, closed: true })
    expect(refused.body).toContain('"unauthorized"')
    expect(await storedFiles()).toEqual(before)
  })

  test('a client that goes away leaves nothing', async () => {
    const before = await storedFiles()
    const cut = await rawUpload({ announce: 100 * 1024 * 1024, send: 5 * 1024 * 1024, thenCut: true })
    expect(cut.status).toBeUndefined()
    await expect.poll(async () => [await storedFiles(), await db.prisma.uploadReservation.count()]).toEqual([before, 0])
  })

  test('beyond the quota of bytes or of files, also by racers', async () => {
    const full = await genmux.addCustomer()
    const row = {
      customerId: full.id,
      status: 'ready' as const,
      originalName: 'x',
      extension: 'png',
      mimeType: 'image/png',
      sha256: new Uint8Array(1),
    }
    const soon = new Date(Date.now() + 3_600_000)
    await db.prisma.upload.create({
      data: { ...row, id: crypto.randomUUID(), name: 'quota', size: QUOTA_BYTES - 10, expiresAt: soon },
    })
    const { status: code, body } = await upload('a.png', png, full.key)
    expect([code, body.error.code]).toEqual([422, 'validation_error'])
    await db.prisma.upload.update({ where: { name: 'quota' }, data: { size: 1 } })
    await db.prisma.upload.createMany({
      data: Array.from({ length: QUOTA_COUNT - 4 }, (_, i) => ({
        ...row,
        id: crypto.randomUUID(),
        name: `quota-${i}`,
        size: 1,
        expiresAt: soon,
      })),
    })
    const racers = await Promise.all(Array.from({ length: 12 }, () => upload('a.png', png, full.key)))
    expect(racers.filter(racer => racer.status === 201)).toHaveLength(3)
    await db.prisma.upload.deleteMany({ where: { customerId: full.id, name: { startsWith: 'quota' } } })
  })

  test('a nearly full disk: 503 with Retry-After', async () => {
    freeBytes = 1024 ** 3
    const answer = await send(formOf('a.png', png))
    expect(answer.headers.get('retry-after')).toBe('60')
    expect(await code(answer)).toEqual([503, 'server_busy'])
  })
})

describe('whose it is and how long it lives', () => {
  test("another customer's file does not exist", async () => {
    const stranger = await genmux.addCustomer()
    const { tmp_path } = (await upload('a.png', png)).body.upload
    const answers = [await status(tmp_path, stranger.key), await preview(idOf(tmp_path), {}, stranger.key)]
    const order = { model_id: 20, prompt: 'x', media: { image: [tmp_path] } }
    answers.push(await stranger.post('/orders', order))
    for (const answer of answers) expect([answer.status, answer.body.error.code]).toEqual([404, 'file_not_found'])
    expect((await genmux.call('GET', `/api/v1/upload/preview/${idOf(tmp_path)}`)).status).toBe(401)
    expect((await customer.post('/orders', order)).status).toBe(201)
  })

  test('it expires at its moment: file_expired for 7 days, then file_not_found', async () => {
    const { tmp_path } = (await upload('a.png', png)).body.upload
    const expire = (ago: number) =>
      db.prisma.upload.update({ where: { id: idOf(tmp_path) }, data: { expiresAt: new Date(Date.now() - ago) } })
    const codes = async () =>
      [
        await status(tmp_path),
        await preview(idOf(tmp_path)),
        await customer.post('/orders', { model_id: 20, prompt: 'x', media: { image: [tmp_path] } }),
      ].map(answer => [answer.status, answer.body.error.code])
    await expire(1)
    expect(await codes()).toEqual(Array.from({ length: 3 }, () => [422, 'file_expired']))
    await expire(7 * 86_400_000)
    expect(await codes()).toEqual(Array.from({ length: 3 }, () => [404, 'file_not_found']))
  })

  test.each(['tmp/', 'tmp/../../etc/passwd', 'tmp/nope', `tmp/${'0'.repeat(36)}`])(
    'a tmp_path that nothing stands under: %j',
    async tmpPath => {
      const answer = await status(tmpPath)
      expect([answer.status, answer.body.error.code]).toEqual([404, 'file_not_found'])
    },
  )

  test.each(['', 'nonsense', '/tmp/x'])('a tmp_path that is none: %j', async tmpPath => {
    const answer = await status(tmpPath)
    expect([answer.status, answer.body.error.code]).toEqual([422, 'validation_error'])
    expect(answer.body.error.message).toMatch(/^tmp_path: /)
  })

  test('a key without the scope may not upload', async () => {
    const reader = await customer.addKey(['read'])
    expect((await upload('a.png', png, reader.key)).status).toBe(403)
  })
})

describe('HEIC', () => {
  test('is processing, then a PNG under the same name', async () => {
    const { tmp_path } = (await upload('IMG_9508.HEIC', fixture('quadrants-p3.heic'))).body.upload
    expect(queued).toContain(idOf(tmp_path))
    await convert(app, idOf(tmp_path))
    const { upload: now } = (await status(tmp_path)).body
    expect(now).toMatchObject({ status: 'ready', original_name: 'IMG_9508.HEIC', mime_type: 'image/png', error: null })
    const seen = await preview(idOf(tmp_path))
    expect(seen.headers.get('content-type')).toBe('image/png')
    expect(seen.headers.get('content-disposition')).toContain('IMG_9508.png')
    expect(seen.bytes.length).toBe(now.size)
    expect(seen.bytes.subarray(1, 4).toString()).toBe('PNG')
  })

  test('that cannot be converted is failed, and says why', async () => {
    const { tmp_path } = (await upload('bomb.heic', fixture('81-megapixels.heic'))).body.upload
    await convert(app, idOf(tmp_path))
    expect((await status(tmp_path)).body.upload).toMatchObject({
      status: 'failed',
      url: null,
      error: 'The picture has more than 50 megapixels and cannot be converted.',
    })
    expect((await preview(idOf(tmp_path))).status).toBe(404)
  })
})

describe('the media URL for upstreams', () => {
  async function mediaUrl() {
    const { tmp_path, size } = (await upload('secret name.png', png)).body.upload
    const element = { upload: idOf(tmp_path), mime_type: 'image/png', extension: 'png', size }
    return { id: idOf(tmp_path), media: await app.uploads.media(element, 'att_1') }
  }
  const get = async (url: string, headers: Record<string, string> = {}) =>
    genmux.call('GET', url.replace(app.config.publicUrl, ''), { headers })

  test('gives exactly the bytes and the type to anyone who has it, also in parts', async () => {
    const { media } = await mediaUrl()
    expect(media.url).toMatch(/\/media\/[\w-]+\.png$/)
    const whole = await get(media.url)
    expect([whole.status, whole.headers.get('content-type'), whole.bytes.equals(png)]).toEqual([200, 'image/png', true])
    expect(whole.headers.get('content-disposition')).not.toContain('secret')
    expect((await get(media.url, { range: 'bytes=1-3' })).text).toBe('PNG')
    const head = await genmux.call('HEAD', media.url.replace(app.config.publicUrl, ''))
    expect([head.status, head.headers.get('content-length')]).toEqual([200, String(png.length)])
  })

  test('anything else is a 404', async () => {
    const { media, id } = await mediaUrl()
    const token = /media\/([\w-]+)\.png$/.exec(media.url)?.[1] ?? ''
    const other = token.startsWith('A') ? 'B' : 'A'
    const wrong = [
      '',
      id,
      `${id}.png`,
      token,
      `${token}.jpg`,
      `${token}.png.png`,
      `${other}${token.slice(1)}.png`,
      `${token.slice(0, -2)}AA.png`,
      `${token}AAAA.png`,
    ]
    for (const segment of wrong) expect([segment, (await get(`/media/${segment}`)).status]).toEqual([segment, 404])
  })

  test('it stays while an order is active and ends when the bytes go', async () => {
    const { media, id } = await mediaUrl()
    await db.prisma.upload.update({ where: { id }, data: { expiresAt: new Date(0) } })
    expect((await get(media.url)).status).toBe(200)
    await db.prisma.upload.update({ where: { id }, data: { purgedAt: new Date() } })
    expect((await get(media.url)).status).toBe(404)
  })
})

/** An upload of a movie by hand, as much of it as is wanted. */
async function rawUpload(options: { announce?: number; send: number; thenCut?: boolean; key?: string }) {
  const head = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.mov"\r\n\r\n'
  const request = httpRequest(`${genmux.url}/api/v1/upload`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${options.key ?? customer.key}`,
      'content-type': 'multipart/form-data; boundary=x',
      ...(options.announce ? { 'content-length': options.announce } : {}),
    },
  })
  const answered = once(request, 'response').then(
    async ([response]) => ({
      status: response.statusCode as number,
      closed: response.headers.connection === 'close',
      body: (await response.toArray()).join(''),
    }),
    () => ({ status: undefined, closed: true, body: '' }),
  )
  let over = false
  void answered.then(() => {
    over = true
  })
  request.on('error', () => {})
  // One box that is longer than everything: a movie that has not ended.
  request.write(Buffer.concat([Buffer.from(head), Buffer.from([0x7f, 0, 0, 0]), Buffer.from('mdat')]))
  const piece = Buffer.alloc(256 * 1024)
  let sent = 0
  while (sent < options.send && !over && !request.destroyed) {
    sent += piece.length
    if (!request.write(piece)) await Promise.race([once(request, 'drain').catch(() => {}), answered])
  }
  if (options.thenCut) request.destroy()
  const answer = await answered
  request.destroy()
  return { ...answer, sent }
}
