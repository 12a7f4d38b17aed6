// Schedules in one engine, on a clock that the test moves: loading, the index, due times, and what was missed.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EngineError } from '../engine/base/errors.ts'
import { Deadline } from '../engine/base/lifecycle.ts'
import { jitterOf } from '../engine/occurrences/entry.ts'
import { parseCron } from '../engine/schedule/cron.ts'
import { occurrencesBetween } from '../engine/schedule/occurrences.ts'
import { generateRunId } from '../engine/schedule/run-id.ts'
import { DatabaseTime } from '../engine/store/database-time.ts'
import { ManualClock } from './support/manual-clock.ts'
import { AWAY, NOON, type ScheduleBench, scheduleBench } from './support/schedule-fakes.ts'

const MINUTE = 60_000

/** Due times that were decided, in seconds past noon. */
function decided(bench: ScheduleBench, id: string): number[] {
  return [...bench.store.decided.keys()]
    .filter((key) => key.startsWith(`${id}@`))
    .map((key) => (Number(key.split('@')[1]) - NOON) / 1_000)
    .sort((a, b) => a - b)
}

test('start loads the schedules and builds the first index; the inbox is there, and no orchestrator yet', async () => {
  const bench = scheduleBench({ fill: (store) => store.put('job1', '*/5 * * * *') })
  await bench.schedules.start()
  assert.equal(bench.schedules.known, 1)
  assert.equal(bench.schedules.occurrences.index.length, 2, '12:00 and 12:05; 12:10 is the end')
  assert.equal(bench.inbox.depth, 0)
  assert.deepEqual(bench.scheduler.getAll(), [])
  await bench.schedules.stop()
})

test('[CS-037] start fails when the schedules cannot be read, and says so', async () => {
  const bench = scheduleBench({ fill: (store) => store.put('job1', '*/5 * * * *') })
  bench.store.troubles.push({ call: 'load', error: AWAY })
  await assert.rejects(
    bench.schedules.start(),
    (error: EngineError) => error.code === 'STORE_UNREACHABLE' && /failed to query jobs on startup/.test(error.message),
  )
})

test('[CS-038] [CS-042] an invalid expression is named once, noted and left out; the others go on', async () => {
  const bench = scheduleBench({
    fill: (store) => {
      store.put('good1', '*/5 * * * *')
      store.put('bad', '99 * * * *')
      store.put('good2', '*/5 * * * *')
    },
  })
  await bench.start()
  assert.deepEqual(new Set(ids(bench)), new Set(['good1', 'good2']))
  bench.schedules.reload()
  await bench.pass(1_000)
  bench.store.put('good3', '*/5 * * * *')
  bench.schedules.reload()
  await bench.pass(1_000)
  const named = bench.log.lines.filter((line) => line.event === 'schedule.invalid')
  assert.equal(named.length, 1)
  assert.equal(named[0]!.level, 'error')
  assert.equal(named[0]!.facts.schedule, 'bad')
  assert.match(bench.store.rows.get('bad')!.error!, /minute/)
  assert.deepEqual(new Set(ids(bench)), new Set(['good1', 'good2', 'good3']))
  bench.store.put('bad', '59 * * * *', { error: bench.store.rows.get('bad')!.error })
  bench.schedules.reload()
  await bench.pass(1_000)
  assert.equal(bench.store.rows.get('bad')!.error, null, 'mended')
  await bench.schedules.stop()
})

function ids(bench: ScheduleBench): string[] {
  const found: string[] = []
  const { startMs, endMs } = bench.schedules.window
  bench.schedules.occurrences.index.query(startMs, endMs, ({ id }) => found.push(id) > 0)
  return found
}

test('[CS-039] the index is built anew every indexRebuildMs and takes the place of the old one', async () => {
  const bench = scheduleBench({
    settings: { indexRebuildMs: 100 },
    fill: (store) => {
      for (let n = 0; n < 10; n++) store.put(`job${n}`, '* * * * *')
    },
  })
  await bench.start()
  const { rebuilds } = bench.schedules.counts
  const { startMs } = bench.schedules.window
  await bench.pass(250, 50)
  assert.equal(bench.schedules.counts.rebuilds, rebuilds + 2)
  assert.ok(bench.schedules.window.startMs >= startMs + 200, 'the new runs reach further')
  await bench.schedules.stop()
})

