// Talking to PostgreSQL: one Session is one connection that comes back by itself. Its callers queue up; an error of
// the connection throws the connection away, and the next caller makes a new one. Every call has a time limit.
//
// What may be tried again is decided by SQLSTATE and system error code, never by text: serialization failures,
// deadlocks, lock timeouts, shutdowns, and lost connections. Whether trying again is harmless is the caller's to know.

import pg from 'pg'
import type { Clock } from '../base/clock.ts'
import { EngineError, type ErrorCode, messageOf } from '../base/errors.ts'
import { isDeeper } from '../base/json-text.ts'
import { JSON_DEPTH_MAX } from '../base/limits.ts'
import { adviceFor, INCOMPLETE_URL } from './advice.ts'

export interface SessionOptions {
  /** postgres://user:password@host:port/database */
  readonly url: string
  readonly schema: string
  /** Shown in pg_stat_activity. */
  readonly name: string
  readonly clock: Clock
  /** Longest time for one call, in milliseconds. */
  readonly timeoutMs: number
  /** Longest time to connect, in milliseconds. */
  readonly connectTimeoutMs?: number
  /** False behind a pooler in transaction mode: no named statements, no session settings. */
  readonly prepared: boolean
}

export interface Statement {
  readonly text: string
  readonly values?: readonly unknown[]
  /** Longest time for this call, connecting included, in milliseconds; default: what the session allows. */
  readonly limitMs?: number | undefined
  /** Name of the prepared statement; without one it is parsed each time. */
  readonly name?: string
}

// 08: connection; 40001, 40P01: serialization and deadlock; 55P03: lock timeout; 57P0x: shutdown; 53300: too many connections
const RETRYABLE_STATES = new Set([
  '08000',
  '08001',
  '08003',
  '08006',
  '40001',
  '40P01',
  '53300',
  '55P03',
  '57P01',
  '57P02',
  '57P03',
])
const UNREACHABLE_STATES = new Set(['08000', '08001', '08003', '08006', '53300', '57P01', '57P02', '57P03'])
const UNREACHABLE_SYSTEM = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOENT',
  'ECONNABORTED',
])
const CODE_OF_STATE: Readonly<Record<string, ErrorCode>> = {
  '57014': 'STORE_TIMEOUT',
  '55P03': 'STORE_TIMEOUT',
  '3F000': 'SCHEMA_MISSING',
  '42P01': 'SCHEMA_MISSING',
  '42883': 'SCHEMA_MISSING',
  MR400: 'VALIDATION',
  MR410: 'NODE_FENCED',
}

const TYPES = {
  getTypeParser(oid: number, format?: 'text' | 'binary') {
    // int8: ids and counts stay below 2^53, which the tables check
    if (oid === 20) return Number
    // a row that was written by hand must not stop who reads it: what no Date tells is null, what is too deep stays text
    if (oid === 1184 && format !== 'binary') return momentOf
    if (oid === 114 && format !== 'binary') return jsonOf
    return format === 'binary' ? pg.types.getTypeParser(oid, 'binary') : pg.types.getTypeParser(oid, 'text')
  },
} as pg.CustomTypesConfig

const readMoment = pg.types.getTypeParser(1184, 'text')

function momentOf(text: string): Date | null {
  const moment: unknown = readMoment(text)
  return moment instanceof Date && !Number.isNaN(moment.getTime()) ? moment : null
}

function jsonOf(text: string): unknown {
  return isDeeper(text, JSON_DEPTH_MAX + 1) ? text : JSON.parse(text)
}

/** Where a URL leads, as far as it may be shown: `host:port/database`, as the driver understands it. */
export function placeOf(url: string): string {
  const { host, port, database } = newClient({ connectionString: url })
  return `${host}:${port}/${database ?? ''}`
}

/** @throws EngineError STORE_REFUSED when the driver cannot read the URL, or a file that it names */
function newClient(config: pg.ClientConfig): pg.Client {
  try {
    return new pg.Client(config)
  } catch (error) {
    const hint = 'Correct the URL; files that it names (sslrootcert, sslcert, sslkey) must be there and readable.'
    const message = `the URL of the database cannot be used: ${messageOf(error)}`
    throw new EngineError('STORE_REFUSED', message, { hint, sent: false }, error)
  }
}

