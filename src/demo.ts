import { randomUUID } from 'node:crypto'
import type { Catalog } from './catalog/model.ts'
import type { Db } from './db/pool.ts'
import { createSecret } from './http/auth.ts'
import { moveMoney } from './ledger/ledger.ts'

/**
 * The first start of an empty embedded database makes a customer to try things with: a key and $25. Returns the lines to
 * print: three curl commands that work when pasted. Returns undefined when the database has customers already.
 */
export async function createDemo(db: Db, catalog: Catalog, origin: string): Promise<string[] | undefined> {
  if ((await db.prisma.customer.count()) > 0) return undefined
  const { secret, prefix, hash } = createSecret()
  const customer = await db.prisma.customer.create({
    data: {
      id: `cus_${randomUUID().replaceAll('-', '')}`,
      name: 'Demo',
      maxActiveOrders: 1_000,
      keys: {
        create: {
          id: `key_${randomUUID().replaceAll('-', '')}`,
          name: 'demo',
          prefix,
          secretHash: new Uint8Array(hash),
          scopes: ['read', 'generate'],
        },
      },
    },
  })
  await moveMoney(db, {
    kind: 'topup',
    customerId: customer.id,
    amount: 25_000_000n,
    reference: 'demo',
    actor: 'first start',
    once: null,
  })
  const model = [...catalog.models.values()].find(
    m => m.prompt.mode === 'required' && !m.media.required && m.routes.some(r => r.unusable === undefined),
  )
  const body = JSON.stringify({ model_id: model?.id ?? 20, prompt: 'a lighthouse at dawn' })
  return [
    `curl -s ${origin}/api/v1/balance -H 'Authorization: Bearer ${secret}'; echo`,
    `ORDER=$(curl -s ${origin}/api/v1/orders -H 'Authorization: Bearer ${secret}' -H 'Content-Type: application/json' -H "Idempotency-Key: $(date +%s%N)" -d '${body}'); echo "$ORDER"`,
    `sleep 2; curl -s ${origin}/api/v1/orders/$(echo "$ORDER" | sed 's/.*"id":"\\([^"]*\\)".*/\\1/') -H 'Authorization: Bearer ${secret}'; echo`,
  ]
}
