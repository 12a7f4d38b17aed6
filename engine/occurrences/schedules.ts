// Schedules of a running engine: keeps them parsed, keeps the index of coming runs, and makes a job of each occurrence
// at its due time, not before.
//
//   schedule rows ──load──► plans ──build in slices──► index ──► the loop: PreRun, waits in memory ──due──► fire ──► ready
//                                                                              └──► early.ts: made ahead, held here ──due──► begun
//
// Every node does this; nobody leads. Whoever is first writes the one row that decides the occurrence, in the
// statement that makes its job; the others are told "taken". Due times are judged by the database's clock alone. What
// was missed while nobody was there is made up for as the schedule's catch-up says, from its last decided time on.
//
// Nothing here runs a job, and nothing is lost with this object: what it holds in memory follows from the rows.

import { type Clock, nextTurn, type Timer } from '../base/clock.ts'
import { EngineError, messageOf } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { parseCron } from '../schedule/cron.ts'
import { nextAfter } from '../schedule/occurrences.ts'
import { generateRunId } from '../schedule/run-id.ts'
import { RunIndex, RunsBuilder, type RunVisitor } from '../schedule/run-index.ts'
import { backoffMs, isRetryable } from '../store/connection.ts'
import type { DatabaseTime } from '../store/database-time.ts'
import type { Fired, FireItem, LoadedSchedule } from '../store/schedule-store.ts'
import type { OccurrenceState } from '../store/types.ts'
import { Early, type EarlyEnd, type EarlyNeeds } from './early.ts'
import { checkMoments, counts, type Entry, isDueAt, jitterOf, newest } from './entry.ts'

/** Occurrences that one statement decides: the first jobs can run while the next are made. */
const FIRE_ITEMS_MAX = 200
/** The first statement of a rush is smaller, so that the threads have work sooner. */
const FIRE_ITEMS_FIRST = 50
/**
 * So much before their time a statement leaves with the first occurrences of a moment, and waits in the database until
 * it has come: timers, the loop and the way there make nobody late. Less than that statement would wait.
 */
const AHEAD_MS = 12
/** Jobs are made ahead so long before their time; half a second off the full one, when nothing else is due. */
const LEAD_MS = 1_500
/** With less time left nothing is made ahead. */
const LEAD_MS_MIN = 100
/** Whoever made the job of an occurrence ahead may die with it undecided: the others ask so much after its time. */
const TAKEN_CHECK_MS = 250
/** Occurrences that wait to be fired while PostgreSQL is away; older ones are found again by catching up. */
const FIRES_MAX = 100_000
/** Occurrences of one schedule that are made up for at most, the newest. */
const CATCH_UP_MAX = 1_000
/** Tries of an occurrence whose schedule changes again and again while it is fired. */
const CHANGES_MAX = 10
/** What building the index may take of the event loop at once, in ms. */
const SLICE_MS = 1
const SLICE_PLANS = 200
/** An answer with the database's clock that is older is renewed before an occurrence is due. */
const CLOCK_AGE_MAX_MS = 3_000
/** How long decided occurrences are kept: longer than anything is made up for. With very many of them a day is enough. */
const KEEP_MS = 14 * 24 * 3_600_000
const KEEP_MANY_MS = 24 * 3_600_000
const CLEAN_ROWS = 5_000

