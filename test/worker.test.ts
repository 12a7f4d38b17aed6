// One engine as a user sets it up: how many jobs it runs at a time, how many it takes, how often it asks, which jobs it
// leaves to others, and what becomes of its jobs when it falls silent.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { systemClock } from '../engine/base/clock.ts'
import type { Log } from '../engine/base/log.ts'
import { type EngineBundle, withEngines } from './support/engine.ts'
import { endAll, startEngine } from './support/engine-process.ts'

const CROWD = new URL('./tasks/crowd.js', import.meta.url)
const BEHAVED = new URL('./tasks/behaved.js', import.meta.url)
const MINUTE = 60_000
/** Nothing but polling tells an engine of work; and nothing but its own silence tells others of its end. */
const DEAF = { listen: false, pollMs: 20, pollMaxMs: 100 } as const

let folder: string

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'millrace-worker-'))
})

after(async () => {
  await endAll()
  rmSync(folder, { recursive: true, force: true })
})

let files = 0
/** A file that is not there yet, and what makes it. */
function gate(): { path: string; open(): void } {
  const path = join(folder, `gate-${++files}`)
  return { path, open: () => writeFileSync(path, '') }
}

async function resultsOf({ client }: EngineBundle, task: string): Promise<unknown[]> {
  const jobs = await client.console.jobs({ task, limit: 1_000 })
  for (const { id, state } of jobs) assert.equal(state, 'completed', `job ${id}`)
  return jobs.map(({ result }) => result)
}

for (const { id, task, seats, jobs } of [
  { id: '[TM-028]', task: 'five', seats: 5, jobs: 10 },
  { id: '[TM-089]', task: 'ten', seats: 10, jobs: 20 },
]) {
  const title = `${jobs} jobs of a task with concurrency ${seats}: ${seats} run at a time, and never more`
  test(`${id} ${title}`, { timeout: MINUTE }, () =>
    withEngines(async (bundle) => {
      await bundle.client.enqueueMany(
        task,
        Array.from({ length: jobs }, () => null),
      )
      const engine = await bundle.engine({ tasks: CROWD })
      await engine.drain() // the first ones wait for each other: fewer at a time would never end
      const found = (await resultsOf(bundle, task)) as number[]
      assert.equal(found.length, jobs)
      assert.equal(Math.max(...found), seats)
      // of a task that is known a thread is given more than it has seats for
      await bundle.client.enqueueMany(
        task,
        Array.from({ length: 6 * jobs }, () => null),
      )
      await engine.drain()
      assert.equal(Math.max(...((await resultsOf(bundle, task)) as number[])), seats)
    }),
  )
}

test(
  'jobs of a shared task that come one by one fill its seats, however long the first ones take',
  {
    timeout: MINUTE,
  },
  () =>
    withEngines(async (bundle) => {
      const engine = await bundle.engine({ tasks: CROWD })
      const { path, open } = gate()
      for (let jobs = 1; jobs <= 6; jobs++) {
        await bundle.client.enqueue('stay', path)
        await bundle.until(`${jobs} run at once`, async () => engine.stats().running === jobs)
      }
      open()
      await engine.drain()
    }),
)

test('[TM-029] with claimJobsMax 3 an engine that has room for ten takes them by three', { timeout: MINUTE }, () =>
  withEngines(async (bundle) => {
    const { path, open } = gate()
    await bundle.client.enqueueMany(
      'stay',
      Array.from({ length: 10 }, () => path),
    )
    const engine = await bundle.engine({ tasks: CROWD, claimJobsMax: 3 })
    const leases = await bundle.until('all ten are held', async () => {
      const rows = await bundle.query<{ jobs: number }>(
        'select (select sum(c.count)::int from unnest(l.chunks) c) as jobs from millrace.lease l order by l.id',
      )
      const taken = rows.map(({ jobs }) => jobs)
      return taken.reduce((sum, jobs) => sum + jobs, 0) === 10 && taken
    })
    assert.equal(Math.max(...leases), 3, `one lease per claim: ${leases}`)
    assert.ok(leases.length <= 5, `as many as allowed each time but for the first and the last: ${leases}`)
    open()
    await engine.drain()
    assert.equal((await resultsOf(bundle, 'stay')).length, 10)
  }),
)

