// Jobs of inline tasks: handlers that run on the main thread, for tests and tiny work. An inline lane stands beside
// each lane of the pool and takes what is fed to it of such tasks; to whoever feeds and drains, both are one lane.
//
// It keeps the order and the overlap that a thread would: an exclusive job runs alone among the inline jobs of its
// lane, shared ones up to their concurrency. What it cannot do is what threads are for: end a handler, survive one that
// blocks or exits, or know whose promise was left behind.

import type { Clock } from '../engine/base/clock.ts'
import type { ForeignClient } from '../engine/base/foreign-client.ts'
import { PAYLOAD_SEPARATOR } from '../engine/base/limits.ts'
import type { Json, TaskDefinition } from '../engine/base/task.ts'
import { type CompletionNeeds, completeWithin } from './completion.ts'
import { abortError, type ContextHost, JobContext, JobRun } from './context.ts'
import type { AbortReason, FeedPiece, ReportSink } from './lanes.ts'
import { type Facts, type LogLevel, lineText } from './log-line.ts'
import { decide, errorText, parsePayload, progressText, resultText } from './outcome.ts'

/** Consecutive jobs run this long before the main thread gets to its other work. */
const SLICE_MS = 2
const BEAT_EVERY_MS = 50
/** Reports that wait for a drain; beyond, only outcomes are kept. A bound on handlers that talk in a loop. */
const SAYINGS_MAX = 1_000

const NOTHING = new Uint8Array(0)

interface Waiting {
  readonly task: TaskDefinition
  readonly piece: FeedPiece
  readonly payloads: string[]
  readonly metas: string[] | null
  next: number
}

type Report = (sink: ReportSink) => void

export class InlineLane implements ContextHost {
  readonly #number: number
  readonly #tasks: ReadonlyMap<string, TaskDefinition>
  readonly #resultBytesMax: number
  readonly #ownCompletion: CompletionNeeds
  readonly #clock: Clock
  readonly #onReport: () => void
  #waiting: Waiting[] = []
  readonly #running = new Map<number, { run: JobRun; task: TaskDefinition }>()
  /** Aborts of jobs that wait, by slot. */
  readonly #abortedEarly = new Map<number, AbortReason>()
  #reports: Report[] = []
  /** Reports that are outcomes and not drained: their jobs are still outstanding. */
  #undrained = 0
  /** Begun, and never to be reported. */
  #forgotten = 0
  #sayings = 0
  #isFrozen = false
  #isDue = false

