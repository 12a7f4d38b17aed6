// How a whole engine ends: by a call, by a message to its loop, with jobs under way and outcomes in its buffers.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { OrchestratorState } from '../engine/scheduler/messages.ts'
import { withEngines } from './support/engine.ts'

test('[CS-085] a stop writes what was buffered before it returns', async () => {
  await withEngines(async ({ engine, query, until }) => {
    const one = await engine({ flushEveryMs: 60_000, flushRows: 100_000 }) // nothing is written unless the stop does it
    await one.enqueueMany(
      'echo',
      Array.from({ length: 300 }, (_, at) => at),
    )
    await until('all have run', async () => one.stats().completed === 300)
    const written = async () =>
      Number(
        (await query<{ n: string }>(`select count(*) as n from millrace.attempts where outcome = 'completed'`))[0]!.n,
      )
    assert.equal(await written(), 0)
    const report = await one.stop()
    assert.equal(report.outboxed, 0)
    assert.equal(await written(), 300)
    assert.deepEqual(await query('select 1 as x from millrace.lease'), [])
  })
})

test('[CS-086] after a stop the index of schedules is not built any more', async () => {
  await withEngines(async ({ engine, client, query }) => {
    const one = await engine()
    await client.schedules.create({ id: 'every-second', task: 'echo', cron: '* * * * * *' })
    await one.stop()
    const occurrences = async () => (await query('select 1 as x from millrace.occurrence')).length
    const before = await occurrences()
    await new Promise((resolve) => setTimeout(resolve, 2_500)) // two due times pass; nobody is there
    assert.equal(await occurrences(), before)
  })
})

test('[CS-063] [CS-087] the message "shutdown" stops the whole engine', async () => {
  await withEngines(async ({ engine, query }) => {
    const one = await engine()
    await one.enqueueMany('echo', [1, 2, 3])
    assert.equal(await one.inbox.send({ type: 'shutdown' }), true)
    await one.stopped
    assert.deepEqual(await query('select 1 as x from millrace.node'), [], 'it has left')
    assert.deepEqual(await query('select 1 as x from millrace.lease'), [])
    await assert.rejects(one.enqueue('echo', 4), { code: 'STOPPING' })
  })
})

test('a stop in the middle of running jobs ends or gives back every one and leaves nothing behind', async () => {
  await withEngines(async ({ engine, query, until }) => {
    const one = await engine({ threads: 2 })
    await one.enqueueMany(
      'wait',
      Array.from({ length: 10 }, () => 600_000),
      { timeoutMs: 0 },
    )
    await until('some run', async () => one.stats().running > 0)
    const report = await one.stop(1_000)
    assert.equal(report.outboxed, 0)
    const states = await query<{ state: string; attempt: number }>('select state, attempt from millrace.jobs')
    assert.equal(states.length, 10)
    assert.ok(
      states.every(({ state, attempt }) => state === 'queued' && attempt === 1),
      JSON.stringify(states),
    )
    for (const table of ['lease', 'running', 'node'])
      assert.deepEqual(await query(`select 1 as x from millrace.${table}`), [])
  })
})

test('the loop answers messages with copies, in order', async () => {
  await withEngines(async ({ engine, until }) => {
    const one = await engine()
    const { id } = await one.enqueue('wait', 600_000, { timeoutMs: 0 })
    await until('it runs', async () => one.stats().running === 1)
    const all = await new Promise<OrchestratorState[]>((reply) => {
      assert.ok(one.inbox.trySend({ type: 'get_all_active_runs', reply }))
    })
    assert.deepEqual(
      all.map((state) => [state.id, state.state]),
      [[id, 'running']],
    )
    one.inbox.trySend({ type: 'cancel_run', id, reason: 'by message' })
    await until('it is cancelled', async () => (await one.console.job(id))?.state === 'cancelled')
    assert.equal(one.inbox.stats().totalReceived, 2)
  })
})
