// What a node says of the occurrences that it has in memory, through the syncer and into PostgreSQL; and that a run which
// waits for its time takes what its schedule says by then.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../engine/base/clock.ts'
import { Deadline } from '../engine/base/lifecycle.ts'
import { silentLog } from '../engine/base/log.ts'
import { generateRunId } from '../engine/schedule/run-id.ts'
import type { OrchestratorState } from '../engine/scheduler/messages.ts'
import type { SchedulerStats } from '../engine/scheduler/stats.ts'
import { writeOccurrenceStates } from '../engine/store/occurrence-states.ts'
import type { OccurrenceState } from '../engine/store/types.ts'
import { Syncer, type SyncerOptions } from '../engine/syncer/syncer.ts'
import { type EngineBundle, withEngines } from './support/engine.ts'
import { schedulerBench } from './support/scheduler-fakes.ts'
import { openStore } from './support/store.ts'

const MINUTE = 60_000
const NOWHERE = { put: async () => {}, putDead: async () => {} }

/** Cron of a moment so far ahead, and the moment. */
async function cronIn({ query }: EngineBundle, aheadMs: number): Promise<{ cron: string; atMs: number }> {
  const [row] = await query<{ ms: number }>('select extract(epoch from clock_timestamp())::float8 * 1000 as ms')
  const atMs = Math.ceil((row!.ms + aheadMs) / 1_000) * 1_000
  const at = new Date(atMs)
  return { cron: `${at.getUTCSeconds()} ${at.getUTCMinutes()} ${at.getUTCHours()} * * *`, atMs }
}

const statesOf = ({ query }: EngineBundle) =>
  query<{ schedule_id: string; state: string; error: string | null; early: boolean }>(
    `select schedule_id, state, error, at < scheduled_at as early from millrace.occurrence_states order by schedule_id`,
  )

test(
  '[CS-036] [CS-049] an engine that starts has its index from PostgreSQL; five runs that it launches are written as prerun, each once',
  {
    timeout: MINUTE,
  },
  () =>
    withEngines(async (bundle) => {
      const { client, engine, query, until } = bundle
      const { cron } = await cronIn(bundle, 30_000)
      const ids = ['a', 'b', 'c', 'd', 'e']
      for (const id of ids) await client.schedules.create({ id, task: 'echo', cron })
      const one = await engine({ preScheduleMs: 60_000 })
      const stats = await new Promise<SchedulerStats>((reply) => {
        assert.ok(one.inbox.trySend({ type: 'get_stats', reply }))
      })
      assert.equal(stats.indexSize, 5)
      await until('they are written', async () => (await statesOf(bundle)).length === 5)
      assert.deepEqual(
        await statesOf(bundle),
        ids.map((id) => ({ schedule_id: id, state: 'prerun', error: null, early: true })),
      )
      const all = await new Promise<OrchestratorState[]>((reply) => {
        assert.ok(one.inbox.trySend({ type: 'get_all_active_runs', reply }))
      })
      assert.deepEqual(
        all.map(({ state }) => state),
        Array(5).fill('prerun'),
      )
      const [node] = await query<{ id: number }>('select id from millrace.node')
      assert.deepEqual(await query('select distinct node_id from millrace.occurrence_states'), [{ node_id: node!.id }])
    }),
)

test(
  '[CS-093] a stop with ten runs in PreRun cancels them all, writes that, and leaves nothing behind',
  {
    timeout: MINUTE,
  },
  () =>
    withEngines(async (bundle) => {
      const { client, engine, query } = bundle
      const { cron } = await cronIn(bundle, 30_000)
      for (let n = 0; n < 10; n++) await client.schedules.create({ id: `job${n}`, task: 'echo', cron })
      const one = await engine({ preScheduleMs: 60_000 })
      const all = await new Promise<OrchestratorState[]>((reply) => {
        assert.ok(one.inbox.trySend({ type: 'get_all_active_runs', reply }))
      })
      assert.equal(all.length, 10)
      await one.stop()
      const states = await statesOf(bundle)
      assert.equal(states.length, 10)
      for (const { state, error } of states) assert.deepEqual([state, error], ['cancelled', 'the engine stops'])
      for (const table of ['node', 'lease', 'occurrence', 'job'])
        assert.deepEqual(await query(`select 1 as x from millrace.${table}`), [], table)
    }),
)

