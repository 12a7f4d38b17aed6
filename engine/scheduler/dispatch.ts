// Which jobs go to which lane, and how many at a time. A batch is worth a few milliseconds of its task's recent run
// time, so that a fast task costs few messages and a slow one delays nobody; what nobody knows goes one at a time. At
// most two batches are with a lane: one that it works on and one so that it never waits for us.
//
// Promises: jobs of a queue and task are fed in order; exclusive and shared jobs never meet on a lane; what was fed
// behind a job that turns out slow is taken back and goes elsewhere, in order.

import type { FeedPiece, Lanes } from '../../threads/lanes.ts'
import { NO_SLOT, type Slots } from '../orchestrator/slots.ts'
import { GONE, type Holding, type Span } from './holding.ts'
import { LaneState, MODE, type Mode } from './lane-state.ts'
import type { Group, Pending } from './pending.ts'
import type { Cleared } from './suspects.ts'
import type { TaskState } from './task-state.ts'

/** Work in one batch: long against the cost of a message (about 30 us), short against what a person notices. */
const BATCH_MS = 8
/** Jobs in one piece: as many as a chunk has. */
const BATCH_JOBS_MAX = 1_000
/** A job may take this much longer than believed before what waits behind it is taken back. */
const STEAL_AFTER_MS = 20
/** The same for a thread that has not begun at all: it may simply not have had a core yet. */
const STEAL_UNBEGUN_MS = 500
/** Threads ring for ends, not for starts: while a start is not known, the rings are looked at this often. */
const PEEK_MS = 20
/** What an unknown job is believed to take: enough that nothing is fed behind it. */
const UNKNOWN_MS = 2 * BATCH_MS

export class Dispatcher {
  /** Of all numbers that lanes have had: those beyond the lanes of now stay, for they may come back. */
  readonly lanes: LaneState[] = []
  /** Steady time at which a lane may be stuck, or have begun something without a word. */
  nextStealMs = Number.POSITIVE_INFINITY
  readonly #slots: Slots<Holding>
  readonly #pending: Pending
  readonly #pool: Lanes
  readonly #onExpired: (span: Span) => void
  readonly #onBack: (holding: Holding, from: number, to: number) => void
  #nowSteadyMs = 0
  /** By the clock that expiries are judged by. */
  #dueNowMs = 0
  /** The lane that #fits asks about. */
  #asked: LaneState

  /** onExpired ends the living jobs of a span; onBack lets jobs that no lane has any more wait again. */
  constructor(
    slots: Slots<Holding>,
    pending: Pending,
    pool: Lanes,
    onExpired: (span: Span) => void,
    onBack: (holding: Holding, from: number, to: number) => void,
  ) {
    this.#slots = slots
    this.#pending = pending
    this.#pool = pool
    this.#onExpired = onExpired
    this.#onBack = onBack
    this.resize()
    this.#asked = this.lanes[0]!
  }

  /** Lanes that are there to stay. */
  get staying(): number {
    return this.#pool.count
  }

  /** The number of lanes may have changed: begins with new ones, and feeds those no more that leave. */
  resize(): LaneState[] {
    const { count } = this.#pool
    while (this.lanes.length < count) this.lanes.push(new LaneState(this.lanes.length))
    for (const lane of this.lanes) lane.isLeaving = lane.index >= count
    return this.lanes.slice(count)
  }

