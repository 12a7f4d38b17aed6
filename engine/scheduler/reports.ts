// What the threads report, applied to the orchestrators, and what follows: hand the outcome over, decide on a retry,
// let the slot go. Reports come in the order in which a lane wrote them; one about a slot that has changed hands is
// late, counted, and changes nothing.

import type { LaneLost, ReportSink } from '../../threads/lanes.ts'
import type { RetryPolicy } from '../base/retry-policy.ts'
import { retryDelayMs } from '../orchestrator/retry.ts'
import { NO_SLOT } from '../orchestrator/slots.ts'
import { EVENT, OUTCOME, STATE } from '../orchestrator/states.ts'
import type { DoubtItem } from '../store/types.ts'
import { FLAG, graceOf, type HeldJobs } from './held-jobs.ts'
import type { Holding } from './holding.ts'
import { MODE } from './lane-state.ts'
import type { SchedulerNeeds } from './needs.ts'
import type { Watch } from './watch.ts'

/** Of a job whose task and enqueue name none. */
const DEFAULT_POLICY: RetryPolicy = { kind: 'exponential' }

export class Reports implements ReportSink {
  readonly #jobs: HeldJobs
  readonly #needs: SchedulerNeeds
  readonly #watch: Watch
  readonly #random: () => number
  /** Recent mean of what one job costs a lane; NaN until one ended. Written here, read by the scheduler. */
  meanCostMs = Number.NaN

  constructor(jobs: HeldJobs, needs: SchedulerNeeds, watch: Watch) {
    this.#jobs = jobs
    this.#needs = needs
    this.#watch = watch
    this.#random = needs.random ?? Math.random
  }

