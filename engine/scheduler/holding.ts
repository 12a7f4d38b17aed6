// A chunk that this node holds, and its pieces. The chunk object is shared by all of its jobs; a job is its index in it.
// Payloads stay one joined string: a piece of consecutive jobs is a slice of it (no copy), and where the jobs' texts
// begin is found once, walking forward, only as far as somebody asked.

import { MAX_ATTEMPTS_DEFAULT, PAYLOAD_SEPARATOR } from '../base/limits.ts'
import type { ClaimedChunk } from '../store/types.ts'
import type { TaskState } from './task-state.ts'

/** In `slots`: this job left the holding (it ended, or was given back). */
export const GONE = 0xffffffff

/** Runs that were let go uncharged, whatever the reason, before a job that was there when a thread died runs alone. */
export const DOUBTFUL_RUNS = 5

export class Holding {
  readonly chunk: ClaimedChunk
  readonly task: TaskState
  /** Threads died several times while it and others ran there: it may be what ends them. */
  readonly maySinkThreads: boolean
  /** That, or its holder died with it. */
  readonly isSuspect: boolean
  /** Charged attempts at most: what the job was enqueued with, else the task's. */
  readonly maxAttempts: number
  /** Slot per job; written by the scheduler. A chunk of one, the most common small thing, has no array. */
  readonly #slots: Uint32Array | null
  #slot = GONE
  #payloads: Offsets | null = null
  #metas: Offsets | null = null

  constructor(chunk: ClaimedChunk, task: TaskState, maySinkThreads: boolean) {
    this.chunk = chunk
    this.task = task
    this.maySinkThreads = maySinkThreads
    this.isSuspect = chunk.rescues > 0 || maySinkThreads
    this.maxAttempts = chunk.maxAttempts ?? task.info?.maxAttempts ?? MAX_ATTEMPTS_DEFAULT
    this.#slots = chunk.count > 1 ? new Uint32Array(chunk.count).fill(GONE) : null
  }

  slotAt(index: number): number {
    return this.#slots === null ? this.#slot : this.#slots[index]!
  }

  setSlot(index: number, slot: number): void {
    if (this.#slots === null) this.#slot = slot
    else this.#slots[index] = slot
  }

  /** Texts of the jobs [from, to), joined. */
  payloads(from: number, to: number): string {
    if (from === 0 && to === this.chunk.count) return this.chunk.payloads
    this.#payloads ??= new Offsets(this.chunk.payloads, this.chunk.count)
    return this.#payloads.slice(from, to)
  }

  metas(from: number, to: number): string | null {
    const { metas, count } = this.chunk
    if (metas === null || (from === 0 && to === count)) return metas
    this.#metas ??= new Offsets(metas, count)
    return this.#metas.slice(from, to)
  }
}

/** Where each of `count` texts begins in a joined string; known up to a point, O(n) over the whole life. */
class Offsets {
  readonly #text: string
  readonly #starts: Uint32Array
  #known = 0

  constructor(text: string, count: number) {
    this.#text = text
    this.#starts = new Uint32Array(count + 1)
  }

  slice(from: number, to: number): string {
    while (this.#known < to) {
      const end = this.#text.indexOf(PAYLOAD_SEPARATOR, this.#starts[this.#known]!)
      this.#starts[++this.#known] = (end < 0 ? this.#text.length : end) + 1
    }
    return this.#text.slice(this.#starts[from]!, this.#starts[to]! - 1)
  }
}

/** Jobs [from, to) of a holding that wait together; `from` moves forward as they are fed. */
export interface Span {
  readonly holding: Holding
  from: number
  to: number
  /** Steady time since which they wait here. */
  sinceSteadyMs: number
}

/** Order of the queue: rank, then the database's sequence number, then the place in the chunk. */
export function spanBefore(a: Span, b: Span): boolean {
  const x = a.holding.chunk
  const y = b.holding.chunk
  if (x.rank !== y.rank) return x.rank < y.rank
  if (x.seq !== y.seq) return x.seq < y.seq
  if (x.firstId !== y.firstId) return x.firstId < y.firstId
  return a.from < b.from
}
