import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Deadline } from '../engine/base/lifecycle.ts'
import { generateRunId } from '../engine/schedule/run-id.ts'
import type { Message, OrchestratorState } from '../engine/scheduler/messages.ts'
import type { SchedulerStats } from '../engine/scheduler/stats.ts'
import { Inbox } from '../threads/inbox.ts'
import { type Bench, type BenchOptions, chunk, schedulerBench } from './support/scheduler-fakes.ts'

/** A bench whose index knows one run per name, due `inMs` from now. */
function withRuns(runs: Readonly<Record<string, number>>, options: BenchOptions = {}): Bench & { ids: string[] } {
  const bench = schedulerBench(options)
  const nowMs = bench.clock.wallMs()
  for (const [id, inMs] of Object.entries(runs)) bench.occurrences.runs.push({ id, dueMs: nowMs + inMs })
  bench.scheduler.start()
  bench.settle()
  return { ...bench, ids: bench.occurrences.runs.map((run) => generateRunId(run.id, run.dueMs)) }
}

function send(bench: Bench, ...messages: (typeof bench.inbox.messages)[number][]): void {
  bench.inbox.messages.push(...messages)
  bench.scheduler.wake()
  bench.settle()
}

function stateOf(bench: Bench, id: string): OrchestratorState {
  return bench.scheduler.getState(id)!
}

test('[CS-046] runs of the next seconds are launched as PreRun, with a heartbeat of now', () => {
  const bench = withRuns({ job1: 5_000, job2: 8_000, job3: 9_000, job4: 10_000 })
  assert.deepEqual(bench.occurrences.launched, bench.ids.slice(0, 3))
  for (const id of bench.ids.slice(0, 3)) {
    assert.equal(stateOf(bench, id).state, 'prerun')
    assert.equal(stateOf(bench, id).silentMs, 0)
  }
  assert.equal(bench.scheduler.getState(bench.ids[3]!), null, 'the window is half open')
})

test('[CS-047] a run that is in memory is not launched again', () => {
  const bench = withRuns({ job1: 5_000 })
  bench.advance(4_000, 500)
  assert.ok(bench.occurrences.queries.length > 2)
  assert.deepEqual(bench.occurrences.launched, bench.ids)
  assert.equal(bench.scheduler.getAll().length, 1)
})

test('[CS-048] a run that is over stays known for the grace time, so the overlapping window finds it launched', () => {
  const bench = withRuns({ job1: 0 })
  bench.advance(5_000, 500)
  send(bench, {
    type: 'orchestrator_complete',
    id: bench.ids[0]!,
    success: true,
    atMs: bench.clock.wallMs(),
    error: null,
  })
  bench.scheduler.indexChanged()
  bench.advance(5_000, 500)
  const [fromMs] = bench.occurrences.queries.at(-1)!
  assert.ok(fromMs < bench.occurrences.runs[0]!.dueMs, 'the window looks back over it')
  assert.deepEqual(bench.occurrences.launched, bench.ids)
  assert.equal(bench.scheduler.getAll().length, 1)
})

test('a run that was missed by less than the grace time is launched and pending at once; an older one is not', () => {
  const bench = withRuns({ missed: -20_000, old: -31_000 })
  assert.deepEqual(bench.occurrences.launched, [bench.ids[0]])
  assert.equal(stateOf(bench, bench.ids[0]!).state, 'pending')
})

test('a run that the store remembers is not launched after a restart', () => {
  const bench = schedulerBench()
  const dueMs = bench.clock.wallMs() - 5_000
  bench.occurrences.runs.push({ id: 'job1', dueMs })
  bench.scheduler.rememberRun(generateRunId('job1', dueMs), 'job1', dueMs)
  bench.scheduler.start()
  bench.settle()
  assert.deepEqual(bench.occurrences.launched, [])
})

test('each launch hands over one update: prerun, with an id of its own', () => {
  const bench = withRuns({ a: 1_000, b: 2_000, c: 3_000, d: 4_000, e: 5_000 })
  assert.equal(bench.occurrences.updates.length, 5)
  assert.ok(bench.occurrences.updates.every((update) => update.status === 'prerun'))
  assert.equal(new Set(bench.occurrences.updates.map((update) => update.updateId)).size, 5)
})