  started(_lane: number, slot: number, generation: number, atMs: number): void {
    if (this.#isLate(slot, generation)) return
    this.#begin(slot, atMs)
  }

  completed(
    lane: number,
    slot: number,
    generation: number,
    startedAtMs: number,
    ranMs: number,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): void {
    const jobs = this.#jobs
    if (this.#isLate(slot, generation)) return
    const holding = this.#ran(slot, startedAtMs, ranMs)
    if (jobs.slots.state[slot] === STATE.cancelled) {
      this.#handCancelled(slot, holding, lane)
      return
    }
    if (jobs.slots.flags[slot]! & FLAG.completing) {
      this.#returned(slot, holding, startedAtMs, startedAtMs + Math.round(ranMs))
      return
    }
    if (jobs.slots.flags[slot]! & FLAG.timeout && !this.#wasInTime(slot, ranMs)) {
      const endedAtMs = startedAtMs + Math.round(ranMs)
      this.#charge(slot, OUTCOME.timedOut, 'TASK_TIMED_OUT', true, endedAtMs, LATE, 0, LATE.length)
      return
    }
    jobs.step(slot, EVENT.complete)
    jobs.counters.completed++
    const jobId = jobs.slots.id[slot]!
    this.#needs.outcomes.completed(
      holding.chunk,
      jobId,
      lane,
      startedAtMs,
      startedAtMs + Math.round(ranMs),
      bytes,
      start,
      end,
    )
    jobs.end(slot)
  }

  failed(
    lane: number,
    slot: number,
    generation: number,
    startedAtMs: number,
    ranMs: number,
    retryable: boolean,
    bytes: Uint8Array,
    start: number,
    end: number,
    decidedMs: number | null,
  ): void {
    const jobs = this.#jobs
    if (this.#isLate(slot, generation)) return
    const holding = this.#ran(slot, startedAtMs, ranMs)
    if (jobs.slots.state[slot] === STATE.cancelled) {
      this.#handCancelled(slot, holding, lane)
      return
    }
    const flags = jobs.slots.flags[slot]!
    const endedAtMs = startedAtMs + Math.round(ranMs)
    if (flags & FLAG.timeout)
      this.#charge(slot, OUTCOME.timedOut, 'TASK_TIMED_OUT', true, endedAtMs, bytes, start, end, decidedMs)
    else if (flags & FLAG.stop) this.#release(slot)
    else {
      const code = codeIn(bytes, start, end)
      this.#charge(slot, OUTCOME.failed, code, retryable, endedAtMs, bytes, start, end, decidedMs)
    }
  }

  completing(_lane: number, slot: number, generation: number): void {
    if (this.#isLate(slot, generation)) return
    this.#jobs.slots.flags[slot]! |= FLAG.completing
  }

  /** What became of a job whose handler may have completed it. */
  doubtSettled({ otherwise, timedOut, said }: DoubtItem, committed: boolean): void {
    const { counters } = this.#jobs
    if (!committed) {
      this.#count(otherwise, timedOut)
      return
    }
    counters.completed++
    if (otherwise === 'cancelled') counters.cancelled--
    else if (said !== null) counters.lateReports++
  }

  heartbeat(_lane: number, slot: number, generation: number, _atMs: number): void {
    if (this.#isLate(slot, generation)) return
    this.#beat(slot)
  }

  progress(_lane: number, slot: number, generation: number, bytes: Uint8Array, start: number, end: number): void {
    if (this.#isLate(slot, generation)) return
    this.#jobs.progress.set(slot, new Uint8Array(bytes.subarray(start, end)))
    this.#beat(slot)
  }

  log(_lane: number, slot: number, generation: number, bytes: Uint8Array, start: number, end: number): void {
    if (this.#isLate(slot, generation)) return
    const { slots } = this.#jobs
    this.#needs.onJobLog?.(slots.ref[slot]!.chunk, slots.id[slot]!, bytes, start, end)
  }

  /** A thread is gone: what it had not taken waits again, what it ran is charged to whoever is guilty. */
  lost(lost: LaneLost): void {
    const jobs = this.#jobs
    const { slots } = jobs
    const lane = jobs.dispatcher.lanes[lost.lane]!
    const alone = lane.mode !== MODE.shared
    const { guilty } = lane
    jobs.counters.lanesLost++
    jobs.dispatcher.requeue(lost.notTaken, jobs.now.steadyMs)
    const onlyOne = lane.outstanding === 1
    const bytes = errorBytes(lost.code, lost.message)
    while (lane.head !== NO_SLOT) {
      const slot = lane.head
      if ((slots.flags[slot]! & FLAG.started) === 0) this.#begin(slot, jobs.now.wallMs)
      const holding = slots.ref[slot]!
      const flags = slots.flags[slot]!
      if (slots.state[slot] === STATE.cancelled) this.#handCancelled(slot, holding, lost.lane)
      else if (flags & FLAG.stop) this.#release(slot)
      else if (holding.task.info?.inline)
        this.#release(slot) // it ran on this thread, and cannot have ended another
      else if (guilty === NO_SLOT ? alone || onlyOne : slot === guilty) {
        const outcome = flags & FLAG.timeout ? OUTCOME.timedOut : OUTCOME.failed
        holding.task.learn(Math.max(0, jobs.now.steadyMs - slots.startedSteadyMs[slot]!))
        this.#charge(slot, outcome, lost.code, true, jobs.now.wallMs, bytes, 0, bytes.length)
      } else {
        if (holding.task.isShared) jobs.sank(slot)
        this.#release(slot)
      }
    }
  }

  #begin(slot: number, atMs: number): void {
    const jobs = this.#jobs
    const { slots, now } = jobs
    if (slots.flags[slot]! & FLAG.started) return
    const startedSteadyMs = now.steadyMs - Math.max(0, now.wallMs - atMs)
    slots.flags[slot]! |= FLAG.started
    slots.startedAtMs[slot] = atMs
    slots.startedSteadyMs[slot] = startedSteadyMs
    slots.heartbeatSteadyMs[slot] = startedSteadyMs
    jobs.dispatcher.started(slot, startedSteadyMs)
    jobs.counters.started++
    const { chunk } = slots.ref[slot]!
    const waitedMs = atMs - chunk.dueAtMs + jobs.clockLeadMs()
    jobs.histograms.waited(waitedMs)
    if (chunk.timed) jobs.histograms.wasLate(waitedMs)
    if (jobs.step(slot, EVENT.start)) this.#watch.begin(slot)
  }

  /** An end report: its start may have been told by nothing else. */
  #ran(slot: number, startedAtMs: number, ranMs: number): Holding {
    this.#begin(slot, startedAtMs)
    const holding = this.#jobs.slots.ref[slot]!
    const { task } = holding
    task.learn(ranMs)
    const cost = task.costMs
    this.meanCostMs = Number.isNaN(this.meanCostMs) ? cost : this.meanCostMs + (cost - this.meanCostMs) * MEAN_WEIGHT
    this.#jobs.histograms.ran(ranMs)
    return holding
  }

  /** The handler returned, and may have completed the job itself. If it has not, the attempt has failed. */
  #returned(slot: number, holding: Holding, startedAtMs: number, finishedAtMs: number): void {
    const jobs = this.#jobs
    if (jobs.slots.flags[slot]! & FLAG.stop) {
      this.#release(slot, true)
      return
    }
    const { chunk } = holding
    const delayMs = retryDelayMs(policyOf(holding, null), chunk.attempt, holding.maxAttempts, true, this.#random)
    const jobId = jobs.slots.id[slot]!
    const { leaseId, run } = chunk
    const otherwise = delayMs < 0 ? 'dead' : 'retried'
    this.#needs.outcomes.doubt({ leaseId, jobId, run, otherwise, timedOut: false, said: null })
    jobs.step(slot, EVENT.complete)
    this.#needs.outcomes.failed(
      chunk,
      jobId,
      OUTCOME.failed,
      'NOT_COMMITTED',
      jobs.slots.lane[slot]!,
      startedAtMs,
      finishedAtMs,
      NOT_COMMITTED,
      0,
      NOT_COMMITTED.length,
      delayMs,
    )
    jobs.end(slot)
  }

  /** It had returned before its signal was fired, and only the report came later. */
  #wasInTime(slot: number, ranMs: number): boolean {
    const { slots } = this.#jobs
    const graceEndsMs = slots.deadlineSteadyMs[slot]!
    if (!Number.isFinite(graceEndsMs)) return false // even the grace is over
    return slots.startedSteadyMs[slot]! + ranMs <= graceEndsMs - graceOf(slots.ref[slot]!)
  }

  /** True when the job's handler may have completed it: whatever is said of it next counts only if it has not. */
  #doubts(
    slot: number,
    otherwise: DoubtItem['otherwise'],
    timedOut: boolean,
    said: Uint8Array | null,
    start: number,
    end: number,
  ): boolean {
    const { slots } = this.#jobs
    if ((slots.flags[slot]! & FLAG.completing) === 0) return false
    const { leaseId, run } = slots.ref[slot]!.chunk
    const text =
      said === null
        ? null
        : Buffer.from(said.buffer, said.byteOffset + start, end - start)
            .toString()
            .slice(0, SAID_MAX)
    this.#needs.outcomes.doubt({ leaseId, jobId: slots.id[slot]!, run, otherwise, timedOut, said: text })
    return true
  }

  #count(end: DoubtItem['otherwise'], timedOut: boolean): void {
    const { counters } = this.#jobs
    if (end === 'released') counters.released++
    else if (end !== 'cancelled') {
      counters.failed++
      if (timedOut) counters.timedOut++
      if (end === 'dead') counters.dead++
      else counters.retried++
    }
  }

