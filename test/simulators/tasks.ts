import type { FileStore, StoredFile } from './files.ts'

/** What becomes of a task. How an API words each is its simulator's matter. */
export type Outcome =
  /** `outputs`: how many files (1). */
  | { state: 'succeeded'; outputs?: number }
  /** Fewer outputs than asked for, where an API has such a thing; elsewhere a success. */
  | { state: 'partial'; outputs?: number }
  | { state: 'failed'; code?: string; message?: string }
  | { state: 'moderated' }
  | { state: 'cancelled' }
  /** A status word that no document mentions. */
  | { state: 'unknown'; word?: string }
  /** Processing for ever. */
  | { state: 'stuck' }

/** `afterMs` from its making (0): queued for the first half, processing for the second. */
export interface Plan {
  readonly outcome: Outcome
  readonly afterMs?: number
}

export interface SimTask {
  readonly id: string
  readonly createdAt: Date
  /** The bearer key that made it. */
  readonly owner: string
  /** The idempotency key it came with. */
  readonly idempotencyKey: string | undefined
  /** What the submit asked for, as the simulator keeps it. */
  readonly input: unknown
  /** How it stands now. */
  now(): { state: 'queued' | 'processing' } | Outcome
  /** The files, once it succeeded; the same ones at each call. */
  outputs(): readonly StoredFile[]
}

export interface TaskStore {
  /** For simulators: makes a task, which will go as planned. */
  create(task: { id: string; owner: string; input: unknown; idempotencyKey?: string | undefined }): SimTask
  get(id: string): SimTask | undefined
  all(): readonly SimTask[]
  /** For tests: the plan of the next task that has none; in the order they are given. */
  next(outcome: Outcome, afterMs?: number): void
  /** The plan of all others; success at once unless set. */
  plan: Plan
  /** Ends a task now, in whatever state it is: a failed one may succeed late. */
  finish(id: string, outcome: Outcome): void
}

export function taskStore(files: FileStore): TaskStore {
  const tasks = new Map<string, SimTask>()
  const plans = new Map<string, Plan>()
  const ordered: Plan[] = []
  const outputs = new Map<string, StoredFile[]>()

  const store: TaskStore = {
    plan: { outcome: { state: 'succeeded' } },
    create(given) {
      const createdAt = new Date()
      plans.set(given.id, ordered.shift() ?? store.plan)
      const task: SimTask = {
        ...given,
        idempotencyKey: given.idempotencyKey,
        createdAt,
        now() {
          const { outcome, afterMs = 0 } = plans.get(given.id) as Plan
          const age = Date.now() - createdAt.getTime()
          if (age < afterMs) return { state: age < afterMs / 2 ? 'queued' : 'processing' }
          return outcome.state === 'stuck' ? { state: 'processing' } : outcome
        },
        outputs() {
          const outcome = task.now()
          if (outcome.state !== 'succeeded' && outcome.state !== 'partial') return []
          const made = outputs.get(given.id) ?? Array.from({ length: outcome.outputs ?? 1 }, () => files.put())
          outputs.set(given.id, made)
          return made
        },
      }
      tasks.set(given.id, task)
      return task
    },
    get: id => tasks.get(id),
    all: () => [...tasks.values()],
    next: (outcome, afterMs) => void ordered.push(afterMs === undefined ? { outcome } : { outcome, afterMs }),
    finish(id, outcome) {
      if (!tasks.has(id)) throw new Error(`no task ${id}`)
      plans.set(id, { outcome })
    },
  }
  return store
}
