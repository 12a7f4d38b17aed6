// Jobs whose holder died with them, or whose thread did several times while others ran there too: any of them may be what
// killed it. None runs without a durable note that it is about to: when the process dies again, the note says whom to
// suspect, and nobody else is blamed. So of thousands that die together a second holder notes a few at a time, and these
// run like all others; when it dies too, only that few are left. One for whom another dead holder would be the end (it
// becomes a dead letter) runs by itself on a lane, as the only suspect of this node, from before its note until its outcome
// is written: it dies for nobody else. What took threads down runs by itself on a lane too.

import { NO_SLOT, type Slots } from '../orchestrator/slots.ts'
import { Heap } from './heap.ts'
import { GONE, type Holding, type Span, spanBefore } from './holding.ts'
import type { MarkedJob } from './needs.ts'
import type { TaskState } from './task-state.ts'

/** Work of exclusive jobs that is noted at a time per lane, beside what runs: long against the time that a note takes. */
const NOTED_MS = 8
/** And so many at most: each of them runs by itself when the holder dies once more. */
const NOTED_JOBS_MAX = 64

/** A job that may be fed alone, while the generation still owns the slot. */
export interface Cleared {
  readonly slot: number
  readonly generation: number
}

export interface SuspectsNeeds {
  /** Lanes that are there to stay. */
  lanes(): number
  /** Writes the notes. Rejects: none of these may run. */
  mark(jobs: readonly MarkedJob[]): Promise<void>
  /** Resolves when every outcome that was handed over before is written; null: they are written at once. */
  readonly settled: (() => Promise<void>) | null
  /** Their note stands, and these jobs of a holding may run beside others. */
  onNoted(span: Span): void
  onMarked(): void
  onRefused(slot: number, error: unknown): void
}

/** Suspects of one task that may run beside others. */
interface Company {
  readonly waiting: Heap<Span>
  /** Noted, or about to be, and not ended. */
  noted: number
}

export class Suspects {
  /** Noted, and may be fed alone. The dispatcher takes from the front. */
  readonly ready: Cleared[] = []
  readonly #alone = new Heap<Span>(spanBefore)
  readonly #companies = new Map<TaskState, Company>()
  readonly #slots: Slots<Holding>
  readonly #rescuesMax: number
  readonly #needs: SuspectsNeeds
  /** The only suspect that may run now. */
  #last: Cleared | null = null
  #marking = 0
  /** Those who are to run beside others, until they end; true: their note stands. */
  readonly #noted = new Map<number, boolean>()
  /** A note for some that may run beside others is being written: those that end meanwhile make room for the next. */
  #isNoting = false
  #waitingInCompany = false
  #waitingJobs = 0

  constructor(slots: Slots<Holding>, rescuesMax: number, needs: SuspectsNeeds) {
    this.#slots = slots
    this.#rescuesMax = rescuesMax
    this.#needs = needs
  }

  /** Jobs that wait for their note, with some that have left meanwhile. */
  get waiting(): number {
    return this.#waitingJobs
  }

  get isEmpty(): boolean {
    return this.#alone.size === 0 && this.ready.length === 0 && this.#marking === 0 && !this.#waitingInCompany
  }

  /** Once noted, jobs of this holding run like others. */
  mayHaveCompany({ chunk, maySinkThreads }: Holding): boolean {
    return !maySinkThreads && chunk.rescues + 1 < this.#rescuesMax
  }

  add(span: Span): void {
    this.#waitingJobs += span.to - span.from
    if (!this.mayHaveCompany(span.holding)) {
      this.#alone.push(span)
      return
    }
    const { task } = span.holding
    let company = this.#companies.get(task)
    if (company === undefined) {
      company = { waiting: new Heap<Span>(spanBefore), noted: 0 }
      this.#companies.set(task, company)
    }
    company.waiting.push(span)
    this.#waitingInCompany = true
  }