test('[CS-040] [CS-091] when told of a change the index is built at once, and a new schedule runs', async () => {
  const bench = scheduleBench({
    secondsPast: 1,
    fill: (store) => {
      for (let n = 0; n < 5; n++) store.put(`job${n}`, '0 3 * * *')
    },
  })
  await bench.start()
  await bench.pass(2_000)
  assert.equal(ids(bench).length, 0)
  bench.store.put('fresh', '*/10 * * * * *')
  bench.schedules.reload()
  await bench.pass(0)
  assert.ok(ids(bench).includes('fresh'))
  const runId = generateRunId('fresh', NOON + 10_000)
  assert.equal(bench.scheduler.getState(runId)!.state, 'prerun')
  await bench.pass(8_000)
  assert.deepEqual(decided(bench, 'fresh').at(-1), 10)
  await bench.schedules.stop()
})

test('[CS-041] the index covers from the grace time before now to the lookahead after', async () => {
  const bench = scheduleBench({ fill: (store) => store.put('job1', '* * * * *') })
  await bench.start()
  assert.deepEqual([bench.schedules.window.startMs, bench.schedules.window.endMs], [NOON - 30_000, NOON + 10 * MINUTE])
  await bench.schedules.stop()
})

test('[CS-088] a run waits as PreRun, goes to pending at its time, runs, beats, completes, is written, and is forgotten', async () => {
  const bench = scheduleBench({ secondsPast: 295, fill: (store) => store.put('job1', '*/5 * * * *') })
  await bench.start()
  const runId = generateRunId('job1', NOON + 300_000)
  const state = () => bench.scheduler.getState(runId)
  assert.equal(state()!.state, 'prerun')
  await bench.pass(4_999, 1)
  assert.equal(state()!.state, 'prerun')
  assert.equal(bench.store.decided.size, 0, 'nothing is enqueued before its time')
  await bench.pass(1, 1)
  assert.equal(state()!.state, 'pending')
  assert.deepEqual(decided(bench, 'job1'), [300])
  const { jobId, atMs } = bench.store.decided.get(`job1@${NOON + 300_000}`)!
  assert.equal(atMs, NOON + 300_000, 'enqueued at its time, to the millisecond')
  bench.lanes.take(0, 1)
  await bench.pass(29_000)
  assert.equal(state()!.state, 'pending')
  assert.equal(state()!.missedHeartbeats, 0, 'the run lives while its job runs')
  bench.lanes.complete(0, jobId)
  bench.scheduler.onDoorbell()
  await bench.pass(0)
  assert.equal(bench.outcomes.of('completed')[0]!.jobId, jobId)
  const last = bench.updates.filter((update) => update.runId === runId).at(-1)!
  assert.deepEqual([last.status, last.success], ['completed', true])
  assert.equal(new Set(bench.updates.map((update) => update.updateId)).size, bench.updates.length)
  assert.equal(state()!.state, 'completed')
  await bench.pass(3_000)
  assert.equal(state(), null, 'its grace time has passed')
  await bench.schedules.stop()
})

test('[CS-089] three schedules within ten seconds all run, each once', async () => {
  const bench = scheduleBench({
    secondsPast: 1,
    fill: (store) => {
      store.put('job1', '5 0 12 * * *')
      store.put('job2', '8 0 12 * * *')
      store.put('job3', '8 0 12 * * *')
    },
  })
  await bench.start()
  assert.equal(bench.scheduler.getAll().filter((run) => run.state === 'prerun').length, 3)
  await bench.pass(8_000)
  bench.lanes.runAll()
  await bench.pass(1_000)
  bench.lanes.runAll()
  await bench.pass(1_000)
  assert.equal(bench.store.decided.size, 3)
  assert.equal(bench.outcomes.of('completed').length, 3)
  assert.equal(bench.scheduler.getAll().filter((run) => run.state === 'completed').length, 3)
  await bench.schedules.stop()
})

