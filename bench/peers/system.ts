// What a job system must be able to do to take part: prepare its schema, produce, and work. Ours and every peer are
// measured through this one interface, so that the code around the clock is the same for all of them.
//
// A job's payload is `{ id, name: 'x' }` everywhere; its handler does nothing, unless the plan says otherwise. Ids of one
// measurement are dense from 0, which is how a missing or a repeated run is found.

/**
 * What the jobs are for: `throughput` no-op, `latency` notes when it starts, `cpu` computes for some milliseconds, `write`
 * writes a row of its own and commits, `complete` does that and ends in one transaction, `complete-many` with many jobs in one.
 */
export type Purpose = 'throughput' | 'latency' | 'cpu' | 'write' | 'complete' | 'complete-many'

export interface System {
  readonly name: string
  readonly packages: readonly string[]
  /** The settings that are not defaults, by purpose, as they stand beside the result. */
  settings(purpose: Purpose, threads: number): Readonly<Record<string, unknown>>
  /**
   * Part of the common number of jobs that this system is given, so that the slowest do not take the run's time; rates are
   * compared, never totals.
   */
  readonly share: number
  /** Jobs per bulk call, and bulk calls in flight, at which this system is fastest. */
  readonly bulkBatch: number
  readonly bulkInFlight: number
  /** Installs schema and queue into an empty database. */
  prepare(url: string, purpose: Purpose): Promise<void>
  openProducer(url: string, purpose: Purpose): Promise<Producer>
  startWorker(url: string, plan: WorkerPlan): Promise<Worker>
  /** Jobs that the database does not count as completed, when `total` were enqueued. */
  unfinished(url: string, total: number): Promise<number>
}

export interface Producer {
  enqueue(id: number): Promise<unknown>
  enqueueMany(firstId: number, count: number): Promise<unknown>
  close(): Promise<void>
}

export interface WorkerPlan {
  readonly purpose: Purpose
  /** Jobs that will come, ids from 0. */
  readonly count: number
  /** Threads, for systems that have them. */
  readonly threads: number
}

export interface Worker {
  /** Resolves when every job of the plan has run. */
  allRan(): Promise<void>
  /** Ends gracefully: when it resolves, every completion is stored. */
  stop(): Promise<void>
  /** What ran; asked after the stop. */
  tally(): Promise<Tally>
}

export interface Tally {
  readonly ran: number
  readonly distinct: number
  /** Start of each job's handler by id, microseconds of the monotonic clock that all processes share; latency only. */
  readonly startedUs: Float64Array | null
}

export interface Payload {
  readonly id: number
  readonly name: string
}

export const TASK = 'bench-noop'

export function payloads(firstId: number, count: number): Payload[] {
  return Array.from({ length: count }, (_, i) => ({ id: firstId + i, name: 'x' }))
}

/** Microseconds of CLOCK_MONOTONIC: comparable between the processes of one machine. */
export function monotonicUs(): number {
  const [seconds, nanos] = process.hrtime()
  return seconds * 1e6 + nanos / 1e3
}

/** Counts what runs in this process: for systems whose handlers run where their worker does. */
export class Ledger {
  readonly #seen: Uint8Array
  readonly #startedUs: Float64Array | null
  #ran = 0
  #distinct = 0
  readonly #all: Promise<void>
  #allRan!: () => void

  constructor(plan: WorkerPlan) {
    this.#seen = new Uint8Array(plan.count)
    this.#startedUs = plan.purpose === 'latency' ? new Float64Array(plan.count) : null
    this.#all = new Promise((resolve) => {
      this.#allRan = resolve
    })
  }

  note(id: number): void {
    if (this.#startedUs !== null) this.#startedUs[id] = monotonicUs()
    this.#ran++
    if (this.#seen[id] === 0) {
      this.#seen[id] = 1
      if (++this.#distinct === this.#seen.length) this.#allRan()
    }
  }

  allRan(): Promise<void> {
    return this.#all
  }

  tally(): Tally {
    return { ran: this.#ran, distinct: this.#distinct, startedUs: this.#startedUs }
  }
}

/** A fixed amount of computing, some 2 ms on a core of 2020; a fixed time would hide that cores are shared. */
export function compute(seed: number): number {
  let x = seed | 1
  for (let i = 0; i < 1_000_000; i++) {
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
  }
  return x
}
