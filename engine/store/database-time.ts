// What time it is for the database. Due times are judged by its clock, whatever the clock of this machine says, and
// however it jumps: what is kept is the distance between the database's wall clock and our steady clock, as two bounds.
//
//   asked at `sent`, answered at `received`, the database said `t` in between:   t - received <= distance <= t - sent
//
// Every answer narrows the bounds; with time they widen, because no two clocks run equally fast.

import type { Clock } from '../base/clock.ts'

/** How much two clocks may drift apart: 200 ms in 1,000 s, above what time daemons correct by. */
const DRIFT = 200e-6

export class DatabaseTime {
  readonly #clock: Clock
  #lowMs = Number.NEGATIVE_INFINITY
  #highMs = Number.POSITIVE_INFINITY
  #notedAtMs = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** The steady clock that note() takes its times from. */
  steadyMs(): number {
    return this.#clock.steadyMs()
  }

  /** An answer: steady times before asking and after the answer, and the database's wall time in between. */
  note(sentMs: number, receivedMs: number, databaseMs: number): void {
    const drift = Math.max(0, receivedMs - this.#notedAtMs) * DRIFT
    const low = databaseMs - receivedMs
    const high = databaseMs - sentMs
    this.#lowMs = Math.max(this.#lowMs - drift, low)
    this.#highMs = Math.min(this.#highMs + drift, high)
    if (this.#lowMs > this.#highMs) {
      // its clock was set: what is new counts
      this.#lowMs = low
      this.#highMs = high
    }
    this.#notedAtMs = receivedMs
  }

  /** The database's wall clock now, with fractions; our own until the first answer. */
  nowMs(): number {
    if (this.#lowMs === Number.NEGATIVE_INFINITY) return this.#clock.wallMs()
    return this.#clock.steadyMs() + (this.#lowMs + this.#highMs) / 2
  }

  /** What the database's wall clock shows at least: nothing that waits for this is early. */
  surelyMs(): number {
    if (this.#lowMs === Number.NEGATIVE_INFINITY) return this.#clock.wallMs()
    return this.#clock.steadyMs() + this.#lowMs
  }

  /**
   * What to add to a wall time of this machine so that it is the database's. 0 as long as no answer contradicts our own
   * clock: before the first one, and where answers are too slow to tell. Never wrong by more than one answer took.
   */
  leadMs(): number {
    const oursMs = this.#clock.wallMs() - this.#clock.steadyMs() // up to a millisecond more: wall time is whole
    if (this.#lowMs <= oursMs + 1 && this.#highMs >= oursMs) return 0
    return (this.#lowMs + this.#highMs) / 2 - oursMs
  }

  /** Steady time of the last answer; 0 before the first. */
  get notedAtMs(): number {
    return this.#notedAtMs
  }
}