  /** It was to run by itself, and no lane has it any more: its note stands. */
  again(slot: number): void {
    this.ready.unshift({ slot, generation: this.#slots.generation[slot]! })
  }

  /** The job waits like others, as its note stands. */
  isNoted(slot: number): boolean {
    return this.#noted.get(slot) === true
  }

  /** A suspect has left this node. */
  ended(slot: number, { task }: Holding): void {
    if (!this.#noted.delete(slot)) return
    const company = this.#companies.get(task)!
    if (--company.noted === 0 && company.waiting.size === 0) this.#companies.delete(task)
  }

  /** Asks for notes for as many as lanes could take; `alone` of them run already. */
  step(alone: number): void {
    const table = this.#slots
    if (this.#last !== null && table.isCurrent(this.#last.slot, this.#last.generation)) return
    const wasLast = this.#last !== null
    // the first note behind him waits until his outcome is written, and those behind that know it
    if (this.#waitingInCompany && !this.#isNoting && this.#noteCompany(wasLast)) this.#last = null
    const busy = this.#marking + this.ready.length + alone
    let room = this.#needs.lanes() - busy
    if (room <= 0) return
    const taken: Cleared[] = []
    for (; room > 0; room--) {
      const isLast = this.#isLastChance()
      if (isLast && (busy > 0 || taken.length > 0 || this.#companies.size > 0)) break
      const slot = this.#take(this.#alone)
      if (slot === NO_SLOT) break
      taken.push({ slot, generation: table.generation[slot]! })
      this.#last = isLast ? taken[0]! : null
      if (isLast) break
    }
    if (taken.length > 0) this.#noteAlone(taken, wasLast || this.#last !== null)
  }

  /** What has waited since before behind the only suspect that may run: others can have it. */
  surplus(sinceBefore: number): Span[] {
    if (this.#last === null || !this.#slots.isCurrent(this.#last.slot, this.#last.generation)) return []
    const spans: Span[] = []
    for (const heap of [this.#alone, ...[...this.#companies.values()].map(({ waiting }) => waiting)])
      for (const span of heap.drain()) {
        if (span.sinceSteadyMs > sinceBefore) heap.push(span)
        else {
          this.#waitingJobs -= span.to - span.from
          spans.push(span)
        }
      }
    return spans
  }

  /** Takes out everything that is not being noted just now. */
  drain(): Span[] {
    const spans = this.#alone.drain()
    for (const [task, { waiting, noted }] of this.#companies) {
      spans.push(...waiting.drain())
      if (noted === 0) this.#companies.delete(task)
    }
    this.#waitingInCompany = false
    this.#waitingJobs = 0
    for (const { slot, generation } of this.ready.splice(0)) {
      if (!this.#slots.isCurrent(slot, generation)) continue
      const holding = this.#slots.ref[slot]!
      const index = this.#slots.id[slot]! - holding.chunk.firstId
      spans.push({ holding, from: index, to: index + 1, sinceSteadyMs: 0 })
    }
    return spans
  }

  /** False: there was nobody to note. */
  #noteCompany(settleFirst: boolean): boolean {
    const taken: Cleared[] = []
    this.#waitingInCompany = false
    for (const [task, company] of this.#companies) {
      const most = this.#needs.lanes() * mostOf(task)
      while (company.noted < most) {
        const slot = this.#take(company.waiting)
        if (slot === NO_SLOT) break
        company.noted++
        this.#noted.set(slot, false)
        taken.push({ slot, generation: this.#slots.generation[slot]! })
      }
      if (company.waiting.size > 0) this.#waitingInCompany = true
      else if (company.noted === 0) this.#companies.delete(task)
    }
    if (taken.length === 0) return false
    this.#isNoting = true
    this.#note(
      taken,
      settleFirst,
      (living) => this.#joinOthers(living),
      () => {
        this.#isNoting = false
      },
    )
    return true
  }

  #noteAlone(taken: readonly Cleared[], settleFirst: boolean): void {
    this.#marking += taken.length
    this.#note(
      taken,
      settleFirst,
      (living) => this.ready.push(...living),
      () => {
        this.#marking -= taken.length
      },
    )
  }

  #note(
    taken: readonly Cleared[],
    settleFirst: boolean,
    onNoted: (living: readonly Cleared[]) => void,
    onOver: () => void,
  ): void {
    const table = this.#slots
    const living = () => taken.filter(({ slot, generation }) => table.isCurrent(slot, generation))
    const mark = () => {
      const jobs = living().map(({ slot }) => ({ chunk: table.ref[slot]!.chunk, jobId: table.id[slot]! }))
      return jobs.length === 0 ? undefined : this.#needs.mark(jobs)
    }
    const { settled } = this.#needs
    const noted = settleFirst && settled !== null ? settled().then(mark) : Promise.resolve(mark())
    noted.then(
      () => {
        onOver()
        onNoted(living())
        this.#needs.onMarked()
      },
      (error: unknown) => {
        onOver()
        for (const { slot } of living()) this.#needs.onRefused(slot, error)
        this.#needs.onMarked()
      },
    )
  }

  /** Neighbours of a chunk as one span. */
  #joinOthers(living: readonly Cleared[]): void {
    let span: Span | null = null
    for (const { slot } of living) {
      this.#noted.set(slot, true)
      const holding = this.#slots.ref[slot]!
      const index = this.#slots.id[slot]! - holding.chunk.firstId
      if (span !== null && span.holding === holding && span.to === index) {
        span.to++
        continue
      }
      if (span !== null) this.#needs.onNoted(span)
      span = { holding, from: index, to: index + 1, sinceSteadyMs: 0 }
    }
    if (span !== null) this.#needs.onNoted(span)
  }

  /** The next in line is a dead letter when its holder dies once more. */
  #isLastChance(): boolean {
    this.#skipGone(this.#alone)
    const span = this.#alone.peek()
    return span !== undefined && span.holding.chunk.rescues + 1 >= this.#rescuesMax
  }

  #skipGone(waiting: Heap<Span>): void {
    for (let span = waiting.peek(); span !== undefined; span = waiting.peek()) {
      while (span.from < span.to && span.holding.slotAt(span.from) === GONE) {
        span.from++
        this.#waitingJobs--
      }
      if (span.from < span.to) return
      waiting.shift()
    }
  }

  #take(waiting: Heap<Span>): number {
    this.#skipGone(waiting)
    const span = waiting.peek()
    if (span === undefined) return NO_SLOT
    this.#waitingJobs--
    return span.holding.slotAt(span.from++)
  }
}

/** Jobs of a task that one lane may have, noted, at a time: those that it runs at once, and what keeps it busy until the next note. */
function mostOf(task: TaskState): number {
  const ahead = task.known ? Math.min(NOTED_JOBS_MAX, Math.floor(NOTED_MS / task.costMs)) : 0
  return task.isShared ? task.concurrency + ahead : Math.max(1, ahead)
}
