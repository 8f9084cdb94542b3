import type { Provider } from './provider.ts'

/** Every adapter, by its kind. A new provider is one file, one fixture and one line here. */
export const providers: ReadonlyMap<string, Provider> = new Map([].map((p: Provider) => [p.kind, p]))
