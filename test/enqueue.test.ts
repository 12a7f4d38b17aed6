// Taking jobs in, through the public API and through SQL: what is stored, what is refused before anything is written,
// keys, transactions, and how many transactions many calls cost.

import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { test } from 'node:test'
import {
  type Context,
  context,
  createTraceState,
  INVALID_SPAN_CONTEXT,
  ROOT_CONTEXT,
  TraceFlags,
  trace,
} from '@opentelemetry/api'
import type { EnqueueOptions, Json } from '../engine/index.ts'
import { codeFrom, type EngineBundle, withEngines } from './support/engine.ts'

const HOUR = 3_600_000

interface JobRecord extends Record<string, unknown> {
  id: number
  task: string
  queue: string
  state: string
  priority: number
  max_attempts: number
  payload: unknown
}

/** Every job as the public view shows it, by id. */
async function stored({ query }: EngineBundle): Promise<JobRecord[]> {
  return await query<JobRecord>('select *, id::float8 as id from millrace.jobs order by jobs.id')
}

test('[TM-001] a job with a payload gets an id above 0 and stands in the database as given', async () => {
  await withEngines(async (bundle) => {
    const { id, duplicate } = await bundle.client.enqueue('mail', { to: 'a@example.org', copies: 2 })
    assert.ok(Number.isSafeInteger(id) && id > 0)
    assert.equal(duplicate, false)
    const [job, ...others] = await stored(bundle)
    assert.equal(others.length, 0)
    assert.equal(job!.id, id)
    assert.equal(job!.task, 'mail')
    assert.equal(job!.queue, 'default')
    assert.equal(job!.state, 'queued')
    assert.deepEqual(job!.payload, { to: 'a@example.org', copies: 2 })
  })
})

test('[TM-002] every option is stored as given', async () => {
  await withEngines(async (bundle) => {
    const runAt = new Date(Date.now() + HOUR)
    const expiresAt = new Date(Date.now() + 2 * HOUR)
    const retry = { kind: 'fixed', delayMs: 250, jitter: 0.5 } as const
    await bundle.client.enqueue('mail', 1, {
      queue: 'slow',
      priority: 50,
      maxAttempts: 5,
      runAt,
      expiresAt,
      timeoutMs: 1_234,
      retry,
      group: 'customer 7',
      groupLimit: 3,
      onRetry: 'skip',
      idempotencyKey: 'invoice 9',
      ephemeral: true,
      meta: { label: 'x' },
    })
    const [job] = await stored(bundle)
    assert.equal(job!.state, 'scheduled')
    assert.equal(job!.queue, 'slow')
    assert.equal(job!.priority, 50)
    assert.equal(job!.max_attempts, 5)
    assert.equal((job!.run_at as Date).getTime(), runAt.getTime())
    assert.equal((job!.expires_at as Date).getTime(), expiresAt.getTime())
    assert.equal(job!.timeout_ms, 1_234)
    assert.equal(job!.group_key, 'customer 7')
    assert.equal(job!.idempotency_key, 'invoice 9')
    assert.equal(job!.ephemeral, true)
    assert.deepEqual(job!.meta, { label: 'x' })
    const [row] = await bundle.query('select retry::text as retry, group_limit, retry_skips from millrace.job')
    assert.deepEqual([row!.group_limit, row!.retry_skips], [3, true])
    assert.deepEqual(JSON.parse(row!.retry as string), retry)
  })
})

test('[TM-003] without options: priority 0, three attempts, due now, and no job is the duplicate of another', async () => {
  await withEngines(async (bundle) => {
    const first = await bundle.client.enqueue('mail', 1)
    const second = await bundle.client.enqueue('mail', 1)
    assert.notEqual(first.id, second.id)
    for (const job of await stored(bundle)) {
      assert.equal(job.priority, 0)
      assert.equal(job.max_attempts, 3)
      assert.equal(job.state, 'queued')
      assert.equal(job.run_at, null)
      assert.equal(job.expires_at, null)
    }
  })
})

test('[TM-004] [TM-112] null, and no payload at all, are stored as null', async () => {
  await withEngines(async (bundle) => {
    await bundle.client.enqueue('mail', null)
    await bundle.client.enqueue('mail', undefined)
    const rows = await bundle.query('select payload::text as payload from millrace.job order by id')
    assert.deepEqual(rows, [{ payload: 'null' }, { payload: 'null' }])
  })
})

test('[TM-005] [TM-113] an object of a class, and an empty one, are stored as their JSON', async () => {
  class Order {
    readonly at = new Date(0)
    readonly #secret = 1
    readonly lines: readonly number[]
    constructor(lines: readonly number[]) {
      this.lines = lines
    }
    sum() {
      return this.lines.length + this.#secret
    }
  }
  await withEngines(async (bundle) => {
    await bundle.client.enqueue('order', new Order([1, 2]))
    await bundle.client.enqueue('order', {})
    const [order, empty] = await stored(bundle)
    assert.deepEqual(order!.payload, { at: '1970-01-01T00:00:00.000Z', lines: [1, 2] })
    assert.deepEqual(empty!.payload, {})
  })
})