  /** Feeds lanes until they are full or nothing fits; `alone` are slots that must run by themselves. Returns jobs fed. */
  dispatch(nowSteadyMs: number, dueNowMs: number, alone: Cleared[]): number {
    this.#nowSteadyMs = nowSteadyMs
    this.#dueNowMs = dueNowMs
    let fed = 0
    while (alone.length > 0 && this.#feedAlone(alone[0]!)) {
      alone.shift()
      fed++
    }
    if (this.#pending.size === 0) return fed
    this.#reserve(alone.length > 0)
    for (;;) {
      const lane = this.#neediest()
      if (lane === null) return fed
      fed += this.#feed(lane, this.#groupFor(lane)!)
    }
  }

  /** A start report: the job runs since `atSteadyMs`. */
  started(slot: number, atSteadyMs: number): void {
    const lane = this.lanes[this.#slots.lane[slot]!]!
    lane.running++
    lane.isDeaf = false
    if (atSteadyMs > lane.progressSteadyMs) lane.progressSteadyMs = atSteadyMs
  }

  /** The job is no longer with its lane. `ran`: it had started. */
  left(slot: number, ran: boolean, nowSteadyMs: number): void {
    const slots = this.#slots
    const lane = this.lanes[slots.lane[slot]!]!
    const next = slots.next[slot]!
    const prev = slots.prev[slot]!
    if (prev === NO_SLOT) lane.head = next
    else slots.next[prev] = next
    if (next === NO_SLOT) lane.tail = prev
    else slots.prev[next] = prev
    slots.lane[slot] = -1
    lane.outstanding--
    if (ran) {
      lane.running--
      lane.isDeaf = false
      lane.progressSteadyMs = nowSteadyMs
    }
    if (lane.mode === MODE.shared) {
      const task = slots.ref[slot]!.task
      lane.shares.set(task, lane.shares.get(task)! - 1)
    }
    if (lane.outstanding > 0) lane.expectedMs -= slots.expectedMs[slot]!
    else this.#emptied(lane)
  }

  /** Takes back what the lane has not begun; it waits again at its old place. Returns how many jobs came back. */
  takeBack(lane: LaneState, nowSteadyMs: number): number {
    const back = this.#pool.revoke(lane.index)
    this.requeue(back, nowSteadyMs)
    return back.length
  }

  /** Jobs that were fed and never taken wait again; consecutive ones as one span. */
  requeue(back: readonly number[], nowSteadyMs: number): void {
    const slots = this.#slots
    let holding: Holding | null = null
    let from = 0
    let to = 0
    for (const slot of back) {
      const owner = slots.ref[slot]
      if (owner === null || owner === undefined) continue
      const index = slots.id[slot]! - owner.chunk.firstId
      this.left(slot, false, nowSteadyMs)
      if (owner === holding && index === to) {
        to++
        continue
      }
      if (holding !== null) this.#onBack(holding, from, to)
      holding = owner
      from = index
      to = index + 1
    }
    if (holding !== null) this.#onBack(holding, from, to)
  }

  /** Takes jobs back from lanes that are stuck behind a slow one. Returns how many; sets nextStealMs. */
  steal(nowSteadyMs: number): number {
    let stolen = 0
    let nextLook = Number.POSITIVE_INFINITY
    for (const lane of this.lanes) {
      if (lane.outstanding <= lane.running) continue
      nextLook = Math.min(nextLook, nowSteadyMs + PEEK_MS)
      if (lane.mode === MODE.alone || !this.#pool.isOpen(lane.index)) continue
      const stuckAt = this.#stuckAt(lane)
      if (stuckAt > nowSteadyMs) {
        nextLook = Math.min(nextLook, stuckAt)
        continue
      }
      if (lane.running > 0) this.#slots.ref[lane.head]!.task.learnAtLeast(nowSteadyMs - lane.progressSteadyMs)
      const isDeaf = this.#hasSeatsForAll(lane)
      stolen += this.takeBack(lane, nowSteadyMs)
      lane.isDeaf = isDeaf && lane.outstanding > 0
    }
    this.nextStealMs = nextLook
    return stolen
  }

  /** Milliseconds of work that the lane still has, `full` when nobody can tell. */
  workMs(lane: LaneState, nowSteadyMs: number, full: number): number {
    if (lane.outstanding === 0) return 0
    if (lane.mode === MODE.alone || this.#stuckAt(lane) <= nowSteadyMs) return full
    const head = this.#slots.ref[lane.head]
    if (head !== null && head !== undefined && !head.task.known) return full
    return Math.min(full, lane.expectedMs)
  }

  /** Jobs that the lane could begin at once beside those that it has: only where jobs share it. */
  seats(lane: LaneState): number {
    if (lane.mode !== MODE.shared || lane.isDeaf || lane.reservedFor !== MODE.free) return 0
    let most = 0
    for (const [task, jobs] of lane.shares) most = Math.max(most, task.concurrency - jobs)
    return most
  }

  /** Nothing waits in the lane for the end of another: what it was fed should begin at once. */
  #hasSeatsForAll(lane: LaneState): boolean {
    if (lane.mode !== MODE.shared) return false
    for (const [task, jobs] of lane.shares) if (jobs > task.concurrency) return false
    return true
  }

  #stuckAt(lane: LaneState): number {
    if (this.#hasSeatsForAll(lane)) return Math.max(lane.progressSteadyMs, lane.fedSteadyMs) + STEAL_UNBEGUN_MS
    if (lane.running === 0) return lane.progressSteadyMs + STEAL_UNBEGUN_MS
    const { task } = this.#slots.ref[lane.head]!
    // A shared job costs the lane a fraction of the time that it takes.
    const expectedMs = lane.mode === MODE.shared ? task.meanMs : this.#slots.expectedMs[lane.head]!
    return lane.progressSteadyMs + expectedMs + STEAL_AFTER_MS
  }

  /** The open lane with the least work that accepts something that waits. */
  #neediest(): LaneState | null {
    let best: LaneState | null = null
    for (const lane of this.lanes) {
      if (best !== null && !(lane.expectedMs < best.expectedMs)) continue
      if (!this.#accepts(lane) || this.#groupFor(lane) === null) continue
      best = lane
    }
    return best
  }

  #accepts(lane: LaneState): boolean {
    if (lane.outstanding === 0) return this.#pool.isOpen(lane.index)
    if (lane.mode === MODE.alone || lane.reservedFor !== MODE.free) return false
    // long jobs that share a lane do not fill it: its seats do
    if (lane.mode === MODE.shared) return !lane.isDeaf && this.#pool.isOpen(lane.index)
    if (lane.mode === MODE.exclusive && lane.expectedMs > BATCH_MS) return false
    return this.#stuckAt(lane) > this.#nowSteadyMs && this.#pool.isOpen(lane.index)
  }

  #groupFor(lane: LaneState): Group | null {
    this.#asked = lane
    return this.#pending.first(this.#fits)
  }

  readonly #fits = (group: Group): boolean => {
    const lane = this.#asked
    const mode = modeOf(group.task)
    if (lane.outstanding > 0 && lane.mode !== mode) return false
    if (lane.reservedFor !== MODE.free && lane.reservedFor !== mode) return false
    return this.#batchOf(group.task, lane) > 0
  }

