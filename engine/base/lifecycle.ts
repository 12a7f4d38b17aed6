// Starting and stopping. A part starts once, goes quiet (takes no new work), and stops within a deadline. Parts start
// upwards, go quiet all at once, and stop downwards, all under one deadline.

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

/** Starts parts in order; when one fails, stops those that had started and throws its error. */
export async function startAll(parts: readonly Part[], onFailure: () => Deadline): Promise<void> {
  const started: Part[] = []
  for (const part of parts) {
    try {
      await part.start()
      started.push(part)
    } catch (error) {
      await stopAll(started, onFailure())
      throw error
    }
  }
}

/** Quiets all, then stops in reverse order. Every part gets its turn; the first error is thrown at the end. */
export async function stopAll(parts: readonly Part[], deadline: Deadline): Promise<void> {
  for (const part of parts) part.quiet()
  let first: unknown
  for (const part of [...parts].reverse()) {
    try {
      await part.stop(deadline)
    } catch (error) {
      first ??= error
    }
  }
  if (first !== undefined) throw first
}
