import swagger from '@fastify/swagger'
import type { FastifyInstance } from 'fastify'
import { createJsonSchemaTransform, createJsonSchemaTransformObject } from 'fastify-type-provider-zod'
import type { OpenAPIV3_1 } from 'openapi-types'

const DESCRIPTION = `Order pictures and videos, prepaid, through one stable API.

Every answer is \`{"success": true, …}\` or \`{"success": false, "error": {"code", "message"}}\` and carries \`X-Request-Id\`;
answers of \`/api/v1\` also carry \`X-RateLimit-Limit\`, \`X-RateLimit-Remaining\` and \`X-RateLimit-Reset\` (seconds left).
Answers 429 and 503 say in \`Retry-After\` when to try again. Amounts are decimal strings of US dollars.`

/** Answers may gain members: only what is strict here is closed in the document. */
const zodToJsonConfig: Parameters<typeof createJsonSchemaTransform>[0]['zodToJsonConfig'] & {} = {
  override({ zodSchema: { _zod: schema }, jsonSchema }) {
    if (schema.def.type === 'object' && !('catchall' in schema.def && schema.def.catchall))
      delete jsonSchema.additionalProperties
  },
}

/** What we send to customers, told by orders/notify.ts. */
const WEBHOOKS: OpenAPIV3_1.Document['webhooks'] = {
  orderEnded: {
    post: {
      operationId: 'orderEnded',
      tags: ['Orders'],
      summary: 'An order has ended',
      description:
        'Sent to the `callback_url` of an order that is completed, failed or cancelled; the body is that of GET /api/v1/orders/{id}. ' +
        'Any 2xx within 10 seconds is a receipt. Otherwise it is sent again after 5, 10, 20, … seconds, ten times at most. ' +
        'It may come more than once, and it is not signed: read the order before you act on it.',
      security: [],
      requestBody: {
        required: true,
        content: {
          'application/json': {
            schema: {
              type: 'object',
              properties: {
                success: { type: 'boolean', const: true },
                order: { $ref: '#/components/schemas/Order' },
              },
              required: ['success', 'order'],
            },
          },
        },
      },
      responses: { '2XX': { description: 'Received.' } },
    },
  },
}

/** Makes the document of every route that is registered after it: GET /openapi.json. */
export async function addOpenApi(server: FastifyInstance, publicUrl: string): Promise<void> {
  const components = createJsonSchemaTransformObject({ zodToJsonConfig })
  await server.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'genmux', version: '1', description: DESCRIPTION },
      servers: [{ url: publicUrl }],
      components: {
        securitySchemes: {
          apiKey: { type: 'http', scheme: 'bearer', description: 'An API key: gm_live_…' },
          adminToken: { type: 'http', scheme: 'bearer', description: 'The ADMIN_TOKEN of the server.' },
        },
      },
      security: [{ apiKey: [] }],
      webhooks: WEBHOOKS,
      tags: ['Orders', 'Uploads', 'Results', 'Account', 'Operation', 'Admin'].map(name => ({ name })),
    },
    transform: createJsonSchemaTransform({ zodToJsonConfig }),
    transformObject: document => withoutUnused(withHeads(components(document) as OpenAPIV3_1.Document)),
  })
}

/** A route that answers GET and HEAD has one schema: its two operations need two names. */
function withHeads(document: OpenAPIV3_1.Document): OpenAPIV3_1.Document {
  for (const path of Object.values(document.paths ?? {}))
    if (path?.head?.operationId) path.head = { ...path.head, operationId: `${path.head.operationId}Head` }
  return document
}

/** Each schema with an id comes twice, as X (in answers) and XInput (in requests): what nothing refers to is left out. */
function withoutUnused(document: OpenAPIV3_1.Document): OpenAPIV3_1.Document {
  const { schemas = {}, ...components } = document.components ?? {}
  const used = new Set<string>()
  const collect = (part: unknown): void => {
    for (const [, name] of JSON.stringify(part).matchAll(/"#\/components\/schemas\/([^"]+)"/g)) {
      if (name === undefined || used.has(name)) continue
      used.add(name)
      collect(schemas[name])
    }
  }
  collect(document.paths)
  const kept = Object.fromEntries(Object.entries(schemas).filter(([name]) => used.has(name)))
  return { ...document, components: { ...components, schemas: kept } }
}
