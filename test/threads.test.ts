// The number of threads of a running engine: more of them take part, fewer finish what they have begun and leave the rest
// to the others, and nobody's job is lost, run twice or charged.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import type { EngineError } from '../engine/base/errors.ts'
import { defineTask } from '../engine/index.ts'
import { bound } from './support/bound.ts'
import { withEngines } from './support/engine.ts'
import { History } from './support/history.ts'
import { BEHAVED, PoolHarness } from './support/pool-harness.ts'
import { chunk, schedulerBench, task, teach } from './support/scheduler-fakes.ts'

const WITNESS = new URL('./tasks/witness.js', import.meta.url)
const CROWD = new URL('./tasks/crowd.js', import.meta.url)

let folder: string

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'millrace-threads-'))
})

after(() => rmSync(folder, { recursive: true, force: true }))

/** Threads of this process that have not ended. */
let workers = 0
process.on('worker', (worker) => {
  workers++
  worker.once('exit', () => workers--)
})

test('threads are added and taken away while hundreds of jobs flow: each runs once, and none is charged', () =>
  withEngines(async ({ engine, client, query, until }) => {
    const history = new History()
    process.env.MILLRACE_TEST_HISTORY = history.file
    try {
      const made = await engine({ tasks: WITNESS, threads: 1 })
      const threads = (wanted: number) => until(`${wanted} threads are up`, async () => made.stats().threads === wanted)
      const flow = async (jobs: number) => {
        const payloads = Array.from({ length: jobs }, (_, at) => ({ spinMs: at % 4, restMs: at % 50 === 0 ? 30 : 0 }))
        history.acknowledgeMany(await client.enqueueMany('witness', payloads))
        history.acknowledgeMany(await client.enqueueMany('witness-shared', [{ restMs: 5 }, { restMs: 50 }]))
      }
      const settled = (jobs: number) => until(`${jobs} have ended`, async () => made.stats().settled >= jobs)
      await flow(200)
      await settled(50)
      made.configure({ threads: 3 })
      await threads(3)
      await flow(300)
      await settled(400)
      made.configure({ threads: 1 })
      await flow(200)
      await threads(1)
      await settled(500)
      for (const count of [2, 3, 1, 3, 2, 1, 2]) {
        made.configure({ threads: count })
        await flow(20)
        await settled(made.stats().settled + 10)
      }
      await threads(2)
      await made.drain()

      const verdict = await history.check(query)
      assert.deepEqual(verdict, { jobs: 860, executions: 860, again: 0, lost: 0, dead: 0, together: 0 })
      const [all] = await query(
        'select count(*)::int as rows, max(attempt) as attempt, max(run) as run, count(distinct lane)::int as lanes from millrace.attempts',
      )
      assert.deepEqual(all, { rows: 860, attempt: 1, run: 1, lanes: 3 })
      assert.deepEqual([made.stats().failed, made.stats().stale, made.stats().lateReports], [0, 0, 0])
    } finally {
      delete process.env.MILLRACE_TEST_HISTORY
      history.close()
    }
  }))

test('a thread that is taken away lets its job end however long it takes, and its node says how many it has', () =>
  withEngines(async ({ engine, client, inState, until }) => {
    const gate = join(folder, 'long')
    const made = await engine({ tasks: CROWD, threads: 3, nodeHeartbeatMs: 100, nodeLimitMs: 10_000 })
    const ids = (await client.enqueueMany('stay', [gate, gate, gate])).ids.map(({ first }) => first)
    await until('each thread has one', async () => made.stats().running === 3)
    made.configure({ threads: 1 })
    await until('the node says one', async () => (await client.console.nodes())[0]!.threads === 1)
    assert.deepEqual([made.stats().threads, made.stats().running], [3, 3])
    writeFileSync(gate, '')
    await inState(ids[0]!, 'completed')
    await made.drain()
    await until('the others are gone', async () => made.stats().threads === 1)
    assert.equal(made.stats().completed, 3)
  }))