test('[TM-007] a batch answers the id of each job in order', async () => {
  await withEngines(async (bundle) => {
    const { count, ids } = await bundle.client.enqueueMany('mail', ['a', 'b', 'c'])
    assert.equal(count, 3)
    const all = ids.flatMap(({ first, count: length }) => Array.from({ length }, (_, at) => first + at))
    const jobs = await stored(bundle)
    assert.deepEqual(
      jobs.map(({ id, payload }) => [id, payload]),
      [
        [all[0], 'a'],
        [all[1], 'b'],
        [all[2], 'c'],
      ],
    )
  })
})

test('[TM-008] an empty batch is answered with nothing', async () => {
  await withEngines(async ({ client, count }) => {
    assert.deepEqual(await client.enqueueMany('mail', []), { count: 0, ids: [] })
    assert.deepEqual(await client.enqueueMany([]), { count: 0, ids: [] })
    assert.equal(await count('job', 'ready'), 0)
  })
})

/** Items of many kinds, and what must be stored of each. */
function mixedItems(count: number): { task: string; payload: number; options: EnqueueOptions }[] {
  return Array.from({ length: count }, (_, at) => ({
    task: at % 7 === 0 ? 'other' : 'mail',
    payload: at,
    options: {
      priority: (at % 3) * 10,
      maxAttempts: 1 + (at % 4),
      ...(at % 5 === 0 ? { delayMs: HOUR } : {}),
      ...(at % 6 === 0 ? { group: `g${at % 12}` } : {}),
      ...(at % 10 === 0 ? { idempotencyKey: `k${at}` } : {}),
      ...(at % 11 === 0 ? { queue: 'side', meta: { at } } : {}),
    },
  }))
}

for (const [size, by] of [
  [40, 'one statement'],
  [1_500, 'COPY'],
] as const) {
  test(`[TM-009] each job of a batch of ${size} (by ${by}) has its own options`, async () => {
    await withEngines(async (bundle) => {
      const items = mixedItems(size)
      assert.equal((await bundle.client.enqueueMany(items)).count, size)
      const jobs = await stored(bundle)
      assert.equal(jobs.length, size)
      for (const [at, job] of jobs.entries()) {
        const { task, options } = items[at]!
        assert.equal(job.payload, at)
        assert.equal(job.task, task)
        assert.equal(job.queue, options.queue ?? 'default')
        assert.equal(job.priority, options.priority)
        assert.equal(job.max_attempts, options.maxAttempts)
        assert.equal(job.group_key, options.group ?? null)
        assert.equal(job.idempotency_key, options.idempotencyKey ?? null)
        assert.deepEqual(job.meta, options.meta ?? null)
        if (options.delayMs) assert.ok(job.state === 'scheduled' || job.state === 'blocked', `${at} is ${job.state}`)
      }
    })
  })
}

/** What two neighbours in a batch may differ in, one at a time. */
const DIFFERENCES: readonly EnqueueOptions[] = [
  { queue: 'side' },
  { priority: 1 },
  { maxAttempts: 4 },
  { timeoutMs: 77 },
  { delayMs: HOUR },
  { expiresAt: Date.now() + HOUR },
  { retry: { kind: 'none' } },
  { ephemeral: true },
  { meta: { a: 1 } },
  { group: 'g' },
  { idempotencyKey: 'k' },
]

test('[TM-009] neighbours in a batch that differ in one option alone keep it each', async () => {
  await withEngines(async (bundle) => {
    const items = DIFFERENCES.flatMap((options) => [{}, options]).map((options, payload) => ({
      task: 'mail',
      payload,
      options,
    }))
    await bundle.client.enqueueMany(items)
    const kinds = await bundle.query(
      `select q.name <> 'default' as queue, j.priority <> 0 as priority, j.max_attempts <> 3 as "maxAttempts", j.timeout_ms is not null as "timeoutMs",
         j.run_at is not null as "delayMs", j.expires_at is not null as "expiresAt", j.retry is not null as retry, j.ephemeral,
         j.meta is not null as meta, j.group_key is not null as group, j.key is not null as "idempotencyKey"
       from millrace.job j join millrace.queue q on q.id = j.queue_id order by j.id`,
    )
    assert.deepEqual(
      kinds.map((row) => Object.keys(row).filter((name) => row[name])),
      items.map(({ options }) => Object.keys(options)),
    )
  })
})

test('jobs that share everything become chunks of up to 1,000; others stand for themselves', async () => {
  await withEngines(async ({ client, query }) => {
    await client.enqueueMany('mail', Array.from({ length: 2_500 }, String))
    const chunks = await query('select count from millrace.ready order by seq')
    assert.deepEqual(
      chunks.map((row) => row.count),
      [1_000, 1_000, 500],
    )
    await client.enqueueMany(
      Array.from({ length: 600 }, (_, at) => ({
        task: 'mail',
        payload: at,
        options: { queue: 'halves', priority: at < 300 ? 1 : 2 },
      })),
    )
    const halves = await query(
      `select r.count, j.priority::int from millrace.ready r join millrace.job j on j.id = r.first_id
       where r.queue_id = (select id from millrace.queue where name = 'halves') order by r.seq`,
    )
    assert.deepEqual(halves, [
      { count: 300, priority: 1 },
      { count: 300, priority: 2 },
    ])
  })
})