test(
  '[CS-053] a message moves a run to pending, and that is written; at its time it runs and is written as completed',
  {
    timeout: MINUTE,
  },
  () =>
    withEngines(async (bundle) => {
      const { client, engine, until } = bundle
      const { cron, atMs } = await cronIn(bundle, 8_000)
      await client.schedules.create({ id: 'job', task: 'echo', cron })
      const one = await engine({ preScheduleMs: 20_000 })
      const state = async () => (await statesOf(bundle))[0]
      await until('it waits', async () => (await state())?.state === 'prerun')
      one.inbox.trySend({
        type: 'orchestrator_state_change',
        id: generateRunId('job', atMs),
        status: 'pending',
        atMs: systemClock.wallMs(),
      })
      const pending = await until('it is pending', async () => {
        const now = await state()
        return now?.state !== 'prerun' && now
      })
      assert.deepEqual(pending, { schedule_id: 'job', state: 'pending', error: null, early: true })
      await until('it is completed', async () => (await state())?.state === 'completed')
      assert.equal((await client.schedules.history('job')).length, 1)
    }),
)

test(
  '[CS-058] [CS-077] a run in PreRun takes what its schedule says by then, goes on waiting, and its job runs with that, at its time',
  {
    timeout: MINUTE,
  },
  () =>
    withEngines(async (bundle) => {
      const { client, engine, query, until } = bundle
      const { cron, atMs } = await cronIn(bundle, 6_000)
      await client.schedules.create({ id: 'job', task: 'echo', cron, payload: 'old' })
      const one = await engine({ preScheduleMs: 20_000 })
      const id = generateRunId('job', atMs)
      const now = () =>
        new Promise<OrchestratorState | null>((reply) => {
          assert.ok(one.inbox.trySend({ type: 'get_orchestrator_state', id, reply }))
        })
      assert.equal((await until('it waits', now)).config, null)
      await client.schedules.update('job', { payload: 'new' })
      const told = await until('it has been told', async () => {
        const state = await now()
        return state !== null && state.config !== null && state
      })
      assert.equal(told.state, 'prerun', 'it waits for its time as before')
      const [row] = await query<{ changed: string }>('select changed from millrace.schedule')
      assert.equal((told.config as { changed: number }).changed, Number(row!.changed))
      const [job] = await until('its job has ended', async () => {
        const jobs = await query<{ payload: string; state: string; started: number }>(
          `select payload #>> '{}' as payload, state, extract(epoch from started_at)::float8 * 1000 as started from millrace.jobs`,
        )
        return jobs.length > 0 && jobs.every(({ state }) => state === 'completed' || state === 'cancelled') && jobs
      }).then((jobs) => jobs.filter(({ state }) => state === 'completed'))
      assert.equal(job!.payload, 'new')
      assert.ok(job!.started >= atMs, 'not before its time')
    }),
)

/** The loop on fakes, and its updates through a syncer of its own. */
async function throughSyncer(
  options: Partial<SyncerOptions>,
  writeOccurrences: (rows: readonly OccurrenceState[]) => Promise<void>,
) {
  const needs = {
    flush: async () => ({ staleLeases: [], alreadyDone: false }),
    writeStats: async () => {},
    nodeId: () => 1,
  }
  const syncer = new Syncer({ ...needs, writeOccurrences }, NOWHERE, options, systemClock, silentLog)
  await syncer.start()
  const bench = schedulerBench({ settings: { missedHeartbeatsMax: 5 } })
  bench.occurrences.update = (update) => syncer.recordOccurrence(update)
  return { bench, syncer }
}

