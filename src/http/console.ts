import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { extname, join } from 'node:path'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'

const FOLDER = join(import.meta.dirname, '../console')
const TYPES: Record<string, string> = {
  '.css': 'text/css; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
}
/** Nothing leaves this origin and nothing is framed; the last two forbid to make markup out of text. */
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
  "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; require-trusted-types-for 'script'; trusted-types 'none'"
const GUARDS = {
  'content-security-policy': POLICY,
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
}

/**
 * GET /console, the operator's page, and its assets beside it. None of it is secret: the page asks for the admin token and
 * speaks /admin/v1. Assets are asked for again each time (304), so that a page never mixes those of two versions.
 */
export async function consoleRoutes(server: FastifyInstance): Promise<void> {
  const assets = await readAssets()
  const page = assets.get('index.html')
  if (!page) throw new Error(`${FOLDER} has no index.html`)
  assets.delete('index.html')

  server.get('/console', { schema: { hide: true } }, (_request, reply) =>
    reply
      .headers({ ...GUARDS, 'cache-control': 'no-store' })
      .type(page.type)
      .send(page.body),
  )
  server.get('/console/', { schema: { hide: true } }, (_request, reply) => reply.redirect('../console', 308))
  for (const [name, asset] of assets) {
    server.get(`/console/${name}`, { schema: { hide: true } }, (request, reply) => sendAsset(asset, request, reply))
  }
}

interface Asset {
  readonly type: string
  readonly body: Buffer
  readonly etag: string
}

/** The files of the folder, by name. They are few and small, and stay in memory. */
async function readAssets(): Promise<Map<string, Asset>> {
  const assets = new Map<string, Asset>()
  for (const name of await readdir(FOLDER)) {
    const type = TYPES[extname(name)]
    if (type === undefined) continue
    const body = await readFile(join(FOLDER, name))
    assets.set(name, { type, body, etag: `"${createHash('sha256').update(body).digest('hex')}"` })
  }
  return assets
}

function sendAsset(asset: Asset, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  reply.headers({ ...GUARDS, etag: asset.etag, 'cache-control': 'no-cache' })
  if (request.headers['if-none-match'] === asset.etag) return reply.code(304).send()
  return reply.type(asset.type).send(asset.body)
}