test('[TM-010] a batch of 100 is stored whole', async () => {
  await withEngines(async (bundle) => {
    await bundle.client.enqueueMany(
      'mail',
      Array.from({ length: 100 }).map((_, at) => at),
    )
    const jobs = await stored(bundle)
    assert.deepEqual(
      jobs.map(({ payload }) => payload),
      Array.from({ length: 100 }, (_, at) => at),
    )
  })
})

test('[TM-012] a key that an unfinished job has is refused with that job; or answered with it', async () => {
  await withEngines(async ({ client, count }) => {
    const { id } = await client.enqueue('mail', 1, { idempotencyKey: 'abc' })
    await assert.rejects(
      client.enqueue('mail', 2, { idempotencyKey: 'abc' }),
      (error: { code: string; details: Json }) => {
        assert.equal(error.code, 'DUPLICATE_TASK')
        assert.deepEqual(error.details, { jobId: id, key: 'abc' })
        return true
      },
    )
    const same = await client.enqueue('mail', 2, { idempotencyKey: 'abc', onDuplicate: 'ignore' })
    assert.deepEqual(same, { id, duplicate: true })
    assert.equal(await count('job'), 1)
  })
})

test('[TM-013] queues have their own keys', async () => {
  await withEngines(async ({ client, count }) => {
    await client.enqueue('mail', 1, { queue: 'queue-a', idempotencyKey: 'abc' })
    await client.enqueue('mail', 1, { queue: 'queue-b', idempotencyKey: 'abc' })
    assert.equal(await count('job'), 2)
  })
})

test('[TM-014] a key is free again when its job has completed', async () => {
  await withEngines(async ({ client, engine, inState }) => {
    await engine()
    const done = await client.enqueue('echo', 1, { idempotencyKey: 'abc' })
    await inState(done.id, 'completed')
    const next = await client.enqueue('echo', 1, { idempotencyKey: 'abc' })
    assert.deepEqual([next.duplicate, next.id === done.id], [false, false])
    await inState(next.id, 'completed')
  })
})

test('[TM-015] a key is free again when its job is a dead letter, and taken while it waits for a retry', async () => {
  await withEngines(async ({ client, engine, inState }) => {
    await engine()
    const waiting = await client.enqueue('careful', 1, { idempotencyKey: 'abc', queue: 'default' })
    await inState(waiting.id, 'retrying')
    assert.equal(await codeFrom(() => client.enqueue('echo', 1, { idempotencyKey: 'abc' })), 'DUPLICATE_TASK')
    const dying = await client.enqueue('fail', 1, { idempotencyKey: 'other', maxAttempts: 1 })
    await inState(dying.id, 'failed')
    const next = await client.enqueue('echo', 1, { idempotencyKey: 'other' })
    assert.deepEqual([next.duplicate, next.id === dying.id], [false, false])
    await inState(next.id, 'completed')
    assert.equal((await client.console.dead.list({ id: dying.id })).length, 1)
  })
})

for (const size of [2, 400]) {
  test(`[TM-016] [TM-017] a batch of ${size} that names a key twice, or one that is taken, fails as a whole`, async () => {
    await withEngines(async ({ client, count }) => {
      const batch = (last: string) =>
        Array.from({ length: size }, (_, at) => ({
          task: 'mail',
          payload: at,
          options: { idempotencyKey: at === size - 1 ? last : `k${at}` },
        }))
      assert.equal(await codeFrom(() => client.enqueueMany(batch('k0'))), 'DUPLICATE_TASK')
      assert.equal(await count('job', 'key', 'ready'), 0)
      const { id } = await client.enqueue('mail', 1, { idempotencyKey: 'taken' })
      await assert.rejects(
        client.enqueueMany(batch('taken')),
        (error: { code: string; details: { jobId: number } }) => {
          assert.equal(error.code, 'DUPLICATE_TASK')
          assert.equal(error.details.jobId, id)
          return true
        },
      )
      assert.equal(await count('job'), 1)
      assert.equal(await count('key'), 1)
      assert.equal(await count('ready'), 1)
      assert.equal((await client.enqueueMany(batch('free'))).count, size)
    })
  })
}

test('[TM-090] of ten calls at once with one key exactly one wins, from one process and from ten', async () => {
  await withEngines(async ({ client, another, count }) => {
    const clients = Array.from({ length: 10 }, () => another())
    for (const [key, callers] of [
      ['one process', Array.from({ length: 10 }, () => client)],
      ['ten', clients],
    ] as const) {
      const ends = await Promise.allSettled(callers.map((it) => it.enqueue('mail', 1, { idempotencyKey: key })))
      const refused = ends.filter((end) => end.status === 'rejected')
      assert.equal(ends.length - refused.length, 1, key)
      for (const { reason } of refused) assert.equal(reason.code, 'DUPLICATE_TASK')
    }
    assert.equal(await count('job'), 2)
    assert.equal(await count('key'), 2)
  })
})

