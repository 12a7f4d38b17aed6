// A clock that goes on by itself like any other, and that a test can move forwards: what was set for a moment that has
// passed by that is called at once, in the order of those moments.

import { type Clock, systemClock, type Timer } from '../base/clock.ts'

interface Pending {
  readonly atMs: number
  readonly order: number
  readonly keepAlive: boolean
  readonly fn: () => void
  timer: Timer
}

export class VirtualClock implements Clock {
  readonly #beganAheadMs: number
  #aheadMs: number
  #order = 0
  readonly #pending = new Set<Pending>()
  /** Wall times of the machine from which on time was so far ahead; the first row is for all before. */
  readonly #jumps: { readonly fromMs: number; readonly aheadMs: number }[]

  /** @param aheadMs how far ahead of the machine's clocks it begins; negative: behind */
  constructor(aheadMs: number) {
    this.#beganAheadMs = aheadMs
    this.#aheadMs = aheadMs
    this.#jumps = [{ fromMs: Number.NEGATIVE_INFINITY, aheadMs }]
  }

  readonly machine = {
    clock: systemClock,
    at: (wallMs: number): number => {
      let at = this.#jumps.length - 1
      while (this.#jumps[at]!.fromMs > wallMs) at--
      return Math.floor(wallMs + this.#jumps[at]!.aheadMs)
    },
  }

  get aheadMs(): number {
    return this.#aheadMs
  }

  wallMs(): number {
    return Math.floor(systemClock.wallMs() + this.#aheadMs)
  }

  /** Never below 0, as on any machine, however long ago the test begins: only what was moved since is added. */
  steadyMs(): number {
    return systemClock.steadyMs() + this.#aheadMs - this.#beganAheadMs
  }

  after(ms: number, fn: () => void, keepAlive = false): Timer {
    const pending: Pending = {
      atMs: this.steadyMs() + Math.max(0, ms),
      order: this.#order++,
      keepAlive,
      fn,
      timer: { cancel() {} },
    }
    this.#pending.add(pending)
    this.#arm(pending)
    return {
      cancel: () => {
        pending.timer.cancel()
        this.#pending.delete(pending)
      },
    }
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve()
      const done = () => {
        timer.cancel()
        signal?.removeEventListener('abort', done)
        resolve()
      }
      const timer = this.after(ms, done, true)
      signal?.addEventListener('abort', done, { once: true })
    })
  }

  /** Moves time to so far ahead of the machine's. */
  moveTo(aheadMs: number): void {
    this.#aheadMs = aheadMs
    this.#jumps.push({ fromMs: systemClock.wallMs(), aheadMs })
    const nowMs = this.steadyMs()
    const due: Pending[] = []
    for (const pending of this.#pending) {
      pending.timer.cancel()
      if (pending.atMs <= nowMs) due.push(pending)
      else this.#arm(pending)
    }
    due.sort((a, b) => a.atMs - b.atMs || a.order - b.order)
    for (const pending of due) if (this.#pending.delete(pending)) pending.fn()
  }

  #arm(pending: Pending): void {
    const leftMs = pending.atMs - this.steadyMs()
    const fire = () => {
      if (pending.atMs - this.steadyMs() > 1) return this.#arm(pending) // the machine cannot wait that long at once
      this.#pending.delete(pending)
      pending.fn()
    }
    pending.timer = systemClock.after(leftMs, fire, pending.keepAlive)
  }
}