  #charge(
    slot: number,
    outcome: 'f' | 't',
    code: string,
    retryable: boolean,
    atMs: number,
    bytes: Uint8Array,
    start: number,
    end: number,
    decidedMs: number | null = null,
  ): void {
    const jobs = this.#jobs
    const { slots } = jobs
    const holding = slots.ref[slot]!
    const { chunk } = holding
    const policy = policyOf(holding, decidedMs)
    const delayMs = retryDelayMs(policy, chunk.attempt, holding.maxAttempts, retryable, this.#random)
    const timedOut = outcome === OUTCOME.timedOut
    const otherwise = delayMs < 0 ? 'dead' : 'retried'
    const jobId = slots.id[slot]!
    if (!this.#doubts(slot, otherwise, timedOut, bytes, start, end)) {
      this.#count(otherwise, timedOut)
      this.#needs.notices?.failed(chunk, jobId, delayMs, bytes, start, end)
    }
    if (timedOut) jobs.step(slot, EVENT.time_out)
    jobs.step(slot, delayMs < 0 ? EVENT.fail : EVENT.retry)
    const startedAtMs = slots.startedAtMs[slot]!
    const lane = slots.lane[slot]!
    this.#needs.outcomes.failed(
      chunk,
      jobId,
      outcome,
      code,
      lane,
      startedAtMs,
      Math.max(startedAtMs, atMs),
      bytes,
      start,
      end,
      delayMs,
    )
    jobs.end(slot)
  }

  /** It had started, and what ended it was not its fault. */
  #release(slot: number, returned = false): void {
    const jobs = this.#jobs
    const { slots, now } = jobs
    jobs.step(slot, EVENT.release)
    if (!this.#doubts(slot, 'released', false, returned ? null : STOPPED, 0, STOPPED.length)) {
      this.#count('released', false)
      if ((slots.flags[slot]! & FLAG.stop) !== 0) jobs.interrupt(slot)
    }
    const { chunk } = slots.ref[slot]!
    this.#needs.outcomes.release(
      chunk,
      slots.id[slot]!,
      1,
      true,
      slots.lane[slot]!,
      slots.startedAtMs[slot]!,
      now.wallMs,
    )
    jobs.end(slot)
  }

  /** Its thread has let go of a job that was cancelled before: whatever it says now is late. */
  #handCancelled(slot: number, holding: Holding, lane: number): void {
    const jobs = this.#jobs
    const cancellation = jobs.cancellations.get(slot)
    jobs.counters.lateReports++
    this.#doubts(slot, 'cancelled', false, CANCELLED, 0, CANCELLED.length)
    this.#needs.outcomes.cancelled(
      holding.chunk,
      jobs.slots.id[slot]!,
      lane,
      jobs.slots.startedAtMs[slot]!,
      cancellation?.atMs ?? jobs.now.wallMs,
      cancellation?.reason ?? 'cancelled',
    )
    jobs.end(slot)
  }

  #beat(slot: number): void {
    const { slots, now } = this.#jobs
    slots.heartbeatSteadyMs[slot] = now.steadyMs
    slots.missed[slot] = 0
  }

  #isLate(slot: number, generation: number): boolean {
    if (this.#jobs.slots.isCurrent(slot, generation)) return false
    this.#jobs.counters.lateReports++
    return true
  }
}