test('the statement leaves shortly before the due time, the run goes to pending at it, and the job is made once', async () => {
  const bench = scheduleBench({ secondsPast: 1, fill: (store) => store.put('job1', '5 0 12 * * *') })
  await bench.start()
  const dueMs = bench.clock.wallMs() + 4_000
  const leftMs: number[] = []
  const fire = bench.store.fire.bind(bench.store)
  bench.store.fire = (nodeId, items) => {
    leftMs.push(dueMs - bench.clock.wallMs())
    return fire(nodeId, items)
  }
  const state = () => bench.scheduler.getAll()[0]!.state
  await bench.pass(3_980)
  assert.deepEqual(leftMs, [])
  await bench.pass(19, 1)
  assert.equal(leftMs.length, 1)
  assert.ok(leftMs[0]! > 0 && leftMs[0]! <= 15, `${leftMs[0]} ms before`)
  assert.equal(state(), 'prerun')
  assert.equal(bench.store.decided.size, 0, 'it was early')
  await bench.pass(10, 1)
  assert.ok(bench.updates.some((update) => update.status === 'pending' && update.atMs === dueMs))
  assert.equal(leftMs.length, 2)
  assert.equal(bench.store.decided.size, 1)
  await bench.schedules.stop()
})

test('[CS-092] 100 runs of one moment are enqueued together, and all complete', async () => {
  const bench = scheduleBench({
    secondsPast: 1,
    fill: (store) => {
      for (let n = 0; n < 100; n++) store.put(`job${n}`, '5 0 12 * * *')
    },
  })
  const batches: number[] = []
  const { store } = bench
  const fire = store.fire.bind(store)
  store.fire = (nodeId, items) => {
    if (items.length > 0) batches.push(items.length)
    return fire(nodeId, items)
  }
  await bench.start()
  await bench.pass(4_500)
  for (let round = 0; round < 200 && bench.outcomes.count < 100; round++) {
    bench.lanes.runAll()
    await bench.pass(10, 10)
  }
  assert.equal(store.decided.size, 100)
  assert.deepEqual(batches, [50, 50], 'a first statement that is small, so that threads have work soon, then the rest')
  assert.equal(bench.outcomes.of('completed').length, 100)
  assert.equal(new Set(bench.outcomes.of('completed').map((it) => it.jobId)).size, 100)
  await bench.schedules.stop()
})

test('a run whose job another node claims ends well here and is not orphaned', async () => {
  const bench = scheduleBench({ secondsPast: 1, fill: (store) => store.put('job1', '5 0 12 * * *') })
  bench.claims = false
  await bench.start()
  await bench.pass(20_000)
  assert.equal(bench.scheduler.getState(generateRunId('job1', NOON + 5_000))!.state, 'completed')
  assert.ok(!bench.log.lines.some((line) => /orphan/.test(line.event)))
  await bench.schedules.stop()
})

test('an occurrence that another node decided ends here at once', async () => {
  const bench = scheduleBench({ secondsPast: 1, fill: (store) => store.put('job1', '5 0 12 * * *') })
  await bench.start()
  bench.store.decided.set(`job1@${NOON + 5_000}`, { jobId: 99, atMs: NOON })
  await bench.pass(4_500)
  assert.equal(bench.schedules.counts.taken, 1)
  assert.equal(bench.scheduler.getState(generateRunId('job1', NOON + 5_000))!.state, 'completed')
  await bench.schedules.stop()
})

test('a schedule that is changed, paused or deleted while its run waits does not run at the old time', async () => {
  const bench = scheduleBench({
    secondsPast: 1,
    fill: (store) => {
      for (const id of ['changed', 'paused', 'deleted', 'kept']) store.put(id, '5 0 12 * * *')
    },
  })
  await bench.start()
  assert.equal(bench.scheduler.getAll().length, 4)
  // the change is not told: the database refuses, and that is how it is heard of
  bench.store.put('changed', '7 0 12 * * *')
  bench.store.put('paused', '5 0 12 * * *', { paused: true, revision: 1 })
  bench.store.delete('deleted')
  await bench.pass(7_000)
  assert.deepEqual(decided(bench, 'changed'), [7])
  assert.deepEqual(decided(bench, 'paused'), [])
  assert.deepEqual(decided(bench, 'deleted'), [])
  assert.deepEqual(decided(bench, 'kept'), [5])
  await bench.schedules.stop()
})

