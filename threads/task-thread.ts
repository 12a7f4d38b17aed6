// What runs in a thread: one lane, from its first import to its end. It takes jobs in the order in which they were fed,
// runs their handlers, and reports into its ring.
//
// For every job that it takes, the thread writes STARTED and then exactly one of COMPLETED and FAILED, unless it dies
// between. A job of an exclusive task (concurrency 1) has the thread for itself; jobs of a task with concurrency k
// overlap up to k. It never starts a job that was revoked, because taking one is a single compareExchange on a word
// that main lowers in the same way.
//
// An error that escapes from a job (a rejection or exception that nobody handles) fails that job and no other: the
// thread takes nothing more, lets the neighbours finish, and asks to be replaced.

import { AsyncLocalStorage } from 'node:async_hooks'
import { getHeapSpaceStatistics } from 'node:v8'
import { type MessagePort, receiveMessageOnPort, resourceLimits, threadId } from 'node:worker_threads'
import { systemClock } from '../engine/base/clock.ts'
import type { ErrorCode } from '../engine/base/errors.ts'
import type { ForeignClient } from '../engine/base/foreign-client.ts'
import { PAYLOAD_SEPARATOR } from '../engine/base/limits.ts'
import type { RetryDecision } from '../engine/base/retry-policy.ts'
import type { Json, TaskDefinition } from '../engine/base/task.ts'
import { type CompletionNeeds, completeWithin } from './completion.ts'
import { abortError, type ContextHost, JobContext, JobRun } from './context.ts'
import type { AbortReason, FeedPiece } from './lanes.ts'
import { ASLEEP, type LaneMemory, LOAD_STEP, LOADING_FILE, openLaneMemory, THREAD_ID, takeOne } from './layout.ts'
import { loadTasks } from './load.ts'
import { errorFacts, type Facts, type LogLevel, lineText } from './log-line.ts'
import { type LaneArgs, ReportWriter, type ToMain, type ToThread, unpackPieces } from './messages.ts'
import { decide, errorText, parsePayload, plainError, progressText, resultText } from './outcome.ts'
import { RingWriter } from './ring.ts'

/** Consecutive jobs run this long before the thread looks at its timers and at messages of main. */
const SLICE_MS = 10
/** A report waits this long for company before it wakes a sleeping main. */
const BELL_AFTER_MS = 0.5
/** Between two looks at messages from within a handler. */
const LOOK_UP_MS = 5
const HEARTBEAT_EVERY_MS = 50
const PROGRESS_EVERY_MS = 50
/** Log lines of one thread per second; what is beyond is counted and dropped. */
const LOG_LINES_MAX = 1_000
const HEAP_CHECK_EVERY_MS = 1_000
/** Of the reason why a thread ends, which jobs that it takes with it are charged with. */
const FALL_CHARS_MAX = 1_000
/**
 * A heap that stays above this share of its limit: better replaced between jobs than dead in one. The rest is room for
 * what one collection of the young space moves over, up to 16 MiB.
 */
const HEAP_SHARE_MAX = 0.75

/** A task as this thread runs it. */
interface Entry {
  readonly run: (payload: unknown, ctx: JobContext) => unknown
  readonly concurrency: number
  /** The task's own word about further attempts. */
  readonly decision: RetryDecision | null
  running: number
  /** How long the last one took: decides whether waiting reports are announced before the next one begins. */
  lastRanMs: number
}

/** A piece that waits; its texts are split when its first job is taken. */
interface Waiting {
  readonly piece: FeedPiece
  readonly entry: Entry | null
  next: number
  payloads: string[] | null
  metas: string[] | null
}

/** The piscina task: resolves when the lane was told to end and nothing runs any more. */
export default function runLane(args: LaneArgs): Promise<void> {
  return new Promise((resolve) => {
    new Lane(args, resolve).open()
  })
}

class Lane implements ContextHost {
  readonly #args: LaneArgs
  readonly #control: MessagePort
  readonly #memory: LaneMemory
  readonly #page: Int32Array
  readonly #ring: RingWriter
  readonly #reports: ReportWriter
  readonly #completion: CompletionNeeds
  readonly #onEnd: () => void
  // Which job a rejected promise or a thrown callback belongs to is known only through the async context: one that is
  // rejected late may surface while a neighbour runs. It costs 12 ns per synchronous and 0.1 us per async handler.
  readonly #owner = new AsyncLocalStorage<JobRun>()

