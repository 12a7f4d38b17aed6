// What must be reached. A contract gate compares a median with a figure that was promised, and holds on any machine worth
// the name; a ratio gate compares two medians of the same run, never with yesterday. `aim` is where we want to be.

import { type Metric, median as medianOf, type ResultLine } from './harness.ts'
import { OURS } from './peers/table.ts'

export interface Gate {
  readonly says: string
  /** Which bench measures it. */
  readonly bench: string
  readonly kind: 'contract' | 'ratio'
  /** True: what was found must be at least the limit; false: at most. */
  readonly atLeast: boolean
  readonly limit: number
  readonly aim?: number
  /** True: the smoke size measures it too. */
  readonly smoke?: boolean
  /** Null when this run has not what it takes. */
  find(results: Results): number | null
}

export interface Verdict {
  readonly gate: Gate
  readonly found: number
  readonly passed: boolean
}

class Results {
  readonly #lines: readonly ResultLine[]

  constructor(lines: readonly ResultLine[]) {
    this.#lines = lines
  }

  ours(bench: string, subject: string, metric: Metric): number | null {
    return this.#of((line) => line.system === OURS, bench, subject, metric)[0] ?? null
  }

  peers(bench: string, subject: string, metric: Metric): number[] {
    return this.#of((line) => line.system !== OURS, bench, subject, metric)
  }

  part(bench: string, subject: string, metric: Metric): number | null {
    return this.#of(() => true, bench, subject, metric)[0] ?? null
  }

  /** Ratio of each repetition with its neighbour in time, then the median: a noisy minute hits both. */
  paired(bench: string, subject: string, other: string, metric: Metric): number | null {
    const find = (wanted: string) =>
      this.#lines.find((line) => line.bench === bench && line.system === OURS && line.subject === wanted)?.metrics[
        metric
      ]
    const a = find(subject)
    const b = find(other)
    return a === undefined || b === undefined ? null : medianOf(a.values.map((value, i) => value / b.values[i]!))
  }

  #of(who: (line: ResultLine) => boolean, bench: string, subject: string, metric: Metric): number[] {
    return this.#lines
      .filter((line) => line.bench === bench && line.subject === subject && who(line))
      .flatMap((line) => line.metrics[metric]?.median ?? [])
  }
}

/** Ours against the best peer, where more is better. */
function timesFastest(bench: string, subject: string) {
  return (results: Results): number | null => {
    const ours = results.ours(bench, subject, 'jobsPerSecond')
    const peers = results.peers(bench, subject, 'jobsPerSecond')
    return ours === null || peers.length === 0 ? null : ours / Math.max(...peers)
  }
}

/** Ours against the best peer, where less is better. */
function timesQuickest(bench: string, subject: string, metric: Metric) {
  return (results: Results): number | null => {
    const ours = results.ours(bench, subject, metric)
    const peers = results.peers(bench, subject, metric)
    return ours === null || peers.length === 0 ? null : ours / Math.min(...peers)
  }
}

const part = (bench: string, subject: string, metric: Metric) => (results: Results) =>
  results.part(bench, subject, metric)

/** One subject over another of the same bench. */
const over = (bench: string, subject: string, other: string, metric: Metric) => (results: Results) => {
  const a = results.ours(bench, subject, metric)
  const b = results.ours(bench, other, metric)
  return a === null || b === null ? null : a / b
}

