// What the scheduler counted since it was made. Counters only rise; the histograms are perf_hooks' (microseconds).

import { createHistogram, type RecordableHistogram } from 'node:perf_hooks'

/** Histograms are fed with the first few samples of an iteration: recording costs as much as all else about a job. */
const SAMPLES_PER_ITERATION = 32
const HISTOGRAM_US_MAX = 24 * 3_600 * 1e6

export class Counters {
  /** Jobs that were taken into memory. */
  arrived = 0
  started = 0
  completed = 0
  /** Attempts that ended with an error, timeouts included. */
  failed = 0
  retried = 0
  dead = 0
  timedOut = 0
  cancelled = 0
  expired = 0
  /** Jobs given back uncharged. */
  released = 0
  /** Reports and messages about what had already ended, or changed hands. */
  lateReports = 0
  missedHeartbeats = 0
  lanesLost = 0
  /** Jobs taken back from a lane because another was slow. */
  stolen = 0
  iterations = 0
  messages = 0
}

export interface SchedulerStats extends Readonly<Counters> {
  /** Orchestrators in memory: jobs and occurrences. */
  readonly activeOrchestrators: number
  /** Jobs held here. */
  readonly held: number
  readonly prerun: number
  /** Of them those whose occurrence is confirmed at its time. */
  readonly awaiting: number
  readonly pending: number
  readonly running: number
  readonly indexSize: number
  /** Messages that wait now. */
  readonly inboxDepth: number
  readonly wanted: number
}

export class Histograms {
  /** Due to start, us. */
  readonly wait: RecordableHistogram = createHistogram({ lowest: 1, highest: HISTOGRAM_US_MAX, figures: 3 })
  /** The same of jobs that were to run at a certain time: scheduled ones and occurrences. */
  readonly late: RecordableHistogram = createHistogram({ lowest: 1, highest: HISTOGRAM_US_MAX, figures: 3 })
  /** Run time, us. */
  readonly run: RecordableHistogram = createHistogram({ lowest: 1, highest: HISTOGRAM_US_MAX, figures: 3 })
  /** Time of one iteration, us. */
  readonly iteration: RecordableHistogram = createHistogram({ lowest: 1, highest: 60e6, figures: 3 })
  #waits = 0
  #runs = 0

  /** A new iteration: samples are taken again. */
  open(): void {
    this.#waits = SAMPLES_PER_ITERATION
    this.#runs = SAMPLES_PER_ITERATION
  }

  waited(ms: number): void {
    if (this.#waits-- > 0) this.wait.record(microseconds(ms))
  }

  /** Few enough that each counts. */
  wasLate(ms: number): void {
    this.late.record(microseconds(ms))
  }

  ran(ms: number): void {
    if (this.#runs-- > 0) this.run.record(microseconds(ms))
  }

  iterated(ms: number): void {
    this.iteration.record(microseconds(ms))
  }
}

function microseconds(ms: number): number {
  return Math.min(HISTOGRAM_US_MAX, Math.max(1, Math.round(ms * 1_000)))
}