/** Any error of the driver as an EngineError; `lost` says that the connection is gone. */
export function storeError(error: unknown, what: string, lost = false): EngineError {
  if (error instanceof EngineError) return error
  const state = (error as { code?: unknown })?.code
  const sqlState = typeof state === 'string' ? state : undefined
  const advice = adviceFor(sqlState)
  const details = {
    sqlState,
    statement: what,
    detail: (error as { detail?: unknown })?.detail,
    retryable: isRetryable(error) || lost,
    ...(advice && { hint: advice.hint }),
  }
  const message = sqlState?.length === 5 ? `${messageOf(error)} (SQLSTATE ${sqlState})` : messageOf(error)
  if (lost || (sqlState !== undefined && (UNREACHABLE_STATES.has(sqlState) || UNREACHABLE_SYSTEM.has(sqlState)))) {
    return new EngineError(
      'STORE_UNREACHABLE',
      `PostgreSQL is not reachable (${what}): ${message}`,
      { ...details, retryable: true },
      error,
    )
  }
  const code = (sqlState !== undefined ? CODE_OF_STATE[sqlState] : undefined) ?? advice?.code ?? 'STORE_FAILED'
  const isOurs = code === 'VALIDATION' || code === 'NODE_FENCED' // its message says it all
  return new EngineError(code, `${what}: ${isOurs ? messageOf(error) : message}`, details, error)
}

/** True for what PostgreSQL itself calls worth another try. */
export function isRetryable(error: unknown): boolean {
  if (error instanceof EngineError)
    return error.code === 'STORE_UNREACHABLE' || error.code === 'STORE_TIMEOUT' || error.details.retryable === true
  const code = (error as { code?: unknown })?.code
  return typeof code === 'string' && (RETRYABLE_STATES.has(code) || UNREACHABLE_SYSTEM.has(code))
}

/** Waits between tries: doubles from 50 ms to `maxMs`, spread over the upper half so that many do not come at once. */
export function backoffMs(tries: number, maxMs = 2_000, random: () => number = Math.random): number {
  const full = Math.min(maxMs, 50 * 2 ** Math.min(tries, 20))
  return full / 2 + (random() * full) / 2
}

/** What a connection has for its goodbye, in ms. */
const END_MS = 1_000

export class Session {
  readonly #options: SessionOptions
  #client: pg.Client | null = null
  /** Tail of the line of callers; each waits for the one before. */
  #line: Promise<unknown> = Promise.resolve()
  #closed = false
  /** On its way up. */
  #connecting: pg.Client | null = null
  #answeredInMs = 0

  constructor(options: SessionOptions) {
    this.#options = options
  }

  get options(): SessionOptions {
    return this.#options
  }

  /** What the last statement of query() took from its sending to its answer, in ms; connecting is not counted. */
  get answeredInMs(): number {
    return this.#answeredInMs
  }

  /** Runs one statement. @throws EngineError STORE_UNREACHABLE, STORE_TIMEOUT, STORE_FAILED, SCHEMA_MISSING */
  query<Row>(statement: Statement): Promise<Row[]> {
    const { name, limitMs, ...plain } = statement
    return this.exclusive(
      name ?? 'statement',
      async (client) => {
        const config = this.#options.prepared && name !== undefined ? { ...plain, name } : plain
        const sentMs = this.#options.clock.steadyMs()
        const result = await client.query({ ...config, values: statement.values ? [...statement.values] : [] })
        this.#answeredInMs = this.#options.clock.steadyMs() - sentMs
        return result.rows as Row[]
      },
      limitMs,
    )
  }

