import { setTimeout as sleep } from 'node:timers/promises'
import { buffer } from 'node:stream/consumers'
import { Readable } from 'node:stream'
import { MockAgent } from 'undici'
import { afterEach, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { askEach, type HttpRequest, readAnswer, type TakeBudget } from '../../src/providers/http.ts'
import { type Bucket, ProviderError } from '../../src/providers/provider.ts'
import { type Answerer, closeAll, failureOf, httpTo, json, KEY, listen, nowhere } from './loopback.ts'

afterEach(closeAll)

function post(bucket: Bucket, more: Partial<HttpRequest> = {}): HttpRequest {
  return { method: 'POST', path: '/things', bucket, json: { a: 1 }, ...more }
}

describe('a request that gets no whole answer', () => {
  const broken: { name: string; listener: Answerer }[] = [
    { name: 'reset before the answer', listener: request => request.socket.resetAndDestroy() },
    { name: 'closed before the answer', listener: request => request.socket.destroy() },
    { name: 'silence', listener: () => {} },
    {
      name: 'silence in the middle of the answer',
      listener: (_, response) => void response.writeHead(200, { 'content-length': '100' }).write('{"id":'),
    },
    {
      name: 'an answer cut off',
      listener: (request, response) => {
        response.writeHead(200, { 'content-length': '100' }).write('{"id":', () => request.socket.destroy())
      },
    },
    {
      name: 'an answer that drips beyond the time',
      listener: (_, response) => {
        const timer = setInterval(() => response.write(' '), 20)
        response.on('close', () => clearInterval(timer))
      },
    },
    {
      name: 'an endless answer',
      listener: (_, response) => {
        Readable.from(endless()).pipe(response)
      },
    },
    { name: 'an answer that is not HTTP', listener: request => request.socket.end('SSH-2.0-OpenSSH_9.2\r\n') },
  ]

  test.each(broken)('$name: a submit is unclear, all else unavailable', async ({ listener }) => {
    const http = httpTo(await listen(listener))
    const submit = await failureOf(http.send(post('submit', { timeoutMs: 300 })))
    expect(submit).toMatchObject({ fault: 'unclear', mayHaveStarted: true })
    const read = await failureOf(http.send({ method: 'GET', path: '/things', bucket: 'read', timeoutMs: 300 }))
    expect(read).toMatchObject({ fault: 'unavailable', mayHaveStarted: false })
    expect(submit.message + read.message).not.toContain(KEY)
  })

  test.each(['{"id": "a', '', '<html>busy</html>'])('a 2xx of %j: a submit is unclear', async text => {
    const http = httpTo(await listen((_, response) => response.end(text)))
    expect(await failureOf(http.send(post('submit')))).toMatchObject({ fault: 'unclear', mayHaveStarted: true })
    const { body } = await http.send({ method: 'GET', path: '/things', bucket: 'read' })
    expect(body).toBeUndefined()
  })

  test('an answer of 9 MB is not read to its end', async () => {
    const http = httpTo(await listen((_, response) => json(response, 'a'.repeat(9 * 1024 * 1024))))
    expect(await failureOf(http.send(post('submit')))).toMatchObject({ fault: 'unclear', mayHaveStarted: true })
  })

  test('nothing listens: even a submit cannot have started', async () => {
    const error = await failureOf(httpTo(await nowhere()).send(post('submit')))
    expect(error).toMatchObject({ fault: 'unavailable', mayHaveStarted: false })
  })

  test.each([
    'ECONNREFUSED',
    'ENOTFOUND',
    'EAI_AGAIN',
    'UND_ERR_CONNECT_TIMEOUT',
    'CERT_HAS_EXPIRED',
    'DEPTH_ZERO_SELF_SIGNED_CERT',
    'ERR_TLS_CERT_ALTNAME_INVALID',
  ])('%s comes before the first byte: a submit cannot have started', async code => {
    const dispatcher = new MockAgent()
    dispatcher.disableNetConnect()
    const intercepted = dispatcher.get('https://upstream.example').intercept({ path: '/things', method: 'POST' })
    intercepted.replyWithError(Object.assign(new Error('no'), { code }))
    const error = await failureOf(httpTo('https://upstream.example', { dispatcher }).send(post('submit')))
    expect(error).toMatchObject({ fault: 'unavailable', mayHaveStarted: false })
  })

  test('a stopping process: a submit under way is unclear', async () => {
    const stop = new AbortController()
    const http = httpTo(await listen(() => stop.abort()), { signal: stop.signal })
    expect(await failureOf(http.send(post('submit')))).toMatchObject({ fault: 'unclear', mayHaveStarted: true })
  })

  test('is sent once: nothing is retried', async () => {
    let seen = 0
    const http = httpTo(
      await listen(request => {
        seen++
        request.socket.resetAndDestroy()
      }),
    )
    await failureOf(http.send({ method: 'GET', path: '/things', bucket: 'read' }))
    await sleep(50)
    expect(seen).toBe(1)
  })
})

describe('an answer', () => {
  test.each([200, 201, 302, 400, 401, 404, 422, 429, 500, 503])('with status %i is given as it is', async status => {
    const http = httpTo(await listen((_, response) => json(response, { some: 'body' }, status)))
    expect(await http.send(post('submit'))).toMatchObject({ status, body: { some: 'body' } })
  })

  test('of another shape: unclear after a submit, unavailable after a read', async () => {
    const http = httpTo(await listen((_, response) => json(response, { ident: 'a' })))
    const answer = await http.send(post('submit'))
    const read = (bucket: Bucket) => failureOf((async () => readAnswer(z.object({ id: z.string() }), answer, bucket))())
    expect(await read('submit')).toMatchObject({ fault: 'unclear', mayHaveStarted: true })
    expect(await read('read')).toMatchObject({ fault: 'unavailable', mayHaveStarted: false })
  })

  test('that redirects is not followed: the key goes nowhere else', async () => {
    let strangers = 0
    const elsewhere = await listen((_, response) => {
      strangers++
      json(response, {})
    })
    const http = httpTo(await listen((_, response) => json(response, {}, 307, { location: `${elsewhere}/things` })))
    expect((await http.send(post('submit'))).status).toBe(307)
    expect(strangers).toBe(0)
  })

  test.each([
    ['7', 7_000],
    ['0', 0],
    ['1.5', 1_500],
    ['soon', undefined],
    ['Wed, 21 Oct 2015 07:28:00 GMT', 0],
    [undefined, undefined],
  ])('with Retry-After %j asks to wait %j ms', async (value, expected) => {
    const headers = value === undefined ? {} : { 'retry-after': value }
    const http = httpTo(await listen((_, response) => json(response, {}, 429, headers)))
    expect((await http.send(post('submit'))).retryAfterMs).toBe(expected)
  })

  test('with a Retry-After date asks to wait until then', async () => {
    const later = new Date(Date.now() + 90_000).toUTCString()
    const http = httpTo(await listen((_, response) => json(response, {}, 503, { 'retry-after': later })))
    const { retryAfterMs } = await http.send(post('submit'))
    expect(retryAfterMs).toBeGreaterThan(85_000)
    expect(retryAfterMs).toBeLessThanOrEqual(90_000)
  })

  test('that quotes our key comes without it', async () => {
    const http = httpTo(await listen((_, response) => json(response, { error: `bad key ${KEY}` }, 401)))
    expect((await http.send(post('submit'))).body).toEqual({ error: 'bad key [key]' })
  })
})

describe('a request', () => {
  test('carries the key, the query and the JSON', async () => {
    const http = httpTo(
      await listen(async (request, response) => {
        const { method, url, headers } = request
        const body = (await buffer(request)).toString()
        json(response, { method, url, body, authorization: headers.authorization, type: headers['content-type'] })
      }),
    )
    const { body } = await http.send(post('read', { query: { limit: 200, q: 'a b&c' } }))
    expect(body).toEqual({
      method: 'POST',
      url: '/things?limit=200&q=a%20b%26c',
      body: '{"a":1}',
      authorization: 'Bearer [key]',
      type: 'application/json',
    })
  })

  test('without a budget is not sent', async () => {
    let seen = 0
    const url = await listen((_, response) => {
      seen++
      json(response, {})
    })
    const taken: Bucket[] = []
    const take: TakeBudget = async (_account, bucket) => {
      taken.push(bucket)
      throw new ProviderError('rate_limited', 'used up', { retryAfterMs: 10 })
    }
    expect(await failureOf(httpTo(url, { take }).send(post('upload')))).toMatchObject({ fault: 'rate_limited' })
    expect({ taken, seen }).toEqual({ taken: ['upload'], seen: 0 })
  })
})

describe('askEach', () => {
  const refs = Array.from({ length: 100 }, (_, i) => `ref-${i}`)

  test('asks about all, 32 at a time', async () => {
    let open = 0
    let most = 0
    const states = await askEach(refs, async () => {
      most = Math.max(most, ++open)
      await sleep(2)
      open--
      return { state: 'pending' }
    })
    expect([...states.keys()].sort()).toEqual([...refs].sort())
    expect(most).toBe(32)
  })

  test('leaves out what could not be asked', async () => {
    const states = await askEach(refs, async ref => {
      if (ref === 'ref-3') throw new ProviderError('unavailable', 'reset')
      return { state: 'pending' }
    })
    expect(states.size).toBe(99)
    expect(states.has('ref-3')).toBe(false)
  })

  test('throws when none could be asked, and stops asking when the budget is spent', async () => {
    let asked = 0
    const spent = async () => {
      asked++
      throw new ProviderError('rate_limited', 'used up')
    }
    expect(await failureOf(askEach(refs, spent))).toMatchObject({ fault: 'rate_limited' })
    expect(asked).toBe(32)
  })

  test('of nothing is nothing', async () => {
    expect(await askEach([], () => expect.fail('asked'))).toEqual(new Map())
  })
})

async function* endless(): AsyncGenerator<Buffer> {
  for (;;) yield Buffer.alloc(256 * 1024, ' ')
}
