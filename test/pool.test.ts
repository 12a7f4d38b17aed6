import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { threadId } from 'node:worker_threads'
import { systemClock } from '../engine/base/clock.ts'
import { defineTask, type TaskContext } from '../engine/base/task.ts'
import type { FeedPiece } from '../threads/lanes.ts'
import { LANE_JOBS_MAX } from '../threads/layout.ts'
import { bound } from './support/bound.ts'
import { ManualClock } from './support/manual-clock.ts'
import { BEHAVED, PoolHarness, writeModules } from './support/pool-harness.ts'

type Body = (h: PoolHarness) => Promise<void>
type Options = ConstructorParameters<typeof PoolHarness>[0]

/** Runs a test around a started pool, and stops it whatever happens. */
function withPool(options: Options, body: Body): () => Promise<void> {
  return async () => {
    const h = new PoolHarness(options)
    try {
      await h.start()
      await body(h)
    } finally {
      await h.stop()
    }
  }
}

const numbers = (count: number, from = 0) => Array.from({ length: count }, (_, n) => from + n)

// Feeding and reporting.

test(
  'jobs run in the order in which they were fed, and each reports started and then its result',
  withPool({}, async (h) => {
    h.feed('echo', numbers(700), 0)
    h.feed('noop-async', numbers(50), 700)
    h.feed('echo', numbers(250, 750), 750)
    assert.equal(h.pool.outstanding(0), 1_000)
    await h.until(() => h.pool.outstanding(0) === 0)
    assert.deepEqual(h.startOrder, numbers(1_000))
    for (const [slot, told] of h.told) {
      assert.deepEqual(told.events, ['started', 'completed'])
      assert.equal(told.result, slot >= 700 && slot < 750 ? undefined : slot)
      assert.ok(told.ranMs >= 0)
      assert.ok(Math.abs(told.startedAtMs - Date.now()) < 60_000)
    }
    assert.equal(h.pool.taken(0), 0)
  }),
)

test(
  'payloads and results keep every character, and an absent one stays absent',
  withPool({}, async (h) => {
    const payloads = ['é', '𝄞 \u001e \u0001', { a: [1, null, 'ß'.repeat(300)] }, null, undefined, '', 'x'.repeat(40)]
    h.feed('echo', payloads, 0)
    await h.until(() => h.pool.outstanding(0) === 0)
    for (const [slot, payload] of payloads.entries()) assert.deepEqual(h.told.get(slot)!.result, payload)
  }),
)

test(
  'a handler sees its job, attempt, run and meta',
  withPool({}, async (h) => {
    const more = { attempt: 2, run: 4, createdAtMs: 86_400_000, group: 'g', metas: '\u001e{"trace":"t"}' }
    h.feedTexts('context', ['1', '2'], 5, more)
    await h.until(() => h.pool.outstanding(0) === 0)
    const job = { task: 'context', queue: 'q', createdAt: '1970-01-02T00:00:00.000Z', maxAttempts: 3, group: 'g' }
    assert.deepEqual(h.told.get(5)!.result, { id: 1005, ...job, meta: {}, attempt: 2, run: 4 })
    assert.deepEqual(h.told.get(6)!.result, { id: 1006, ...job, meta: { trace: 't' }, attempt: 2, run: 4 })
  }),
)

test(
  'slots that are a view of a larger array are fed as what they show',
  withPool({}, async (h) => {
    const all = Uint32Array.from(numbers(100))
    const generations = all.map((slot) => slot + 1)
    const more = { slots: all.subarray(40, 42), generations: generations.subarray(40, 42) }
    h.feedTexts('echo', ['1', '2'], 40, more)
    await h.until(() => h.isOver(40) && h.isOver(41))
    assert.equal(h.told.size, 2)
  }),
)

test(
  'two lanes work side by side, and drain serves both',
  withPool({ threads: 2 }, async (h) => {
    h.feed('whoami', numbers(10), 0, 0)
    h.feed('whoami', numbers(10), 10, 1)
    await h.until(() => h.pool.outstanding(0) + h.pool.outstanding(1) === 0)
    assert.equal(new Set([...h.told.values()].map(({ result }) => result)).size, 2)
  }),
)

test(
  'drain hands over at most its limit, and hasReports tells of the rest',
  withPool({ threads: 2 }, async (h) => {
    h.feed('noop', numbers(100), 0, 0)
    h.feed('noop', numbers(100), 100, 1)
    let handled = 0
    const goesOn = bound('for all reports')
    while (goesOn() && handled < 400) {
      const now = h.pool.drain(h, 7)
      assert.ok(now <= 7)
      handled += now
      if (now === 0) await sleep(1)
    }
    assert.equal(h.pool.hasReports(), false)
    assert.equal(h.told.size, 200)
  }),
)

test(
  'a sleeping main is woken by the report of a job, and armDoorbell refuses while reports wait',
  withPool({}, async (h) => {
    assert.equal(h.pool.armDoorbell(), true)
    h.feed('rest', [5], 0)
    await h.wait(() => h.bells === 1)
    assert.equal(h.pool.hasReports(), true)
    assert.equal(h.pool.armDoorbell(), false)
    assert.equal(h.pool.drain(h, 100), 2)
    assert.deepEqual(h.told.get(0)!.events, ['started', 'completed'])
    assert.equal(h.pool.armDoorbell(), true)
    h.feed('rest', [5], 1)
    await h.wait(() => h.bells === 2)
  }),
)

test(
  'reports beyond what the ring holds wait in the thread until main drains',
  withPool({ ringBytes: 128 * 1024 }, async (h) => {
    h.feed('noop', numbers(20_000), 0) // 1.3 MB of reports
    await h.wait(() => h.pool.taken(0) > 1_000) // nobody drains: the ring fills
    const stuckAt = h.pool.taken(0)
    assert.ok(stuckAt < 20_000)
    await h.until(() => h.pool.outstanding(0) === 0)
    assert.deepEqual(h.startOrder, numbers(20_000))
  }),
)

