// Within a group one job at a time, or as many as its limit says, in order: by priority, then as they were enqueued,
// among those that wait. Whole engines, many of them, and random histories in which jobs fail and a holder dies or freezes.
//
// Three witnesses: the database, looked at again and again, never shows more jobs of a group with its turn than they allow; the
// handlers' own lines never overlap; and a job that begins is the first of those that waited when its turn came.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, type TestContext, test } from 'node:test'
import fc from 'fast-check'
import { systemClock } from '../engine/base/clock.ts'
import { type EngineBundle, withEngines } from './support/engine.ts'
import { endAll, startEngine } from './support/engine-process.ts'
import { History } from './support/history.ts'

const WITNESS = new URL('./tasks/witness.js', import.meta.url)
const CROWD = new URL('./tasks/crowd.js', import.meta.url)
const MINUTE = 60_000
const folder = mkdtempSync(join(tmpdir(), 'millrace-fifo-'))

after(async () => {
  await endAll()
  rmSync(folder, { recursive: true, force: true })
})

/** Groups whose turn more jobs have than one of them allows: held and not ended, waiting with the turn, or for a retry. */
const TOO_MANY_AT_ONCE = `
  select turns.group_key, array_agg(turns.id) as jobs from (
    select j.queue_id, j.group_key, j.id from millrace.lease l cross join lateral unnest(l.chunks) c
    join millrace.job j on j.id >= c.first_id and j.id < c.first_id + c.count
    where j.group_key is not null
      and not exists (select from millrace.attempt a where a.job_id = j.id and a.run >= c.run)
    union all select queue_id, group_key, first_id from millrace.ready where group_key is not null and count > 0
    union all select queue_id, group_key, first_id from millrace.scheduled where holds
  ) turns join millrace.job j on j.id = turns.id
  group by turns.queue_id, turns.group_key having count(*) > min(coalesce(j.group_limit, 1))`

/** Looks all the time until `over` is called, which answers how often it has looked, and fails when too many had a turn. */
function watchTurns({ query }: EngineBundle): { over(): Promise<number> } {
  let isOver = false
  let looks = 0
  const watching = (async () => {
    while (!isOver) {
      assert.deepEqual(await query(TOO_MANY_AT_ONCE), [], 'too many jobs of a group have its turn')
      looks++
      await systemClock.sleep(2)
    }
  })()
  watching.catch(() => {})
  return {
    async over() {
      isOver = true
      await watching
      return looks
    },
  }
}

/** Asked in one statement: between two a job may have gone from the one table to the other. */
async function allEnded({ until, query }: EngineBundle): Promise<void> {
  await until('every job has ended', async () => {
    const [left] = await query<{ n: number }>(`select (select count(*) from millrace.ready)::int
      + (select count(*) from millrace.scheduled)::int + (select count(*) from millrace.blocked)::int
      + (select count(*) from millrace.lease)::int as n`)
    return left!.n === 0
  })
}

/** Who began was the first of those that waited when the turn came, which is after the end of the one before. */
function checkOrder(history: History, plan: ReadonlyMap<number, Planned>, lost: ReadonlySet<string>): void {
  const groups = new Map<string, { jobId: number; endMs: number }[]>()
  for (const { jobId, run, endMs } of history.executions()) {
    if (lost.has(`${jobId} ${run}`)) continue // the past of a holder that is over
    const { group } = plan.get(jobId)!
    groups.set(group, [...(groups.get(group) ?? []), { jobId, endMs }])
  }
  for (const [group, all] of groups) {
    const waiting = new Map([...plan].filter(([, job]) => job.group === group))
    for (let at = 0; at < all.length; at++) {
      const { jobId } = all[at]!
      const job = plan.get(jobId)!
      if (waiting.delete(jobId)) {
        const turnMs = at === 0 ? job.atMs : all[at - 1]!.endMs
        for (const [id, other] of waiting) {
          const isEarlier =
            other.priority > job.priority || (other.priority === job.priority && other.place < job.place)
          assert.ok(
            !(isEarlier && other.atMs < turnMs),
            `group ${group}: job ${jobId} began before ${id}, which waited`,
          )
        }
      } else assert.equal(all[at - 1]!.jobId, jobId, `group ${group}: job ${jobId} was let go before it had ended`)
    }
    assert.equal(waiting.size, 0, `group ${group}: all had their turn`)
  }
}

