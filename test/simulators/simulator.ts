import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type FileStore, fileStore } from './files.ts'
import type {
  InjectedFault,
  LoggedRequest,
  SimAnswer,
  SimLimit,
  SimRequest,
  SimRoute,
  Simulator,
  Spec,
} from './spec.ts'
import { type TaskStore, taskStore } from './tasks.ts'
import { bodyOf, given, patternOf, readRequest, send, truncate } from './wire.ts'

/*
 * The ground under every simulated upstream: a real HTTP server on 127.0.0.1 that checks the bearer key, counts, logs,
 * limits, and commits the faults a test orders. What one API answers is given as a Spec: its routes and its way to refuse
 * (types in spec.ts; tasks.ts says what becomes of a task, files.ts what it made).
 *
 *   const sim = createPluragen()          // createSimulator((tasks, files) => spec) inside
 *   const url = await sim.start()
 *   sim.faults.next('submit', { kind: 'acceptThenReset' })
 *   sim.tasks.next({ state: 'failed' })      // what the next task will become
 *   await sim.stop()
 */

/** A simulated upstream, not yet listening. */
export function createSimulator(build: (tasks: TaskStore, files: FileStore) => Spec): Simulator {
  const files = fileStore()
  const tasks = taskStore(files)
  const spec = build(tasks, files)
  const ordered: { operation: string; fault: InjectedFault }[] = []
  const windows = new Map<string, number[]>()
  const counts = { refused: 0, uploads: 0 }
  const routes = spec.routes.map(route => ({ ...route, pattern: patternOf(route.path) }))
  const server = createServer((request, response) => {
    answer(request, response).catch(() => response.destroy())
  })
  server.requestTimeout = 0

  const over = (key: string, bucket: string, limit: SimLimit | undefined): number | undefined => {
    if (!limit) return undefined
    const window = limit.windowMs ?? 60_000
    const now = Date.now()
    const times = (windows.get(`${key} ${bucket}`) ?? []).filter(time => time > now - window)
    windows.set(`${key} ${bucket}`, times)
    if (times.length >= limit.max) return Math.max(1, Math.ceil(((times[0] as number) + window - now) / 1000))
    times.push(now)
    return undefined
  }

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const url = new URL(request.url ?? '/', 'http://simulator')
    const route = routes.find(route => route.method === request.method && route.pattern.test(url.pathname))
    const operation = route?.operation ?? 'unknown'
    const index = ordered.findIndex(entry => entry.operation === operation)
    const fault = index < 0 ? undefined : ordered.splice(index, 1)[0]?.fault
    const read = await readRequest(request, url, route?.pattern)
    const logged: LoggedRequest = { ...read, operation, at: Date.now(), fault: fault?.kind, status: undefined }
    simulator.requests.push(logged)

    if (fault?.kind === 'status') return send(response, logged, given(fault))
    if (fault?.kind === 'resetBeforeAccept') return void request.socket.resetAndDestroy()
    if (fault?.kind === 'hangBeforeAccept') return
    if (fault?.kind === 'slow') await new Promise(resolve => setTimeout(resolve, fault.ms).unref())

    const handled = await handle(route, read)
    if (handled.status === 201 || handled.status === 200) counts.uploads += read.files.length
    if (fault?.kind === 'acceptThenHang') return
    if (fault?.kind === 'acceptThenReset') return void request.socket.resetAndDestroy()
    if (fault?.kind === 'acceptThenStatus') return send(response, logged, given(fault))
    if (fault?.kind === 'acceptThenTruncate') return truncate(response, handled)
    if (fault?.kind === 'acceptThenGarble') {
      const half = bodyOf(handled).subarray(0, Math.ceil(bodyOf(handled).length / 2))
      const headers = { 'content-type': 'application/json' }
      return send(response, logged, { status: handled.status, bytes: half, headers })
    }
    if (fault?.kind === 'alter') {
      return send(response, logged, { ...handled, json: fault.alter(structuredClone(handled.json)) })
    }
    send(response, logged, handled)
  }

  const handle = async (route: SimRoute | undefined, read: SimRequest): Promise<SimAnswer> => {
    if (!route) return spec.refuse('not_found', 0)
    if (!route.open && !simulator.keys.has(read.key)) return spec.refuse('unauthorized', 0)
    const wait =
      over(read.key, 'all', simulator.limits.all) ??
      (route.bucket && over(read.key, route.bucket, simulator.limits[route.bucket]))
    if (wait !== undefined) {
      counts.refused++
      const refusal = spec.refuse('rate_limited', wait)
      return { ...refusal, headers: { 'retry-after': String(wait), ...refusal.headers } }
    }
    try {
      return await route.handle(read)
    } catch (error) {
      process.emitWarning(`simulator: ${(error as Error).stack}`)
      return spec.refuse('internal', 0)
    }
  }

  const keys = spec.keys ?? ['sim-key-9f1c2ab47d']
  let url = ''
  const simulator: Simulator = {
    async start(port = 0) {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen(port, '127.0.0.1', resolve)
      })
      url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
      return url
    },
    async stop() {
      const closed = new Promise(resolve => server.close(resolve))
      server.closeAllConnections()
      await closed
    },
    get url() {
      return url
    },
    apiKey: keys[0] as string,
    keys: new Set(keys),
    requests: [],
    calls: operation => simulator.requests.filter(request => request.operation === operation),
    counts: {
      get accepted() {
        return tasks.all().length
      },
      get refused() {
        return counts.refused
      },
      get uploads() {
        return counts.uploads
      },
    },
    limits: { ...spec.limits },
    tasks,
    files,
    faults: {
      next(operation, fault, times = 1) {
        for (let i = 0; i < times; i++) ordered.push({ operation, fault })
      },
      clear() {
        ordered.length = 0
      },
    },
  }
  return simulator
}
