// Many engines on one queue, some in this process and some in their own: every job is run by one of them, once. What
// handlers wrote while they ran, the attempts, and the leases are held against each other by support/history.ts.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { systemClock } from '../engine/base/clock.ts'
import type { EngineOptions } from '../engine/engine.ts'
import type { Engine } from '../engine/index.ts'
import { type EngineBundle, withEngines } from './support/engine.ts'
import { type EngineProcess, endAll, startEngine } from './support/engine-process.ts'
import { checkFacts } from './support/facts.ts'
import { History } from './support/history.ts'
import { openStore } from './support/store.ts'

const TASKS = new URL('./tasks/witness.js', import.meta.url)
const MINUTE = 60_000

after(endAll)

interface Race extends EngineBundle {
  readonly history: History
  /** Engines here, and engines as processes of their own; all are ready. */
  engines(here: number, apart: number, options?: EngineOptions): Promise<{ here: Engine[]; apart: EngineProcess[] }>
  put(task: string, count: number, payload: unknown): Promise<number[]>
  /** Every job that was put is done. */
  done(): Promise<void>
  /** Ran once each, completed once each, and no holder was lost. */
  onceEach(): Promise<void>
  /** Jobs completed per node. */
  shares(): Promise<number[]>
}

function withRace(run: (race: Race) => Promise<void>): Promise<void> {
  return withEngines(async (bundle) => {
    const mine = new History()
    process.env.MILLRACE_TEST_HISTORY = mine.file // threads get a copy of this process's environment
    const { query, client, base } = bundle
    const processes: EngineProcess[] = []
    try {
      await run({
        ...bundle,
        history: mine,
        async engines(here, apart, options = {}) {
          const children = Array.from({ length: apart }, () =>
            startEngine({ ...base, tasks: TASKS.href, threads: 1, ...options } as EngineOptions, mine.env),
          )
          processes.push(...children)
          const own = await Promise.all(Array.from({ length: here }, () => bundle.engine({ tasks: TASKS, ...options })))
          await Promise.all(children.map((child) => child.ready()))
          return { here: own, apart: children }
        },
        put: async (task, count, payload) =>
          mine.acknowledgeMany(
            await client.enqueueMany(
              task,
              Array.from({ length: count }, () => payload),
            ),
          ),
        done: () =>
          bundle
            .until('every job is done', async () => {
              const [left] = await query<{ n: number }>(`select
              (select count(*) from millrace.ready)::int + (select count(*) from millrace.scheduled)::int
              + (select count(*) from millrace.blocked)::int + (select count(*) from millrace.lease)::int as n`)
              return left!.n === 0
            })
            .then(() => {}),
        async onceEach() {
          const jobs = mine.ids.length
          const verdict = await mine.check(query)
          assert.deepEqual(verdict, { jobs, executions: jobs, again: 0, lost: 0, dead: 0, together: 0 })
          const rows = await query<{ outcome: string; n: number }>(
            'select outcome, count(*)::int as n from millrace.attempts group by outcome',
          )
          assert.deepEqual(rows, [{ outcome: 'completed', n: jobs }])
        },
        async shares() {
          const rows = await query<{ n: number }>(
            'select count(*)::int as n from millrace.attempts group by node_id order by node_id',
          )
          return rows.map(({ n }) => n)
        },
      })
      await Promise.all(processes.map((child) => (child.isOver ? undefined : child.stop(2_000))))
    } finally {
      await Promise.all(processes.map((child) => (child.isOver ? undefined : child.kill9())))
      mine.close()
    }
  })
}

test(
  '[TM-086] 100 jobs and five engines, two of them processes of their own: each job is run once',
  {
    timeout: MINUTE,
  },
  () =>
    withRace(async (race) => {
      await race.engines(3, 2)
      await race.put('witness', 100, { restMs: 20 })
      await race.done()
      await race.onceEach()
      const shares = await race.shares()
      assert.ok(shares.length > 1, `the work was shared: ${shares}`)
    }),
)

test('[TM-088] 1,000 jobs, ten engines that run five at a time: all are done, each once', { timeout: MINUTE }, () =>
  withRace(async (race) => {
    await race.put('witness-five', 500, { restMs: 5 })
    await race.engines(8, 2)
    await race.put('witness-five', 500, { restMs: 5 })
    await race.done()
    await race.onceEach()
    const shares = await race.shares()
    assert.ok(shares.length > 1, `the work was shared: ${shares}`)
  }),
)