test('a pool without any file works, and an unknown task fails and may be retried', async () => {
  const h = await new PoolHarness({ modules: [] }).start()
  assert.deepEqual(h.catalog, { tasks: [], broken: [], doubles: [] })
  const { error, retryable, events } = await h.run('nobody', null, 0)
  assert.deepEqual(events, ['started', 'failed'])
  assert.deepEqual([error!.code, retryable], ['TASK_NOT_REGISTERED', true])
  assert.match(error!.message, /"nobody"/)
  await h.stop()
})

test(
  'a lane refuses more than it can count, and a lane that is not there',
  withPool({}, async (h) => {
    const texts = (count: number) => new Array<string>(count).fill('')
    assert.throws(() => h.feedTexts('noop', texts(LANE_JOBS_MAX + 1), 0), { code: 'INVARIANT' })
    assert.throws(() => h.feedTexts('noop', [], 0), { code: 'INVARIANT' })
    assert.throws(() => h.feedTexts('noop', texts(1), 0, {}, 1), { code: 'INVARIANT' })
    assert.equal(h.pool.isOpen(1), false)
    h.feedTexts('noop', texts(LANE_JOBS_MAX), 0)
    await h.until(() => h.pool.outstanding(0) === 0)
    assert.equal(h.told.size, LANE_JOBS_MAX)
  }),
)

// Results and payloads.

test(
  'results of every size arrive whole and in order, however small the ring',
  withPool({ ringBytes: 128 * 1024 }, async (h) => {
    const sizes = [1, 100, 8_000, 20_000, 300_000, 3, 900_000, 0]
    h.feed('big', sizes, 0)
    await h.until(() => h.pool.outstanding(0) === 0)
    for (const [slot, size] of sizes.entries()) assert.equal(h.told.get(slot)!.result, 'é'.repeat(size))
    assert.deepEqual(h.startOrder, numbers(sizes.length))
  }),
)

test(
  'a result above its limit fails as RESULT_TOO_LARGE, one at the limit does not',
  withPool({ resultBytesMax: 1_002 }, async (h) => {
    assert.equal((await h.run('big', 500, 0)).result, 'é'.repeat(500)) // 1,000 bytes and two quotes
    const { error, retryable } = await h.run('big', 501, 1)
    assert.deepEqual([error!.code, retryable], ['RESULT_TOO_LARGE', false])
  }),
)

test(
  'what is not JSON fails as RESULT_INVALID and is not retried',
  withPool({}, async (h) => {
    const invalid = [
      'bigint',
      'circle',
      'function',
      'zero in a string',
      'zero in a key',
      'deeper than allowed',
      'far too deep',
      'toJSON that throws',
      'NaN',
      'Map',
      'promise in a list',
    ]
    h.feed('returns', invalid, 0)
    await h.until(() => h.pool.outstanding(0) === 0)
    for (const [slot, what] of invalid.entries()) {
      const { error, retryable } = h.told.get(slot)!
      assert.deepEqual([error?.code, retryable], ['RESULT_INVALID', false], what)
    }
    assert.match(h.told.get(8)!.error!.message, /^the result\.sum is NaN, which JSON cannot hold/)
    assert.deepEqual((await h.run('returns', 'backslash and u0000', 20)).result, ['\\u0000', '"\\"[[[['])
    assert.ok((await h.run('returns', 'as deep as allowed', 21)).result)
  }),
)

test(
  'a payload that is not JSON or too deep fails as INVALID_PAYLOAD without a run of the handler',
  withPool({}, async (h) => {
    h.feedTexts('echo', ['{"a":', `${'['.repeat(101)}${']'.repeat(101)}`, `${'['.repeat(100)}${']'.repeat(100)}`], 0)
    await h.until(() => h.pool.outstanding(0) === 0)
    for (const slot of [0, 1]) {
      const { error, retryable } = h.told.get(slot)!
      assert.deepEqual([error!.code, retryable], ['INVALID_PAYLOAD', false])
    }
    assert.deepEqual(h.told.get(2)!.events, ['started', 'completed'])
  }),
)

// Failures of handlers.

for (const task of ['throws', 'rejects']) {
  test(
    `a handler that ${task} anything fails its job alone, with what can be said of it`,
    withPool({}, async (h) => {
      const cases: [string, { code?: string; type: string; message: RegExp; retryable?: boolean; own?: string }][] = [
        ['error', { type: 'TypeError', message: /^wrong type$/ }],
        ['null', { type: 'null', message: /^null$/ }],
        ['undefined', { type: 'undefined', message: /^undefined$/ }],
        ['string', { type: 'string', message: /^just a string$/ }],
        ['object', { type: 'Object', message: /^like an error$/, own: 'E_LIKE' }],
        ['nothing', { type: 'an error that cannot be printed', message: /cannot be printed/ }],
        ['hostile', { type: 'Error', message: /cannot be printed/ }],
        ['frozen', { type: 'Error', message: /^frozen$/ }],
        ['coded', { type: 'Error', message: /^refused$/, own: 'ECONNREFUSED' }],
        ['final', { type: 'Error', message: /^never again$/, retryable: false }],
        ['validation', { type: 'Error', message: /^bad field$/, code: 'VALIDATION', retryable: false }],
        ['long', { type: 'Error', message: /^�é�é/ }],
        ['symbol', { type: 'symbol', message: /Symbol\(odd\)/ }],
      ]
      h.feed(
        task,
        cases.map(([what]) => what),
        0,
      )
      h.feed('echo', ['after'], 100)
      await h.until(() => h.pool.outstanding(0) === 0)
      for (const [slot, [what, wanted]] of cases.entries()) {
        const { error, retryable, events } = h.told.get(slot)!
        assert.deepEqual(events, ['started', 'failed'], what)
        assert.equal(error!.code, wanted.code ?? 'TASK_THREW', what)
        assert.equal(error!.type, wanted.type, what)
        assert.match(error!.message, wanted.message, what)
        assert.equal(retryable, wanted.retryable ?? true, what)
        assert.equal(error!.details?.code, wanted.own, what)
      }
      assert.match(h.told.get(0)!.error!.stack!, /misbehaved/)
      assert.equal(h.told.get(100)!.result, 'after')
      assert.deepEqual(h.lost, [])
    }),
  )
}

