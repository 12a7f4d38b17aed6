// Keeps the history from growing for ever: drops spans of jobs that are older than the setting retentionMs, sweeps what
// was kept of them, and lets PostgreSQL count its rows anew. Every node tries now and then; locks of the database let one
// at a time do it. It never touches a job that has not ended, nor a dead letter, and nothing waits for it for long.

import type { Clock } from './base/clock.ts'
import type { Log } from './base/log.ts'
import { Recurring } from './base/recurring.ts'

const FIRST_AFTER_MS = 60_000
const EVERY_MS = 600_000
/** Statistics of the parents of partitions, which autovacuum leaves alone. */
const ANALYZE_AGE_MS = 6 * 3_600_000
/** Spans that one pass drops: ten are a hundred million jobs. */
const SPANS_MAX = 10
/** Jobs that have not ended in a span that goes: they are moved while both tables stand still. 100,000 took 0.7 s (2026-11). */
const MOVES_MAX = 100_000
const SWEEP_JOBS = 5_000
const SWEEPS_MAX = 20

export interface RetentionNeeds {
  readonly clock: Clock
  readonly log: Log
  /** A way to PostgreSQL for one pass. */
  open(): {
    retireSpan(keepMs: number, movesMax: number): Promise<{ span: number; outcome: string; moved: number } | null>
    sweepAttic(keepMs: number, limit: number): Promise<number>
    analyzeParents(ageMs: number): Promise<string[]>
    close(): Promise<void>
    abandon(): void
  }
}

export class Retention {
  readonly #needs: RetentionNeeds
  readonly #keepMs: number
  readonly #stop = new AbortController()
  #loop: Promise<void> | null = null
  readonly #failing: Recurring
  readonly counts = { passes: 0, spans: 0, moved: 0, swept: 0, errors: 0 }

  constructor(needs: RetentionNeeds, { retentionMs }: { readonly retentionMs: number }) {
    this.#needs = needs
    this.#failing = new Recurring(needs.clock, needs.log, 'retention.failed')
    this.#keepMs = retentionMs
  }

  start(): void {
    this.#loop ??= this.#run()
  }

  /** Ends at once: a pass that was under way is undone. Safe twice, safe without start. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#loop
  }

  async #run(): Promise<void> {
    const { clock } = this.#needs
    const { signal } = this.#stop
    await clock.sleep(FIRST_AFTER_MS, signal)
    while (!signal.aborted) {
      try {
        await this.pass()
        this.#failing.succeeded()
      } catch (error) {
        this.counts.errors++
        if (!signal.aborted) this.#failing.failed(error)
      }
      await clock.sleep(EVERY_MS, signal)
    }
  }

  /** Everything that there is to do now, up to limits. */
  async pass(): Promise<void> {
    const store = this.#needs.open()
    const leave = () => store.abandon()
    this.#stop.signal.addEventListener('abort', leave)
    try {
      if (this.#keepMs > 0) {
        await this.#retire(store)
        await this.#sweep(store)
      }
      await store.analyzeParents(ANALYZE_AGE_MS)
      this.counts.passes++
    } finally {
      this.#stop.signal.removeEventListener('abort', leave)
      await store.close()
    }
  }

  async #retire(store: ReturnType<RetentionNeeds['open']>): Promise<void> {
    for (let tries = 0; tries < SPANS_MAX; tries++) {
      const retired = await store.retireSpan(this.#keepMs, MOVES_MAX)
      if (retired === null) return
      const { outcome, ...facts } = retired
      if (outcome !== 'dropped') return this.#needs.log.warn({ ...facts, reason: outcome }, 'retention.postponed')
      this.counts.spans++
      this.counts.moved += retired.moved
      this.#needs.log.info(facts, 'retention.dropped')
    }
  }

  async #sweep(store: ReturnType<RetentionNeeds['open']>): Promise<void> {
    for (let tries = 0; tries < SWEEPS_MAX; tries++) {
      const swept = await store.sweepAttic(this.#keepMs, SWEEP_JOBS)
      this.counts.swept += swept
      if (swept < SWEEP_JOBS) return
    }
  }
}
