import type { ChildProcess } from 'node:child_process'
import type { Ground } from './ground.ts'
import type { Load, Reached } from './load.ts'

/** Runs loads in a process of its own, one after the other. A failed request fails the measure. */
export async function driver(ground: Ground): Promise<(load: Load) => Promise<Reached>> {
  const { child } = await ground.program('load.ts', {})
  return async load => {
    const reached = await ask<Reached>(child, load)
    if (reached.failures > 0) throw new Error(`${reached.failures} requests failed: ${load.method} ${load.url}`)
    return reached
  }
}

/** Sends a message and waits for the answer. */
export function ask<T>(child: ChildProcess, message: object): Promise<T> {
  return new Promise((done, failed) => {
    const died = (code: number | null) => failed(new Error(`a program of the bench exited with ${code}`))
    child.once('exit', died)
    child.once('message', answer => {
      child.off('exit', died)
      done(answer as T)
    })
    child.send(message)
  })
}
