import { isOutage } from '../db/outage.ts'
import type { Db } from '../db/pool.ts'
import type { Logger } from 'pino'
import { safeFetch, UnsafeUrl } from '../safe-fetch.ts'
import { type OrderRow, viewOrder } from './order.ts'
import type { Loop } from './run.ts'

/*
 * Tells a customer's callback_url that an order has ended: POST {success, order}, the body of GET /orders/{id}. Any 2xx within
 * 10 s is a receipt. Otherwise it is told again after 5 s, 10 s, 20 s … for ten tries (about 85 minutes), then no more: the
 * customer can always read the order. A callback is told at least once.
 */

const TICK_MS = 1_000
const MAX_FAILURES = 10
const LEASE_MS = 30_000
const BATCH = 20

const CLAIM = {
  name: 'claim_notices',
  text: `UPDATE orders SET notify_at = now() + $2 * interval '1 millisecond'
    WHERE id IN (SELECT id FROM orders WHERE notify_at <= now() ORDER BY notify_at LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING id, model_id, status, cost, result, expires_at, error_code, error_message, callback_url, notify_failures`,
}
const TOLD = { name: 'notice_told', text: 'UPDATE orders SET notify_at = NULL WHERE id = $1' }
const AGAIN = {
  name: 'notice_again',
  text: `UPDATE orders SET notify_failures = notify_failures + 1, notify_at = now() + $2 * interval '1 millisecond' WHERE id = $1`,
}

type Notice = OrderRow & { readonly callback_url: string; readonly notify_failures: number }

export function startNotifyLoop(deps: { readonly db: Db; readonly log: Logger }): Loop {
  const { db, log } = deps
  let stopped = false
  let telling = 0

  async function tell(notice: Notice): Promise<void> {
    telling += 1
    try {
      const { reason, final } = await post(notice)
      if (final || notice.notify_failures + 1 >= MAX_FAILURES) await db.run(TOLD, [notice.id])
      else await db.run(AGAIN, [notice.id, 5_000 * 2 ** notice.notify_failures])
      log.info(
        { order: notice.id, failures: notice.notify_failures, reason },
        reason ? 'callback not received' : 'callback received',
      )
    } catch (error) {
      log.warn({ order: notice.id, err: error }, 'callback not recorded')
    } finally {
      telling -= 1
    }
  }

  async function look(): Promise<void> {
    if (stopped || telling >= BATCH) return
    try {
      const notices = await db.run<Notice>(CLAIM, [BATCH - telling, LEASE_MS])
      for (const notice of notices) void tell(notice)
    } catch (error) {
      log[isOutage(error) ? 'warn' : 'error']({ err: error }, 'callbacks could not be read')
    }
  }

  const ticker = setInterval(() => void look(), TICK_MS)
  return {
    async stop(ms) {
      stopped = true
      clearInterval(ticker)
      const until = performance.now() + ms
      while (telling > 0 && performance.now() < until) await new Promise(done => setTimeout(done, 20))
    },
  }
}

/** `reason`: why it was not received; `final`: there is nothing to try again. An address that is refused stays refused. */
async function post(notice: Notice): Promise<{ reason?: string; final: boolean }> {
  try {
    const answer = await safeFetch(notice.callback_url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'user-agent': 'genmux' },
      body: JSON.stringify({ success: true, order: viewOrder(notice) }),
      allowPlain: true,
      timeoutMs: 10_000,
    })
    answer.body.destroy()
    const received = answer.status >= 200 && answer.status < 300
    return received ? { final: true } : { reason: `answered ${answer.status}`, final: false }
  } catch (error) {
    const refused = error instanceof UnsafeUrl || (error as Error).cause instanceof UnsafeUrl
    return { reason: (error as Error).message, final: refused }
  }
}