test('[TM-030] an idle engine asks about every pollMs, never much more often', { timeout: MINUTE }, () =>
  withEngines(async (bundle) => {
    await bundle.client.enqueue('echo', 1, { runAt: new Date(Date.now() + 3_600_000) }) // the queue exists
    const engine = await bundle.engine({ listen: false, pollMs: 100, pollMaxMs: 100 })
    const from = systemClock.steadyMs()
    const first = engine.stats().claims
    await bundle.until('it has asked ten times', async () => engine.stats().claims >= first + 10)
    const tookMs = systemClock.steadyMs() - from
    // each interval is 80 to 120 ms, later on a busy machine; the first poll may have been due
    assert.ok(tookMs >= 9 * 80 - 1, `ten polls took ${tookMs} ms`)
    assert.ok(tookMs < 12_000, `ten polls took ${tookMs} ms`)
  }),
)

test('[TM-030] the longer nothing comes the rarer it asks; work makes it ask often again', { timeout: MINUTE }, () =>
  withEngines(async (bundle) => {
    const pollMaxMs = 4_000
    await bundle.client.enqueue('echo', 1, { runAt: new Date(Date.now() + 3_600_000) })
    const engine = await bundle.engine({ listen: false, pollMs: 20, pollMaxMs })
    const asked = () => engine.stats().claims
    const from = systemClock.steadyMs()
    const first = asked()
    await bundle.until('it has asked six times', async () => asked() >= first + 6)
    // the intervals double: 20, 40, 80 ... less a fifth
    const tookMs = systemClock.steadyMs() - from
    assert.ok(tookMs >= 0.8 * (20 + 40 + 80 + 160), `six polls took ${tookMs} ms`)
    const { id } = await bundle.client.enqueue('echo', 2)
    await bundle.inState(id, 'completed')
    const again = systemClock.steadyMs()
    const seen = asked()
    await bundle.until('it has asked four times more', async () => asked() >= seen + 4)
    const rarelyMs = 0.8 * pollMaxMs * 3 // what four polls would take at the least if it had stayed calm
    assert.ok(systemClock.steadyMs() - again < rarelyMs, 'work is a reason to ask often')
  }),
)

for (const { what, task, settings, options } of [
  { what: 'the setting', task: 'nap', settings: { defaultTimeoutMs: 100 }, options: {} },
  { what: 'its task', task: 'short nap', settings: { defaultTimeoutMs: 0 }, options: {} },
  { what: 'its enqueue', task: 'short nap', settings: { defaultTimeoutMs: 0 }, options: { timeoutMs: 200 } },
  { what: 'the setting, though it is deaf,', task: 'doze', settings: { defaultTimeoutMs: 100 }, options: {} },
]) {
  const title = `a handler that sleeps beyond the time that ${what} allows is ended then, and tried again`
  test(`[TM-026] [TM-032] ${title}`, { timeout: MINUTE }, () =>
    withEngines(async (bundle) => {
      await bundle.engine({ tasks: CROWD, ...settings })
      const retry = { kind: 'fixed', delayMs: 3_600_000 } as const
      const { id } = await bundle.client.enqueue(task, 50_000, { retry, ...options })
      const job = await bundle.inState(id, 'retrying')
      assert.equal(job.attempt, 2)
      const [row] = await bundle.query<{ outcome: string; code: string; ms: number }>(
        `select outcome, error ->> 'code' as code, extract(epoch from finished_at - started_at)::float8 * 1000 as ms
         from millrace.attempts where job_id = $1`,
        [id],
      )
      assert.deepEqual([row!.outcome, row!.code], ['timed_out', 'TASK_TIMED_OUT'])
      const allowedMs = options.timeoutMs ?? 100
      // well below the 30 s that are the default
      assert.ok(row!.ms >= allowedMs - 2 && row!.ms < 10_000, `it ran ${row!.ms} ms`)
    }),
  )
}

