// A scheduler with everything around it made by hand: time that stands still, lanes whose threads the test plays, and
// outcomes that are written into a list.

import type { ErrorCode } from '../../engine/base/errors.ts'
import { PAYLOAD_SEPARATOR } from '../../engine/base/limits.ts'
import type { Log } from '../../engine/base/log.ts'
import type { Message } from '../../engine/scheduler/messages.ts'
import type { MarkedJob, Occurrences, RunUpdate, SchedulerNeeds } from '../../engine/scheduler/needs.ts'
import { Scheduler } from '../../engine/scheduler/scheduler.ts'
import type { Outcomes } from '../../engine/store/outcomes.ts'
import type { ClaimedChunk, DoubtItem } from '../../engine/store/types.ts'
import type { AbortReason, FeedPiece, LaneLost, Lanes, ReportSink, TaskInfo } from '../../threads/lanes.ts'
import { bound } from './bound.ts'
import { ManualClock } from './manual-clock.ts'

interface FedJob {
  readonly jobId: number
  readonly slot: number
  readonly generation: number
  readonly payload: string
  readonly piece: FeedPiece
}

type Report = (sink: ReportSink) => void

const encoder = new TextEncoder()

/** One lane: what it was fed and not begun, what it runs, what it has to say. */
class FakeLane {
  open = true
  readonly queue: FedJob[] = []
  readonly running: FedJob[] = []
  readonly reports: Report[] = []
  readonly aborted: { slot: number; reason: AbortReason }[] = []
  readonly pieces: FeedPiece[] = []
  /** Calls of feed: each is one message to a thread. */
  feeds = 0
  killed: { code: ErrorCode; message: string } | null = null
}

/** Lanes whose threads do nothing by themselves: the test takes, ends, fails and kills. */
export class FakeLanes implements Lanes {
  readonly lanes: FakeLane[]
  onLost: ((lost: LaneLost) => void) | null = null
  readonly #clock: ManualClock
  #wanted: number

  constructor(count: number, clock: ManualClock) {
    this.#wanted = count
    this.lanes = Array.from({ length: count }, () => new FakeLane())
    this.#clock = clock
  }

  get count(): number {
    return this.#wanted
  }

  /** Lanes from `count` on take nothing more; those below it are there. */
  resize(count: number): void {
    this.#wanted = count
    while (this.lanes.length < count) this.lanes.push(new FakeLane())
    for (const [index, lane] of this.lanes.entries()) lane.open = index < count
  }

  isOpen(lane: number): boolean {
    return this.lanes[lane]!.open
  }

  feed(lane: number, pieces: readonly FeedPiece[]): void {
    this.lanes[lane]!.feeds++
    for (const piece of pieces) this.#feed(lane, piece)
  }

