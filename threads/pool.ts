// The pool of threads: N lanes, each one long-lived task of piscina. Piscina makes, ends and replaces the threads;
// jobs do not go through its queue, because one `run()` per job reached 11,000 to 42,000 jobs/s here, and a lane that
// is fed pieces and reports into a ring over 500,000 (2026-11, two cores).
//
// It promises: every job that was fed is reported once, or given back once, or named lost once; a thread that dies
// takes only what it had taken; one that is not wanted any more ends when what it had taken has; a file that ends, stops or breaks a thread while it is imported is named in the catalog
// and skipped from then on; threads that keep dying without finishing a job are started more and more slowly, and then
// not at all. It never runs a handler, parses a payload, or decides about retries.

import type { Worker } from 'node:worker_threads'
import { Piscina } from 'piscina'
import type { Clock, Timer } from '../engine/base/clock.ts'
import { EngineError, type ErrorCode, invariant, messageOf } from '../engine/base/errors.ts'
import type { Deadline } from '../engine/base/lifecycle.ts'
import { asErrorFact, type Log } from '../engine/base/log.ts'
import type { TaskDefinition } from '../engine/base/task.ts'
import { InlineLane } from './inline-lane.ts'
import { type Cause, Lane } from './lane.ts'
import type { AbortReason, Catalog, FeedPiece, LaneLost, Lanes, ReportSink, TaskInfo } from './lanes.ts'
import { ASLEEP, CONTROL_BYTES, LOAD_STEP, LOADING_FILE, RING_BYTES_DEFAULT, THREAD_ID } from './layout.ts'
import { describeTask } from './load.ts'
import { errorFacts } from './log-line.ts'
import type { LaneArgs, ToMain } from './messages.ts'

export interface ThreadPoolOptions {
  /** Threads, from 1, until resize() says otherwise. */
  threads: number
  /** URLs (file://...) of the files that export tasks. */
  modules: readonly string[]
  /** Tasks whose handlers run on the main thread; they go before tasks of the same name in files. Default: none. */
  inline?: readonly TaskDefinition<string, never, unknown>[]
  /** Bytes of one lane's ring, a power of two. Default 1 MiB. */
  ringBytes?: number
  /** Limit of a thread's old heap in MiB. Default: Node's own. */
  threadHeapMb?: number
  /** Bytes of one result as JSON. */
  resultBytesMax: number
  /** The statement of ctx.complete. Default: none, and PostgreSQL refuses it. */
  completeSql?: string
  /** A file may be imported this long; it is noticed between one and two of these. */
  loadTimeoutMs: number
  /** A thread is replaced after it ran so many jobs. Default 0: never. */
  recycleAfterJobs?: number
  clock: Clock
  log: Log
  /** Reports wait, and main was asleep. */
  onDoorbell: () => void
  /** A thread is gone, and everything that it had reported was drained. Called from within drain(). */
  onLost: (lost: LaneLost) => void
  /** The lane may be fed (again). */
  onOpen: (lane: number) => void
}

/** Stands for the file of a task that was handed over as a definition. */
const INLINE_FILE = 'inline'

/** Starts of one lane, in a row and without a finished job, after which it is given up. */
const FAILED_STARTS_MAX = 8
/** A thread that lived longer before it died idle did not fail to start. */
const SHORT_LIFE_MS = 60_000
/** What the end of the threads may take, also when the deadline has passed: JavaScript ends in a few. */
const END_MS_MIN = 1_000
/** How long the loss of a thread waits for inline jobs of its place. */
const INLINE_GRACE_MS = 5_000
const BACKOFF_FIRST_MS = 50
const BACKOFF_MAX_MS = 10_000

/** What a place keeps over the lives of its threads. */
interface Place {
  lane: Lane
  /** Runs what is fed to this place of inline tasks; to others both are one lane. */
  readonly inline: InlineLane
  failedStarts: number
  openedSteadyMs: number
  /** Ends the wait for a start that takes too long, or before the next start. */
  timer: Timer | null
  isGivenUp: boolean
  /** It is not wanted any more: what its thread has taken ends, and no other thread begins. */
  isLeaving: boolean
}

