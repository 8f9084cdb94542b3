import dns from 'node:dns'
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import { type AddressInfo, createServer as createTcpServer, type Server } from 'node:net'
import { text } from 'node:stream/consumers'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { headersFor, isPublicAddress, safeFetch, UnsafeUrl } from '../src/safe-fetch.ts'

const servers: Server[] = []
afterAll(() => Promise.all(servers.map(server => new Promise(done => server.close(done)))))
afterEach(() => void vi.restoreAllMocks())

async function listen(server: Server, host: string, port = 0): Promise<number> {
  servers.push(server)
  await new Promise<void>((done, failed) => server.once('error', failed).listen(port, host, done))
  return (server.address() as AddressInfo).port
}

// The canary counts every connection: on a port of its own, and where we may, on the ports that a refused URL would reach.
let connections = 0
let port = 0
beforeAll(async () => {
  const canary = () => createTcpServer(socket => void ((connections += 1), socket.destroy()))
  port = await listen(canary(), '127.0.0.1')
  for (const host of ['127.0.0.1', '::1']) {
    for (const known of [443, 80]) await listen(canary(), host, known).catch(() => {})
    await listen(canary(), host, port).catch(() => {})
  }
})

async function refusal(url: string, options: Parameters<typeof safeFetch>[1] = {}): Promise<unknown> {
  const answer = await safeFetch(url, { timeoutMs: 5_000, ...options }).catch((error: unknown) => error)
  expect(answer).toBeInstanceOf(UnsafeUrl)
  return answer
}

/** Loopback, private and reserved hosts in every spelling that a URL knows. */
const HOSTS = [
  '127.0.0.1',
  '127.0.0.1.',
  '127.1',
  '127.0.1',
  '127.255.255.254',
  '2130706433',
  '0x7f000001',
  '0x7f.0.0.1',
  '0x7F.1',
  '017700000001',
  '0177.0.0.1',
  '0177.0.0x0.1',
  '00000177.0.0.01',
  '%31%32%37.0.0.1',
  '１２７.0.0.1',
  '127。0。0。1',
  '①②⑦.⓪.⓪.①',
  '0',
  '0.0.0.0',
  '0x0',
  'localhost',
  'LOCALHOST',
  'ⓛⓞⓒⓐⓛⓗⓞⓢⓣ',
  '10.0.0.1',
  '10.255.255.255',
  '100.64.0.1',
  '169.254.169.254',
  '0xA9FEA9FE',
  '172.16.0.1',
  '172.31.255.255',
  '192.0.0.1',
  '192.0.2.1',
  '192.168.1.1',
  '198.18.0.1',
  '198.51.100.1',
  '203.0.113.1',
  '224.0.0.1',
  '240.0.0.1',
  '255.255.255.255',
  '[::1]',
  '[0:0:0:0:0:0:0:1]',
  '[0000:0000:0000:0000:0000:0000:0000:0001]',
  '[::]',
  '[::127.0.0.1]',
  '[::ffff:127.0.0.1]',
  '[::ffff:7f00:1]',
  '[0:0:0:0:0:ffff:127.0.0.1]',
  '[::ffff:0:127.0.0.1]',
  '[::ffff:169.254.169.254]',
  '[64:ff9b::127.0.0.1]',
  '[64:ff9b::7f00:1]',
  '[64:ff9b:1::7f00:1]',
  '[2002:7f00:1::]',
  '[2001:0:7f00:1::1]',
  '[2001:db8::1]',
  '[3fff::1]',
  '[100::1]',
  '[fc00::1]',
  '[fd00:ec2::254]',
  '[fe80::1]',
  '[fec0::1]',
  '[ff02::1]',
]