test('a run that is cancelled while it waits is never enqueued', async () => {
  const bench = scheduleBench({
    secondsPast: 1,
    fill: (store) => {
      store.put('cancelled', '5 0 12 * * *')
      store.put('kept', '5 0 12 * * *')
    },
  })
  await bench.start()
  assert.equal(bench.scheduler.cancel(generateRunId('cancelled', NOON + 5_000), 'by a person'), true)
  await bench.pass(6_000)
  assert.deepEqual([decided(bench, 'cancelled'), decided(bench, 'kept')], [[], [5]])
  await bench.schedules.stop()
})

test('a schedule that is changed without a new time in that second still runs at it', async () => {
  const bench = scheduleBench({ secondsPast: 1, fill: (store) => store.put('job1', '5 0 12 * * *') })
  await bench.start()
  bench.store.put('job1', '5 0 12 * * 0-6')
  await bench.pass(5_000)
  assert.deepEqual(decided(bench, 'job1'), [5])
  await bench.schedules.stop()
})

test('while the database is away due times wait, and nothing is lost or doubled when it is back', async () => {
  const bench = scheduleBench({
    secondsPast: 1,
    fill: (store) => store.put('job1', '*/2 * * * * *', { sinceMs: NOON + 1_000 }),
  })
  await bench.start()
  for (let n = 0; n < 4; n++) bench.store.troubles.push({ call: 'fire', error: AWAY })
  await bench.pass(19_500)
  assert.deepEqual(decided(bench, 'job1'), [2, 4, 6, 8, 10, 12, 14, 16, 18, 20])
  assert.ok(bench.log.has('warn', 'schedule.fire_delayed'))
  await bench.schedules.stop()
})

test('[TM-054] an occurrence that cannot be enqueued fails alone, is noted, and the next one is tried', async () => {
  const bench = scheduleBench({
    secondsPast: 1,
    fill: (store) => {
      store.put('job1', '*/5 * * * * *', { sinceMs: NOON + 1_000 })
      store.put('job2', '*/5 * * * * *', { sinceMs: NOON + 1_000 })
    },
  })
  await bench.start()
  const refusal = () => new EngineError('STORE_FAILED', 'violates a check', { retryable: false })
  bench.store.troubles.push({ call: 'fire', error: refusal() }, { call: 'fire', error: refusal() })
  await bench.pass(4_500)
  assert.deepEqual(bench.store.failed, [`job1@${NOON + 5_000}`])
  assert.equal(bench.scheduler.getState(generateRunId('job1', NOON + 5_000))!.state, 'failed')
  await bench.pass(5_000)
  assert.deepEqual(decided(bench, 'job1'), [10])
  assert.deepEqual(decided(bench, 'job2'), [5, 10])
  await bench.schedules.stop()
})

test('a restart inside the grace time runs what was missed meanwhile, once, and repeats nothing', async () => {
  const bench = scheduleBench({
    secondsPast: 20,
    fill: (store) => {
      store.put('job1', '*/5 * * * * *', { catchUp: 'none', sinceMs: NOON - 1, lastScheduledMs: NOON + 5_000 })
      store.decided.set(`job1@${NOON}`, { jobId: 1_000, atMs: NOON })
      store.decided.set(`job1@${NOON + 5_000}`, { jobId: 1_001, atMs: NOON })
    },
  })
  await bench.start()
  await bench.pass(5_000)
  assert.deepEqual(decided(bench, 'job1'), [0, 5, 10, 15, 20, 25])
  assert.equal(bench.schedules.counts.taken, 0, 'what the store knows is not even asked for')
  await bench.schedules.stop()
})

for (const [catchUp, expected] of [
  ['none', [0]],
  ['one', [0]],
  ['all', [-1200, -900, -600, -300, 0]],
] as const)
  test(`after downtime, catch-up ${catchUp}: ${expected.length} of five missed due times run`, async () => {
    const bench = scheduleBench({
      secondsPast: 10,
      fill: (store) =>
        store.put('job1', '*/5 * * * *', { catchUp, sinceMs: NOON - 5_000_000, lastScheduledMs: NOON - 1_500_000 }),
    })
    await bench.start()
    await bench.pass(2_000)
    assert.deepEqual(decided(bench, 'job1'), expected)
    await bench.schedules.stop()
  })