  #feed(lane: number, piece: FeedPiece): void {
    const payloads = piece.payloads.split(PAYLOAD_SEPARATOR)
    if (payloads.length !== piece.slots.length)
      throw new Error(`${payloads.length} payloads, ${piece.slots.length} jobs`)
    this.lanes[lane]!.pieces.push(piece)
    for (let i = 0; i < piece.slots.length; i++)
      this.lanes[lane]!.queue.push({
        jobId: piece.firstId + i,
        slot: piece.slots[i]!,
        generation: piece.generations[i]!,
        payload: payloads[i]!,
        piece,
      })
  }

  outstanding(lane: number): number {
    return this.lanes[lane]!.queue.length + this.lanes[lane]!.running.length
  }

  taken(lane: number): number {
    return this.lanes[lane]!.running.length
  }

  revoke(lane: number): number[] {
    return this.lanes[lane]!.queue.splice(0).map((job) => job.slot)
  }

  abort(lane: number, slot: number, _generation: number, reason: AbortReason): void {
    this.lanes[lane]!.aborted.push({ slot, reason })
  }

  kill(lane: number, code: ErrorCode, message: string): void {
    this.lanes[lane]!.killed = { code, message }
    this.lanes[lane]!.open = false
  }

  drain(sink: ReportSink, limit: number): number {
    let handled = 0
    for (let index = 0; index < this.lanes.length; index++) {
      const lane = this.lanes[index]!
      for (const report of lane.reports.splice(0, limit - handled)) {
        report(sink)
        handled++
      }
      if (lane.killed !== null) {
        const { code, message } = lane.killed
        lane.killed = null
        this.die(index, code, message)
      }
    }
    return handled
  }

  hasReports(): boolean {
    return this.lanes.some((lane) => lane.reports.length > 0 || lane.killed !== null)
  }

  // What the test plays.

  /** The thread begins the next `count` jobs. */
  take(lane: number, count = 1): FedJob[] {
    const jobs = this.lanes[lane]!.queue.splice(0, count)
    for (const job of jobs) {
      this.lanes[lane]!.running.push(job)
      const atMs = this.#clock.wallMs()
      this.lanes[lane]!.reports.push((sink) => sink.started(lane, job.slot, job.generation, atMs))
    }
    return jobs
  }

  /** A job that runs ends well. */
  complete(lane: number, jobId: number, ranMs = 1, result = ''): void {
    const job = this.#leave(lane, jobId)
    const startedAtMs = this.#clock.wallMs() - ranMs
    const bytes = encoder.encode(result)
    this.lanes[lane]!.reports.push((sink) =>
      sink.completed(lane, job.slot, job.generation, startedAtMs, ranMs, bytes, 0, bytes.length),
    )
  }

  fail(lane: number, jobId: number, code = 'TASK_THREW', retryable = true, ranMs = 1): void {
    const job = this.#leave(lane, jobId)
    const startedAtMs = this.#clock.wallMs() - ranMs
    const bytes = encoder.encode(`##{"code":"${code}","type":"Error","message":"no"}`)
    this.lanes[lane]!.reports.push((sink) =>
      sink.failed(lane, job.slot, job.generation, startedAtMs, ranMs, retryable, bytes, 2, bytes.length, null),
    )
  }

  heartbeat(lane: number, jobId: number): void {
    const job = this.lanes[lane]!.running.find((running) => running.jobId === jobId)!
    const atMs = this.#clock.wallMs()
    this.lanes[lane]!.reports.push((sink) => sink.heartbeat(lane, job.slot, job.generation, atMs))
  }

  progress(lane: number, jobId: number, value: string): void {
    const job = this.lanes[lane]!.running.find((running) => running.jobId === jobId)!
    const bytes = encoder.encode(value)
    this.lanes[lane]!.reports.push((sink) => sink.progress(lane, job.slot, job.generation, bytes, 0, bytes.length))
  }

  /** The thread is gone with what it ran; a fresh one comes up. */
  die(lane: number, code: ErrorCode, message = 'gone'): void {
    const notTaken = this.revoke(lane)
    this.lanes[lane]!.running.length = 0
    this.lanes[lane]!.open = lane < this.#wanted
    this.onLost?.({ lane, code, message, notTaken })
  }

  /** Everything that lanes were fed runs and ends well. Returns the ids in the order of their ends. */
  runAll(ranMs = 1): number[] {
    const ended: number[] = []
    for (let lane = 0; lane < this.lanes.length; lane++) {
      for (const job of this.take(lane, this.lanes[lane]!.queue.length)) {
        this.complete(lane, job.jobId, ranMs)
        ended.push(job.jobId)
      }
    }
    return ended
  }

  runningIds(lane: number): number[] {
    return this.lanes[lane]!.running.map((job) => job.jobId)
  }

  queuedIds(lane: number): number[] {
    return this.lanes[lane]!.queue.map((job) => job.jobId)
  }

  #leave(lane: number, jobId: number): FedJob {
    const { running } = this.lanes[lane]!
    const at = running.findIndex((job) => job.jobId === jobId)
    if (at < 0) throw new Error(`job ${jobId} does not run on lane ${lane}`)
    return running.splice(at, 1)[0]!
  }
}

export type Written =
  | { kind: 'completed'; jobId: number; lane: number; startedAtMs: number; finishedAtMs: number; result: string }
  | { kind: 'failed'; jobId: number; outcome: 'f' | 't'; code: string; lane: number; error: string; delayMs: number }
  | { kind: 'cancelled'; jobId: number; startedAtMs: number; atMs: number; reason: string }
  | { kind: 'expired'; jobId: number }
  | { kind: 'release'; firstId: number; count: number; started: boolean }
  | { kind: 'running'; jobId: number; progress: string | null }

export class FakeOutcomes implements Outcomes {
  readonly written: Written[] = []
  readonly doubts: DoubtItem[] = []
  room = true
  /** False: outcomes are counted and not kept, for measurements. */
  keep = true
  count = 0

  hasRoom(): boolean {
    return this.room
  }

  doubt(item: DoubtItem): void {
    this.doubts.push(item)
  }

