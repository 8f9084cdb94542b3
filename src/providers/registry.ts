import { apixo } from './apixo.ts'
import { oneshot } from './oneshot.ts'
import { pluragen } from './pluragen.ts'
import { progressiverobot } from './progressiverobot.ts'
import type { Provider } from './provider.ts'
import { sandbox } from './sandbox.ts'
import { zencreator } from './zencreator.ts'

/** Every adapter, by its kind. A new provider is one file, one fixture and one line here. */
export const providers: ReadonlyMap<string, Provider> = new Map(
  [apixo, oneshot, pluragen, progressiverobot, sandbox, zencreator].map((p: Provider) => [p.kind, p]),
)
