// The jobs that this node holds: arriving, waiting for their time, waiting for a lane, leaving. A job is a slot; what it
// shares with its chunk is the holding. Every way out goes through end(), so nothing is counted twice or left behind.

import type { TaskInfo } from '../../threads/lanes.ts'
import type { Clock } from '../base/clock.ts'
import { RESCUES_MAX } from '../base/limits.ts'
import { NO_SLOT, Slots } from '../orchestrator/slots.ts'
import { EVENT, NO_STATE, nextCode, STATE } from '../orchestrator/states.ts'
import type { ClaimedChunk } from '../store/types.ts'
import { Dispatcher } from './dispatch.ts'
import { Heap } from './heap.ts'
import { DOUBTFUL_RUNS, GONE, Holding, type Span } from './holding.ts'
import { MODE } from './lane-state.ts'
import type { SchedulerNeeds } from './needs.ts'
import { Pending } from './pending.ts'
import { Counters, Histograms } from './stats.ts'
import { Suspects } from './suspects.ts'
import { TaskState } from './task-state.ts'

/** Bits of a slot's flags. */
export const FLAG = {
  /** Its start was reported. */
  started: 1,
  /** Its signal was fired, and why. */
  timeout: 2,
  cancel: 4,
  stop: 8,
  /** Its handler may have completed it in a transaction of its own. */
  completing: 16,
} as const

/** The signal was fired, whatever the reason. */
export const ABORTED = FLAG.timeout | FLAG.cancel | FLAG.stop

/** Room for jobs that come although they were not asked for; beyond it they are given back at once. */
const SLOTS_PER_HELD = 2

/** Jobs that wait here are looked through for expired ones no more often. */
const EXPIRY_LOOK_MS = 100

/** The loop's one reading of the clocks, renewed at the start of everything that comes from outside. */
export class Now {
  steadyMs = 0
  wallMs = 0
  readonly #clock: Clock

  constructor(clock: Clock) {
    this.#clock = clock
    this.renew()
  }

  renew(): void {
    this.steadyMs = this.#clock.steadyMs()
    this.wallMs = this.#clock.wallMs()
  }
}

export interface Cancellation {
  readonly reason: string
  readonly atMs: number
}

export class HeldJobs {
  readonly slots: Slots<Holding>
  readonly pending: Pending
  readonly dispatcher: Dispatcher
  readonly suspects: Suspects
  readonly counters = new Counters()
  readonly histograms = new Histograms()
  readonly now: Now
  /** Cancelled while they ran: handed over when their thread lets go. */
  readonly cancellations = new Map<number, Cancellation>()
  /** Jobs that still ran when the engine had to stop, at most INTERRUPTED_MAX of them. Written by the reports. */
  readonly interrupted: { readonly id: number; readonly task: string }[] = []
  /** Last progress of a job, JSON bytes. */
  readonly progress = new Map<number, Uint8Array>()
  readonly #prerun = new Heap<Span>((a, b) => a.holding.chunk.dueAtMs < b.holding.chunk.dueAtMs)
  /** Held ahead of their time until somebody says that it has come: begin(). */
  readonly #awaiting = new Map<ClaimedChunk, Span>()
  /** Jobs that were let go because their thread died while others ran there too; the oldest are forgotten. */
  readonly #sunk = new Set<number>()
  readonly #tasks = new Map<string, TaskState>()
  readonly #needs: SchedulerNeeds
  #prerunJobs = 0
  /** When the next of the jobs here expires, at the earliest, by the clock of due times. */
  #expiryMs = Number.POSITIVE_INFINITY
  #leadMs = 0
  #leadOfMs = Number.NaN
  /** A job of a group has left, and the next of it may wait for that to be written. Written here and by the scheduler. */
  turnEnded = false
  /** Called with a job's id and last state when it leaves. */
  onEnd: ((jobId: number, state: number) => void) | null = null

