// The queue by its contract: how fast single and batched enqueues, claims and whole jobs are, what more workers bring,
// whether a claim cares how many jobs wait, and how long a group's next job waits for its turn. Engines run in this
// process, through the public interface, with their defaults; the real comparisons with others are benches of their own.

import { randomUUID } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { systemClock } from '../engine/base/clock.ts'
import type { EngineOptions } from '../engine/engine.ts'
import { type Client, createClient, createEngine, type Engine } from '../engine/index.ts'
import { fill, fillFast, withStore } from './claim.bench.ts'
import { type Harness, quantile, type Sample, type Subject } from './harness.ts'
import { REST_TASK } from './peers/millrace-rest.ts'
import { monotonicUs, payloads, TASK } from './peers/system.ts'
import { OURS } from './peers/table.ts'
import type { Server } from './server.ts'

export const name = 'queue'
export const says = 'the queue by its contract: enqueues, claims, whole jobs, workers, long queues, groups'
export const cases = '[TM-137] [TM-138] [TM-139] [TM-140] [TM-141] [TM-142] [TM-144]'

const NO_OP = new URL('./peers/millrace-throughput.js', import.meta.url)
const REST = new URL('./peers/millrace-rest.js', import.meta.url)

const CALLERS = 50
const REST_MS = 5
/** Jobs that one claim of the long queues takes, and claims that are measured: all together less than the shortest has. */
const CLAIM_JOBS = 10
const CLAIMS = 80
const WARM_CLAIMS = 10
const GROUPS = 5_000

export async function run(harness: Harness): Promise<void> {
  const server = await harness.server()
  const jobs = harness.pick(1_000, 10_000)
  await harness.compare(name, [
    ours('enqueue', { jobs, callers: CALLERS }, () => enqueueSingly(server, jobs, CALLERS)),
    ours('enqueue one by one', { jobs: jobs / 10 }, () => enqueueSingly(server, jobs / 10, 1)),
    ours('enqueue as a batch', { jobs }, () => enqueueBatch(server, jobs)),
    ours('claim', { jobs, jobsMax: 100 }, () => claimAll(server, jobs)),
    ours('process', { jobs }, () => processAll(server, jobs, 1, 2)),
  ])
  const workers = harness.pick([1, 4], [1, 2, 4, 10])
  await harness.compare(
    name,
    workers.flatMap((count): Subject[] => {
      const resting = count * harness.pick(100, count < 10 ? 400 : 1_000)
      return [
        ours(`${workersOf(count)}, jobs that wait`, { jobs: resting, restMs: REST_MS }, () =>
          rest(server, resting, count),
        ),
        ours(`${workersOf(count)}, no-op`, { jobs }, () => processAll(server, jobs, count, 1)),
      ]
    }),
  )
  await harness.compare(name, [
    ...harness
      .pick([1_000, 100_000], [1_000, 10_000, 100_000, 1_000_000])
      .map((waiting) =>
        ours(`claim of ${CLAIM_JOBS}, ${waiting.toLocaleString('en')} wait`, { claims: CLAIMS }, () =>
          claimSome(server, waiting, 0),
        ),
      ),
    ...harness
      .pick([], [100_000])
      .map((waiting) =>
        ours(
          `claim of ${CLAIM_JOBS}, ${waiting.toLocaleString('en')} wait in ${GROUPS.toLocaleString('en')} groups`,
          { claims: CLAIMS },
          () => claimSome(server, waiting, GROUPS),
        ),
      ),
  ])
  await harness.compare(
    name,
    harness
      .pick(
        [
          [1, 100],
          [10, 100],
          [1_000, 100],
        ],
        [
          [1, 500],
          [10, 2_000],
          [1_000, 5_000],
          [GROUPS, 10_000],
        ],
      )
      .map(([groups, count]) =>
        ours(`${groups!.toLocaleString('en')} group${groups === 1 ? '' : 's'}`, { jobs: count, engines: 4 }, () =>
          turns(server, count!, groups!),
        ),
      ),
  )
}

const workersOf = (count: number) => (count === 1 ? '1 worker' : `${count} workers`)

