// Occurrences of schedules in memory: one orchestrator per run id, from shortly before its time until the grace time
// after it, so that a run that was seen, finished or lost to another node is not launched again. Looks back as well as
// ahead: [now - grace, now + pre-schedule). Terminal states stay; what comes later is counted and ignored.

import { randomUUID } from 'node:crypto'
import { missedBeats } from '../orchestrator/deadline.ts'
import { type Event, next, type State, TERMINAL } from '../orchestrator/states.ts'
import { generateRunId } from '../schedule/run-id.ts'
import { Heap } from './heap.ts'
import type { Now } from './held-jobs.ts'
import type { OrchestratorState } from './messages.ts'
import type { Occurrences, SchedulerNeeds } from './needs.ts'
import type { Counters } from './stats.ts'

/** Bounds the duty; the rest of the window follows in the next iteration. */
const LAUNCHES_PER_ITERATION = 10_000
/** So that what else is due at that moment need not wait for all of them. */
const DUE_PER_ITERATION = 200

/** One occurrence. Written by Runs only. */
interface Run {
  readonly runId: string
  readonly scheduleId: string
  readonly scheduledAtMs: number
  state: State
  config: unknown
  completedAtMs: number | null
  lastHeartbeatMs: number
  missed: number
  error: string | null
}

/** What each state that a message may name is reached by. */
const EVENT_TO: Readonly<Partial<Record<State, Event>>> = {
  pending: 'due',
  running: 'start',
  completed: 'complete',
  failed: 'fail',
  retrying: 'retry',
  queued: 'release',
  cancelled: 'cancel',
  timed_out: 'time_out',
  orphaned: 'orphan',
}

export class Runs {
  readonly #needs: SchedulerNeeds
  readonly #occurrences: Occurrences | null
  readonly #counters: Counters
  readonly #now: Now
  readonly #byId = new Map<string, Run>()
  readonly #waiting = new Heap<Run>((a, b) => a.scheduledAtMs < b.scheduledAtMs)
  readonly #runOfJob = new Map<number, string>()
  /** Unique per life of this object; updates count on from it. */
  readonly #updatePrefix = randomUUID()
  #updates = 0
  #launched = 0
  #nextQueryMs = 0
  /** Where the window goes on when an iteration could not launch all of it; 0: at its start. */
  #resumeMs = 0
  #nextCleanupMs = 0
  #nextHeartbeatMs = 0
  /** The buffer of updates refused one: the loop must stop. */
  overflowed = false

  constructor(needs: SchedulerNeeds, counters: Counters, now: Now) {
    this.#needs = needs
    this.#occurrences = needs.occurrences ?? null
    this.#counters = counters
    this.#now = now
  }

  get size(): number {
    return this.#byId.size
  }

  get indexSize(): number {
    return this.#occurrences?.index.length ?? 0
  }

  /** The index has changed: look at all of it in the next iteration. */
  indexChanged(): void {
    this.#nextQueryMs = 0
    this.#resumeMs = 0
  }

