import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { PAYLOAD_SEPARATOR } from '../engine/base/limits.ts'
import { Holding } from '../engine/scheduler/holding.ts'
import { TaskState } from '../engine/scheduler/task-state.ts'
import { bound } from './support/bound.ts'
import { chunk, schedulerBench, task, teach } from './support/scheduler-fakes.ts'

test('two jobs and two idle lanes: each gets one', () => {
  const { scheduler, lanes, settle } = schedulerBench()
  scheduler.arrive([chunk(1, 2)])
  settle()
  assert.deepEqual([lanes.queuedIds(0), lanes.queuedIds(1)], [[1], [2]])
})

test('of a task that nobody has seen run, each lane has one job until the first result', () => {
  const { scheduler, lanes, settle } = schedulerBench()
  scheduler.arrive([chunk(1, 100)])
  settle()
  scheduler.wake()
  settle()
  assert.deepEqual([lanes.outstanding(0), lanes.outstanding(1)], [1, 1])
  lanes.take(0)
  lanes.complete(0, 1, 0.1)
  scheduler.wake()
  settle()
  assert.ok(lanes.outstanding(0) > 10)
})

test('a batch is worth about 8 ms of recent run time, and at most two are with a lane', () => {
  const bench = schedulerBench()
  teach(bench, 'work', 1)
  bench.scheduler.arrive([chunk(1, 500)])
  bench.settle()
  for (const lane of bench.lanes.lanes) {
    assert.deepEqual(
      lane.pieces.map((piece) => piece.slots.length),
      [8, 8],
    )
  }
})

test('jobs that cost nothing go 1,000 at a time; jobs longer than a batch go one by one', () => {
  const fast = schedulerBench()
  teach(fast, 'work', 0.001)
  fast.scheduler.arrive([chunk(1, 1_000), chunk(2_001, 1_000), chunk(4_001, 1_000), chunk(6_001, 1_000)])
  fast.settle()
  const sizes = fast.lanes.lanes.flatMap((lane) => lane.pieces.map((piece) => piece.slots.length))
  assert.ok(sizes.every((size) => size <= 1_000) && sizes.includes(1_000), String(sizes))

  const slow = schedulerBench()
  teach(slow, 'work', 50)
  slow.scheduler.arrive([chunk(1, 100)])
  slow.settle()
  assert.deepEqual([slow.lanes.outstanding(0), slow.lanes.outstanding(1)], [1, 1])
})

test('a flood of chunks of one job costs a lane two messages, in the order of the queue', () => {
  const bench = schedulerBench({ lanes: 1 })
  teach(bench, 'work', 0.01)
  const [lane] = bench.lanes.lanes
  lane!.feeds = 0
  bench.scheduler.arrive(Array.from({ length: 3_000 }, (_, at) => chunk(1 + 2 * at, 1)))
  bench.settle()
  const ids = bench.lanes.queuedIds(0)
  assert.ok(ids.length >= 1_000, `${ids.length}`)
  assert.deepEqual(
    ids,
    ids.map((_, at) => 1 + 2 * at),
  )
  assert.ok(lane!.feeds <= 2, `${lane!.feeds} messages`)
})

test('few jobs are shared out among the lanes even when one lane could take them all', () => {
  const bench = schedulerBench({ lanes: 4 })
  teach(bench, 'work', 0.01)
  bench.scheduler.arrive([chunk(1, 40)])
  bench.settle()
  assert.deepEqual(
    bench.lanes.lanes.map((lane) => lane.queue.length),
    [10, 10, 10, 10],
  )
})

test('within a queue the lower rank comes first, then the lower sequence number', () => {
  const bench = schedulerBench({ lanes: 1 })
  teach(bench, 'work', 50)
  const { scheduler, lanes, settle } = bench
  scheduler.arrive([
    chunk(1, 2, { rank: 5, seq: 1 }),
    chunk(10, 2, { rank: -3, seq: 9 }),
    chunk(20, 1, { rank: -3, seq: 4 }),
  ])
  const order: number[] = []
  const goesOn = bound('for all jobs to end')
  while (goesOn() && scheduler.stats().held > 0) {
    settle()
    order.push(...lanes.runAll(50))
    scheduler.wake()
    settle()
  }
  assert.deepEqual(order, [20, 10, 11, 1, 2])
})