function ours(subject: string, settings: Record<string, unknown>, sample: () => Promise<Sample>): Subject {
  return { system: OURS, subject, settings, packages: ['pg'], sample }
}

// ------------------------------------------------------------------ enqueue and claim

async function enqueueSingly(server: Server, jobs: number, callers: number): Promise<Sample> {
  return withClient(server, async (client) => {
    await client.enqueue(TASK, { id: 0 })
    let next = 0
    const caller = async () => {
      while (next < jobs) await client.enqueue(TASK, { id: next++, name: 'x' })
    }
    return rateOf(jobs, () => Promise.all(Array.from({ length: callers }, caller)))
  })
}

async function enqueueBatch(server: Server, jobs: number): Promise<Sample> {
  return withClient(server, async (client) => {
    await client.enqueue(TASK, { id: 0 })
    return rateOf(jobs, () => client.enqueueMany(TASK, payloads(0, jobs)))
  })
}

function claimAll(server: Server, jobs: number): Promise<Sample> {
  return withStore(server, async (store, nodeId, queueId, taskId) => {
    await fill(store, queueId, taskId, jobs, 1)
    const request = { nodeId, queueIds: [queueId], taskIds: null, jobsMax: 100, bytesMax: 1e9, group: null }
    return rateOf(jobs, async () => {
      for (let claimed = 0; claimed < jobs; ) {
        const chunks = await store.claim(request)
        if (chunks.length === 0) throw new Error(`bench: the queue is empty after ${claimed} of ${jobs} jobs`)
        for (const { count } of chunks) claimed += count
      }
    })
  })
}

/** The same few claims out of a queue that is short or long; with groups, each has its share and its turn is free. */
function claimSome(server: Server, waiting: number, groups: number): Promise<Sample> {
  return withStore(server, async (store, nodeId, queueId, taskId) => {
    await fillFast(store, queueId, taskId, waiting, groups)
    await server.checkpoint()
    const request = { nodeId, queueIds: [queueId], taskIds: null, jobsMax: CLAIM_JOBS, bytesMax: 1e9, group: null }
    for (let at = 0; at < WARM_CLAIMS; at++) await store.claim(request)
    const took: number[] = []
    for (let at = 0; at < CLAIMS; at++) {
      const startUs = monotonicUs()
      const chunks = await store.claim(request)
      took.push((monotonicUs() - startUs) / 1e3)
      if (chunks.length !== CLAIM_JOBS) throw new Error(`bench: a claim took ${chunks.length} jobs`)
    }
    return { p50Ms: quantile(took, 0.5), p95Ms: quantile(took, 0.95), p99Ms: quantile(took, 0.99) }
  })
}

// ------------------------------------------------------------------ whole jobs

/** No-ops that wait already when the engines are told to begin; start-up is not in the rate, the last outcome is. */
function processAll(server: Server, jobs: number, workers: number, threads: number): Promise<Sample> {
  return withEngines(server, workers, { threads, tasks: [NO_OP] }, async (client, engines, url) => {
    const sample = await rateOf(jobs, async () => {
      await client.enqueueMany(TASK, payloads(0, jobs))
      await allDone(engines, jobs)
    })
    await checkOnce(url, jobs)
    return sample
  })
}

/** Each worker has one thread that does one job at a time: the rate shows how many of them work. */
function rest(server: Server, jobs: number, workers: number): Promise<Sample> {
  return withEngines(server, workers, { threads: 1, tasks: [REST] }, async (client, engines, url) => {
    const sample = await rateOf(jobs, async () => {
      await client.enqueueMany(
        REST_TASK,
        Array.from({ length: jobs }, () => REST_MS),
      )
      await allDone(engines, jobs)
    })
    await checkOnce(url, jobs)
    return sample
  })
}

