// Takes jobs in: checks everything before anything is written, deals ids, and writes. Single calls that come while a
// statement flies go together in the next one, without a timer: alone a call waits for nobody, and fifty callers share
// one commit. Many jobs go by COPY. Inside the caller's transaction it is one statement on the caller's connection.
//
// A lost answer is resolved, not guessed: the jobs have their ids before they are sent, so after a failure that leaves it
// open PostgreSQL is asked which of them are there, and only the others are sent again. When it cannot be asked either, the
// error says `details.maybeWritten`.

import { type Clock, nextTurn } from '../base/clock.ts'
import { EngineError, refuseUnknown } from '../base/errors.ts'
import type { ForeignClient } from '../base/foreign-client.ts'
import { BATCH_JOBS_MAX, CHUNK_JOBS_MAX, EXPIRY_HINT_MS, EXPIRY_STEP_MS } from '../base/limits.ts'
import { isName } from '../base/names.ts'
import type { Json } from '../base/task.ts'
import { backoffMs, isRetryable, storeError } from '../store/connection.ts'
import { blamesData, mayHaveWritten } from '../store/refusal.ts'
import type { Duplicate } from '../store/store.ts'
import type { NewChunk } from '../store/types.ts'
import {
  checkClient,
  checkedName,
  checkedTemplate,
  type Enqueued,
  type EnqueuedMany,
  type EnqueueItem,
  type EnqueueOptions,
  same,
  type TaskDefaults,
  type Template,
} from './options.ts'
import { payloadText } from './payload.ts'
import { Published } from './published.ts'

/** Above this many jobs COPY's four round trips cost less than the statement's per-job parsing (results/). */
const COPY_FROM_JOBS = 200
/** Jobs and bytes that one coalesced statement takes along. */
const STATEMENT_JOBS_MAX = 5_000
const STATEMENT_BYTES_MAX = 4 * 1024 * 1024
/** Payload bytes of one chunk: bounds what a claim brings at once. */
const CHUNK_BYTES_MAX = 1024 * 1024
/** Between two hints to other nodes: a commit that notifies takes a lock of the whole database. */
const NOTIFY_EVERY_MS = 2
/** Jobs of a statement that carries its own hint, and hints sent in a row from the side. */
const NOTIFY_ALONG_JOBS = 4
const NOTIFY_MESSAGES_MAX = 100
/** An id block is thrown away after this, so that ids stay roughly in the order of time. */
const BLOCK_AGE_MAX_MS = 60_000
/** A later job that is due within this is told as one that is ready, too. */
const SOON_MS = 1_000
/** A try goes on for so long after the time of its call: PostgreSQL ends it within, and says so. */
const GRACE_MS = 1_000
/** What the last question, "which of these jobs are there?", may take when the time of a call is over. */
const LAST_LOOK_MS = 2_000
/** Jobs checked before the event loop gets a turn: about 2 ms. */
const SLICE_JOBS = 2_000

export interface EnqueuerNeeds {
  readonly clock: Clock
  readonly store: {
    readonly schema: string
    knownQueueId(name: string): number | undefined
    knownTaskId(name: string): number | undefined
    queueIds(names: readonly string[]): Promise<number[]>
    taskIds(names: readonly string[]): Promise<number[]>
    /** Published options by name; a name that is missing has none. */
    publishedTasks(names: readonly string[]): Promise<ReadonlyMap<string, TaskDefaults>>
    reserveBlocks(count: number): Promise<number[]>
    enqueue(
      chunks: readonly NewChunk[],
      allOrNothing: boolean,
      client?: ForeignClient,
      notify?: boolean,
      limitMs?: number,
    ): Promise<Duplicate[]>
    copyChunks(chunks: readonly NewChunk[], limitMs?: number): Promise<Duplicate[]>
    existing(ids: readonly number[], limitMs?: number): Promise<number[]>
    /** `toOthers`: this process knows already. */
    notify(message: string, toOthers: boolean): Promise<void>
  }
  /** The time that due times are judged by, in wall ms: the database's, as far as it is known. Default: this machine's. */
  databaseNowMs?(): number
  /** Options of a task that this process has; of any other the published ones count. */
  defaultsOf(task: string): TaskDefaults | undefined
  /** Told once for each task that this process does not have and nobody has published. */
  onUnknownTask?(task: string): void
  /** Trace headers of the active span, when there is one. */
  traceHeaders?(): Readonly<Record<string, Json>> | null
  /** Called after a commit with the queues that have new work, and when the first delayed job is due (wall ms). */
  onEnqueued?(queueIds: readonly number[], dueAtMs: number | null): void
  /** Called after a commit with the near times at which jobs of it expire (wall ms). */
  onExpiry?(atMs: number): void
}