  /** How many jobs of the task the lane may be given now. */
  #batchOf(task: TaskState, lane: LaneState): number {
    if (task.isShared) {
      const k = task.concurrency
      const isLate = lane.running > 0 && lane.progressSteadyMs + task.meanMs + STEAL_AFTER_MS <= this.#nowSteadyMs
      const ahead = task.known && !isLate ? Math.max(1, Math.floor((k * BATCH_MS) / Math.max(task.meanMs, 1e-3))) : 0
      return Math.min(BATCH_JOBS_MAX, k + Math.min(ahead, BATCH_JOBS_MAX)) - (lane.shares.get(task) ?? 0)
    }
    if (lane.outstanding === 0) return task.known ? Math.max(1, Math.floor(BATCH_MS / task.costMs)) : 1
    if (!task.known || lane.expectedMs + task.costMs > 2 * BATCH_MS) return 0
    return Math.max(1, Math.floor(BATCH_MS / task.costMs))
  }

  #feed(lane: LaneState, group: Group): number {
    const open = this.#openLanes()
    const share = Math.ceil(group.waiting / open)
    let left = Math.min(this.#batchOf(group.task, lane), share, BATCH_JOBS_MAX)
    const pieces: FeedPiece[] = []
    let fed = 0
    while (left > 0 && group.waiting > 0) {
      const span = group.spans.peek()!
      const took = this.#takeFrom(span, lane, group, left, pieces)
      if (span.from === span.to && group.waiting > 0) group.spans.shift()
      left -= took
      fed += took
    }
    if (pieces.length > 0) this.#pool.feed(lane.index, pieces)
    lane.reservedFor = MODE.free
    this.#pending.served(group)
    return fed
  }

  /** Takes up to `max` consecutive living jobs from the front of the span as a piece; moves the front past them. */
  #takeFrom(span: Span, lane: LaneState, group: Group, max: number, pieces: FeedPiece[]): number {
    const { holding } = span
    const { chunk } = holding
    while (span.from < span.to && holding.slotAt(span.from) === GONE) span.from++
    if (span.from === span.to) return 0
    if (chunk.expiresAtMs !== null && chunk.expiresAtMs <= this.#dueNowMs) {
      this.#onExpired(span) // ends every living job of it and counts them out
      span.from = span.to
      return 0
    }
    const from = span.from
    const limit = Math.min(span.to, from + max)
    let to = from + 1
    while (to < limit && holding.slotAt(to) !== GONE) to++
    span.from = to
    pieces.push(this.#give(lane, holding, from, to, modeOf(holding.task)))
    this.#pending.count(group, from - to)
    return to - from
  }

  #feedAlone({ slot, generation }: Cleared): boolean {
    if (!this.#slots.isCurrent(slot, generation)) return true // cancelled meanwhile
    const holding = this.#slots.ref[slot]!
    let free: LaneState | null = null
    for (const lane of this.lanes) {
      if (lane.outstanding > 0 || !this.#pool.isOpen(lane.index)) continue
      if (free === null || lane.reservedFor === MODE.alone) free = lane
    }
    if (free === null) return false
    const index = this.#slots.id[slot]! - holding.chunk.firstId
    this.#pool.feed(free.index, [this.#give(free, holding, index, index + 1, MODE.alone)])
    free.reservedFor = MODE.free
    return true
  }

  /** Jobs [from, to) are the lane's, once it is fed the piece. */
  #give(lane: LaneState, holding: Holding, from: number, to: number, mode: Mode): FeedPiece {
    const piece = this.#pieceOf(lane, holding, from, to)
    const jobs = to - from
    if (lane.outstanding === 0) lane.progressSteadyMs = this.#nowSteadyMs
    lane.fedSteadyMs = this.#nowSteadyMs
    lane.mode = mode
    lane.outstanding += jobs
    if (mode === MODE.shared) lane.shares.set(holding.task, (lane.shares.get(holding.task) ?? 0) + jobs)
    return piece
  }

  #pieceOf(lane: LaneState, holding: Holding, from: number, to: number): FeedPiece {
    const table = this.#slots
    const { chunk, task } = holding
    const count = to - from
    const slots = new Uint32Array(count)
    const generations = new Uint32Array(count)
    const expectedMs = task.known ? task.costMs : UNKNOWN_MS
    let tail = lane.tail
    for (let i = 0; i < count; i++) {
      const slot = holding.slotAt(from + i)
      slots[i] = slot
      generations[i] = table.generation[slot]!
      table.lane[slot] = lane.index
      table.expectedMs[slot] = expectedMs
      table.prev[slot] = tail
      table.next[slot] = NO_SLOT
      if (tail === NO_SLOT) lane.head = slot
      else table.next[tail] = slot
      tail = slot
    }
    lane.tail = tail
    lane.expectedMs += expectedMs * count
    return {
      task: chunk.task,
      queue: chunk.queue,
      leaseId: chunk.leaseId,
      firstId: chunk.firstId + from,
      slots,
      generations,
      payloads: holding.payloads(from, to),
      metas: holding.metas(from, to),
      attempt: chunk.attempt,
      run: chunk.run,
      maxAttempts: holding.maxAttempts,
      createdAtMs: chunk.createdAtMs,
      group: chunk.group,
    }
  }

  /**
   * When what comes first can run on no lane because all of them do the other kind, the one with the least work runs
   * dry for it. Decided anew each time, so a reservation never outlives its reason.
   */
  #reserve(alone: boolean): void {
    for (const lane of this.lanes) lane.reservedFor = MODE.free
    const first = this.#pending.first(always)
    const wanted = alone ? MODE.alone : first === null ? MODE.free : modeOf(first.task)
    if (wanted === MODE.free) return
    let least: LaneState | null = null
    for (const lane of this.lanes) {
      if (lane.outstanding === 0 || lane.mode === wanted) {
        if (alone && lane.outstanding > 0) continue // another one that runs alone is of no use
        if (this.#pool.isOpen(lane.index)) return
        continue
      }
      if (lane.mode === MODE.alone || lane.isLeaving) continue
      if (least === null || lane.expectedMs < least.expectedMs) least = lane
    }
    if (least !== null) least.reservedFor = wanted
  }

  #openLanes(): number {
    let open = 0
    for (const lane of this.lanes) if (this.#pool.isOpen(lane.index)) open++
    return Math.max(1, open)
  }

  #emptied(lane: LaneState): void {
    lane.expectedMs = 0
    lane.running = 0
    lane.isDeaf = false
    lane.mode = MODE.free
    lane.guilty = NO_SLOT
    lane.shares.clear()
  }
}

/** What a lane does that runs this task. */
function modeOf(task: TaskState): Mode {
  return task.isShared ? MODE.shared : MODE.exclusive
}

function always(): boolean {
  return true
}
