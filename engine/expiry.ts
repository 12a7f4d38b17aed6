// Ends jobs that wait although their time has passed: those of a paused queue, or of one that nobody serves. Whoever claims
// a job or holds it sees to its time by himself. The beat of the node says when there is something to do; of many nodes one
// at a time does it, in batches, and what it cannot have now it finds again with a later beat.

import { messageOf } from './base/errors.ts'
import type { Log } from './base/log.ts'

/** Chunks of one batch: bounds its transaction, together with the 10,000 jobs that the function allows itself. */
const CHUNKS = 500

export interface ExpiryNeeds {
  readonly log: Log
  expireDue(chunks: number): Promise<{ expired: number; more: boolean }>
}

export class Expiry {
  readonly #needs: ExpiryNeeds
  #sweeping: Promise<void> | null = null
  #stopped = false
  readonly counts = { expired: 0, errors: 0 }

  constructor(needs: ExpiryNeeds) {
    this.#needs = needs
  }

  /** Begins to do what there is to do; while it is at it, nothing more. */
  sweep(): void {
    if (this.#stopped) return
    this.#sweeping ??= this.#sweep().finally(() => {
      this.#sweeping = null
    })
  }

  /** Resolves when the batch in flight has ended. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.#sweeping
  }

  async #sweep(): Promise<void> {
    const { log, expireDue } = this.#needs
    try {
      for (let more = true; more && !this.#stopped; ) {
        const done = await expireDue(CHUNKS)
        this.counts.expired += done.expired
        more = done.more
        if (done.expired > 0) log.warn({ jobs: done.expired }, 'jobs.expired')
      }
    } catch (error) {
      if (this.counts.errors++ % 100 === 0) log.warn({ error: messageOf(error) }, 'expiry.failed')
    }
  }
}