describe('refused, and nothing connects:', () => {
  afterEach(() => expect(connections).toBe(0))

  test.each(HOSTS)('https://%s, as not a public address', async host => {
    expect(await refusal(`https://${host}/a.png`)).toMatchObject({
      message: expect.stringContaining('not a public address'),
    })
  })

  test.each(HOSTS)('http://%s on any port', async host => {
    await refusal(`http://${host}/a.png`)
    await refusal(`http://${host}:${port}/a.png`)
    await refusal(`https://${host}:${port}/a.png`)
  })

  test.each([
    ['https://user:secret@example.com/', 'credentials'],
    ['https://user@example.com/', 'credentials'],
    ['https://:secret@127.0.0.1/', 'credentials'],
    ['https://example.com@127.0.0.1/', 'credentials'],
    ['https://example.com:8443/', 'port'],
    ['https://example.com:80/', 'port'],
    ['https://example.com:22/', 'port'],
    ['http://example.com/', 'https'],
    ['http://example.com:443/', 'https'],
    ['ftp://example.com/', 'https'],
    ['file:///etc/passwd', 'https'],
    ['data:text/plain,hello', 'https'],
    ['javascript:alert(1)', 'https'],
    ['gopher://127.0.0.1:6379/_INFO', 'https'],
    ['ws://127.0.0.1/', 'https'],
    ['unix:/var/run/docker.sock', 'https'],
    ['blob:https://example.com/1', 'https'],
    ['//127.0.0.1/', 'not an absolute URL'],
    ['/a.png', 'not an absolute URL'],
    ['', 'not an absolute URL'],
    ['https://', 'not an absolute URL'],
    ['https://[fe80::1%25eth0]/', 'not an absolute URL'],
    ['https://[::1%lo]/', 'not an absolute URL'],
    ['https://256.0.0.1/', 'not an absolute URL'],
    ['https://127.0.0.1.1/', 'not an absolute URL'],
    ['https://0x100000000/', 'not an absolute URL'],
    ['https:\\\\127.0.0.1\\', 'not a public address'],
    ['https:127.0.0.1', 'not a public address'],
    ['\thttps://127.0.0.1/\n', 'not a public address'],
    ['ht\ntps://127.0.\t0.1/', 'not a public address'],
  ])('%j', async (url, why) => {
    expect(await refusal(url)).toMatchObject({ message: expect.stringContaining(why) })
  })

  test('a name that answers with a private address among public ones', async () => {
    const answers = [
      { address: '93.184.215.14', family: 4 },
      { address: '127.0.0.1', family: 4 },
    ]
    vi.spyOn(dns, 'lookup').mockImplementation(((_name: string, _options: object, done: (...args: unknown[]) => void) =>
      done(null, answers)) as never)
    expect(await refusal('https://rebinding.example/')).toMatchObject({
      message: 'rebinding.example: not a public address',
    })
  })

  test('localhost with a dot, whether the resolver knows it or not', async () => {
    await expect(safeFetch('https://localhost./', { timeoutMs: 5_000 })).rejects.toThrow(
      /ENOTFOUND|not a public address/,
    )
  })

  test('a host that is not on the list', async () => {
    const allowHosts = ['cdn.example.com']
    for (const host of ['example.com', 'evilcdn.example.com', 'cdn.example.com.evil.org', '127.0.0.1']) {
      expect(await refusal(`https://${host}/`, { allowHosts })).toMatchObject({
        message: `${host}: the host is not on the list`,
      })
    }
  })

  test('says neither path nor credentials', async () => {
    const error = (await refusal('https://user:secret@example.com/private?token=1')) as Error
    expect(error.message).not.toMatch(/secret|private|token/)
  })
})

describe('addresses', () => {
  test.each([
    '1.1.1.1',
    '8.8.8.8',
    '100.63.255.255',
    '100.128.0.0',
    '172.15.0.1',
    '172.32.0.1',
    '198.20.0.1',
    '223.255.255.255',
    '2606:4700::1111',
    '2a00:1450:4001::1',
    '2001:4860:4860::8888',
    '3ffe::1',
  ])('%s is public', address => expect(isPublicAddress(address)).toBe(true))

  test.each(['fe80::1%eth0', '2606:4700::1111%lo', '::ffff:8.8.8.8', 'example.com', '', '1.1.1', '4000::1'])(
    '%j is not',
    address => expect(isPublicAddress(address)).toBe(false),
  )
})