test('catch-up one runs the newest missed time alone, also when several lie in the grace time', async () => {
  const bench = scheduleBench({
    secondsPast: 12,
    fill: (store) => {
      store.put('often', '*/5 * * * * *', { catchUp: 'one', lastScheduledMs: NOON - 600_000 })
      store.put('seldom', '0 30 * * * *', { catchUp: 'one', lastScheduledMs: NOON - 5_400_000, sinceMs: 0 })
    },
  })
  await bench.start()
  await bench.pass(1_000)
  assert.deepEqual(decided(bench, 'often'), [10])
  assert.deepEqual(decided(bench, 'seldom'), [-1_800])
  await bench.schedules.stop()
})

test('catch-up reaches no further back than its window, and not before the schedule was made', async () => {
  const bench = scheduleBench({
    secondsPast: 40,
    fill: (store) => {
      store.put('window', '*/5 * * * *', { catchUp: 'all', catchUpMs: 700_000, sinceMs: 0 })
      store.put('young', '*/5 * * * *', { catchUp: 'all', sinceMs: NOON - 400_000 })
    },
  })
  await bench.start()
  await bench.pass(1_000)
  assert.deepEqual(decided(bench, 'window'), [-600, -300, 0])
  assert.deepEqual(decided(bench, 'young'), [-300, 0])
  await bench.schedules.stop()
})

test('a process that slept for long makes up for what it missed as the schedules say', async () => {
  const bench = scheduleBench({
    secondsPast: 1,
    fill: (store) => {
      store.put('one', '0 * * * * *', { catchUp: 'one', sinceMs: NOON })
      store.put('none', '0 * * * * *', { catchUp: 'none', sinceMs: NOON })
    },
  })
  await bench.start()
  await bench.pass(60_000)
  for (const id of ['one', 'none'])
    bench.store.rows.set(id, { ...bench.store.rows.get(id)!, lastScheduledMs: NOON + 60_000 })
  bench.clock.jump(5 * MINUTE + 45_000) // 12:06:46: the newest missed time is 46 s ago
  await bench.pass(5_000)
  assert.deepEqual(decided(bench, 'one'), [60, 360])
  assert.deepEqual(decided(bench, 'none'), [60])
  await bench.schedules.stop()
})

test('jitter spreads occurrences over its time, the same for every node, and none before its due time', async () => {
  const schedule = { id: 'job1', jitterMs: 1_000 }
  const spread = new Set(Array.from({ length: 200 }, (_, n) => jitterOf(schedule, NOON + n * MINUTE)))
  assert.ok(spread.size > 150)
  for (const ms of spread) assert.ok(ms >= 0 && ms <= 1_000)
  const bench = scheduleBench({
    secondsPast: 1,
    fill: (store) => store.put('job1', '5 0 12 * * *', { jitterMs: 60_000 }),
  })
  await bench.start()
  const dueMs = NOON + 5_000 + jitterOf({ id: 'job1', jitterMs: 60_000 }, NOON + 5_000)
  await bench.pass(dueMs - bench.clock.wallMs() - 1)
  assert.equal(bench.store.decided.size, 0)
  await bench.pass(2, 1)
  assert.equal([...bench.store.decided.values()][0]!.atMs - dueMs <= 1, true)
  assert.ok(!bench.log.lines.some((line) => /orphan|missed/.test(line.event)), 'a run that waits for its jitter lives')
  await bench.schedules.stop()
})

test('an occurrence whose jitter lets it wait for long survives a restart meanwhile, also without catching up', async () => {
  const longest = Array.from({ length: 50 }, (_, n) => ({ id: `job${n}`, jitterMs: 600_000 })).sort(
    (a, b) => jitterOf(b, NOON) - jitterOf(a, NOON),
  )
  const { id } = longest[0]!
  const jitterMs = jitterOf(longest[0]!, NOON)
  const bench = scheduleBench({
    secondsPast: 60,
    fill: (store) => store.put(id, '0 12 * * *', { jitterMs: 600_000, catchUp: 'none', sinceMs: NOON - 1 }),
  })
  await bench.start()
  await bench.pass(jitterMs - 61_000)
  assert.deepEqual(decided(bench, id), [])
  await bench.pass(2_000)
  assert.deepEqual(decided(bench, id), [0])
  await bench.schedules.stop()
})