  readonly #entries = new Map<string, Entry>()
  readonly #waiting: Waiting[] = []
  #waitingHead = 0
  /** Taken and not reported, by slot. */
  readonly #running = new Map<number, JobRun>()
  #exclusive: JobRun | null = null
  /** Aborts of jobs that are still waiting, by slot. */
  readonly #abortedEarly = new Map<number, { generation: number; reason: AbortReason }>()

  /** Null while jobs are taken; otherwise what to tell main when nothing runs any more. */
  #last: ToMain | null = null
  #lastSaid = false
  #isPumping = false
  /** When the last job was finished. */
  #nowMs = 0
  #sliceFromMs = 0
  #isYielding = false
  #lookedUpMs = 0
  /** Steady start of the oldest job whose report main was not told of; 0 when it was told of all. */
  #unannouncedFromMs = 0
  #isBellDue = false
  #finished = 0
  #isRetiring = false
  #heapCheckedMs = 0
  #heapWasHigh = false
  #logWindowMs = 0
  #logLines = 0
  #logDropped = 0
  #strayMs = Number.NEGATIVE_INFINITY
  #progressTimer: NodeJS.Timeout | null = null

  constructor(args: LaneArgs, onEnd: () => void) {
    this.#args = args
    this.#control = args.control
    this.#memory = openLaneMemory(args.shared)
    this.#page = new Int32Array(args.page)
    this.#ring = new RingWriter(this.#memory)
    this.#reports = new ReportWriter(this.#memory, this.#ring, args.bulk, () => this.#ringBell())
    this.#completion = {
      lane: args.lane,
      sql: args.completeSql,
      resultBytesMax: args.resultBytesMax,
      steadyMs: () => systemClock.steadyMs(),
      announce: ({ slot, generation }) => this.#reports.completing(slot, generation),
    }
    this.#onEnd = onEnd
  }

  open(): void {
    const { header } = this.#memory
    Atomics.store(header, THREAD_ID, threadId)
    process.on('unhandledRejection', (reason) => this.#onEscaped('UNHANDLED_REJECTION', reason))
    process.on('uncaughtException', (error) => this.#onEscaped('TASK_THREW', error))
    this.#control.on('message', (message: ToThread) => this.#onMessage(message))
    loadTasks(this.#args.modules, this.#args.skip, (index) => {
      Atomics.store(header, LOADING_FILE, index + 1) // before the import: main reads it when this thread dies in it
      Atomics.add(header, LOAD_STEP, 1)
    }).then(
      ({ catalog, tasks }) => {
        Atomics.store(header, LOADING_FILE, 0)
        for (const [name, task] of tasks) this.#entries.set(name, entryOf(task))
        this.#tell({ kind: 'loaded', catalog })
      },
      (error) => this.#fall('the lane failed', error),
    )
  }

  // Messages of main.

  #onMessage(message: ToThread): void {
    switch (message.kind) {
      case 'feed':
        for (const piece of unpackPieces(message)) {
          const entry = this.#entries.get(message.task) ?? null
          this.#waiting.push({ piece, entry, next: 0, payloads: null, metas: null })
        }
        this.#enter()
        return
      case 'revoke':
        // Every job that waits here was fed before the revoke, and none of them was taken: main lowered the limit
        // first, and port messages keep their order.
        this.#waiting.length = 0
        this.#waitingHead = 0
        this.#abortedEarly.clear()
        this.#tell({ kind: 'dropped' })
        return
      case 'abort':
        this.#abort(message.slot, message.generation, message.reason)
        return
      case 'end':
        this.#stopTaking({ kind: 'ended' })
        return
    }
  }

  #abort(slot: number, generation: number, reason: AbortReason): void {
    const run = this.#running.get(slot) ?? (this.#exclusive?.slot === slot ? this.#exclusive : undefined)
    if (run !== undefined && run.generation === generation) {
      // In the job's own context: what its listeners throw or leave unhandled belongs to it.
      this.#owner.run(run, () => run.abort(reason))
      return
    }
    for (let at = this.#waitingHead; at < this.#waiting.length; at++) {
      const { piece, next } = this.#waiting[at]!
      const index = piece.slots.indexOf(slot, next)
      if (index >= 0 && piece.generations[index] === generation) this.#abortedEarly.set(slot, { generation, reason })
    }
  }

  // The pump: takes and starts jobs while it may.

  /** Enters the pump from the event loop: a new slice of time begins. */
  #enter(): void {
    if (this.#isPumping || this.#isYielding) return
    this.#sliceFromMs = systemClock.steadyMs()
    this.#checkHeap(this.#sliceFromMs)
    this.#pump()
  }

  #pump(): void {
    if (this.#isPumping || this.#isYielding) return
    this.#isPumping = true
    try {
      while (this.#step());
    } catch (error) {
      this.#fall('the lane failed', error)
    } finally {
      this.#isPumping = false
    }
    if (this.#unannouncedFromMs !== 0 && !this.#isBellDue) {
      this.#isBellDue = true
      setImmediate(() => {
        this.#isBellDue = false
        if (this.#unannouncedFromMs !== 0) this.#ringBell()
      })
    }
  }

  /** Starts the next job, if there is one that may start now. */
  #step(): boolean {
    const waiting = this.#waiting[this.#waitingHead]
    if (waiting === undefined || this.#last !== null || this.#exclusive !== null) return false
    const { entry } = waiting
    if (entry !== null) {
      if (entry.concurrency === 1 ? this.#running.size > 0 : entry.running >= entry.concurrency) return false
    }
    if (this.#sliceIsOver()) return false
    if (!takeOne(this.#memory.header)) return false
    const index = waiting.next++
    waiting.payloads ??= waiting.piece.payloads.split(PAYLOAD_SEPARATOR)
    if (waiting.piece.metas !== null) waiting.metas ??= waiting.piece.metas.split(PAYLOAD_SEPARATOR)
    if (waiting.next === waiting.piece.slots.length) this.#nextPiece()
    if (entry !== null && entry.lastRanMs > BELL_AFTER_MS && this.#unannouncedFromMs !== 0) this.#ringBell()
    this.#start(new JobRun(waiting.piece, index, waiting.metas?.[index] ?? ''), entry, waiting.payloads[index] ?? '')
    return true
  }

  /** True when the event loop is due; the pump then goes on by itself. */
  #sliceIsOver(): boolean {
    if (this.#nowMs - this.#sliceFromMs < SLICE_MS) return false
    this.#isYielding = true
    setImmediate(() => {
      this.#isYielding = false
      this.#enter()
    })
    return true
  }

  #nextPiece(): void {
    this.#waitingHead++
    if (this.#waitingHead === this.#waiting.length) {
      this.#waiting.length = 0
      this.#waitingHead = 0
    } else if (this.#waitingHead >= 64) {
      this.#waiting.splice(0, this.#waitingHead)
      this.#waitingHead = 0
    }
  }

  // One job.

  #start(run: JobRun, entry: Entry | null, payloadText: string): void {
    const now = systemClock.steadyMs()
    run.startedSteadyMs = now
    run.startedAtMs = systemClock.wallMs()
    this.#reports.started(run.slot, run.generation, run.startedAtMs)
    if (entry === null) {
      const name = JSON.stringify(run.piece.task)
      this.#fail(run, entry, plainError('TASK_NOT_REGISTERED', `no task file exports the task ${name}`))
      return
    }
    if (this.#abortedEarly.size > 0) {
      const early = this.#abortedEarly.get(run.slot)
      if (early?.generation === run.generation) {
        this.#abortedEarly.delete(run.slot)
        this.#fail(run, entry, abortError(early.reason))
        return
      }
    }
    let returned: unknown
    try {
      const payload = parsePayload(payloadText)
      run.context = new JobContext(this, run)
      this.#enlist(run, entry)
      returned = this.#owner.run(run, entry.run, payload, run.context)
      if (isThenable(returned)) {
        // Not awaited: a handler that ends synchronously must not cost a turn of the microtask queue.
        Promise.resolve(returned).then(
          (value) => this.#settle(run, entry, value),
          (error) => {
            this.#fail(run, entry, error)
            this.#pump()
          },
        )
        return
      }
    } catch (error) {
      this.#fail(run, entry, error)
      return
    }
    this.#complete(run, entry, returned)
  }

  #enlist(run: JobRun, entry: Entry): void {
    if (entry.concurrency === 1) this.#exclusive = run
    else {
      entry.running++
      this.#running.set(run.slot, run)
    }
  }

  #settle(run: JobRun, entry: Entry, value: unknown): void {
    this.#complete(run, entry, value)
    this.#pump()
  }

  #complete(run: JobRun, entry: Entry, value: unknown): void {
    if (run.isReported) return
    let text: string
    try {
      text = run.mayBeCompleted ? '' : resultText(value, this.#args.resultBytesMax)
    } catch (error) {
      this.#fail(run, entry, error)
      return
    }
    const ranMs = this.#finish(run, entry)
    this.#reports.completed(run.slot, run.generation, run.startedAtMs, ranMs, text)
    this.#announce(run)
  }

  #fail(run: JobRun, entry: Entry | null, thrown: unknown, forced?: ErrorCode): void {
    if (run.isReported) return
    const error = errorText(thrown, forced ?? 'TASK_THREW', forced !== undefined)
    const decidedMs = error.retryable ? this.#decide(run, entry, thrown) : null
    if (run.isReported) return // the function that was asked let an error escape
    const ranMs = this.#finish(run, entry)
    this.#reports.failed(run.slot, run.generation, run.startedAtMs, ranMs, error.retryable, error.text, decidedMs)
    this.#announce(run)
  }

  #decide(run: JobRun, entry: Entry | null, thrown: unknown): number | null {
    const { attempt, maxAttempts } = run.piece
    const decision = entry?.decision ?? null
    if (decision === null || attempt >= maxAttempts) return null
    const { delayMs, complaint } = this.#owner.run(run, decide, decision, attempt, thrown)
    if (complaint !== null) this.log(run, 'warn', { complaint }, ['retry.undecided'])
    return delayMs
  }

  /** Takes a job off the books; returns how long it ran. */
  #finish(run: JobRun, entry: Entry | null): number {
    run.isReported = true
    this.#nowMs = systemClock.steadyMs()
    const ranMs = this.#nowMs - run.startedSteadyMs
    if (run.progressText !== null) this.#writeProgress(run)
    if (this.#logDropped > 0) this.#sayDropped(run)
    if (this.#exclusive === run) this.#exclusive = null
    else if (this.#running.get(run.slot) === run) {
      this.#running.delete(run.slot)
      if (entry !== null) entry.running--
    }
    if (entry !== null) entry.lastRanMs = ranMs
    this.#finished++
    if (this.#args.recycleAfterJobs > 0 && this.#finished >= this.#args.recycleAfterJobs)
      this.#retire(`it ran ${this.#finished} jobs`)
    return ranMs
  }

  /** Decides whether to wake main for a report that was just written. */
  #announce(run: JobRun): void {
    if (this.#last !== null) this.#sayLast()
    if (Atomics.load(this.#page, ASLEEP) === 0) {
      this.#unannouncedFromMs = 0 // main looks at the ring again before it sleeps
      return
    }
    if (this.#unannouncedFromMs === 0) this.#unannouncedFromMs = run.startedSteadyMs
    const waitedLong = this.#nowMs - this.#unannouncedFromMs > BELL_AFTER_MS
    if (waitedLong || this.#waiting.length === 0 || this.#ring.usedBytes() > this.#memory.ringBytes / 2)
      this.#ringBell()
  }

  #ringBell(): void {
    this.#unannouncedFromMs = 0
    if (Atomics.load(this.#page, ASLEEP) === 1 && Atomics.compareExchange(this.#page, ASLEEP, 1, 0) === 1)
      Atomics.notify(this.#page, ASLEEP)
  }

  // What a context may ask of its thread.

  lookUp(): void {
    const now = systemClock.steadyMs()
    if (now - this.#lookedUpMs < LOOK_UP_MS) return
    this.#lookedUpMs = now
    for (;;) {
      const received = receiveMessageOnPort(this.#control) as { message: ToThread } | undefined
      if (received === undefined) return
      this.#onMessage(received.message)
    }
  }

  heartbeat(run: JobRun): void {
    this.lookUp()
    const now = systemClock.steadyMs()
    if (run.isReported || now - run.lastBeatSteadyMs < HEARTBEAT_EVERY_MS) return
    if (this.#reports.tryHeartbeat(run.slot, run.generation, systemClock.wallMs())) run.lastBeatSteadyMs = now
  }

  progress(run: JobRun, value: Json): void {
    this.lookUp()
    const text = progressText(value)
    if (run.isReported || text === '') return
    run.progressText = text
    if (systemClock.steadyMs() - run.lastProgressSteadyMs >= PROGRESS_EVERY_MS) this.#writeProgress(run)
    else this.#progressTimer ??= setTimeout(() => this.#flushProgress(), PROGRESS_EVERY_MS)
  }

  complete(run: JobRun, client: ForeignClient, result: unknown): Promise<void> {
    return completeWithin(run, client, result, this.#completion)
  }

  #writeProgress(run: JobRun): void {
    if (run.progressText === null) return
    run.lastProgressSteadyMs = systemClock.steadyMs()
    if (this.#reports.tryProgress(run.slot, run.generation, run.progressText)) run.progressText = null
  }

  #flushProgress(): void {
    this.#progressTimer = null
    if (this.#exclusive !== null) this.#writeProgress(this.#exclusive)
    for (const run of this.#running.values()) this.#writeProgress(run)
  }

  log(run: JobRun, level: LogLevel, bindings: Facts, args: readonly unknown[]): void {
    const now = systemClock.steadyMs()
    if (now - this.#logWindowMs >= 1_000) {
      this.#logWindowMs = now
      this.#logLines = 0
      if (this.#logDropped > 0) this.#sayDropped(run)
    }
    if (this.#logLines >= LOG_LINES_MAX) {
      this.#logDropped++
      return
    }
    this.#logLines++
    if (!this.#reports.tryLog(run.slot, run.generation, lineText(level, bindings, args))) this.#logDropped++
  }

  #sayDropped(run: JobRun): void {
    const lines = this.#logDropped
    this.#logDropped = 0
    if (!this.#reports.tryLog(run.slot, run.generation, lineText('warn', { lines }, ['log.dropped'])))
      this.#logDropped = lines
  }

  // Ends.

  #retire(why: string): void {
    if (this.#isRetiring) return
    this.#isRetiring = true
    this.#tell({ kind: 'retire', why })
  }

  /** Twice in a row, because what one look sees may be garbage that the next collection frees. */
  #checkHeap(now: number): void {
    if (now - this.#heapCheckedMs < HEAP_CHECK_EVERY_MS) return
    this.#heapCheckedMs = now
    const limitMb = resourceLimits.maxOldGenerationSizeMb ?? 0
    if (limitMb <= 0) return
    const usedMb = oldHeapBytes() / 2 ** 20
    if (usedMb < limitMb * HEAP_SHARE_MAX) this.#heapWasHigh = false
    else if (!this.#heapWasHigh) this.#heapWasHigh = true
    else this.#retire(`its heap holds ${Math.round(usedMb)} of ${limitMb} MiB`)
  }

  #onEscaped(code: ErrorCode, reason: unknown): void {
    const run = this.#owner.getStore()
    if (run === undefined) {
      const now = systemClock.steadyMs()
      if (now - this.#strayMs < 1_000) return
      this.#strayMs = now
      this.#tell({ kind: 'stray', error: errorFacts(reason) })
      return
    }
    this.#fail(run, this.#entries.get(run.piece.task) ?? null, reason, code)
    const what = code === 'UNHANDLED_REJECTION' ? 'a rejection' : 'an exception'
    this.#fall(`${what} that nobody handled escaped from job ${run.piece.firstId + run.index}`, reason)
  }

  /** The thread is to be replaced, because of this error. */
  #fall(what: string, thrown: unknown): void {
    const error = errorFacts(thrown)
    const message = `${what}: ${error.type}: ${error.message}`.slice(0, FALL_CHARS_MAX)
    this.#stopTaking({ kind: 'failed', code: 'THREAD_EXITED', message, error })
  }

  /** Takes no more jobs; tells main why as soon as nothing runs. */
  #stopTaking(why: ToMain): void {
    if (this.#last?.kind !== 'failed') this.#last = why
    this.#sayLast()
  }

  #sayLast(): void {
    if (this.#lastSaid || this.#last === null || this.#exclusive !== null || this.#running.size > 0) return
    this.#lastSaid = true
    if (this.#progressTimer !== null) clearTimeout(this.#progressTimer)
    this.#tell(this.#last)
    if (this.#last.kind === 'ended') this.#onEnd()
  }

  #tell(message: ToMain): void {
    this.#control.postMessage(message)
  }
}

function entryOf(task: TaskDefinition): Entry {
  const { concurrency = 1, retry } = task
  const decision = typeof retry === 'function' ? retry : null
  return { run: (payload, ctx) => task.run(payload, ctx), concurrency, decision, running: 0, lastRanMs: 0 }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return (
    (typeof value === 'object' || typeof value === 'function') &&
    value !== null &&
    typeof (value as { then?: unknown }).then === 'function'
  )
}

/** Bytes in the spaces that maxOldGenerationSizeMb limits. */
function oldHeapBytes(): number {
  let bytes = 0
  for (const { space_name, space_used_size } of getHeapSpaceStatistics())
    if (!space_name.startsWith('new_')) bytes += space_used_size
  return bytes
}
