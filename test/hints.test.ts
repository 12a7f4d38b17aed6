// Hints between engines: whoever enqueues tells his own process directly and all others by NOTIFY. He does not act on
// what he said himself, and nobody else overhears anything.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EngineError } from '../engine/base/errors.ts'
import { Enqueuer } from '../engine/enqueuer/enqueuer.ts'
import { withEngines } from './support/engine.ts'
import { ManualClock } from './support/manual-clock.ts'

/** Polls come too late for every wait of a test. */
const DEAF = { pollMs: 120_000, pollMaxMs: 120_000 }

test('a job that its own engine enqueues costs one claim, and not another for its own hint', () =>
  withEngines(async ({ engine, query, schema, until }) => {
    const made = await engine(DEAF)
    await until('it listens', async () => (await query(listening(schema))).length === 1)
    await made.enqueue('echo', 0)
    await made.drain()
    const jobs = 50
    const before = made.stats()
    for (let job = 1; job <= jobs; job++) {
      await made.enqueue('echo', job)
      await until('it has run', async () => made.stats().completed === before.completed + job)
    }
    // hints keep their order: when this one was heard, so were all before it
    const claims = made.stats().claims
    await query(`select pg_notify('millrace_${schema}', 'q1@another')`)
    await until('it has heard somebody else', async () => made.stats().claims > claims)
    const spent = made.stats().claims - before.claims
    assert.ok(spent <= jobs + 5, `${spent} claims for ${jobs} jobs`)
  }))

test('everybody else is heard at once: clients of the same process, callers with a transaction, other engines, SQL', () =>
  withEngines(async ({ engine, another, connection, query, schema, inState, until }) => {
    const made = await engine({ ...DEAF, queues: ['default'] })
    const other = await engine({ ...DEAF, queues: ['none'] })
    await until('both listen', async () => (await query(listening(schema))).length === 2)
    for (let turn = 0; turn < 3; turn++) {
      await inState((await another().enqueue('echo', 1)).id, 'completed')
      await inState((await other.enqueue('echo', 2)).id, 'completed')
      await inState((await made.enqueue('echo', 3)).id, 'completed')
      const many = await made.enqueueMany('echo', [4, 5], { queue: 'default' })
      await inState(many.ids[0]!.first, 'completed')

      const client = await connection()
      await client.query('begin')
      const { id } = await made.enqueue('echo', 6, { client })
      await client.query('commit')
      await inState(id, 'completed')
      const [row] = await query<{ id: number }>(`select millrace.enqueue('echo', '7')::float8 as id`)
      await inState(row!.id, 'completed')

      await inState((await other.enqueue('echo', 8, { delayMs: 20 })).id, 'completed')
      await inState((await made.enqueue('echo', 9, { delayMs: 20 })).id, 'completed')
    }
  }))

test('an enqueue that fails may have been written: its own engine looks, as it does not hear its own hint', async () => {
  const told: (readonly number[])[] = []
  const store = {
    ...STORE,
    enqueue: async () => {
      throw new EngineError('STORE_UNREACHABLE', 'the answer was lost')
    },
  }
  const needs = {
    clock: new ManualClock(),
    store,
    defaultsOf: () => undefined,
    onEnqueued: (ids: readonly number[]) => void told.push(ids),
  }
  const enqueuer = new Enqueuer(needs, { payloadBytesMax: 1_000, enqueueTimeoutMs: 0 })
  await assert.rejects(enqueuer.enqueue('echo', 1), { code: 'STORE_UNREACHABLE' })
  assert.deepEqual(told, [[7]])
})

/** A store that takes everything. */
const STORE = {
  schema: 's',
  knownQueueId: () => 7,
  knownTaskId: () => 3,
  queueIds: async () => [7],
  taskIds: async () => [3],
  reserveBlocks: async (count: number) => Array.from({ length: count }, (_, at) => 1 + at * 1_000),
  enqueue: async () => [],
  copyChunks: async () => [],
  existing: async () => [],
  publishedTasks: async () => new Map(),
  notify: async () => {},
}

function listening(schema: string): string {
  return `select from pg_stat_activity where query = 'listen "millrace_${schema}"'`
}

test('a job that was delayed by so little that it is due when it arrives is told as one that is ready', async () => {
  const told: [readonly number[], number | null][] = []
  const clock = new ManualClock()
  const needs = {
    clock,
    store: STORE,
    defaultsOf: () => undefined,
    onEnqueued: (ids: readonly number[], dueAtMs: number | null) => void told.push([ids, dueAtMs]),
  }
  const enqueuer = new Enqueuer(needs, { payloadBytesMax: 1_000, enqueueTimeoutMs: 0 })
  const nowMs = clock.wallMs()
  await enqueuer.enqueue('echo', 1, { delayMs: 20 })
  await enqueuer.enqueue('echo', 1, { delayMs: 20_000 })
  assert.deepEqual(told, [
    [[7], nowMs + 20],
    [[], nowMs + 20_000],
  ])
})