  /** A run of the grace window that is known to the store: not launched again. */
  remember(runId: string, scheduleId: string, scheduledAtMs: number): void {
    if (this.#byId.has(runId)) return
    this.#add(runId, scheduleId, scheduledAtMs).state = 'completed'
  }

  /** Duty: launches what comes into view, and lets runs whose time has come go to pending. Returns how many of both. */
  schedule(mayLaunch: boolean): number {
    const launched = mayLaunch ? this.#launch() : 0
    let due = 0
    const nowMs = this.#waiting.peek() === undefined ? 0 : this.#dueNowMs()
    for (let run = this.#waiting.peek(); run !== undefined && due < DUE_PER_ITERATION; run = this.#waiting.peek()) {
      if (run.scheduledAtMs > nowMs) break
      this.#waiting.shift()
      if (run.state !== 'prerun') continue
      run.lastHeartbeatMs = this.#now.wallMs
      this.#step(run, 'due', null)
      due++
    }
    return launched + due
  }

  /** Wall time of the next thing that schedule() would do; the index is looked at with every pause of the loop. */
  nextDueMs(): number {
    if (this.#resumeMs > 0) return 0
    const run = this.#waiting.peek()
    if (run === undefined) return Number.POSITIVE_INFINITY
    return run.scheduledAtMs - this.#dueNowMs() + this.#now.wallMs
  }

  /** This job is the run's work on this node: the run follows its end, and lives while it lives. */
  bind(runId: string, jobId: number): boolean {
    const run = this.#byId.get(runId)
    if (run === undefined || TERMINAL.has(run.state)) return false
    this.#runOfJob.set(jobId, runId)
    return true
  }

  /** A job has left this node's memory. */
  jobEnded(jobId: number, state: State): void {
    if (this.#runOfJob.size === 0) return
    const runId = this.#runOfJob.get(jobId)
    if (runId === undefined) return
    this.#runOfJob.delete(jobId)
    this.change(runId, state, null)
  }

  /** A message names the new state. False: unknown run, or the state does not accept it. */
  change(runId: string, to: State, error: string | null): boolean {
    const run = this.#byId.get(runId)
    const event = EVENT_TO[to]
    if (run === undefined || event === undefined) return this.#late()
    // A report may skip states that it implies: completing what is pending passes through running.
    if (event !== 'due' && run.state === 'prerun' && next('prerun', event) === null) this.#step(run, 'due', null)
    return this.#step(run, event, error) || this.#late()
  }

  cancel(runId: string, reason: string): boolean {
    const run = this.#byId.get(runId)
    if (run === undefined) return false
    return this.#step(run, 'cancel', run.state === 'prerun' ? 'cancelled in PreRun' : reason) || this.#late()
  }

  beat(runId: string, atMs: number): boolean {
    const run = this.#byId.get(runId)
    if (run === undefined) return false
    if (TERMINAL.has(run.state)) return this.#late()
    run.lastHeartbeatMs = atMs
    run.missed = 0
    return true
  }

  /** In PreRun only: the rest of the wait stays as it is. What its job is made of is read where schedules are kept. */
  configure(runId: string, config: unknown): boolean {
    const run = this.#byId.get(runId)
    if (run?.state !== 'prerun') return false
    run.config = config
    this.#occurrences?.configured?.(runId)
    return true
  }

  /** Schedules have changed, and with them the runs that wait: the new configuration by schedule. */
  configureAll(configs: ReadonlyMap<string, unknown>): void {
    for (const run of this.#byId.values())
      if (run.state === 'prerun' && configs.has(run.scheduleId)) run.config = configs.get(run.scheduleId)
  }

  has(runId: string): boolean {
    return this.#byId.has(runId)
  }

  stateOf(runId: string): OrchestratorState | null {
    const run = this.#byId.get(runId)
    return run === undefined ? null : this.#copy(run)
  }

  all(): OrchestratorState[] {
    return Array.from(this.#byId.values(), (run) => this.#copy(run))
  }

  /** Duty: counts missed heartbeats of runs that are not over. Returns how many were given up. */
  checkHeartbeats(nowMs: number, force = false): number {
    if (!force && nowMs < this.#nextHeartbeatMs) return 0
    const { orchestratorHeartbeatMs: intervalMs, missedHeartbeatsMax: max } = this.#needs.settings
    this.#nextHeartbeatMs = nowMs + Math.min(1_000, intervalMs)
    for (const runId of this.#runOfJob.values()) this.beat(runId, nowMs)
    let orphaned = 0
    for (const run of this.#byId.values()) {
      if (isOver(run.state)) continue
      const missed = missedBeats(nowMs - run.lastHeartbeatMs, intervalMs, run.missed, max)
      if (missed === run.missed) continue
      this.#counters.missedHeartbeats += missed - run.missed
      run.missed = missed
      this.#needs.log.warn({ runId: run.runId, missed }, 'missed heartbeat')
      if (missed < max) continue
      this.#needs.log.error({ runId: run.runId, missed }, 'marking orchestrator as orphaned')
      this.#step(run, 'orphan', `orchestrator orphaned after ${missed} missed heartbeats`)
      orphaned++
    }
    return orphaned
  }

  /** Duty: forgets runs that are over and whose grace time has passed. Returns how many. */
  cleanup(nowMs: number, force = false): number {
    if (!force && nowMs < this.#nextCleanupMs) return 0
    this.#nextCleanupMs = nowMs + Math.min(1_000, this.#needs.settings.graceMs)
    let removed = 0
    const dueNowMs = this.#occurrences?.nowMs?.() ?? nowMs
    for (const run of this.#byId.values()) {
      if (!isOver(run.state) || dueNowMs <= run.scheduledAtMs + this.#needs.settings.graceMs) continue
      this.#byId.delete(run.runId)
      removed++
    }
    return removed
  }

  /** Every run that is not over ends as cancelled, but for those that end with their jobs. Returns how many. */
  cancelAll(reason: string): number {
    const bound = new Set(this.#runOfJob.values())
    let cancelled = 0
    for (const run of this.#byId.values()) if (!bound.has(run.runId) && this.#step(run, 'cancel', reason)) cancelled++
    return cancelled
  }

  clear(): void {
    this.#byId.clear()
    this.#waiting.drain()
    this.#runOfJob.clear()
  }

  /** Due times are judged by one clock on all nodes; what happens here is told by our own. */
  #dueNowMs(): number {
    return this.#occurrences?.nowMs?.() ?? this.#now.wallMs
  }

  #launch(): number {
    if (this.#occurrences === null) return 0
    const wallMs = this.#dueNowMs()
    if (wallMs < this.#nextQueryMs || this.#occurrences.hasRoom?.() === false) return 0
    const { preScheduleMs, graceMs, loopIdleMs } = this.#needs.settings
    const fromMs = Math.max(this.#resumeMs, wallMs - graceMs)
    this.#nextQueryMs = wallMs + Math.min(loopIdleMs, 1_000)
    this.#resumeMs = 0
    this.#launched = 0
    this.#occurrences.index.query(fromMs, wallMs + preScheduleMs, this.#visit)
    return this.#launched
  }

  readonly #visit = (schedule: { readonly id: string }, dueMs: number): boolean => {
    const runId = generateRunId(schedule.id, dueMs)
    if (this.#byId.has(runId)) return true
    if (this.#launched === LAUNCHES_PER_ITERATION) {
      this.#resumeMs = dueMs
      this.#nextQueryMs = 0
      return false
    }
    const run = this.#add(runId, schedule.id, dueMs)
    this.#waiting.push(run)
    this.#launched++
    this.#update(run)
    this.#occurrences!.launch(run)
    return true
  }

  #add(runId: string, scheduleId: string, scheduledAtMs: number): Run {
    const run: Run = {
      runId,
      scheduleId,
      scheduledAtMs,
      state: 'prerun',
      config: null,
      completedAtMs: null,
      lastHeartbeatMs: this.#now.wallMs,
      missed: 0,
      error: null,
    }
    this.#byId.set(runId, run)
    return run
  }

  #step(run: Run, event: Event, error: string | null): boolean {
    const to = next(run.state, event)
    if (to === null) return false
    run.state = to
    if (TERMINAL.has(to)) {
      run.completedAtMs = this.#now.wallMs
      run.error = error
    }
    this.#update(run)
    return true
  }

  #update(run: Run): void {
    const kept = this.#occurrences?.update({
      updateId: `${this.#updatePrefix}:${++this.#updates}`,
      runId: run.runId,
      scheduleId: run.scheduleId,
      scheduledAtMs: run.scheduledAtMs,
      status: run.state,
      atMs: this.#now.wallMs,
      success: TERMINAL.has(run.state) ? run.state === 'completed' : null,
      error: run.error,
    })
    if (kept === false) this.overflowed = true
  }

  #late(): false {
    this.#counters.lateReports++
    return false
  }

  #copy(run: Run): OrchestratorState {
    return {
      id: run.runId,
      state: run.state,
      name: run.scheduleId,
      scheduledAtMs: run.scheduledAtMs,
      startedAtMs: null,
      completedAtMs: run.completedAtMs,
      deadlineAtMs: null,
      silentMs: Math.max(0, this.#now.wallMs - run.lastHeartbeatMs),
      missedHeartbeats: run.missed,
      lane: null,
      config: run.config,
      error: run.error,
    }
  }
}

/** Final, or with the store again: nothing more is expected of it here. */
function isOver(state: State): boolean {
  return TERMINAL.has(state) || state === 'queued' || state === 'retrying' || state === 'timed_out'
}