test(
  'a result whose `then` cannot be read fails its job',
  withPool({}, async (h) => {
    const { error } = await h.run('thenable', null, 0)
    assert.deepEqual([error!.code, error!.message], ['TASK_THREW', 'no then for you'])
  }),
)

test(
  'a rejection that nobody handles fails its job, and what waited behind it is given back',
  withPool({}, async (h) => {
    h.feed('leaks', [{ ms: 1, runMs: 60_000 }], 0)
    h.feed('echo', [1, 2, 3], 1)
    await h.until(() => h.lost.length === 1)
    const { error, retryable, events } = h.told.get(0)!
    assert.deepEqual(events, ['started', 'failed'])
    assert.deepEqual([error!.code, error!.message, retryable], ['UNHANDLED_REJECTION', 'left behind', true])
    assert.equal(h.lost[0]!.code, 'THREAD_EXITED')
    assert.match(h.lost[0]!.message, /job 1000: Error: left behind$/)
    const { err } = h.logged.find(({ event }) => event === 'thread.lost')!.facts as { err: Record<string, unknown> }
    assert.equal(err.message, 'left behind')
    assert.match(err.stack as string, /misbehaved/)
    assert.deepEqual(h.lost[0]!.notTaken, [1, 2, 3])
    assert.equal((await h.run('echo', 'again', 9)).result, 'again')
  }),
)

test(
  'a rejection that comes late harms no neighbour: the one that runs then completes, and the rest is given back',
  withPool({}, async (h) => {
    h.feed('leaks', [{ ms: 20, runMs: 0 }], 0)
    h.feed('rest', [200, 0], 1)
    await h.until(() => h.lost.length === 1)
    assert.equal(h.told.get(0)!.result, 'done')
    assert.equal(h.told.get(1)!.result, 200)
    assert.deepEqual(h.lost[0]!.notTaken, [2])
  }),
)

test(
  'a rejection left behind by a handler that never waits harms no neighbour of the same slice',
  withPool({}, async (h) => {
    h.feed('leaks-sync', [null, 50, 0], 0)
    await h.until(() => h.lost.length === 1)
    assert.deepEqual(h.told.get(1)!.events, ['started', 'completed'])
    assert.deepEqual(h.lost[0]!.notTaken, [2])
  }),
)

test(
  'among jobs that share a thread, a rejection fails the one that it came from, and the others complete',
  withPool({}, async (h) => {
    const fine = { ms: 60_000, runMs: 60 }
    h.feed('leaks-shared', [fine, { ms: 5, runMs: 60_000 }, fine], 0)
    h.feed('echo', [1], 3)
    await h.until(() => h.lost.length === 1)
    assert.deepEqual(
      [0, 1, 2].map((slot) => h.told.get(slot)!.result ?? h.told.get(slot)!.error?.code),
      ['done', 'UNHANDLED_REJECTION', 'done'],
    )
    assert.deepEqual(h.lost[0]!.notTaken, [3])
  }),
)

test(
  'an exception thrown by a timer of a job fails that job, and the thread is replaced',
  withPool({}, async (h) => {
    const { error } = await h.run('throws-later', null, 0)
    assert.deepEqual([error!.code, error!.message], ['TASK_THREW', 'thrown by a timer'])
    await h.until(() => h.lost.length === 1)
    assert.equal((await h.run('echo', 1, 1)).result, 1)
  }),
)

// Threads that die.

test(
  'a handler that calls process.exit loses its own job only, and the exit code is told',
  withPool({}, async (h) => {
    h.feed('echo', [1, 2], 0)
    h.feed('exits', [7], 2)
    h.feed('echo', [3, 4], 3)
    await h.until(() => h.lost.length === 1)
    assert.deepEqual(h.lost[0], {
      lane: 0,
      code: 'THREAD_EXITED',
      message: 'the thread exited with code 7',
      notTaken: [3, 4],
    })
    assert.deepEqual([h.isOver(0), h.isOver(1), h.isOver(2)], [true, true, false])
    assert.equal(h.pool.outstanding(0), 0)
    assert.equal((await h.run('echo', 5, 5)).result, 5)
    assert.deepEqual(h.opened, [0])
  }),
)

test(
  'a handler that uses up the heap loses its own job only',
  withPool({ threadHeapMb: 32 }, async (h) => {
    h.feed('hoards', [null], 0)
    h.feed('echo', [1], 1)
    await h.until(() => h.lost.length === 1)
    assert.deepEqual([h.lost[0]!.code, h.lost[0]!.notTaken], ['THREAD_OUT_OF_MEMORY', [1]])
    assert.equal((await h.run('echo', 5, 5)).result, 5)
  }),
)

test(
  'a handler that never ends is ended by kill, with the reason that the caller gave',
  withPool({ threads: 2 }, async (h) => {
    h.feed('spins', [null], 0, 0)
    h.feed('echo', [1], 1, 0)
    h.feed('rest', [300], 2, 1)
    await h.until(() => h.told.get(0)?.events.length === 1)
    h.pool.kill(0, 'TASK_TIMED_OUT', 'too long')
    assert.equal(h.pool.isOpen(0), false)
    await h.until(() => h.lost.length === 1)
    assert.deepEqual(h.lost[0], { lane: 0, code: 'TASK_TIMED_OUT', message: 'too long', notTaken: [1] })
    await h.until(() => h.pool.isOpen(0) && h.isOver(2)) // the other lane did not notice
    assert.equal((await h.run('echo', 5, 5)).result, 5)
  }),
)

