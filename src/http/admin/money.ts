import type { FastifyReply, FastifyRequest } from 'fastify'
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod'
import { z } from 'zod'
import type { Db } from '../../db/pool.ts'
import { ApiError } from '../../errors.ts'
import { type Entry, type Movement, moveMoney, readEntries } from '../../ledger/ledger.ts'
import { formatMoney, type Micros, parseMoney } from '../../money.ts'
import { hashBody, readIdempotencyKey } from '../idempotency.ts'
import { money, pageQuery } from '../answers.ts'
import type { Admin } from './admin.ts'
import { findCustomer } from './customers.ts'
import { adminBodyRefusals, adminRefusals, cutPage, idParams, nextCursor, readCursor } from './answers.ts'

/** Of one call: a slip of the keyboard should not make anyone a millionaire twice over. */
const MOST = 1_000_000_000_000n
const NOT_MONEY = 'must be a decimal string in US dollars, such as "25.00"'

const dollars = (allowed: (amount: Micros) => boolean, rule: string) =>
  z.string(NOT_MONEY).superRefine((text, context) => {
    const amount = parseMoney(text)
    if (amount === undefined) context.addIssue(NOT_MONEY)
    else if (!allowed(amount)) context.addIssue(rule)
  })

const moved = z.object({ id: z.string(), amount_usd: money, balance_usd: money })
const moveRefusals = adminBodyRefusals(['customer_not_found', 'insufficient_balance', 'idempotency_conflict'])
const once = z.object({
  'idempotency-key': z.string('is required here.').describe('1 to 255 visible ASCII characters'),
})

export const moneyRoutes =
  ({ db }: Admin): FastifyPluginAsyncZod =>
  async server => {
    server.post(
      '/customers/:id/topups',
      {
        schema: {
          operationId: 'createTopup',
          summary: 'Top up a balance',
          description: 'Repeated with the same Idempotency-Key and data, it happens once and answers the same.',
          params: idParams,
          headers: once,
          body: z.strictObject({
            amount_usd: dollars(amount => amount > 0n && amount <= MOST, 'must be more than 0 and at most 1000000'),
            reference: z.string().min(1).max(500).optional().describe('e.g. the number of a payment'),
          }),
          response: { 201: z.object({ success: z.literal(true), topup: moved }), ...moveRefusals },
        },
      },
      async (request, reply) => {
        const { amount_usd, reference } = request.body
        const entry = await move(db, request, reply, {
          kind: 'topup',
          customerId: request.params.id,
          amount: parseMoney(amount_usd) as Micros,
          reference: reference ?? null,
        })
        return reply.code(201).send({ success: true, topup: viewMoved(entry) })
      },
    )

    server.post(
      '/customers/:id/adjustments',
      {
        schema: {
          operationId: 'createAdjustment',
          summary: 'Correct a balance',
          description:
            'Up or down, never below zero. Repeated with the same Idempotency-Key and data, it happens once.',
          params: idParams,
          headers: once,
          body: z.strictObject({
            amount_usd: dollars(
              amount => amount !== 0n && amount <= MOST && amount >= -MOST,
              'must not be 0, and at most 1000000 up or down',
            ),
            reason: z.string().min(1).max(500),
          }),
          response: { 201: z.object({ success: z.literal(true), adjustment: moved }), ...moveRefusals },
        },
      },
      async (request, reply) => {
        const { amount_usd, reason } = request.body
        const entry = await move(db, request, reply, {
          kind: 'adjustment',
          customerId: request.params.id,
          amount: parseMoney(amount_usd) as Micros,
          reference: reason,
        })
        return reply.code(201).send({ success: true, adjustment: viewMoved(entry) })
      },
    )

    server.get(
      '/customers/:id/ledger',
      {
        schema: {
          operationId: 'listLedgerEntries',
          summary: "A customer's ledger, newest first",
          params: idParams,
          querystring: pageQuery,
          response: {
            200: z.object({ success: z.literal(true), entries: z.array(entryBody), next_cursor: nextCursor }),
            ...adminRefusals(['customer_not_found']),
          },
        },
      },
      async request => {
        const { limit, cursor } = request.query
        const before = readCursor(cursor)
        const customer = await findCustomer(db, request.params.id)
        const rows = await readEntries(db, customer.id, { limit: limit + 1, before })
        const { page, next_cursor } = cutPage(rows, limit, row => row.id)
        return { success: true as const, entries: page.map(viewEntry), next_cursor }
      },
    )
  }

/** Moves the money once per Idempotency-Key. The customer of the path belongs to the data that must be the same. */
async function move(
  db: Db,
  request: FastifyRequest,
  reply: FastifyReply,
  movement: Omit<Movement, 'actor' | 'once'>,
): Promise<Entry> {
  // There is one: the route's schema requires it.
  const key = readIdempotencyKey(request) as string
  const hash = hashBody({ kind: movement.kind, customer: movement.customerId, body: request.body })
  const answer = await moveMoney(db, { ...movement, actor: 'admin', once: { key, hash } })
  switch (answer.outcome) {
    case 'replay':
      reply.header('idempotent-replayed', 'true')
      return answer.entry
    case 'done':
      return answer.entry
    case 'conflict':
      throw new ApiError('idempotency_conflict', 'The Idempotency-Key was already used with other request data.')
    case 'not_found':
      throw new ApiError('customer_not_found', 'No such customer.')
    case 'insufficient':
      throw new ApiError('insufficient_balance', 'amount_usd: the balance would fall below zero.')
  }
}

function viewMoved(entry: Entry): z.infer<typeof moved> {
  return {
    id: entry.id.toString(),
    amount_usd: formatMoney(entry.amount),
    balance_usd: formatMoney(entry.availableAfter),
  }
}

const entryBody = z.object({
  id: z.string(),
  kind: z.enum(['topup', 'adjustment', 'hold', 'capture', 'release', 'suspense']),
  amount_usd: money.describe('negative only in an adjustment: the kind tells which way it went'),
  balance_after_usd: money,
  held_after_usd: money,
  order_id: z.string().nullable(),
  reference: z.string().nullable(),
  created_at: z.string(),
})

function viewEntry(entry: Entry): z.infer<typeof entryBody> {
  return {
    id: entry.id.toString(),
    kind: entry.kind,
    amount_usd: formatMoney(entry.amount),
    balance_after_usd: formatMoney(entry.availableAfter),
    held_after_usd: formatMoney(entry.heldAfter),
    order_id: entry.orderId,
    reference: entry.reference,
    created_at: entry.createdAt.toISOString(),
  }
}
