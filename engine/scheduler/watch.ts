// Watches what runs: deadlines, promised heartbeats, and jobs long enough to be shown. It looks only when the earliest
// time that anything could be due has come, so short jobs cost it nothing.
//
//   running ── deadline or silence ──► signal fired ── grace over, still running ──► thread ended

import type { Lanes } from '../../threads/lanes.ts'
import { allowedMs, missedBeats, NEVER } from '../orchestrator/deadline.ts'
import { NO_SLOT } from '../orchestrator/slots.ts'
import { ABORTED, FLAG, graceOf, type HeldJobs } from './held-jobs.ts'
import type { LaneState } from './lane-state.ts'
import type { SchedulerNeeds } from './needs.ts'

/** A job that runs longer is written as running, and again this often. */
const VISIBLE_AFTER_MS = 5_000

export class Watch {
  readonly #jobs: HeldJobs
  readonly #needs: SchedulerNeeds
  readonly #pool: Lanes
  #nextLookMs = NEVER
  #nextShowMs = NEVER

  constructor(jobs: HeldJobs, needs: SchedulerNeeds) {
    this.#jobs = jobs
    this.#needs = needs
    this.#pool = needs.lanes
  }

  /** Steady time of the next look. */
  get nextLookMs(): number {
    return Math.min(this.#nextLookMs, this.#nextShowMs)
  }

  /** A job has started: its clock runs. */
  begin(slot: number): void {
    const { slots } = this.#jobs
    const holding = slots.ref[slot]!
    const { chunk, task } = holding
    const { info } = task
    const timeoutMs = chunk.timeoutMs ?? info?.timeoutMs ?? this.#needs.settings.defaultTimeoutMs
    const startedMs = slots.startedSteadyMs[slot]!
    // an expiry is judged by the database's clock, as everywhere
    const leadMs = chunk.expiresAtMs === null ? 0 : this.#jobs.clockLeadMs()
    const deadline = startedMs + allowedMs(timeoutMs, chunk.expiresAtMs, slots.startedAtMs[slot]! + leadMs)
    slots.deadlineSteadyMs[slot] = deadline
    this.soon(deadline)
    if (info !== null && info.heartbeatMs !== null) this.soon(startedMs + info.heartbeatMs)
    if (startedMs + VISIBLE_AFTER_MS < this.#nextShowMs) this.#nextShowMs = startedMs + VISIBLE_AFTER_MS
  }

  /** Something about a running job is due at this steady time. */
  soon(atSteadyMs: number): void {
    if (atSteadyMs < this.#nextLookMs) this.#nextLookMs = atSteadyMs
  }

  /** Looks at what runs, if it is time. Returns how many signals and ends it caused. */
  check(): number {
    const { steadyMs } = this.#jobs.now
    const show = this.#nextShowMs <= steadyMs
    if (!show && this.#nextLookMs > steadyMs) return 0
    this.#nextLookMs = NEVER
    if (show) this.#nextShowMs = NEVER
    let acted = 0
    for (const lane of this.#jobs.dispatcher.lanes) acted += this.#checkLane(lane, show)
    return acted
  }

  #checkLane(lane: LaneState, show: boolean): number {
    const { slots, now } = this.#jobs
    let acted = 0
    if (lane.guilty !== NO_SLOT) return 0 // its end is on the way
    for (let slot = lane.head; slot !== NO_SLOT; slot = slots.next[slot]!) {
      if ((slots.flags[slot]! & FLAG.started) === 0 && (slots.flags[slot]! & ABORTED) === 0) continue
      if (slots.deadlineSteadyMs[slot]! <= now.steadyMs || this.#isSilent(slot)) {
        acted++
        if (slots.flags[slot]! & ABORTED) {
          if (this.#end(lane, slot)) return acted // the list is gone with its thread
        } else this.#signal(lane, slot)
      }
      this.soon(slots.deadlineSteadyMs[slot]!)
      if (show) this.#show(lane, slot)
    }
    return acted
  }

  /** Counts whole intervals without a sign of life; true when there are too many. */
  #isSilent(slot: number): boolean {
    const { slots, now, counters } = this.#jobs
    const heartbeatMs = slots.ref[slot]!.task.info?.heartbeatMs ?? null
    if (heartbeatMs === null || slots.flags[slot]! & ABORTED) return false
    const before = slots.missed[slot]!
    const lastMs = slots.heartbeatSteadyMs[slot]!
    const max = this.#needs.settings.missedHeartbeatsMax
    const missed = missedBeats(now.steadyMs - lastMs, heartbeatMs, before, max)
    slots.missed[slot] = missed
    counters.missedHeartbeats += missed - before
    if (missed >= max) return true
    this.soon(lastMs + (missed + 1) * heartbeatMs)
    return false
  }

  #signal(lane: LaneState, slot: number): void {
    const { slots, now } = this.#jobs
    slots.flags[slot]! |= FLAG.timeout
    slots.deadlineSteadyMs[slot] = now.steadyMs + graceOf(slots.ref[slot]!)
    this.#pool.abort(lane.index, slot, slots.generation[slot]!, 'timeout')
  }

  /** The grace is over. False when there is no thread to end. */
  #end(lane: LaneState, slot: number): boolean {
    const { slots } = this.#jobs
    slots.deadlineSteadyMs[slot] = NEVER
    const { task, chunk } = slots.ref[slot]!
    if (task.info?.inline) return false
    lane.guilty = slot
    const timedOut = (slots.flags[slot]! & FLAG.timeout) !== 0
    const silent = slots.missed[slot]! >= this.#needs.settings.missedHeartbeatsMax
    const message = !timedOut
      ? 'the job was told to end and did not'
      : silent
        ? `no heartbeat for ${slots.missed[slot]} intervals of ${task.info?.heartbeatMs} ms, and no end within the grace time`
        : `still running after ${chunk.timeoutMs ?? task.info?.timeoutMs ?? this.#needs.settings.defaultTimeoutMs} ms and the grace time`
    this.#pool.kill(lane.index, timedOut ? 'TASK_TIMED_OUT' : 'TASK_CANCELLED', message)
    return true
  }

  #show(lane: LaneState, slot: number): void {
    const { slots, now, progress } = this.#jobs
    const startedMs = slots.startedSteadyMs[slot]!
    this.#nextShowMs = Math.min(this.#nextShowMs, now.steadyMs + VISIBLE_AFTER_MS)
    if (now.steadyMs - startedMs < VISIBLE_AFTER_MS || (slots.flags[slot]! & FLAG.cancel) !== 0) return
    const { chunk } = slots.ref[slot]!
    this.#needs.outcomes.running(
      chunk,
      slots.id[slot]!,
      lane.index,
      slots.startedAtMs[slot]!,
      progress.get(slot) ?? null,
    )
  }
}