test('[CS-075] when the buffer of updates is full the loop stops and says so, once', () => {
  const bench = schedulerBench()
  bench.occurrences.accepts = false
  bench.occurrences.runs.push({ id: 'a', dueMs: bench.clock.wallMs() + 1_000 })
  bench.scheduler.start()
  bench.settle()
  bench.advance(3_000, 500)
  assert.deepEqual(bench.shutdowns, ['scheduler stopping due to buffer overflow'])
  assert.ok(bench.log.has('error', 'scheduler stopping due to buffer overflow'))
  assert.equal(bench.scheduler.wanted(), 0)
})

test('[CS-051] an empty inbox: nothing is processed', () => {
  assert.equal(schedulerBench().scheduler.processInbox(), 0)
})

test('[CS-052] ten messages: all are handled, and the count says so', () => {
  const bench = withRuns(Object.fromEntries(Array.from({ length: 10 }, (_, i) => [`job${i}`, 5_000])))
  const atMs = bench.clock.wallMs()
  for (const id of bench.ids)
    bench.inbox.messages.push({ type: 'orchestrator_state_change', id, status: 'pending', atMs })
  assert.equal(bench.scheduler.processInbox(), 10)
  for (const id of bench.ids) assert.equal(stateOf(bench, id).state, 'pending')
})

test('a state change moves the run and is told', () => {
  const bench = withRuns({ job1: 5_000 })
  const [id] = bench.ids
  send(bench, { type: 'orchestrator_state_change', id: id!, status: 'pending', atMs: bench.clock.wallMs() })
  assert.equal(stateOf(bench, id!).state, 'pending')
  assert.equal(bench.occurrences.updates.at(-1)!.status, 'pending')
})

test('[CS-054] a completion ends the run with its time, and is written as a success', () => {
  const bench = withRuns({ job1: 0 })
  const [id] = bench.ids
  const atMs = bench.clock.wallMs()
  send(bench, { type: 'orchestrator_state_change', id: id!, status: 'running', atMs })
  send(bench, { type: 'orchestrator_complete', id: id!, success: true, atMs, error: null })
  assert.equal(stateOf(bench, id!).state, 'completed')
  assert.equal(stateOf(bench, id!).completedAtMs, atMs)
  const { status, success, error } = bench.occurrences.updates.at(-1)!
  assert.deepEqual({ status, success, error }, { status: 'completed', success: true, error: null })
})

test('[CS-055] a failure ends the run, and is written with its error', () => {
  const bench = withRuns({ job1: 0 })
  const [id] = bench.ids
  const atMs = bench.clock.wallMs()
  send(bench, { type: 'orchestrator_state_change', id: id!, status: 'running', atMs })
  send(bench, { type: 'orchestrator_failed', id: id!, atMs, error: 'disk is full' })
  assert.equal(stateOf(bench, id!).state, 'failed')
  const { status, success, error } = bench.occurrences.updates.at(-1)!
  assert.deepEqual({ status, success, error }, { status: 'failed', success: false, error: 'disk is full' })
})

test('a run that was cancelled in PreRun says "complete without success" and ends as cancelled', () => {
  const bench = withRuns({ job1: 5_000 })
  const [id] = bench.ids
  const atMs = bench.clock.wallMs()
  send(bench, { type: 'orchestrator_complete', id: id!, success: false, atMs, error: 'cancelled in PreRun' })
  assert.equal(stateOf(bench, id!).state, 'cancelled')
  assert.equal(stateOf(bench, id!).error, 'cancelled in PreRun')
})

test('terminal states stay: a second cancel, a late completion and a late failure are counted and ignored', () => {
  const bench = withRuns({ job1: 0 })
  const [id] = bench.ids
  const atMs = bench.clock.wallMs()
  send(bench, { type: 'cancel_run', id: id!, reason: 'not today' })
  const cancelled = stateOf(bench, id!)
  assert.equal(cancelled.state, 'cancelled')
  assert.equal(cancelled.completedAtMs, atMs)
  const writes = bench.occurrences.updates.length
  bench.clock.advance(100)
  send(
    bench,
    { type: 'cancel_run', id: id!, reason: 'again' },
    { type: 'orchestrator_complete', id: id!, success: true, atMs, error: null },
    { type: 'orchestrator_failed', id: id!, atMs, error: 'late' },
    { type: 'orchestrator_state_change', id: id!, status: 'running', atMs },
    { type: 'orchestrator_heartbeat', id: id!, atMs },
  )
  assert.equal(stateOf(bench, id!).state, 'cancelled')
  assert.equal(stateOf(bench, id!).completedAtMs, atMs)
  assert.equal(bench.occurrences.updates.length, writes)
  assert.equal(bench.scheduler.stats().lateReports, 5)
})