export interface EnqueuerSettings {
  readonly payloadBytesMax: number
  /** How long a call keeps trying while PostgreSQL is away. */
  readonly enqueueTimeoutMs: number
}

interface Waiting {
  readonly template: Template
  readonly payload: string
  readonly ignoreDuplicate: boolean
  resolve(enqueued: Enqueued): void
  reject(error: unknown): void
}

/** Single calls that go together. */
interface Line {
  waiting: Waiting[]
  flying: Promise<void> | null
  lastJobs: number
}

export class Enqueuer {
  readonly #needs: EnqueuerNeeds
  readonly #settings: EnqueuerSettings
  /** Templates of calls without options, and the task's defaults that they were made of. */
  readonly #plain = new Map<string, { template: Template; defaults: object | undefined }>()
  readonly #plainLine: Line = { waiting: [], flying: null, lastJobs: 0 }
  /** Jobs with keys: such a statement waits for a transaction that is open with the same key, and only they wait for it. */
  readonly #keyedLine: Line = { waiting: [], flying: null, lastJobs: 0 }
  #closed = false
  /** Ids left of the current block. */
  #nextId = 0
  #endId = 0
  #blockAtMs = 0
  readonly #unnotified = new Set<string>()
  /** Times of expiries that others have been told, those ahead. */
  readonly #toldExpiries = new Set<number>()
  #notifying = false
  readonly #published: Published

