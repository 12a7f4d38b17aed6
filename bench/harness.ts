// What every benchmark is made with: its size, its repetitions, and the line of results it leaves. A subject is one way
// of doing the work (one system, one setting); the subjects of a benchmark take turns, A B C A B C, so that a noisy
// minute of a shared machine hits all of them. A result keeps every repetition; the median is what is quoted, and only
// ratios of one run are compared.

import { commit, type Machine, machine, versions } from './facts.ts'
import type { Server, ServerFacts } from './server.ts'

/** `smoke` proves that a benchmark works (seconds, in the tests); `real` is for figures. */
export type Size = 'smoke' | 'real'

/** Every metric that a result may hold, its unit, and which way is better. */
export const METRICS = {
  jobsPerSecond: { unit: 'jobs/s', better: 'more' },
  opsPerSecond: { unit: 'ops/s', better: 'more' },
  nodeCpuUs: { unit: 'us node CPU per job', better: 'less' },
  serverCpuUs: { unit: 'us PostgreSQL CPU per job', better: 'less' },
  walBytes: { unit: 'B WAL per job', better: 'less' },
  rssMiB: { unit: 'MiB resident', better: 'less' },
  p50Ms: { unit: 'ms p50', better: 'less' },
  p95Ms: { unit: 'ms p95', better: 'less' },
  p99Ms: { unit: 'ms p99', better: 'less' },
  addP50Ms: { unit: 'ms p50 of the enqueue call', better: 'less' },
  p50Us: { unit: 'us p50', better: 'less' },
  p95Us: { unit: 'us p95', better: 'less' },
  p99Us: { unit: 'us p99', better: 'less' },
  totalMs: { unit: 'ms for all', better: 'less' },
  bytesEach: { unit: 'bytes each', better: 'less' },
  corePercent: { unit: '% of a core', better: 'less' },
} as const satisfies Record<string, { unit: string; better: 'more' | 'less' }>

export type Metric = keyof typeof METRICS
export type Sample = Partial<Record<Metric, number>>

export interface Subject {
  /** Which system: `millrace`, a peer's package name, or a part of ours. */
  readonly system: string
  /** What it did, the same words for all systems that are compared: `bulk`, `drain`, ... */
  readonly subject: string
  readonly settings: Readonly<Record<string, unknown>>
  /** Packages whose versions belong beside the figure. */
  readonly packages?: readonly string[]
  /** Takes one sample; a null metric of the machine (no /proc) is left out. */
  sample(repetition: number): Promise<Sample>
}

/** One line of `results/*.jsonl`. */
export interface ResultLine {
  bench: string
  system: string
  subject: string
  run: string
  size: Size
  machine: Machine
  commit: string
  versions: Record<string, string>
  server: ServerFacts | null
  settings: Readonly<Record<string, unknown>>
  metrics: Partial<Record<Metric, { unit: string; values: number[]; median: number }>>
}

export interface HarnessOptions {
  readonly size: Size
  readonly repetitions: number
  /** Opens the server at its first use; the harness closes it. */
  readonly openServer: () => Promise<Server>
  /** Systems that take part; all when left out. */
  readonly systems?: readonly string[]
  /** Gets a line of text per sample. */
  readonly say?: (text: string) => void
}

export class Harness {
  readonly size: Size
  readonly repetitions: number
  readonly lines: ResultLine[] = []
  readonly #openServer: () => Promise<Server>
  readonly #systems: readonly string[] | null
  readonly #say: (text: string) => void
  readonly #run = new Date().toISOString()
  #server: Promise<Server> | null = null

  constructor(options: HarnessOptions) {
    this.size = options.size
    this.repetitions = options.repetitions
    this.#openServer = options.openServer
    this.#systems = options.systems ?? null
    this.#say = options.say ?? (() => {})
  }

  /** The one server of this run. @throws when it is not durable and the size is real: such figures mean nothing. */
  server(): Promise<Server> {
    this.#server ??= this.#openServer().then(async (server) => {
      if (this.size === 'real' && (server.facts.fsync !== 'on' || server.facts.synchronous_commit !== 'on')) {
        await server.close()
        throw new Error('bench: the server must run with fsync and synchronous_commit on')
      }
      return server
    })
    return this.#server
  }

  /** Picks by size. */
  pick<T>(smoke: T, real: T): T {
    return this.size === 'smoke' ? smoke : real
  }

  /** Those of `names` that take part in this run. */
  among(names: readonly string[]): string[] {
    return names.filter((name) => this.#systems === null || this.#systems.includes(name))
  }

  /** Lets the subjects take turns until each has its repetitions, then leaves one line for each. */
  async compare(bench: string, subjects: readonly Subject[], repetitions = this.repetitions): Promise<void> {
    const samples = new Map<Subject, Sample[]>(subjects.map((subject) => [subject, []]))
    for (let repetition = 0; repetition < repetitions; repetition++) {
      for (const subject of subjects) {
        const sample = await subject.sample(repetition)
        samples.get(subject)!.push(sample)
        this.#say(`${bench} ${subject.subject} ${subject.system} #${repetition + 1}: ${text(sample)}`)
      }
    }
    const server = this.#server === null ? null : (await this.#server).facts
    for (const [subject, taken] of samples) this.lines.push(this.#line(bench, subject, taken, server))
  }

  async close(): Promise<void> {
    if (this.#server !== null) await (await this.#server).close()
    this.#server = null
  }

  #line(bench: string, subject: Subject, samples: readonly Sample[], server: ServerFacts | null): ResultLine {
    const metrics: ResultLine['metrics'] = {}
    for (const metric of Object.keys(METRICS) as Metric[]) {
      const values = samples.flatMap((sample) => sample[metric] ?? [])
      if (values.length > 0) {
        metrics[metric] = { unit: METRICS[metric].unit, values: values.map(rounded), median: rounded(median(values)) }
      }
    }
    return {
      bench,
      system: subject.system,
      subject: subject.subject,
      run: this.#run,
      size: this.size,
      machine: machine(),
      commit: commit(),
      versions: versions(['millrace', ...(subject.packages ?? [])].filter((name) => name !== 'millrace')),
      server,
      settings: subject.settings,
      metrics,
    }
  }
}

/** The middle value; of an even count the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5)
}

/** By linear interpolation between the two nearest ranks. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = Float64Array.from(values).sort()
  const at = (sorted.length - 1) * q
  const low = sorted[Math.floor(at)]!
  return low + (sorted[Math.ceil(at)]! - low) * (at - Math.floor(at))
}

/** Four significant digits are more than such a measurement has. */
function rounded(value: number): number {
  return Math.abs(value) >= 1_000 ? Math.round(value) : Number(value.toPrecision(4))
}

function text(sample: Sample): string {
  return Object.entries(sample)
    .map(([metric, value]) => `${rounded(value).toLocaleString('en')} ${METRICS[metric as Metric].unit}`)
    .join(', ')
}
