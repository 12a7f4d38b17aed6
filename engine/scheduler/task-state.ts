// What the scheduler knows of a task: its limits, and how long its jobs have lately taken. The mean rises fast
// and falls slowly, because a batch that is too small costs a little and one that is too large delays its last job.

import type { TaskInfo } from '../../threads/lanes.ts'

const RISE = 0.25
const FALL = 0.05
/** One job that found no processor for a while says little about the next: it counts as at most so much. */
const OUTLIER = 8
const OUTLIER_MS = 0.1
/** Parsing, reporting and the loop's share: no job is cheaper than this, whatever its handler measures. */
const LEAST_MS = 0.004

export class TaskState {
  readonly name: string
  info: TaskInfo | null
  /** Recent run time of one job; meaningless until `known`. */
  meanMs = 0
  known = false

  constructor(name: string, info: TaskInfo | null) {
    this.name = name
    this.info = info
  }

  /** Jobs that one lane may run at once. */
  get concurrency(): number {
    return this.info === null ? 1 : Math.max(1, this.info.concurrency)
  }

  get isShared(): boolean {
    return this.concurrency > 1
  }

  /** How long one job keeps a lane from others. */
  get costMs(): number {
    return Math.max(LEAST_MS, this.meanMs / this.concurrency)
  }

  /** One job ended after `ranMs`. */
  learn(ranMs: number): void {
    if (!this.known) {
      this.known = true
      this.meanMs = ranMs
      return
    }
    const seenMs = Math.min(ranMs, OUTLIER * this.meanMs + OUTLIER_MS)
    this.meanMs += (seenMs - this.meanMs) * (ranMs > this.meanMs ? RISE : FALL)
  }

  /** A job is still running after `ranMs`: at least that long. */
  learnAtLeast(ranMs: number): void {
    if (!this.known || ranMs > this.meanMs) this.learn(ranMs)
  }
}