  constructor(needs: SchedulerNeeds, onChange: () => void) {
    this.#needs = needs
    this.now = new Now(needs.clock)
    this.pending = new Pending((queue) => needs.settings.queues?.indexOf(queue) ?? 0)
    this.slots = new Slots<Holding>(Math.max(64, needs.settings.heldMax * SLOTS_PER_HELD))
    this.dispatcher = new Dispatcher(
      this.slots,
      this.pending,
      needs.lanes,
      (span) => this.#expire(span),
      (holding, from, to) => this.#waitAgain(holding, from, to),
    )
    this.suspects = new Suspects(this.slots, needs.settings.rescuesMax ?? RESCUES_MAX, {
      lanes: () => this.dispatcher.staying,
      mark: (jobs) => needs.markRunning(jobs),
      settled: needs.settled === undefined ? null : () => needs.settled!(),
      onNoted: ({ holding, from, to }) => this.pending.add(holding, from, to, to - from, this.now.steadyMs),
      onMarked: onChange,
      onRefused: (slot, error) => {
        needs.log.warn({ jobId: this.slots.id[slot], error }, 'suspect.not_marked')
        this.now.renew()
        this.releaseOne(slot)
      },
    })
  }

  get held(): number {
    return this.slots.size
  }

  get prerun(): number {
    return this.#prerunJobs
  }