  constructor(needs: EnqueuerNeeds, settings: EnqueuerSettings) {
    this.#needs = needs
    this.#settings = settings
    this.#published = new Published({
      clock: needs.clock.machine?.clock ?? needs.clock,
      read: (names) => needs.store.publishedTasks(names),
      onUnknown: (name) => needs.onUnknownTask?.(name),
    })
  }

  /**
   * Enqueues one job; resolved means durable (or, with `client`, written in your transaction).
   * @throws EngineError VALIDATION, INVALID_PAYLOAD, DUPLICATE_TASK (details.jobId), STORE_UNREACHABLE, STORE_TIMEOUT:
   * nothing was written, unless `details.maybeWritten` is true (the answer was lost, and the question too)
   */
  async enqueue(task: string, payload: unknown, options?: EnqueueOptions): Promise<Enqueued> {
    if (this.#closed) throw new EngineError('STOPPING', 'the engine is stopping and takes no jobs')
    let template: Template
    let text: string
    if (this.#mustLearn(task)) {
      text = payloadText(payload, this.#settings.payloadBytesMax) // as it is now, whatever the caller does to it meanwhile
      await this.#learn([task])
      template = this.#template(task, options)
    } else {
      template = this.#template(task, options)
      text = payloadText(payload, this.#settings.payloadBytesMax)
    }
    const ignoreDuplicate = options?.onDuplicate === 'ignore'
    if (options?.client) {
      const [chunk] = await this.#chunks([template], [text])
      const duplicates = await this.#needs.store.enqueue([chunk!], true, options.client)
      if (duplicates.length === 0) await this.#hintWithin(options.client, [chunk!])
      return outcome(chunk!, 0, duplicates, template, ignoreDuplicate)
    }
    return new Promise<Enqueued>((resolve, reject) => {
      const line = template.key === null ? this.#plainLine : this.#keyedLine
      line.waiting.push({ template, payload: text, ignoreDuplicate, resolve, reject })
      this.#takeOff(line)
    })
  }

  /**
   * Checks a job as enqueue() would, and writes nothing.
   * @returns what it would have: its queue, its attempts, its group, and its payload as JSON text
   * @throws EngineError VALIDATION, INVALID_PAYLOAD
   */
  async check(
    task: string,
    payload: unknown,
    options?: EnqueueOptions,
  ): Promise<Pick<Template, 'queue' | 'maxAttempts' | 'group' | 'groupLimit' | 'onRetry'> & { json: string }> {
    await this.#learn([task])
    const { queue, maxAttempts, group, groupLimit, onRetry } = this.#template(task, options)
    const json = payloadText(payload, this.#settings.payloadBytesMax)
    return { queue, maxAttempts, group, groupLimit, onRetry, json }
  }

  /**
   * Enqueues many: all or nothing, in one transaction. `enqueueMany(task, payloads, options)` shares the options;
   * `enqueueMany(items, { client })` has options per item.
   * @throws EngineError as enqueue; details.index names the first bad item
   */
  async enqueueMany(items: readonly EnqueueItem[], within?: Pick<EnqueueOptions, 'client'>): Promise<EnqueuedMany>
  async enqueueMany(task: string, payloads: readonly unknown[], options?: EnqueueOptions): Promise<EnqueuedMany>
  async enqueueMany(
    first: string | readonly EnqueueItem[],
    second?: readonly unknown[] | Pick<EnqueueOptions, 'client'>,
    options?: EnqueueOptions,
  ): Promise<EnqueuedMany> {
    if (this.#closed) throw new EngineError('STOPPING', 'the engine is stopping and takes no jobs')
    const within = typeof first === 'string' ? options : (second as Pick<EnqueueOptions, 'client'> | undefined)
    const client = within?.client
    const batch = typeof first === 'string' ? second : first
    if (typeof first !== 'string') {
      refuseUnknown(within ?? {}, ['client'], 'not an option beside items')
      checkClient(client)
    }
    if (!Array.isArray(batch))
      throw new EngineError('VALIDATION', 'a batch must be an array', {
        field: typeof first === 'string' ? 'payloads' : 'items',
      })
    const count = batch.length
    if (count > BATCH_JOBS_MAX)
      throw new EngineError('VALIDATION', `a batch has at most ${BATCH_JOBS_MAX} jobs, got ${count}`, { count })
    if (typeof first === 'string') checkedName('task', first)
    if (count === 0) return { count: 0, ids: [] }
    await this.#learn(typeof first === 'string' ? [first] : new Set(first.map((item) => item?.task)))
    const templates: Template[] = []
    const payloads: string[] = []
    const shared = typeof first === 'string' ? this.#template(first, options) : null
    if (shared?.key && count > 1)
      throw new EngineError('DUPLICATE_TASK', 'one idempotencyKey cannot serve a batch of several jobs', {
        key: shared.key,
      })
    const keys = new Set<string>()
    for (let at = 0; at < count; at++) {
      if (at > 0 && at % SLICE_JOBS === 0) await nextTurn()
      try {
        const item = shared ? null : (first as readonly EnqueueItem[])[at]!
        if (!shared && (typeof item !== 'object' || item === null))
          throw new EngineError('VALIDATION', 'it must be an object with task, payload and options', { field: 'items' })
        // what is passed over in silence may have been an idempotency key
        if (item !== null) refuseUnknown(item, ['task', 'payload', 'options'], 'not a field of an item')
        for (const field of ['client', 'onDuplicate'])
          if (item?.options && field in item.options)
            throw new EngineError('VALIDATION', `an item of a batch has no ${field}`, { field })
        const template = shared ?? this.#template(item!.task, item!.options)
        if (template.key !== null) {
          const key = `${template.queue}\n${template.key}`
          if (keys.has(key))
            throw new EngineError('DUPLICATE_TASK', `the batch names the key ${JSON.stringify(template.key)} twice`, {
              key: template.key,
            })
          keys.add(key)
        }
        templates.push(template)
        payloads.push(
          payloadText(shared ? (second as readonly unknown[])[at] : item!.payload, this.#settings.payloadBytesMax),
        )
      } catch (error) {
        if (error instanceof EngineError)
          throw new EngineError(error.code, `item ${at}: ${error.message}`, { ...error.details, index: at }, error)
        throw error
      }
    }
    const { store } = this.#needs
    const untilMs = this.#untilMs()
    const chunks = client
      ? await this.#chunks(templates, payloads)
      : await this.#patiently(untilMs, () => this.#chunks(templates, payloads))
    const write = (left: readonly NewChunk[], limitMs: number) =>
      count > COPY_FROM_JOBS ? store.copyChunks(left, limitMs) : store.enqueue(left, true, undefined, false, limitMs)
    const duplicates = client
      ? await store.enqueue(chunks, true, client)
      : await this.#surely(chunks, untilMs, write).catch((error) => {
          this.#tellUnsure(chunks, error)
          throw error
        })
    if (duplicates.length > 0) {
      const chunk = chunks.find((it) => it.firstId === duplicates[0]!.firstId)
      throw duplicateError(chunk?.key ?? '', duplicates[0]!.heldBy)
    }
    if (client) await this.#hintWithin(client, chunks)
    else this.#announce(chunks)
    return { count, ids: rangesOf(chunks) }
  }

  /** The hint to the nodes as a part of the caller's transaction: it is sent when he commits, and only then. */
  async #hintWithin(client: ForeignClient, chunks: readonly NewChunk[]): Promise<void> {
    const ready = new Set(chunks.filter((chunk) => this.#isReadySoon(chunk)).map((chunk) => chunk.queueId))
    const hints = [...ready].slice(0, NOTIFY_MESSAGES_MAX).map((id) => `q${id}`)
    if (chunks.some((chunk) => chunk.runAtMs !== null)) hints.push('s')
    for (const atMs of this.#nearExpiries(chunks)) hints.push(`e${atMs}`)
    await client.query('select pg_notify($1, hint) from unnest($2::text[]) hint', [
      `millrace_${this.#needs.store.schema}`,
      hints,
    ])
  }

  /** Takes no more; what was taken is written. */
  async close(): Promise<void> {
    this.#closed = true
    for (const line of [this.#plainLine, this.#keyedLine]) while (line.flying) await line.flying
  }

  // ------------------------------------------------------------------ coalescing

  #takeOff(line: Line): void {
    if (line.flying) return
    line.flying = (async () => {
      // callers that were answered together come back together: give them one turn of the loop to do so
      if (line.lastJobs > 1) await nextTurn()
      else await null
      while (line.waiting.length > 0) await this.#fly(nextFlight(line))
      line.flying = null
    })()
  }

  async #fly(flight: readonly Waiting[]): Promise<void> {
    try {
      const untilMs = this.#untilMs()
      const chunks = await this.#patiently(untilMs, () =>
        this.#chunks(
          flight.map((it) => it.template),
          flight.map((it) => it.payload),
        ),
      )
      // a few jobs wake the listeners with their own commit; a flood does it from the side, seldom
      const [only] = chunks
      const notify =
        flight.length <= NOTIFY_ALONG_JOBS && chunks.length === 1 && only!.runAtMs === null && !this.#notifying
      let duplicates: Duplicate[]
      try {
        duplicates = await this.#surely(chunks, untilMs, (left, limitMs) =>
          this.#needs.store.enqueue(left, false, undefined, notify, limitMs),
        )
      } catch (error) {
        this.#tellUnsure(chunks, error)
        throw error
      }
      this.#announce(chunks, notify)
      let at = 0
      for (const chunk of chunks) {
        for (let offset = 0; offset < chunk.count; offset++, at++) {
          const { template, ignoreDuplicate, resolve, reject } = flight[at]!
          try {
            resolve(outcome(chunk, offset, duplicates, template, ignoreDuplicate))
          } catch (error) {
            reject(error)
          }
        }
      }
    } catch (error) {
      // one job that PostgreSQL does not take must not cost its neighbours theirs: halves, until it stands alone
      if (flight.length > 1 && blamesData(error) && !isUnsure(error)) {
        const half = Math.ceil(flight.length / 2)
        await this.#fly(flight.slice(0, half))
        await this.#fly(flight.slice(half))
      } else for (const { reject } of flight) reject(error)
    }
  }

  // ------------------------------------------------------------------ PostgreSQL is away, or an answer is

  #nowMs(): number {
    return this.#needs.databaseNowMs?.() ?? this.#needs.clock.wallMs()
  }

  #untilMs(): number {
    return this.#needs.clock.steadyMs() + this.#settings.enqueueTimeoutMs
  }

  /** Tries what may be done any number of times, until it is done or the time is over. */
  async #patiently<T>(untilMs: number, work: () => Promise<T>): Promise<T> {
    const { clock } = this.#needs
    for (let tries = 1; ; tries++) {
      try {
        return await work()
      } catch (error) {
        if (!isRetryable(error) || this.#closed || clock.steadyMs() >= untilMs) throw error
        await clock.sleep(backoffMs(tries))
      }
    }
  }

  /**
   * Tries until everything is there or the time is over. Whatever a failed try may have written is not sent again. One that
   * is still under way in PostgreSQL holds up the next at the primary key until it is decided.
   */
  async #surely(
    chunks: readonly NewChunk[],
    untilMs: number,
    write: (left: readonly NewChunk[], limitMs: number) => Promise<Duplicate[]>,
  ): Promise<Duplicate[]> {
    const { clock } = this.#needs
    let left = chunks
    let unsure = false
    for (let tries = 1; ; tries++) {
      const limitMs = Math.max(0, untilMs - clock.steadyMs()) + GRACE_MS
      try {
        if (unsure) left = await this.#missing(left, limitMs)
        return left.length === 0 ? [] : await write(left, limitMs)
      } catch (error) {
        if (isUnsure(error)) throw error
        unsure ||= mayHaveWritten(error)
        const isOver = this.#closed || clock.steadyMs() >= untilMs
        if (isOver || !isRetryable(error)) {
          if (!unsure) throw error
          const missing = await this.#missing(left, LAST_LOOK_MS).catch(() => left)
          if (missing.length === 0) return []
          if (isOver || missing.length === left.length) throw unsureError(error)
          left = missing // what had been under way is decided; the others go on
        }
        await clock.sleep(backoffMs(tries))
      }
    }
  }

  /**
   * The chunks of a statement that are not there: each is written as a whole or not at all, and those that are refused for
   * their key are decided anew. An ephemeral job that is not there may have been written, run and removed by now.
   * @throws EngineError with details.maybeWritten when nothing shows whether the transaction of ephemeral jobs was committed
   */
  async #missing(chunks: readonly NewChunk[], limitMs: number): Promise<readonly NewChunk[]> {
    const there = new Set(
      await this.#needs.store.existing(
        chunks.map((chunk) => chunk.firstId),
        limitMs,
      ),
    )
    const missing = chunks.filter((chunk) => !there.has(chunk.firstId))
    const fleeting = missing.filter((chunk) => chunk.ephemeral)
    if (fleeting.length === 0 || missing.some((chunk) => !chunk.ephemeral && chunk.key === null)) return missing
    if (there.size > 0 && fleeting.every((chunk) => chunk.key === null))
      return missing.filter((chunk) => !chunk.ephemeral) // one transaction: they had been written too
    throw unsureError(
      new EngineError('STORE_UNREACHABLE', 'the answer of PostgreSQL was lost, and an ephemeral job leaves no trace'),
    )
  }

  /** They may be there, and our own hint is not heard. */
  #tellUnsure(chunks: readonly NewChunk[], error: unknown): void {
    if (isUnsure(error)) this.#needs.onEnqueued?.([...new Set(chunks.map((chunk) => chunk.queueId))], null)
  }

  /** What is due within a moment may have been due already when PostgreSQL put it in its place: it is ready then. */
  #isReadySoon({ runAtMs }: NewChunk): boolean {
    return runAtMs === null || runAtMs <= this.#nowMs() + SOON_MS
  }

  /** Times at which jobs of these expire, in whole steps: those that no beat would tell in time. */
  #nearExpiries(chunks: readonly NewChunk[]): Set<number> {
    const nowMs = this.#nowMs()
    const near = new Set<number>()
    for (const { expiresAtMs } of chunks)
      if (expiresAtMs !== null && expiresAtMs < nowMs + EXPIRY_HINT_MS)
        near.add(Math.ceil(expiresAtMs / EXPIRY_STEP_MS) * EXPIRY_STEP_MS)
    if (near.size > 0) for (const atMs of this.#toldExpiries) if (atMs < nowMs) this.#toldExpiries.delete(atMs)
    return near
  }

  /** Tells this process at once, and other nodes by a hint from the side that is coalesced; `told`: they know already. */
  #announce(chunks: readonly NewChunk[], told = false): void {
    const ready = new Set<number>()
    let dueAtMs: number | null = null
    for (const chunk of chunks) {
      const { queueId, runAtMs } = chunk
      if (this.#isReadySoon(chunk)) ready.add(queueId)
      if (runAtMs !== null) dueAtMs = Math.min(dueAtMs ?? runAtMs, runAtMs)
    }
    this.#needs.onEnqueued?.([...ready], dueAtMs)
    for (const atMs of this.#nearExpiries(chunks)) {
      this.#needs.onExpiry?.(atMs)
      if (this.#toldExpiries.has(atMs)) continue
      this.#toldExpiries.add(atMs)
      this.#unnotified.add(`e${atMs}`)
    }
    if (!told) for (const id of ready) this.#unnotified.add(`q${id}`)
    if (dueAtMs !== null) this.#unnotified.add('s')
    if (this.#notifying) return
    this.#notifying = true
    void (async () => {
      if (told) await this.#needs.clock.sleep(NOTIFY_EVERY_MS)
      while (this.#unnotified.size > 0) {
        const messages = [...this.#unnotified].slice(0, NOTIFY_MESSAGES_MAX)
        for (const message of messages) this.#unnotified.delete(message)
        for (const message of messages) await this.#needs.store.notify(message, true).catch(() => {}) // polling is the truth
        await this.#needs.clock.sleep(NOTIFY_EVERY_MS)
      }
      this.#notifying = false
    })()
  }

  // ------------------------------------------------------------------ chunks and ids

  /** Adjacent jobs that share everything become one chunk; order is kept. */
  async #chunks(templates: readonly Template[], payloads: readonly string[]): Promise<NewChunk[]> {
    const spans: { template: Template; from: number; to: number }[] = []
    let bytes = 0
    for (let at = 0; at < templates.length; at++) {
      const template = templates[at]!
      const span = spans.at(-1)
      bytes += payloads[at]!.length
      const joins =
        span !== undefined &&
        at - span.from < CHUNK_JOBS_MAX &&
        bytes <= CHUNK_BYTES_MAX &&
        template.key === null &&
        template.group === null
      if (joins && (span.template === template || same(span.template, template))) span.to = at + 1
      else {
        spans.push({ template, from: at, to: at + 1 })
        bytes = payloads[at]!.length
      }
    }
    await this.#learnNames(spans.map((span) => span.template))
    const firsts = await this.#deal(spans.map((span) => span.to - span.from))
    return spans.map(({ template, from, to }, index) => ({
      firstId: firsts[index]!,
      count: to - from,
      queueId: this.#needs.store.knownQueueId(template.queue)!,
      taskId: this.#needs.store.knownTaskId(template.task)!,
      priority: template.priority,
      runAtMs: template.runAtMs,
      expiresAtMs: template.expiresAtMs,
      maxAttempts: template.maxAttempts,
      timeoutMs: template.timeoutMs,
      retry: template.retry,
      group: template.group,
      groupLimit: template.groupLimit,
      retrySkips: template.onRetry === 'skip',
      key: template.key,
      ephemeral: template.ephemeral,
      meta: template.meta,
      payloads: payloads.slice(from, to),
    }))
  }

  async #learnNames(templates: readonly Template[]): Promise<void> {
    const { store } = this.#needs
    const queues = new Set<string>()
    const tasks = new Set<string>()
    for (const template of templates) {
      if (store.knownQueueId(template.queue) === undefined) queues.add(template.queue)
      if (store.knownTaskId(template.task) === undefined) tasks.add(template.task)
    }
    if (queues.size > 0) await store.queueIds([...queues])
    if (tasks.size > 0) await store.taskIds([...tasks])
  }

  /** First ids for runs of the given lengths; a run never crosses a block. */
  async #deal(lengths: readonly number[]): Promise<number[]> {
    for (;;) {
      const now = this.#needs.clock.steadyMs()
      const [next, end] = now - this.#blockAtMs > BLOCK_AGE_MAX_MS ? [0, 0] : [this.#nextId, this.#endId]
      const needed = blocksFor(lengths, end - next)
      const fresh = needed > 0 ? await this.#needs.store.reserveBlocks(needed) : []
      // another caller may have dealt from the block meanwhile: then look again, the fresh ones are thrown away
      if (fresh.length > 0 && next !== 0 && next !== this.#nextId) continue
      let at = next
      let until = end
      const firsts: number[] = []
      for (const length of lengths) {
        if (until - at < length) {
          at = fresh.shift()!
          until = at + CHUNK_JOBS_MAX
          this.#blockAtMs = now
        }
        firsts.push(at)
        at += length
      }
      this.#nextId = at
      this.#endId = until
      return firsts
    }
  }

  // ------------------------------------------------------------------ checks

  async #learn(tasks: Iterable<unknown>): Promise<void> {
    const names = [...tasks].filter((task) => this.#mustLearn(task)) as string[]
    if (names.length === 0) return
    await this.#patiently(this.#untilMs(), () => this.#published.learn(names))
    if (this.#closed) throw new EngineError('STOPPING', 'the engine is stopping and takes no jobs')
  }

  #mustLearn(task: unknown): task is string {
    const name = task as string
    return this.#needs.defaultsOf(name) === undefined && !this.#published.isKnown(name) && isName(task)
  }

  #template(task: string, options?: EnqueueOptions): Template {
    const trace = this.#needs.traceHeaders?.() ?? null
    const defaults = this.#needs.defaultsOf(task) ?? this.#published.of(task)
    if (options === undefined && trace === null) {
      const known = this.#plain.get(task)
      if (known && known.defaults === defaults) return known.template
    }
    const template = checkedTemplate(task, options ?? {}, defaults, trace, this.#nowMs())
    if (options === undefined && trace === null && this.#plain.size < 10_000)
      this.#plain.set(task, { template, defaults })
    return template
  }
}

function nextFlight(line: Line): Waiting[] {
  let bytes = 0
  let jobs = 0
  while (jobs < line.waiting.length && jobs < STATEMENT_JOBS_MAX && bytes < STATEMENT_BYTES_MAX)
    bytes += line.waiting[jobs++]!.payload.length
  const flight = line.waiting.slice(0, jobs)
  line.waiting = line.waiting.slice(jobs)
  line.lastJobs = jobs
  return flight
}

function blocksFor(lengths: readonly number[], left: number): number {
  let blocks = 0
  let room = left
  for (const length of lengths) {
    if (room < length) {
      blocks++
      room = CHUNK_JOBS_MAX
    }
    room -= length
  }
  return blocks
}

function rangesOf(chunks: readonly NewChunk[]): { first: number; count: number }[] {
  const ranges: { first: number; count: number }[] = []
  for (const chunk of chunks) {
    const last = ranges.at(-1)
    if (last && last.first + last.count === chunk.firstId) last.count += chunk.count
    else ranges.push({ first: chunk.firstId, count: chunk.count })
  }
  return ranges
}

function outcome(
  chunk: NewChunk,
  offset: number,
  duplicates: readonly Duplicate[],
  template: Template,
  ignoreDuplicate: boolean,
): Enqueued {
  const duplicate = template.key === null ? undefined : duplicates.find((it) => it.firstId === chunk.firstId)
  if (!duplicate) return { id: chunk.firstId + offset, duplicate: false }
  if (ignoreDuplicate) return { id: duplicate.heldBy, duplicate: true }
  throw duplicateError(template.key!, duplicate.heldBy)
}

function duplicateError(key: string, heldBy: number): EngineError {
  return new EngineError('DUPLICATE_TASK', `the unfinished job ${heldBy} has the key ${JSON.stringify(key)}`, {
    jobId: heldBy,
    key,
  })
}

/** The error of a call whose jobs may be there all the same. */
function unsureError(error: unknown): EngineError {
  if (isUnsure(error)) return error
  const { code, message, details } = storeError(error, 'enqueue')
  return new EngineError(
    code,
    `${message}; whether the jobs were written is not known: send them again only with an idempotencyKey`,
    { ...details, maybeWritten: true },
    error,
  )
}

function isUnsure(error: unknown): error is EngineError {
  return error instanceof EngineError && error.details.maybeWritten === true
}