const REFUSED: readonly [string, EnqueueOptions, string][] = [
  ['[TM-018] a priority above 100', { priority: 101 }, 'priority'],
  ['[TM-019] a priority below -100', { priority: -101 }, 'priority'],
  ['a priority between two', { priority: 0.5 }, 'priority'],
  ['[TM-020] no attempts', { maxAttempts: 0 }, 'maxAttempts'],
  ['too many attempts', { maxAttempts: 10_001 }, 'maxAttempts'],
  ['[TM-021] an empty key', { idempotencyKey: '' }, 'idempotencyKey'],
  ['a key of 256 characters', { idempotencyKey: 'x'.repeat(256) }, 'idempotencyKey'],
  ['a key with U+0000', { idempotencyKey: 'a\0' }, 'idempotencyKey'],
  ['a key with half a surrogate pair', { idempotencyKey: 'a\ud800' }, 'idempotencyKey'],
  ['an empty group', { group: '' }, 'group'],
  ['a limit of none', { group: 'g', groupLimit: 0 }, 'groupLimit'],
  ['a limit of too many', { group: 'g', groupLimit: 1_001 }, 'groupLimit'],
  ['a limit without a group', { groupLimit: 2 }, 'groupLimit'],
  ['a word for retries that is none', { group: 'g', onRetry: 'pass' as never }, 'onRetry'],
  ['what a group does meanwhile, without a group', { onRetry: 'skip' }, 'onRetry'],
  ['an empty queue', { queue: '' }, 'queue'],
  ['a time that is none', { runAt: new Date(Number.NaN) }, 'runAt'],
  ['a time in twenty years', { runAt: Date.now() + 20 * 365 * 24 * HOUR }, 'runAt'],
  ['a delay below 0', { delayMs: -1 }, 'delayMs'],
  ['a time and a delay', { runAt: Date.now(), delayMs: 1 }, 'delayMs'],
  ['an end before its begin', { runAt: Date.now() + HOUR, expiresAt: Date.now() + HOUR / 2 }, 'expiresAt'],
  ['a limit below 0', { timeoutMs: -1 }, 'timeoutMs'],
  ['an unknown policy', { retry: { kind: 'never' } as never }, 'retry.kind'],
  ['an empty table of delays', { retry: { kind: 'table', delaysMs: [] } }, 'retry.delaysMs'],
  ['jitter above 1', { retry: { kind: 'exponential', jitter: 2 } }, 'retry.jitter'],
  ['meta that is a list', { meta: [] as never }, 'meta'],
  ['meta beyond 16 KiB', { meta: { x: 'x'.repeat(16 * 1024) } }, 'meta'],
  ['an option that does not exist', { prio: 1 } as never, 'prio'],
]

test('a payload of exactly the limit is taken, and one byte more is refused, whatever its characters', async () => {
  await withEngines(async ({ another, count, query }) => {
    const bytesMax = 1_024
    const client = another({ payloadBytesMax: bytesMax })
    // as JSON text: a letter is one byte, é two, the euro three, a rocket four; two quotes
    for (const [letters, bytes] of [
      ['x', 1],
      ['\u00e9', 2],
      ['\u20ac', 3],
      ['\u{1f680}', 4],
    ] as const) {
      const room = bytesMax - 2
      const full = letters.repeat(Math.floor(room / bytes)) + 'x'.repeat(room % bytes)
      const [before] = [await count('job')]
      await client.enqueue('echo', full)
      await client.enqueueMany('echo', [full, 1])
      await assert.rejects(client.enqueue('echo', `${full}x`), { code: 'INVALID_PAYLOAD' }, letters)
      await assert.rejects(client.enqueueMany('echo', [1, `${full}x`]), { code: 'INVALID_PAYLOAD' }, letters)
      assert.equal((await count('job')) - before!, 3, letters)
    }
    const most = 2 * 1_024 * 1_024
    const sql = (letters: number) => query(`select millrace.enqueue('echo', to_json(repeat('x', $1)))`, [letters])
    await sql(most - 2)
    await assert.rejects(sql(most - 1), { code: 'MR400' })
  })
})

test('a batch that is none, and an item that is none, are refused', async () => {
  await withEngines(async ({ client, count }) => {
    for (const [batch, field] of [
      [() => client.enqueueMany('mail', 5 as never), 'payloads'],
      [() => client.enqueueMany('mail', undefined as never), 'payloads'],
      [() => client.enqueueMany(undefined as never), 'items'],
      [() => client.enqueueMany([{ task: 'mail', payload: 1 }, null as never]), 'items'],
    ] as const)
      await assert.rejects(batch, (error: { code: string; details: { field: string } }) => {
        assert.deepEqual([error.code, error.details.field], ['VALIDATION', field])
        return true
      })
    assert.equal(await count('job'), 0)
  })
})

test('[TM-018] [TM-019] [TM-020] [TM-021] options out of range are refused before anything is written', async () => {
  await withEngines(async ({ client, count }) => {
    await client.enqueue('mail', 0)
    for (const [what, options, field] of REFUSED) {
      for (const call of [
        () => client.enqueue('mail', 1, options),
        () => client.enqueueMany('mail', [1, 2], options),
        () =>
          client.enqueueMany([
            { task: 'mail', payload: 0 },
            { task: 'mail', payload: 1, options },
          ]),
      ]) {
        await assert.rejects(
          call,
          (error: { code: string; details: { field: string; index?: number } }) => {
            assert.equal(error.code, 'VALIDATION', what)
            assert.equal(error.details.field, field, what)
            return true
          },
          what,
        )
      }
    }
    for (const name of ['', 'x'.repeat(256), 'a\0b', undefined as never])
      assert.equal(await codeFrom(() => client.enqueue(name, 1)), 'VALIDATION')
    assert.equal(await count('job', 'ready', 'scheduled', 'blocked'), 2)
    assert.equal(await count('key', 'hold'), 0)
  })
})

