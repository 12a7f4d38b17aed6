// Ends jobs that wait although their time has passed: those of a paused queue, or of one that nobody serves. Whoever claims
// a job or holds it sees to its time by himself. A hint of whoever enqueues, and the beat of the node, say when there will be
// something to do; of many nodes one at a time does it, in batches, and what it cannot have now it finds again with a later beat.

import type { Clock, Timer } from './base/clock.ts'
import { EXPIRY_STEP_MS } from './base/limits.ts'
import type { Log } from './base/log.ts'
import { Recurring } from './base/recurring.ts'

/** Chunks of one batch: bounds its transaction, together with the 10,000 jobs that the function allows itself. */
const CHUNKS = 500
/** So long after an expiry it is looked: the row has been committed by then, and the database's clock is past it. */
const AFTER_MS = 10

/** Looks that are planned at a time: what would be more is left to the beats. */
const PLANNED_MAX = 1_000

export interface ExpiryNeeds {
  readonly clock: Clock
  /** What the database's clock shows at least. */
  databaseMs(): number
  readonly log: Log
  expireDue(chunks: number): Promise<{ expired: number; more: boolean; aside?: number }>
}

export class Expiry {
  readonly #needs: ExpiryNeeds
  readonly #failing: Recurring
  #sweeping: Promise<void> | null = null
  #stopped = false
  /** Somebody asked while a batch was under way, which may have begun before the time that he means. */
  #again = false
  /** The next looks that are planned, by the time of the database at which they are due. */
  readonly #planned = new Map<number, Timer>()
  readonly counts = { expired: 0, errors: 0 }

  constructor(needs: ExpiryNeeds) {
    this.#needs = needs
    this.#failing = new Recurring(needs.clock, needs.log, 'expiry.failed')
  }

  /** Looks when this time of the database has come, or at the end of the step that it falls into. */
  at(atMs: number): void {
    const stepMs = Math.ceil(atMs / EXPIRY_STEP_MS) * EXPIRY_STEP_MS
    if (this.#stopped || this.#planned.has(stepMs) || this.#planned.size >= PLANNED_MAX) return
    const waitMs = Math.max(0, stepMs - this.#needs.databaseMs()) + AFTER_MS
    const timer = this.#needs.clock.after(waitMs, () => {
      this.#planned.delete(stepMs)
      this.sweep()
    })
    this.#planned.set(stepMs, timer)
  }

  /** The same, so many ms from now. */
  in(ms: number): void {
    if (ms <= 0) this.sweep()
    else this.at(this.#needs.databaseMs() + ms)
  }

  /** Does what there is to do; while it is at it, it looks once more at the end. */
  sweep(): void {
    if (this.#stopped) return
    this.#again = this.#sweeping !== null
    this.#sweeping ??= this.#sweep().finally(() => {
      this.#sweeping = null
    })
  }

  /** Resolves when the batch in flight has ended. */
  async stop(): Promise<void> {
    this.#stopped = true
    for (const timer of this.#planned.values()) timer.cancel()
    this.#planned.clear()
    await this.#sweeping
  }

  async #sweep(): Promise<void> {
    const { log, expireDue } = this.#needs
    try {
      for (let more = true; more && !this.#stopped; ) {
        this.#again = false
        const done = await expireDue(CHUNKS)
        this.counts.expired += done.expired
        more = done.more || this.#again
        if (done.expired > 0) log.warn({ jobs: done.expired }, 'jobs.expired')
        if (done.aside !== undefined) log.error({ jobs: done.aside, code: 'ROW_INVALID' }, 'rows.set_aside')
      }
      this.#failing.succeeded()
    } catch (error) {
      this.counts.errors++
      this.#failing.failed(error)
    }
  }
}
