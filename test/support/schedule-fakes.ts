// Schedules and a loop on a clock that the test moves, over a database that is a few lines long.

import { nextTurn } from '../../engine/base/clock.ts'
import { EngineError } from '../../engine/base/errors.ts'
import { Schedules, type SchedulesSettings } from '../../engine/occurrences/schedules.ts'
import { parseCron } from '../../engine/schedule/cron.ts'
import { nextAfter } from '../../engine/schedule/occurrences.ts'
import type { RunUpdate } from '../../engine/scheduler/needs.ts'
import { DatabaseTime } from '../../engine/store/database-time.ts'
import type { Fired, FireItem, LoadedSchedule, Made, Prepared } from '../../engine/store/schedule-store.ts'
import type { ClaimedChunk } from '../../engine/store/types.ts'
import type { ManualClock } from './manual-clock.ts'
import { type Bench, chunk, type FakeLog, schedulerBench, task } from './scheduler-fakes.ts'

export interface FakeRow extends LoadedSchedule {
  paused: boolean
}

/** Decides like the database: one row per occurrence. Several engines may share one. */
export class FakeScheduleStore {
  readonly time: DatabaseTime
  readonly rows = new Map<string, FakeRow>()
  readonly decided = new Map<string, { jobId: number; atMs: number }>()
  readonly errors: [string, string | null][] = []
  readonly failed: string[] = []
  readonly loads: number[] = []
  /** Jobs that were made ahead, and those whose beginning was noted. */
  readonly prepared: number[] = []
  readonly begun: number[] = []
  digests = 0
  /** Thrown by the next call of this name. */
  readonly troubles: { call: 'digest' | 'load' | 'fire' | 'prepare' | 'confirm'; error: Error }[] = []
  readonly #clock: ManualClock
  #changes = 0
  #nextJob = 1

  constructor(clock: ManualClock) {
    this.#clock = clock
    this.time = new DatabaseTime(clock)
  }

  put(id: string, cron: string, more: Partial<FakeRow> = {}): void {
    this.#changes++
    const old = this.rows.get(id)
    this.rows.set(id, {
      id,
      queue: 'default',
      task: 'work',
      grouped: false,
      revision: (old?.revision ?? 0) + 1,
      changed: this.#changes,
      cron,
      timeZone: 'UTC',
      sinceMs: this.#clock.wallMs() - 3_600_000,
      startsMs: null,
      endsMs: null,
      jitterMs: 0,
      overlap: 'allow',
      catchUp: 'none',
      catchUpMs: 86_400_000,
      error: null,
      lastScheduledMs: null,
      paused: false,
      ...more,
    })
  }

  delete(id: string): void {
    this.#changes++
    this.rows.delete(id)
  }

  async sync(): Promise<void> {
    this.#note()
  }

  async digest() {
    this.digests++
    this.#trouble('digest')
    this.#note()
    return { schedules: this.rows.size, digest: `${this.rows.size} ${this.#changes}` }
  }

