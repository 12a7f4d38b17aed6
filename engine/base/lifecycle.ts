// Starting and stopping. A part starts once, goes quiet (takes no new work), and stops within a deadline. engine.ts
// starts parts upwards, quiets them all at once, and stops them downwards, all under one deadline.

import type { Clock } from './clock.ts'
import { messageOf } from './errors.ts'
import type { Log } from './log.ts'

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

/**
 * The way down: every step is taken, whatever failed above it, so that nothing that a failure has left running goes on.
 * What failed first is thrown at the end; what failed after it is logged.
 */
export class Descent {
  readonly #log: Log
  #failure: { readonly error: unknown } | null = null

  constructor(log: Log) {
    this.#log = log
  }

  /** What the step answers; undefined when it failed. */
  async step<T>(name: string, work: () => T | Promise<T>): Promise<T | undefined> {
    try {
      return await work()
    } catch (error) {
      if (this.#failure === null) this.#failure = { error }
      else this.#log.warn({ step: name, error: messageOf(error) }, 'stop.step_failed')
      return undefined
    }
  }

  /** @throws what failed first */
  end(): void {
    if (this.#failure !== null) throw this.#failure.error
  }
}
