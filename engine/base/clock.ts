// The two clocks, and the only place that reads them. Wall time is for the database and for people; steady time is
// for durations and never jumps. Both are injected, so that a test can own time.

import { hrtime } from 'node:process'

/** A handle of a timer; `cancel` is safe at any time. */
export interface Timer {
  cancel(): void
}

export interface Clock {
  /** Milliseconds since 1970, whole. May jump when the host's clock is set. */
  wallMs(): number
  /** Milliseconds with fractions from an arbitrary origin that all threads of the process share. Never goes back. */
  steadyMs(): number
  /** Calls `fn` once after `ms`. The timer does not keep the process alive unless `keepAlive` is true. */
  after(ms: number, fn: () => void, keepAlive?: boolean): Timer
  /** Resolves after `ms`, or at once when `signal` aborts; keeps the process alive meanwhile. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
  /** Of a clock that a test moves, which is about jobs alone. Connections, threads and this node go by the machine's. */
  readonly machine?: {
    readonly clock: Clock
    /** What this clock showed when the wall clock of the machine showed `wallMs`. */
    at(wallMs: number): number
  }
}

const MAX_TIMER_MS = 2 ** 31 - 1 // setTimeout fires at once beyond this

export const systemClock: Clock = {
  wallMs: () => Date.now(),
  steadyMs: () => {
    const [seconds, nanos] = hrtime()
    return seconds * 1e3 + nanos / 1e6
  },
  after(ms, fn, keepAlive = false) {
    const timer = setTimeout(fn, Math.min(Math.max(0, ms), MAX_TIMER_MS))
    if (!keepAlive) timer.unref()
    return { cancel: () => clearTimeout(timer) }
  },
  sleep(ms, signal) {
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve()
      const done = () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', done)
        resolve()
      }
      const timer = setTimeout(done, Math.min(Math.max(0, ms), MAX_TIMER_MS))
      signal?.addEventListener('abort', done, { once: true })
    })
  },
}

/** Resolves in the next turn of the event loop, after whatever is ready now. Not a time: nothing to inject. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve)
  })
}
