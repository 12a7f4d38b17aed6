// Groups through the public API: at most one job of a group is held by anyone, in order, until it has ended or given
// up; groups do not wait for each other.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type EngineBundle, withEngines } from './support/engine.ts'

interface Span {
  from: number
  to: number
  turn: number
  threadId: number
}

/** When each of these jobs ran, in the order of the ids. Waits for all of them. */
async function spansOf({ inState }: EngineBundle, ids: readonly number[]): Promise<Span[]> {
  const spans: Span[] = []
  for (const id of ids) spans.push((await inState(id, 'completed')).result as Span)
  return spans
}

function assertOneByOne(spans: readonly Span[], what = 'group'): void {
  for (let at = 1; at < spans.length; at++)
    assert.ok(spans[at]!.from >= spans[at - 1]!.to, `${what}: ${at} began before the one before it had ended`)
}

async function put({ client }: EngineBundle, group: string, count: number, options = {}): Promise<number[]> {
  const ids: number[] = []
  for (let at = 0; at < count; at++) ids.push((await client.enqueue('span', {}, { group, ...options })).id)
  return ids
}

test('[TM-097] jobs of a group run in the order in which they were enqueued, one by one', async () => {
  await withEngines(async (bundle) => {
    const ids = await put(bundle, 'a', 5)
    await bundle.engine({ threads: 2 })
    assertOneByOne(await spansOf(bundle, ids))
    assertOneByOne(await spansOf(bundle, await put(bundle, 'a', 5)))
  })
})

test('[TM-098] groups keep their own order and do not wait for each other', async () => {
  await withEngines(async (bundle) => {
    const { client, engine, inState, until } = bundle
    const worker = await engine({ threads: 2 })
    const stuck = await client.enqueue('wait', 1, { group: 'a' })
    const behind = await put(bundle, 'a', 2)
    const ids = await put(bundle, 'b', 5)
    assertOneByOne(await spansOf(bundle, ids))
    await until('the first is held', async () => worker.stats().running === 1)
    assert.equal((await client.console.job(behind[0]!))!.state, 'blocked')
    const [queue] = await client.console.queues()
    assert.deepEqual([queue!.blocked, queue!.inFlight, queue!.available], [2, 1, 0])
    await client.console.cancel(stuck.id)
    await inState(stuck.id, 'cancelled')
    assertOneByOne(await spansOf(bundle, behind))
  })
})

test('[TM-099] three engines and many groups: no two jobs of a group overlap, and all run in order', async () => {
  await withEngines(async (bundle) => {
    for (let at = 0; at < 3; at++) await bundle.engine({ threads: 2 })
    const groups = ['a', 'b', 'c', 'd', 'e']
    const items = Array.from({ length: 100 }, (_, at) => ({
      task: 'span',
      payload: { ms: 1, failures: at % 10 === 3 ? 1 : 0 },
      options: { group: groups[at % 5]! },
    }))
    const { ids } = await bundle.client.enqueueMany(items)
    const all = ids.flatMap(({ first, count }) => Array.from({ length: count }, (_, at) => first + at))
    const spans = await spansOf(bundle, all)
    for (const [no, group] of groups.entries())
      assertOneByOne(
        spans.filter((_, at) => at % 5 === no),
        group,
      )
  })
})

test('[TM-100] the second job of a group may be claimed when the first has ended, not before', async () => {
  await withEngines(async (bundle) => {
    const { client, engine, inState, until } = bundle
    const first = await client.enqueue('wait', 1, { group: 'g' })
    const second = await client.enqueue('echo', 2, { group: 'g' })
    await engine()
    await until('the first is held', async () => (await client.console.job(first.id))!.state !== 'queued')
    assert.equal((await client.console.job(second.id))!.state, 'blocked')
    await client.console.cancel(first.id)
    await inState(first.id, 'cancelled')
    await inState(second.id, 'completed')
  })
})

test('[TM-101] a job that fails keeps its turn while it waits for its retry, and gives it up when it dies', async () => {
  await withEngines(async (bundle) => {
    const { client, engine, inState, query } = bundle
    await engine()
    const retrying = await client.enqueue('careful', 1, { queue: 'default', group: 'g', maxAttempts: 2 })
    const next = await client.enqueue('echo', 2, { group: 'g' })
    await inState(retrying.id, 'retrying')
    assert.equal((await client.console.job(next.id))!.state, 'blocked')
    await query('update millrace.scheduled set run_at = now()')
    await query(`select pg_notify('millrace_${bundle.schema}', 's')`)
    await inState(retrying.id, 'failed')
    await inState(next.id, 'completed')
    const flaky = await client.enqueue('flaky', { failures: 2 }, { group: 'g' })
    const last = await client.enqueue('count', null, { group: 'g' })
    const done = await inState(flaky.id, 'completed')
    assert.deepEqual(done.result, { attempt: 3, run: 3 })
    const after = await inState(last.id, 'completed')
    assert.ok(after.startedAt! >= done.finishedAt!)
  })
})