  async load(): Promise<LoadedSchedule[]> {
    this.#trouble('load')
    this.loads.push(this.#clock.wallMs())
    return [...this.rows.values()].filter((row) => !row.paused)
  }

  async decidedSince(atMs: number) {
    return [...this.decided.keys()]
      .map((key) => ({ scheduleId: key.split('@')[0]!, scheduledAtMs: Number(key.split('@')[1]) }))
      .filter((it) => it.scheduledAtMs >= atMs)
  }

  async fire(_nodeId: number, items: readonly FireItem[]): Promise<Fired[]> {
    this.#trouble('fire')
    this.#note()
    return items.map((item): Fired => {
      const row = this.rows.get(item.scheduleId)
      const lateMs = this.#clock.steadyMs() - item.scheduledAtMs - item.jitterMs
      const no = (outcome: Fired['outcome']): Fired => ({ outcome, jobId: null, queueId: null, lateMs })
      if (row === undefined) return no('gone')
      const key = `${item.scheduleId}@${item.scheduledAtMs}`
      if (this.decided.has(key)) return no('taken')
      if (row.paused) return no('paused')
      if (row.revision !== item.revision) return no('changed')
      if (item.scheduledAtMs <= row.sinceMs) return no('out')
      if (lateMs < 0) return no('early')
      if (nextAfter(parseCron(row.cron, row.timeZone), item.scheduledAtMs - 1) !== item.scheduledAtMs)
        throw new Error(`${key} is not due at all`)
      const jobId = this.#nextJob++
      this.decided.set(key, { jobId, atMs: this.#clock.wallMs() })
      return { outcome: 'enqueued', jobId, queueId: 1, lateMs }
    })
  }

  async prepare(_nodeId: number, items: readonly Omit<FireItem, 'jitterMs'>[]): Promise<Prepared> {
    this.#trouble('prepare')
    this.#note()
    const jobs = new Map<number, number>()
    const taken: number[] = []
    const chunks: ClaimedChunk[] = []
    for (const [n, { scheduleId, scheduledAtMs, revision }] of items.entries()) {
      const row = this.rows.get(scheduleId)
      const key = `${scheduleId}@${scheduledAtMs}`
      if (this.decided.has(key)) taken.push(n)
      else if (row !== undefined && !row.paused && row.revision === revision) {
        const jobId = this.#nextJob++
        this.decided.set(key, { jobId, atMs: this.#clock.wallMs() })
        jobs.set(n, jobId)
        chunks.push(chunk(jobId, 1, { dueAtMs: scheduledAtMs }))
      }
    }
    this.prepared.push(...jobs.values())
    return { chunks, jobs, taken, change: this.#changes }
  }

  async confirm(atMs: number, change: number): Promise<{ stands: boolean; lateMs: number }> {
    this.#trouble('confirm')
    this.#note()
    const lateMs = this.#clock.steadyMs() - atMs
    return { stands: lateMs >= 0 && change === this.#changes, lateMs }
  }

  async standing(made: readonly Made[]): Promise<Set<number>> {
    return new Set(
      made
        .filter((it) => this.decided.get(`${it.scheduleId}@${it.scheduledAtMs}`)?.jobId === it.jobId)
        .map((it) => it.jobId),
    )
  }

  async noteBegun(made: readonly Made[]): Promise<void> {
    this.begun.push(...made.map((it) => it.jobId))
  }

  async fireFailed(_nodeId: number, scheduleId: string, scheduledAtMs: number): Promise<void> {
    this.failed.push(`${scheduleId}@${scheduledAtMs}`)
  }

  async noteError(id: string, _revision: number, error: string | null): Promise<void> {
    this.errors.push([id, error])
    const row = this.rows.get(id)
    if (row) this.rows.set(id, { ...row, error })
  }

  async clean(): Promise<number> {
    return 0
  }

  #note(): void {
    this.time.note(this.#clock.steadyMs(), this.#clock.steadyMs(), this.#clock.steadyMs())
  }

  #trouble(call: string): void {
    const at = this.troubles.findIndex((it) => it.call === call)
    if (at >= 0) throw this.troubles.splice(at, 1)[0]!.error
  }
}

export const AWAY = new EngineError('STORE_UNREACHABLE', 'the database is away', { retryable: true })

export interface ScheduleBench extends Bench {
  readonly store: FakeScheduleStore
  readonly schedules: Schedules
  readonly updates: RunUpdate[]
  /** Jobs that were enqueued come back by a claim. False: somebody else claims them. */
  claims: boolean
  /** Occurrences that may be made ahead at a time; 0 unless a test wants some. */
  room: number
  /** Loads, and starts the loop. */
  start(): Promise<void>
  /** Moves time in steps, and lets everything that was asked for be answered in between. */
  pass(ms: number, stepMs?: number): Promise<void>
}

/** Noon of a day in 2026 and `secondsPast`, as everybody sees it. */
export const NOON = Date.UTC(2026, 0, 1, 12)

export function scheduleBench(
  options: {
    secondsPast?: number
    settings?: Partial<SchedulesSettings & { preScheduleMs: number }>
    fill?: (store: FakeScheduleStore) => void
  } = {},
): ScheduleBench {
  const { settings } = options
  const updates: RunUpdate[] = []
  let schedules!: Schedules
  const bench = schedulerBench({
    tasks: [task('work')],
    ...(settings && { settings: { ...settings } }),
    needs: {
      occurrences: {
        index: {
          get length() {
            return schedules.occurrences.index.length
          },
          query: (startMs, endMs, visit) => schedules.occurrences.index.query(startMs, endMs, visit),
        },
        nowMs: () => schedules.occurrences.nowMs(),
        surelyMs: () => schedules.occurrences.surelyMs(),
        launch: (run) => schedules.occurrences.launch(run),
        configured: () => schedules.occurrences.configured(),
        hasRoom: () => schedules.occurrences.hasRoom(),
        update(update) {
          updates.push(update)
          return schedules.occurrences.update(update)
        },
      },
    },
  })
  bench.clock.advance(NOON - bench.clock.wallMs() + (options.secondsPast ?? 0) * 1_000)
  const store = new FakeScheduleStore(bench.clock)
  options.fill?.(store)
  schedules = new Schedules(
    {
      clock: bench.clock,
      log: bench.log as FakeLog,
      store,
      runs: bench.scheduler,
      jobs: {
        serves: () => true,
        mayTake: (tasks) => Math.min(self.room, tasks.length),
        hold(chunks) {
          bench.scheduler.hold(chunks)
          return true
        },
        begin: (chunks) => bench.scheduler.begin(chunks),
        giveBack: (chunks) => bench.scheduler.giveBack(chunks),
        cancel: (jobId, reason) => void bench.scheduler.cancel(jobId, reason),
      },
      updates: { hasRoom: () => true, record: () => true },
      nodeId: () => 1,
      taking: (take) => take(),
      onEnqueued: () => {
        if (!self.claims) return
        for (const { jobId } of store.decided.values()) {
          if (jobId <= claimed) continue
          claimed = jobId
          const chunks = [chunk(jobId, 1)]
          // the answer to the claim comes after the answer to the fire
          void nextTurn().then(() => {
            schedules.arrived(chunks)
            bench.scheduler.arrive(chunks)
          })
        }
      },
    },
    {
      indexRebuildMs: 60_000,
      lookaheadMs: 600_000,
      preScheduleMs: 10_000,
      graceMs: 30_000,
      orchestratorHeartbeatMs: 10_000,
      ...settings,
    },
  )
  let claimed = 0
  const self: ScheduleBench = {
    ...bench,
    store,
    schedules,
    updates,
    claims: true,
    room: 0,
    async start() {
      await schedules.start()
      bench.scheduler.start()
      await self.pass(0)
    },
    async pass(ms, stepMs = 500) {
      const untilMs = bench.clock.steadyMs() + ms
      for (;;) {
        for (let turn = 0; turn < 6; turn++) {
          bench.settle()
          await nextTurn()
        }
        const leftMs = untilMs - bench.clock.steadyMs()
        if (leftMs <= 0) return
        bench.advance(Math.min(stepMs, leftMs), Math.min(stepMs, leftMs))
      }
    },
  }
  return self
}