export interface SchedulesNeeds {
  readonly clock: Clock
  readonly log: Log
  readonly store: {
    readonly time: DatabaseTime
    sync(): Promise<void>
    digest(): Promise<{ schedules: number; digest: string }>
    load(): Promise<LoadedSchedule[]>
    decidedSince(atMs: number): Promise<{ scheduleId: string; scheduledAtMs: number }[]>
    fire(nodeId: number, items: readonly FireItem[]): Promise<Fired[]>
    fireFailed(nodeId: number, scheduleId: string, scheduledAtMs: number, error: string): Promise<void>
    noteError(id: string, revision: number, error: string | null): Promise<void>
    clean(olderThanMs: number, olderIfManyMs: number, limit: number): Promise<number>
  } & EarlyNeeds['store']
  /** What holds jobs that are made ahead. */
  readonly jobs: EarlyNeeds['jobs']
  readonly taking: EarlyNeeds['taking']
  /** The loop's side of the runs. */
  readonly runs: {
    indexChanged(): void
    configureRuns(configs: ReadonlyMap<string, unknown>): void
    rememberRun(runId: string, scheduleId: string, scheduledAtMs: number): void
    changeRun(runId: string, to: 'completed' | 'cancelled' | 'failed', error: string | null): boolean
    beatRun(runId: string): boolean
  } & EarlyNeeds['runs']
  /** Where the states of runs are written. False: there is no room any more, and the loop must stop. */
  readonly updates: {
    hasRoom(): boolean
    record(update: OccurrenceState): boolean
  }
  nodeId(): number
  /** Jobs are ready in these queues: wake whoever claims, here and elsewhere. */
  onEnqueued(queueIds: readonly number[]): void
}

export interface SchedulesSettings {
  readonly indexRebuildMs: number
  readonly lookaheadMs: number
  readonly preScheduleMs: number
  readonly graceMs: number
  readonly orchestratorHeartbeatMs: number
}

/** An occurrence on its way to a decision. */
interface Firing {
  readonly scheduleId: string
  readonly atMs: number
  readonly runId: string
  /** The loop has a run for it and wants to hear. */
  readonly hasRun: boolean
  changes: number
}

/** A run that the loop has taken into view. */
interface Launched {
  readonly runId: string
  readonly scheduleId: string
  readonly scheduledAtMs: number
}

export class Schedules {
  readonly #needs: SchedulesNeeds
  readonly #settings: SchedulesSettings
  #entries: ReadonlyMap<string, Entry> = new Map()
  readonly #index = new RunIndex<Entry>()
  #digest = ''
  /** Rows in the table, paused ones included. */
  #known = 0
  #state: 'new' | 'running' | 'quiet' = 'new'
  #loop: Promise<void> = Promise.resolve()
  #ring: (() => void) | null = null
  #wanted = { reload: false, catchUp: false }
  #rebuildAtMs = 0
  /** How far the loop has looked, in the database's time. */
  #coveredToMs = 0
  /** It has looked at least once. */
  #looked = false

  /** Occurrences whose time has come, by run id: fired in the order of their due times, or waiting for their jitter. */
  readonly #due = new Map<string, Firing>()
  #ready: Firing[] = []
  /** Runs in view whose time has not come, by due time: their schedules by run id. */
  readonly #foreseen = new Map<number, { timers: Timer[]; runs: Map<string, string> }>()
  readonly #early: Early
  /** Runs that are on their way before the loop has told that they are due. */
  readonly #ahead = new Set<string>()
  #flying: Promise<void> | null = null
  /** Those whose schedule turned out to have changed; looked at again after the next load. */
  #changed: Firing[] = []
  /** Jobs made here that have not come back by a claim yet, and the steady time of their making. */
  readonly #won = new Map<number, { runId: string; atMs: number }>()
  #beats: Timer | null = null
  #syncing = false
  #failures = 0

  readonly counts = {
    enqueued: 0,
    skipped: 0,
    taken: 0,
    refused: 0,
    failed: 0,
    caughtUp: 0,
    loads: 0,
    rebuilds: 0,
    cleaned: 0,
  }

  constructor(needs: SchedulesNeeds, settings: SchedulesSettings) {
    this.#needs = needs
    this.#settings = settings
    this.#early = new Early(needs)
  }

  /** Schedules that exist, as of the last look. */
  get known(): number {
    return this.#known
  }

  /** What the index covers, in the database's time. */
  get window(): { readonly startMs: number; readonly endMs: number } {
    return this.#index.runs
  }

  // ------------------------------------------------------------------ life

