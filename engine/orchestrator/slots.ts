// The table of orchestrators: a struct of arrays. One orchestrator is one index (its slot) into every array, plus a
// generation that changes whenever the slot is given to somebody else, so that a late report under an old generation
// is told apart from a report about the present owner.
//
//   slot ─────────►  0    1    2    3 ...                 id ─► slot: one Map, for cancel and look-ups
//   state           [2 ] [1 ] [1 ] [- ]                   free slots: a list threaded through `next`
//   generation      [7 ] [1 ] [3 ] [2 ]
//   ref             [A ] [A ] [B ] [  ]   A, B: what the owner shares among its slots (a held chunk)
//   next / prev      ── the jobs fed to one lane, in feeding order ──
//
// Promise: at most `max` slots; growth doubles; create and free are O(1). The arrays are replaced when the table
// grows, so nobody keeps one across a create. The scheduler's loop is the only writer of everything here.

import { invariant } from '../base/errors.ts'

export const NO_SLOT = -1

export class Slots<Ref> {
  /** Index into STATES. */
  state: Uint8Array
  /** Bits of FLAG in engine/scheduler. */
  flags: Uint8Array
  /** Lane that the job was fed to; -1 while it waits here. */
  lane: Int16Array
  /** Heartbeats missed in a row. */
  missed: Uint16Array
  /** Owner number of the slot; starts at 1, skips 0 when it wraps. */
  generation: Uint32Array
  /** Next and previous slot of the same lane, or of the free list (next only). */
  next: Int32Array
  prev: Int32Array
  /** What the scheduler believed the job would take, in milliseconds, when it was fed. */
  expectedMs: Float32Array
  /** Job id. */
  id: Float64Array
  /** Wall time of the thread's start report; 0 before it. */
  startedAtMs: Float64Array
  /** Steady time of the start; basis of the deadline and of "is this long?". */
  startedSteadyMs: Float64Array
  /** Steady time at which the next thing happens to a running job: abort, then kill. Infinity: never. */
  deadlineSteadyMs: Float64Array
  /** Steady time of the last sign of life. */
  heartbeatSteadyMs: Float64Array
  /** What the slots of one chunk share; null in a free slot. */
  readonly ref: (Ref | null)[] = []

  readonly #byId = new Map<number, number>()
  readonly #max: number
  #capacity: number
  #firstFree = NO_SLOT
  /** Slots from here on were never used, so they are in no free list yet. */
  #untouched = 0

  constructor(max: number, initial = 1_024) {
    this.#max = max
    this.#capacity = Math.min(max, initial)
    const n = this.#capacity
    this.state = new Uint8Array(n)
    this.flags = new Uint8Array(n)
    this.lane = new Int16Array(n)
    this.missed = new Uint16Array(n)
    this.generation = new Uint32Array(n)
    this.next = new Int32Array(n)
    this.prev = new Int32Array(n)
    this.expectedMs = new Float32Array(n)
    this.id = new Float64Array(n)
    this.startedAtMs = new Float64Array(n)
    this.startedSteadyMs = new Float64Array(n)
    this.deadlineSteadyMs = new Float64Array(n)
    this.heartbeatSteadyMs = new Float64Array(n)
  }

  /** Orchestrators that live. */
  get size(): number {
    return this.#byId.size
  }

  get capacity(): number {
    return this.#capacity
  }

  get max(): number {
    return this.#max
  }

  /** A slot for the job, or NO_SLOT when the table is at its limit or the id is already held. */
  create(id: number, ref: Ref, state: number, nowSteadyMs: number): number {
    if (this.#byId.has(id)) return NO_SLOT
    let slot = this.#firstFree
    if (slot !== NO_SLOT) {
      this.#firstFree = this.next[slot]!
    } else {
      if (this.#untouched === this.#capacity && !this.#grow()) return NO_SLOT
      slot = this.#untouched++
      this.generation[slot] = 1
    }
    this.#byId.set(id, slot)
    this.state[slot] = state
    this.flags[slot] = 0
    this.lane[slot] = -1
    this.missed[slot] = 0
    this.next[slot] = NO_SLOT
    this.prev[slot] = NO_SLOT
    this.expectedMs[slot] = 0
    this.id[slot] = id
    this.startedAtMs[slot] = 0
    this.startedSteadyMs[slot] = 0
    this.deadlineSteadyMs[slot] = Number.POSITIVE_INFINITY
    this.heartbeatSteadyMs[slot] = nowSteadyMs
    this.ref[slot] = ref
    return slot
  }

  /** Gives the slot back; every report under its present generation is late from now on. */
  free(slot: number): void {
    invariant(this.ref[slot] !== null && this.ref[slot] !== undefined, 'a slot is freed once', { slot })
    this.#byId.delete(this.id[slot]!)
    this.ref[slot] = null
    const generation = (this.generation[slot]! + 1) >>> 0
    this.generation[slot] = generation === 0 ? 1 : generation
    this.next[slot] = this.#firstFree
    this.#firstFree = slot
  }

  /** The slot of a job, or NO_SLOT. */
  of(id: number): number {
    return this.#byId.get(id) ?? NO_SLOT
  }

  /** True while `generation` still owns the slot. */
  isCurrent(slot: number, generation: number): boolean {
    return slot < this.#untouched && this.generation[slot] === generation && this.ref[slot] !== null
  }

  /** Every living slot, in no particular order. For copies and ends, not for the loop. */
  all(): IterableIterator<number> {
    return this.#byId.values()
  }

  #grow(): boolean {
    if (this.#capacity >= this.#max) return false
    const n = Math.min(this.#max, this.#capacity * 2)
    this.state = copied(new Uint8Array(n), this.state)
    this.flags = copied(new Uint8Array(n), this.flags)
    this.lane = copied(new Int16Array(n), this.lane)
    this.missed = copied(new Uint16Array(n), this.missed)
    this.generation = copied(new Uint32Array(n), this.generation)
    this.next = copied(new Int32Array(n), this.next)
    this.prev = copied(new Int32Array(n), this.prev)
    this.expectedMs = copied(new Float32Array(n), this.expectedMs)
    this.id = copied(new Float64Array(n), this.id)
    this.startedAtMs = copied(new Float64Array(n), this.startedAtMs)
    this.startedSteadyMs = copied(new Float64Array(n), this.startedSteadyMs)
    this.deadlineSteadyMs = copied(new Float64Array(n), this.deadlineSteadyMs)
    this.heartbeatSteadyMs = copied(new Float64Array(n), this.heartbeatSteadyMs)
    this.#capacity = n
    return true
  }
}

function copied<A extends { set(source: A): void }>(target: A, source: A): A {
  target.set(source)
  return target
}