/** A server on loopback, as an account's base URL of a self-hosted upstream. Answers what it was asked. */
async function upstream(answer: RequestListener): Promise<string> {
  return `http://127.0.0.1:${await listen(createServer(answer), '127.0.0.1')}`
}

const echo = (request: IncomingMessage, response: ServerResponse) => {
  void text(request).then(body =>
    response.end(JSON.stringify({ method: request.method, url: request.url, headers: request.headers, body })),
  )
}

/** Redirects to what the path says after a slash. */
const redirect = (request: IncomingMessage, response: ServerResponse) => {
  if (request.url === '/end') return echo(request, response)
  response.writeHead(302, { location: decodeURIComponent(request.url?.slice(1) ?? '') })
  response.end('moved')
}

describe('the allowed origin', () => {
  test('is reached as it is, http and private', async () => {
    const origin = await upstream(echo)
    const answer = await safeFetch(`${origin}/files/a.png?x=1`, { allowOrigin: origin, headers: { accept: 'image/*' } })
    expect(answer.status).toBe(200)
    const seen = JSON.parse(await text(answer.body)) as { method: string; url: string; headers: Record<string, string> }
    expect(seen).toMatchObject({ method: 'GET', url: '/files/a.png?x=1', headers: { accept: 'image/*' } })
  })

  test('takes a POST with its body and headers', async () => {
    const origin = await upstream(echo)
    const answer = await safeFetch(`${origin}/hook`, {
      method: 'POST',
      allowOrigin: `${origin}/`,
      headers: { 'content-type': 'application/json' },
      body: '{"a":1}',
    })
    const seen = JSON.parse(await text(answer.body)) as object
    expect(seen).toMatchObject({ method: 'POST', body: '{"a":1}', headers: { 'content-type': 'application/json' } })
  })

  test('is that scheme, host and port, nothing near it', async () => {
    const origin = await upstream(echo)
    const own = new URL(origin).port
    for (const url of [
      `http://127.0.0.1:${port}/`,
      `http://localhost:${own}/`,
      `http://127.0.0.2:${own}/`,
      `http://[::ffff:127.0.0.1]:${own}/`,
      `https://127.0.0.1:${own}/`,
      `http://user:pw@127.0.0.1:${own}/`,
      'http://127.0.0.1/',
    ]) {
      await refusal(url, { allowOrigin: origin })
    }
    await refusal('data:text/plain,hello', { allowOrigin: 'data:text/plain,hello' })
    expect(connections).toBe(0)
  })

  test('does not let a redirect out to another private place', async () => {
    const origin = await upstream(redirect)
    const own = new URL(origin).port
    for (const target of [
      `http://127.0.0.1:${port}/`,
      `//127.0.0.1:${port}/`,
      'https://127.0.0.1/',
      'https://localhost/',
      'https://[::1]/',
      'https://2130706433/',
      `http://localhost:${own}/end`,
      'http://169.254.169.254/latest/meta-data/',
      'file:///etc/passwd',
      `http://user:pw@127.0.0.1:${own}/end`,
      'https://',
    ]) {
      await refusal(`${origin}/${encodeURIComponent(target)}`, { allowOrigin: origin })
    }
    expect(connections).toBe(0)
  })

  test('answers with a status and headers as they are', async () => {
    const origin = await upstream((_request, response) => {
      response.writeHead(404, { 'x-one': '1', 'set-cookie': ['a=1', 'b=2'] })
      response.end('gone')
    })
    const answer = await safeFetch(origin, { allowOrigin: origin })
    expect(answer).toMatchObject({ status: 404, headers: { 'x-one': '1', 'set-cookie': 'a=1' } })
    expect(await text(answer.body)).toBe('gone')
  })
})

