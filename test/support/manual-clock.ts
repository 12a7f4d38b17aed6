// A clock that stands still until a test moves it.

import { type Clock, nextTurn, type Timer } from '../../engine/base/clock.ts'

interface Due {
  readonly atMs: number
  readonly fn: () => void
}

/** Far more than any test has. */
const FIRED_MAX = 1_000_000

export class ManualClock implements Clock {
  #nowMs: number
  readonly #due = new Set<Due>()

  constructor(wallMs = Date.UTC(2026, 0, 1)) {
    this.#nowMs = wallMs
  }

  wallMs(): number {
    return Math.floor(this.#nowMs)
  }

  steadyMs(): number {
    return this.#nowMs
  }

  /** Timers and sleeps that wait. */
  get waiting(): number {
    return this.#due.size
  }

  after(ms: number, fn: () => void): Timer {
    const due = { atMs: this.#nowMs + Math.max(0, ms), fn }
    this.#due.add(due)
    return { cancel: () => void this.#due.delete(due) }
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve()
      const leave = () => {
        timer.cancel()
        resolve()
      }
      const timer = this.after(ms, () => {
        signal?.removeEventListener('abort', leave)
        resolve()
      })
      signal?.addEventListener('abort', leave)
    })
  }

  /** Time passes while the process is not there to see it: nothing fires before the next advance(). */
  jump(ms: number): void {
    this.#nowMs += ms
  }

  /** Moves time on and fires what falls due, in order of time. */
  advance(ms: number): void {
    const untilMs = this.#nowMs + ms
    for (let fired = 0; ; fired++) {
      if (fired > FIRED_MAX) throw new Error(`${FIRED_MAX} timers fell due within ${ms} ms: one sets itself for ever`)
      const next = [...this.#due].filter((due) => due.atMs <= untilMs).sort((a, b) => a.atMs - b.atMs)[0]
      if (next === undefined) break
      this.#due.delete(next)
      this.#nowMs = Math.max(this.#nowMs, next.atMs)
      next.fn()
    }
    this.#nowMs = untilMs
  }
}

/** Lets everything that is ready run, promises in a row too. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 10; turn++) await nextTurn()
}

/** Time passes in steps of a tenth of a second, and what falls due runs. */
export async function pass(clock: ManualClock, ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= 100) {
    clock.advance(Math.min(100, left))
    await settle()
  }
}