function nested(levels: number): Json {
  let value: Json = 0
  for (let level = 0; level < levels; level++) value = level % 2 === 0 ? [value] : { x: value }
  return value
}

test('payloads that are no JSON, hold U+0000 or half a surrogate pair, or pass a limit are refused', async () => {
  const cyclic: Record<string, unknown> = {}
  cyclic.self = cyclic
  await withEngines(async ({ client, count }) => {
    for (const payload of [
      cyclic,
      1n,
      () => 1,
      Symbol('x'),
      'a\0b',
      { '\0': 1 },
      ['\\', '\\\0'],
      '\ud83d',
      { deep: ['\udc00'] },
      'x'.repeat(2 * 1024 * 1024),
      nested(101),
      Number.NaN,
      { price: [1, Number.POSITIVE_INFINITY] },
      { at: new Date(Number.NaN) },
      new Map([['a', 1]]),
      { tags: new Set(['a']) },
    ]) {
      assert.equal(await codeFrom(() => client.enqueue('mail', payload)), 'INVALID_PAYLOAD')
      assert.equal(await codeFrom(() => client.enqueueMany('mail', [1, payload])), 'INVALID_PAYLOAD')
    }
    await assert.rejects(
      client.enqueue('mail', { tags: new Set(['a']) }),
      /payload\.tags is a Set.*plain object instead/,
    )
    await assert.rejects(client.enqueue('mail', 1, { meta: { n: Number.NaN } }), {
      code: 'INVALID_PAYLOAD',
      message: /^meta\.n is NaN/,
    })
    const schedule = { id: 's', task: 'mail', cron: '@daily', payload: { n: Number.NaN } }
    await assert.rejects(client.schedules.create(schedule), /NaN/)
    assert.equal(await count('job', 'ready'), 0)
    await client.enqueue('mail', '\\u0000') // six characters, not one
    assert.equal(await count('job'), 1)
  })
})

test('[TM-114] [TM-115] [TM-116] 1 MB, nesting up to the limit and all of Unicode come back as they were', async () => {
  const text = `\u{1f680}\u{10ffff}\u0001\u001e\u2028"\\/\u00e9e\u0301 \u05d0\u4e2d`
  const payloads = ['x'.repeat(1024 * 1024), nested(100), text, { [text]: [text] }, [], '', 0, -1.5e300, true]
  await withEngines(async (bundle) => {
    await bundle.engine()
    const { ids } = await bundle.client.enqueueMany('echo', payloads)
    const last = ids.at(-1)!
    await bundle.inState(last.first + last.count - 1, 'completed')
    for (const [at, job] of (await stored(bundle)).entries()) {
      assert.deepEqual(job.payload, payloads[at])
      const { result } = await bundle.inState(job.id, 'completed')
      assert.deepEqual(result, payloads[at])
    }
  })
})

test('[TM-117] a task name may have any characters', async () => {
  await withEngines(async ({ client, engine, inState }) => {
    await engine()
    const { id } = await client.enqueue('op/test:1 \u{1f680} "x"', 1)
    assert.equal((await inState(id, 'completed')).result, 'odd')
  })
})

test('[TM-118] [TM-119] a due time in the past, and now, means at once', async () => {
  await withEngines(async ({ client, count, engine, inState, query }) => {
    const ids: number[] = []
    for (const runAt of [Date.now() - HOUR, new Date()]) ids.push((await client.enqueue('echo', 1, { runAt })).id)
    // a clock that goes after that of the database: the past for it alone
    const [row] = await query<{ id: number }>(
      `select millrace.enqueue('echo', run_at => clock_timestamp() - interval '1 hour')::float8 as id`,
    )
    ids.push(row!.id)
    assert.equal(await count('scheduled'), 0)
    for (const id of ids) assert.equal((await client.console.job(id))!.state, 'queued')
    await engine()
    for (const id of ids) await inState(id, 'completed')
  })
})

test('[TM-123] [TM-124] [TM-126] the limits of priority and attempts themselves are accepted', async () => {
  await withEngines(async (bundle) => {
    for (const options of [{ priority: -100 }, { priority: 100 }, { maxAttempts: 100 }, { maxAttempts: 10_000 }])
      await bundle.client.enqueue('mail', 1, options)
    assert.deepEqual(
      (await stored(bundle)).map((job) => [job.priority, job.max_attempts]),
      [
        [-100, 3],
        [100, 3],
        [0, 100],
        [0, 10_000],
      ],
    )
  })
})

test("[TM-134] [TM-135] a job enqueued in the caller's transaction lives and dies with it", async () => {
  await withEngines(async ({ client, connection, count, engine, inState }) => {
    await engine()
    const pg = await connection()
    await pg.query('begin')
    await client.enqueue('echo', 1, { client: pg, idempotencyKey: 'k' })
    await client.enqueueMany('echo', [1, 2], { client: pg })
    assert.equal(await count('job'), 0)
    await pg.query('rollback')
    assert.equal(await count('job', 'key', 'ready'), 0)

    await pg.query('begin')
    const { id } = await client.enqueue('echo', 1, { client: pg, idempotencyKey: 'k' })
    const many = await client.enqueueMany('echo', [2, 3], { client: pg })
    assert.equal(await count('job'), 0)
    await pg.query('commit')
    await inState(id, 'completed')
    await inState(many.ids[0]!.first + 1, 'completed')
  })
})

