import type { Fault } from '../providers/provider.ts'

/** One past attempt, as routing sees it. */
export interface PastAttempt {
  readonly provider: string
  readonly account: string
  readonly upstreamModel: string
  /** `absent`: proven never to have started. */
  readonly fault: Fault | 'absent' | 'timed_out'
}

/** What past failures rule out for the next attempt of the same order. */
export interface Verdict {
  /** Set: the order fails now, with this code; nobody else is asked. */
  readonly fail?: 'content_rejected' | 'invalid_media'
  /** May this account of this provider be asked for this upstream model? */
  allows(provider: string, account: string, upstreamModel: string): boolean
}

/*
 * The table of consequences:
 *
 *   content_rejected, invalid_input          the order fails: a moderated prompt is never shopped to another provider
 *   media_unreachable                        the same route once more (with a fresh URL), then the next one
 *   mapping                                  not this upstream model of this provider again
 *   account_auth, account_funds, account_tier  not this account
 *   rate_limited, account_saturated          nothing ruled out: budgets say when
 *   task_failed, unavailable, absent, timed_out, unclear   not this provider again
 */
export function judge(past: readonly PastAttempt[]): Verdict {
  const faults = new Set(past.map(attempt => attempt.fault))
  if (faults.has('content_rejected')) return { fail: 'content_rejected', allows: () => false }
  if (faults.has('invalid_input')) return { fail: 'invalid_media', allows: () => false }

  const accounts = new Set<string>()
  const models = new Set<string>()
  const providers = new Set<string>()
  const unreachable = new Set<string>()
  for (const { provider, account, upstreamModel, fault } of past) {
    const model = `${provider}\n${upstreamModel}`
    switch (fault) {
      case 'media_unreachable':
        if (unreachable.has(model)) models.add(model)
        unreachable.add(model)
        break
      case 'mapping':
        models.add(model)
        break
      case 'account_auth':
      case 'account_funds':
      case 'account_tier':
        accounts.add(`${provider}\n${account}`)
        break
      case 'rate_limited':
      case 'account_saturated':
        break
      default:
        providers.add(provider)
    }
  }
  return {
    allows: (provider, account, upstreamModel) =>
      !providers.has(provider) &&
      !models.has(`${provider}\n${upstreamModel}`) &&
      !accounts.has(`${provider}\n${account}`),
  }
}

/** Faults that say something about the account's health; the others are about one request. */
export function countsForBreaker(fault: Fault): boolean {
  return fault === 'unavailable' || fault === 'task_failed' || fault === 'unclear'
}

/** Faults that close the account at once, until a probe says otherwise. */
export function tripsBreaker(fault: Fault): boolean {
  return fault === 'account_auth' || fault === 'account_funds' || fault === 'account_tier'
}