test('[CS-057] cancelling a run that does not exist is a warning and nothing else', () => {
  const bench = schedulerBench()
  send(bench, { type: 'cancel_run', id: 'nobody:1', reason: '' }, { type: 'cancel_run', id: 42, reason: '' })
  assert.deepEqual(
    bench.log.lines.map(({ level, event }) => [level, event]),
    [
      ['warn', 'attempted to cancel non-existent run'],
      ['warn', 'attempted to cancel non-existent run'],
    ],
  )
  assert.deepEqual(bench.shutdowns, [])
})

test('in PreRun a run takes a new configuration, and still starts at its time', () => {
  const bench = withRuns({ job1: 500 })
  const [id] = bench.ids
  bench.advance(100)
  send(bench, { type: 'update_run_config', id: id!, config: { retries: 7 } })
  assert.deepEqual(stateOf(bench, id!).config, { retries: 7 })
  bench.advance(390)
  assert.equal(stateOf(bench, id!).state, 'prerun')
  bench.advance(10)
  assert.equal(stateOf(bench, id!).state, 'pending')
})

test('[CS-059] past PreRun a new configuration is refused with a warning', () => {
  const bench = withRuns({ job1: 0 })
  const [id] = bench.ids
  send(bench, { type: 'update_run_config', id: id!, config: 1 })
  assert.equal(stateOf(bench, id!).config, null)
  assert.ok(bench.log.has('warn', 'configuration can be updated in PreRun only'))
})

test('[CS-060] the state of one orchestrator is answered, and null for one that is not there', () => {
  const bench = withRuns({ job1: 5_000 })
  const answers: (OrchestratorState | null)[] = []
  const reply = (state: OrchestratorState | null) => answers.push(state)
  send(
    bench,
    { type: 'get_orchestrator_state', id: bench.ids[0]!, reply },
    { type: 'get_orchestrator_state', id: 'nobody:1', reply },
  )
  assert.deepEqual([answers[0]!.id, answers[0]!.state, answers[1]], [bench.ids[0], 'prerun', null])
})

test('[CS-061] all orchestrators are answered, runs and jobs, as copies', () => {
  const bench = withRuns({ a: 5_000, b: 5_000, c: 5_000 })
  bench.scheduler.arrive([chunk(1, 2)])
  let states: OrchestratorState[] = []
  send(bench, { type: 'get_all_active_runs', reply: (all) => (states = all) })
  assert.deepEqual(states.map(({ id }) => String(id)).sort(), ['1', '2', ...bench.ids].sort())
  Object.assign(states[0]!, { state: 'failed' })
  assert.equal(stateOf(bench, bench.ids[0]!).state, 'prerun')
})

test('[CS-062] the stats tell orchestrators, the size of the index and the depth of the inbox', () => {
  const bench = withRuns({ a: 5_000, b: 5_000, c: 5_000 })
  for (let i = 0; i < 97; i++) bench.occurrences.runs.push({ id: `later${i}`, dueMs: bench.clock.wallMs() + 3_600_000 })
  const answers: SchedulerStats[] = []
  const ask = { type: 'get_stats', reply: (answer: SchedulerStats) => answers.push(answer) } as const
  const atMs = bench.clock.wallMs()
  send(bench, ask, { type: 'orchestrator_heartbeat', id: bench.ids[0]!, atMs })
  const { activeOrchestrators, indexSize, inboxDepth } = answers[0]!
  assert.deepEqual(
    { activeOrchestrators, indexSize, inboxDepth },
    { activeOrchestrators: 3, indexSize: 100, inboxDepth: 1 },
  )
})