  /**
   * Runs a statement that is harmless to repeat, up to `tries` times while the failure is a retryable one and the time of
   * one call has not passed.
   */
  async repeatable<Row>(statement: Statement, tries = 4): Promise<Row[]> {
    const { clock } = this.#options
    const untilMs = clock.steadyMs() + (statement.limitMs ?? this.#options.timeoutMs)
    for (let tried = 1; ; tried++) {
      try {
        return await this.query<Row>(statement)
      } catch (error) {
        if (tried >= tries || !isRetryable(error) || this.#closed || clock.steadyMs() >= untilMs) throw error
        await clock.sleep(backoffMs(tried))
      }
    }
  }

  /**
   * The connection for one piece of work; others wait. When the work fails with the transaction open, the connection is
   * thrown away, which rolls back. `details.sent` of an error is false when the work never began.
   */
  exclusive<T>(what: string, work: (client: pg.Client) => Promise<T>, limitMs?: number): Promise<T> {
    const turn = this.#line.then(() => this.#run(what, work, limitMs))
    this.#line = turn.catch(() => {})
    return turn
  }

  async #run<T>(what: string, work: (client: pg.Client) => Promise<T>, limitMs = Number.POSITIVE_INFINITY): Promise<T> {
    if (this.#closed) throw closedError(what)
    const { clock } = this.#options
    const untilMs = clock.steadyMs() + limitMs
    const client = this.#client ?? (await this.#connect(what, limitMs))
    let timer: { cancel(): void } | null = null
    try {
      const timeout = new Promise<never>((_, reject) => {
        const leftMs = Math.max(1, Math.round(Math.min(untilMs - clock.steadyMs(), this.#options.timeoutMs + 1_000)))
        timer = clock.after(leftMs, () => {
          this.#discard(client)
          reject(new EngineError('STORE_TIMEOUT', `${what}: no answer within ${leftMs} ms`, { statement: what }))
        })
      })
      return await Promise.race([work(client), timeout])
    } catch (error) {
      const lost = isLost(client)
      const sqlState = (error as { code?: unknown })?.code
      // a refused single statement leaves the connection whole; anything else may leave a transaction open
      if (lost || typeof sqlState !== 'string' || sqlState.length !== 5 || what.startsWith('tx ')) this.#discard(client)
      throw storeError(error, what, lost && !(error instanceof EngineError))
    } finally {
      ;(timer as { cancel(): void } | null)?.cancel()
    }
  }

  async #connect(what: string, limitMs: number): Promise<pg.Client> {
    const { url, name, timeoutMs, prepared, connectTimeoutMs = 10_000 } = this.#options
    const client = newClient({
      connectionString: url,
      application_name: name,
      keepAlive: true,
      types: TYPES,
    })
    this.#connecting = client
    client.on('error', () => this.#discard(client)) // what was waiting is rejected by the driver
    const withinMs = Math.max(1, Math.round(Math.min(connectTimeoutMs, limitMs)))
    let isLate = false
    const timer = this.#options.clock.after(withinMs, () => {
      isLate = true
      this.#discard(client)
    })
    try {
      await client.connect()
      if (prepared) await client.query(`set statement_timeout = ${Math.floor(timeoutMs)}; set jit = off`)
    } catch (error) {
      client.end().catch(() => {})
      const isSilent = typeof (error as { code?: unknown })?.code !== 'string'
      const lost = isLate || (isSilent && isLost(client))
      const reason = isLate ? new Error(`no answer within ${withinMs} ms`, { cause: error }) : error
      const { code, message, details } = storeError(reason, `connect to ${placeOf(url)} for ${what}`, lost)
      const isRefused = isSilent && !lost // by the driver, for what the URL says
      const more = { sent: false, ...(isRefused && { hint: INCOMPLETE_URL }) }
      throw new EngineError(isRefused ? 'STORE_REFUSED' : code, message, { ...details, ...more }, reason)
    } finally {
      timer.cancel()
      this.#connecting = null
    }
    if (this.#closed) {
      await endOf(client, this.#options.clock)
      throw closedError(what)
    }
    this.#client = client
    return client
  }

  #discard(client: pg.Client): void {
    if (this.#client === client) this.#client = null
    streamOf(client)?.destroy()
  }

  /** Ends the connection after the calls in line. Safe twice. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#line.catch(() => {})
    const client = this.#client
    this.#client = null
    if (client !== null) await endOf(client, this.#options.clock)
  }

  /** Drops the connection now: what is in flight fails. For fencing and for the end of a deadline. */
  abandon(): void {
    this.#closed = true
    for (const client of [this.#client, this.#connecting]) if (client) this.#discard(client)
  }
}

function closedError(what: string): EngineError {
  return new EngineError('STOPPING', `${what}: the connection is closed`, { sent: false })
}

/** Says goodbye. A server that does not answer is not waited for. */
export async function endOf(client: pg.Client, clock: Clock): Promise<void> {
  const timer = clock.after(END_MS, () => streamOf(client)?.destroy(), true)
  await client.end().catch(() => {})
  timer.cancel()
}

function streamOf(client: pg.Client): { destroyed: boolean; destroy(): void } | undefined {
  return (client as unknown as { connection?: { stream?: { destroyed: boolean; destroy(): void } } }).connection?.stream
}

function isLost(client: pg.Client): boolean {
  return streamOf(client)?.destroyed !== false
}