for (const { id, limitMs, signal } of [
  { id: '[TM-031]', limitMs: 2_000, signal: 'SIGSTOP' },
  { id: '[TM-121]', limitMs: 1_000, signal: 'SIGSTOP' },
] as const) {
  const title = `a holder that says nothing for ${limitMs} ms: its job appears again, and not before`
  test(`${id} ${title}`, { timeout: MINUTE }, () =>
    withEngines(async (bundle) => {
      const { path, open } = gate()
      const life = { nodeLimitMs: limitMs, nodeHeartbeatMs: 200 }
      const silent = startEngine({ ...bundle.base, tasks: CROWD.href, threads: 1, ...life })
      try {
        await silent.ready()
        const job = await bundle.client.enqueue('stay', path)
        await bundle.until('it is held', async () => (await bundle.count('lease')) === 1)
        const [node] = await bundle.query<{ id: number }>('select node_id as id from millrace.lease')
        const engine = await bundle.engine({ tasks: CROWD, ...DEAF, ...life })
        // one that is new lets everybody speak first: it must have been here for as long as it judges others by
        const hereFrom = systemClock.steadyMs()
        await bundle.until('it may judge others', async () => systemClock.steadyMs() - hereFrom > limitMs + 100)
        silent.signal(signal)
        // what it had said until now counts from now; whatever still arrives only makes it later
        const [seen] = await bundle.query<{ at: Date }>('select seen_at as at from millrace.node where id = $1', [
          node!.id,
        ])
        open()
        const done = await bundle.inState(job.id, 'completed')
        assert.deepEqual([(done.result as { run: number }).run, done.attempt], [2, 1], 'another run, and not charged')
        const [row] = await bundle.query<{ at: Date }>(
          `select started_at as at from millrace.attempts where job_id = $1 and outcome = 'completed'`,
          [job.id],
        )
        const afterMs = row!.at.getTime() - seen!.at.getTime()
        assert.ok(afterMs >= limitMs - 2, `it was taken over ${afterMs} ms after the last word of its holder`)
        assert.equal(engine.stats().rescuedJobs, 1)
      } finally {
        await silent.kill9()
      }
    }),
  )
}

test(
  '[TM-033] [TM-102] an engine of one group takes only that group, and leaves the rest to others',
  {
    timeout: MINUTE,
  },
  () =>
    withEngines(async (bundle) => {
      const { client } = bundle
      const jobs = ['a', 'b', 'a', null, 'b', 'a'].map((group, at) => ({
        task: 'echo',
        payload: at,
        options: group === null ? {} : { group },
      }))
      await client.enqueueMany(jobs)
      const done = async (group: string | null) =>
        (await client.console.jobs({ state: 'completed' })).filter((job) => job.group === group).length
      const picky = await bundle.engine({ onlyGroup: 'a' })
      await bundle.until('its group is done', async () => (await done('a')) === 3)
      const before = picky.stats().claims
      await client.enqueueMany(jobs)
      await bundle.until('its group is done again', async () => (await done('a')) === 6)
      assert.ok(picky.stats().claims > before)
      assert.deepEqual([await done('b'), await done(null)], [0, 0])
      const any = await bundle.engine()
      await any.drain()
      assert.deepEqual([await done('a'), await done('b'), await done(null)], [6, 4, 2])
    }),
)

test(
  '[TM-034] an engine that works for a while and is told to stop leaves in order, with no line of complaint',
  {
    timeout: MINUTE,
  },
  () =>
    withEngines(async (bundle) => {
      const complaints: string[] = []
      const quiet = () => {}
      const complain = (_facts: Record<string, unknown>, event: string) => void complaints.push(event)
      const log: Log = { debug: quiet, info: quiet, warn: complain, error: complain, child: () => log }
      const engine = await bundle.engine({ log })
      await bundle.client.enqueueMany('echo', [1, 2, 3])
      await bundle.until('they are done', async () => engine.stats().settled === 3)
      const report = await engine.stop()
      await engine.stopped
      assert.deepEqual([report.released, report.outboxed], [0, 0])
      assert.deepEqual(complaints, [])
      assert.equal(await bundle.count('node', 'lease', 'running'), 0)
    }),
)

test(
  '[TM-035] stop waits for what runs, takes nothing new, and the outcome is stored when it resolves',
  {
    timeout: MINUTE,
  },
  () =>
    withEngines(async (bundle) => {
      const { client } = bundle
      // one that looks at no signal: it ends when it is done, or when it is ended
      const { id } = await client.enqueue('rest', 1_000)
      const engine = await bundle.engine({ tasks: BEHAVED })
      await bundle.until('it runs', async () => engine.stats().running === 1)
      const stopping = engine.stop(30_000)
      const late = await client.enqueue('rest', 1)
      const report = await stopping
      assert.deepEqual([report.released, report.outboxed], [0, 0])
      const job = await client.console.job(id)
      assert.deepEqual([job?.state, job?.result], ['completed', 1_000])
      assert.equal((await client.console.job(late.id))?.state, 'queued')
    }),
)