test('a reply that throws harms nobody', () => {
  const bench = schedulerBench()
  let answered = false
  const bad = () => {
    throw new Error('no')
  }
  send(bench, { type: 'get_stats', reply: bad }, { type: 'get_all_active_runs', reply: () => (answered = true) })
  assert.ok(answered)
  assert.ok(bench.log.has('warn', 'scheduler.reply_failed'))
})

test('the message shutdown asks for the end', () => {
  const bench = schedulerBench()
  send(bench, { type: 'shutdown' })
  assert.equal(bench.shutdowns.length, 1)
})

// Heartbeats: interval 10 s; the maximum is set by the case.

test('[CS-064] a heartbeat that is 5 s old is not missed', () => {
  const bench = withRuns({ job1: 0 })
  bench.advance(5_000, 500)
  assert.deepEqual(
    [stateOf(bench, bench.ids[0]!).missedHeartbeats, stateOf(bench, bench.ids[0]!).state],
    [0, 'pending'],
  )
})

test('[CS-065] a heartbeat that is 15 s old has been missed once, with a warning, and the state stays', () => {
  const bench = withRuns({ job1: 0 })
  bench.advance(15_000, 500)
  assert.deepEqual(
    [stateOf(bench, bench.ids[0]!).missedHeartbeats, stateOf(bench, bench.ids[0]!).state],
    [1, 'pending'],
  )
  assert.equal(bench.log.lines.filter((line) => line.event === 'missed heartbeat').length, 1)
})

test('with the last one allowed missed the run is orphaned: an error, and an update that says so', () => {
  const bench = withRuns({ job1: 0 }, { settings: { missedHeartbeatsMax: 5 } })
  const [id] = bench.ids
  bench.advance(49_000, 500)
  assert.deepEqual([stateOf(bench, id!).missedHeartbeats, stateOf(bench, id!).state], [4, 'pending'])
  bench.occurrences.runs.length = 0
  bench.advance(2_000, 500)
  const update = bench.occurrences.updates.at(-1)!
  assert.deepEqual([update.runId, update.status, update.success], [id, 'orphaned', false])
  assert.equal(update.error, 'orchestrator orphaned after 5 missed heartbeats')
  assert.ok(bench.log.has('error', 'marking orchestrator as orphaned'))
})

test('[CS-067] a run that is over is not checked', () => {
  const bench = withRuns({ job1: 0 }, { settings: { graceMs: 3_600_000 } })
  const [id] = bench.ids
  send(bench, { type: 'orchestrator_complete', id: id!, success: true, atMs: bench.clock.wallMs(), error: null })
  bench.advance(600_000, 5_000)
  assert.deepEqual([stateOf(bench, id!).missedHeartbeats, stateOf(bench, id!).state], [0, 'completed'])
})

test('[CS-068] a heartbeat sets the counter back and moves the last sign of life', () => {
  const bench = withRuns({ job1: 0 }, { settings: { missedHeartbeatsMax: 5 } })
  const [id] = bench.ids
  bench.advance(35_000, 500)
  assert.equal(stateOf(bench, id!).missedHeartbeats, 3)
  send(bench, { type: 'orchestrator_heartbeat', id: id!, atMs: bench.clock.wallMs() - 200 })
  assert.equal(stateOf(bench, id!).missedHeartbeats, 0)
  assert.equal(stateOf(bench, id!).silentMs, 200)
})

test('a run whose job is held here lives with its job and ends as it ends', () => {
  const bench = withRuns({ job1: 0 }, { lanes: 1 })
  const [id] = bench.ids
  bench.scheduler.arrive([chunk(7, 1, { timeoutMs: 0 })])
  assert.ok(bench.scheduler.bindRun(id!, 7))
  bench.settle()
  bench.lanes.take(0)
  bench.advance(120_000, 1_000)
  assert.equal(stateOf(bench, id!).missedHeartbeats, 0)
  bench.lanes.complete(0, 7)
  bench.occurrences.runs.length = 0
  bench.scheduler.wake()
  bench.settle()
  assert.equal(bench.occurrences.updates.at(-1)!.status, 'completed')
})

// Cleaning up: grace time 30 s.

