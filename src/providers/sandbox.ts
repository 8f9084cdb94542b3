import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { z } from 'zod'
import { drawPicture, MIME_TYPES, type Picture, pictureSchema } from './sandbox-picture.ts'
import { type Finished, type Pending, type Provider, ProviderError, type Ref, type Task } from './provider.ts'

/*
 * An upstream that lives in this process and needs no network. It keeps nothing: a ref holds the whole task, and what has
 * become of it follows from the clock. Words in the prompt steer it:
 *
 *   sandbox:fail     the task fails            sandbox:busy   two submits of three are refused: rate limit
 *   sandbox:reject   refused by moderation     sandbox:down   the submit is refused: out of service
 *   sandbox:slow     takes 30 s, so that it can be cancelled
 */

const FAST_MS = 250
const SLOW_MS = 30_000
const URL_PREFIX = 'sandbox:'

const ticketSchema = z.object({
  /** When it is over, ms since 1970. */
  done: z.number(),
  outcome: z.enum(['picture', 'fail', 'reject']),
  picture: pictureSchema,
})
type Ticket = z.infer<typeof ticketSchema>

const inputSchema = z.object({
  prompt: z.string().catch(''),
  aspect_ratio: z.string().catch('1:1'),
  format: z.string().catch(''),
  images: z.array(z.unknown()).catch([]),
})

export const sandbox: Provider = {
  kind: 'sandbox',
  defaults: { limits: {}, poll: { first_ms: 300, every_ms: 300, deadline_ms: 120_000 } },
  settings: z.strictObject({}).default({}),
  idempotentSubmit: true,

  async submit(task) {
    const prompt = inputSchema.parse(task.input).prompt
    // Not for ever: while it is refused, every order waits.
    if (prompt.includes('sandbox:busy') && task.nonce % 3 !== 0) {
      throw new ProviderError('rate_limited', 'sandbox:busy', { retryAfterMs: 1000 })
    }
    if (prompt.includes('sandbox:down')) throw new ProviderError('unavailable', 'sandbox:down')
    return { state: 'accepted', ref: seal(ticketOf(task)) }
  },

  async poll(refs) {
    return new Map(refs.map(ref => [ref, stateOf(ref)]))
  },

  async cancel(ref) {
    const ticket = unseal(ticketSchema, ref)
    return ticket !== undefined && Date.now() < ticket.done ? 'confirmed' : 'too_late'
  },

  async openOutput(output) {
    const picture = unseal(pictureSchema, output.url.slice(URL_PREFIX.length))
    if (!output.url.startsWith(URL_PREFIX) || !picture) throw new ProviderError('task_failed', 'not a sandbox picture')
    return Readable.from([await drawPicture(picture)])
  },
}

/** The same task gives the same ticket: its clock starts at the first submit, not at this one. */
function ticketOf(task: Task): Ticket {
  const input = inputSchema.parse(task.input)
  const moving = task.model === 'video'
  return {
    done: task.submittedAt.getTime() + (input.prompt.includes('sandbox:slow') ? SLOW_MS : FAST_MS),
    outcome: input.prompt.includes('sandbox:reject')
      ? 'reject'
      : input.prompt.includes('sandbox:fail')
        ? 'fail'
        : 'picture',
    picture: {
      text: input.prompt.slice(0, 300).toWellFormed(),
      caption: [task.model, ...(input.images.length > 0 ? [`${input.images.length} input images`] : [])].join(' · '),
      seed: createHash('sha256').update(`${task.nonce} ${input.prompt}`).digest().readUInt32BE(),
      ratio: ratioOf(input.aspect_ratio),
      format: formatOf(input.format, moving),
      moving,
    },
  }
}

function stateOf(ref: Ref): Pending | Finished {
  const ticket = unseal(ticketSchema, ref)
  if (!ticket) return { state: 'failed', fault: 'task_failed', message: 'no such task' }
  if (Date.now() < ticket.done) return { state: 'pending' }
  if (ticket.outcome === 'fail') return { state: 'failed', fault: 'task_failed', message: 'sandbox:fail' }
  if (ticket.outcome === 'reject') return { state: 'failed', fault: 'content_rejected', message: 'sandbox:reject' }
  const { picture } = ticket
  return {
    state: 'succeeded',
    ref,
    outputs: [{ url: `${URL_PREFIX}${seal(picture)}`, mimeType: MIME_TYPES[picture.format] }],
  }
}

/** Width by height, at most 4 to 1; 1 for anything that is not such a ratio. */
function ratioOf(text: string): number {
  const match = /^(\d{1,4}):(\d{1,4})$/.exec(text)
  const ratio = match ? Number(match[1]) / Number(match[2]) : 1
  return Number.isFinite(ratio) && ratio > 0 ? Math.min(4, Math.max(1 / 4, ratio)) : 1
}

/** Only WEBP and GIF can move. */
function formatOf(text: string, moving: boolean): Picture['format'] {
  const wanted = text.toLowerCase()
  if (wanted === 'webp' || wanted === 'gif') return wanted
  if (moving) return 'webp'
  return wanted === 'jpg' || wanted === 'jpeg' ? 'jpg' : 'png'
}

function seal(content: Ticket | Picture): string {
  return Buffer.from(JSON.stringify(content)).toString('base64url')
}

function unseal<T>(schema: z.ZodType<T>, text: string): T | undefined {
  try {
    return schema.safeParse(JSON.parse(Buffer.from(text, 'base64url').toString('utf8'))).data
  } catch {
    return undefined
  }
}