  /**
   * Loads the schedules, builds the index, and begins to make up for what was missed. Before the loop starts.
   * @throws EngineError when they cannot be loaded
   */
  async start(): Promise<void> {
    try {
      await this.#load(true)
      const nowMs = this.#needs.store.time.nowMs()
      this.#coveredToMs = nowMs - this.#settings.graceMs
      if (this.#entries.size > 0) await this.#look(nowMs)
      await this.#build(nowMs)
    } catch (error) {
      if (!(error instanceof EngineError)) throw error
      throw new EngineError(error.code, `failed to query jobs on startup: ${error.message}`, error.details, error)
    }
    this.#state = 'running'
    this.#loop = this.#run()
    this.#takeOff()
  }

  /** Fires nothing from now on. */
  quiet(): void {
    this.#state = 'quiet'
    this.#ready = []
    this.#due.clear()
    for (const { timers } of this.#foreseen.values()) for (const timer of timers) timer.cancel()
    this.#foreseen.clear()
    this.#early.clear()
    this.#ahead.clear()
    this.#changed = []
    this.#won.clear()
    this.#beats?.cancel()
    this.#beats = null
    this.#wake()
  }

  /** Resolves when what was in flight is answered. */
  async stop(): Promise<void> {
    this.quiet()
    await this.#loop
    await this.#flying
    await this.#early.stop()
  }

  /** Schedules may have changed: look, and build the index anew. */
  reload(): void {
    this.#wanted.reload = true
    this.#wake()
  }

  /** Jobs came from a claim: those made here live and end with their runs. Called before the loop takes them. */
  arrived(chunks: readonly { readonly firstId: number; readonly count: number }[]): void {
    if (this.#won.size === 0) return
    for (const { firstId, count } of chunks) {
      if (count !== 1) continue
      const won = this.#won.get(firstId)
      if (won === undefined) continue
      this.#won.delete(firstId)
      this.#needs.runs.bindRun(won.runId, firstId)
    }
  }

  // ------------------------------------------------------------------ what the loop sees

  /** For the scheduler: the index, and what becomes of the runs that it launches. */
  readonly occurrences = {
    index: this.#looker(),
    nowMs: (): number => this.#needs.store.time.nowMs(),
    launch: (run: Launched): void => {
      this.#keepTime()
      this.#foresee(run)
    },
    surelyMs: (): number => this.#needs.store.time.surelyMs(),
    configured: (): void => this.reload(),
    hasRoom: (): boolean => this.#needs.updates.hasRoom(),
    update: (update: OccurrenceState): boolean => {
      if (update.status === 'pending') {
        if (!this.#ahead.delete(update.runId)) this.#comeDue(update.runId, update.scheduleId, update.scheduledAtMs)
      } else if (update.status === 'cancelled' || update.status === 'orphaned') {
        this.#due.delete(update.runId)
        this.#ahead.delete(update.runId)
        if (this.#early.has(update.scheduledAtMs, update.runId))
          this.#early.cancel(update.scheduledAtMs, update.runId, update.error ?? 'cancelled in PreRun')
        else this.#foreseen.get(update.scheduledAtMs)?.runs.delete(update.runId)
      }
      return this.#needs.updates.record(update)
    },
  }

  /** The index, without the due times that are nobody's; notes how far the loop has looked. */
  #looker() {
    const self = this
    return {
      get length(): number {
        return self.#index.length
      },
      query: (
        startMs: number,
        endMs: number,
        visit: (schedule: { readonly id: string }, dueMs: number) => boolean,
      ): number => {
        if (this.#entries.size === 0 && this.#index.length === 0) {
          this.#coveredToMs = endMs
          return 0
        }
        const fromMs = this.#looked ? startMs : Math.min(startMs, this.#coveredToMs) // seamless after start()
        this.#looked = true
        if (fromMs > this.#coveredToMs) {
          // the process slept, or knew nothing for long: what lies in between is made up for as the schedules say
          this.#wanted.catchUp = true
          this.#wake()
        }
        this.#coveredToMs = Math.max(this.#coveredToMs, Math.min(endMs, this.#index.runs.endMs))
        const visitor: RunVisitor<Entry> = (entry, dueMs) => (counts(entry, dueMs) ? visit(entry, dueMs) : true)
        return this.#index.query(fromMs, endMs, visitor)
      },
    }
  }

  /** An occurrence will soon be due: have the database's time at hand. */
  #keepTime(): void {
    const { clock, store } = this.#needs
    if (this.#syncing || clock.steadyMs() - store.time.notedAtMs < CLOCK_AGE_MAX_MS) return
    this.#syncing = true
    void (async () => {
      await store.sync().catch(() => {}) // the old answer is nearly as good
      this.#syncing = false
    })()
  }

  // ------------------------------------------------------------------ firing

  /** Notes a run of the loop for the moments shortly before its time; one set of timers for all of one due time. */
  #foresee({ runId, scheduleId, scheduledAtMs: atMs }: Launched): void {
    if (this.#state === 'quiet') return
    const { clock, store } = this.#needs
    const leftMs = atMs - store.time.nowMs()
    if (leftMs <= AHEAD_MS) return // the loop says so when it is due, which is soon
    const together = this.#foreseen.get(atMs)
    if (together !== undefined) {
      together.runs.set(runId, scheduleId)
      return
    }
    const runs = new Map([[runId, scheduleId]])
    const timers = [clock.after(leftMs - AHEAD_MS, () => this.#isNear(atMs))]
    const leadMs = Math.min(LEAD_MS, this.#settings.preScheduleMs)
    if (leftMs > LEAD_MS_MIN && leadMs > LEAD_MS_MIN)
      timers.push(clock.after(Math.max(0, leftMs - leadMs), () => this.#takeEarly(atMs, runs)))
    this.#foreseen.set(atMs, { timers, runs })
  }

  /** Some of those that will be due can be made ahead. */
  #takeEarly(atMs: number, runs: ReadonlyMap<string, string>): void {
    const occurrences: [string, Entry][] = []
    for (const [runId, scheduleId] of runs) {
      const entry = this.#entries.get(scheduleId)
      if (entry !== undefined && !this.#due.has(runId) && isDueAt(entry, atMs)) occurrences.push([runId, entry])
    }
    if (occurrences.length > 0) this.#early.take(atMs, occurrences)
  }

  /** A due time is so near that what is to be asked then leaves now. */
  #isNear(atMs: number): void {
    const { runs } = this.#foreseen.get(atMs)!
    this.#foreseen.delete(atMs)
    let early = 0
    for (const [runId, scheduleId] of runs) {
      if (this.#early.has(atMs, runId)) {
        if (!this.#early.isCancelled(atMs, runId)) this.#ahead.add(runId)
        early++
        continue
      }
      const entry = this.#entries.get(scheduleId)
      if (entry === undefined || !isDueAt(entry, atMs) || this.#due.has(runId)) continue // the loop finds out
      this.#ahead.add(runId)
      this.#comeDue(runId, scheduleId, atMs)
    }
    if (early === 0) return
    this.#early
      .confirm(atMs, (runId, scheduleId, end) => this.#earlyEnded(runId, scheduleId, atMs, end))
      .catch((error) => this.#needs.log.error({ error: messageOf(error) }, 'schedule.confirm_failed'))
  }

  #earlyEnded(runId: string, scheduleId: string, atMs: number, ended: EarlyEnd): void {
    switch (ended.end) {
      case 'begun':
        this.counts.enqueued++ // its run goes on until the job ends
        this.#needs.log.debug(
          { schedule: scheduleId, run: runId, job: ended.jobId, lateMs: ended.lateMs },
          'schedule.fired',
        )
        return
      case 'taken':
        this.#due.set(runId, { scheduleId, atMs, runId, hasRun: true, changes: 0 })
        this.#watch()
        this.#needs.clock.after(TAKEN_CHECK_MS, () => {
          const firing = this.#due.get(runId)
          if (firing !== undefined) this.#push(firing)
        })
        return
      case 'withdrawn':
        this.reload() // and is decided as its schedule says now
        break
      default:
    }
    this.#comeDue(runId, scheduleId, atMs)
  }

  #comeDue(runId: string, scheduleId: string, atMs: number): void {
    if (this.#state === 'quiet') return
    const entry = this.#entries.get(scheduleId)
    const firing: Firing = { scheduleId, atMs, runId, hasRun: true, changes: 0 }
    if (entry === undefined || !isDueAt(entry, atMs)) {
      // not now: the loop is in the middle of telling us
      void Promise.resolve().then(() => this.#end(firing, 'cancelled', 'the schedule has changed'))
      return
    }
    this.#due.set(runId, firing)
    this.#watch()
    const waitMs = atMs + jitterOf(entry, atMs) - this.#needs.store.time.nowMs() - AHEAD_MS
    if (waitMs > 1) this.#needs.clock.after(waitMs, () => this.#push(firing))
    else this.#push(firing)
  }

  #push(firing: Firing): void {
    if (this.#state === 'quiet' || this.#due.get(firing.runId) !== firing) return
    if (this.#ready.length >= FIRES_MAX) {
      // PostgreSQL has been away for long: let go, and find what was missed from the rows when it is back
      this.#due.delete(firing.runId)
      this.#wanted.catchUp = true
      return
    }
    this.#ready.push(firing)
    this.#takeOff()
  }

  /** One statement at a time; what becomes due meanwhile goes with the next. */
  #takeOff(): void {
    if (this.#flying !== null || this.#ready.length === 0 || this.#state !== 'running') return
    this.#flying = (async () => {
      await null // whatever the loop finds due in this iteration goes together
      let max = FIRE_ITEMS_FIRST
      while (this.#ready.length > 0 && this.#state === 'running') {
        const batch = this.#nextBatch(max)
        max = FIRE_ITEMS_MAX
        try {
          await this.#fire(batch)
          this.#failures = 0
        } catch (error) {
          await this.#afterFailure(batch, error)
        }
      }
    })()
      .catch((error) => this.#needs.log.error({ error: messageOf(error) }, 'schedule.firing_failed'))
      .finally(() => {
        this.#flying = null
        this.#takeOff()
      })
  }

  /** In the order of due times; at most one of each schedule whose occurrences must not overlap. */
  #nextBatch(max: number): Firing[] {
    const batch: Firing[] = []
    const rest: Firing[] = []
    const single = new Set<string>()
    for (const [at, firing] of this.#ready.entries()) {
      if (batch.length === max) {
        rest.push(...this.#ready.slice(at))
        break
      }
      if (this.#due.get(firing.runId) !== firing) continue // ended meanwhile
      const entry = this.#entries.get(firing.scheduleId)
      if (entry !== undefined && entry.overlap !== 'allow') {
        if (single.has(firing.scheduleId)) {
          rest.push(firing)
          continue
        }
        single.add(firing.scheduleId)
      }
      batch.push(firing)
    }
    this.#ready = rest
    return batch
  }

  async #fire(batch: readonly Firing[]): Promise<void> {
    const { store, nodeId, onEnqueued } = this.#needs
    const firings: Firing[] = []
    const items: FireItem[] = []
    for (const firing of batch) {
      const entry = this.#entries.get(firing.scheduleId)
      if (entry === undefined || !isDueAt(entry, firing.atMs)) {
        this.#end(firing, 'cancelled', 'the schedule has changed')
        continue
      }
      firings.push(firing)
      items.push({
        scheduleId: entry.id,
        scheduledAtMs: firing.atMs,
        jitterMs: jitterOf(entry, firing.atMs),
        revision: entry.revision,
      })
    }
    if (items.length === 0) return
    const fired = await store.fire(nodeId(), items)
    const queues = new Set<number>()
    for (const [at, firing] of firings.entries()) {
      const answer = fired[at]!
      if (answer.queueId !== null) queues.add(answer.queueId)
      this.#answer(firing, answer)
    }
    if (queues.size > 0) onEnqueued([...queues])
  }

  #answer(firing: Firing, { outcome, jobId, lateMs }: Fired): void {
    const { clock, log } = this.#needs
    switch (outcome) {
      case 'enqueued':
        this.counts.enqueued++
        if (firing.hasRun) {
          this.#won.set(jobId!, { runId: firing.runId, atMs: clock.steadyMs() })
        }
        this.#due.delete(firing.runId) // its run goes on until the job ends, or is another node's
        log.debug({ schedule: firing.scheduleId, run: firing.runId, job: jobId, lateMs }, 'schedule.fired')
        return
      case 'taken':
        this.counts.taken++
        this.#end(firing, 'completed', null)
        return
      case 'skipped':
        this.counts.skipped++
        log.info({ schedule: firing.scheduleId, run: firing.runId }, 'schedule.skipped')
        this.#end(firing, 'cancelled', 'the job of an earlier occurrence has not ended')
        return
      case 'early':
        clock.after(Math.max(1, -lateMs), () => this.#push(firing))
        return
      case 'changed':
        if (++firing.changes < CHANGES_MAX) {
          this.#changed.push(firing)
          this.reload()
          return
        }
        break
      default: // gone, paused, out
    }
    this.counts.refused++
    this.#end(firing, 'cancelled', `the schedule is ${outcome}`)
    if (outcome !== 'out') this.reload()
  }

  async #afterFailure(batch: readonly Firing[], error: unknown): Promise<void> {
    const { clock, log, store, nodeId } = this.#needs
    if (isRetryable(error)) {
      if (this.#failures++ === 0) log.warn({ error: messageOf(error), due: batch.length }, 'schedule.fire_delayed')
      this.#ready = [...batch, ...this.#ready]
      if (this.#state === 'running') await clock.sleep(backoffMs(this.#failures))
      return
    }
    if (batch.length > 1) {
      // one of them is refused: find out which, alone
      for (const firing of batch)
        try {
          await this.#fire([firing])
        } catch (single) {
          await this.#afterFailure([firing], single)
        }
      return
    }
    const [firing] = batch
    this.counts.failed++
    log.error({ schedule: firing!.scheduleId, run: firing!.runId, error: messageOf(error) }, 'schedule.fire_failed')
    await store
      .fireFailed(nodeId(), firing!.scheduleId, firing!.atMs, messageOf(error))
      .catch((second) => log.warn({ error: messageOf(second) }, 'schedule.note_failed'))
    this.#end(firing!, 'failed', messageOf(error))
  }

  #end(firing: Firing, to: 'completed' | 'cancelled' | 'failed', error: string | null): void {
    if (this.#due.get(firing.runId) === firing) this.#due.delete(firing.runId)
    if (firing.hasRun) this.#needs.runs.changeRun(firing.runId, to, error)
  }

  /** While something is on its way its run lives; a job that does not come here is another node's. */
  #watch(): void {
    if (this.#beats !== null || this.#state === 'quiet') return
    const everyMs = this.#settings.orchestratorHeartbeatMs / 2
    this.#beats = this.#needs.clock.after(everyMs, () => {
      this.#beats = null
      const { runs, clock } = this.#needs
      for (const firing of this.#due.values()) if (firing.hasRun) runs.beatRun(firing.runId)
      for (const [jobId, won] of this.#won) {
        if (clock.steadyMs() - won.atMs < everyMs) continue
        this.#won.delete(jobId)
        runs.changeRun(won.runId, 'completed', null)
      }
      if (this.#due.size > 0 || this.#won.size > 0) this.#watch()
    })
  }

  // ------------------------------------------------------------------ keeping plans and index

  #wake(): void {
    this.#ring?.()
  }

  async #run(): Promise<void> {
    const { clock, log } = this.#needs
    this.#rebuildAtMs = clock.steadyMs() + this.#settings.indexRebuildMs
    let failures = 0
    while (this.#state === 'running') {
      const waitMs = this.#rebuildAtMs - clock.steadyMs()
      if (waitMs > 0 && !this.#wanted.reload && !this.#wanted.catchUp) await this.#sleep(waitMs)
      if (this.#state !== 'running') return
      const wanted = this.#wanted
      this.#wanted = { reload: false, catchUp: false }
      const timely = clock.steadyMs() >= this.#rebuildAtMs
      try {
        const changed = await this.#load(wanted.catchUp)
        if (changed || timely || wanted.reload) await this.#build(this.#needs.store.time.nowMs())
        if (wanted.catchUp) await this.#look(this.#needs.store.time.nowMs())
        if (timely) await this.#clean()
        failures = 0
        if (timely) this.#rebuildAtMs = clock.steadyMs() + this.#settings.indexRebuildMs
      } catch (error) {
        if (failures++ === 0) log.warn({ error: messageOf(error) }, 'schedule.load_failed')
        this.#wanted.reload ||= wanted.reload
        this.#wanted.catchUp ||= wanted.catchUp
        if (this.#state === 'running') await clock.sleep(backoffMs(failures))
      }
      this.#retryChanged()
    }
  }

  /** Reads the rows when they have changed, or when told to. True: there is something new. */
  async #load(always: boolean): Promise<boolean> {
    const { store } = this.#needs
    const { schedules, digest } = await store.digest()
    const changed = digest !== this.#digest
    if (!changed && (!always || schedules === 0)) return false
    const rows = schedules === 0 ? [] : await store.load()
    this.counts.loads++
    this.#known = schedules
    const entries = new Map<string, Entry>()
    for (const [at, row] of rows.entries()) {
      if (at % SLICE_PLANS === SLICE_PLANS - 1) await nextTurn()
      const entry = this.#entryOf(row)
      if (entry !== null) entries.set(row.id, entry)
    }
    this.#configure(entries)
    this.#entries = entries
    this.#digest = digest // last: a failure above asks again
    return changed
  }

  /** Runs that wait for their time take what their schedules say now. */
  #configure(entries: ReadonlyMap<string, Entry>): void {
    const configs = new Map<string, unknown>()
    for (const [id, known] of this.#entries) {
      const entry = entries.get(id)
      if (entry === undefined || entry.changed === known.changed) continue
      const { changed, task, queue, cron, timeZone } = entry
      configs.set(id, Object.freeze({ changed, task, queue, cron, timeZone }))
    }
    if (configs.size > 0) this.#needs.runs.configureRuns(configs)
  }

  /** A schedule that cannot be read has no due times: it is named once per change, and left out. */
  #entryOf(row: LoadedSchedule): Entry | null {
    const { log, store } = this.#needs
    try {
      checkMoments(row)
      const plan = parseCron(row.cron, row.timeZone)
      if (row.error !== null) void store.noteError(row.id, row.revision, null).catch(() => {})
      return { ...row, plan }
    } catch (error) {
      const message = messageOf(error)
      if (row.error !== message) {
        log.error({ schedule: row.id, cron: row.cron, timeZone: row.timeZone, error: message }, 'schedule.invalid')
        void store.noteError(row.id, row.revision, message).catch(() => {})
      }
      return null
    }
  }

  /** Builds the runs of [now - grace, now + lookahead) beside the old ones, and puts them in their place. */
  async #build(nowMs: number): Promise<void> {
    const { clock, runs } = this.#needs
    if (this.#entries.size === 0 && this.#index.length === 0) return
    const builder = new RunsBuilder(
      [...this.#entries.values()],
      nowMs - this.#settings.graceMs,
      nowMs + this.#settings.lookaheadMs,
    )
    let built = builder.step(SLICE_MS, clock)
    while (built === null) {
      await nextTurn()
      built = builder.step(SLICE_MS, clock)
    }
    this.#index.swap(built)
    this.counts.rebuilds++
    runs.indexChanged()
  }

  #retryChanged(): void {
    const again = this.#changed
    this.#changed = []
    for (const firing of again) this.#push(firing)
  }

  /** Old occurrences go in bounded batches, one per look; the next follows at once while there are more. */
  async #clean(): Promise<void> {
    if (this.#known === 0) return
    const { store } = this.#needs
    let gone = CLEAN_ROWS
    while (gone === CLEAN_ROWS && this.#state === 'running') {
      const nowMs = store.time.nowMs()
      gone = await store.clean(nowMs - KEEP_MS, nowMs - KEEP_MANY_MS, CLEAN_ROWS)
      this.counts.cleaned += gone
    }
  }

  // ------------------------------------------------------------------ what was missed

  /** Tells the loop what was decided already, and queues what is to be made up for, the oldest first. */
  async #look(nowMs: number): Promise<void> {
    const { store, runs, log } = this.#needs
    const edgeMs = nowMs - this.#settings.graceMs
    for (const { scheduleId, scheduledAtMs } of await store.decidedSince(edgeMs))
      runs.rememberRun(generateRunId(scheduleId, scheduledAtMs), scheduleId, scheduledAtMs)
    const missed: Firing[] = []
    let seen = 0
    for (const entry of this.#entries.values()) {
      if (++seen % SLICE_PLANS === 0) await nextTurn()
      for (const atMs of this.#missedOf(entry, edgeMs, nowMs)) {
        const runId = generateRunId(entry.id, atMs)
        if (!this.#due.has(runId)) missed.push({ scheduleId: entry.id, atMs, runId, hasRun: false, changes: 0 })
      }
    }
    if (missed.length === 0) return
    missed.sort((a, b) => a.atMs - b.atMs)
    log.info({ occurrences: missed.length }, 'schedule.catching_up')
    this.counts.caughtUp += missed.length
    for (const firing of missed) {
      this.#due.set(firing.runId, firing)
      this.#push(firing)
    }
  }

  /** Due times after the last decided one and before the grace time, as the schedule's policy wants them. */
  #missedOf(entry: Entry, edgeMs: number, nowMs: number): number[] {
    const fromMs = Math.max(
      entry.sinceMs,
      (entry.startsMs ?? 0) - 1,
      entry.lastScheduledMs ?? 0,
      nowMs - entry.catchUpMs,
    )
    const first = nextAfter(entry.plan, fromMs)
    if (first === null || first >= edgeMs) return []
    const untilMs = Math.min(edgeMs, entry.endsMs ?? edgeMs)
    // not missed yet: their jitter lets them wait
    const waiting =
      entry.jitterMs === 0
        ? []
        : newest(entry.plan, Math.max(first, edgeMs - entry.jitterMs), untilMs, CATCH_UP_MAX).filter(
            (atMs) => atMs + jitterOf(entry, atMs) >= edgeMs,
          )
    if (entry.catchUp === 'none') return waiting
    const missed = newest(entry.plan, first, untilMs, entry.catchUp === 'one' ? 1 : CATCH_UP_MAX)
    if (entry.catchUp === 'all') return missed
    // one: of all that was missed the newest, which may lie in the grace time; then the loop runs that one alone
    const recent = newest(entry.plan, edgeMs, Math.min(nowMs, entry.endsMs ?? nowMs), CATCH_UP_MAX)
    for (const atMs of recent.slice(0, -1)) this.#needs.runs.rememberRun(generateRunId(entry.id, atMs), entry.id, atMs)
    return recent.length > 0 ? waiting : [...new Set([...missed, ...waiting])]
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        this.#ring = null
        timer.cancel()
        resolve()
      }
      const timer = this.#needs.clock.after(ms, done)
      this.#ring = done
    })
  }
}