test(
  'an idle lane that is killed is told as lost with nothing to give back, once, and comes up again',
  withPool({}, async (h) => {
    h.pool.kill(0, 'THREAD_EXITED', 'for a test')
    h.pool.kill(0, 'THREAD_EXITED', 'twice')
    await h.until(() => h.opened.length === 1)
    assert.deepEqual(h.lost, [{ lane: 0, code: 'THREAD_EXITED', message: 'for a test', notTaken: [] }])
  }),
)

test(
  'whenever a thread is ended in the middle of a flood, every job is reported, given back, or the one that it ran',
  withPool({ ringBytes: 128 * 1024 }, async (h) => {
    const { pool } = h
    let slot = 0
    for (let round = 0; round < 12; round++) {
      await h.until(() => pool.isOpen(0))
      h.told.clear()
      h.lost.length = 0
      const first = slot
      for (let piece = 0; piece < 8; piece++, slot += 500) {
        h.feed(piece % 2 === 0 ? 'echo' : 'noop-async', numbers(500), slot)
        if (piece === round % 8) pool.drain(h, 300)
      }
      const wanted = round * 60
      const goesOn = bound('for reports')
      while (goesOn() && (pool.drain(h, 100) > 0 || h.told.size < wanted))
        await new Promise((resolve) => setImmediate(resolve))
      if (round % 2 === 0) await h.wait(() => pool.hasReports() || pool.outstanding(0) === 0)
      pool.kill(0, 'THREAD_EXITED', 'for a test')
      await h.until(() => h.lost.length === 1, 7) // a few at a time: the loss is told after the last report
      const { notTaken } = h.lost[0]!
      const reported = numbers(slot - first, first).filter((n) => h.isOver(n))
      assert.ok(reported.every((n, at) => n === first + at))
      for (const n of reported) assert.deepEqual(h.told.get(n)!.events, ['started', 'completed'])
      assert.deepEqual(notTaken, numbers(notTaken.length, slot - notTaken.length))
      const running = slot - first - reported.length - notTaken.length
      assert.ok(running === 0 || running === 1, `${running} jobs were running in an exclusive lane`)
    }
  }),
)

test(
  'pieces that are fed together keep their order and their facts, each its own',
  withPool({}, async (h) => {
    h.pool.feed(0, [
      h.piece('context', ['1'], 0, { group: 'a', attempt: 1 }),
      h.piece('context', ['2', '3', '4'], 10, { group: null, attempt: 2, run: 7, metas: '{"m":1}\u001e\u001e{"m":3}' }),
      h.piece('context', ['5'], 20, { group: 'c', maxAttempts: 9, createdAtMs: 1_000 }),
    ])
    await h.until(() => h.pool.outstanding(0) === 0)
    assert.deepEqual(h.startOrder, [0, 10, 11, 12, 20])
    const facts = h.startOrder.map((slot) => {
      const { id, group, attempt, run, maxAttempts, meta, createdAt } = h.told.get(slot)!.result as Record<
        string,
        unknown
      >
      return [id, group, attempt, run, maxAttempts, JSON.stringify(meta), createdAt]
    })
    const [zero, one] = ['1970-01-01T00:00:00.000Z', '1970-01-01T00:00:01.000Z']
    assert.deepEqual(facts, [
      [1_000, 'a', 1, 1, 3, '{}', zero],
      [1_010, null, 2, 7, 3, '{"m":1}', zero],
      [1_011, null, 2, 7, 3, '{}', zero],
      [1_012, null, 2, 7, 3, '{"m":3}', zero],
      [1_020, 'c', 1, 1, 9, '{}', one],
    ])
  }),
)

// Taking back.

test(
  'revoke gives back what was not taken, and closes the lane until the thread has forgotten it',
  withPool({}, async (h) => {
    h.feed('rest', [50], 0)
    h.feed('echo', [1, 2, 3], 1)
    await h.until(() => h.pool.taken(0) === 1)
    assert.deepEqual(h.pool.revoke(0), [1, 2, 3])
    assert.deepEqual(h.pool.revoke(0), [])
    assert.equal(h.pool.isOpen(0), false)
    assert.equal(h.pool.outstanding(0), 1)
    assert.throws(() => h.feed('echo', [4], 4), { code: 'INVARIANT' })
    await h.until(() => h.opened.length === 1)
    assert.equal(h.pool.isOpen(0), true)
    h.feed('echo', [4], 1) // a slot may come again
    await h.until(() => h.pool.outstanding(0) === 0)
    assert.deepEqual(h.startOrder, [0, 1])
    assert.equal(h.told.get(1)!.result, 4)
    assert.deepEqual(h.pool.revoke(0), [])
    assert.equal(h.pool.isOpen(0), true)
  }),
)

test(
  'however revokes and a running thread race, every job runs once or is given back once',
  withPool({ threads: 2 }, async (h) => {
    const { pool } = h
    const isBack = new Set<number>()
    let slot = 0
    let revokes = 0
    const end = systemClock.steadyMs() + 1_500
    const goesOn = bound('for 100 revokes')
    while (goesOn() && (systemClock.steadyMs() < end || revokes < 100)) {
      for (const lane of [0, 1]) {
        if (!pool.isOpen(lane)) continue
        const more: FeedPiece[] = []
        for (let piece = 0; piece < 4; piece++, slot += 50) h.feed('noop', numbers(50), slot, lane)
        for (let piece = 0; piece < 60; piece++, slot++) more.push(h.piece('noop', ['1'], slot))
        pool.feed(lane, more)
        await new Promise((resolve) => setImmediate(resolve))
        const back = pool.revoke(lane)
        if (back.length > 0) revokes++
        for (const n of back) {
          assert.equal(isBack.has(n), false)
          isBack.add(n)
        }
        pool.drain(h, 100_000)
      }
      if (!pool.isOpen(0) && !pool.isOpen(1)) await new Promise((resolve) => setImmediate(resolve))
    }
    await h.until(() => pool.outstanding(0) + pool.outstanding(1) === 0)
    for (let n = 0; n < slot; n++) {
      assert.equal(h.isOver(n), !isBack.has(n), `job ${n}`)
      if (h.isOver(n)) assert.deepEqual(h.told.get(n)!.events, ['started', 'completed'])
    }
    assert.ok(h.told.size > 0)
  }),
)