test('queues take turns, whatever their ranks', () => {
  const bench = schedulerBench({ lanes: 1 })
  teach(bench, 'work', 50)
  const { scheduler, lanes, settle } = bench
  scheduler.arrive([chunk(1, 3, { queueId: 1, rank: -1e12 }), chunk(11, 3, { queueId: 2, rank: 0 })])
  const order: number[] = []
  const goesOn = bound('for all jobs to end')
  while (goesOn() && scheduler.stats().held > 0) {
    settle()
    order.push(...lanes.runAll(50))
    scheduler.wake()
    settle()
  }
  assert.deepEqual(order.map((id) => (id < 10 ? 'a' : 'b')).join(''), order[0]! < 10 ? 'ababab' : 'bababa')
})

test('what waits behind a job that turns out slow goes to another lane, first in line and in order', () => {
  const stuck = schedulerBench()
  teach(stuck, 'work', 1)
  stuck.scheduler.arrive([chunk(1, 16)])
  stuck.settle()
  const [slow] = stuck.lanes.take(0)
  const waiting = stuck.lanes.queuedIds(0)
  for (const job of stuck.lanes.take(1, 100)) stuck.lanes.complete(1, job.jobId)
  stuck.scheduler.wake()
  stuck.settle()
  assert.deepEqual(stuck.lanes.queuedIds(0), waiting, 'not yet slow')
  stuck.advance(60)
  assert.deepEqual(stuck.lanes.runningIds(0), [slow!.jobId])
  assert.deepEqual(stuck.lanes.queuedIds(0), [])
  assert.deepEqual(stuck.lanes.queuedIds(1).slice(0, 1), waiting.slice(0, 1))
  assert.ok(stuck.scheduler.stats().stolen >= waiting.length)
})

test('taken back in the middle of a chunk, jobs come before the rest of it', () => {
  const bench = schedulerBench({ lanes: 1 })
  teach(bench, 'work', 1)
  const { scheduler, lanes, settle } = bench
  scheduler.arrive([chunk(1, 100)])
  settle()
  lanes.take(0)
  bench.advance(60)
  assert.deepEqual([lanes.runningIds(0), lanes.queuedIds(0)], [[1], []])
  const order: number[] = []
  lanes.complete(0, 1)
  const goesOn = bound('for all jobs to end')
  while (goesOn() && scheduler.stats().held > 0) {
    scheduler.wake()
    settle()
    order.push(...lanes.runAll(1))
    bench.clock.advance(1)
    scheduler.wake()
    settle()
  }
  assert.deepEqual(
    order,
    Array.from({ length: 99 }, (_, i) => i + 2),
  )
})

test('a lane is given its next batch when it has one left, not in crumbs', () => {
  const bench = schedulerBench({ lanes: 1 })
  teach(bench, 'work', 1)
  const { scheduler, lanes, settle } = bench
  scheduler.arrive([chunk(1, 100)])
  settle()
  const end = (count: number) => {
    for (const job of lanes.take(0, count)) lanes.complete(0, job.jobId, 1)
    scheduler.wake()
    settle()
  }
  end(3)
  assert.equal(lanes.outstanding(0), 13)
  end(5)
  assert.equal(lanes.outstanding(0), 16)
})

test('a job of a task that nobody has seen run is not put behind others', () => {
  const bench = schedulerBench({ lanes: 1, tasks: [task('work'), task('new')] })
  teach(bench, 'work', 1)
  bench.scheduler.arrive([chunk(1, 1), chunk(10, 5, { task: 'new' })])
  bench.settle()
  assert.deepEqual(bench.lanes.queuedIds(0), [1])
})

test('a lane that is kept full by shared jobs runs dry for an exclusive one that comes before them', () => {
  const bench = schedulerBench({ lanes: 1, tasks: [task('io', { concurrency: 5 }), task('cpu')] })
  teach(bench, 'io', 40)
  const { scheduler, lanes, settle } = bench
  scheduler.arrive([chunk(1, 500, { task: 'io', rank: 0 })])
  settle()
  lanes.take(0, 5)
  scheduler.arrive([chunk(900, 1, { task: 'cpu', rank: -5 })])
  settle()
  for (let round = 0; round < 20 && !lanes.queuedIds(0).includes(900); round++) {
    lanes.complete(0, lanes.runningIds(0)[0]!, 40) // one ends, one begins: it would never be empty by itself
    lanes.take(0, 1)
    scheduler.wake()
    settle()
  }
  assert.deepEqual(lanes.queuedIds(0), [900])
  lanes.runAll(1)
  scheduler.wake()
  settle()
  assert.ok(lanes.outstanding(0) >= 5, 'then the shared ones go on')
})

test('the bell does not ring for a start: it is noticed within some 20 ms all the same', () => {
  const bench = schedulerBench({ lanes: 1 })
  bench.scheduler.arrive([chunk(1, 1)])
  bench.settle()
  bench.lanes.take(0)
  bench.advance(30)
  assert.equal(bench.scheduler.getState(1)!.state, 'running')
  const { iterations } = bench.scheduler.stats()
  bench.advance(900)
  assert.ok(bench.scheduler.stats().iterations - iterations <= 2, 'and then it is not looked for any more')
})