  completed(
    _chunk: ClaimedChunk,
    jobId: number,
    lane: number,
    startedAtMs: number,
    finishedAtMs: number,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): void {
    this.count++
    if (this.keep)
      this.written.push({ kind: 'completed', jobId, lane, startedAtMs, finishedAtMs, result: text(bytes, start, end) })
  }

  failed(
    _chunk: ClaimedChunk,
    jobId: number,
    outcome: 'f' | 't',
    code: string,
    lane: number,
    _startedAtMs: number,
    _finishedAtMs: number,
    bytes: Uint8Array,
    start: number,
    end: number,
    delayMs: number,
  ): void {
    this.written.push({ kind: 'failed', jobId, outcome, code, lane, error: text(bytes, start, end), delayMs })
  }

  cancelled(
    _chunk: ClaimedChunk,
    jobId: number,
    _lane: number,
    startedAtMs: number,
    atMs: number,
    reason: string,
  ): void {
    this.written.push({ kind: 'cancelled', jobId, startedAtMs, atMs, reason })
  }

  expired(_chunk: ClaimedChunk, jobId: number): void {
    this.written.push({ kind: 'expired', jobId })
  }

  release(_chunk: ClaimedChunk, firstId: number, count: number, started: boolean): void {
    this.written.push({ kind: 'release', firstId, count, started })
  }

  running(_chunk: ClaimedChunk, jobId: number, _lane: number, _startedAtMs: number, progress: Uint8Array | null): void {
    this.written.push({
      kind: 'running',
      jobId,
      progress: progress === null ? null : new TextDecoder().decode(progress),
    })
  }

  of<Kind extends Written['kind']>(kind: Kind): Extract<Written, { kind: Kind }>[] {
    return this.written.filter((item): item is Extract<Written, { kind: Kind }> => item.kind === kind)
  }
}

/** Messages in an array, with the stats that the loop asks for. */
export class FakeInbox {
  readonly messages: Message[] = []
  depthUpdates = 0

  tryReceive(): Message | undefined {
    return this.messages.shift()
  }

  get depth(): number {
    return this.messages.length
  }

  updateDepthStats(): void {
    this.depthUpdates++
  }
}

export class FakeOccurrences implements Occurrences {
  readonly runs: { id: string; dueMs: number }[] = []
  readonly launched: string[] = []
  readonly updates: RunUpdate[] = []
  accepts = true
  readonly queries: [number, number][] = []

  readonly index = {
    count: () => this.runs.length,
    get length(): number {
      return this.count()
    },
    query: (startMs: number, endMs: number, visit: (schedule: { id: string }, dueMs: number) => boolean): number => {
      this.queries.push([startMs, endMs])
      const found = this.runs.filter((run) => run.dueMs >= startMs && run.dueMs < endMs)
      for (const run of found) if (!visit(run, run.dueMs)) break
      return found.length
    },
  }

  launch(run: { runId: string }): void {
    this.launched.push(run.runId)
  }

  update(update: RunUpdate): boolean {
    if (this.accepts) this.updates.push(update)
    return this.accepts
  }
}

export interface LogLine {
  readonly level: string
  readonly facts: Record<string, unknown>
  readonly event: string
}

export class FakeLog implements Log {
  readonly lines: LogLine[] = []
  debug = (facts: Record<string, unknown>, event: string) => void this.lines.push({ level: 'debug', facts, event })
  info = (facts: Record<string, unknown>, event: string) => void this.lines.push({ level: 'info', facts, event })
  warn = (facts: Record<string, unknown>, event: string) => void this.lines.push({ level: 'warn', facts, event })
  error = (facts: Record<string, unknown>, event: string) => void this.lines.push({ level: 'error', facts, event })
  child = () => this

  has(level: string, event: string): boolean {
    return this.lines.some((line) => line.level === level && line.event === event)
  }
}

export interface Bench {
  readonly clock: ManualClock
  readonly lanes: FakeLanes
  readonly outcomes: FakeOutcomes
  readonly inbox: FakeInbox
  readonly occurrences: FakeOccurrences
  readonly log: FakeLog
  readonly scheduler: Scheduler
  /** Calls of markRunning that wait; the test settles them. */
  readonly marks: { jobs: readonly MarkedJob[]; resolve: () => void; reject: (error: Error) => void }[]
  readonly shutdowns: string[]
  rooms: number
  /** Runs what woke the loop, until nothing wakes it any more. */
  settle(): void
  /** Moves time in steps, so that timers and the loop alternate as they would. */
  advance(ms: number, stepMs?: number): void
}

