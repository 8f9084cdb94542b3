import { randomBytes } from 'node:crypto'
import type { Db } from '../../src/db/pool.ts'
import { moveMoney, type Placement, type Settlement, settleOrders } from '../../src/ledger/ledger.ts'
import { type Check, verifyLedger } from '../../src/ledger/verify.ts'

/** A customer with a balance. */
export async function makeCustomer(db: Db, available = 0n, maxActiveOrders = 1000): Promise<string> {
  const id = `cus_${randomBytes(6).toString('hex')}`
  await db.prisma.customer.create({ data: { id, name: id, maxActiveOrders } })
  if (available > 0n) {
    await moveMoney(db, {
      kind: 'topup',
      customerId: id,
      amount: available,
      reference: null,
      actor: 'test',
      once: null,
    })
  }
  return id
}

export function placement(customerId: string, cost: bigint, changes: Partial<Placement> = {}): Placement {
  const id = `ord_${randomBytes(9).toString('base64url')}`
  return {
    id,
    customerId,
    apiKeyId: 'key_test',
    modelId: 1,
    cost,
    input: '{}',
    routing: null,
    callbackUrl: null,
    waitMs: 600_000,
    key: null,
    hash: null,
    response: JSON.stringify({ id }),
    uploads: [],
    ...changes,
  }
}

export const failed = (orderId: string, changes: Partial<Settlement> = {}): Settlement => ({
  orderId,
  fence: null,
  status: 'failed',
  errorCode: 'provider_failed',
  errorMessage: 'The generation failed.',
  ...changes,
})

/** Completes an order the way delivery does: its output stands before the capture. Returns whether it ended here. */
export async function complete(db: Db, orderId: string): Promise<boolean> {
  const token = randomBytes(9).toString('base64url')
  await db.pool.query(
    `INSERT INTO outputs (token, order_id, position, name, mime_type, size, sha256, expires_at)
     VALUES ($1, $2, 0, $1, 'image/png', 1, '\\x00', now() + interval '1 day') ON CONFLICT DO NOTHING`,
    [token, orderId],
  )
  const result = [`http://localhost/g/${token}`]
  const ended = await settleOrders(db, [{ orderId, fence: null, status: 'completed', result, expiresAt: new Date() }])
  return ended.length === 1
}

/** The invariants that do not hold. */
export async function broken(db: Db): Promise<Check[]> {
  return (await verifyLedger(db)).filter(check => check.violations > 0)
}