test('[CS-069] a run that is over stays while its grace time lasts', () => {
  const bench = withRuns({ job1: 0 })
  const [id] = bench.ids
  send(bench, { type: 'orchestrator_complete', id: id!, success: true, atMs: bench.clock.wallMs(), error: null })
  bench.advance(10_000, 500)
  assert.equal(stateOf(bench, id!).state, 'completed')
})

test('[CS-070] a run that is over is removed after its grace time', () => {
  const bench = withRuns({ job1: 0 })
  const [id] = bench.ids
  send(bench, { type: 'orchestrator_complete', id: id!, success: true, atMs: bench.clock.wallMs(), error: null })
  bench.advance(40_000, 500)
  assert.equal(bench.scheduler.getState(id!), null)
  assert.deepEqual(bench.occurrences.launched, bench.ids, 'and not launched again')
})

test('[CS-071] completed, failed, cancelled and orphaned runs are all removed', () => {
  const bench = withRuns({ done: 0, failed: 0, cancelled: 0, orphaned: 0 })
  const [done, failed, cancelled, orphaned] = bench.ids
  const atMs = bench.clock.wallMs()
  send(
    bench,
    { type: 'orchestrator_complete', id: done!, success: true, atMs, error: null },
    { type: 'orchestrator_failed', id: failed!, atMs, error: 'x' },
    { type: 'cancel_run', id: cancelled!, reason: 'x' },
    { type: 'orchestrator_state_change', id: orphaned!, status: 'orphaned', atMs },
  )
  assert.deepEqual(
    bench.ids.map((id) => stateOf(bench, id).state),
    ['completed', 'failed', 'cancelled', 'orphaned'],
  )
  bench.advance(32_000, 500)
  assert.equal(bench.scheduler.getAll().length, 0)
})

test('[CS-072] runs in PreRun, pending and running are not removed, however old', () => {
  const bench = withRuns(
    { pending: 0, running: 0, prerun: 9_000 },
    { settings: { orchestratorHeartbeatMs: 3_600_000 } },
  )
  const atMs = bench.clock.wallMs()
  send(bench, { type: 'orchestrator_state_change', id: bench.ids[1]!, status: 'running', atMs })
  assert.equal(stateOf(bench, bench.ids[2]!).state, 'prerun')
  bench.advance(120_000, 1_000)
  assert.deepEqual(
    bench.ids.map((id) => stateOf(bench, id).state),
    ['pending', 'running', 'pending'],
  )
})

test('[CS-073] the sample of an iteration tells time, duration, orchestrators, index, inbox and messages', () => {
  const samples: unknown[] = []
  let steadyMs = 0
  const bench = schedulerBench({ needs: { onIteration: (sample) => samples.push(sample) } })
  const { clock } = bench
  clock.steadyMs = () => (steadyMs += 0.25) // every reading of the clock takes a moment
  for (let i = 0; i < 200; i++) bench.occurrences.runs.push({ id: `run${i}`, dueMs: clock.wallMs() + 3_600_000 })
  bench.scheduler.arrive([chunk(1, 5)])
  // what a handler of a message sends is there for the next iteration
  const late = { type: 'orchestrator_heartbeat', id: 1, atMs: 0 } as const
  for (let i = 0; i < 7; i++) bench.inbox.messages.push({ type: 'get_stats', reply: () => {} })
  const { tryReceive } = bench.inbox
  bench.inbox.tryReceive = () => {
    const message = tryReceive.call(bench.inbox)
    if (bench.inbox.messages.length === 0) bench.inbox.messages.push(late, late, late)
    return message
  }
  const timestampMs = clock.wallMs()
  bench.scheduler.iteration()
  const { durationMs, ...sample } = samples[0] as { durationMs: number }
  assert.ok(durationMs > 0)
  assert.deepEqual(sample, {
    timestampMs,
    activeOrchestrators: 5,
    indexSize: 200,
    inboxDepth: 3,
    messagesProcessed: 7,
  })
})

