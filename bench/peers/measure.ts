// One measurement of one system, each in a database of its own, with producer and worker in child processes. Every
// measurement checks that each job ran exactly once and that the database counts it as completed: a figure of work that
// was not done is an error, not a result.

import pg from 'pg'
import { quantile, type Sample } from '../harness.ts'
import { cost, holdSnapshot, type Server, type ServerCost } from '../server.ts'
import type { Spent } from './child.ts'
import { withCrew } from './crew.ts'
import type { Purpose, System, Tally } from './system.ts'

export interface DrainPlan {
  readonly count: number
  readonly threads: number
  readonly purpose?: Exclude<Purpose, 'latency'>
  /** True holds another session's snapshot from before the first job until after the last. */
  readonly snapshotHeld?: boolean
}

/** All jobs are stored, then the worker's clock starts: start-up and graceful stop are in the rate, as every user pays them. */
export async function drain(server: Server, system: System, plan: DrainPlan): Promise<Sample> {
  const purpose = plan.purpose ?? 'throughput'
  return server.withDatabase((url) =>
    withCrew(async (hire) => {
      await system.prepare(url, purpose)
      const release = plan.snapshotHeld === true ? await holdSnapshot(url) : async () => {}
      const producer = await hire(system.name, url)
      await producer.openProducer(purpose)
      await server.checkpoint()
      const empty = await server.meter()
      await producer.bulk(0, plan.count, system.bulkBatch, system.bulkInFlight)
      await producer.close()
      const filled = await server.meter()
      const worker = await hire(system.name, url)
      await settleTables(url)
      await server.checkpoint()
      const before = await server.meter()
      const spent = await worker.drain({ purpose, count: plan.count, threads: plan.threads })
      const tally = await worker.tally()
      await worker.close()
      const after = await server.meter()
      await release()
      await check(system, url, plan.count, tally)
      const enqueued = cost(empty, filled)
      const drained = cost(before, after)
      return {
        jobsPerSecond: rate(plan.count, spent),
        nodeCpuUs: spent.cpuUs / plan.count,
        ...perJob(both(enqueued, drained), plan.count),
        rssMiB: spent.rssMiB,
      }
    }),
  )
}

/** Producer and worker at once; the clock runs from the first enqueue until the last completion is stored. */
export async function sustain(
  server: Server,
  system: System,
  plan: { count: number; threads: number },
): Promise<Sample> {
  return server.withDatabase((url) =>
    withCrew(async (hire) => {
      await system.prepare(url, 'throughput')
      const [producer, worker] = await Promise.all([hire(system.name, url), hire(system.name, url)])
      await producer.openProducer('throughput')
      await worker.startWorker({ purpose: 'throughput', ...plan })
      await server.checkpoint()
      const before = await server.meter()
      const [produced, worked] = await Promise.all([
        producer.bulk(0, plan.count, system.bulkBatch, system.bulkInFlight),
        worker.finish(),
      ])
      const tally = await worker.tally()
      await Promise.all([producer.close(), worker.close()])
      const after = await server.meter()
      await check(system, url, plan.count, tally)
      return {
        jobsPerSecond: rate(plan.count, { startUs: produced.startUs, endUs: worked.endUs }),
        nodeCpuUs: (produced.cpuUs + worked.cpuUs) / plan.count,
        ...perJob(cost(before, after), plan.count),
      }
    }),
  )
}

export type EnqueueMode =
  | { readonly kind: 'single' }
  | { readonly kind: 'concurrent'; readonly callers: number }
  | { readonly kind: 'bulk' }

/** Enqueue only, after a warm-up of the same calls; an acknowledged job is durable for every system. */
export async function enqueue(server: Server, system: System, count: number, mode: EnqueueMode): Promise<Sample> {
  return server.withDatabase((url) =>
    withCrew(async (hire) => {
      await system.prepare(url, 'throughput')
      const producer = await hire(system.name, url)
      await producer.openProducer('throughput')
      const call = (firstId: number, n: number) => {
        if (mode.kind === 'single') return producer.single(firstId, n)
        if (mode.kind === 'concurrent') return producer.concurrent(firstId, n, mode.callers)
        return producer.bulk(firstId, n, system.bulkBatch, system.bulkInFlight)
      }
      const warm = Math.ceil(count / 10)
      await call(0, warm)
      await server.checkpoint()
      const before = await server.meter()
      const spent = await call(warm, count)
      const after = await server.meter()
      await producer.close()
      const stored = await system.unfinished(url, warm + count)
      if (stored !== warm + count) throw new Error(`bench: ${system.name} holds ${stored} of ${warm + count} jobs`)
      return {
        jobsPerSecond: rate(count, spent),
        nodeCpuUs: spent.cpuUs / count,
        ...perJob(cost(before, after), count),
      }
    }),
  )
}

export interface LatencyPlan {
  readonly perSecond: number
  readonly warmup: number
  readonly count: number
  readonly threads: number
}

/** From just before the enqueue call in one process to the start of the handler in another, at a fixed rate. */
export async function latency(server: Server, system: System, plan: LatencyPlan): Promise<Sample> {
  const total = plan.warmup + plan.count
  return server.withDatabase((url) =>
    withCrew(async (hire) => {
      await system.prepare(url, 'latency')
      const [producer, worker] = await Promise.all([hire(system.name, url), hire(system.name, url)])
      await producer.openProducer('latency')
      await worker.startWorker({ purpose: 'latency', count: total, threads: plan.threads })
      await server.checkpoint()
      await producer.pace(0, plan.warmup, plan.perSecond)
      const { sentUs, tookUs } = await producer.pace(plan.warmup, plan.count, plan.perSecond)
      await worker.finish()
      const tally = await worker.tally()
      await Promise.all([producer.close(), worker.close()])
      await check(system, url, total, tally)
      const waits = Array.from(sentUs, (sent, i) => (tally.startedUs![plan.warmup + i]! - sent) / 1e3)
      const adds = Array.from(tookUs, (took) => took / 1e3)
      return {
        p50Ms: quantile(waits, 0.5),
        p95Ms: quantile(waits, 0.95),
        p99Ms: quantile(waits, 0.99),
        addP50Ms: quantile(adds, 0.5),
      }
    }),
  )
}

/**
 * A database that has been in use has statistics; without them a peer's plans are twice as slow (graphile-worker with
 * 100,000 jobs: 21,000 to 36,000/s without, 48,000/s with), by the chance of when autovacuum comes by.
 */
async function settleTables(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url, application_name: 'bench' })
  await client.connect()
  try {
    await client.query('vacuum (analyze)')
  } finally {
    await client.end()
  }
}

async function check(system: System, url: string, count: number, tally: Tally): Promise<void> {
  const unfinished = await system.unfinished(url, count)
  if (tally.ran !== count || tally.distinct !== count || unfinished !== 0) {
    throw new Error(
      `bench: ${system.name} ran ${tally.ran} times ${tally.distinct} of ${count} jobs and left ${unfinished} unfinished`,
    )
  }
}

function rate(count: number, { startUs, endUs }: Pick<Spent, 'startUs' | 'endUs'>): number {
  return count / ((endUs - startUs) / 1e6)
}

function both(a: ServerCost, b: ServerCost): ServerCost {
  return {
    cpuMs: a.cpuMs === null || b.cpuMs === null ? null : a.cpuMs + b.cpuMs,
    walBytes: a.walBytes + b.walBytes,
  }
}

function perJob({ cpuMs, walBytes }: ServerCost, count: number): Sample {
  return { ...(cpuMs === null ? {} : { serverCpuUs: (cpuMs * 1e3) / count }), walBytes: walBytes / count }
}