interface Planned {
  readonly group: string
  readonly priority: number
  /** Among all, in the order of the enqueues, and when that was answered. */
  readonly place: number
  readonly atMs: number
}

test('[TM-099] five jobs of a group and three engines: one at a time, in order', { timeout: MINUTE }, () =>
  withEngines(async (bundle) => {
    const history = new History()
    process.env.MILLRACE_TEST_HISTORY = history.file
    try {
      await Promise.all([1, 2, 3].map(() => bundle.engine({ tasks: WITNESS, threads: 2 })))
      const watch = watchTurns(bundle)
      const done = await bundle.client.enqueueMany(
        'witness-shared',
        Array.from({ length: 5 }, () => ({ restMs: 30 })),
        { group: 'a' },
      )
      history.acknowledgeMany(done, { group: 'a' })
      await allEnded(bundle)
      assert.ok((await watch.over()) > 0, 'somebody watched')
      const verdict = await history.check(bundle.query, { orderedBeforeMs: Number.POSITIVE_INFINITY })
      assert.deepEqual([verdict.jobs, verdict.executions], [5, 5])
    } finally {
      history.close()
    }
  }),
)

test(
  '[TM-100] the second of a group is blocked while the first runs, and runs when that is done',
  {
    timeout: MINUTE,
  },
  () =>
    withEngines(async (bundle) => {
      const { client } = bundle
      const path = join(folder, 'open')
      const [first, second] = [
        await client.enqueue('stay', path, { group: 'a' }),
        await client.enqueue('stay', path, { group: 'a' }),
      ]
      const engines = [await bundle.engine({ tasks: CROWD }), await bundle.engine({ tasks: CROWD })]
      await bundle.until('the first runs', async () => engines.some((engine) => engine.stats().running === 1))
      assert.equal((await client.console.job(second.id))?.state, 'blocked')
      const other = await client.enqueue('stay', import.meta.filename, { group: 'b' })
      await bundle.inState(other.id, 'completed') // engines work on, and still leave it alone
      assert.equal((await client.console.job(second.id))?.state, 'blocked')
      writeFileSync(path, '')
      await bundle.inState(first.id, 'completed')
      await bundle.inState(second.id, 'completed')
      assert.equal(await bundle.count('hold'), 0)
    }),
)

test(
  '[TM-101] a job that fails keeps the turn of its group until its retry; one that is dead passes it on',
  {
    timeout: MINUTE,
  },
  () =>
    withEngines(async (bundle) => {
      const { client } = bundle
      const retry = { kind: 'fixed', delayMs: 300 } as const
      const put = (failures: number, maxAttempts: number) =>
        client.enqueue('flaky', { failures }, { group: 'a', retry, maxAttempts })
      const first = await put(1, 2)
      const doomed = await put(9, 1)
      const last = await put(0, 1)
      await bundle.engine()
      await bundle.engine()
      await bundle.inState(first.id, 'retrying')
      assert.equal((await client.console.job(doomed.id))?.state, 'blocked', 'the retry keeps the turn')
      await bundle.inState(last.id, 'completed')
      const rows = await bundle.query<{ job: number; run: number; outcome: string }>(
        'select job_id::float8 as job, run, outcome from millrace.attempts order by started_at',
      )
      assert.deepEqual(
        rows.map(({ job, run, outcome }) => [job, run, outcome]),
        [
          [first.id, 1, 'failed'],
          [first.id, 2, 'completed'],
          [doomed.id, 1, 'failed'],
          [last.id, 1, 'completed'],
        ],
      )
    }),
)

const HISTORIES = 3

test(
  '[TM-099] [TM-101] any history: one job of a group at a time, in order, and none is lost when a holder is',
  { timeout: 2 * MINUTE },
  (t) => anyHistory(t, fc.constant({ groupLimit: 1, onRetry: 'block' })),
)