/** Node has it since 16; the types of TypeScript for ES2023 do not. */
type WaitAsync = (
  words: Int32Array,
  index: number,
  value: number,
) => { async: true; value: Promise<unknown> } | { async: false; value: string }
const waitAsync = (Atomics as typeof Atomics & { waitAsync: WaitAsync }).waitAsync

export class ThreadPool implements Lanes {
  readonly #options: ThreadPoolOptions
  readonly #page = new SharedArrayBuffer(CONTROL_BYTES)
  readonly #pageWords = new Int32Array(this.#page)
  readonly #places: Place[] = []
  /** Broken files by URL: what threads reported, and what they died of. */
  readonly #broken = new Map<string, string>()
  readonly #skip: number[] = []
  readonly #workers = new Set<Worker>()
  readonly #inline: ReadonlyMap<string, TaskDefinition>
  /** Threads that are wanted. */
  #wanted: number
  #piscina: Piscina | null = null
  #catalog: Catalog | null = null
  #phase: 'new' | 'starting' | 'up' | 'stopping' | 'stopped' = 'new'
  #started: { resolve: (catalog: Catalog) => void; reject: (error: Error) => void } | null = null
  /** Wakes stop() when something ended. */
  #onChange: (() => void) | null = null
  #isWaiting = false
  #drainFrom = 0

  constructor(options: ThreadPoolOptions) {
    this.#options = options
    this.#wanted = options.threads
    // A handler gets whatever JSON was enqueued for it: its own type of payload is its own business.
    this.#inline = new Map((options.inline ?? []).map((task) => [task.name, task as TaskDefinition]))
  }

  get count(): number {
    return this.#wanted
  }

  /** Threads that are up, also those that finish what they have before they end. */
  get threadsUp(): number {
    return this.#places.filter(({ lane }) => isLoaded(lane)).length
  }

  // Life.

