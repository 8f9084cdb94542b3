import type { Logger } from 'pino'
import { PgBoss } from 'pg-boss'
import type { Config } from '../config.ts'
import { listen } from '../db/listen.ts'
import { isOutage } from '../db/outage.ts'
import type { Db } from '../db/pool.ts'
import type { Storage } from '../storage/storage.ts'
import { convert } from '../uploads/convert.ts'
import { sweepExpired, sweepOrphans } from './sweep.ts'

/*
 * Background work beside orders, on pg-boss. A job is only a wake-up, delivered at least once: what it does is guarded by the
 * rows it works on, so that two processes with the same job, or a job that was lost, do no harm.
 */

export interface JobDeps {
  readonly db: Db
  /** The URL that `db` is connected to: new jobs are heard of on a connection of their own. */
  readonly databaseUrl: string
  readonly storage: Storage
  readonly config: Pick<Config, 'publicUrl' | 'uploadTtlMs'>
  readonly log: Logger
  /** False: this process only queues. */
  readonly work: boolean
}

export interface Jobs {
  /** Has an upload converted soon, by whatever process works. */
  readonly convertLater: (uploadId: string) => Promise<void>
  /** Throws when jobs cannot be queued. */
  readonly check: () => Promise<void>
  /** Lets the jobs under way end, for 20 s. */
  readonly stop: () => Promise<void>
}

const CONVERT = 'convert-upload'
const SWEEP_EXPIRED = 'sweep-expired'
const SWEEP_ORPHANS = 'sweep-orphans'
/** `exclusive`: a job that is queued or runs is not queued again (per key where it has one). */
const QUEUES = {
  [CONVERT]: { policy: 'exclusive', retryLimit: 2, retryDelay: 5, expireInSeconds: 300, heartbeatSeconds: 15 },
  [SWEEP_EXPIRED]: { policy: 'exclusive', retryLimit: 0, expireInSeconds: 900, heartbeatSeconds: 15 },
  [SWEEP_ORPHANS]: { policy: 'exclusive', retryLimit: 0, expireInSeconds: 3_600, heartbeatSeconds: 15 },
} as const
const STOP_MS = 20_000

export async function startJobs(deps: JobDeps): Promise<Jobs> {
  const { db, databaseUrl, log } = deps
  const boss = new PgBoss({
    db: {
      executeSql: (text, values) => db.pool.query(text, values),
      async listen(channel, onNotification, onReconnect) {
        return listen(databaseUrl, [channel], (_channel, payload) =>
          payload === undefined ? onReconnect() : onNotification(payload),
        )
      },
    },
    schema: 'pgboss',
    useListenNotify: deps.work,
    supervise: deps.work,
    schedule: deps.work,
    monitorIntervalSeconds: 5,
  })
  boss.on('error', error => log[isOutage(error) ? 'warn' : 'error']({ err: error }, 'job queue failed'))
  await boss.start()
  for (const [name, options] of Object.entries(QUEUES))
    await boss.createQueue(name, { ...options, notify: true, deleteAfterSeconds: 86_400 })

  const jobs: Jobs = {
    async convertLater(uploadId) {
      await boss.send(CONVERT, { uploadId }, { singletonKey: uploadId })
    },
    async check() {
      if (!(await boss.getQueue(CONVERT))) throw new Error('the job queue is missing')
    },
    stop: () => boss.stop({ graceful: true, timeout: STOP_MS }),
  }
  if (deps.work) await startWork(boss, deps, jobs)
  return jobs
}

/** One queue, one function. Conversions run one at a time per process: each may take a gigabyte. */
async function startWork(boss: PgBoss, deps: JobDeps, jobs: Jobs): Promise<void> {
  await boss.work<{ uploadId: string }>(CONVERT, async batch => {
    for (const job of batch) await convert(deps, job.data.uploadId)
  })
  await boss.work(SWEEP_EXPIRED, () => sweepExpired({ ...deps, convertLater: jobs.convertLater }))
  await boss.work(SWEEP_ORPHANS, () => sweepOrphans(deps))
  await boss.schedule(SWEEP_EXPIRED, '* * * * *')
  await boss.schedule(SWEEP_ORPHANS, '17 * * * *')
}