// Signals.

test(
  'an abort fires the signal of its job alone, with the reason as an error',
  withPool({}, async (h) => {
    h.feed('patient', [null, null], 0)
    await h.until(() => h.pool.taken(0) === 2)
    h.pool.abort(0, 0, 99, 'timeout') // another generation: ignored
    h.pool.abort(0, 77, 78, 'timeout') // not there: ignored
    h.pool.abort(0, 1, 2, 'cancelled')
    await h.until(() => h.isOver(1))
    assert.deepEqual(h.told.get(1)!.result, { code: 'TASK_CANCELLED' })
    assert.equal(h.isOver(0), false)
    h.pool.abort(0, 0, 1, 'timeout')
    await h.until(() => h.isOver(0))
    assert.deepEqual(h.told.get(0)!.result, { code: 'TASK_TIMED_OUT' })
    h.feed('patient', [null], 2)
    await h.until(() => h.pool.taken(0) === 1)
    h.pool.abort(0, 2, 3, 'stopping')
    await h.until(() => h.isOver(2))
    assert.deepEqual(h.told.get(2)!.result, { code: 'STOPPING' })
  }),
)

test(
  'a handler that never leaves its thread sees its signal when it looks',
  withPool({}, async (h) => {
    h.feed('busy', [null], 0)
    await h.until(() => h.pool.taken(0) === 1)
    h.pool.abort(0, 0, 1, 'timeout')
    await h.until(() => h.isOver(0))
    assert.deepEqual(h.told.get(0)!.result, { code: 'TASK_TIMED_OUT' })
  }),
)

test(
  'a job that is aborted while it waits in the thread fails without being run',
  withPool({}, async (h) => {
    h.feed('rest', [100], 0)
    h.feed('echo', [1, 2], 1)
    await h.until(() => h.pool.taken(0) === 1)
    h.pool.abort(0, 1, 2, 'cancelled')
    await h.until(() => h.pool.outstanding(0) === 0)
    const { error, retryable, events } = h.told.get(1)!
    assert.deepEqual([events, error!.code, retryable], [['started', 'failed'], 'TASK_CANCELLED', false])
    assert.equal(h.told.get(2)!.result, 2)
  }),
)

// Sharing a thread.

test(
  'jobs overlap up to the concurrency of their task, an exclusive one overlaps with none, and order is kept',
  withPool({}, async (h) => {
    h.feed('shared', [20, 20, 20, 20, 20, 20], 0)
    h.feed('alone', [5, 5], 6)
    h.feed('shared', [20, 20, 20], 8)
    await h.until(() => h.pool.outstanding(0) === 0)
    const most = (slots: number[]) => slots.map((slot) => h.told.get(slot)!.result as number)
    assert.ok(most(numbers(12).slice(0, 6)).every((n) => n <= 3))
    assert.equal(Math.max(...most([0, 1, 2])), 3)
    assert.deepEqual(most([6, 7]), [1, 1])
    assert.deepEqual(most([8, 9, 10]), [1, 2, 3])
    assert.deepEqual(h.startOrder, numbers(11))
  }),
)

test(
  'a flood of jobs that never wait lets timers fire',
  withPool({}, async (h) => {
    h.feed('arm', [null], 0)
    h.feed('timed', numbers(3_000), 1)
    await h.until(() => h.pool.outstanding(0) === 0)
    assert.equal(h.told.get(1)!.result, false)
    assert.equal(h.told.get(3_000)!.result, true)
  }),
)

// What handlers say meanwhile.

test(
  'log lines, progress and heartbeats arrive, and a handler that never stops talking is held back',
  withPool({}, async (h) => {
    const { logs, progress, events } = await h.run('talkative', 100_000, 0)
    assert.deepEqual(logs[0], { level: 'info', event: 'hello', facts: { part: 'a', n: 1 } })
    assert.deepEqual(logs[1], { level: 'debug', event: 'line', facts: { line: 0 } })
    const dropped = logs.filter(({ event }) => event === 'log.dropped').map(({ facts }) => facts.lines as number)
    assert.ok(dropped.length > 0)
    const seconds = h.told.get(0)!.ranMs / 1_000
    assert.ok(logs.length < 1_000 * (seconds + 2))
    assert.equal(dropped.reduce((sum, n) => sum + n, 0) + logs.length - dropped.length, 100_001)
    assert.deepEqual(progress.at(-1), { step: 999 }) // the last one is never lost
    assert.ok(progress.length <= 3 + seconds * 20)
    assert.ok(events.includes('heartbeat'))
    assert.equal(events.at(-1), 'completed')
  }),
)

test(
  'log lines keep every fact, errors and values of the message, whatever they are; a progress value that is too long is refused',
  withPool({}, async (h) => {
    const { logs, error } = await h.run('long-winded', null, 0)
    assert.deepEqual(
      logs.map(({ level, event, facts }) => [level, event, Object.keys(facts)]),
      [
        ['info', 'long', ['text', 'n']],
        ['info', 'not JSON', ['n', 'm']],
        ['error', 'out of it', ['err']],
        ['warn', 'one of 2', ['args']],
      ],
    )
    const err = logs[2]!.facts.err as Record<string, unknown>
    assert.deepEqual([err.type, err.message, (err.cause as typeof err).message], ['RangeError', 'out of it', 'below'])
    assert.match(err.stack as string, /behaved/)
    assert.doesNotMatch(
      err.stack as string,
      /task-thread|AsyncLocalStorage/,
      'lines of the engine tell its author nothing',
    )
    assert.deepEqual([error!.code, error!.type], ['VALIDATION', 'EngineError'])
  }),
)