test('[CS-086] a shutdown with runs that wait cancels them, enqueues nothing, and looks at nothing any more', async () => {
  const bench = scheduleBench({
    secondsPast: 1,
    fill: (store) => {
      for (let n = 0; n < 10; n++) store.put(`job${n}`, '5 0 12 * * *')
    },
  })
  await bench.start()
  assert.equal(bench.scheduler.getAll().filter((run) => run.state === 'prerun').length, 10)
  bench.schedules.quiet()
  const stopping = Promise.all([bench.schedules.stop(), bench.scheduler.stop(new Deadline(bench.clock, 1_000))])
  await bench.pass(2_000)
  await stopping
  assert.equal(bench.updates.filter((update) => update.status === 'cancelled').length, 10)
  const { rebuilds } = bench.schedules.counts
  await bench.pass(180_000, 10_000)
  assert.equal(bench.store.decided.size, 0)
  assert.equal(bench.schedules.counts.rebuilds, rebuilds)
})

test('without a schedule there is one small question a minute and nothing else', async () => {
  const bench = scheduleBench()
  await bench.start()
  assert.equal(bench.store.digests, 1)
  await bench.pass(301_000, 1_000)
  assert.equal(bench.store.digests, 6)
  assert.deepEqual([bench.store.loads.length, bench.schedules.counts.rebuilds], [0, 0])
  await bench.schedules.stop()
})

test("the database's time is met by many answers, whatever this machine's clock says, and follows when it is set", () => {
  const clock = new ManualClock(1_000_000)
  const time = new DatabaseTime(clock)
  assert.equal(time.nowMs(), 1_000_000, 'our own until the first answer')
  const offsetMs = 300_000
  const ask = (outMs: number, backMs: number) => {
    const sentMs = clock.steadyMs()
    clock.advance(outMs)
    const database = clock.steadyMs() + offsetMs
    clock.advance(backMs)
    time.note(sentMs, clock.steadyMs(), database)
  }
  ask(50, 2)
  assert.ok(Math.abs(time.leadMs() - offsetMs) <= 26)
  ask(1, 1)
  ask(0.2, 0.3)
  ask(100, 0)
  assert.ok(Math.abs(time.nowMs() - clock.steadyMs() - offsetMs) < 0.5, 'a slow answer spoils nothing')
  time.note(clock.steadyMs(), clock.steadyMs(), clock.steadyMs() - 7_000)
  assert.equal(Math.round(time.nowMs() - clock.steadyMs()), -7_000)
})

test("this machine's times are moved only where answers contradict its clock", () => {
  const clock = new ManualClock(1_000_000)
  const time = new DatabaseTime(clock)
  const ask = (offMs: number, outMs: number, backMs: number) => {
    const sentMs = clock.steadyMs()
    clock.advance(outMs)
    const databaseMs = clock.wallMs() + offMs
    clock.advance(backMs)
    time.note(sentMs, clock.steadyMs(), databaseMs)
  }
  assert.equal(time.leadMs(), 0, 'nothing is known')
  ask(0, 8_000, 0)
  assert.equal(time.leadMs(), 0, 'a slow answer is no reason to doubt')
  ask(0.4, 0, 0)
  assert.equal(time.leadMs(), 0, 'wall time is whole, and so up to a millisecond late')
  ask(-300_000, 1, 3)
  assert.ok(Math.abs(time.leadMs() + 300_000) <= 2)
})