test('a lane that is stuck in a slow job is fed nothing more', () => {
  const bench = schedulerBench()
  teach(bench, 'work', 1)
  const { scheduler, lanes, settle } = bench
  scheduler.arrive([chunk(1, 1)])
  settle()
  const stuck = lanes.outstanding(0) === 1 ? 0 : 1
  lanes.take(stuck)
  scheduler.wake()
  settle()
  bench.advance(100)
  scheduler.arrive([chunk(100, 50)])
  settle()
  assert.equal(lanes.outstanding(stuck), 1)
  assert.ok(lanes.outstanding(1 - stuck) > 0)
})

test('a shared task runs as many jobs on a lane as it allows, and a few more wait there', () => {
  const bench = schedulerBench({ lanes: 1, tasks: [task('io', { concurrency: 10 })] })
  bench.scheduler.arrive([chunk(1, 200, { task: 'io' })])
  bench.settle()
  assert.equal(bench.lanes.outstanding(0), 10, 'before the first result nothing waits there')
  bench.lanes.take(0, 10)
  bench.lanes.complete(0, 1, 40)
  bench.scheduler.wake()
  bench.settle()
  assert.equal(bench.lanes.outstanding(0), 12, '10 and the 2 that 8 ms of the ten are worth')
})

test('shared jobs that take their usual time are not taken for stuck, however many share the lane', () => {
  const bench = schedulerBench({ lanes: 1, tasks: [task('io', { concurrency: 100, timeoutMs: 0 })] })
  teach(bench, 'io', 200)
  bench.scheduler.arrive([chunk(1, 1_000, { task: 'io' })])
  bench.settle()
  bench.lanes.take(0, 100)
  bench.advance(190)
  assert.equal(bench.scheduler.stats().stolen, 0)
  assert.equal(bench.lanes.queuedIds(0)[0], 101, 'the next ones wait in the lane')
})

test('long jobs that share a lane leave its free seats to others: it is fed, and more is wanted for them', () => {
  const bench = schedulerBench({ lanes: 1, tasks: [task('io', { concurrency: 4, timeoutMs: 0 })] })
  const { scheduler, lanes } = bench
  scheduler.arrive([chunk(1, 1, { task: 'io' })])
  bench.settle()
  assert.equal(scheduler.wanted(), 3, 'nobody knows how long it takes, and it hinders no other')
  lanes.take(0)
  bench.advance(60_000, 1_000)
  assert.equal(scheduler.wanted(), 3)
  scheduler.arrive([chunk(11, 5, { task: 'io' })])
  bench.settle()
  assert.equal(lanes.outstanding(0), 4)
  assert.equal(scheduler.wanted(), 0, 'two wait already')
})

test('a shared lane that does not begin what it has a seat for computes: it is fed again after a sign of life', () => {
  const bench = schedulerBench({ lanes: 1, tasks: [task('io', { concurrency: 3, timeoutMs: 0 })] })
  const { scheduler, lanes } = bench
  scheduler.arrive([chunk(1, 1, { task: 'io' })])
  bench.settle()
  lanes.take(0)
  bench.advance(100)
  scheduler.arrive([chunk(11, 2, { task: 'io' })])
  bench.settle()
  assert.deepEqual(lanes.queuedIds(0), [11, 12])
  bench.advance(1_000)
  assert.deepEqual(lanes.queuedIds(0), [], 'they could run elsewhere')
  assert.equal(scheduler.stats().stolen, 2, 'once, not again and again')
  assert.equal(scheduler.wanted(), 0, 'its seats are none')
  lanes.complete(0, 1, 1_100)
  scheduler.wake()
  bench.settle()
  assert.deepEqual(lanes.queuedIds(0), [11, 12])
})

test('exclusive and shared jobs never meet on a lane, and neither kind starves the other', () => {
  for (const lanes of [1, 2, 3]) {
    const bench = schedulerBench({ lanes, tasks: [task('cpu'), task('io', { concurrency: 5 })] })
    const { scheduler, settle } = bench
    const left = new Set<number>()
    let id = 1
    const seen = new Set<number>()
    for (let round = 0; round < 200; round++) {
      // both kinds always have a backlog
      for (const name of ['cpu', 'io']) {
        scheduler.arrive([chunk(id, 2, { task: name })])
        left.add(id).add(id + 1)
        id += 2
      }
      settle()
      for (let lane = 0; lane < lanes; lane++) {
        const fed = [...bench.lanes.lanes[lane]!.queue, ...bench.lanes.lanes[lane]!.running]
        assert.ok(new Set(fed.map((job) => job.piece.task)).size <= 1, 'two kinds on one lane')
        for (const job of bench.lanes.take(lane, 3)) {
          bench.lanes.complete(lane, job.jobId, 5)
          seen.add(job.jobId)
        }
      }
      bench.advance(5, 5)
    }
    const kinds = [...seen].map((job) => Math.floor((job - 1) / 2) % 2)
    assert.ok(kinds.filter((kind) => kind === 0).length > 40, `cpu starves with ${lanes} lanes`)
    assert.ok(kinds.filter((kind) => kind === 1).length > 40, `io starves with ${lanes} lanes`)
  }
})

