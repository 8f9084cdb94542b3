import { createHash } from 'node:crypto'
import fastify, { type FastifyInstance } from 'fastify'

/** Nothing that would send the reader, or the document, elsewhere. */
const SETTINGS = JSON.stringify({
  withDefaultFonts: false,
  telemetry: false,
  showDeveloperTools: 'never',
  hideClientButton: true,
  agent: { disabled: true },
  mcp: { disabled: true },
})
const PAGE = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>genmux API</title></head>
<body>
<script id="api-reference" data-url="openapi.json" data-configuration='${SETTINGS}'></script>
<script src="docs/scalar.js"></script>
</body>
</html>
`
/** Nothing leaves this origin: the page works offline. Scalar sets style attributes, so styles may be inline. */
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; font-src data:; connect-src 'self'; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

/** GET /openapi.json, and GET /docs, its readable form, to which newcomers are led. */
export async function docsRoutes(server: FastifyInstance): Promise<void> {
  // Relative: the gateway may stand under a path of its proxy.
  server.get('/', { schema: { hide: true } }, (_request, reply) => reply.redirect('docs', 302))

  server.get('/openapi.json', { schema: { hide: true } }, (_request, reply) => reply.send(server.swagger()))

  server.get('/docs', { schema: { hide: true } }, (_request, reply) =>
    reply
      .headers({
        'content-security-policy': POLICY,
        'x-content-type-options': 'nosniff',
        'referrer-policy': 'no-referrer',
      })
      .type('text/html; charset=utf-8')
      .send(PAGE),
  )

  let script: Promise<{ code: string; etag: string }> | undefined
  server.get('/docs/scalar.js', { schema: { hide: true } }, async (request, reply) => {
    script ??= readScript().catch((error: unknown) => {
      script = undefined
      throw error
    })
    const { code, etag } = await script
    reply.headers({ etag, 'cache-control': 'public, max-age=3600', 'x-content-type-options': 'nosniff' })
    if (request.headers['if-none-match'] === etag) return reply.code(304).send()
    return reply.type('text/javascript; charset=utf-8').send(code)
  })
}

/**
 * The package hands its script out only through its own routes, whose page a strict policy would break: ask those once. It
 * takes 20 MB of memory, so it is loaded when somebody asks.
 */
async function readScript(): Promise<{ code: string; etag: string }> {
  const { default: scalar } = await import('@scalar/fastify-api-reference')
  const inner = fastify()
  await inner.register(scalar, { routePrefix: '/docs', configuration: { url: '/openapi.json' } })
  const { body } = await inner.inject('/docs/js/scalar.js')
  await inner.close()
  return { code: body, etag: `"${createHash('sha256').update(body).digest('hex')}"` }
}
