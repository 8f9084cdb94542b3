import type { Logger } from 'pino'
import type { Catalog, MediaElement } from '../catalog/model.ts'
import { listen } from '../db/listen.ts'
import type { Db } from '../db/pool.ts'
import type { Media } from '../providers/provider.ts'
import { createBreaker } from '../routing/breaker.ts'
import { createBudgets } from '../routing/budgets.ts'
import { createCalls } from '../routing/calls.ts'
import { createObserver } from '../routing/observed.ts'
import { createSwitches } from '../routing/switches.ts'
import type { Storage } from '../storage/storage.ts'
import { createBatches } from './batches.ts'
import type { CrashPoint, Engine } from './engine.ts'
import { startNotifyLoop } from './notify.ts'
import { createPace } from './pace.ts'
import { createPlacer, type Placer } from './place.ts'
import { type Loop, type RunLoop, startRunLoop } from './run.ts'
import { createSettle } from './settle.ts'
import { startWatchLoop } from './watch.ts'

/** place_orders notifies it. */
const WORK_CHANNEL = 'genmux_work'
/** A notice so soon after an order of our own is most likely of that one, which was begun without it. */
const ECHO_MS = 20

export interface EngineDeps {
  readonly db: Db
  /** The URL that `db` is connected to: new orders are heard of on a connection of their own. */
  readonly databaseUrl: string
  readonly catalog: Catalog
  readonly storage: Storage
  readonly log: Logger
  readonly publicUrl: string
  readonly publicUrlIsSet: boolean
  readonly resultTtlMs: number
  media(element: MediaElement, attemptId: string): Promise<Media>
  /** Called at the points where a test may end the process. */
  readonly reached?: (point: CrashPoint) => void
}

export interface RunningEngine {
  readonly engine: Engine
  readonly placer: Placer
  /** Starts the loops that work on orders; an api process does without. */
  startLoops(): void
  /** Takes no more work, waits at most `ms` for what is under way, closes connections to upstreams. */
  stop(ms: number): Promise<void>
}

/** Puts the order engine together on the database, the catalog and the storage. */
export function createEngine(deps: EngineDeps): RunningEngine {
  const { db, log } = deps
  const budgets = createBudgets(db)
  const loops: Loop[] = []
  let listener: ReturnType<typeof listen> | undefined
  let working: RunLoop | undefined
  let placedAt = Number.NEGATIVE_INFINITY
  const wake = () => working?.wake()
  const reached = deps.reached ?? (() => {})
  const engine: Engine = {
    db,
    log,
    catalog: deps.catalog,
    storage: deps.storage,
    budgets,
    breaker: createBreaker(db),
    observer: createObserver(db),
    switches: createSwitches(db),
    calls: createCalls(budgets),
    settle: createSettle({
      db,
      settled: s =>
        log.info({ order: s.orderId, status: s.status, code: s.errorCode, attempt: s.attemptId }, 'order ended'),
    }),
    publicUrl: deps.publicUrl,
    batches: createBatches(db),
    callbacks: deps.publicUrlIsSet,
    resultTtlMs: deps.resultTtlMs,
    media: deps.media,
    reached,
    wake,
  }
  const placer = createPlacer({
    db,
    placing: () => reached('placing'),
    placed() {
      reached('placed-unanswered')
      placedAt = performance.now()
      wake()
    },
  })
  return {
    engine,
    placer,
    startLoops() {
      const pace = createPace()
      working = startRunLoop(engine, pace)
      loops.push(working, startWatchLoop(engine, pace), startNotifyLoop(engine))
      // An order that another process placed is begun at once, not at the next tick.
      listener = listen(deps.databaseUrl, [WORK_CHANNEL], () => {
        if (performance.now() - placedAt > ECHO_MS) wake()
      })
    },
    async stop(ms) {
      await listener?.close()
      await Promise.all(loops.map(loop => loop.stop(ms)))
      await engine.calls.close()
    },
  }
}