test('[TM-036] stop ends what does not end in time, gives it back uncharged, and says so', { timeout: MINUTE }, () =>
  withEngines(async (bundle) => {
    const { id } = await bundle.client.enqueue('rest', 30_000, { maxAttempts: 1, timeoutMs: 60_000 })
    const engine = await bundle.engine({ tasks: BEHAVED })
    await bundle.until('it runs', async () => engine.stats().running === 1)
    const report = await engine.stop(500)
    assert.deepEqual(report, { released: 1, interrupted: [{ id, task: 'rest' }], outboxed: 0 })
    const job = await bundle.client.console.job(id)
    assert.deepEqual([job?.state, job?.attempt], ['queued', 1])
    assert.deepEqual(await bundle.query(`select * from millrace.attempts where outcome <> 'released'`), [])
    assert.equal(await bundle.count('node', 'lease', 'running'), 0)
  }),
)

test(
  '[TM-036] a stop that is given no time waits for what runs as long as the setting says, 10 s, and names what it ended then',
  {
    timeout: 2 * MINUTE,
  },
  () =>
    withEngines(async (bundle) => {
      const { client } = bundle
      const more = { timeoutMs: 5 * MINUTE, maxAttempts: 1 }
      const engine = await bundle.engine({ tasks: BEHAVED, threads: 2, queues: ['default'] })
      const long = await client.enqueue('rest', 4 * MINUTE, more)
      const short = await client.enqueue('rest', 3_000, more)
      await bundle.until('both run', async () => engine.stats().running === 2)
      const { id: waits } = await client.enqueue('rest', 1, { ...more, queue: 'default', delayMs: 10_000 })
      const begunMs = performance.now()
      const report = await engine.stop()
      const tookMs = performance.now() - begunMs
      assert.ok(tookMs > 5_000 && tookMs < MINUTE, `it took ${tookMs} ms`)
      assert.deepEqual(report.interrupted, [{ id: long.id, task: 'rest' }])
      assert.equal(report.released, 1)
      const stateOf = async (id: number) => (await client.console.job(id))?.state
      assert.deepEqual(
        [await stateOf(short.id), await stateOf(long.id), await stateOf(waits)],
        ['completed', 'queued', 'scheduled'],
      )
    }),
)

test(
  '[TM-037] an idle engine that is told to stop is gone at once, leaves no trace, and may be told twice',
  {
    timeout: MINUTE,
  },
  () =>
    withEngines(async (bundle) => {
      const engine = await bundle.engine()
      const { id } = await bundle.client.enqueue('echo', 1)
      await bundle.inState(id, 'completed')
      const reports = await Promise.all([engine.stop(), engine.stop()])
      await engine.stopped
      for (const report of reports) assert.deepEqual([report.released, report.outboxed], [0, 0])
      assert.equal(await bundle.count('node', 'lease', 'hold', 'running'), 0)
      const next = await bundle.client.enqueue('echo', 2)
      assert.equal((await bundle.client.console.job(next.id))?.state, 'queued', 'nobody is left to take it')
    }),
)

test(
  '[TM-130] an engine without tasks leaves jobs to others; one that takes everything fails them as not registered',
  {
    timeout: MINUTE,
  },
  () =>
    withEngines(async (bundle) => {
      const { client } = bundle
      const { id } = await client.enqueue('echo', 1, { maxAttempts: 1 })
      const idle = await bundle.engine({ tasks: [], ...DEAF })
      await bundle.until('it has asked five times', async () => idle.stats().claims >= 5)
      assert.equal((await client.console.job(id))?.state, 'queued')
      await bundle.engine({ tasks: [], claimUnknown: true })
      const job = await bundle.inState(id, 'failed')
      assert.equal((job.error as { code: string }).code, 'TASK_NOT_REGISTERED')
      const other = await client.enqueue('echo', 2)
      await bundle.until('it waits for another try', async () => {
        const state = (await client.console.job(other.id))?.state
        return state === 'retrying'
      })
    }),
)