test('an engine is told how many threads it may have', () =>
  withEngines(async ({ engine, client }) => {
    const made = await engine({ threads: 2 })
    for (const threads of [0, 1_025, 1.5])
      assert.throws(
        () => made.configure({ threads }),
        ({ code, message, details }: EngineError) => {
          assert.equal(code, 'CONFIG_INVALID')
          assert.match(message, /threads must be .*1.*1,024/)
          return details.setting === 'threads'
        },
      )
    assert.equal(made.stats().threads, 2)

    const here = defineTask({ name: 'here', queue: 'here', inline: true, run: () => 1 })
    const inline = await engine({ tasks: [here], queues: ['here'] })
    inline.configure({ threads: 4 }) // of inline tasks only: there is nothing to add
    await client.enqueue('here', null, { queue: 'here' })
    await inline.drain()
    assert.deepEqual([inline.stats().threads, inline.stats().completed], [1, 1])
  }))

test('what a lane that leaves has not begun goes to the others at once, and what is new is for all that are there', () => {
  const bench = schedulerBench()
  const { scheduler, lanes, settle } = bench
  teach(bench, 'work', 1)
  scheduler.arrive([chunk(1, 20)])
  settle()
  const [begun] = lanes.take(1)
  const given = lanes.queuedIds(1)
  assert.ok(given.length > 0)
  lanes.resize(1)
  scheduler.lanesChanged()
  settle()
  assert.deepEqual(lanes.queuedIds(1), [])
  lanes.complete(1, begun!.jobId)
  const goesOn = bound('for all jobs to end')
  while (goesOn() && scheduler.stats().held > 0) {
    lanes.runAll(1)
    scheduler.wake()
    settle()
  }
  const endedBy = new Map(bench.outcomes.of('completed').map(({ jobId, lane }) => [jobId, lane]))
  assert.deepEqual([endedBy.size, endedBy.get(begun!.jobId)], [20, 1])
  for (const id of given) assert.equal(endedBy.get(id), 0)

  lanes.resize(3)
  scheduler.lanesChanged()
  scheduler.arrive([chunk(100, 3, { task: 'new' })])
  settle()
  assert.deepEqual(
    [0, 1, 2].map((lane) => lanes.outstanding(lane)),
    [1, 1, 1],
  )
})

test('a job that wants a lane for itself does not wait for one that leaves', () => {
  const bench = schedulerBench({ tasks: [task('io', { concurrency: 5 }), task('cpu')] })
  const { scheduler, lanes, settle } = bench
  teach(bench, 'io', 40)
  scheduler.arrive([chunk(1, 500, { task: 'io', rank: 0 })])
  settle()
  lanes.take(0, 5)
  lanes.take(1, 5)
  lanes.resize(1)
  scheduler.lanesChanged()
  for (const id of lanes.runningIds(1).slice(0, 3)) lanes.complete(1, id, 40)
  scheduler.arrive([chunk(900, 1, { task: 'cpu', rank: -5 })])
  settle()
  for (let round = 0; round < 20 && !lanes.queuedIds(0).includes(900); round++) {
    lanes.complete(0, lanes.runningIds(0)[0]!, 40)
    lanes.take(0, 1)
    scheduler.wake()
    settle()
  }
  assert.deepEqual(lanes.queuedIds(0), [900])
})