  /**
   * Brings all threads up; resolves with what the task files hold.
   * @throws EngineError TASK_LOAD_FAILED when no thread could be brought up.
   */
  async start(): Promise<Catalog> {
    invariant(this.#phase === 'new', 'a pool is started once')
    this.#phase = 'starting'
    const { threadHeapMb } = this.#options
    const threads = this.#wanted
    const piscina = new Piscina({
      filename: new URL('./lane-entry.cjs', import.meta.url).href,
      minThreads: threads,
      maxThreads: threads,
      concurrentTasksPerWorker: 1,
      atomics: 'disabled', // a thread that waits in Atomics.wait for piscina would not see our messages
      recordTiming: false,
      ...(threadHeapMb === undefined ? {} : { resourceLimits: { maxOldGenerationSizeMb: threadHeapMb } }),
    })
    this.#piscina = piscina
    piscina.on('error', (error) => this.#options.log.warn({ error: messageOf(error) }, 'thread.failed'))
    piscina.on('workerCreate', () => this.#watchWorkers())
    const up = new Promise<Catalog>((resolve, reject) => {
      this.#started = { resolve, reject }
    })
    for (let number = 0; number < threads; number++) this.#addPlace()
    return up
  }

  /**
   * From now on so many threads are wanted, from 1. The first lanes stay: a lane that is wanted and not there begins, one
   * that is not wanted is closed at once and ends when it holds nothing. What it was fed and has not taken stays with it
   * until revoke(). Only a pool that is up changes.
   */
  resize(threads: number): void {
    if (this.#phase !== 'up' || threads === this.#wanted) return
    this.#wanted = threads
    for (const place of this.#places.slice(threads)) if (!place.isLeaving) this.#leave(place)
    this.#limitThreads()
    for (const place of this.#places.slice(0, threads)) if (place.isLeaving) this.#stay(place)
    while (this.#places.length < threads) this.#addPlace()
    this.#forgetPlaces()
  }

  /** Nothing to do: a pool takes only what it is fed. */
  quiet(): void {}

  /**
   * Lets running jobs finish until the deadline, then ends the threads. What they reported stays to be drained, and so
   * does the loss of lanes that still held jobs (code STOPPING).
   */
  async stop(deadline: Deadline): Promise<void> {
    if (this.#phase === 'stopped' || this.#phase === 'stopping') return
    const piscina = this.#piscina
    this.#phase = 'stopping'
    this.#started?.reject(new EngineError('STOPPING', 'the pool was stopped before it was up'))
    this.#started = null
    if (piscina !== null) {
      piscina.options.minThreads = 0 // a thread that ends from here on, however late, is not replaced
      for (const place of this.#places) {
        place.timer?.cancel()
        place.timer = null
        place.inline.freeze()
        if (isLoaded(place.lane)) place.lane.send({ kind: 'end' })
      }
      const isQuiet = ({ lane, inline }: Place) => (!isLoaded(lane) || lane.isEnded) && !inline.isRunning
      await this.#until(deadline, () => this.#places.every(isQuiet))
      for (const { lane, inline } of this.#places) {
        inline.forget()
        if (lane.phase === 'starting') this.#endStarting(lane)
        else if (isLoaded(lane)) this.#kill(lane, { code: 'STOPPING', message: 'the engine stopped' }, lane.isEnded)
      }
      await this.#endThreads(piscina, deadline)
      for (const place of this.#places) {
        if (canSettle(place) && outstandingOf(place) === 0 && !hasReports(place)) this.#settle(place)
      }
    }
    this.#phase = 'stopped'
    Atomics.store(this.#pageWords, ASLEEP, 0)
    Atomics.notify(this.#pageWords, ASLEEP) // lets go of the waiter of armDoorbell
  }

  // Lanes.

  isOpen(lane: number): boolean {
    return this.#places[lane]?.lane.phase === 'open'
  }

  feed(number: number, pieces: readonly FeedPiece[]): void {
    const { lane, inline } = this.#at(number)
    if (inline.runs(pieces[0]!.task) && lane.phase === 'open') for (const piece of pieces) inline.feed(piece)
    else lane.feed(pieces)
  }

  outstanding(lane: number): number {
    return outstandingOf(this.#at(lane))
  }

  taken(lane: number): number {
    const place = this.#at(lane)
    return place.lane.taken + place.inline.taken
  }

  revoke(number: number): number[] {
    const place = this.#at(number)
    const { lane, inline } = place
    if (!isLoaded(lane)) return []
    const slots = lane.takeBack()
    if (slots.length > 0) {
      if (lane.phase === 'open') lane.phase = 'revoked'
      lane.isDropDue = true
      lane.send({ kind: 'revoke' })
    }
    if (inline.outstanding > 0) slots.push(...inline.takeBack())
    if (lane.phase === 'retiring' && outstandingOf(place) === 0) this.#replace(place)
    return slots
  }

  abort(number: number, slot: number, generation: number, reason: AbortReason): void {
    const { lane, inline } = this.#at(number)
    if (this.#inline.size > 0) inline.abort(slot, generation, reason)
    if (isLoaded(lane)) lane.abort(slot, generation, reason)
  }

  kill(number: number, code: ErrorCode, message: string): void {
    const { lane } = this.#at(number)
    if (isLoaded(lane)) this.#kill(lane, { code, message })
  }

  hasReports(): boolean {
    for (const place of this.#places) if (canSettle(place) || hasReports(place)) return true
    return false
  }

  drain(sink: ReportSink, limit: number): number {
    Atomics.store(this.#pageWords, ASLEEP, 0) // main is awake: no thread needs to ring
    let handled = 0
    const count = this.#places.length
    for (let turn = 0; turn < count && handled < limit; turn++) {
      const place = this.#places[(this.#drainFrom + turn) % count]!
      const { lane, inline } = place
      if (inline.hasReports()) handled += inline.drain(sink, limit - handled)
      if (lane.phase === 'gone') continue
      handled += lane.drain(sink, limit - handled)
      if (lane.finished > 0) place.failedStarts = 0
      if (canSettle(place) && !hasReports(place)) this.#settle(place)
      else if (lane.phase === 'retiring' && outstandingOf(place) === 0) this.#replace(place)
    }
    if (count > 0) this.#drainFrom = (this.#drainFrom + 1) % count // so that a limit favours no lane
    if (count > this.#wanted && this.#phase === 'up') this.#forgetPlaces()
    return handled
  }

  // The bell.

  /**
   * Main is about to sleep. False: reports wait, drain them instead. True: onDoorbell will be called when some arrive.
   * Any drain() disarms the bell.
   */
  armDoorbell(): boolean {
    Atomics.store(this.#pageWords, ASLEEP, 1) // before the look: a thread publishes, then looks here
    if (this.hasReports()) {
      Atomics.store(this.#pageWords, ASLEEP, 0)
      return false
    }
    if (this.#isWaiting) return true
    // Atomics.waitAsync woke main within 9 to 11 us, a message by port within 10 to 13 (medians, 2026-11); it also
    // makes no object per ring.
    const wait = waitAsync(this.#pageWords, ASLEEP, 1)
    if (!wait.async) return false // a thread rang between
    this.#isWaiting = true
    wait.value.then(() => {
      this.#isWaiting = false
      if (this.#phase !== 'stopped') this.#options.onDoorbell()
    })
    return true
  }

  // How many threads.

  #addPlace(): void {
    const number = this.#places.length
    const place: Place = {
      lane: this.#begin(number),
      inline: this.#inlineLane(number),
      failedStarts: 0,
      openedSteadyMs: 0,
      timer: null,
      isGivenUp: false,
      isLeaving: false,
    }
    this.#places.push(place)
    this.#watchLoading(place)
  }

  #leave(place: Place): void {
    const { lane } = place
    place.isLeaving = true
    if (lane.phase === 'starting') this.#endStarting(lane)
    if (lane.phase === 'gone') this.#restart(place, false)
    if (lane.phase !== 'open' && lane.phase !== 'revoked') return // it goes already, and nothing follows it
    lane.phase = 'retiring'
    if (outstandingOf(place) === 0 && !hasReports(place)) this.#replace(place)
  }

  /** It is wanted again: goes on with its thread when that has not been ended, begins another otherwise. */
  #stay(place: Place): void {
    const { lane } = place
    place.isLeaving = false
    place.failedStarts = 0
    place.isGivenUp = false
    if (lane.phase === 'gone') this.#restart(place, false)
    if (lane.phase !== 'retiring' || lane.isWorn) return
    lane.phase = lane.isDropDue ? 'revoked' : 'open'
    if (lane.phase === 'open') this.#options.onOpen(lane.number)
  }

  /** Piscina makes no thread in the place of one that leaves, and keeps those that have not left yet. */
  #limitThreads(): void {
    const { options } = this.#piscina!
    options.minThreads = this.#wanted
    options.maxThreads = Math.max(this.#wanted, this.#places.length)
  }

  /** Of places at the end that have left for good nothing is kept. */
  #forgetPlaces(): void {
    while (this.#places.length > this.#wanted && this.#places.at(-1)!.lane.phase === 'gone') this.#places.pop()
    this.#limitThreads()
  }

  // The life of one thread.

  #begin(number: number): Lane {
    const { modules, resultBytesMax, completeSql = '', recycleAfterJobs = 0 } = this.#options
    const { ringBytes = RING_BYTES_DEFAULT } = this.#options
    const lane: Lane = new Lane(
      number,
      ringBytes,
      (message) => this.#onMessage(lane, message),
      ({ control, bulk }) => {
        // Deferred by one microtask, so that `lane` is there when piscina answers.
        queueMicrotask(() => {
          const args: LaneArgs = {
            lane: number,
            shared: lane.memory.shared,
            page: this.#page,
            control,
            bulk,
            modules,
            skip: [...this.#skip],
            resultBytesMax,
            completeSql,
            recycleAfterJobs,
          }
          this.#piscina!.run(args, { transferList: [control, bulk], signal: lane.killer.signal }).catch((error) =>
            this.#onRunFailed(lane, error),
          )
        })
      },
    )
    return lane
  }

  #inlineLane(number: number): InlineLane {
    const { resultBytesMax, completeSql = '', clock } = this.#options
    return new InlineLane(number, this.#inline, { resultBytesMax, completeSql }, clock, () => {
      if (Atomics.compareExchange(this.#pageWords, ASLEEP, 1, 0) === 1) Atomics.notify(this.#pageWords, ASLEEP)
      this.#onChange?.()
    })
  }

  /** Looks after the import of each file: the same file at two looks in a row is stuck. */
  #watchLoading(place: Place): void {
    const { clock, loadTimeoutMs } = this.#options
    const { lane } = place
    const step = Atomics.load(lane.memory.header, LOAD_STEP)
    place.timer = clock.after(loadTimeoutMs, () => {
      if (lane.phase !== 'starting' || place.lane !== lane) return
      if (Atomics.load(lane.memory.header, LOAD_STEP) !== step) this.#watchLoading(place)
      else this.#onStartFailed(place, `it was not imported within ${loadTimeoutMs} ms`)
    })
  }

  #onMessage(lane: Lane, message: ToMain): void {
    const { log } = this.#options
    const place = this.#places[lane.number]!
    switch (message.kind) {
      case 'loaded':
        if (lane.phase === 'starting') this.#onLoaded(place, message.catalog)
        return
      case 'dropped':
        lane.isDropDue = false
        if (lane.phase !== 'revoked') return
        lane.phase = 'open'
        this.#options.onOpen(lane.number)
        return
      case 'retire':
        lane.isWorn = true
        if (lane.phase !== 'open' && lane.phase !== 'revoked') return
        log.info({ lane: lane.number, why: message.why }, 'thread.recycled')
        lane.phase = 'retiring'
        if (outstandingOf(place) === 0 && !hasReports(place)) this.#replace(place)
        return
      case 'failed':
        this.#onChange?.()
        if (isLoaded(lane)) this.#kill(lane, { code: message.code, message: message.message, error: message.error })
        return
      case 'stray':
        log.error({ lane: lane.number, err: asErrorFact(message.error) }, 'thread.stray_error')
        return
      case 'ended':
        lane.isEnded = true
        this.#onChange?.()
        return
    }
  }

  #onLoaded(place: Place, catalog: Catalog): void {
    const { lane } = place
    place.timer?.cancel()
    place.timer = null
    for (const { file, message } of catalog.broken) this.#break(file, message)
    this.#catalog ??= catalog
    this.#watchWorkers()
    const id = Atomics.load(lane.memory.header, THREAD_ID)
    for (const worker of this.#workers) {
      if (worker.threadId !== id) continue
      // 'error' comes first when there is one: out of memory, or a crash. What it says is the better cause.
      worker.once('error', (error) => {
        lane.cause ??= causeOf(error)
      })
      worker.once('exit', (exitCode) => this.#onExit(lane, exitCode))
    }
    lane.phase = 'open'
    place.openedSteadyMs = this.#options.clock.steadyMs()
    if (this.#phase === 'up') this.#options.onOpen(lane.number)
    this.#checkStarted()
  }

  /** start() resolves when every place is open or given up. */
  #checkStarted(): void {
    if (this.#phase !== 'starting' || this.#started === null) return
    if (!this.#places.every((place) => place.isGivenUp || place.lane.phase === 'open')) return
    const started = this.#started
    this.#started = null
    this.#phase = 'up'
    const broken = [...this.#broken].map(([file, message]) => ({ file, message }))
    if (this.#catalog === null)
      started.reject(new EngineError('TASK_LOAD_FAILED', 'no thread could be brought up', { broken }))
    else {
      const { tasks, doubles } = this.#catalog
      started.resolve({ tasks: this.#tasks(tasks), broken, doubles: [...doubles, ...this.#inlineDoubles(tasks)] })
    }
  }

  /** Tasks of files that have the name of an inline one. */
  #inlineDoubles(ofThreads: readonly TaskInfo[]): Catalog['doubles'] {
    return ofThreads
      .filter(({ name }) => this.#inline.has(name))
      .map(({ name, file }) => ({ task: name, places: ['a definition that was given with inline: true', file] }))
  }

  /** What can be run: inline tasks on main, all others in threads, also those of a file that says `inline`. */
  #tasks(ofThreads: readonly TaskInfo[]): TaskInfo[] {
    const inline = [...this.#inline.values()].map((task) => ({ ...describeTask(task, INLINE_FILE), inline: true }))
    const others = ofThreads.filter(({ name, file }) => !this.#inline.has(name) && !this.#isSkipped(file))
    return [...inline, ...others.map((task) => ({ ...task, inline: false }))]
  }

  /** piscina gave the lane's task up. A loaded lane learns of its end from its worker; others have only this. */
  #onRunFailed(lane: Lane, error: unknown): void {
    if (lane.phase !== 'starting' || this.#phase === 'stopping' || this.#phase === 'stopped') return
    this.#onStartFailed(this.#places[lane.number]!, messageOf(error))
  }

  /** A thread that never opened died, or hangs in an import. */
  #onStartFailed(place: Place, message: string): void {
    const { lane } = place
    const index = Atomics.load(lane.memory.header, LOADING_FILE) - 1
    const file = this.#options.modules[index]
    if (file !== undefined && !this.#skip.includes(index)) {
      this.#skip.push(index)
      this.#break(file, `its import ended the thread: ${message}`)
    }
    this.#endStarting(lane)
    // A start that failed because of a file that is skipped from now on is no reason to wait.
    this.#restart(place, file === undefined)
  }

  #endStarting(lane: Lane): void {
    lane.phase = 'gone'
    lane.closeControl()
    lane.closeBulk()
    lane.killer.abort()
  }

  #isSkipped(file: string): boolean {
    return this.#skip.includes(this.#options.modules.indexOf(file))
  }

  #break(file: string, message: string): void {
    if (this.#broken.has(file)) return
    this.#broken.set(file, message)
    this.#options.log.error({ file, error: message }, 'task_file.broken')
  }

  #kill(lane: Lane, cause: Cause, isClean = false): void {
    if (!isClean) lane.cause ??= cause
    lane.phase = 'dying'
    this.#places[lane.number]!.inline.freeze()
    lane.killer.abort()
  }

  /** The thread is gone for good: nothing more is written into its ring. */
  #onExit(lane: Lane, exitCode: number): void {
    if (lane.phase === 'gone') return
    lane.cause ??= { code: 'THREAD_EXITED', message: `the thread exited with code ${exitCode}` }
    lane.closeControl()
    lane.phase = 'dead'
    if (this.#phase !== 'up') return
    const place = this.#places[lane.number]!
    place.inline.freeze()
    if (place.inline.isRunning) {
      // Neighbours that run here have not died; they get their time, and are lost with the lane only after it.
      place.timer = this.#options.clock.after(INLINE_GRACE_MS, () => {
        place.inline.forget()
        this.#options.onDoorbell()
      })
    }
    this.#options.onDoorbell() // the next drain settles it
  }

  /** Everything that a dead thread had published was drained: what it leaves behind is known now. */
  #settle(place: Place): void {
    const { lane, inline } = place
    const notTaken = [...lane.takeBack(), ...inline.takeBack()]
    const wasIdle = outstandingOf(place) === 0 && notTaken.length === 0
    lane.forget()
    inline.thaw()
    lane.phase = 'gone'
    lane.closeBulk()
    const isOver = this.#phase === 'stopping' || this.#phase === 'stopped'
    const { code, message, error } = lane.cause!
    if (!isOver) {
      const err = error === undefined ? {} : { err: asErrorFact(error) }
      this.#options.log.warn({ lane: lane.number, code, reason: message, ...err }, 'thread.lost')
      const wasShort = this.#options.clock.steadyMs() - place.openedSteadyMs < SHORT_LIFE_MS
      this.#restart(place, wasShort && wasIdle && lane.finished === 0)
    }
    if (!isOver || !wasIdle) this.#options.onLost({ lane: lane.number, code, message, notTaken })
  }

  /** A retiring lane has run down: a fresh thread takes its place if it is wanted, and nobody lost anything. */
  #replace(place: Place): void {
    const { lane } = place
    lane.phase = 'gone'
    lane.closeControl()
    lane.closeBulk()
    lane.killer.abort()
    this.#restart(place, false)
  }

  #restart(place: Place, isFailure: boolean): void {
    const { clock, log } = this.#options
    const number = place.lane.number
    place.timer?.cancel()
    place.timer = null
    if (place.isLeaving) return
    if (isFailure) place.failedStarts++
    if (place.failedStarts >= FAILED_STARTS_MAX) {
      place.isGivenUp = true
      log.error({ lane: number, starts: place.failedStarts }, 'thread.given_up')
      this.#checkStarted()
      return
    }
    const begin = () => {
      place.lane = this.#begin(number)
      this.#watchLoading(place)
    }
    if (isFailure) {
      const backoffMs = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** (place.failedStarts - 1))
      // While start() is awaited nothing else may keep the process alive between two threads.
      place.timer = clock.after(backoffMs, begin, this.#phase === 'starting')
    } else begin()
  }

  // Threads of piscina.

  #watchWorkers(): void {
    for (const worker of this.#piscina?.threads ?? []) {
      if (this.#workers.has(worker)) continue
      this.#workers.add(worker)
      worker.once('exit', () => {
        this.#workers.delete(worker)
        this.#onChange?.()
      })
    }
  }

  async #endThreads(piscina: Piscina, deadline: Deadline): Promise<void> {
    // destroy() knows nothing of the threads that were ended before: they are waited for here.
    const isLeaving = () => [...this.#workers].some((worker) => !piscina.threads.includes(worker))
    await this.#until(deadline, () => !isLeaving())
    const late = new AbortController()
    const waited = this.#options.clock.sleep(Math.max(END_MS_MIN, deadline.leftMs()), late.signal)
    await Promise.race([piscina.destroy(), waited])
    late.abort()
  }

  /** Resolves when `isTrue`, or at the deadline. */
  #until(deadline: Deadline, isTrue: () => boolean): Promise<void> {
    if (isTrue()) return Promise.resolve()
    return new Promise((resolve) => {
      const finish = () => {
        timer.cancel()
        this.#onChange = null
        resolve()
      }
      const timer = this.#options.clock.after(deadline.leftMs(), finish, true)
      this.#onChange = () => {
        if (isTrue()) finish()
      }
    })
  }

  #at(lane: number): Place {
    const place = this.#places[lane]
    invariant(place !== undefined, 'a lane has a number below the count of lanes', { lane })
    return place
  }
}

/** The thread is gone, and nothing that was fed to its place runs on main either. */
function canSettle({ lane, inline }: Place): boolean {
  return lane.phase === 'dead' && !inline.isRunning
}

function hasReports({ lane, inline }: Place): boolean {
  return lane.hasReports() || inline.hasReports()
}

function outstandingOf({ lane, inline }: Place): number {
  return lane.outstanding + inline.outstanding
}

/** True while the lane's thread may run jobs and can be talked to. */
function isLoaded(lane: Lane): boolean {
  return lane.phase === 'open' || lane.phase === 'revoked' || lane.phase === 'retiring'
}

function causeOf(error: Error): Cause {
  const isMemory = (error as { code?: unknown }).code === 'ERR_WORKER_OUT_OF_MEMORY'
  return isMemory
    ? { code: 'THREAD_OUT_OF_MEMORY', message: 'the thread passed its heap limit' }
    : { code: 'THREAD_EXITED', message: `the thread crashed: ${messageOf(error)}`, error: errorFacts(error) }
}
