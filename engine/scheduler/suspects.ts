// Jobs whose holder died with them: any of them may be what killed it. They run one at a time per lane, alone on it, and
// only after a durable note that they are about to run. When the process dies again, the note says whom to suspect, and
// nobody else is blamed.

import { NO_SLOT, type Slots } from '../orchestrator/slots.ts'
import { Heap } from './heap.ts'
import { GONE, type Holding, type Span, spanBefore } from './holding.ts'
import type { MarkedJob } from './needs.ts'

/** A job that may be fed alone, while the generation still owns the slot. */
export interface Cleared {
  readonly slot: number
  readonly generation: number
}

export class Suspects {
  /** Noted, and may be fed. The dispatcher takes from the front. */
  readonly ready: Cleared[] = []
  readonly #waiting = new Heap<Span>(spanBefore)
  readonly #slots: Slots<Holding>
  readonly #lanes: number
  readonly #mark: (jobs: readonly MarkedJob[]) => Promise<void>
  readonly #onMarked: () => void
  readonly #onRefused: (slot: number, error: unknown) => void
  #marking = 0

  constructor(
    slots: Slots<Holding>,
    lanes: number,
    mark: (jobs: readonly MarkedJob[]) => Promise<void>,
    onMarked: () => void,
    onRefused: (slot: number, error: unknown) => void,
  ) {
    this.#slots = slots
    this.#lanes = lanes
    this.#mark = mark
    this.#onMarked = onMarked
    this.#onRefused = onRefused
  }

  get isEmpty(): boolean {
    return this.#waiting.size === 0 && this.ready.length === 0 && this.#marking === 0
  }

  add(span: Span): void {
    this.#waiting.push(span)
  }

  /** Asks for notes for as many as lanes could take; `alone` of them run already. */
  step(alone: number): void {
    let room = this.#lanes - this.#marking - this.ready.length - alone
    if (room <= 0 || this.#waiting.size === 0) return
    const taken: Cleared[] = []
    for (; room > 0; room--) {
      const slot = this.#take()
      if (slot === NO_SLOT) break
      taken.push({ slot, generation: this.#slots.generation[slot]! })
    }
    if (taken.length > 0) this.#note(taken)
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

  #note(taken: readonly Cleared[]): void {
    const table = this.#slots
    const jobs = taken.map(({ slot }) => ({ chunk: table.ref[slot]!.chunk, jobId: table.id[slot]! }))
    const living = () => taken.filter(({ slot, generation }) => table.isCurrent(slot, generation))
    this.#marking += taken.length
    this.#mark(jobs).then(
      () => {
        this.#marking -= taken.length
        this.ready.push(...living())
        this.#onMarked()
      },
      (error: unknown) => {
        this.#marking -= taken.length
        for (const { slot } of living()) this.#onRefused(slot, error)
        this.#onMarked()
      },
    )
  }

  #take(): number {
    for (let span = this.#waiting.peek(); span !== undefined; span = this.#waiting.peek()) {
      while (span.from < span.to) {
        const slot = span.holding.slotAt(span.from++)
        if (slot !== GONE) return slot
      }
      this.#waiting.shift()
    }
    return NO_SLOT
  }
}
