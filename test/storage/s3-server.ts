import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import S3rver from 's3rver'
import { afterAll } from 'vitest'
import { freshFolder } from '../process.ts'

process.env.AWS_ACCESS_KEY_ID = 'S3RVER'
process.env.AWS_SECRET_ACCESS_KEY = 'S3RVER'

/** A real S3 server with the bucket `genmux`, which can go away and come back with what it has. Its keys are in the environment. */
export interface S3Server {
  readonly port: number
  readonly url: string
  away(): Promise<void>
  back(): Promise<void>
}

export async function startS3(): Promise<S3Server> {
  const directory = join(freshFolder(), 's3')
  mkdirSync(directory)
  const serve = (port: number) =>
    new S3rver({ port, address: '127.0.0.1', silent: true, directory, configureBuckets: [{ name: 'genmux' }] })
  let server = serve(0)
  const { port } = await server.run()
  afterAll(() => server.close())
  return {
    port,
    url: `s3://genmux?endpoint=http://127.0.0.1:${port}`,
    away: () => server.close(),
    async back() {
      server = serve(port)
      await server.run()
    },
  }
}
