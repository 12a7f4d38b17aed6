// Failures of work that is tried again and again: one is a warning, since the next try mostly succeeds; one that lasts is
// an error, said once a minute with how often and since when, so that neither the first nor the thousandth is missed.

import type { Clock } from './clock.ts'
import { messageOf } from './errors.ts'
import type { Log } from './log.ts'

/** Longer than PostgreSQL takes to restart. */
const LASTS_MS = 10_000
const SAY_EVERY_MS = 60_000

export class Recurring {
  readonly #clock: Clock
  readonly #log: Log
  readonly #event: string
  #failures = 0
  #sinceMs = 0
  #saidMs = Number.NEGATIVE_INFINITY

  /** `event` is the line of the log, such as `claim.failed`. */
  constructor(clock: Clock, log: Log, event: string) {
    this.#clock = clock
    this.#log = log
    this.#event = event
  }

  /** Failures in a row. */
  get failures(): number {
    return this.#failures
  }

  succeeded(): void {
    this.#failures = 0
    this.#saidMs = Number.NEGATIVE_INFINITY
  }

  failed(error: unknown, facts: Readonly<Record<string, unknown>> = {}): void {
    const nowMs = this.#clock.steadyMs()
    if (this.#failures++ === 0) {
      this.#sinceMs = nowMs
      this.#log.warn({ ...facts, error: messageOf(error) }, this.#event)
      return
    }
    const lastsMs = nowMs - this.#sinceMs
    if (lastsMs < LASTS_MS || nowMs - this.#saidMs < SAY_EVERY_MS) return
    this.#saidMs = nowMs
    this.#log.error(
      { ...facts, error: messageOf(error), failures: this.#failures, forSeconds: Math.round(lastsMs / 1_000) },
      this.#event,
    )
  }
}
