import type { Micros } from '../money.ts'
import type { Account, Limits, PollPlan, Provider } from '../providers/provider.ts'

/** What expressions see: options with their defaults filled in, media elements that stand for files. */
export interface OrderInput {
  readonly prompt?: string | undefined
  readonly media: Readonly<Record<string, readonly MediaElement[]>>
  readonly options: Readonly<Record<string, string | number | boolean>>
}

/** Stands for one uploaded file in expressions; `upload` is its id in `tmp/{id}`. Replaced by what the upstream takes. */
export interface MediaElement {
  readonly upload: string
  readonly mime_type: string
  readonly extension: string
  /** Bytes. */
  readonly size: number
  readonly width?: number | undefined
  readonly height?: number | undefined
}

export type OptionType = 'select' | 'text' | 'number' | 'boolean'

/** The seed's form, passed through to GET /models as it stands in the catalog. */
export interface OptionSchema {
  readonly key: string
  readonly type: OptionType
  readonly label: string
  readonly required: boolean
  readonly default?: string | number | boolean | null | undefined
  readonly options?: readonly { readonly value: string; readonly label: string }[] | undefined
  readonly min?: number | undefined
  readonly max?: number | undefined
  readonly step?: number | undefined
  readonly placeholder?: string | undefined
  readonly help?: string | undefined
}

export interface MediaInput {
  readonly key: string
  readonly required: boolean
  readonly min: number
  readonly max: number
  /** File extensions, lower case. */
  readonly accepted: readonly string[]
}

/** How an order picks among routes: `auto` = rank, then cost; `value` = cost first; `fast` = observed latency first. */
export type Routing = 'auto' | 'value' | 'fast'

/** A public catalog entry. */
export interface Model {
  readonly id: number
  readonly name: string
  readonly type: string
  /** The price with default options, of an order that gives only what it must. */
  readonly price: Micros
  /** Price of one order; throws RangeError when the expression gives no amount. */
  priceOf(input: OrderInput): Promise<Micros>
  readonly prompt: { readonly mode: 'required' | 'optional' | 'ignored'; readonly maxLength: number }
  readonly media: {
    readonly required: boolean
    readonly maxCount: number
    readonly accepted: readonly string[]
    readonly inputs: readonly MediaInput[]
  }
  readonly options: readonly OptionSchema[]
  /** Allowed request fields, the seed's `fields`. */
  readonly fields: readonly string[]
  readonly routing: Routing
  /** Smallest share of the price that must remain, e.g. 0.1; a route that leaves less is not taken. -Infinity: any. */
  readonly minMargin: number
  readonly routes: readonly Route[]
}

/** model → provider + upstream model + expected cost + rank. */
export interface Route {
  readonly provider: ProviderEntry
  readonly upstreamModel: string
  readonly rank: number
  /** Whether the route can make this order. A failing expression is an answer of false. */
  eligible(input: OrderInput): Promise<boolean>
  /** The upstream's own fields; media elements stand where files go. Throws when the expression fails or gives no object. */
  inputOf(input: OrderInput): Promise<Record<string, unknown>>
  /** What we expect to pay. */
  costOf(input: OrderInput): Promise<Micros>
  /** Why it is off, e.g. no account has a key; undefined: usable. */
  readonly unusable: string | undefined
}

/** Adapter code and its settings. */
export interface ProviderEntry {
  readonly id: string
  readonly adapter: Provider
  readonly limits: Limits
  readonly poll: PollPlan
  /** All accounts of the catalog; those without a key (or without their provider's base URL) are `configured: false`. */
  readonly accounts: readonly AccountEntry[]
}

export interface AccountEntry extends Account {
  readonly configured: boolean
  /** The adapter's defaults with the account's own over them. */
  readonly limits: Limits
}

export interface Catalog {
  readonly models: ReadonlyMap<number, Model>
  readonly providers: ReadonlyMap<string, ProviderEntry>
  /** A model's routes that can be used as things stand. A model with none is not sold. */
  usableRoutes(model: Model): readonly Route[]
}