test('a simulated day of 10,000 schedules, through the whole loop, loses nothing and doubles nothing', async () => {
  const crons = [
    '* 3 * * *',
    '*/15 * * * *',
    '7 * * * *',
    '30 9 * * 1-5',
    '0 0 1 * *',
    '*/30 8-18 * * *',
    '5,35 */2 * * *',
    '59 23 * * *',
  ]
  const zones = ['UTC', 'Europe/Berlin', 'America/New_York', 'Asia/Kolkata']
  const schedules = Array.from({ length: 10_000 }, (_, n) => ({
    id: `schedule ${n}`,
    cron: crons[n % crons.length]!,
    timeZone: zones[(n >>> 3) % zones.length]!,
  }))
  const bench = scheduleBench({ settings: { indexRebuildMs: 5 * MINUTE } })
  bench.claims = false // other nodes run the jobs
  const startMs = Date.UTC(2026, 2, 28, 23, 59, 30) // clocks go forward in Berlin
  bench.clock.jump(startMs - bench.clock.wallMs())
  for (const { id, cron, timeZone } of schedules) bench.store.put(id, cron, { timeZone, sinceMs: startMs })
  await bench.start()
  const endMs = startMs + 24 * 60 * MINUTE
  while (bench.clock.wallMs() < endMs) {
    await bench.pass(5 * MINUTE, 10_000)
    bench.updates.length = 0
    if (bench.clock.wallMs() === startMs + 720 * MINUTE) bench.clock.jump(20_000) // the process stands still for a while
  }
  await bench.schedules.stop()
  const untilMs = bench.clock.wallMs()
  let expected = 0
  for (const { id, cron, timeZone } of schedules)
    for (const dueMs of occurrencesBetween(parseCron(cron, timeZone), startMs, untilMs)) {
      expected++
      if (!bench.store.decided.has(`${id}@${dueMs}`)) assert.fail(`${id} at ${new Date(dueMs).toISOString()} is lost`)
    }
  assert.ok(expected > 250_000, `${expected}`)
  assert.equal(bench.store.decided.size, expected, 'nothing else was decided')
  const { enqueued, taken, failed, refused } = bench.schedules.counts
  assert.deepEqual({ enqueued, taken, failed, refused }, { enqueued: expected, taken: 0, failed: 0, refused: 0 })
})

// ------------------------------------------------------------------ made ahead of their time

/** A schedule that is due at five minutes past noon, and a node with room, ten seconds before. */
async function nearFive(options: { room?: number; schedules?: number } = {}): Promise<ScheduleBench> {
  const bench = scheduleBench({
    secondsPast: 290,
    fill: (store) => {
      for (let n = 0; n < (options.schedules ?? 1); n++) store.put(`job${n}`, '*/5 * * * *')
    },
  })
  bench.room = options.room ?? 10
  await bench.start()
  return bench
}

const FIVE = NOON + 300_000
const runOf = (bench: ScheduleBench, n: number) => bench.scheduler.getState(generateRunId(`job${n}`, FIVE))

test('jobs of as many occurrences as there is room for are made ahead, wait as PreRun, and begin at their time; the rest is made then', async () => {
  const bench = await nearFive({ room: 2, schedules: 3 })
  await bench.pass(8_400, 100)
  assert.equal(bench.store.prepared.length, 0, 'not too early')
  await bench.pass(200, 100)
  assert.equal(bench.store.prepared.length, 2)
  assert.equal(bench.scheduler.stats().prerun, 2)
  for (const jobId of bench.store.prepared) assert.equal(bench.scheduler.getState(jobId)!.state, 'prerun')
  await bench.pass(1_399, 1)
  assert.equal(bench.scheduler.stats().prerun, 2)
  assert.equal(bench.store.begun.length, 0)
  await bench.pass(2, 1)
  assert.equal(bench.scheduler.stats().prerun, 0)
  assert.equal(bench.store.decided.size, 3)
  assert.equal(bench.schedules.counts.enqueued, 3)
  for (const n of [0, 1, 2]) assert.equal(runOf(bench, n)!.state, 'pending', 'its job has not ended')
  await bench.pass(500, 50)
  assert.deepEqual(bench.store.begun, bench.store.prepared, 'noted when the rush is over')
  await bench.schedules.stop()
})

test('what another node made ahead is asked about after its time, should that node be no more', async () => {
  const bench = await nearFive()
  bench.store.decided.set(`job0@${FIVE}`, { jobId: 77, atMs: FIVE })
  await bench.pass(10_100, 50)
  assert.equal(bench.schedules.counts.taken, 0)
  assert.equal(runOf(bench, 0)!.state, 'pending')
  bench.store.decided.clear() // it was withdrawn, and nobody decided it again
  await bench.pass(200, 50)
  assert.equal(bench.schedules.counts.enqueued, 1)
  await bench.schedules.stop()
})