describe('redirects', () => {
  test('are followed up to five times, with the headers, within the origin', async () => {
    const origin = await upstream(redirect)
    const nested = (hops: number) => {
      let url = `${origin}/end`
      for (let hop = 0; hop < hops; hop += 1) url = `${origin}/${encodeURIComponent(url)}`
      return url
    }
    const answer = await safeFetch(nested(5), { allowOrigin: origin, headers: { authorization: 'Bearer k' } })
    const seen = JSON.parse(await text(answer.body)) as object
    expect(seen).toMatchObject({ url: '/end', headers: { authorization: 'Bearer k' } })
    const endless = await refusal(nested(6), { allowOrigin: origin })
    expect(endless).toMatchObject({ message: '127.0.0.1: more than 5 redirects' })
  })

  test('may be relative', async () => {
    const origin = await upstream(redirect)
    const answer = await safeFetch(`${origin}/${encodeURIComponent('/end')}`, { allowOrigin: origin })
    expect(JSON.parse(await text(answer.body))).toMatchObject({ url: '/end' })
  })

  test('of a POST are the answer', async () => {
    const origin = await upstream(redirect)
    const answer = await safeFetch(`${origin}/end2`, { method: 'POST', body: 'x', allowOrigin: origin })
    expect(answer).toMatchObject({ status: 302, headers: { location: 'end2' } })
    answer.body.destroy()
  })

  test('to another origin leave credentials behind, for good', () => {
    const [a, b] = [new URL('https://a.example/'), new URL('https://b.example/')]
    const headers = { Authorization: 'Bearer k', Cookie: 'c', 'X-Api-Key': 'k', Accept: 'image/*', Range: 'bytes=0-' }
    const passed = headersFor(b, a, headers)
    expect(passed).toEqual({ Accept: 'image/*', Range: 'bytes=0-' })
    expect(headersFor(a, b, passed)).toEqual(passed)
    expect(headersFor(new URL('https://a.example/x'), a, headers)).toEqual(headers)
    expect(headersFor(new URL('http://a.example/'), a, headers)).toEqual(passed)
  })
})

describe('waits', () => {
  test('end with timeoutMs, also in the middle of a body', async () => {
    const origin = await upstream((request, response) => {
      if (request.url === '/body') response.write('first')
    })
    await expect(safeFetch(`${origin}/`, { allowOrigin: origin, timeoutMs: 100 })).rejects.toThrow(/timeout/)
    const answer = await safeFetch(`${origin}/body`, { allowOrigin: origin, timeoutMs: 200 })
    await expect(text(answer.body)).rejects.toThrow(/timeout|aborted/)
  })

  test('end with the signal', async () => {
    const origin = await upstream(() => {})
    const stop = new AbortController()
    setTimeout(() => stop.abort(), 50)
    await expect(safeFetch(origin, { allowOrigin: origin, signal: stop.signal })).rejects.toThrow(/abort/)
  })

  test('a server that is not there is a transport error, not an unsafe URL', async () => {
    const server = createServer(echo)
    const gone = await listen(server, '127.0.0.1')
    await new Promise(done => server.close(done))
    const error = await safeFetch(`http://127.0.0.1:${gone}/`, { allowOrigin: `http://127.0.0.1:${gone}` }).catch(
      (error: unknown) => error,
    )
    expect(error).toMatchObject({ code: 'ECONNREFUSED' })
    expect(error).not.toBeInstanceOf(UnsafeUrl)
  })

  test('no proxy of the environment is used', async () => {
    const proxy = `http://127.0.0.1:${port}`
    for (const name of ['HTTP_PROXY', 'HTTPS_PROXY', 'http_proxy', 'https_proxy']) vi.stubEnv(name, proxy)
    const origin = await upstream(echo)
    const answer = await safeFetch(origin, { allowOrigin: origin })
    expect(answer.status).toBe(200)
    answer.body.destroy()
    await refusal('https://127.0.0.1/')
    expect(connections).toBe(0)
    vi.unstubAllEnvs()
  })
})