test('[TM-091] ten claimers race for 50 jobs: each job is claimed by one', { timeout: MINUTE }, async () => {
  const it = await openStore()
  try {
    for (let at = 0; at < 50; at++) await it.put(1)
    const stores = Array.from({ length: 10 }, () => it.other())
    const nodes = await Promise.all(stores.map((store) => it.join(store)))
    const claimed: number[] = []
    // each asks until there is nothing left; those who meet a row that another one holds pass it by
    await Promise.all(
      stores.map(async (store, at) => {
        for (let empty = 0; empty < 3; ) {
          const chunks = await it.claim(nodes[at]!, 3, store)
          for (const { firstId, count } of chunks) for (let job = 0; job < count; job++) claimed.push(firstId + job)
          empty = chunks.length === 0 ? empty + 1 : 0
        }
      }),
    )
    assert.equal(claimed.length, 50)
    assert.equal(new Set(claimed).size, 50)
    await checkFacts(it.query)
  } finally {
    await it.close()
  }
})

test(
  '[TM-091] ten engines wake for the same 50 jobs at the same moment: each job is run once',
  {
    timeout: MINUTE,
  },
  () =>
    withRace(async (race) => {
      await race.engines(10, 0)
      await race.put('witness', 50, { restMs: 5 }) // one notification wakes them all
      await race.done()
      await race.onceEach()
    }),
)

test(
  '[TM-092] jobs that come from all sides while engines work: every enqueue succeeds, every job is run once',
  {
    timeout: MINUTE,
  },
  () =>
    withRace(async (race) => {
      const { here } = await race.engines(2, 1)
      await race.put('witness', 200, { spinMs: 0.5 })
      const single = async (enqueue: Engine['enqueue']) => {
        for (let at = 0; at < 60; at++) race.history.acknowledge((await enqueue('witness', { spinMs: 0.5 })).id)
      }
      await Promise.all([
        ...here.map((engine) => single(engine.enqueue.bind(engine))),
        single(race.client.enqueue.bind(race.client)),
        race.put('witness', 300, { spinMs: 0.5 }),
      ])
      await race.done()
      assert.equal(race.history.ids.length, 200 + 180 + 300)
      await race.onceEach()
    }),
)

test(
  '[TM-093] engines that stop one after the other amid the work: what they hold ends or is run by the next',
  {
    timeout: MINUTE,
  },
  () =>
    withRace(async (race) => {
      const { here, apart } = await race.engines(2, 1)
      await race.put('witness', 1_500, { restMs: 1 })
      const some = (jobs: number) =>
        race.until(`${jobs} are done`, async () => (await race.count('attempt')) >= jobs).then(() => {})
      await some(100)
      await here[0]!.stop(2_000)
      await some(300)
      await apart[0]!.stop(2_000)
      await apart[0]!.ended
      await some(500)
      const next = await race.engines(1, 0)
      await here[1]!.stop(2_000)
      await race.done()
      await next.here[0]!.stop()
      // nobody died, so nothing is run twice: what had begun was ended in time, the rest was given back unbegun
      await race.onceEach()
      assert.equal(await race.count('node'), 0)
    }),
)

test(
  '[TM-093] a job that does not end in time at a stop is given back uncharged and run by another engine',
  {
    timeout: MINUTE,
  },
  () =>
    withRace(async (race) => {
      const { here } = await race.engines(1, 0)
      const [id] = await race.put('witness', 1, { restMs: 3_000 })
      await race.until('it runs', async () => here[0]!.stats().running === 1)
      const report = await here[0]!.stop(300)
      assert.equal(report.released, 1)
      await race.engines(1, 0)
      await race.done()
      const job = await race.client.console.job(id!)
      assert.deepEqual([job?.state, job?.attempt], ['completed', 1])
      const ended = race.history.executions().filter(({ endMs }) => endMs < Number.POSITIVE_INFINITY)
      assert.equal(ended.length, 1, 'the first run was ended amid its work')
    }),
)

test(
  '[TM-094] a job that runs for longer than the node limit is not run again: its holder lives',
  {
    timeout: MINUTE,
  },
  () =>
    withRace(async (race) => {
      const life = { nodeLimitMs: 1_000, nodeHeartbeatMs: 200 }
      await race.engines(2, 1, life)
      // one that waits, and one that blocks its thread all the while
      const fromMs = systemClock.steadyMs()
      await race.put('witness', 2, { restMs: 2_500 })
      await race.put('witness', 1, { spinMs: 2_500 })
      await race.done()
      assert.ok(systemClock.steadyMs() - fromMs >= 2_500)
      await race.onceEach()
    }),
)
