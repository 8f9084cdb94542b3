import { Agent } from 'undici'
import type { AccountEntry } from '../catalog/model.ts'
import { createHttp } from '../providers/http.ts'
import { type Call, ProviderError } from '../providers/provider.ts'
import type { Budgets } from './budgets.ts'

export interface Calls {
  /** What an adapter works with for one account. Reads and uploads take from the account's budget first. */
  of(account: AccountEntry, signal?: AbortSignal): Call
  close(): Promise<void>
}

/** One connection pool for all upstreams of the process. */
export function createCalls(budgets: Budgets): Calls {
  const dispatcher = new Agent({ connect: { timeout: 10_000 }, keepAliveTimeout: 10_000, connections: 256 })
  return {
    of(account, signal) {
      return {
        account,
        http: createHttp(account, {
          dispatcher,
          ...(signal ? { signal } : {}),
          async take(_account, bucket) {
            // The engine takes for a submit itself, before it begins an attempt.
            if (bucket === 'submit') return
            const taken = await budgets.take(account, bucket)
            if (taken.granted) return
            throw new ProviderError('rate_limited', `our budget of ${bucket} requests is used up`, {
              retryAfterMs: taken.retryAfterMs,
            })
          },
        }),
      }
    },
    // What is still under way after the drain is not waited for: its rows tell another process how to go on.
    close: () => dispatcher.destroy(),
  }
}