/** Four engines, no-ops in groups: from the end of a job to the start of the next of its group, wherever that runs. */
function turns(server: Server, jobs: number, groups: number): Promise<Sample> {
  return withEngines(server, 4, { threads: 1, tasks: [NO_OP] }, async (client, engines, url) => {
    const items = Array.from({ length: jobs }, (_, id) => ({
      task: TASK,
      payload: { id, name: 'x' },
      options: { group: `g${id % groups}` },
    }))
    const sample = await rateOf(jobs, async () => {
      await client.enqueueMany(items)
      await allDone(engines, jobs)
    })
    await checkOnce(url, jobs)
    const waits = await ask<{ ms: number }>(
      url,
      `select extract(epoch from a.started_at - lag(a.finished_at) over (partition by j.group_key order by a.started_at))::float8 * 1000 as ms
       from millrace.attempt a join millrace.job j on j.id = a.job_id`,
    )
    const took = waits.flatMap(({ ms }) => (ms === null ? [] : [ms]))
    if (took.some((ms) => ms < -1)) throw new Error('bench: two jobs of a group ran at once') // clocks are read in ms
    return took.length === 0 ? sample : { ...sample, p50Ms: quantile(took, 0.5), p99Ms: quantile(took, 0.99) }
  })
}

// ------------------------------------------------------------------ around them

async function rateOf(jobs: number, work: () => Promise<unknown>): Promise<Sample> {
  const startUs = monotonicUs()
  await work()
  const tookUs = monotonicUs() - startUs
  return { jobsPerSecond: jobs / (tookUs / 1e6), totalMs: tookUs / 1e3 }
}

function withClient<T>(server: Server, work: (client: Client) => Promise<T>): Promise<T> {
  return server.withDatabase(async (url) => {
    const client = createClient({ database: url })
    try {
      await client.migrate()
      return await work(client)
    } finally {
      await client.close()
    }
  })
}

function withEngines<T>(
  server: Server,
  count: number,
  options: EngineOptions & { readonly tasks: readonly URL[] },
  work: (client: Client, engines: Engine[], url: string) => Promise<T>,
): Promise<T> {
  return server.withDatabase(async (url) => {
    const client = createClient({ database: url })
    const engines = Array.from({ length: count }, () =>
      createEngine({
        database: url,
        dataDir: join(tmpdir(), `millrace-bench-${randomUUID()}`), // made only if an outcome cannot be written
        ...options,
      }),
    )
    try {
      await client.migrate()
      await Promise.all(engines.map((engine) => engine.start()))
      // threads, plans and the list of queues are warm, and everybody has learned how long such a job takes
      const [task, some] = options.tasks.includes(REST) ? [REST_TASK, Array(5).fill(REST_MS)] : [TASK, payloads(0, 5)]
      for (let round = 0; engines.some((engine) => engine.stats().completed === 0); round++) {
        if (round > 1_000) throw new Error('bench: an engine never gets a job')
        await client.enqueueMany(task, some)
        await allDone(engines, some.length)
      }
      await ask(url, 'truncate millrace.attempt')
      return await work(client, engines, url)
    } finally {
      await Promise.all(engines.map((engine) => engine.stop(5_000)))
      await client.close()
    }
  })
}

const seen = new WeakMap<Engine[], number>()

/** So many more outcomes are stored than when this was last asked. */
async function allDone(engines: Engine[], jobs: number): Promise<void> {
  const target = (seen.get(engines) ?? 0) + jobs
  seen.set(engines, target)
  const untilMs = systemClock.steadyMs() + 300_000
  for (;;) {
    let settled = 0
    for (const engine of engines) settled += engine.stats().settled
    if (settled >= target) return
    if (systemClock.steadyMs() > untilMs) throw new Error(`bench: ${settled} of ${target} jobs were done`)
    await systemClock.sleep(2)
  }
}

async function checkOnce(url: string, jobs: number): Promise<void> {
  const [row] = await ask<{ ran: number; jobs: number }>(
    url,
    `select count(*)::int as ran, count(distinct job_id)::int as jobs from millrace.attempt where outcome = 'c'`,
  )
  if (row!.ran !== jobs || row!.jobs !== jobs)
    throw new Error(`bench: ${row!.jobs} of ${jobs} jobs were run, ${row!.ran} times`)
}

async function ask<Row extends pg.QueryResultRow>(url: string, text: string): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url, application_name: 'bench' })
  await client.connect()
  try {
    return (await client.query<Row>(text)).rows
  } finally {
    await client.end()
  }
}