// Files.

test('tasks are found in default exports, named exports and arrays, with their defaults', async () => {
  const { urls, remove } = writeModules({
    one: `
      export default defineTask({ name: 'd', run() {} })
      const n = defineTask({ name: 'n', run() {}, queue: 'mail', maxAttempts: 9, group: 'sends', groupLimit: 5, onRetry: 'skip', timeoutMs: 0, graceMs: 7, heartbeatMs: 50,
        concurrency: 4, inline: true, retry: { kind: 'none' } })
      export { n, n as again }
      export const list = [defineTask({ name: 'a1', run() {} }), defineTask({ name: 'a2', run() {} }), n]
      export const other = { name: 'no task', run() {} }`,
    two: `export const n = defineTask({ name: 'n', run() {} })
      export const fine = defineTask({ name: 'fine', run() {} })`,
  })
  const h = await new PoolHarness({ modules: urls, threads: 2 }).start()
  const found = new Map(h.catalog.tasks.map((task) => [task.name, task]))
  assert.deepEqual([...found.keys()].sort(), ['a1', 'a2', 'd', 'fine', 'n'])
  const [one, two] = urls
  assert.deepEqual(found.get('d'), {
    name: 'd',
    file: one,
    queue: 'default',
    maxAttempts: 3,
    group: null,
    groupLimit: null,
    onRetry: 'block',
    timeoutMs: null,
    graceMs: 5_000,
    heartbeatMs: null,
    decides: false,
    concurrency: 1,
    retry: { kind: 'exponential', initialMs: 1_000, factor: 2, maxMs: 300_000, jitter: 0 },
    inline: false,
  })
  assert.deepEqual(found.get('n'), {
    name: 'n',
    file: one,
    queue: 'mail',
    maxAttempts: 9,
    group: 'sends',
    groupLimit: 5,
    onRetry: 'skip',
    timeoutMs: 0,
    graceMs: 7,
    heartbeatMs: 50,
    concurrency: 4,
    retry: { kind: 'none' },
    decides: false,
    inline: false, // what a file exports runs in threads, whatever it says
  })
  assert.deepEqual(h.catalog.broken, [])
  assert.deepEqual(h.catalog.doubles, [{ task: 'n', places: [one, two] }])
  await h.stop()
  remove()
})

test('files that throw, do not parse, exit, spin or never settle on import are named, and the others load', async () => {
  const { urls, remove } = writeModules({
    throws: `throw new Error('not today')`,
    first: `export default defineTask({ name: 'first', run: () => 1 })`,
    parse: `export const = `,
    nested: `import './parse.mjs'`,
    json: `globalThis.times = (globalThis.times ?? 0) + 1\nif (globalThis.times > 1) process.exit()\nJSON.parse('{')`,
    option: `defineTask({ name: 'x', maxAttemts: 3, run: () => 1 })`,
    exits: `process.exit(3)`,
    spins: `for (;;);`,
    never: `await new Promise(() => {})`,
    last: `export default defineTask({ name: 'last', run: () => 2 })`,
  })
  const h = await new PoolHarness({ modules: urls, threads: 2, loadTimeoutMs: 3_000 }).start()
  assert.deepEqual(h.catalog.tasks.map(({ name }) => name).sort(), ['first', 'last'])
  const broken = new Map(h.catalog.broken.map(({ file, message }) => [file, message]))
  assert.equal(broken.size, 8)
  assert.equal(broken.get(urls[0]!), `Error: not today (${urls[0]}:2:7)`)
  assert.match(broken.get(urls[2]!)!, new RegExp(`^SyntaxError: .*token '=' \\(${urls[2]}:2`))
  assert.match(
    broken.get(urls[3]!)!,
    /^SyntaxError: .*token '=' \((line 2:14 of a file that it imports|file:.*parse.mjs:2.*)\)/,
  )
  assert.match(broken.get(urls[4]!)!, new RegExp(`^SyntaxError: .*JSON.* \\(${urls[4]}:4:6\\)`))
  assert.match(
    broken.get(urls[5]!)!,
    new RegExp(`task "x": a task has no option "maxAttemts"; did you mean maxAttempts\\? \\(${urls[5]}:2:1\\)`),
  )
  assert.match(broken.get(urls[6]!)!, /code: 3/)
  assert.match(broken.get(urls[7]!)!, /not imported within 3000 ms/)
  assert.match(broken.get(urls[8]!)!, /not imported within 3000 ms/)
  assert.equal((await h.run('last', null, 0)).result, 2)
  assert.deepEqual(h.lost, [])
  // A thread that comes up later does not try them again.
  h.pool.kill(0, 'THREAD_EXITED', 'for a test')
  await h.until(() => h.opened.includes(0))
  assert.equal((await h.run('first', null, 1)).result, 1)
  await h.stop()
  remove()
})

test('threads that keep dying without a job are started more and more slowly, and then given up', async () => {
  const { urls, remove } = writeModules({
    dies: `export default defineTask({ name: 'ok', run() {} }); setTimeout(() => process.exit(1), 5)`,
  })
  const clock = new ManualClock()
  const h = await new PoolHarness({ modules: urls, clock }).start()
  const isGivenUp = () => h.logged.some(({ event, level }) => event === 'thread.given_up' && level === 'error')
  let waits = 0
  const goesOn = bound('until it is given up')
  while (goesOn() && !isGivenUp()) {
    await h.until(() => clock.waiting > 0 || isGivenUp())
    if (isGivenUp()) break
    if (h.lost.length > waits) {
      waits++
      clock.advance(50 * 2 ** (waits - 1) - 1)
      assert.equal(h.opened.length, waits - 1) // not a moment earlier
    }
    clock.advance(1)
    await h.until(() => h.lost.length > waits || isGivenUp())
  }
  assert.equal(h.lost.length, 8)
  assert.equal(h.pool.isOpen(0), false)
  assert.equal(clock.waiting, 0)
  await h.stop()
  remove()
})