test(
  'any history of limits: never more of a group than the smallest that holds, and none is lost when a holder is',
  { timeout: 2 * MINUTE },
  (t) =>
    anyHistory(
      t,
      fc.record({ groupLimit: fc.constantFrom(1, 2, 3, 3, 3, 4, 4), onRetry: fc.constantFrom('block', 'skip') }),
    ),
)

async function anyHistory(
  t: TestContext,
  turn: fc.Arbitrary<{ groupLimit: number; onRetry: 'block' | 'skip' }>,
): Promise<void> {
  const job = fc.record({
    turn,
    group: fc.nat(9),
    priority: fc.integer({ min: -1, max: 1 }),
    failures: fc.constantFrom(0, 0, 0, 0, 1, 2, 9),
    restMs: fc.nat(6),
    task: fc.constantFrom('witness', 'witness-shared'),
  })
  await fc.assert(
    fc.asyncProperty(
      fc.array(job, { minLength: 80, maxLength: 150, size: 'max' }),
      fc.integer({ min: 3, max: 10 }),
      fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 20, maxLength: 20 }),
      fc.constantFrom('kill', 'freeze'),
      fc.integer({ min: 1, max: 2 }),
      (jobs, groups, batches, fault, threads) =>
        withEngines(async (bundle) => {
          const history = new History()
          process.env.MILLRACE_TEST_HISTORY = history.file
          const life = { nodeLimitMs: 1_000, nodeHeartbeatMs: 200, rescuesMax: 100 }
          const victim = startEngine({ ...bundle.base, tasks: WITNESS.href, threads, ...life }, history.env)
          try {
            const plan = new Map<number, Planned>()
            let inOrder = true
            const watch = watchTurns(bundle)
            const put = async (from: number, to: number) => {
              const some = jobs.slice(from, to).map((it) => ({ ...it, group: `g${it.group % groups}` }))
              const { ids } = await bundle.client.enqueueMany(
                some.map(({ task, group, priority, failures, restMs, turn }) => ({
                  task,
                  payload: { failures, restMs },
                  options: { group, priority, ...turn },
                })),
              )
              const all = ids.flatMap(({ first, count }) => Array.from({ length: count }, (_, at) => first + at))
              some.forEach(({ group, priority, failures, turn: { groupLimit, onRetry } }, at) => {
                const id = all[at]!
                inOrder &&= groupLimit === 1 && onRetry === 'block'
                history.acknowledge(id, { group, groupLimit, priority, end: failures > 2 ? 'failed' : 'completed' })
                plan.set(id, { group, priority, place: plan.size, atMs: systemClock.wallMs() })
              })
            }
            const half = Math.floor(jobs.length / 2)
            await put(0, half)
            await victim.ready()
            await bundle.until('it holds jobs', async () => (await victim.stats()).running > 0)
            await Promise.all([bundle.engine({ tasks: WITNESS, ...life }), bundle.engine({ tasks: WITNESS, ...life })])
            for (let at = half, batch = 0; at < jobs.length; batch++) {
              const to = Math.min(jobs.length, at + batches[batch % batches.length]!)
              await put(at, to)
              at = to
              if (batch === 0) victim.signal(fault === 'kill' ? 'SIGKILL' : 'SIGSTOP')
            }
            if (fault === 'freeze') {
              // until it is over for everybody else; then it comes back and knows nothing of that
              await bundle.until('it is declared dead', async () => (await bundle.count('node')) === 2)
              victim.signal('SIGCONT')
              await victim.line('engine.rejoined')
            }
            await allEnded(bundle)
            const looks = await watch.over()
            const verdict = await history.check(bundle.query)
            const rows = await bundle.query<{ name: string }>(
              `select job_id || ' ' || run as name from millrace.attempts where outcome = 'lost'`,
            )
            if (inOrder) checkOrder(history, plan, new Set(rows.map(({ name }) => name)))
            assert.equal(verdict.jobs, jobs.length)
            t.diagnostic(JSON.stringify({ fault, groups, looks, ...verdict }))
          } finally {
            await victim.kill9()
            history.close()
          }
        }),
    ),
    { numRuns: HISTORIES, endOnFailure: true },
  )
}
