// What the loops tell of themselves: samples in PostgreSQL, many at a time, for a day.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../engine/base/clock.ts'
import { writeLoopSamples } from '../engine/store/loop-samples.ts'
import { withEngines } from './support/engine.ts'
import { openStore } from './support/store.ts'

test('an engine writes samples of its loop, and what is left of them when it stops', async () => {
  await withEngines(async ({ engine, client, query, until }) => {
    const one = await engine({ statsFlushRows: 1, loopIdleMs: 100 })
    await one.enqueue('echo', 1)
    const loop = await until('two samples are written', async () => {
      const [row] = await client.console.loops()
      return row && row.samples >= 2 && row
    })
    const [node] = await client.console.nodes()
    assert.equal(loop.node, node!.id)
    assert.ok(loop.p50Ms > 0 && loop.p50Ms <= loop.maxMs && loop.maxMs < 60_000, `${loop.p50Ms} ${loop.maxMs}`)
    assert.deepEqual([loop.indexSize, loop.inboxDepthMax], [0, 0])
    await one.stop()

    const two = await engine({ statsFlushRows: 10_000, statsFlushMs: 3_600_000 })
    await two.enqueue('echo', 2)
    await two.drain()
    const id = (await query<{ id: number }>('select id from millrace.node'))[0]!.id
    assert.deepEqual(await query('select 1 as x from millrace.loops where node_id = $1', [id]), [])
    await two.stop()
    const left = await query('select 1 as x from millrace.loops where node_id = $1', [id])
    assert.ok(left.length >= 1)
  })
})

test('a node whose clock is minutes off writes samples of now', async () => {
  await withEngines(async ({ engine, query, until }) => {
    await engine({
      statsFlushRows: 1,
      clock: { ...systemClock, wallMs: () => systemClock.wallMs() - 420_000 },
    })
    await until('a sample is written', async () => (await query('select 1 as x from millrace.loops')).length > 0)
    const [row] = await query<{ age: number }>(
      'select max(extract(epoch from clock_timestamp() - at))::float8 as age from millrace.loops',
    )
    assert.ok(row!.age >= 0 && row!.age < 60, `${row!.age} s old`)
  })
})

test('samples that are older than a day are forgotten, a bounded batch with each write', async () => {
  const it = await openStore()
  try {
    await it.query(`insert into millrace.loop_sample
      select clock_timestamp() - interval '25 hours' - n * interval '1 second', 1, 1, 0, 0, 0, 0 from generate_series(1, 1500) n`)
    await it.query(
      `insert into millrace.loop_sample values (clock_timestamp() - interval '23 hours', 1, 1, 0, 0, 0, 0)`,
    )
    const sample = {
      timestampMs: systemClock.wallMs(),
      durationMs: 0.25,
      activeOrchestrators: 1,
      indexSize: 2,
      inboxDepth: 3,
      messagesProcessed: 4,
    }
    for (const left of [500, 0]) {
      await writeLoopSamples(it.store, 7, systemClock.wallMs(), [sample])
      const [old] = await it.query<{ n: number }>(
        `select count(*)::int as n from millrace.loops where at < now() - interval '24 hours'`,
      )
      assert.equal(old!.n, left)
    }
    const rows = await it.query(
      `select node_id, took_ms, active_orchestrators, index_size, inbox_depth, messages_processed from millrace.loops where node_id = 7`,
    )
    assert.deepEqual(rows[0], {
      node_id: 7,
      took_ms: 0.25,
      active_orchestrators: 1,
      index_size: 2,
      inbox_depth: 3,
      messages_processed: 4,
    })
    assert.equal((await it.query('select 1 as x from millrace.loops where node_id = 1')).length, 1)
  } finally {
    await it.close()
  }
})

test('loops refuses a span that is no span', async () => {
  await withEngines(async ({ client }) => {
    for (const overMs of [0, Number.NaN, 86_400_001])
      await assert.rejects(client.console.loops(overMs), { code: 'VALIDATION' })
    assert.deepEqual(await client.console.loops(1_000), [])
  })
})
