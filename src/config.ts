import { resolve } from 'node:path'
import { z } from 'zod'
import { StartError } from './errors.ts'

const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d+$/, 'must be a whole number')
    .transform(Number)
    .refine(n => n >= min && n <= max, `must be between ${min} and ${max}`)

const duration = (max: number) =>
  z
    .string()
    .regex(/^\d+(\.\d+)?$/, 'must be a number')
    .transform(Number)
    .refine(n => n > 0, 'must be more than 0')
    .refine(n => n <= max, `must be at most ${max}`)

const url = (protocols: RegExp, what: string) =>
  z.string().refine(text => URL.canParse(text) && protocols.test(new URL(text).protocol), `must be ${what}`)

const environment = z.object({
  PORT: integer(0, 65535).default(3000),
  HOST: z.string().default('127.0.0.1'),
  PUBLIC_URL: url(/^https?:$/, 'an http or https URL')
    .refine(text => !/[?#]/.test(text), 'must be an origin, perhaps with a path, without ? and #')
    .optional(),
  DATABASE_URL: url(/^postgres(ql)?:$/, 'a postgresql:// URL').optional(),
  DATA_DIR: z.string().default('.genmux'),
  ADMIN_TOKEN: z
    .string()
    .regex(/^[\x21-\x7e]{16,255}$/, 'must have 16 to 255 visible ASCII characters')
    .optional(),
  CATALOG_FILE: z.string().optional(),
  SANDBOX: z.enum(['on', 'off'], 'must be on or off').optional(),
  ROLE: z.enum(['all', 'api', 'worker'], 'must be all, api or worker').default('all'),
  STORAGE_URL: url(/^(file|s3):$/, 'file:… or s3://bucket?endpoint=…')
    .refine(text => text !== 'file:', 'must be file:… or s3://bucket?endpoint=…')
    .optional(),
  REDIS_URL: url(/^rediss?:$/, 'a redis:// URL').optional(),
  RATE_LIMIT_PER_MINUTE: integer(1, 10_000_000).default(6000),
  UPLOAD_TTL_HOURS: duration(87_600).default(24),
  RESULT_TTL_DAYS: duration(36_500).default(15),
  LOG_LEVEL: z
    .enum(
      ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'],
      'must be fatal, error, warn, info, debug, trace or silent',
    )
    .default('info'),
})

export interface Config {
  readonly port: number
  readonly host: string
  /** Origin (and path) of our public links, without a trailing slash. */
  readonly publicUrl: string
  /** True when PUBLIC_URL was set: upstreams may then call us back. */
  readonly publicUrlIsSet: boolean
  /** undefined: embedded Postgres under dataDir. */
  readonly databaseUrl: string | undefined
  readonly dataDir: string
  readonly adminToken: string | undefined
  readonly catalogFile: string | undefined
  readonly sandbox: 'on' | 'off' | undefined
  readonly role: 'all' | 'api' | 'worker'
  /** `file:` or `s3:` URL; undefined: under dataDir. */
  readonly storageUrl: string | undefined
  readonly redisUrl: string | undefined
  readonly rateLimitPerMinute: number
  readonly uploadTtlMs: number
  readonly resultTtlMs: number
  readonly logLevel: string
}

/** Reads the environment once. An empty value counts as unset. Throws StartError naming the first wrong variable. */
export function readConfig(env: NodeJS.ProcessEnv): Config {
  const set = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value !== ''))
  const parsed = environment.safeParse(set)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw new StartError(`${issue?.path.join('.')}: ${issue?.message} (see .env.example)`)
  }
  const e = parsed.data
  return Object.freeze({
    port: e.PORT,
    host: e.HOST,
    publicUrl: (e.PUBLIC_URL ?? `http://localhost:${e.PORT}`).replace(/\/+$/, ''),
    publicUrlIsSet: e.PUBLIC_URL !== undefined,
    databaseUrl: e.DATABASE_URL,
    dataDir: resolve(e.DATA_DIR),
    adminToken: e.ADMIN_TOKEN,
    catalogFile: e.CATALOG_FILE,
    sandbox: e.SANDBOX,
    role: e.ROLE,
    storageUrl: e.STORAGE_URL,
    redisUrl: e.REDIS_URL,
    rateLimitPerMinute: e.RATE_LIMIT_PER_MINUTE,
    uploadTtlMs: e.UPLOAD_TTL_HOURS * 3_600_000,
    resultTtlMs: e.RESULT_TTL_DAYS * 86_400_000,
    logLevel: e.LOG_LEVEL,
  })
}