const MEAN_WEIGHT = 1 / 50
/** Of an error, for the log: as much as a thread reports. */
const SAID_MAX = 16 * 1_024
const STOPPED = Buffer.from('its thread was ended, or the engine stopped')
const LATE = errorBytes('TASK_TIMED_OUT', 'the handler returned after its time was over')
const CANCELLED = Buffer.from('it was cancelled')
const NOT_COMMITTED = errorBytes(
  'NOT_COMMITTED',
  'the handler called ctx.complete and returned, but the transaction of that call was not committed',
)

/** The policy of the enqueue goes before the decision of the task, and that before its policy. */
function policyOf(holding: Holding, decidedMs: number | null): RetryPolicy {
  const { retry } = holding.chunk
  if (retry !== null) {
    try {
      return JSON.parse(retry) as RetryPolicy
    } catch {
      // written by somebody past the enqueuer; the task's own policy is the next best
    }
  }
  if (decidedMs !== null) return decidedMs < 0 ? { kind: 'none' } : { kind: 'fixed', delayMs: decidedMs }
  return holding.task.info?.retry ?? DEFAULT_POLICY
}

/** The error that a thread could not write itself. */
function errorBytes(code: string, message: string): Uint8Array {
  return Buffer.from(JSON.stringify({ code, type: 'EngineError', message }))
}

const CODE_PREFIX = Buffer.from('{"code":"')
const QUOTE = 0x22

/** The code of an error JSON, whose first member it is; read without parsing the rest. */
function codeIn(bytes: Uint8Array, start: number, end: number): string {
  for (let i = 0; i < CODE_PREFIX.length; i++) if (bytes[start + i] !== CODE_PREFIX[i]) return 'TASK_THREW'
  const from = start + CODE_PREFIX.length
  let to = from
  while (to < end && bytes[to] !== QUOTE) to++
  return to > from && to < end ? String.fromCharCode(...bytes.subarray(from, Math.min(to, from + 64))) : 'TASK_THREW'
}
