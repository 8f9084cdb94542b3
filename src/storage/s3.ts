import { DeleteObjectCommand, GetObjectCommand, HeadObjectCommand, S3Client } from '@aws-sdk/client-s3'
import { AbortMultipartUploadCommand, PutObjectCommand } from '@aws-sdk/client-s3'
import { paginateListObjectsV2, ListMultipartUploadsCommand, S3ServiceException } from '@aws-sdk/client-s3'
import { Upload } from '@aws-sdk/lib-storage'
import { Readable } from 'node:stream'
import { ApiError } from '../errors.ts'
import { checkName, MissingFile, type Storage } from './storage.ts'

/** Two parts of 8 MiB in memory per stream; 10,000 parts make 80 GB. */
const PART = 8 * 1024 * 1024

export interface S3Settings {
  readonly bucket: string
  /** Key prefix inside the bucket, without slashes at its ends; empty: none. */
  readonly prefix: string
  readonly region: string
  /** undefined: Amazon's own for the region. */
  readonly endpoint: string | undefined
  /** The bucket in the path instead of the host's name, as most servers but Amazon's want it. */
  readonly pathStyle: boolean
}

/**
 * `s3://bucket/prefix?endpoint=…&region=…&path_style=true|false`. Path style is the default with an endpoint. Credentials
 * come from where the AWS SDK looks for them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, files, or the machine's role.
 */
export function parseS3Url(text: string): S3Settings {
  const url = new URL(text)
  const query = url.searchParams
  const unknown = [...query.keys()].find(key => !['endpoint', 'region', 'path_style'].includes(key))
  if (unknown) throw new TypeError(`unknown parameter ${unknown}`)
  if (!url.hostname) throw new TypeError('no bucket')
  const endpoint = query.get('endpoint') ?? undefined
  if (endpoint !== undefined && !/^https?:\/\//.test(endpoint))
    throw new TypeError('endpoint must be an http or https URL')
  return {
    bucket: url.hostname,
    prefix: url.pathname.replace(/^\/+|\/+$/g, ''),
    region: query.get('region') ?? process.env.AWS_REGION ?? 'us-east-1',
    endpoint,
    pathStyle: query.has('path_style') ? query.get('path_style') === 'true' : endpoint !== undefined,
  }
}

/** Storage in a bucket of any S3-compatible server. A put is a multipart upload: it stands whole or not at all. */
export function openS3(settings: S3Settings): Storage {
  const Bucket = settings.bucket
  const prefix = settings.prefix ? `${settings.prefix}/` : ''
  const client = new S3Client({
    region: settings.region,
    ...(settings.endpoint ? { endpoint: settings.endpoint } : {}),
    forcePathStyle: settings.pathStyle,
    // The SDK's default checksums are trailers that other servers store as part of the object.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    maxAttempts: 3,
    requestHandler: { connectionTimeout: 5_000, requestTimeout: 60_000, throwOnRequestTimeout: true },
  })
  const keyOf = (name: string) => {
    checkName(name)
    return prefix + name
  }

  return {
    async put(name, body, options = {}) {
      const target = { Bucket, Key: keyOf(name), ContentType: options.contentType ?? 'application/octet-stream' }
      // On any failure Upload aborts the multipart upload, and its parts are gone.
      const upload = new Upload({ client, params: { ...target, Body: body }, queueSize: 2, partSize: PART })
      try {
        await upload.done()
      } catch (error) {
        // What broke the source matters more than how the upload was given up.
        const cause = body.errored ?? asBusy(error)
        body.destroy()
        throw cause
      }
    },

    async open(name, range) {
      const Key = keyOf(name)
      const Range = range && `bytes=${range.start}-${range.end}`
      try {
        const answer = await client.send(new GetObjectCommand({ Bucket, Key, ...(Range ? { Range } : {}) }))
        if (answer.Body instanceof Readable) return answer.Body
      } catch (error) {
        throw isMissing(error) ? new MissingFile(name) : asBusy(error)
      }
      throw new Error(`no body in the answer for ${name}`)
    },

    async size(name) {
      try {
        return (await client.send(new HeadObjectCommand({ Bucket, Key: keyOf(name) }))).ContentLength
      } catch (error) {
        if (isMissing(error)) return undefined
        throw error
      }
    },

    async remove(name) {
      await client.send(new DeleteObjectCommand({ Bucket, Key: keyOf(name) }))
    },

    async *list(kind) {
      for await (const page of paginateListObjectsV2({ client }, { Bucket, Prefix: prefix + kind }))
        for (const { Key, Size, LastModified } of page.Contents ?? [])
          if (Key && LastModified) yield { name: Key.slice(prefix.length), size: Size ?? 0, modifiedAt: LastModified }
    },

    async sweep(before) {
      const found = await client.send(new ListMultipartUploadsCommand({ Bucket, Prefix: prefix })).catch(unlessMissing)
      const old = (found?.Uploads ?? []).filter(upload => upload.Initiated && upload.Initiated < before)
      for (const { Key, UploadId } of old) await client.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId }))
      return old.length
    },

    async check() {
      await client.send(new PutObjectCommand({ Bucket, Key: `${prefix}check`, Body: '' }))
    },

    freeBytes: async () => Infinity,
  }
}

/** Some servers do not list unfinished uploads, and remove them by a rule of their own. */
function unlessMissing(error: unknown): undefined {
  const status = error instanceof S3ServiceException ? error.$metadata.httpStatusCode : undefined
  if (status !== 405 && status !== 501) throw error
}

function isMissing(error: unknown): boolean {
  return error instanceof S3ServiceException && (error.name === 'NoSuchKey' || error.name === 'NotFound')
}

/** No answer, or one that says "not now", is our trouble and passes. Any other refusal (keys, bucket) is a mistake of ours. */
function asBusy(error: unknown): unknown {
  const status = error instanceof S3ServiceException ? error.$metadata.httpStatusCode : undefined
  if (status !== undefined && status < 500 && status !== 429) return error
  return new ApiError('server_busy', 'The storage cannot be reached. Try again shortly.', {
    retryAfter: 5,
    cause: error,
  })
}
