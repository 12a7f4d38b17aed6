// Starting and stopping. A part starts once, goes quiet (takes no new work), and stops within a deadline. engine.ts
// starts parts upwards, quiets them all at once, and stops them downwards, all under one deadline.

import type { Clock } from './clock.ts'

/** A point in steady time that everything that stops shares. */
export class Deadline {
  readonly #clock: Clock
  readonly #atSteadyMs: number

  constructor(clock: Clock, ms: number) {
    this.#clock = clock
    this.#atSteadyMs = clock.steadyMs() + ms
  }

  /** Milliseconds left, never below 0. */
  leftMs(): number {
    return Math.max(0, this.#atSteadyMs - this.#clock.steadyMs())
  }
}

export interface Part {
  /** Safe to call once; throws when it cannot start, and leaves nothing behind then. */
  start(): Promise<void>
  /** Takes no new work from now on. Safe twice, safe without start. */
  quiet(): void
  /** Ends within the deadline. Safe twice, safe without start. */
  stop(deadline: Deadline): Promise<void>
}