test('files that are missing or end their thread do not keep a pool from starting', async () => {
  const { urls, remove } = writeModules({ dies: `process.exit(1)` })
  const h = await new PoolHarness({ modules: [...urls, 'file:///nowhere/at-all.mjs'] }).start()
  assert.deepEqual(h.catalog.tasks, [])
  assert.deepEqual(h.catalog.broken.map(({ file }) => file).sort(), [...urls, 'file:///nowhere/at-all.mjs'].sort())
  await h.stop()
  remove()
})

test('a start is refused when no thread can be brought up', async () => {
  const clock = new ManualClock()
  const h = new PoolHarness({ modules: [], clock, threadHeapMb: 1 }) // too small for Node itself
  const refused = assert.rejects(h.start(), { code: 'TASK_LOAD_FAILED' })
  const isGivenUp = () => h.logged.some(({ event }) => event === 'thread.given_up')
  await h.wait(() => {
    if (!isGivenUp() && clock.waiting > 0) clock.advance(20_000) // whatever it waits for
    return isGivenUp()
  })
  await refused
  assert.equal(h.pool.isOpen(0), false)
  await h.stop()
})

test(
  'errors that belong to no job are logged, and the thread goes on',
  withPool({ modules: [BEHAVED] }, async (h) => {
    const { urls, remove } = writeModules({
      stray: `Promise.reject(new Error('at import')); export default defineTask({ name: 'fine', run: () => 1 })`,
    })
    const other = await new PoolHarness({ modules: urls }).start()
    assert.equal((await other.run('fine', null, 0)).result, 1)
    const isStray = ({ event }: { event: string }) => event === 'thread.stray_error'
    await other.until(() => other.logged.some(isStray))
    const { err } = other.logged.find(isStray)!.facts as { err: Record<string, unknown> }
    assert.deepEqual([err.type, err.message], ['Error', 'at import'])
    assert.match(err.stack as string, /stray/)
    assert.deepEqual(other.lost, [])
    await other.stop()
    remove()
    assert.deepEqual(h.logged, [])
  }),
)

// Inline tasks.

const inlineTasks = () => {
  let running = 0
  return [
    defineTask({ name: 'here', inline: true, run: (payload: unknown) => ({ payload, threadId }) }),
    defineTask({
      name: 'overlap',
      inline: true,
      concurrency: 2,
      run: async (ms: number) => {
        running++
        const most = running
        await sleep(ms)
        running--
        return most
      },
    }),
    defineTask({
      name: 'fails',
      inline: true,
      run: (what: string) => {
        if (what === 'result') return 1n
        throw new TypeError('no')
      },
    }),
    defineTask({
      name: 'obeys',
      inline: true,
      concurrency: 2,
      run: async (_payload: unknown, { signal, log, progress, heartbeat }: TaskContext) => {
        log.info({ n: 1 }, 'waiting')
        progress(1)
        progress(2)
        heartbeat()
        if (!signal.aborted) await once(signal, 'abort')
        return signal.reason.code
      },
    }),
    defineTask({ name: 'sleeps', inline: true, run: (ms: number) => sleep(ms) }),
  ]
}

test('inline tasks run on the main thread, in order, and report as others do', async () => {
  const h = await new PoolHarness({ inline: inlineTasks() }).start()
  const info = h.catalog.tasks.find(({ name }) => name === 'here')!
  assert.deepEqual([info.inline, info.concurrency], [true, 1])
  h.feed('here', numbers(100), 0)
  h.feed('echo', numbers(100), 100)
  h.feed('fails', ['throw', 'result'], 200)
  assert.equal(h.pool.outstanding(0), 202)
  await h.until(() => h.pool.outstanding(0) === 0)
  for (let slot = 0; slot < 100; slot++) {
    assert.deepEqual(h.told.get(slot)!.result, { payload: slot, threadId })
    assert.deepEqual(h.told.get(slot)!.events, ['started', 'completed'])
  }
  assert.deepEqual(
    h.startOrder.filter((slot) => slot < 100 || slot >= 200),
    [...numbers(100), 200, 201],
  )
  assert.deepEqual([h.told.get(200)!.error!.type, h.told.get(200)!.retryable], ['TypeError', true])
  assert.equal(h.told.get(201)!.error!.code, 'RESULT_INVALID')
  h.feedTexts('here', ['{'], 300)
  await h.until(() => h.isOver(300))
  assert.equal(h.told.get(300)!.error!.code, 'INVALID_PAYLOAD')
  await h.stop()
})

test('inline jobs overlap up to their concurrency, can be taken back, aborted and heard, and ring the bell', async () => {
  const h = await new PoolHarness({ inline: inlineTasks() }).start()
  h.feed('overlap', [10, 10, 10, 10], 0)
  await h.until(() => h.pool.outstanding(0) === 0)
  assert.equal(Math.max(...numbers(4).map((slot) => h.told.get(slot)!.result as number)), 2)
  h.feed('obeys', [null, null, null, null], 10)
  await h.until(() => h.told.get(11)?.events.includes('heartbeat') === true)
  assert.equal(h.pool.taken(0), 2)
  assert.deepEqual(h.pool.revoke(0), [12, 13])
  assert.equal(h.pool.isOpen(0), true)
  h.feed('obeys', [null], 12)
  h.pool.abort(0, 12, 13, 'stopping')
  h.pool.drain(h, 100)
  assert.equal(h.pool.armDoorbell(), true)
  h.pool.abort(0, 10, 11, 'timeout')
  h.pool.abort(0, 11, 12, 'cancelled')
  await h.wait(() => h.bells > 0)
  await h.until(() => h.pool.outstanding(0) === 0)
  const told = h.told.get(10)!
  assert.deepEqual([told.result, told.progress, told.logs.length], ['TASK_TIMED_OUT', [2], 1])
  assert.equal(h.told.get(11)!.result, 'TASK_CANCELLED')
  assert.equal(h.told.get(12)!.error!.code, 'STOPPING')
  await h.stop()
})