test("a taken key does not spoil the caller's transaction", async () => {
  await withEngines(async ({ client, connection, query }) => {
    const { id } = await client.enqueue('mail', 1, { idempotencyKey: 'k' })
    const pg = await connection()
    await pg.query('begin')
    const options = { client: pg, idempotencyKey: 'k' }
    assert.equal(await codeFrom(() => client.enqueue('mail', 2, options)), 'DUPLICATE_TASK')
    const same = await client.enqueue('mail', 2, { ...options, onDuplicate: 'ignore' })
    assert.deepEqual(same, { id, duplicate: true })
    await client.enqueue('mail', 3, { client: pg })
    await pg.query('commit')
    assert.deepEqual(await query('select payload from millrace.jobs order by jobs.id'), [
      { payload: 1 },
      { payload: 3 },
    ])
  })
})

test("a commit of the caller's own wakes who listens, with one job, many, and later ones", async () => {
  await withEngines(async ({ client, connection, schema, until }) => {
    const ear = await connection()
    const heard: string[] = []
    ear.on('notification', ({ payload }) => heard.push(payload!.split('@')[0]!))
    await ear.query(`listen "millrace_${schema}"`)
    const pg = await connection()
    for (const [kind, call] of [
      ['q', () => client.enqueue('mail', 1, { client: pg })],
      ['q', () => client.enqueueMany('mail', [1, 2], { client: pg })],
      ['q', () => client.enqueueMany([{ task: 'mail', payload: 1 }], { client: pg })],
      ['s', () => client.enqueue('mail', 1, { client: pg, delayMs: HOUR })],
    ] as [string, () => Promise<unknown>][]) {
      heard.length = 0
      await pg.query('begin')
      await call()
      await ear.query('select 1') // what had been sent before now would have arrived
      assert.equal(heard.length, 0)
      await pg.query('commit')
      await until(`a hint ${kind}`, async () => heard.some((it) => it.startsWith(kind)))
    }
  })
})

test("a client's first job is told with its own commit", async () => {
  await withEngines(async ({ another, connection, schema, query, until }) => {
    const ear = await connection()
    const heard: string[] = []
    ear.on('notification', ({ payload }) => heard.push(payload!.split('@')[0]!))
    await ear.query(`listen "millrace_${schema}"`)
    const { id } = await another().enqueue('mail', 1)
    await ear.query('select 1')
    const [row] = await query('select queue_id from millrace.job where id = $1', [id])
    assert.deepEqual(heard, [`q${row!.queue_id}`], 'it is there when the call is answered, not some time later')
    heard.length = 0
    await another().enqueue('mail', 1, { delayMs: HOUR })
    await until('the later job is told', async () => heard.includes('s'))
  })
})

test('fifty calls at once share a few transactions; each gets its own answer', async () => {
  await withEngines(async (bundle) => {
    await bundle.client.enqueue('mail', 'first')
    const calls = Array.from({ length: 50 }, (_, at) =>
      bundle.client.enqueue('mail', at, at % 2 ? { priority: at } : {}),
    )
    const ids = (await Promise.all(calls)).map(({ id }) => id)
    assert.equal(new Set(ids).size, 50)
    const byId = new Map((await stored(bundle)).map((job) => [job.id, job.payload]))
    for (const [at, id] of ids.entries()) assert.equal(byId.get(id), at)
    const [row] = await bundle.query('select count(distinct xmin::text)::int as n from millrace.job')
    assert.ok((row!.n as number) <= 4, `${row!.n} transactions`)
  })
})

test('one bad call among many at once fails alone', async () => {
  await withEngines(async ({ client, count }) => {
    const { id } = await client.enqueue('mail', 0, { idempotencyKey: 'taken' })
    const ends = await Promise.allSettled(
      Array.from({ length: 20 }, (_, at) =>
        client.enqueue('mail', at === 7 ? 'a\0' : at, at === 3 ? { idempotencyKey: 'taken' } : {}),
      ),
    )
    for (const [at, end] of ends.entries()) {
      if (at === 3) assert.equal(end.status === 'rejected' && end.reason.details.jobId, id)
      else if (at === 7) assert.equal(end.status === 'rejected' && end.reason.code, 'INVALID_PAYLOAD')
      else assert.equal(end.status, 'fulfilled')
    }
    assert.equal(await count('job'), 19)
  })
})