test('a lane that is closed keeps what was fed until it is taken back, finishes what it has begun, and ends', async () => {
  const h = await new PoolHarness({ modules: [BEHAVED] }).start()
  try {
    h.pool.resize(3)
    await h.until(() => h.pool.threadsUp === 3)
    assert.deepEqual([...h.opened].sort(), [1, 2])
    h.feed('rest', [300], 0, 2)
    h.feed('echo', [1, 2], 1, 2)
    await h.until(() => h.pool.taken(2) === 1)
    h.pool.resize(1)
    assert.deepEqual([h.pool.isOpen(1), h.pool.isOpen(2), h.pool.outstanding(2)], [false, false, 3])
    assert.throws(() => h.feed('echo', [1], 9, 2), { code: 'INVARIANT' })
    assert.deepEqual(h.pool.revoke(2), [1, 2])
    await h.until(() => h.isOver(0))
    await h.until(() => workers === 1)
    assert.deepEqual([h.pool.threadsUp, h.lost], [1, []])
    assert.equal((await h.run('echo', 7, 20)).result, 7)
  } finally {
    await h.stop()
  }
})

test('a lane that is wanted again goes on with its thread, and is fed once that has forgotten what was taken back', async () => {
  const h = await new PoolHarness({ modules: [BEHAVED], threads: 2 }).start()
  try {
    h.feed('whoami', [null], 0, 1)
    await h.until(() => h.isOver(0))
    h.feed('rest', [100], 1, 1)
    h.feed('echo', [1, 2, 3], 2, 1)
    await h.until(() => h.pool.taken(1) === 1)
    for (let turn = 0; turn < 3; turn++) {
      h.pool.resize(1)
      const back = h.pool.revoke(1)
      h.pool.resize(2)
      if (back.length > 0) assert.equal(h.pool.isOpen(1), false)
      await h.until(() => h.pool.isOpen(1))
      h.feed('echo', [4, 5, 6], 10 + 3 * turn, 1)
    }
    h.feed('whoami', [null], 30, 1)
    await h.until(() => h.pool.outstanding(1) === 0)
    assert.equal(h.told.get(30)!.result, h.told.get(0)!.result)
    assert.deepEqual([h.lost, h.told.has(2), h.isOver(16)], [[], false, true])
  } finally {
    await h.stop()
  }
})

test('a thread that dies while it leaves is told as lost, and nobody takes its place; stop ends one that is leaving', async () => {
  const h = await new PoolHarness({ modules: [BEHAVED], threads: 3 }).start()
  assert.equal(workers, 3)
  h.feed('rest', [60_000], 0, 1)
  h.feed('rest', [60_000], 1, 2)
  await h.until(() => h.pool.taken(1) + h.pool.taken(2) === 2)
  h.pool.resize(1)
  h.pool.kill(1, 'TASK_TIMED_OUT', 'for a test')
  await h.until(() => h.lost.length === 1)
  assert.deepEqual([h.lost[0]!.lane, h.lost[0]!.notTaken], [1, []])
  h.pool.kill(0, 'THREAD_EXITED', 'for a test') // one that stays: another begins beside the one that leaves
  await h.until(() => h.lost.length === 2 && h.pool.isOpen(0))
  assert.equal((await h.run('echo', 7, 20)).result, 7)
  assert.equal(h.pool.threadsUp, 2)
  await h.wait(() => workers === 2)
  await h.stop(50)
  await h.until(() => h.lost.length === 3)
  assert.deepEqual([h.lost[2]!.lane, h.lost[2]!.code], [2, 'STOPPING'])
  await h.wait(() => workers === 0)
})

test('threads that are still loading are taken away and asked for again', async () => {
  const h = await new PoolHarness({ modules: [BEHAVED] }).start()
  try {
    for (let turn = 0; turn < 10; turn++) {
      h.pool.resize(4)
      if (turn % 2 === 0) await new Promise((resolve) => setImmediate(resolve))
      h.pool.resize(1 + (turn % 3))
    }
    h.pool.resize(3)
    await h.until(() => h.pool.threadsUp === 3)
    for (const lane of [0, 1, 2]) h.feed('whoami', [null], lane, lane)
    await h.until(() => [0, 1, 2].every((slot) => h.isOver(slot)))
    assert.equal(new Set([0, 1, 2].map((slot) => h.told.get(slot)!.result)).size, 3)
    assert.deepEqual(h.lost, [])
  } finally {
    await h.stop()
  }
})