  /** Of them those that wait for begin(). */
  get awaiting(): number {
    let sum = 0
    for (const { holding, from, to } of this.#awaiting.values())
      for (let i = from; i < to; i++) if (holding.slotAt(i) !== GONE) sum++
    return sum
  }

  /** How many more jobs of each limited queue may be held. Looks at all that is held: asked once per claim. */
  seats(limits: Readonly<Record<string, number>>): Map<string, number> {
    const seats = new Map(Object.entries(limits))
    for (const slot of this.slots.all()) {
      const { queue } = this.slots.ref[slot]!.chunk
      const left = seats.get(queue)
      if (left !== undefined) seats.set(queue, left - 1)
    }
    return seats
  }

  /** Adds the leases of every job that is held. Looks at all of them: asked once per beat. */
  addLeases(leaseIds: Set<number>): void {
    let last = -1 // neighbours mostly share their lease: saves the set
    for (const slot of this.slots.all()) {
      const { leaseId } = this.slots.ref[slot]!.chunk
      if (leaseId !== last) leaseIds.add(leaseId)
      last = leaseId
    }
  }

  /** Jobs that are with a lane. */
  get outstanding(): number {
    let sum = 0
    for (const lane of this.dispatcher.lanes) sum += lane.outstanding
    return sum
  }

  /** What the task files say; jobs of other tasks run with the defaults until somebody fails them. */
  setTasks(tasks: readonly TaskInfo[]): void {
    for (const info of tasks) this.taskOf(info.name).info = info
  }

  taskOf(name: string): TaskState {
    let task = this.#tasks.get(name)
    if (task === undefined) {
      task = new TaskState(name, null)
      this.#tasks.set(name, task)
    }
    return task
  }

  /** Takes claimed jobs in. */
  arrive(chunks: readonly ClaimedChunk[]): void {
    for (const chunk of chunks) this.#arriveOne(chunk, false)
  }

  /** Takes jobs in that wait as PreRun until begin() is called with their chunk. */
  hold(chunks: readonly ClaimedChunk[]): void {
    for (const chunk of chunks) this.#arriveOne(chunk, true)
  }

  /** The time of chunks that were held has come. */
  begin(chunks: readonly ClaimedChunk[]): void {
    for (const chunk of chunks) {
      const span = this.#awaiting.get(chunk)
      if (span === undefined) continue // given back, or dropped
      this.#awaiting.delete(chunk)
      this.#comeDue(span)
    }
  }

  /** Gives claimed jobs back at once. */
  refuse(chunks: readonly ClaimedChunk[]): void {
    for (const chunk of chunks) {
      this.counters.released += chunk.count
      this.#needs.outcomes.release(chunk, chunk.firstId, chunk.count, false, -1, 0, this.now.wallMs)
    }
  }

  /** Chunks that were held go back to wait for their time in the database. */
  giveBack(chunks: readonly ClaimedChunk[]): void {
    for (const chunk of chunks) {
      const span = this.#awaiting.get(chunk)
      if (span === undefined) continue
      this.#awaiting.delete(chunk)
      this.#prerunJobs -= this.releaseSpan(span)
    }
  }

  /** Lets jobs whose time has come wait for a lane; at most about `max` of them. Returns how many. */
  due(max: number): number {
    let done = 0
    if (this.#prerun.peek() === undefined) return 0
    const nowMs = this.#dueNowMs()
    for (let span = this.#prerun.peek(); span !== undefined && done < max; span = this.#prerun.peek()) {
      if (span.holding.chunk.dueAtMs > nowMs) break
      this.#prerun.shift()
      this.#comeDue(span)
      done += span.to - span.from
    }
    return done
  }

  /** Our wall time of the next job that becomes due or expires; Infinity when none waits for its time. */
  nextDueMs(): number {
    const nextMs = Math.min(this.#prerun.peek()?.holding.chunk.dueAtMs ?? Number.POSITIVE_INFINITY, this.#expiryMs)
    if (nextMs === Number.POSITIVE_INFINITY) return nextMs
    return nextMs - this.#dueNowMs() + this.now.wallMs
  }

  /**
   * Ends what has not begun although its expiry has passed, also what a lane was fed and has not taken. One look through all
   * that is held, when there is something to expire. Returns how many.
   */
  expire(): number {
    if (this.#expiryMs === Number.POSITIVE_INFINITY) return 0
    const nowMs = this.#dueNowMs()
    if (nowMs < this.#expiryMs) return 0
    const { slots, dispatcher } = this
    const late: number[] = []
    const lanes = new Set<number>()
    let nextMs = Number.POSITIVE_INFINITY
    for (const slot of slots.all()) {
      const { expiresAtMs } = slots.ref[slot]!.chunk
      if (expiresAtMs === null || (slots.flags[slot]! & (FLAG.started | ABORTED)) !== 0) continue
      nextMs = Math.min(nextMs, Math.max(expiresAtMs, nowMs + EXPIRY_LOOK_MS)) // also of what its lane has taken meanwhile
      if (expiresAtMs > nowMs) continue
      late.push(slots.id[slot]!)
      if (slots.lane[slot] !== -1) lanes.add(slots.lane[slot]!)
    }
    this.#expiryMs = nextMs
    for (const lane of lanes) dispatcher.takeBack(dispatcher.lanes[lane]!, this.now.steadyMs)
    let ended = 0
    for (const jobId of late) if (this.#expireOne(slots.of(jobId))) ended++
    return ended
  }

  /** False: it is gone, or its lane has taken it. */
  #expireOne(slot: number): boolean {
    const { slots } = this
    if (slot === NO_SLOT || slots.lane[slot] !== -1) return false
    const holding = slots.ref[slot]!
    const jobId = slots.id[slot]!
    const before = slots.state[slot]!
    if (!this.step(slot, EVENT.fail)) return false
    this.#forget(slot, before)
    this.#needs.outcomes.expired(holding.chunk, jobId, this.now.wallMs)
    this.#needs.notices?.expired(holding.chunk, jobId)
    this.counters.expired++
    this.counters.dead++
    this.end(slot)
    return true
  }

  /** How far ahead of ours the clock is that due times are judged by. Asked anew once per reading of the clocks. */
  clockLeadMs(): number {
    if (this.#leadOfMs !== this.now.steadyMs) {
      this.#leadOfMs = this.now.steadyMs
      this.#leadMs = (this.#needs.occurrences?.nowMs?.() ?? this.now.wallMs) - this.#needs.clock.wallMs()
    }
    return this.#leadMs
  }

  /** How many of these, in their order, would find a lane within `withinMs` and what is here before them. */
  mayTake(tasks: readonly string[], roomMs: number, withinMs: number): number {
    let leftMs = roomMs
    for (const [at, name] of tasks.entries()) {
      if (leftMs <= 0) return at
      const task = this.#tasks.get(name)
      leftMs -= task?.known ? Math.min(task.costMs, withinMs) : withinMs
    }
    return tasks.length
  }

  /** The number of lanes has changed: what those that leave have not taken waits again, for the others. */
  lanesChanged(): void {
    for (const lane of this.dispatcher.resize())
      if (lane.outstanding > 0) this.dispatcher.takeBack(lane, this.now.steadyMs)
  }

  /** Feeds the lanes. */
  dispatch(): number {
    const { suspects } = this
    if (!suspects.isEmpty) {
      let alone = 0
      for (const lane of this.dispatcher.lanes) if (lane.mode === MODE.alone) alone++
      suspects.step(alone)
    }
    return this.dispatcher.dispatch(this.now.steadyMs, this.#dueNowMs(), suspects.ready)
  }

  /** Moves a slot along the table of states; false when the event cannot happen in its state. */
  step(slot: number, event: number): boolean {
    const to = nextCode(this.slots.state[slot]!, event)
    if (to === NO_STATE) return false
    this.slots.state[slot] = to
    return true
  }

  /** The job leaves this node's memory. Its outcome has been handed over, or is nobody's business any more. */
  end(slot: number): void {
    const { slots } = this
    const holding = slots.ref[slot]!
    const jobId = slots.id[slot]!
    holding.setSlot(jobId - holding.chunk.firstId, GONE)
    if (slots.lane[slot] !== -1)
      this.dispatcher.left(slot, (slots.flags[slot]! & FLAG.started) !== 0, this.now.steadyMs)
    if (this.cancellations.size > 0) this.cancellations.delete(slot)
    if (this.progress.size > 0) this.progress.delete(slot)
    const state = slots.state[slot]!
    if (holding.chunk.group !== null) this.turnEnded = true
    if (holding.isSuspect) this.suspects.ended(slot, holding)
    slots.free(slot)
    const limits = this.#needs.settings.queueConcurrency
    if (limits && limits[holding.chunk.queue] !== undefined) this.#needs.onSeat?.()
    this.onEnd?.(jobId, state)
  }

  /**
   * Ends a job for somebody who asked. One that runs is told by its signal, keeps its lane until its thread lets go,
   * and is a cancelled job from now on. False: no such job, or it has ended already.
   */
  cancel(jobId: number, reason: string): boolean {
    const { slots, now } = this
    const slot = slots.of(jobId)
    if (slot === NO_SLOT) return false
    const before = slots.state[slot]!
    const lane = slots.lane[slot]!
    if (lane !== -1 && (slots.flags[slot]! & FLAG.started) === 0)
      this.dispatcher.takeBack(this.dispatcher.lanes[lane]!, now.steadyMs)
    if (!this.step(slot, EVENT.cancel)) return false
    this.counters.cancelled++
    const holding = slots.ref[slot]!
    this.#needs.notices?.cancelled(holding.chunk, jobId, reason)
    if (slots.lane[slot] === -1) {
      this.#forget(slot, before)
      this.#needs.outcomes.cancelled(holding.chunk, jobId, -1, 0, now.wallMs, reason)
      this.end(slot)
      return true
    }
    this.cancellations.set(slot, { reason, atMs: now.wallMs })
    slots.flags[slot]! |= FLAG.cancel
    slots.deadlineSteadyMs[slot] = now.steadyMs + graceOf(holding)
    this.#needs.lanes.abort(lane, slot, slots.generation[slot]!, 'cancelled')
    return true
  }

  /** Gives back one job that had not started. */
  releaseOne(slot: number): void {
    const holding = this.slots.ref[slot]!
    const index = this.slots.id[slot]! - holding.chunk.firstId
    this.releaseSpan({ holding, from: index, to: index + 1, sinceSteadyMs: 0 })
  }

  /** Gives back the jobs of a span that nobody waits for any more. Returns how many. */
  releaseSpan(span: Span): number {
    const { holding } = span
    let released = 0
    for (let from = span.from; from < span.to; from++) {
      if (holding.slotAt(from) === GONE) continue
      let to = from
      while (to < span.to && holding.slotAt(to) !== GONE) {
        const slot = holding.slotAt(to++)
        this.step(slot, EVENT.release)
        this.end(slot)
      }
      const { chunk } = holding
      this.#needs.outcomes.release(chunk, chunk.firstId + from, to - from, false, -1, 0, this.now.wallMs)
      released += to - from
      from = to
    }
    this.counters.released += released
    return released
  }

  /** Gives back everything that has not started: what waits here and what lanes have not taken. */
  releaseWaiting(): number {
    for (const lane of this.dispatcher.lanes)
      if (lane.outstanding > 0) this.dispatcher.takeBack(lane, this.now.steadyMs)
    let released = 0
    const waiting = [
      ...this.pending.drain(),
      ...this.#prerun.drain(),
      ...this.#awaiting.values(),
      ...this.suspects.drain(),
    ]
    this.#awaiting.clear()
    for (const span of waiting) released += this.releaseSpan(span)
    // Suspects whose note is being written stand in no list.
    for (const slot of [...this.slots.all()]) {
      if (this.slots.lane[slot] !== -1) continue
      this.releaseOne(slot)
      released++
    }
    this.#prerunJobs = 0
    return released
  }

  /**
   * Gives back what has waited for `afterMs` and lies beyond what the lanes will get done in that time, the last in
   * order first, so that other nodes have it. Returns how many.
   */
  releaseSurplus(afterMs: number): number {
    const { now, pending } = this
    let released = 0
    for (const span of this.suspects.surplus(now.steadyMs - afterMs)) released += this.releaseSpan(span)
    let allowedMs = this.dispatcher.staying * afterMs
    for (const group of [...pending.groups]) {
      const { task } = group
      const costMs = task.known ? task.costMs : afterMs
      const keep = costMs >= afterMs ? 0 : Math.floor(allowedMs / costMs)
      allowedMs -= Math.min(keep, group.waiting) * costMs
      if (group.waiting > keep) released += this.#releaseBack(group, keep, now.steadyMs - afterMs)
    }
    return released
  }

  /** Everything goes, without a word to anybody: the leases are somebody else's now. */
  drop(): void {
    for (const slot of [...this.slots.all()]) this.end(slot)
    this.pending.drain()
    this.#prerun.drain()
    this.#awaiting.clear()
    this.suspects.drain()
    this.#prerunJobs = 0
  }

  /** The engine stops, and does not wait for this job any longer. */
  interrupt(slot: number): void {
    if (this.interrupted.length < INTERRUPTED_MAX)
      this.interrupted.push({ id: this.slots.id[slot]!, task: this.slots.ref[slot]!.chunk.task })
  }

  /** A thread died while the job and others ran there. */
  sank(slot: number): void {
    this.#sunk.add(this.slots.id[slot]!)
    if (this.#sunk.size > SUNK_MAX) this.#sunk.delete(this.#sunk.values().next().value!)
  }

  /** Runs are also let go for other reasons (a stop, a fence, an earlier life as a dead letter): they alone prove nothing. */
  #maySinkThreads(chunk: ClaimedChunk): boolean {
    const { run, attempt, rescues, firstId, count } = chunk
    if (this.#sunk.size === 0 || run - attempt - rescues < DOUBTFUL_RUNS) return false
    for (let i = 0; i < count; i++) if (this.#sunk.has(firstId + i)) return true
    return false
  }

  /** Due times and expiries are judged by one clock on all nodes: the database's, and never too early. */
  #dueNowMs(): number {
    return this.#needs.occurrences?.surelyMs?.() ?? this.now.wallMs
  }

  #comeDue(span: Span): void {
    let living = 0
    for (let i = span.from; i < span.to; i++) {
      const slot = span.holding.slotAt(i)
      if (slot === GONE) continue
      this.slots.state[slot] = nextCode(this.slots.state[slot]!, EVENT.due)
      this.slots.heartbeatSteadyMs[slot] = this.now.steadyMs
      living++
    }
    this.#prerunJobs -= living
    this.#wait(span.holding, span.from, span.to, living)
  }

  #arriveOne(chunk: ClaimedChunk, awaits: boolean): void {
    const { now, slots } = this
    const holding = new Holding(chunk, this.taskOf(chunk.task), this.#maySinkThreads(chunk))
    const early = awaits || (chunk.timed && chunk.dueAtMs > this.#dueNowMs())
    const state = early ? STATE.prerun : STATE.pending
    let living = 0
    for (let i = 0; i < chunk.count; i++) {
      const slot = slots.create(chunk.firstId + i, holding, state, now.steadyMs)
      if (slot === NO_SLOT) {
        this.#refuseOne(chunk, i)
        continue
      }
      holding.setSlot(i, slot)
      living++
    }
    this.counters.arrived += living
    if (chunk.expiresAtMs !== null && chunk.expiresAtMs < this.#expiryMs) this.#expiryMs = chunk.expiresAtMs
    if (chunk.expiresAtMs !== null && chunk.expiresAtMs <= this.#dueNowMs()) {
      this.#expire({ holding, from: 0, to: chunk.count, sinceSteadyMs: 0 }, false)
    } else if (early) {
      this.#prerunJobs += living
      const span = { holding, from: 0, to: chunk.count, sinceSteadyMs: now.steadyMs }
      if (awaits) this.#awaiting.set(chunk, span)
      else this.#prerun.push(span)
    } else this.#wait(holding, 0, chunk.count, living)
  }

  /** No room, or this node holds the job already under an older lease: back it goes, uncharged. */
  #refuseOne(chunk: ClaimedChunk, index: number): void {
    this.counters.released++
    this.#needs.outcomes.release(chunk, chunk.firstId + index, 1, false, -1, 0, this.now.wallMs)
  }

  #wait(holding: Holding, from: number, to: number, living: number): void {
    if (living === 0) return
    const { steadyMs } = this.now
    if (holding.isSuspect) this.suspects.add({ holding, from, to, sinceSteadyMs: steadyMs })
    else this.pending.add(holding, from, to, living, steadyMs)
  }

  /** Back from a lane: whoever shared it has its note. */
  #waitAgain(holding: Holding, from: number, to: number): void {
    if (holding.isSuspect && !this.suspects.mayHaveCompany(holding))
      for (let i = from; i < to; i++) this.suspects.again(holding.slotAt(i))
    else this.pending.add(holding, from, to, to - from, this.now.steadyMs)
  }

  /** A job leaves the place where it waits. */
  #forget(slot: number, stateBefore: number): void {
    const holding = this.slots.ref[slot]!
    if (stateBefore === STATE.prerun) this.#prerunJobs--
    else if (!holding.isSuspect || this.suspects.isNoted(slot)) this.pending.forget(holding)
  }

  #expire(span: Span, counted = true): void {
    const { holding } = span
    let ended = 0
    for (let i = span.from; i < span.to; i++) {
      const slot = holding.slotAt(i)
      if (slot === GONE) continue
      this.step(slot, EVENT.fail)
      this.#needs.outcomes.expired(holding.chunk, holding.chunk.firstId + i, this.now.wallMs)
      this.#needs.notices?.expired(holding.chunk, holding.chunk.firstId + i)
      if (counted) this.pending.forget(holding)
      this.end(slot)
      ended++
    }
    this.counters.expired += ended
    this.counters.dead += ended
  }

  #releaseBack(group: Pending['groups'][number], keep: number, sinceBefore: number): number {
    const spans = group.spans.drain().sort((a, b) => (group.spans.isBefore(a, b) ? -1 : 1))
    let released = 0
    let excess = group.waiting - keep
    for (let at = spans.length - 1; at >= 0; at--) {
      const span = spans[at]!
      if (excess <= 0 || span.sinceSteadyMs > sinceBefore) continue
      const from = Math.max(span.from, span.to - excess)
      const gone = this.releaseSpan({ ...span, from })
      span.to = from
      excess -= gone
      released += gone
    }
    for (const span of spans) if (span.from < span.to) group.spans.push(span)
    this.pending.count(group, -released)
    return released
  }
}

/** Milliseconds between a job's signal and the end of its thread. */
export function graceOf(holding: Holding): number {
  return holding.task.info?.graceMs ?? GRACE_MS
}

/** Jobs that the report of a stop names: for people, who read no more. */
const INTERRUPTED_MAX = 1_000
/** Jobs that are remembered because a thread died with them. */
const SUNK_MAX = 10_000
/** Of a task that no file declares. */
const GRACE_MS = 5_000
