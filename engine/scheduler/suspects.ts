// Jobs whose holder died with them, or whose thread did several times while others ran there too: any of them may be what
// killed it. They run one at a time per lane, alone on it, and only after a durable note that they are about to run. When
// the process dies again, the note says whom to suspect, and nobody else is blamed. One for whom that would be the end
// (another dead holder makes it a dead letter) runs as the only suspect of this node, from before its note until its
// outcome is written: it dies for nobody else.

import { NO_SLOT, type Slots } from '../orchestrator/slots.ts'
import { Heap } from './heap.ts'
import { GONE, type Holding, type Span, spanBefore } from './holding.ts'
import type { MarkedJob } from './needs.ts'

/** A job that may be fed alone, while the generation still owns the slot. */
export interface Cleared {
  readonly slot: number
  readonly generation: number
}

export interface SuspectsNeeds {
  /** Writes the notes. Rejects: none of these may run. */
  mark(jobs: readonly MarkedJob[]): Promise<void>
  /** Resolves when every outcome that was handed over before is written; null: they are written at once. */
  readonly settled: (() => Promise<void>) | null
  onMarked(): void
  onRefused(slot: number, error: unknown): void
}

export class Suspects {
  /** Noted, and may be fed. The dispatcher takes from the front. */
  readonly ready: Cleared[] = []
  readonly #waiting = new Heap<Span>(spanBefore)
  readonly #slots: Slots<Holding>
  readonly #lanes: () => number
  readonly #rescuesMax: number
  readonly #needs: SuspectsNeeds
  /** The only suspect that may run now. */
  #last: Cleared | null = null
  #marking = 0

  constructor(slots: Slots<Holding>, lanes: () => number, rescuesMax: number, needs: SuspectsNeeds) {
    this.#slots = slots
    this.#lanes = lanes
    this.#rescuesMax = rescuesMax
    this.#needs = needs
  }

  get isEmpty(): boolean {
    return this.#waiting.size === 0 && this.ready.length === 0 && this.#marking === 0
  }

  add(span: Span): void {
    this.#waiting.push(span)
  }

  /** Asks for notes for as many as lanes could take; `alone` of them run already. */
  step(alone: number): void {
    const table = this.#slots
    if (this.#last !== null && table.isCurrent(this.#last.slot, this.#last.generation)) return
    const busy = this.#marking + this.ready.length + alone
    let room = this.#lanes() - busy
    if (room <= 0) return
    const wasLast = this.#last !== null
    const taken: Cleared[] = []
    for (; room > 0; room--) {
      const isLast = this.#isLastChance()
      if (isLast && (busy > 0 || taken.length > 0)) break
      const slot = this.#take()
      if (slot === NO_SLOT) break
      taken.push({ slot, generation: table.generation[slot]! })
      this.#last = isLast ? taken[0]! : null
      if (isLast) break
    }
    if (taken.length > 0) this.#note(taken, wasLast || this.#last !== null)
  }

  /** Takes out everything that is not being noted just now. */
  drain(): Span[] {
    const spans = this.#waiting.drain()
    for (const { slot, generation } of this.ready.splice(0)) {
      if (!this.#slots.isCurrent(slot, generation)) continue
      const holding = this.#slots.ref[slot]!
      const index = this.#slots.id[slot]! - holding.chunk.firstId
      spans.push({ holding, from: index, to: index + 1, sinceSteadyMs: 0 })
    }
    return spans
  }

  #note(taken: readonly Cleared[], settleFirst: boolean): void {
    const table = this.#slots
    const living = () => taken.filter(({ slot, generation }) => table.isCurrent(slot, generation))
    const mark = () => {
      const jobs = living().map(({ slot }) => ({ chunk: table.ref[slot]!.chunk, jobId: table.id[slot]! }))
      return jobs.length === 0 ? undefined : this.#needs.mark(jobs)
    }
    this.#marking += taken.length
    const { settled } = this.#needs
    const noted = settleFirst && settled !== null ? settled().then(mark) : Promise.resolve(mark())
    noted.then(
      () => {
        this.#marking -= taken.length
        this.ready.push(...living())
        this.#needs.onMarked()
      },
      (error: unknown) => {
        this.#marking -= taken.length
        for (const { slot } of living()) this.#needs.onRefused(slot, error)
        this.#needs.onMarked()
      },
    )
  }

  /** The next in line is a dead letter when its holder dies once more. */
  #isLastChance(): boolean {
    this.#skipGone()
    const span = this.#waiting.peek()
    return span !== undefined && span.holding.chunk.rescues + 1 >= this.#rescuesMax
  }

  #skipGone(): void {
    for (let span = this.#waiting.peek(); span !== undefined; span = this.#waiting.peek()) {
      while (span.from < span.to && span.holding.slotAt(span.from) === GONE) span.from++
      if (span.from < span.to) return
      this.#waiting.shift()
    }
  }

  #take(): number {
    this.#skipGone()
    const span = this.#waiting.peek()
    return span === undefined ? NO_SLOT : span.holding.slotAt(span.from++)
  }
}