test('[CS-066] a run that is given up is written as orphaned, with its reason', { timeout: MINUTE }, async () => {
  const { store, query, join, close } = await openStore()
  try {
    const nodeId = await join()
    const { bench, syncer } = await throughSyncer({}, (rows) =>
      writeOccurrenceStates(store, nodeId, bench.clock.wallMs(), rows),
    )
    const dueMs = bench.clock.wallMs()
    bench.occurrences.runs.push({ id: 'job', dueMs })
    bench.scheduler.start()
    bench.settle()
    bench.advance(49_000, 500)
    const state = bench.scheduler.getState(generateRunId('job', dueMs))!
    assert.deepEqual([state.state, state.missedHeartbeats], ['pending', 4])
    bench.occurrences.runs.length = 0
    bench.advance(2_000, 500)
    assert.ok(bench.log.has('error', 'marking orchestrator as orphaned'))
    await syncer.finish(new Deadline(systemClock, 20_000))
    assert.deepEqual(await query('select schedule_id, state, error from millrace.occurrence_states'), [
      { schedule_id: 'job', state: 'orphaned', error: 'orchestrator orphaned after 5 missed heartbeats' },
    ])
    assert.deepEqual([syncer.stats().occurrencesWritten, syncer.stats().occurrencesLost], [1, 0])
  } finally {
    await close()
  }
})

test('[CS-050] states that nobody takes fill the buffer of the syncer; over its limit the loop stops and says so, once', {
  timeout: MINUTE,
}, async () => {
  const away = new AbortController()
  const { bench, syncer } = await throughSyncer(
    { updatesBufferedMax: 4, flushRows: 1, flushRowsMax: 1, channelRowsMax: 1 },
    () => new Promise((resolve) => away.signal.addEventListener('abort', () => resolve())),
  )
  for (let n = 0; n < 20; n++) bench.occurrences.runs.push({ id: `job${n}`, dueMs: bench.clock.wallMs() + 1_000 })
  bench.scheduler.start()
  bench.settle()
  bench.advance(3_000, 500)
  assert.deepEqual(bench.shutdowns, ['scheduler stopping due to buffer overflow'])
  assert.ok(bench.log.has('error', 'scheduler stopping due to buffer overflow'))
  assert.equal(bench.scheduler.wanted(), 0)
  away.abort()
  await syncer.finish(new Deadline(systemClock, 100))
})

test('before that limit no run is taken into memory, and they follow when there is room again', async () => {
  const bench = schedulerBench()
  let hasRoom = false
  Object.assign(bench.occurrences, { hasRoom: () => hasRoom })
  bench.occurrences.runs.push({ id: 'job', dueMs: bench.clock.wallMs() + 5_000 })
  bench.scheduler.start()
  bench.settle()
  bench.advance(1_000, 100)
  assert.deepEqual([bench.occurrences.launched.length, bench.shutdowns.length], [0, 0])
  hasRoom = true
  bench.advance(2_000, 100)
  assert.equal(bench.occurrences.launched.length, 1)
})

test('states are written again after a failure that passes; what PostgreSQL refuses is counted as lost', async () => {
  const { store, query, join, close } = await openStore()
  try {
    const nodeId = await join()
    let failures = 2
    const needs = {
      flush: async () => ({ staleLeases: [], alreadyDone: false }),
      writeStats: async () => {},
      nodeId: () => nodeId,
      writeOccurrences: async (rows: readonly OccurrenceState[]) => {
        await writeOccurrenceStates(store, nodeId, systemClock.wallMs(), rows)
        if (failures-- > 0) await store.ask(`do $$ begin raise exception 'passes' using errcode = '40001'; end $$`)
      },
    }
    const syncer = new Syncer(needs, NOWHERE, { retryMs: 1, occurrencesFlushMs: 1 }, systemClock, silentLog)
    await syncer.start()
    const base = { scheduledAtMs: systemClock.wallMs(), atMs: systemClock.wallMs(), error: null, runId: 'a:1' }
    syncer.recordOccurrence({ ...base, scheduleId: 'a', status: 'prerun' })
    syncer.recordOccurrence({ ...base, scheduleId: 'a', status: 'pending' })
    const deadline = new Deadline(systemClock, 20_000)
    while (syncer.stats().occurrencesWritten === 0 && deadline.leftMs() > 0) await systemClock.sleep(5)
    assert.deepEqual(await query('select schedule_id, state from millrace.occurrence_states'), [
      { schedule_id: 'a', state: 'pending' },
    ])
    syncer.recordOccurrence({ ...base, scheduleId: 'b\0', status: 'prerun' })
    await syncer.finish(deadline)
    assert.deepEqual([syncer.stats().occurrencesWritten, syncer.stats().occurrencesLost], [1, 1])
  } finally {
    await close()
  }
})