test('SQL enqueues too: with defaults, with options, in a transaction, with keys, and refuses what is wrong', async () => {
  await withEngines(async (bundle) => {
    const { query, connection, schema, count } = bundle
    const [plain] = await query(`select millrace.enqueue('echo', '{"n": 12345678901234567890}')::float8 as id`)
    const [stays] = await query('select payload::text as payload, payload->>$2 as n from millrace.job where id = $1', [
      plain!.id,
      'n',
    ])
    assert.equal(stays!.n, '12345678901234567890', 'a large integer is kept to the last digit')
    const [keyed] = await query(
      `select millrace.enqueue(task => 'mail', payload => '1', queue => 'sql', priority => -5, max_attempts => 9, group_key => 'g',
         group_limit => 4, on_retry => 'skip', run_at => now() + interval '1 hour', idempotency_key => 'k', meta => '{"a":1}')::float8 as id`,
    )
    const [again] = await query(`select millrace.enqueue('mail', queue => 'sql', idempotency_key => 'k')::float8 as id`)
    assert.equal(again!.id, keyed!.id)
    const job = (await stored(bundle)).find(({ id }) => id === keyed!.id)!
    assert.deepEqual(
      [job.queue, job.priority, job.max_attempts, job.group_key, job.meta, job.state],
      ['sql', -5, 9, 'g', { a: 1 }, 'scheduled'],
    )
    const [limits] = await query('select group_limit, retry_skips from millrace.job where id = $1', [keyed!.id])
    assert.deepEqual(limits, { group_limit: 4, retry_skips: true })
    const before = await count('job')
    for (const bad of [
      `''`,
      `null`,
      `'x', priority => 101`,
      `'x', max_attempts => 0`,
      `'x', idempotency_key => ''`,
      `'x', group_key => ''`,
      `'x', group_key => 'g', group_limit => 0`,
      `'x', group_limit => 2`,
      `'x', group_key => 'g', on_retry => 'pass'`,
      `'x', payload => '"\\u0000"'`,
      `'x', meta => '[]'`,
      `'x', timeout_ms => -1`,
      `'x', run_at => now() + interval '2 h', expires_at => now() + interval '1 h'`,
    ]) {
      await assert.rejects(query(`select millrace.enqueue(${bad})`), { code: 'MR400' }, bad)
    }
    const pg = await connection()
    await pg.query('begin')
    await pg.query(`select "${schema}".enqueue('echo', '1')`)
    await pg.query('rollback')
    assert.equal(await count('job'), before)
    await bundle.engine()
    await bundle.inState(plain!.id as number, 'completed')
  })
})

const TRACE_API = Symbol.for('opentelemetry.js.api.1')
const SPAN_KEY = Symbol.for('OpenTelemetry Context Key SPAN')

/** What a tracer registers, as far as it matters: the active context with its span. */
async function withTracer(run: (inSpan: <T>(span: object | undefined, call: () => T) => T) => Promise<void>) {
  const active = new AsyncLocalStorage<object | undefined>()
  const global = globalThis as Record<symbol, unknown>
  const before = global[TRACE_API]
  global[TRACE_API] = {
    version: '1.9.0',
    context: { active: () => ({ getValue: (key: symbol) => (key === SPAN_KEY ? active.getStore() : undefined) }) },
  }
  try {
    await run((span, call) => active.run(span, call))
  } finally {
    if (before === undefined) delete global[TRACE_API]
    else global[TRACE_API] = before
  }
}

function spanOf(context: object) {
  return { spanContext: () => context }
}

const TRACE_ID = '0af7651916cd43dd8448eb211c80319c'
const SPAN_ID = 'b7ad6b7169203331'
const TRACEPARENT = `00-${TRACE_ID}-${SPAN_ID}-01`

test("[TM-006] [TM-011] the active span's trace headers are stored with each job and reach its handler", async () => {
  const span = spanOf({ traceId: TRACE_ID, spanId: SPAN_ID, traceFlags: 1, traceState: { serialize: () => 'a=1,b=2' } })
  const trace = { traceparent: TRACEPARENT, tracestate: 'a=1,b=2' }
  await withTracer(async (inSpan) => {
    await withEngines(async ({ client, engine, inState, query }) => {
      const before = await client.enqueue('see', 0)
      const one = await inSpan(span, () => client.enqueue('see', 1))
      const labelled = await inSpan(span, () => client.enqueue('see', 1, { meta: { tenant: 7 } }))
      const many = await inSpan(span, () => client.enqueueMany('see', [1, 2, 3, 4, 5]))
      const items = Array.from({ length: 5 }, (_, payload) => ({ task: 'see', payload }))
      const mixed = await inSpan(span, () => client.enqueueMany(items))
      const own = { traceparent: `00-${TRACE_ID}-00f067aa0ba902b7-00` }
      const given = await inSpan(span, () => client.enqueue('see', 1, { meta: own }))
      const after = await client.enqueue('see', 0)
      const metas = await query('select id::float8 as id, meta from millrace.job order by id')
      const metaOf = (id: number) => metas.find((row) => row.id === id)!.meta
      assert.deepEqual(metaOf(one.id), trace)
      assert.deepEqual(metaOf(labelled.id), { ...trace, tenant: 7 })
      for (const { ids } of [many, mixed])
        for (let at = 0; at < 5; at++) assert.deepEqual(metaOf(ids[0]!.first + at), trace)
      assert.deepEqual(metaOf(given.id), own)
      assert.equal(metaOf(before.id), null)
      assert.equal(metaOf(after.id), null)
      await engine()
      const { result } = await inState(one.id, 'completed')
      assert.deepEqual((result as { meta: unknown }).meta, trace)
    })
  })
})