test('[CS-074] what one duty of an iteration does is seen by the next: due, inbox, heartbeats, cleanup, stats, depth', () => {
  const told: string[] = []
  const bench = schedulerBench({
    settings: { missedHeartbeatsMax: 5, graceMs: 30_000 },
    needs: { onIteration: ({ activeOrchestrators }) => told.push(`stats of ${activeOrchestrators}`) },
  })
  const { scheduler, clock, occurrences, inbox } = bench
  for (const [id, inMs] of Object.entries({ ends: 0, beats: 0, silent: 0 }))
    occurrences.runs.push({ id, dueMs: clock.wallMs() + inMs })
  scheduler.iteration()
  const [ends, beats, silent] = occurrences.runs.map((run) => generateRunId(run.id, run.dueMs))
  assert.equal(told.pop(), 'stats of 3')
  occurrences.runs.length = 0
  clock.jump(50_000) // the grace time has passed, and five heartbeats
  for (const id of ['new1', 'new2']) occurrences.runs.push({ id, dueMs: clock.wallMs() + 1_000 })
  let seen: string[] = []
  const atMs = clock.wallMs()
  inbox.messages.push(
    { type: 'get_all_active_runs', reply: (all) => (seen = all.map(({ name }) => name)) },
    { type: 'orchestrator_complete', id: ends!, success: true, atMs, error: null },
    { type: 'orchestrator_heartbeat', id: beats!, atMs },
  )
  inbox.updateDepthStats = () => void told.push('depth')
  scheduler.iteration()
  assert.deepEqual(told, ['stats of 3', 'depth'])
  scheduler.wake()
  bench.settle() // answers are told after the iteration
  assert.deepEqual(seen, ['ends', 'beats', 'silent', 'new1', 'new2'], 'launched before the inbox was read')
  assert.equal(stateOf(bench, beats!).state, 'pending', 'its heartbeat was read before heartbeats were counted')
  assert.equal(scheduler.getState(ends!), null, 'its end was read before what is over was removed')
  assert.equal(scheduler.getState(silent!), null, 'given up, and then removed')
})

test('one iteration does its duties in their order', () => {
  const order: string[] = []
  const bench = schedulerBench({ needs: { onIteration: () => order.push('stats') } })
  const { scheduler } = bench
  bench.occurrences.index.query = () => order.push('schedule')
  bench.lanes.drain = () => {
    order.push('inbox')
    return 0
  }
  const { checkHeartbeats, cleanUp } = scheduler
  scheduler.checkHeartbeats = () => {
    order.push('heartbeats')
    checkHeartbeats.call(scheduler)
  }
  scheduler.cleanUp = () => {
    order.push('cleanup')
    return cleanUp.call(scheduler)
  }
  bench.inbox.updateDepthStats = () => void order.push('depth')
  scheduler.iteration()
  assert.deepEqual(order, ['schedule', 'inbox', 'heartbeats', 'cleanup', 'stats', 'depth'])
})

test('[CS-095] messages from many senders between iterations are all handled, each once', () => {
  const bench = withRuns({ job1: 5_000 })
  let answers = 0
  for (let sender = 0; sender < 20; sender++)
    for (let i = 0; i < 50; i++)
      bench.inbox.messages.push({ type: 'get_orchestrator_state', id: bench.ids[0]!, reply: () => answers++ })
  bench.scheduler.wake()
  bench.settle()
  assert.equal(answers, 1_000)
})

test('[CS-084] stop cancels runs in PreRun, pending and running; one with a job here ends as its job does', async () => {
  const bench = withRuns({ prerun: 5_000, pending: 0, running: 0, bound: 0 })
  const [prerun, pending, running, bound] = bench.ids
  const atMs = bench.clock.wallMs()
  send(bench, { type: 'orchestrator_state_change', id: running!, status: 'running', atMs })
  bench.scheduler.arrive([chunk(7, 1)])
  bench.scheduler.bindRun(bound!, 7)
  await bench.scheduler.stop(new Deadline(bench.clock, 1_000))
  assert.deepEqual(
    [prerun, pending, running, bound].map((id) => stateOf(bench, id!).state),
    ['cancelled', 'cancelled', 'cancelled', 'queued'],
  )
})