test('what has begun is noted before the stop is over, whatever the time is', async () => {
  const bench = await nearFive({ room: 2, schedules: 2 })
  await bench.pass(10_001, 1)
  assert.deepEqual([bench.store.prepared.length, bench.store.begun.length, bench.scheduler.stats().prerun], [2, 0, 0])
  await bench.schedules.stop()
  assert.deepEqual(bench.store.begun, bench.store.prepared)
  assert.ok(!bench.log.lines.some(({ event }) => event === 'schedule.note_failed'))
})

test('when jobs cannot be made ahead they are made at their time', async () => {
  const bench = await nearFive()
  bench.store.troubles.push({ call: 'prepare', error: AWAY })
  await bench.pass(10_010, 10)
  assert.equal(bench.store.prepared.length, 0)
  assert.deepEqual(decided(bench, 'job0'), [300])
  assert.equal(bench.log.lines.filter(({ event }) => event === 'schedule.prepare_failed').length, 1)
  await bench.schedules.stop()
})

test('while nobody can confirm the due time what was made ahead waits; then it begins', async () => {
  const bench = await nearFive()
  bench.store.troubles.push({ call: 'confirm', error: AWAY }, { call: 'confirm', error: AWAY })
  await bench.pass(10_000, 50)
  assert.equal(bench.scheduler.stats().prerun, 1)
  await bench.pass(5_000, 50)
  assert.equal(bench.scheduler.stats().prerun, 0)
  assert.deepEqual(bench.store.begun, bench.store.prepared)
  await bench.schedules.stop()
})

test('a confirmation that is refused for good gives the job back, so that it is claimed like any other', async () => {
  const bench = await nearFive()
  bench.store.troubles.push({ call: 'confirm', error: new EngineError('STORE_FAILED', 'no') })
  await bench.pass(10_500, 50)
  assert.deepEqual(
    bench.outcomes.of('release').map(({ firstId }) => firstId),
    bench.store.prepared,
  )
  assert.equal(bench.scheduler.stats().held, 0)
  assert.equal(bench.schedules.counts.taken, 1)
  await bench.schedules.stop()
})

for (const told of [false, true])
  test(`a schedule that changes after its job was made ahead${told ? ', of which its holder hears' : ''}: that job is cancelled, and the due time is decided anew`, async () => {
    const bench = await nearFive({ schedules: 2 })
    await bench.pass(9_000, 100)
    const [jobId] = bench.store.prepared
    assert.ok(jobId !== undefined)
    if (told) bench.scheduler.cancel(jobId, 'its schedule was changed')
    bench.store.decided.delete(`job0@${FIVE}`) // as the database does
    bench.store.put('job0', '*/5 * * * *', { revision: 2 })
    await bench.pass(1_100, 10)
    assert.deepEqual(
      bench.outcomes.of('cancelled').map((it) => it.jobId),
      [jobId],
    )
    assert.notEqual(bench.store.decided.get(`job0@${FIVE}`)!.jobId, jobId)
    await bench.pass(500, 50)
    assert.equal(bench.store.begun.length, 1, 'the other one is not touched')
    await bench.schedules.stop()
  })

test('a run that is cancelled in PreRun takes the job along that was made ahead for it', async () => {
  const bench = await nearFive()
  await bench.pass(9_000, 100)
  const [jobId] = bench.store.prepared
  assert.equal(bench.scheduler.cancel(generateRunId('job0', FIVE), 'not today'), true)
  await bench.pass(1_100, 10)
  assert.deepEqual(
    bench.outcomes.of('cancelled').map((it) => it.jobId),
    [jobId],
  )
  assert.equal(bench.store.begun.length, 0)
  assert.equal(bench.schedules.counts.enqueued, 0)
  await bench.schedules.stop()
})

test('an engine that stops gives back what was made ahead', async () => {
  const bench = await nearFive()
  await bench.pass(9_000, 100)
  bench.schedules.quiet()
  bench.scheduler.quiet()
  await bench.scheduler.stop(new Deadline(bench.clock, 0))
  assert.deepEqual(
    bench.outcomes.of('release').map((it) => it.firstId),
    bench.store.prepared,
  )
  await bench.schedules.stop()
})