  constructor(
    number: number,
    tasks: ReadonlyMap<string, TaskDefinition>,
    options: { readonly resultBytesMax: number; readonly completeSql: string },
    clock: Clock,
    onReport: () => void,
  ) {
    this.#number = number
    this.#tasks = tasks
    this.#resultBytesMax = options.resultBytesMax
    this.#ownCompletion = {
      lane: number,
      sql: options.completeSql,
      resultBytesMax: options.resultBytesMax,
      steadyMs: () => this.#clock.steadyMs(),
      announce: ({ slot, generation }) => this.#reports.push((sink) => sink.completing(number, slot, generation)),
    }
    this.#clock = clock
    this.#onReport = onReport
  }

  runs(task: string): boolean {
    return this.#tasks.has(task)
  }

  get outstanding(): number {
    return this.taken + this.#waiting.reduce((sum, { piece, next }) => sum + piece.slots.length - next, 0)
  }

  get taken(): number {
    return this.#running.size + this.#undrained + this.#forgotten
  }

  get isRunning(): boolean {
    return this.#running.size > 0
  }

  hasReports(): boolean {
    return this.#reports.length > 0
  }

  feed(piece: FeedPiece): void {
    this.#waiting.push({
      task: this.#tasks.get(piece.task)!,
      piece,
      payloads: piece.payloads.split(PAYLOAD_SEPARATOR),
      metas: piece.metas?.split(PAYLOAD_SEPARATOR) ?? null,
      next: 0,
    })
    this.#schedule()
  }

  /** Slots of what was not begun, in feed order; they are not this lane's any more. */
  takeBack(): number[] {
    const slots = this.#waiting.flatMap(({ piece, next }) => [...piece.slots.subarray(next)])
    this.#waiting = []
    this.#abortedEarly.clear()
    return slots
  }

  abort(slot: number, generation: number, reason: AbortReason): void {
    const running = this.#running.get(slot)
    if (running?.run.generation === generation) running.run.abort(reason)
    for (const { piece, next } of this.#waiting)
      if (piece.generations[piece.slots.indexOf(slot, next)] === generation) this.#abortedEarly.set(slot, reason)
  }

  /** Begins nothing more; what runs may end. */
  freeze(): void {
    this.#isFrozen = true
  }

  /** Whatever runs is not reported any more. It cannot be ended. */
  forget(): void {
    for (const { run } of this.#running.values()) run.isReported = true
    this.#forgotten += this.#running.size
    this.#running.clear()
  }

  /** Whoever hears of the loss knows what was forgotten; the lane may be fed again. */
  thaw(): void {
    this.#forgotten = 0
    this.#isFrozen = false
  }

  /** At most `limit` reports, in the order in which they were made. */
  drain(sink: ReportSink, limit: number): number {
    const count = Math.min(limit, this.#reports.length)
    for (const report of this.#reports.splice(0, count)) report(sink)
    return count
  }

  // The pump, from the event loop only: a feed never runs a handler within itself.

  #schedule(): void {
    if (this.#isDue || this.#isFrozen || this.#waiting.length === 0) return
    this.#isDue = true
    setImmediate(() => {
      this.#isDue = false
      this.#pump()
    })
  }

  #pump(): void {
    const end = this.#clock.steadyMs() + SLICE_MS
    while (!this.#isFrozen) {
      const waiting = this.#waiting[0]
      if (waiting === undefined || !this.#mayStart(waiting.task)) return
      if (this.#clock.steadyMs() >= end) {
        this.#schedule()
        return
      }
      const index = waiting.next++
      if (waiting.next === waiting.piece.slots.length) this.#waiting.shift()
      const run = new JobRun(waiting.piece, index, waiting.metas?.[index] ?? '')
      this.#start(run, waiting.task, waiting.payloads[index] ?? '')
    }
  }

  /** The one that ends calls the pump again. */
  #mayStart(task: TaskDefinition): boolean {
    if (this.#running.size === 0) return true
    const concurrency = task.concurrency ?? 1
    let same = 0
    for (const { task: other } of this.#running.values()) {
      if ((other.concurrency ?? 1) === 1) return false
      if (other === task) same++
    }
    return concurrency > 1 && same < concurrency
  }

  #start(run: JobRun, task: TaskDefinition, payloadText: string): void {
    run.startedSteadyMs = this.#clock.steadyMs()
    run.startedAtMs = this.#clock.wallMs()
    this.#running.set(run.slot, { run, task })
    this.#reports.push((sink) => sink.started(this.#number, run.slot, run.generation, run.startedAtMs))
    const early = this.#abortedEarly.get(run.slot)
    this.#abortedEarly.delete(run.slot)
    const settle = async () => {
      if (early !== undefined) throw abortError(early)
      return task.run(parsePayload(payloadText), this.#contextOf(run))
    }
    settle().then(
      (value) => this.#end(run, () => this.#completion(run, value)),
      (error) => this.#end(run, () => this.#failure(run, error, task)),
    )
  }

  #contextOf(run: JobRun): JobContext {
    run.context = new JobContext(this, run)
    return run.context
  }

  #end(run: JobRun, report: () => Report): void {
    if (run.isReported) return
    run.isReported = true
    this.#running.delete(run.slot)
    this.#undrained++
    const told = report()
    this.#reports.push((sink) => {
      this.#undrained--
      told(sink)
    })
    this.#onReport()
    this.#schedule()
  }

  #completion(run: JobRun, value: unknown): Report {
    let bytes: Uint8Array
    try {
      bytes = run.mayBeCompleted ? NOTHING : Buffer.from(resultText(value, this.#resultBytesMax))
    } catch (error) {
      return this.#failure(run, error)
    }
    const ranMs = this.#clock.steadyMs() - run.startedSteadyMs
    return (sink) =>
      sink.completed(this.#number, run.slot, run.generation, run.startedAtMs, ranMs, bytes, 0, bytes.length)
  }

  #failure(run: JobRun, thrown: unknown, task?: TaskDefinition): Report {
    const { text, retryable } = errorText(thrown)
    const decidedMs = retryable ? this.#decide(run, thrown, task) : null
    const bytes = Buffer.from(text)
    const ranMs = this.#clock.steadyMs() - run.startedSteadyMs
    return (sink) =>
      sink.failed(
        this.#number,
        run.slot,
        run.generation,
        run.startedAtMs,
        ranMs,
        retryable,
        bytes,
        0,
        bytes.length,
        decidedMs,
      )
  }

  #decide(run: JobRun, thrown: unknown, task?: TaskDefinition): number | null {
    const { attempt, maxAttempts } = run.piece
    if (typeof task?.retry !== 'function' || attempt >= maxAttempts) return null
    const { delayMs, complaint } = decide(task.retry, attempt, thrown)
    // the run has ended, but main reads this before it reads how
    if (complaint !== null) this.#reports.push(this.#line(run, 'warn', { complaint }, ['retry.undecided']))
    return delayMs
  }

  // What a context may ask for.

  lookUp(): void {}

  heartbeat(run: JobRun): void {
    const now = this.#clock.steadyMs()
    if (now - run.lastBeatSteadyMs < BEAT_EVERY_MS) return
    run.lastBeatSteadyMs = now
    const atMs = this.#clock.wallMs()
    this.#say(run, (sink) => sink.heartbeat(this.#number, run.slot, run.generation, atMs))
  }

  progress(run: JobRun, value: Json): void {
    const text = progressText(value)
    const isWaiting = run.progressText !== null
    run.progressText = text
    if (isWaiting) return // the report that waits tells the newer value
    const isSaid = this.#say(run, (sink) => {
      const bytes = run.progressText === null ? NOTHING : Buffer.from(run.progressText)
      run.progressText = null
      sink.progress(this.#number, run.slot, run.generation, bytes, 0, bytes.length)
    })
    if (!isSaid) run.progressText = null
  }

  complete(run: JobRun, client: ForeignClient, result: unknown): Promise<void> {
    return completeWithin(run, client, result, this.#ownCompletion)
  }

  log(run: JobRun, level: LogLevel, bindings: Facts, args: readonly unknown[]): void {
    this.#say(run, this.#line(run, level, bindings, args))
  }

  #line(run: JobRun, level: LogLevel, bindings: Facts, args: readonly unknown[]): Report {
    const bytes = Buffer.from(lineText(level, bindings, args))
    return (sink) => sink.log(this.#number, run.slot, run.generation, bytes, 0, bytes.length)
  }

  #say(run: JobRun, report: Report): boolean {
    if (run.isReported || this.#sayings >= SAYINGS_MAX) return false
    this.#sayings++
    this.#reports.push((sink) => {
      this.#sayings--
      report(sink)
    })
    return true
  }
}