test('the real inbox fits: what was sent is handled, and its statistics move with the loop', () => {
  const bench = schedulerBench()
  const inbox = new Inbox<Message>({ messagesMax: 10, sendTimeoutMs: 10, clock: bench.clock })
  const { scheduler, settle } = schedulerBench({ needs: { inbox } })
  let asked = 0
  for (let i = 0; i < 5; i++) inbox.trySend({ type: 'get_stats', reply: () => asked++ })
  scheduler.wake()
  settle()
  assert.equal(asked, 5)
  assert.deepEqual([inbox.stats().totalReceived, inbox.stats().currentDepth], [5, 0])
})

test('more runs than one iteration may launch follow in the next ones, each once', () => {
  const bench = schedulerBench()
  const dueMs = bench.clock.wallMs() + 1_000
  for (let i = 0; i < 25_000; i++) bench.occurrences.runs.push({ id: `job${i}`, dueMs: dueMs + Math.floor(i / 100) })
  bench.scheduler.iteration()
  assert.equal(bench.occurrences.launched.length, 10_000)
  bench.scheduler.start()
  bench.settle()
  bench.clock.advance(1)
  bench.settle()
  assert.equal(bench.occurrences.launched.length, 25_000)
  assert.equal(new Set(bench.occurrences.launched).size, 25_000)
})

test('[CS-089] overlapping runs of several schedules are all launched, and all end well', () => {
  const bench = withRuns({ a: 1_000, b: 4_000, c: 9_000 })
  for (let second = 0; second < 10; second++) {
    bench.advance(1_000, 250)
    const atMs = bench.clock.wallMs()
    for (const id of bench.ids) {
      if (stateOf(bench, id).state !== 'pending') continue
      send(bench, { type: 'orchestrator_state_change', id, status: 'running', atMs })
      send(bench, { type: 'orchestrator_complete', id, success: true, atMs, error: null })
    }
  }
  assert.deepEqual(bench.occurrences.launched, bench.ids)
  for (const id of bench.ids)
    assert.deepEqual(
      bench.occurrences.updates.filter((update) => update.runId === id).map((update) => update.status),
      ['prerun', 'pending', 'running', 'completed'],
    )
})

test('[CS-090] a run that stops beating is orphaned after as many intervals as are allowed, and that is written', () => {
  const bench = withRuns({ job1: 0 }, { settings: { missedHeartbeatsMax: 2 } })
  const [id] = bench.ids
  for (let beat = 0; beat < 3; beat++) {
    bench.advance(9_000, 500)
    send(bench, { type: 'orchestrator_heartbeat', id: id!, atMs: bench.clock.wallMs() })
  }
  assert.equal(stateOf(bench, id!).state, 'pending')
  bench.advance(30_000, 500)
  assert.equal(bench.occurrences.updates.at(-1)!.status, 'orphaned')
})

test('[CS-094] readers between and within iterations see whole states while jobs come, run and go', () => {
  const bench = withRuns({ job1: 100, job2: 5_000 })
  let seen = 0
  const kept: { states: OrchestratorState[]; asTheyWere: OrchestratorState[] }[] = []
  const reply = (states: OrchestratorState[]) => {
    if (kept.length < 50) kept.push({ states, asTheyWere: structuredClone(states) })
    for (const { state, lane, startedAtMs, id } of states) {
      if (typeof id === 'string') continue
      seen++
      assert.ok(state === 'pending' || state === 'running', `${id} is ${state}`)
      assert.equal(startedAtMs !== null, state === 'running')
      if (state === 'running') assert.ok(lane !== null)
    }
    assert.equal(new Set(states.map(({ id }) => id)).size, states.length)
  }
  for (let round = 0; round < 20; round++) {
    bench.scheduler.arrive([chunk(1 + round * 50, 50)])
    for (let reader = 0; reader < 10; reader++) bench.inbox.messages.push({ type: 'get_all_active_runs', reply })
    bench.settle()
    bench.lanes.take(0, 1)
    bench.lanes.runAll(0.5)
    bench.advance(20, 10)
  }
  assert.ok(seen > 5_000)
  assert.deepEqual(
    bench.ids.map((id) => stateOf(bench, id).state),
    ['pending', 'prerun'],
  )
  for (const { states, asTheyWere } of kept) assert.deepEqual(states, asTheyWere, 'what was read never changes')
  assert.ok(!bench.log.has('warn', 'scheduler.reply_failed'), 'an assertion failed in a reader')
})