test('[TM-033] [TM-102] an engine for one group runs only that group; one without runs all', async () => {
  await withEngines(async (bundle) => {
    const { client, engine, inState } = bundle
    const worker = await engine({ onlyGroup: 'a' })
    const a = await put(bundle, 'a', 3)
    const b = await put(bundle, 'b', 2)
    const none = await client.enqueue('echo', 1)
    assertOneByOne(await spansOf(bundle, a))
    await worker.drain()
    for (const id of [...b, none.id]) assert.equal((await client.console.job(id))!.attempt, 1)
    assert.equal((await client.console.job(none.id))!.state, 'queued')
    assert.equal((await client.console.job(b[0]!))!.state, 'queued')
    assert.equal((await client.console.job(b[1]!))!.state, 'blocked')
    await engine()
    assertOneByOne(await spansOf(bundle, b))
    await inState(none.id, 'completed')
  })
})

test('[TM-103] within a group the higher priority comes first', async () => {
  await withEngines(async (bundle) => {
    const ids = new Map<number, number>()
    for (const priority of [0, -10, 90, 5, 90])
      ids.set(
        ids.has(priority) ? priority + 0.5 : priority,
        (await bundle.client.enqueue('span', {}, { group: 'g', priority })).id,
      )
    await bundle.engine({ threads: 2 })
    assertOneByOne(
      await spansOf(
        bundle,
        [90, 90.5, 5, 0, -10].map((key) => ids.get(key)!),
      ),
    )
  })
})

test('a later job of a group lets others pass until it is due', async () => {
  await withEngines(async (bundle) => {
    await bundle.engine()
    const later = await bundle.client.enqueue('echo', 1, { group: 'g', delayMs: 3_600_000 })
    const now = await bundle.client.enqueue('echo', 2, { group: 'g' })
    await bundle.inState(now.id, 'completed')
    assert.equal((await bundle.client.console.job(later.id))!.state, 'scheduled')
  })
})

test('groups of the same name in two queues are two groups', async () => {
  await withEngines(async (bundle) => {
    const { client, engine, inState, until } = bundle
    const worker = await engine()
    const held = await client.enqueue('wait', 1, { group: 'g', queue: 'one' })
    await until('it is held', async () => worker.stats().running === 1)
    const other = await client.enqueue('wait', 1, { group: 'g', queue: 'two' })
    await until('both are held', async () => worker.stats().running === 2)
    for (const { id } of [held, other]) {
      await client.console.cancel(id)
      await inState(id, 'cancelled')
    }
  })
})

test('a task may limit itself: so many of its jobs run at a time on all engines together, the others wait', async () => {
  await withEngines(async (bundle) => {
    for (let at = 0; at < 2; at++) await bundle.engine()
    const { ids } = await bundle.client.enqueueMany(
      'pair',
      Array.from({ length: 12 }, (_, at) => ({ ms: 15, failures: at % 4 === 0 ? 1 : 0 })),
      { group: 'pairs', groupLimit: 2, retry: { kind: 'fixed', delayMs: 0 } },
    )
    const engine = await bundle.engine({ threads: 2 })
    const later = await engine.enqueue('pair', { ms: 15 }) // here the task's own words count
    const all = ids.flatMap(({ first, count }) => Array.from({ length: count }, (_, at) => first + at))
    const spans = (await spansOf(bundle, [...all, later.id])).sort((a, b) => a.from - b.from)
    let together = 0
    for (const { from } of spans) {
      const running = spans.filter((other) => other.from <= from && other.to > from).length
      assert.ok(running <= 2, `${running} of them ran at once`)
      together = Math.max(together, running)
    }
    assert.equal(together, 2)
    const [row] = await bundle.query('select group_key, group_limit, retry_skips from millrace.job where id = $1', [
      later.id,
    ])
    assert.deepEqual(row, { group_key: 'pairs', group_limit: 2, retry_skips: true })
  })
})