/** Iterations in a row without time passing: a loop that goes on is broken. */
const SETTLE_ROUNDS_MAX = 2_000

export interface BenchOptions {
  readonly lanes?: number
  readonly settings?: Partial<SchedulerNeeds['settings']>
  readonly tasks?: readonly TaskInfo[]
  readonly needs?: Partial<SchedulerNeeds>
}

/** A scheduler on fakes. Nothing runs until settle() or advance(). */
export function schedulerBench(options: BenchOptions = {}): Bench {
  const clock = new ManualClock()
  const lanes = new FakeLanes(options.lanes ?? 2, clock)
  const outcomes = new FakeOutcomes()
  const inbox = new FakeInbox()
  const occurrences = new FakeOccurrences()
  const log = new FakeLog()
  const turns: (() => void)[] = []
  const marks: Bench['marks'] = []
  const shutdowns: string[] = []
  const scheduler: Scheduler = new Scheduler({
    clock,
    log,
    settings: {
      heldMax: 20_000,
      loopIdleMs: 1_000,
      preScheduleMs: 10_000,
      graceMs: 30_000,
      orchestratorHeartbeatMs: 10_000,
      missedHeartbeatsMax: 3,
      defaultTimeoutMs: 30_000,
      ...options.settings,
    },
    lanes,
    outcomes,
    inbox,
    occurrences,
    markRunning: (jobs) => new Promise((resolve, reject) => marks.push({ jobs, resolve, reject })),
    onRoom: () => {
      bench.rooms++
    },
    onShutdown: (reason) => shutdowns.push(reason),
    turn: (fn) => turns.push(fn),
    random: () => 0.5,
    ...options.needs,
  })
  lanes.onLost = scheduler.onLost
  scheduler.setTasks(options.tasks ?? [task('work')])
  const bench: Bench = {
    clock,
    lanes,
    outcomes,
    inbox,
    occurrences,
    log,
    scheduler,
    marks,
    shutdowns,
    rooms: 0,
    settle() {
      for (let round = 0; turns.length > 0; round++) {
        if (round > SETTLE_ROUNDS_MAX) throw new Error('the loop wakes itself for ever')
        for (const turn of turns.splice(0)) turn()
      }
    },
    advance(ms, stepMs = 10) {
      for (let left = ms; left > 0; left -= stepMs) {
        clock.advance(Math.min(left, stepMs))
        bench.settle()
      }
    },
  }
  return bench
}

export function task(name: string, more: Partial<TaskInfo> = {}): TaskInfo {
  return {
    name,
    file: 'file:///tasks.js',
    queue: 'default',
    maxAttempts: 3,
    group: null,
    groupLimit: null,
    onRetry: 'block',
    timeoutMs: 30_000,
    graceMs: 5_000,
    heartbeatMs: null,
    decides: false,
    concurrency: 1,
    retry: { kind: 'exponential' },
    inline: false,
    ...more,
  }
}

/** A chunk of `count` jobs of the task `work`, whose payloads are their ids. */
export function chunk(firstId: number, count: number, more: Partial<ClaimedChunk> = {}): ClaimedChunk {
  return {
    leaseId: 1,
    firstId,
    count,
    queueId: 1,
    queue: 'default',
    task: 'work',
    rank: 0,
    seq: firstId,
    attempt: 1,
    run: 1,
    rescues: 0,
    maxAttempts: 3,
    timeoutMs: null,
    expiresAtMs: null,
    createdAtMs: 0,
    dueAtMs: 0,
    keyed: false,
    ephemeral: false,
    group: null,
    retry: null,
    timed: true,
    payloads: Array.from({ length: count }, (_, i) => String(firstId + i)).join(PAYLOAD_SEPARATOR),
    metas: null,
    ...more,
  }
}

function text(bytes: Uint8Array, start: number, end: number): string {
  return new TextDecoder().decode(bytes.subarray(start, end))
}

/** Lets the scheduler learn that a job of the task takes this long. */
export function teach(bench: Bench, name: string, ranMs: number, jobs = 400): void {
  const { scheduler, lanes, settle, outcomes } = bench
  const firstId = 1_000_000 + scheduler.stats().arrived
  scheduler.arrive([chunk(firstId, jobs, { task: name })])
  settle()
  const goesOn = bound('for all jobs to end')
  while (goesOn() && scheduler.stats().held > 0) {
    lanes.runAll(ranMs)
    scheduler.wake()
    settle()
  }
  for (const lane of lanes.lanes) lane.pieces.length = 0
  outcomes.written.length = 0
}
