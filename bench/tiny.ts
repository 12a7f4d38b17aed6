// Small things, measured with tinybench: one function, called until its time is over, each call one sample. What is
// faster than the clock is called many times per sample (`perCall`), and the figures are divided.

import { Bench } from 'tinybench'
import { type Harness, quantile, type Sample } from './harness.ts'

export interface Tiny {
  readonly run: () => unknown
  /** Not timed, before and after each call. */
  readonly before?: () => void
  readonly after?: () => void
  /** Things done by one call. Default 1. */
  readonly perCall?: number
  /** Calls at least. Default 10 (smoke: 5), however slow one is. */
  readonly calls?: number
}

/** Microseconds per thing: p50, p95, p99, and things per second by the median. */
export async function perThing(harness: Harness, tiny: Tiny): Promise<Sample> {
  const samples = await samplesOf(harness, tiny)
  const us = (q: number) => (quantile(samples, q) * 1e3) / (tiny.perCall ?? 1)
  return { opsPerSecond: 1e6 / us(0.5), p50Us: us(0.5), p95Us: us(0.95), p99Us: us(0.99) }
}

/** Milliseconds for the whole call: the median, and things per second by it. */
export async function perCall(harness: Harness, tiny: Tiny): Promise<Sample> {
  const totalMs = quantile(await samplesOf(harness, tiny), 0.5)
  return { opsPerSecond: ((tiny.perCall ?? 1) * 1e3) / totalMs, totalMs }
}

/** Milliseconds of each call, as percentiles. */
export async function percentiles(harness: Harness, tiny: Tiny): Promise<Sample> {
  const samples = await samplesOf(harness, tiny)
  return { p50Ms: quantile(samples, 0.5), p95Ms: quantile(samples, 0.95), p99Ms: quantile(samples, 0.99) }
}

async function samplesOf(harness: Harness, tiny: Tiny): Promise<readonly number[]> {
  const bench = new Bench({
    time: harness.pick(10, 300),
    iterations: tiny.calls ?? harness.pick(5, 10),
    warmupTime: harness.pick(5, 100),
    warmupIterations: 2,
    retainSamples: true,
    throws: true,
  })
  bench.add('it', tiny.run, {
    ...(tiny.before === undefined ? {} : { beforeEach: tiny.before }),
    ...(tiny.after === undefined ? {} : { afterEach: tiny.after }),
  })
  const [task] = await bench.run()
  const result = task!.result
  if (result.state !== 'completed' || result.latency.samples === undefined) {
    throw new Error(`bench: a case ended as ${result.state}`)
  }
  return result.latency.samples
}
