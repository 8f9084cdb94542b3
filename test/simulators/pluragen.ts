import { formatMoney } from '../../src/money.ts'
import { MODELS } from './pluragen-models.ts'
import { cancelOrder, createOrder, showOrder } from './pluragen-orders.ts'
import { type Pluragen, type PluragenState, refusal } from './pluragen-state.ts'
import { readUpload, receiveUpload, showUpload, uploadOf } from './pluragen-uploads.ts'
import { createSimulator } from './simulator.ts'
import type { SimAnswer, SimRequest, SimRoute, Simulator } from './spec.ts'

/*
 * Pluragen as its document describes it, strictly: auth, models, uploads that convert HEIC for a while, orders with idempotency
 * and validation, cancel with its refusals, result links. Where the document names no HTTP status, 422 or 409.
 */

/** Not yet listening. */
export function createPluragen(): Simulator & { readonly pluragen: PluragenState } {
  const state: PluragenState = {
    balance: 100_000_000n,
    maxActiveOrders: undefined,
    conversion: { ms: 40, works: true },
    cancelMs: 0,
    uploads: new Map(),
    orders: new Map(),
  }
  const simulator = createSimulator((tasks, files) => ({
    refuse: (why, retryAfter) => REFUSALS[why](retryAfter),
    routes: [
      ...accountRoutes(state),
      ...uploadRoutes(state),
      ...orderRoutes({ state, tasks }),
      {
        operation: 'file',
        method: 'GET',
        path: '/g/:token',
        open: true,
        handle(request) {
          const file = files.get(request.params.token as string)
          if (!file) return refusal(404, 'not_found', 'Resource not found')
          return { status: 200, bytes: file.bytes, headers: { 'content-type': file.mimeType } }
        },
      },
    ],
  }))
  return Object.assign(simulator, { pluragen: state })
}

const REFUSALS = {
  unauthorized: () => refusal(401, 'unauthorized', 'API key missing or invalid'),
  not_found: () => refusal(404, 'not_found', 'Resource not found'),
  rate_limited: (seconds: number) => refusal(429, 'rate_limited', `Too many requests, try again in ${seconds} s`),
  internal: () => refusal(500, 'internal_error', 'Unexpected internal error'),
}

function ok(status: number, json: object): SimAnswer {
  return { status, json: { success: true, ...json } }
}

function accountRoutes(state: PluragenState): SimRoute[] {
  return [
    {
      operation: 'balance',
      method: 'GET',
      path: '/api/v1/balance',
      bucket: 'read',
      handle: () => ok(200, { balance_usd: formatMoney(state.balance) }),
    },
    {
      operation: 'models',
      method: 'GET',
      path: '/api/v1/models',
      bucket: 'read',
      handle: () => ok(200, { models: MODELS }),
    },
  ]
}

function uploadRoutes(state: PluragenState): SimRoute[] {
  return [
    {
      operation: 'upload',
      method: 'POST',
      path: '/api/v1/upload',
      bucket: 'upload',
      handle: request => receiveUpload(state, request),
    },
    {
      operation: 'uploadStatus',
      method: 'GET',
      path: '/api/v1/upload/status',
      bucket: 'read',
      handle(request) {
        const upload = readUpload(state, request.query.get('tmp_path'), request.key)
        return 'status' in upload ? upload : ok(200, { upload: showUpload(state, upload, request.origin) })
      },
    },
    {
      operation: 'preview',
      method: 'GET',
      path: '/api/v1/upload/preview/:token',
      bucket: 'read',
      handle(request) {
        const upload = uploadOf(state, `tmp/${request.params.token}`, request.key)
        if (!upload || upload.expired) return refusal(404, 'file_not_found', 'Temporary file not found')
        return { status: 200, bytes: upload.head, headers: { 'content-type': upload.mimeType } }
      },
    },
  ]
}

function orderRoutes(pluragen: Pluragen): SimRoute[] {
  const own = (request: SimRequest, answer: (id: string) => SimAnswer): SimAnswer => {
    const task = pluragen.tasks.get(request.params.id as string)
    return task?.owner === request.key ? answer(task.id) : refusal(404, 'order_not_found', 'Order not found')
  }
  return [
    {
      operation: 'submit',
      method: 'POST',
      path: '/api/v1/orders',
      bucket: 'submit',
      handle: request => createOrder(pluragen, request),
    },
    {
      operation: 'poll',
      method: 'GET',
      path: '/api/v1/orders/:id',
      bucket: 'read',
      handle: request => own(request, id => ok(200, { order: showOrder(pluragen, id, request.origin) })),
    },
    {
      operation: 'cancel',
      method: 'POST',
      path: '/api/v1/orders/:id/cancel',
      bucket: 'read',
      handle: request => own(request, id => cancelOrder(pluragen, id, request.origin)),
    },
  ]
}