export const GATES: readonly Gate[] = [
  {
    says: 'drain, results kept, times the fastest peer',
    bench: 'drain',
    kind: 'ratio',
    atLeast: true,
    limit: 1,
    aim: 1.5,
    find: timesFastest('drain', 'drain'),
  },
  {
    says: 'enqueue to done, times the fastest peer',
    bench: 'sustained',
    kind: 'ratio',
    atLeast: true,
    limit: 2,
    aim: 3,
    find: timesFastest('sustained', 'enqueue to done'),
  },
  {
    says: 'bulk enqueue, times the fastest peer',
    bench: 'enqueue',
    kind: 'ratio',
    atLeast: true,
    limit: 2,
    find: timesFastest('enqueue', 'bulk'),
  },
  {
    says: '50 concurrent awaited enqueues, jobs/s durable',
    bench: 'enqueue',
    kind: 'contract',
    atLeast: true,
    limit: 20_000,
    aim: 60_000,
    find: (results) => results.ours('enqueue', '50 callers', 'jobsPerSecond'),
  },
  {
    says: 'latency at 100/s, p50 over the best peer',
    bench: 'latency',
    kind: 'ratio',
    atLeast: false,
    limit: 1,
    find: timesQuickest('latency', '100/s', 'p50Ms'),
  },
  {
    says: 'latency at 100/s, p99 over the best peer',
    bench: 'latency',
    kind: 'ratio',
    atLeast: false,
    limit: 2,
    aim: 1,
    find: timesQuickest('latency', '100/s', 'p99Ms'),
  },
  {
    says: 'drain with an old snapshot held, part of the rate without',
    bench: 'snapshot',
    kind: 'ratio',
    atLeast: true,
    limit: 0.9,
    find: (results) => results.paired('snapshot', 'snapshot held', 'no snapshot', 'jobsPerSecond'),
  },
  {
    says: 'PostgreSQL CPU per job in bulk, history on, us',
    bench: 'drain',
    kind: 'contract',
    atLeast: false,
    limit: 10,
    aim: 8,
    find: (results) => results.ours('drain', 'drain', 'serverCpuUs'),
  },
  {
    says: 'WAL per job in bulk, history on, bytes',
    bench: 'drain',
    kind: 'contract',
    atLeast: false,
    limit: 500,
    aim: 400,
    find: (results) => results.ours('drain', 'drain', 'walBytes'),
  },
  {
    says: '[CS-100] one iteration with 1,000 active, ms p50',
    bench: 'iteration',
    kind: 'contract',
    smoke: true,
    atLeast: false,
    limit: 10,
    aim: 1,
    find: part('iteration', '1,000 active, inbox 100', 'p50Ms'),
  },
  {
    says: '[CS-101] inbox send + receive, us p50',
    bench: 'inbox',
    kind: 'contract',
    smoke: true,
    atLeast: false,
    limit: 100,
    aim: 1,
    find: part('inbox', 'send + receive', 'p50Us'),
  },
  {
    says: '[CS-097] schedule 10,000 orchestrators, ms',
    bench: 'orchestrator',
    kind: 'contract',
    smoke: true,
    atLeast: false,
    limit: 100,
    aim: 20,
    find: part('orchestrator', 'schedule 10,000', 'totalMs'),
  },
  {
    says: '[CS-098] process 10,000 messages, ms',
    bench: 'inbox',
    kind: 'contract',
    smoke: true,
    atLeast: false,
    limit: 50,
    aim: 10,
    find: part('inbox', 'process 10,000', 'totalMs'),
  },
  {
    says: '[CS-099] buffer and flush 10,000 updates, ms',
    bench: 'settle',
    kind: 'contract',
    smoke: true,
    atLeast: false,
    limit: 100,
    find: part('settle', 'buffer and flush 10,000', 'totalMs'),
  },
  {
    says: '[CS-103] memory per orchestrator, bytes',
    bench: 'memory',
    kind: 'contract',
    smoke: true,
    atLeast: false,
    limit: 440,
    find: part('memory', '10,000 orchestrators', 'bytesEach'),
  },
  {
    says: '[CS-104] memory per outcome that waits to be written, bytes',
    bench: 'memory',
    kind: 'contract',
    smoke: true,
    atLeast: false,
    limit: 200,
    find: part('memory', '10,000 outcomes', 'bytesEach'),
  },
  {
    says: '[TM-137] enqueue, one call per job, jobs/s',
    bench: 'queue',
    kind: 'contract',
    smoke: true,
    atLeast: true,
    limit: 1_000,
    find: part('queue', 'enqueue', 'jobsPerSecond'),
  },
  {
    says: '[TM-138] enqueue as a batch, times one by one',
    bench: 'queue',
    kind: 'ratio',
    smoke: true,
    atLeast: true,
    limit: 5,
    aim: 20,
    find: over('queue', 'enqueue as a batch', 'enqueue one by one', 'jobsPerSecond'),
  },
  {
    says: '[TM-139] claim, jobs/s',
    bench: 'queue',
    kind: 'contract',
    smoke: true,
    atLeast: true,
    limit: 500,
    find: part('queue', 'claim', 'jobsPerSecond'),
  },
  {
    says: '[TM-140] process no-ops, jobs/s',
    bench: 'queue',
    kind: 'contract',
    smoke: true,
    atLeast: true,
    limit: 500,
    find: part('queue', 'process', 'jobsPerSecond'),
  },
  {
    says: '[TM-141] 4 workers and jobs that wait, times one worker',
    bench: 'queue',
    kind: 'ratio',
    smoke: true,
    atLeast: true,
    limit: 2,
    aim: 3.5,
    find: over('queue', '4 workers, jobs that wait', '1 worker, jobs that wait', 'jobsPerSecond'),
  },
  {
    says: '[TM-141] 10 workers and jobs that wait, times one worker',
    bench: 'queue',
    kind: 'ratio',
    atLeast: true,
    limit: 5,
    aim: 8,
    find: over('queue', '10 workers, jobs that wait', '1 worker, jobs that wait', 'jobsPerSecond'),
  },
  {
    says: '[TM-142] a claim while 100,000 wait, times while 1,000 wait',
    bench: 'queue',
    kind: 'ratio',
    smoke: true,
    atLeast: false,
    limit: 2,
    aim: 1.2,
    find: over('queue', 'claim of 10, 100,000 wait', 'claim of 10, 1,000 wait', 'p50Ms'),
  },
  {
    says: '[TM-142] a claim while 1,000,000 wait, times while 1,000 wait',
    bench: 'queue',
    kind: 'ratio',
    atLeast: false,
    limit: 2,
    aim: 1.2,
    find: over('queue', 'claim of 10, 1,000,000 wait', 'claim of 10, 1,000 wait', 'p50Ms'),
  },
  {
    says: '[TM-142] a claim while 100,000 wait in 5,000 groups, times while 1,000 wait in none',
    bench: 'queue',
    kind: 'ratio',
    atLeast: false,
    limit: 6,
    aim: 3,
    find: over('queue', 'claim of 10, 100,000 wait in 5,000 groups', 'claim of 10, 1,000 wait', 'p50Ms'),
  },
  {
    says: '[TM-144] one group and four engines: end of a job to the start of the next, ms p50',
    bench: 'queue',
    kind: 'contract',
    smoke: true,
    atLeast: false,
    limit: 100,
    aim: 10,
    find: part('queue', '1 group', 'p50Ms'),
  },
  {
    says: 'due until the handler starts, 20 at one second, ms p99',
    bench: 'schedules',
    kind: 'contract',
    atLeast: false,
    limit: 5,
    find: (results) => results.ours('schedules', '20 due at once', 'p99Ms'),
  },
  {
    says: 'due until the handler starts, 1,000 at one second, ms p99',
    bench: 'schedules',
    kind: 'contract',
    atLeast: false,
    limit: 5,
    find: (results) => results.ours('schedules', '1,000 due at once', 'p99Ms'),
  },
  {
    says: 'due until the handler starts, 1,000 at one second, p99 over the best peer (timers in memory)',
    bench: 'schedules',
    kind: 'ratio',
    atLeast: false,
    limit: 3,
    aim: 1,
    find: timesQuickest('schedules', '1,000 due at once', 'p99Ms'),
  },
  {
    says: 'due times of 10 minutes of 10,000 schedules, time over the best peer',
    bench: 'schedules',
    kind: 'ratio',
    atLeast: false,
    limit: 0.1,
    find: timesQuickest('schedules', '10 minutes of 10,000', 'totalMs'),
  },
  ...(
    [
      ['10,000', 5],
      ['100,000', 30],
      ['1,000,000', 200],
    ] as const
  ).map(
    ([runs, limit]): Gate => ({
      says: `the run index of ${runs} built anew, ms`,
      bench: 'cron',
      kind: 'contract',
      atLeast: false,
      limit,
      find: part('cron', `index of ${runs}`, 'totalMs'),
    }),
  ),
  {
    says: 'how long building the run index of 1,000,000 holds the loop at once, ms p95',
    bench: 'cron',
    kind: 'contract',
    atLeast: false,
    limit: 5,
    aim: 2,
    find: part('cron', 'pauses by a rebuild of 1,000,000', 'p95Ms'),
  },
  {
    says: 'an idle engine with 10,000 schedules, % of a core',
    bench: 'schedules',
    kind: 'contract',
    atLeast: false,
    limit: 1,
    find: (results) => results.ours('schedules', 'idle with 10,000', 'corePercent'),
  },
]

/** Judges the gates for which these results hold what it takes; figures of the smoke size only where it is enough. */
export function judge(lines: readonly ResultLine[]): Verdict[] {
  const results = new Results(lines)
  const verdicts: Verdict[] = []
  for (const gate of GATES) {
    if (gate.smoke !== true && lines.some((line) => line.size === 'smoke')) continue
    const found = gate.find(results)
    if (found === null) continue
    const value = Number(found.toPrecision(3))
    verdicts.push({ gate, found: value, passed: gate.atLeast ? value >= gate.limit : value <= gate.limit })
  }
  return verdicts
}
