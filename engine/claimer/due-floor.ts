// Where among the jobs that wait for their time nothing is left that is due: for promotions what positions.ts is for
// claims. While an old snapshot keeps what was promoted in the way, a promotion begins a second before the last one, and
// at the beginning once a second, or when that costs a twentieth of the time, and every two seconds whatever it costs. What
// becomes visible late waits for that. The cost is that of the cheaper of the last two: one slow answer may be a stall.

/** Shorter promotions from the beginning are left alone. */
const SLOW_MS = 10
/** What a chunk adds to a promotion anyway. */
const CHUNK_MS = 0.05
/** A job whose transaction takes longer from its due time to its end is found from the beginning. */
const LAG_MS = 1_000
const FULL_EVERY_MS = 1_000
const FULL_EVERY_MAX_MS = 2_000
const FULL_SHARE = 20

export interface Promotion {
  readonly moved: number
  /** It moved as much as it was to move: there may be more. */
  readonly mayLeave: boolean
  /** The database's time when it began or before. */
  readonly atWallMs: number
  /** Time of PostgreSQL's answer, without a reconnect. */
  readonly tookMs: number
  readonly nowMs: number
}

export class DueFloor {
  #tookMs = 0
  #lastTookMs = 0
  #fullAtMs = 0
  /** Nothing was left that was due then. */
  #doneWallMs = Number.NEGATIVE_INFINITY

  /** Forgets everything: jobs may have come back to where they were. */
  clear(): void {
    this.#tookMs = 0
    this.#lastTookMs = 0
    this.#doneWallMs = Number.NEGATIVE_INFINITY
  }

  /** The database's time behind which the next promotion is to begin; null: at the beginning. */
  next(nowMs: number): number | null {
    if (this.#tookMs < SLOW_MS || this.#doneWallMs === Number.NEGATIVE_INFINITY) return null
    const againMs = Math.min(Math.max(FULL_EVERY_MS, this.#tookMs * FULL_SHARE), FULL_EVERY_MAX_MS)
    if (nowMs - this.#fullAtMs >= againMs) return null
    return this.#doneWallMs - LAG_MS
  }

  promoted(from: number | null, promotion: Promotion): void {
    const { moved, mayLeave, atWallMs, tookMs, nowMs } = promotion
    if (from === null) {
      this.#fullAtMs = nowMs
      const costMs = tookMs - moved * CHUNK_MS
      this.#tookMs = Math.min(costMs, this.#lastTookMs)
      this.#lastTookMs = costMs
    }
    if (!mayLeave) this.#doneWallMs = atWallMs
    else if (from === null) this.#doneWallMs = Number.NEGATIVE_INFINITY
  }
}