test('[TM-006] with the API of OpenTelemetry itself: the active span is found, whoever registered it, and none without one', async () => {
  const store = new AsyncLocalStorage<Context>()
  const registered = context.setGlobalContextManager({
    active: () => store.getStore() ?? ROOT_CONTEXT,
    with: (active, call, self, ...args) => store.run(active, () => call.apply(self, args)),
    bind: (_, target) => target,
    enable() {
      return this
    },
    disable() {
      return this
    },
  })
  assert.ok(registered)
  try {
    await withEngines(async ({ client, engine, connection, inState, query }) => {
      const spanContext = {
        traceId: TRACE_ID,
        spanId: SPAN_ID,
        traceFlags: TraceFlags.SAMPLED,
        traceState: createTraceState('vendor=1'),
      }
      const within = trace.setSpan(context.active(), trace.wrapSpanContext(spanContext))
      const traced = await context.with(within, async () => {
        await null // also after the first wait
        const own = await connection()
        return [
          (await client.enqueue('see', 1)).id,
          (await client.enqueueMany('see', [1])).ids[0]!.first,
          (await client.enqueue('see', 1, { client: own })).id,
        ]
      })
      const invalid = trace.setSpan(context.active(), trace.wrapSpanContext(INVALID_SPAN_CONTEXT))
      const without = [
        (await client.enqueue('see', 1)).id,
        await context.with(invalid, async () => (await client.enqueue('see', 1)).id),
      ]
      const headers = { traceparent: TRACEPARENT, tracestate: 'vendor=1' }
      const metas = await query<{ id: number; meta: unknown }>('select id::float8 as id, meta from millrace.job')
      const metaOf = (id: number) => metas.find((row) => row.id === id)!.meta
      for (const id of traced) assert.deepEqual(metaOf(id), headers)
      for (const id of without) assert.equal(metaOf(id), null)
      await engine()
      const { result } = await inState(traced[0]!, 'completed')
      assert.deepEqual((result as { meta: unknown }).meta, headers, 'its handler sees it')
    })
  } finally {
    context.disable()
  }
})

test('a span that is none, or a tracer that throws, leaves the job without a trace', async () => {
  await withTracer(async (inSpan) => {
    await withEngines(async ({ client, query }) => {
      for (const span of [
        undefined,
        {},
        spanOf({ traceId: '0'.repeat(32), spanId: SPAN_ID, traceFlags: 1 }),
        spanOf({ traceId: TRACE_ID, spanId: 'short', traceFlags: 1 }),
        {
          spanContext: () => {
            throw new Error('broken tracer')
          },
        },
      ])
        await inSpan(span, () => client.enqueue('mail', 1))
      const long = { serialize: () => 'x'.repeat(513) }
      await inSpan(spanOf({ traceId: TRACE_ID, spanId: SPAN_ID, traceFlags: 0, traceState: long }), () =>
        client.enqueue('mail', 1),
      )
      const metas = (await query('select meta from millrace.job order by id')).map(({ meta }) => meta)
      assert.deepEqual(metas, [null, null, null, null, null, { traceparent: `00-${TRACE_ID}-${SPAN_ID}-00` }])
    })
  })
})

test('a transaction that is open with a key holds up enqueues with that key, and nobody else', async () => {
  await withEngines(async ({ client, connection, query, until }) => {
    const own = await connection()
    await client.enqueue('mail', 0) // names and ids are known from here on
    await own.query('begin')
    await client.enqueue('mail', 1, { client: own, idempotencyKey: 'open' })
    let answered = false
    const same = client.enqueue('mail', 2, { idempotencyKey: 'open' }).finally(() => {
      answered = true
    })
    await until('it waits for the key', async () => {
      const rows = await query(
        `select from pg_stat_activity where wait_event_type = 'Lock' and query like '%enqueue_chunks%'`,
      )
      return rows.length === 1
    })
    await client.enqueue('mail', 3)
    await client.enqueueMany('mail', [4, 5])
    await client.enqueueMany(
      'mail',
      Array.from({ length: 300 }, () => 6),
    )
    assert.equal(answered, false)
    await own.query('rollback')
    assert.ok((await same).id > 0)
  })
})

test('what an enqueue does not know is refused where it might be passed over: fields of items, a client that is null', async () => {
  await withEngines(async (bundle) => {
    const { client } = bundle
    const item = { task: 'mail', payload: 1 }
    const calls: [string, () => Promise<unknown>][] = [
      ['key beside the task', () => client.enqueueMany([{ ...item, idempotencyKey: 'a' } as typeof item])],
      ['misspelt payload', () => client.enqueueMany([{ task: 'mail', paylod: 1 } as unknown as typeof item])],
      ['misspelt client', () => client.enqueueMany([item], { clinet: null } as object)],
      ['options of a job beside items', () => client.enqueueMany([item], { priority: 5 } as object)],
      ['null client, one', () => client.enqueue('mail', 1, { client: null as never })],
      ['null client, many', () => client.enqueueMany('mail', [1], { client: null as never })],
      ['null client, items', () => client.enqueueMany([item], { client: null as never })],
      ['client that is none', () => client.enqueue('mail', 1, { client: {} as never })],
      ['options that are a list', () => client.enqueue('mail', 1, [] as never)],
      ['options that are a text', () => client.enqueue('mail', 1, 'high' as never)],
      [
        'misspelt field of retry',
        () => client.enqueue('mail', 1, { retry: { kind: 'fixed', delayMs: 1, jiter: 1 } as never }),
      ],
    ]
    for (const [what, call] of calls) assert.equal(await codeFrom(call), 'VALIDATION', what)
    assert.equal((await stored(bundle)).length, 0)
  })
})