test('a closed lane is fed nothing, and is fed when it opens', () => {
  const { scheduler, lanes, settle } = schedulerBench({ lanes: 1 })
  lanes.lanes[0]!.open = false
  scheduler.arrive([chunk(1, 3)])
  settle()
  assert.equal(lanes.outstanding(0), 0)
  lanes.lanes[0]!.open = true
  scheduler.onOpen(0)
  settle()
  assert.equal(lanes.outstanding(0), 1)
})

test('a piece carries its facts, and slots and generations that reports can name', () => {
  const { scheduler, lanes, settle } = schedulerBench({ lanes: 1 })
  scheduler.arrive([
    chunk(7, 1, { attempt: 2, run: 4, maxAttempts: 9, createdAtMs: 5, group: 'g', metas: '{"a":1}', queue: 'q' }),
  ])
  settle()
  const [piece] = lanes.lanes[0]!.pieces
  const { slots, generations, ...facts } = piece!
  assert.deepEqual([slots.length, generations.length], [1, 1])
  assert.deepEqual(facts, {
    task: 'work',
    queue: 'q',
    leaseId: 1,
    firstId: 7,
    payloads: '7',
    metas: '{"a":1}',
    attempt: 2,
    run: 4,
    maxAttempts: 9,
    createdAtMs: 5,
    group: 'g',
  })
})

test('any pieces of a chunk, in any order, are the same texts as the whole split at once', () => {
  const texts = fc.array(
    fc.string().filter((text) => !text.includes(PAYLOAD_SEPARATOR)),
    { minLength: 1, maxLength: 30 },
  )
  const cuts = fc.array(fc.tuple(fc.nat(), fc.nat()), { minLength: 1, maxLength: 10 })
  fc.assert(
    fc.property(texts, cuts, fc.boolean(), (texts, cuts, withMetas) => {
      const joined = texts.join(PAYLOAD_SEPARATOR)
      const holding = new Holding(
        chunk(1, texts.length, { payloads: joined, metas: withMetas ? joined : null }),
        new TaskState('work', null),
        false,
      )
      for (const [a, b] of cuts) {
        const from = a % texts.length
        const to = from + 1 + (b % (texts.length - from))
        const expected = texts.slice(from, to).join(PAYLOAD_SEPARATOR)
        assert.equal(holding.payloads(from, to), expected)
        assert.equal(holding.metas(from, to), withMetas ? expected : null)
      }
    }),
  )
})

test('the mean of a task rises fast and falls slowly, and 1,000 shares of a lane cost a thousandth each', () => {
  const state = new TaskState('io', task('io', { concurrency: 1_000 }))
  state.learn(100)
  assert.equal(state.meanMs, 100)
  assert.equal(state.costMs, 0.1)
  state.learn(200)
  assert.equal(state.meanMs, 125)
  state.learn(25)
  assert.equal(state.meanMs, 120)
})

test('of jobs that are held those of the queue that is listed first are fed first; without a list queues take turns', () => {
  const fed = (queues: string[] | null) => {
    const { scheduler, lanes, settle } = schedulerBench({ lanes: 1, settings: { queues } })
    for (const [queueId, queue] of ['calm', 'urgent'].entries())
      for (let n = 0; n < 2; n++) scheduler.arrive([chunk(1 + queueId * 10 + n, 1, { queueId, queue })])
    const order: number[] = []
    settle()
    const goesOn = bound('for all jobs to end')
    while (goesOn() && scheduler.stats().held > 0) {
      const [jobId] = lanes.queuedIds(0)
      order.push(jobId!)
      lanes.take(0)
      lanes.complete(0, jobId!, 20)
      scheduler.wake()
      settle()
    }
    return order
  }
  assert.deepEqual(fed(['urgent', 'calm']), [11, 12, 1, 2])
  assert.deepEqual(fed(['calm', 'urgent']), [1, 2, 11, 12])
  assert.deepEqual(
    fed(null).map((id) => id > 10),
    [false, true, false, true],
  )
})