test('when a thread dies, inline jobs of its place end and are no part of the loss', async () => {
  const h = await new PoolHarness({ inline: inlineTasks() }).start()
  h.feed('sleeps', [100, 0], 0)
  h.feed('spins', [null], 2)
  await h.until(() => h.told.has(0) && h.told.has(2))
  h.pool.kill(0, 'TASK_TIMED_OUT', 'for a test')
  await h.until(() => h.lost.length === 1)
  assert.deepEqual([h.isOver(0), h.isOver(1), h.lost[0]!.notTaken], [true, false, [1]])
  await h.until(() => h.pool.isOpen(0))
  assert.equal(((await h.run('here', 7, 9)).result as { payload: number }).payload, 7)
  await h.stop()
})

test('stop waits for inline jobs until its deadline, and tells of those that did not end', async () => {
  const h = await new PoolHarness({ inline: inlineTasks(), modules: [] }).start()
  h.feed('sleeps', [30, 0], 0)
  await h.until(() => h.told.has(0))
  await h.stop()
  await h.until(() => h.lost.length === 1)
  assert.deepEqual([h.isOver(0), h.lost[0]!.notTaken], [true, [1]])

  const late = await new PoolHarness({ inline: inlineTasks(), modules: [] }).start()
  late.feed('obeys', [null], 0)
  await late.until(() => late.told.has(0))
  await late.stop(20)
  await late.until(() => late.lost.length === 1)
  assert.deepEqual([late.lost[0]!.notTaken, late.isOver(0), late.pool.hasReports()], [[], false, false])
})

// Replacing and stopping.

test(
  'a thread is replaced after its number of jobs, and nothing is lost or done twice',
  withPool({ recycleAfterJobs: 100 }, async (h) => {
    for (let slot = 0; slot < 1_000; slot += 50) {
      await h.until(() => h.pool.isOpen(0))
      h.feed('whoami', numbers(50), slot)
      await h.until(() => h.pool.outstanding(0) < 50)
    }
    await h.until(() => h.pool.outstanding(0) === 0)
    assert.deepEqual(h.startOrder, numbers(1_000))
    assert.ok(new Set([...h.told.values()].map(({ result }) => result)).size >= 5)
    assert.deepEqual(h.lost, [])
    assert.ok(h.logged.every(({ event }) => event === 'thread.recycled'))
  }),
)

test(
  'a thread whose heap stays nearly full is replaced between jobs, and nothing is lost',
  withPool({ threadHeapMb: 128 }, async (h) => {
    const thread = (await h.run('whoami', null, 0)).result
    await h.run('keeps', null, 1)
    let slot = 2
    const goesOn = bound('for another thread')
    while (goesOn() && (await h.run('whoami', null, slot)).result === thread) {
      slot++
      await sleep(20) // it looks once a second
    }
    assert.deepEqual(h.lost, [])
    assert.equal(h.logged[0]!.event, 'thread.recycled')
  }),
)

test('stop waits for what runs, takes nothing more, and what was reported is still there to be drained', async () => {
  const h = await new PoolHarness().start()
  h.feed('rest', [100], 0)
  h.feed('echo', [1, 2], 1)
  await h.wait(() => h.pool.taken(0) === 1)
  await h.stop()
  await h.until(() => h.lost.length === 1)
  assert.deepEqual(h.told.get(0)!.events, ['started', 'completed'])
  assert.deepEqual([h.lost[0]!.notTaken, h.isOver(1)], [[1, 2], false])
  assert.equal(h.pool.hasReports(), false)
  await h.stop() // safe twice
})

test('stop ends what does not end by itself at the deadline, and tells it as lost', async () => {
  const h = await new PoolHarness({ threads: 2 }).start()
  h.feed('spins', [null], 0)
  h.feed('echo', [1], 1)
  await h.until(() => h.told.has(0))
  await h.stop(50)
  await h.until(() => h.lost.length === 1)
  assert.deepEqual([h.lost[0]!.code, h.lost[0]!.notTaken], ['STOPPING', [1]])
  assert.equal(h.pool.hasReports(), false)
})

test('stop is safe without start, and while threads are still loading', async () => {
  await new PoolHarness().stop()
  const h = new PoolHarness({ threads: 2 })
  const starting = h.start()
  await Promise.all([assert.rejects(starting, { code: 'STOPPING' }), h.stop()])
})

test('fifty starts and stops, some with a kill, leave nothing behind', async () => {
  const handles = () => process.getActiveResourcesInfo().sort()
  const before = handles()
  for (let cycle = 0; cycle < 50; cycle++) {
    const h = await new PoolHarness({ modules: [BEHAVED], threads: 1 + (cycle % 2) }).start()
    if (cycle % 3 === 0) await h.run('echo', cycle, 0)
    if (cycle % 5 === 0) h.feed('rest', [60_000], 1)
    if (cycle % 4 === 0) h.pool.kill(0, 'THREAD_EXITED', 'for a test')
    if (cycle % 2 === 0) h.pool.armDoorbell()
    await h.stop(cycle % 5 === 0 ? 1 : 20_000)
    h.pool.drain(h, 1_000)
    assert.equal(h.pool.hasReports(), false)
  }
  await sleep(50)
  const more = handles()
  for (const kind of before) if (more.includes(kind)) more.splice(more.indexOf(kind), 1) // earlier tests may still be closing
  assert.deepEqual(more, [])
})
