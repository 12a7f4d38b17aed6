// Ends jobs of this node that somebody asked to end. The wish is a row in PostgreSQL, which stays until the job has left
// this node; the call over NOTIFY only makes it known at once. So it is read when a call comes, when the way of calls is
// (back) up, with a beat of the node that says that there is one, and, as long as no call can come or a wish could not
// be done yet, by asking again and again while jobs are here.

import type { Clock } from './base/clock.ts'
import { messageOf } from './base/errors.ts'
import type { Log } from './base/log.ts'

export interface CancelsNeeds {
  readonly clock: Clock
  readonly log: Log
  /** What this node is asked to end. */
  read(): Promise<readonly { readonly jobId: number; readonly reason: string }[]>
  /** False: it is not here (yet, or any more), or it ends already. */
  cancel(jobId: number, reason: string): boolean
  /** Jobs are here that could be asked for. */
  isHolding(): boolean
  /** Calls arrive. */
  isTold(): boolean
}

export class Cancels {
  readonly #needs: CancelsNeeds
  readonly #pollMs: number
  readonly #stop = new AbortController()
  #loop: Promise<void> | null = null
  #reading: Promise<void> | null = null
  #again = false
  /** Jobs that were told to end, as far as their wishes still stand. */
  #told = new Set<number>()
  /** A wish stands for a job that was not here, or none could be read. */
  #isOpen = false
  readonly counts = { reads: 0, cancelled: 0, errors: 0 }

  constructor(needs: CancelsNeeds, { pollMs }: { readonly pollMs: number }) {
    this.#needs = needs
    this.#pollMs = pollMs
  }

  start(): void {
    this.#loop ??= this.#run()
  }

  /** Resolves when nothing is being read. Safe twice, safe without start. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#loop
    await this.#reading
  }

  /** Reads what is asked for, now; calls that come meanwhile are one more look. */
  ask(): void {
    if (this.#stop.signal.aborted) return
    this.#again = this.#reading !== null
    this.#reading ??= this.#read().finally(() => {
      this.#reading = null
      if (this.#again) this.ask()
    })
  }

  /** Jobs have come: perhaps the one for which a wish stands. */
  arrived(): void {
    if (this.#isOpen) this.ask()
  }

  async #run(): Promise<void> {
    const { clock, isHolding, isTold } = this.#needs
    while (!this.#stop.signal.aborted) {
      await clock.sleep(this.#pollMs, this.#stop.signal)
      if (this.#isOpen || (isHolding() && !isTold())) this.ask()
    }
  }

  async #read(): Promise<void> {
    const { log, read, cancel } = this.#needs
    try {
      const wishes = await read()
      this.counts.reads++
      const told = new Set<number>()
      for (const { jobId, reason } of wishes) {
        if (this.#told.has(jobId)) told.add(jobId)
        else if (cancel(jobId, reason)) {
          this.counts.cancelled++
          told.add(jobId)
        }
      }
      this.#told = told
      this.#isOpen = told.size < wishes.length
    } catch (error) {
      if (this.counts.errors++ % 100 === 0) log.warn({ error: messageOf(error) }, 'cancels.unread')
      this.#isOpen = true
    }
  }
}
