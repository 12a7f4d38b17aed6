// The syncer against a model of PostgreSQL: batching and its triggers, limits, lost answers, refused outcomes, stopping.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { Clock } from '../engine/base/clock.ts'
import { EngineError } from '../engine/base/errors.ts'
import { Deadline } from '../engine/base/lifecycle.ts'
import type { Log, LogMethod } from '../engine/base/log.ts'
import type { Flush, IterationStats } from '../engine/store/types.ts'
import { Batcher } from '../engine/syncer/batcher.ts'
import type { DeadRecord } from '../engine/syncer/outbox.ts'
import { OutcomePage } from '../engine/syncer/outcome-page.ts'
import { Syncer, type SyncerOptions } from '../engine/syncer/syncer.ts'
import { chunkOf, FlushModel, rowsOf } from './support/flush-model.ts'
import { ManualClock } from './support/manual-clock.ts'

const NONE = new Uint8Array(0)

class Lines implements Log {
  readonly lines: { level: string; event: string; facts: Record<string, unknown> }[] = []
  readonly debug = this.#method('debug')
  readonly info = this.#method('info')
  readonly warn = this.#method('warn')
  readonly error = this.#method('error')
  child(): Log {
    return this
  }
  events(level?: string): string[] {
    return this.lines.filter((line) => level === undefined || line.level === level).map((line) => line.event)
  }
  #method(level: string): LogMethod {
    return (facts, event) => void this.lines.push({ level, event, facts })
  }
}

class MemoryOutbox {
  readonly flushes: Flush[] = []
  readonly deads: DeadRecord[] = []
  full = false
  async put(_nodeId: number, flush: Flush): Promise<void> {
    if (this.full) throw new EngineError('OUTBOX_FAILED', 'no space left')
    this.flushes.push({ ...structuredClone(flush), rows: Buffer.from(flush.rows) }) // the page may be used again
  }
  async putDead(record: DeadRecord): Promise<void> {
    this.deads.push(record)
  }
}

function bundle(options: Partial<SyncerOptions> = {}, clock: Clock = new ManualClock()) {
  const store = new FlushModel()
  const outbox = new MemoryOutbox()
  const log = new Lines()
  const told = { stale: [] as [readonly number[], number][], flushed: 0, room: 0, failed: [] as unknown[] }
  const statsWritten: IterationStats[] = []
  const statsStore = { fail: false, wake: () => {} }
  const syncer = new Syncer(
    {
      flush: (flush) => store.flush(flush),
      async writeStats(rows) {
        statsStore.wake()
        if (statsStore.fail) throw new Error('no stats today')
        statsWritten.push(...rows)
      },
      nodeId: () => 5,
      onStale: (leaseIds, dropped) => told.stale.push([leaseIds, dropped]),
      onFlushed: (count) => {
        told.flushed += count
      },
      onRoom: () => {
        told.room++
      },
      onFailed: (error) => told.failed.push(error),
    },
    outbox,
    options,
    clock,
    log,
  )
  const complete = (first: number, count: number, text = '') => {
    const bytes = Buffer.from(text)
    for (let jobId = first; jobId < first + count; jobId++)
      syncer.outcomes.completed(chunkOf(1), jobId, 0, 1, 2, bytes, 0, bytes.length)
  }
  const sample = (count: number) => {
    for (let n = 0; n < count; n++)
      syncer.recordStats({
        timestampMs: n,
        durationMs: 1,
        activeOrchestrators: 1,
        indexSize: 1,
        inboxDepth: 0,
        messagesProcessed: 0,
      })
  }
  return { syncer, store, outbox, log, told, statsWritten, statsStore, complete, sample, clock }
}

/** Lets everything run that does not wait for time. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve))

const ids = (store: FlushModel) => store.rows.map((row) => row.jobId)
const upTo = (count: number) => Array.from({ length: count }, (_, index) => index + 1)

describe('buffering', () => {
  test('[CS-017] ten updates below the threshold stay buffered and ask for no flush', async () => {
    const { syncer, store, complete } = bundle({ flushRows: 500 })
    await syncer.start()
    complete(1, 10)
    await settle()
    assert.equal(syncer.stats().bufferedUpdates, 10)
    assert.equal(syncer.flushSignal.updates, null)
    assert.equal(store.calls, 0)
  })

  test('[CS-018] the update that reaches the threshold asks for a flush, once', () => {
    const { syncer, complete } = bundle({ flushRows: 500 })
    complete(1, 499)
    assert.equal(syncer.flushSignal.updates, null)
    complete(500, 1)
    assert.equal(syncer.flushSignal.updates, 'size')
    complete(501, 20)
    assert.equal(syncer.flushSignal.updates, 'size')
  })

  test('[CS-019] the update beyond the hard limit is an error that says so, and is kept all the same', async () => {
    const { syncer, store, complete } = bundle({ updatesBufferedMax: 100 })
    complete(1, 100)
    assert.throws(
      () => complete(101, 1),
      (error: EngineError) =>
        error.code === 'BUFFER_OVERFLOW' && /buffer exceeded maximum size: 101 > 100/.test(error.message),
    )
    await syncer.start()
    await syncer.flush()
    assert.deepEqual(ids(store), upTo(101))
  })

  test('[CS-020] ten samples below the threshold stay buffered and ask for no flush', async () => {
    const { syncer, sample, statsWritten } = bundle({ statsFlushRows: 30 })
    await syncer.start()
    sample(10)
    await settle()
    assert.equal(syncer.stats().bufferedStats, 10)
    assert.equal(syncer.flushSignal.stats, null)
    assert.equal(statsWritten.length, 0)
  })

  test('[CS-021] the sample that reaches the threshold asks for a flush', () => {
    const { syncer, sample } = bundle({ statsFlushRows: 30 })
    sample(29)
    assert.equal(syncer.flushSignal.stats, null)
    sample(1)
    assert.equal(syncer.flushSignal.stats, 'size')
  })

  test('room ends at half of the limit, and the syncer says when there is room again', async () => {
    const { syncer, store, told, complete } = bundle({ updatesBufferedMax: 100, flushRows: 1_000 })
    complete(1, 49)
    assert.equal(syncer.outcomes.hasRoom(), true)
    complete(50, 1)
    assert.equal(syncer.outcomes.hasRoom(), false)
    assert.equal(told.room, 0)
    await syncer.start()
    await syncer.flush()
    assert.equal(syncer.outcomes.hasRoom(), true)
    assert.equal(told.room, 1)
    assert.equal(store.rows.length, 50)
  })

  test('room ends at the limit in bytes, what is in flight included, and twice as much is the hard limit', async () => {
    const { syncer, store, complete } = bundle({ updatesBytesMax: 100_000 })
    let open = () => {}
    store.gate = new Promise((resolve) => {
      open = resolve
    })
    await syncer.start()
    complete(1, 1, `"${'x'.repeat(60_000)}"`)
    syncer.requestFlush()
    await settle()
    assert.equal(syncer.stats().bufferedUpdates, 0)
    assert.equal(syncer.outcomes.hasRoom(), true)
    complete(2, 1, `"${'x'.repeat(60_000)}"`)
    assert.equal(syncer.outcomes.hasRoom(), false)
    complete(3, 1, `"${'x'.repeat(60_000)}"`)
    assert.throws(() => complete(4, 1, `"${'x'.repeat(60_000)}"`), /buffer exceeded maximum size/)
    open()
    await syncer.flush()
    assert.deepEqual(ids(store), upTo(4))
  })
})

describe('handing over', () => {
  test('[CS-022] a flush hands all buffered updates over and leaves the buffer empty', async () => {
    const { syncer, store, complete } = bundle()
    await syncer.start()
    complete(1, 100)
    assert.equal(syncer.tryFlush(), 100)
    assert.equal(syncer.stats().bufferedUpdates, 0)
    await syncer.flush()
    assert.deepEqual(ids(store), upTo(100))
  })

  test('[CS-023] with room for ten of twenty, ten are handed over, the rest stays, and nothing is sent twice', async () => {
    const { syncer, store, complete } = bundle({ channelRowsMax: 10, flushRowsMax: 10 })
    complete(1, 20)
    assert.throws(
      () => syncer.tryFlush(),
      (error: EngineError) => error.code === 'CHANNEL_FULL' && /channel full/.test(error.message),
    )
    assert.equal(syncer.stats().bufferedUpdates, 10)
    assert.equal(syncer.stats().heldUpdates, 20)
    assert.throws(() => syncer.tryFlush(), /channel full/)
    await syncer.start()
    await syncer.flush()
    assert.deepEqual(ids(store), upTo(20))
  })

  test('[CS-024] a flush of statistics hands all samples over and leaves the buffer empty', async () => {
    const { syncer, sample, statsWritten } = bundle({ statsFlushRows: 1_000 })
    await syncer.start()
    sample(50)
    assert.equal(syncer.tryFlushStats(), 50)
    assert.equal(syncer.stats().bufferedStats, 0)
    await settle()
    assert.deepEqual(
      statsWritten.map((row) => row.timestampMs),
      upTo(50).map((n) => n - 1),
    )
  })

  test('[CS-025] a flush of nothing is no error and touches no channel', async () => {
    const { syncer, statsWritten, store } = bundle()
    assert.equal(syncer.tryFlushStats(), 0)
    assert.equal(syncer.tryFlush(), 0)
    await syncer.flush()
    await syncer.start()
    await settle()
    assert.equal(statsWritten.length + store.calls, 0)
  })

  test('one flush at a time: what arrives meanwhile goes next, all at once', async () => {
    const { syncer, store, complete } = bundle({ flushRows: 10 })
    let open = () => {}
    store.gate = new Promise((resolve) => {
      open = resolve
    })
    await syncer.start()
    complete(1, 10)
    await settle()
    assert.equal(store.calls, 1)
    complete(11, 3)
    await settle()
    complete(14, 40)
    await settle()
    assert.equal(store.calls, 1)
    open()
    await settle()
    assert.deepEqual(
      store.flushes.map((flush) => flush.rowCount),
      [10, 43],
    )
  })

  test('an update that comes alone while another is being written goes next, without any time passing', async () => {
    const { syncer, store, complete } = bundle({ flushRows: 10 }, new ManualClock())
    let open = () => {}
    store.gate = new Promise((resolve) => {
      open = resolve
    })
    await syncer.start()
    complete(1, 10)
    await settle()
    complete(11, 1)
    await settle()
    open()
    await settle()
    assert.deepEqual(ids(store), upTo(11))
  })

  test('a transaction takes no more than flushRowsMax', async () => {
    const { syncer, store, complete } = bundle({ flushRowsMax: 30 })
    complete(1, 100)
    await syncer.start()
    await syncer.flush()
    assert.deepEqual(
      store.flushes.map((flush) => flush.rowCount),
      [30, 30, 30, 10],
    )
    assert.deepEqual(ids(store), upTo(100))
  })
})

describe('triggers', () => {
  test('[CS-026] after the interval a few updates are written although the threshold is far', async () => {
    const { syncer, store, complete, clock } = bundle({ flushEveryMs: 100, flushRows: 500 }, new ManualClock())
    await syncer.start()
    complete(1, 10)
    ;(clock as ManualClock).advance(99)
    await settle()
    assert.equal(store.calls, 0)
    ;(clock as ManualClock).advance(51)
    await settle()
    assert.deepEqual(ids(store), upTo(10))
  })

  test('[CS-027] after the interval a few samples are written although the threshold is far', async () => {
    const { syncer, sample, statsWritten, clock } = bundle({ statsFlushMs: 100, statsFlushRows: 30 }, new ManualClock())
    await syncer.start()
    sample(5)
    ;(clock as ManualClock).advance(99)
    await settle()
    assert.equal(statsWritten.length, 0)
    ;(clock as ManualClock).advance(51)
    await settle()
    assert.equal(statsWritten.length, 5)
    assert.equal(syncer.stats().bufferedStats, 0)
  })

  test('[CS-028] the tenth of ten updates is followed by a flush without any time passing', async () => {
    const { syncer, store, complete } = bundle({ flushRows: 10 }, new ManualClock())
    await syncer.start()
    complete(1, 10)
    await settle()
    assert.deepEqual(ids(store), upTo(10))
  })

  test('[CS-029] a flush that is asked for happens without any time passing, and asking does not wait', async () => {
    const { syncer, store, complete } = bundle({ flushRows: 500 }, new ManualClock())
    await syncer.start()
    complete(1, 5)
    syncer.requestFlush()
    syncer.requestFlush()
    assert.equal(store.calls, 0)
    await settle()
    assert.deepEqual(ids(store), upTo(5))
    assert.equal(store.calls, 1)
  })

  test('flush() resolves when everything buffered before is settled, also what is in flight', async () => {
    const { syncer, store, complete } = bundle({ flushRows: 2 })
    const steps: string[] = []
    let open = () => {}
    store.gate = new Promise((resolve) => {
      open = resolve
    })
    await syncer.start()
    complete(1, 2)
    await settle()
    const inFlight = syncer.flush().then(() => steps.push('first'))
    complete(3, 1)
    const both = syncer.flush().then(() => steps.push('second'))
    await settle()
    assert.deepEqual(steps, [])
    open()
    await Promise.all([inFlight, both])
    assert.deepEqual(steps, ['first', 'second'])
    assert.deepEqual(ids(store), upTo(3))
  })
})

describe('writing', () => {
  test('[CS-030] a written update is counted and logged at debug', async () => {
    const { syncer, store, log, told, complete } = bundle()
    await syncer.start()
    complete(1, 1)
    await syncer.flush()
    assert.deepEqual(ids(store), [1])
    assert.equal(told.flushed, 1)
    assert.ok(log.events('debug').includes('wrote job run update'))
    assert.equal(syncer.stats().written, 1)
  })

  test('when the owner is told of a settled page, nothing of it is held any more, also when all of it was stale', async () => {
    const { syncer, store, told, complete } = bundle()
    const seen: [number, number][] = []
    Object.defineProperty(told, 'flushed', {
      get: () => 0,
      set: (written: number) => seen.push([written, syncer.stats().heldUpdates]),
    })
    await syncer.start()
    complete(1, 3)
    await syncer.flush()
    store.stale.add(1)
    complete(4, 2)
    await syncer.flush()
    assert.deepEqual(seen, [
      [3, 0],
      [0, 0],
    ])
  })

  test('[CS-031] an update that retrying cannot mend is logged at error level, kept in the dead file, not sent again', async () => {
    const { syncer, store, outbox, log, complete } = bundle()
    const sent: string[] = []
    const real = store.flush.bind(store)
    store.flush = (flush) => {
      sent.push(...rowsOf(flush).map((row) => `${row.jobId}${row.outcome}`))
      store.calls++
      return Promise.reject(new Error('mock DB says no'))
    }
    await syncer.start()
    complete(1, 1)
    await syncer.flush()
    assert.deepEqual(log.events('error'), ['failed to write job run update'])
    assert.equal(sent.filter((row) => row === '1c').length, 1, 'the update itself went out once')
    assert.deepEqual(
      outbox.deads.map((dead) => dead.jobId),
      [1],
    )
    assert.deepEqual(ids(store), [])
    store.flush = real
    complete(2, 1)
    await syncer.flush()
    assert.deepEqual(ids(store), [2])
  })

  test('[CS-032] statistics that cannot be written are logged and forgotten; updates do not notice', async () => {
    const { syncer, store, log, statsStore, statsWritten, complete, sample } = bundle({ statsFlushRows: 5 })
    statsStore.fail = true
    await syncer.start()
    sample(5)
    complete(1, 1)
    await syncer.flush()
    await settle()
    assert.deepEqual(log.events('error'), ['failed to write stats update'])
    assert.deepEqual(ids(store), [1])
    statsStore.fail = false
    sample(5)
    await settle()
    assert.equal(statsWritten.length, 5)
    assert.equal(syncer.stats().statsLost, 5)
  })

  test('one refused outcome among many: the others are written, its job ends with a substitute', async () => {
    const { syncer, store, outbox, log, complete } = bundle()
    store.poison = 'POISON'
    complete(1, 300)
    complete(301, 1, '"POISON"')
    complete(302, 300)
    await syncer.start()
    await syncer.flush()
    const real = store.rows.filter((row) => row.outcome === 'c').map((row) => row.jobId)
    assert.deepEqual(
      real,
      upTo(601).filter((id) => id !== 301),
    )
    const substitute = store.rows.find((row) => row.jobId === 301)!
    assert.equal(substitute.outcome, 'f')
    assert.match(substitute.text!, /STORE_FAILED/)
    assert.deepEqual(
      store.deads.map(({ jobId, code, attempts, run }) => ({ jobId, code, attempts, run })),
      [{ jobId: 301, code: 'STORE_FAILED', attempts: 1, run: 1 }],
    )
    assert.equal(store.done.get(1), 601, 'nothing of the lease stays open')
    assert.deepEqual(
      outbox.deads.map((dead) => [dead.jobId, dead.sqlState]),
      [[301, '22P02']],
    )
    assert.equal(rowsOf(outbox.deads[0]!.flush)[0]!.text, '"POISON"', 'the evidence is kept')
    assert.deepEqual(log.events('error'), ['failed to write job run update'])
  })

  test('a refused failure that has a retry keeps the retry and loses only its words', async () => {
    const { syncer, store } = bundle()
    store.poison = 'POISON'
    const bytes = Buffer.from('{"message":"POISON"}')
    syncer.outcomes.failed(chunkOf(1), 1, 'f', 'TASK_THREW', 0, 1, 2, bytes, 0, bytes.length, 500)
    await syncer.start()
    await syncer.flush()
    assert.deepEqual(store.retries, [{ leaseId: 1, jobId: 1, delayMs: 500, attempt: 2, run: 2, rescues: 0 }])
    assert.equal(store.deads.length, 0)
    assert.equal(store.rows.length, 1)
  })

  test('a server in trouble is not blamed on the outcomes: they wait until it is mended', async () => {
    const { syncer, store, outbox, complete, clock, log } = bundle({}, new ManualClock())
    let broken = true
    const real = store.flush.bind(store)
    store.flush = (flush) => {
      if (!broken) return real(flush)
      store.calls++
      return Promise.reject(new EngineError('STORE_FAILED', 'disk full', { sqlState: '53100' }))
    }
    await syncer.start()
    complete(1, 3)
    const flushed = syncer.flush()
    for (let n = 0; n < 5; n++) {
      await settle()
      ;(clock as ManualClock).advance(2_000)
    }
    assert.ok(store.calls > 1)
    assert.notEqual(syncer.stats().failingSinceSteadyMs, null)
    broken = false
    await settle()
    ;(clock as ManualClock).advance(2_000)
    await flushed
    assert.deepEqual(ids(store), [1, 2, 3])
    assert.equal(outbox.deads.length, 0)
    assert.deepEqual(log.events('info'), ['flush.recovered'])
  })

  test('when even substitutes are refused, ten outcomes pay for it and the others wait', async () => {
    const { syncer, store, outbox, complete, clock } = bundle({}, new ManualClock())
    let broken = true
    const real = store.flush.bind(store)
    store.flush = (flush) => (broken ? Promise.reject(new TypeError('a bug')) : real(flush))
    await syncer.start()
    complete(1, 50)
    const flushed = syncer.flush()
    for (let n = 0; n < 200; n++) await settle()
    assert.equal(outbox.deads.length, 10)
    assert.equal(syncer.stats().heldUpdates, 50)
    broken = false
    ;(clock as ManualClock).advance(2_000)
    await flushed
    assert.deepEqual(
      ids(store).filter((id) => id > 10),
      upTo(50).filter((id) => id > 10),
    )
  })

  test('a lost connection delays with growing waits and then sends the same flush with the same number', async () => {
    const { syncer, store, complete, clock } = bundle({ retryMs: 50, retryMsMax: 2_000 }, new ManualClock())
    const manual = clock as ManualClock
    await syncer.start()
    store.weather.push(...Array<'lost'>(8).fill('lost'))
    complete(1, 4)
    const flushed = syncer.flush()
    await settle()
    assert.equal(store.calls, 1)
    for (const [index, most] of [50, 100, 200, 400, 800, 1_600, 2_000, 2_000].entries()) {
      manual.advance(most / 2 - 1)
      await settle()
      assert.equal(store.calls, index + 1, `not before half of ${most} ms`)
      manual.advance(most / 2 + 1)
      await settle()
      assert.equal(store.calls, index + 2, `within ${most} ms`)
    }
    await flushed
    assert.deepEqual(
      store.flushes.map((flush) => flush.no),
      [1],
    )
    assert.equal(syncer.stats().retries, 8)
  })

  test('a commit whose answer was lost is not written twice', async () => {
    const { syncer, store, complete, clock } = bundle({}, new ManualClock())
    await syncer.start()
    store.weather.push('ambiguous')
    complete(1, 4)
    const flushed = syncer.flush()
    await settle()
    ;(clock as ManualClock).advance(50)
    await flushed
    assert.deepEqual(ids(store), upTo(4))
    assert.equal(syncer.stats().alreadyDone, 1)
  })

  test('memory that a lost try may still be reading is never written again', async () => {
    const { syncer, store, complete, clock } = bundle({}, new ManualClock())
    const seen: Flush[] = []
    const real = store.flush.bind(store)
    store.flush = (flush) => {
      seen.push(flush)
      return real(flush)
    }
    await syncer.start()
    store.weather.push('lost')
    complete(1, 4, '"first"')
    const flushed = syncer.flush()
    await settle()
    ;(clock as ManualClock).advance(50)
    await flushed
    for (let round = 0; round < 4; round++) {
      complete(100 + round * 10, 10, '"later"')
      await syncer.flush()
    }
    assert.ok(rowsOf(seen[0]!).every((row, index) => row.jobId === index + 1 && row.text === '"first"'))
  })

  test('outcomes of a lost lease are dropped, counted and told', async () => {
    const { syncer, store, told } = bundle()
    store.stale.add(2)
    await syncer.start()
    syncer.outcomes.completed(chunkOf(1), 1, 0, 1, 2, NONE, 0, 0)
    syncer.outcomes.completed(chunkOf(101, { leaseId: 2 }), 101, 0, 1, 2, NONE, 0, 0)
    syncer.outcomes.release(chunkOf(101, { leaseId: 2 }), 102, 3, false, -1, 0, 2)
    await syncer.flush()
    assert.deepEqual(ids(store), [1])
    assert.deepEqual(told.stale, [[[2], 4]])
    assert.equal(told.flushed, 1)
    assert.equal(syncer.stats().stale, 4)
  })

  test('a fenced node has nothing to write any more', async () => {
    const { syncer, store, told, complete } = bundle()
    store.flush = () => Promise.reject(new EngineError('NODE_FENCED', 'taken over'))
    await syncer.start()
    complete(1, 4)
    await syncer.flush()
    assert.deepEqual(told.stale, [[[1], 4]])
    assert.equal(syncer.stats().heldUpdates, 0)
  })

  test('what is being flushed is frozen: later outcomes do not change it', async () => {
    const { syncer, store, complete } = bundle({ flushRows: 5 })
    let open = () => {}
    store.gate = new Promise((resolve) => {
      open = resolve
    })
    await syncer.start()
    complete(1, 5, '"first"')
    await settle()
    complete(6, 400, '"second"')
    open()
    await syncer.flush()
    assert.deepEqual(ids(store), upTo(405))
    assert.ok(store.rows.slice(0, 5).every((row) => row.text === '"first"'))
  })
})

describe('what an outcome says', () => {
  const all = async (tell: (syncer: Syncer) => void) => {
    const { syncer, store } = bundle()
    tell(syncer)
    await syncer.start()
    await syncer.flush()
    return store
  }

  test('a failure with a delay is an attempt and a retry, one without is an attempt and a dead letter', async () => {
    const shared = new Uint8Array(new SharedArrayBuffer(64))
    const end = Buffer.from(shared.buffer).write('..{"code":"TASK_THREW"}')
    const chunk = chunkOf(1, { attempt: 2, run: 5, rescues: 1, keyed: true })
    const store = await all((syncer) => {
      syncer.outcomes.failed(chunk, 1, 'f', 'TASK_THREW', 0, 1, 2, shared, 2, end, 1_000.4)
      syncer.outcomes.failed(chunk, 2, 't', 'TASK_TIMED_OUT', 0, 1, 2, shared, 2, end, -1)
    })
    assert.deepEqual(
      store.rows.map((row) => [row.jobId, row.outcome, row.run, row.attempt, row.text]),
      [
        [1, 'f', 5, 2, '{"code":"TASK_THREW"}'],
        [2, 't', 5, 2, '{"code":"TASK_THREW"}'],
      ],
    )
    assert.deepEqual(store.retries, [{ leaseId: 1, jobId: 1, delayMs: 1_000, attempt: 3, run: 6, rescues: 1 }])
    assert.deepEqual(store.deads, [
      { leaseId: 1, jobId: 2, code: 'TASK_TIMED_OUT', reason: '{"code":"TASK_THREW"}', attempts: 2, run: 5 },
    ])
    assert.deepEqual(
      store.finished.map((item) => item.jobId),
      [2],
    )
  })

  test('expired and cancelled jobs get their attempt with a reason; expired ones are dead letters', async () => {
    const store = await all((syncer) => {
      syncer.outcomes.expired(chunkOf(1), 1, 9)
      syncer.outcomes.cancelled(chunkOf(1, { group: 'g' }), 2, -1, 0, 9, 'by the user')
    })
    assert.deepEqual(
      store.rows.map((row) => [row.outcome, JSON.parse(row.text!).code]),
      [
        ['e', 'TASK_EXPIRED'],
        ['x', 'TASK_CANCELLED'],
      ],
    )
    assert.equal(JSON.parse(store.rows[1]!.text!).message, 'by the user')
    assert.deepEqual(
      store.deads.map((item) => [item.jobId, item.code, item.attempts]),
      [[1, 'TASK_EXPIRED', 0]],
    )
    assert.deepEqual(store.finished, [{ leaseId: 1, jobId: 2, queueId: 7, keyed: false, ephemeral: false, group: 'g' }])
  })

  test('adjacent releases of one chunk become one, in either direction; others do not', async () => {
    const chunk = chunkOf(1, { attempt: 2, run: 3, rescues: 1, rank: -5, seq: 77 })
    const other = chunkOf(40, { seq: 78 })
    const store = await all((syncer) => {
      syncer.outcomes.release(chunk, 10, 5, false, -1, 0, 9)
      syncer.outcomes.release(chunk, 15, 1, false, -1, 0, 9)
      syncer.outcomes.release(chunk, 8, 2, false, -1, 0, 9)
      syncer.outcomes.release(chunk, 30, 1, false, -1, 0, 9)
      syncer.outcomes.release(other, 31, 1, false, -1, 0, 9)
    })
    assert.deepEqual(
      store.releases.map(({ firstId, count }) => [firstId, count]),
      [
        [8, 8],
        [30, 1],
        [31, 1],
      ],
    )
    assert.deepEqual(store.releases[0], {
      leaseId: 1,
      firstId: 8,
      count: 8,
      attempt: 2,
      run: 3,
      rescues: 1,
      rank: -5,
      seq: 77,
    })
    assert.equal(store.rows.length, 0)
    assert.equal(store.done.get(1), 10)
  })

  test('a started job that is given back leaves a row and goes on with its next run, uncharged', async () => {
    const store = await all((syncer) => {
      syncer.outcomes.release(chunkOf(1), 1, 2, true, 3, 5, 9)
      syncer.outcomes.release(chunkOf(1), 3, 1, false, -1, 0, 9)
    })
    assert.deepEqual(
      store.rows.map((row) => [row.jobId, row.outcome, row.run]),
      [
        [1, 'r', 1],
        [2, 'r', 1],
      ],
    )
    assert.deepEqual(
      store.releases.map(({ firstId, count, run, attempt }) => [firstId, count, run, attempt]),
      [
        [1, 2, 2, 1],
        [3, 1, 1, 1],
      ],
    )
    assert.equal(store.done.get(1), 3)
  })

  test('an ephemeral job that completes writes no attempt and goes; one that fails for good stays with its evidence', async () => {
    const chunk = chunkOf(1, { ephemeral: true })
    const store = await all((syncer) => {
      syncer.outcomes.completed(chunk, 1, 0, 1, 2, NONE, 0, 0)
      syncer.outcomes.failed(chunk, 2, 'f', 'X', 0, 1, 2, Buffer.from('{}'), 0, 2, -1)
    })
    assert.deepEqual(ids(store), [2])
    assert.deepEqual(
      store.finished.map((item) => [item.jobId, item.ephemeral]),
      [[1, true]],
    )
    assert.equal(store.done.get(1), 2)
  })

  test('the last sign of life per job wins, keeps known progress, names its lease, and goes when the job ends', async () => {
    const store = await all((syncer) => {
      syncer.outcomes.running(chunkOf(1, { leaseId: 9 }), 1, 4, 5, Buffer.from('10'))
      syncer.outcomes.running(chunkOf(1, { leaseId: 9 }), 1, 4, 5, Buffer.from('20'))
      syncer.outcomes.running(chunkOf(1, { leaseId: 9 }), 1, 4, 5, null)
      syncer.outcomes.running(chunkOf(1), 2, 4, 5, null)
      syncer.outcomes.completed(chunkOf(1), 2, 4, 5, 6, NONE, 0, 0)
    })
    assert.deepEqual(store.running, [{ leaseId: 9, jobId: 1, run: 1, lane: 4, startedAtMs: 5, progress: '20' }])
    assert.deepEqual(store.flushes[0]!.leaseIds, [9, 1])
    assert.deepEqual(store.flushes[0]!.leaseDone, [0, 1])
  })
})

describe('stopping', () => {
  test('[CS-033] a stop writes all buffered updates and samples and leaves nothing running', async () => {
    const { syncer, store, statsWritten, complete, sample, clock } = bundle({}, new ManualClock())
    await syncer.start()
    complete(1, 100)
    sample(10)
    const report = await syncer.finish(new Deadline(clock, 10_000))
    assert.deepEqual(report, { written: 100, outboxed: 0 })
    assert.deepEqual(ids(store), upTo(100))
    assert.equal(statsWritten.length, 10)
    assert.equal(syncer.stats().heldUpdates + syncer.stats().bufferedStats, 0)
    assert.equal((clock as ManualClock).waiting, 0, 'no timer stays')
    assert.throws(() => complete(101, 1), { code: 'STOPPING' })
  })

  test('a stop with a buffer larger than the channel waits for room instead of dropping', async () => {
    const { syncer, store, log, complete, clock } = bundle({ channelRowsMax: 10, flushRowsMax: 10, flushRows: 1_000 })
    await syncer.start()
    complete(1, 95)
    await syncer.stop(new Deadline(clock, 10_000))
    assert.deepEqual(ids(store), upTo(95))
    const handedOver = log.lines.findIndex(
      (line) => line.event === 'buffer.flushed' && line.facts.name === 'job run update',
    )
    const before = log.events().slice(0, handedOver)
    assert.equal(
      before.filter((event) => event === 'wrote job run update').length,
      8,
      'ten pages, room for one, one at work',
    )
  })

  test('[CS-034] fifty updates put straight into the channel are all written before a stop returns', async () => {
    const store = new FlushModel()
    let no = 0
    const batcher = new Batcher<OutcomePage>(
      {
        name: 'job run update',
        threshold: 500,
        lingerMs: 1_000,
        pageCountMax: 500,
        pageBytesMax: 1e6,
        channelCountMax: 100,
        bufferCountMax: 1_000,
        bytesMax: 1e7,
      },
      new ManualClock(),
      new Lines(),
      () => new OutcomePage(),
      async (page) => void (await store.flush(page.toFlush(++no))),
    )
    batcher.start()
    for (let jobId = 1; jobId <= 50; jobId++) {
      const page = new OutcomePage()
      page.completed(5, chunkOf(1), jobId, 0, 1, 2, NONE, 0, 0)
      assert.equal(batcher.trySend(page), true)
    }
    assert.equal(batcher.channelCount, 50)
    await batcher.close()
    assert.deepEqual(ids(store), upTo(50))
    assert.equal(batcher.trySend(new OutcomePage()), false, 'the channel is closed')
  })

  test('[CS-035] a stop signals, flushes, closes the channel, waits for the writer, and only then returns', async () => {
    const { syncer, store, log, complete, clock } = bundle({ flushRows: 1_000 }, new ManualClock())
    let open = () => {}
    store.gate = new Promise((resolve) => {
      open = resolve
    })
    await syncer.start()
    complete(1, 10)
    const steps = () =>
      log.lines
        .filter((line) => line.facts.name === undefined || line.facts.name === 'job run update')
        .map((line) => line.event)
    const called = store.called()
    const stopped = syncer.finish(new Deadline(clock, 10_000))
    await called
    await settle()
    assert.deepEqual(steps(), ['syncer.stopping', 'buffer.closing', 'buffer.flushed', 'channel.closed'])
    open()
    await stopped
    assert.deepEqual(steps().slice(4), ['wrote job run update', 'writer.ended', 'syncer.stopped'])
  })

  test('what PostgreSQL does not take until the last second goes to the outbox, in order and with rising numbers', async () => {
    const { syncer, store, outbox, complete, clock } = bundle({ flushRowsMax: 40, retryMs: 100 }, new ManualClock())
    const manual = clock as ManualClock
    store.weather.push(...Array<'lost'>(1_000).fill('lost'))
    await syncer.start()
    complete(1, 100)
    const waits = syncer.flush()
    const stopped = syncer.finish(new Deadline(clock, 10_000))
    for (let n = 0; n < 89; n++) {
      await settle()
      manual.advance(100)
    }
    assert.equal(outbox.flushes.length, 0, 'not before the last second')
    await settle()
    manual.advance(100)
    assert.deepEqual(await stopped, { written: 0, outboxed: 100 })
    await waits
    assert.deepEqual(
      outbox.flushes.flatMap((flush) => rowsOf(flush).map((row) => row.jobId)),
      upTo(100),
    )
    assert.deepEqual(
      outbox.flushes.map((flush) => flush.no),
      [1, 2, 3],
    )
  })

  test('a flush that hangs does not hold up the stop, and its number makes the copy in the outbox harmless', async () => {
    const { syncer, store, outbox, complete, clock } = bundle({}, new ManualClock())
    let open = () => {}
    store.gate = new Promise((resolve) => {
      open = resolve
    })
    await syncer.start()
    complete(1, 10)
    const called = store.called()
    const stopped = syncer.finish(new Deadline(clock, 10_000))
    await called
    ;(clock as ManualClock).advance(9_000)
    assert.deepEqual(await stopped, { written: 0, outboxed: 10 })
    open()
    await settle()
    assert.deepEqual(ids(store), upTo(10))
    assert.equal((await store.flush(outbox.flushes[0]!)).alreadyDone, true)
    assert.deepEqual(ids(store), upTo(10))
  })

  test('an outbox that fails is said loudly, by the stop and by those who wait', async () => {
    const { syncer, store, outbox, log, complete, clock } = bundle({}, new ManualClock())
    store.gate = new Promise(() => {})
    outbox.full = true
    await syncer.start()
    complete(1, 10)
    const waits = assert.rejects(syncer.flush(), { code: 'OUTBOX_FAILED' })
    const stopped = assert.rejects(syncer.stop(new Deadline(clock, 10_000)), { code: 'OUTBOX_FAILED' })
    await settle()
    ;(clock as ManualClock).advance(9_500)
    await Promise.all([waits, stopped])
    assert.deepEqual(log.lines.find((line) => line.event === 'outbox.failed')?.facts.lost, 10)
  })

  test('a bug in the writer stops it and is told; nothing is lost, a stop finds it all', async () => {
    const { syncer, store, outbox, told, log, complete, clock } = bundle()
    const bug = new TypeError('no such lease')
    await syncer.start()
    store.stale.add(1)
    told.stale.push = () => assert.fail(bug)
    complete(1, 3)
    await assert.rejects(syncer.flush(), bug)
    complete(4, 2)
    assert.deepEqual(told.failed, [bug])
    assert.deepEqual(log.events('error'), ['writer.failed'])
    assert.equal(syncer.outcomes.hasRoom(), false)
    await assert.rejects(syncer.flush(), bug)
    store.stale.clear()
    assert.deepEqual(await syncer.finish(new Deadline(clock, 1_000)), { written: 0, outboxed: 5 })
    assert.deepEqual(
      outbox.flushes.flatMap((flush) => rowsOf(flush).map((row) => row.jobId)),
      upTo(5),
    )
  })

  test('an owner that fails when it is told of a written page stops the writer too', async () => {
    const { syncer, store, told, complete, clock } = bundle()
    const bug = new TypeError('nobody listens')
    Object.defineProperty(told, 'flushed', { set: () => assert.fail(bug) })
    await syncer.start()
    complete(1, 3)
    await syncer.flush()
    assert.deepEqual(told.failed, [bug])
    assert.equal(syncer.outcomes.hasRoom(), false)
    assert.deepEqual(await syncer.finish(new Deadline(clock, 1_000)), { written: 0, outboxed: 0 })
    assert.deepEqual(ids(store), upTo(3))
  })

  test('stopping twice, or without a start, is safe', async () => {
    const { syncer, outbox, complete, clock } = bundle()
    complete(1, 3)
    await syncer.stop(new Deadline(clock, 1_000))
    await syncer.stop(new Deadline(clock, 1_000))
    assert.equal(outbox.flushes.length, 1)
  })
})

test('[CS-096] ten senders that buffer at the same time: every update is written, exactly once', async () => {
  const { syncer, store } = bundle({ flushRows: 50, flushRowsMax: 60, flushEveryMs: 1 }, eagerClock())
  const write = store.flush.bind(store)
  let flying = 0
  store.flush = async (flush) => {
    assert.equal(++flying, 1, 'one flush at a time')
    await settle() // PostgreSQL takes its time, and reads what it was given at the end of it
    await settle()
    flying--
    return write(flush)
  }
  await syncer.start()
  const sender = async (first: number) => {
    for (let n = 0; n < 200; n++) {
      const text = Buffer.from(`${first + n}`)
      syncer.outcomes.completed(chunkOf(1), first + n, 0, 1, 2, text, 0, text.length)
      if (n % 7 === first % 7) await settle()
      if (n % 31 === 0) void syncer.flush()
    }
  }
  await Promise.all(upTo(10).map((n) => sender(n * 1_000)))
  assert.ok(syncer.stats().heldUpdates > 100, 'more than one page waits')
  await syncer.flush()
  assert.equal(syncer.stats().heldUpdates, 0)
  const seen = ids(store)
  assert.equal(seen.length, 2_000)
  assert.equal(new Set(seen).size, 2_000)
  assert.ok(store.rows.every((row) => row.text === String(row.jobId)))
  assert.ok(store.flushes.length > 1)
})

/** Time that passes as soon as anybody waits for it. */
function eagerClock(): Clock {
  let nowMs = 1
  const after = (ms: number, fn: () => void) => {
    const handle = setImmediate(() => {
      nowMs += ms
      fn()
    })
    return { cancel: () => clearImmediate(handle) }
  }
  return {
    wallMs: () => nowMs,
    steadyMs: () => nowMs,
    after,
    sleep: (ms, signal) =>
      new Promise((resolve) => {
        if (signal?.aborted) return resolve()
        after(ms, resolve)
      }),
  }
}

type Outcome =
  | {
      kind: 'completed' | 'retried' | 'died' | 'cancelled' | 'expired'
      lease: number
      bad: boolean
    }
  | { kind: 'released' | 'releasedStarted'; lease: number; count: number }
  | { kind: 'ephemeral' | 'running'; lease: number }
type Told = Outcome | { kind: 'pause' | 'flush' }

const anyLease = fc.integer({ min: 1, max: 4 })
const anyTold: fc.Arbitrary<Told> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constantFrom('completed', 'retried', 'died', 'cancelled', 'expired'),
      lease: anyLease,
      bad: fc.integer({ min: 0, max: 9 }).map((die) => die === 0),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constantFrom('released', 'releasedStarted'),
      lease: anyLease,
      count: fc.integer({ min: 1, max: 5 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom('ephemeral', 'running'), lease: anyLease }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom('pause', 'flush') }) },
)

test('whatever fails on the way, every outcome is written exactly once, or is in the dead file, or its lease was lost', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(anyTold, { maxLength: 60, size: 'max' }),
      fc.array(fc.constantFrom('fine', 'lost', 'ambiguous'), { maxLength: 30, size: 'max' }),
      fc.uniqueArray(anyLease, { maxLength: 2 }),
      fc.integer({ min: 1, max: 12 }),
      fc.option(fc.integer({ min: 0, max: 60 }), { nil: null }),
      async (tellings, weather, staleLeases, flushRowsMax, stopAfter) => {
        const { syncer, store, outbox, clock } = bundle({ flushRows: 4, flushRowsMax, channelRowsMax: 9 }, eagerClock())
        store.poison = 'POISON'
        store.weather.push(...weather)
        for (const lease of staleLeases) store.stale.add(lease)
        await syncer.start()
        const expected = new Map<number, { lease: number; bad: boolean; kind: string }>()
        let nextId = 1
        for (const [index, told] of tellings.entries()) {
          if (index === stopAfter) store.weather.push(...Array<'lost'>(10_000).fill('lost'))
          if (told.kind === 'pause') await settle()
          else if (told.kind === 'flush') void syncer.flush().catch(() => {})
          else if ('lease' in told) {
            const jobs = 'count' in told ? told.count : 1
            tell(syncer, told, nextId)
            for (let n = 0; n < jobs; n++) {
              const bad = 'bad' in told && told.bad && told.kind !== 'expired'
              expected.set(nextId++, { lease: told.lease, bad, kind: told.kind })
            }
          }
        }
        await syncer.stop(new Deadline(clock, 30_000))
        assert.equal(syncer.stats().heldUpdates, 0)
        store.weather.length = 0
        const inDeadFile = new Set(outbox.deads.map((dead) => dead.jobId))
        for (const flush of outbox.flushes) {
          // the next start: what is refused as a whole stays as evidence
          try {
            await store.flush(flush)
          } catch {
            for (const row of rowsOf(flush)) inDeadFile.add(row.jobId)
            for (const item of flush.finished) inDeadFile.add(item.jobId)
            for (const item of flush.releases) for (let n = 0; n < item.count; n++) inDeadFile.add(item.firstId + n)
          }
        }

        const ends = new Map<number, number>()
        const count = (jobId: number) => ends.set(jobId, (ends.get(jobId) ?? 0) + 1)
        for (const row of store.rows) count(row.jobId)
        const withRow = new Set(store.rows.map((row) => row.jobId))
        for (const item of store.releases)
          for (let n = 0; n < item.count; n++) if (!withRow.has(item.firstId + n)) count(item.firstId + n)
        for (const item of store.finished) if (!withRow.has(item.jobId)) count(item.jobId)
        const givenBack = new Map<number, number>()
        for (const item of store.releases)
          for (let id = item.firstId; id < item.firstId + item.count; id++)
            givenBack.set(id, (givenBack.get(id) ?? 0) + 1)
        for (const row of store.rows)
          assert.equal(givenBack.get(row.jobId) ?? 0, row.outcome === 'r' ? 1 : 0, `job ${row.jobId} was given back`)
        const donePerLease = new Map<number, number>()
        for (const [jobId, { lease, bad, kind }] of expected) {
          if (kind === 'running') {
            assert.equal(ends.get(jobId), undefined)
            continue
          }
          const times = ends.get(jobId) ?? 0
          if (store.stale.has(lease)) assert.equal(times, 0, `job ${jobId} of a lost lease`)
          else if (times === 0) assert.ok(inDeadFile.has(jobId), `job ${jobId} (${kind}) is nowhere`)
          else assert.equal(times, 1, `job ${jobId} (${kind}) was written ${times} times`)
          if (times > 0) donePerLease.set(lease, (donePerLease.get(lease) ?? 0) + 1)
          if (bad && times > 0) assert.ok(inDeadFile.has(jobId), `job ${jobId} was replaced without evidence`)
          if (!bad && outbox.flushes.length === 0 && !store.stale.has(lease))
            assert.equal(times, 1, `job ${jobId} (${kind}) suffered for another`)
        }
        for (const lease of upTo(4))
          assert.equal(store.done.get(lease) ?? 0, donePerLease.get(lease) ?? 0, `jobs of lease ${lease} that ended`)
        assert.ok([...ends.keys()].every((jobId) => expected.has(jobId)))
      },
    ),
    { numRuns: 300 },
  )
})

function tell(syncer: Syncer, told: Outcome, jobId: number): void {
  const { outcomes } = syncer
  const chunk = chunkOf(1, { leaseId: told.lease, count: 1_000, keyed: told.lease === 3 })
  const bytes = Buffer.from('bad' in told && told.bad ? '"POISON"' : '"well"')
  const { length } = bytes
  const count = 'count' in told ? told.count : 1
  const tellings: Record<Outcome['kind'], () => void> = {
    completed: () => outcomes.completed(chunk, jobId, 0, 1, 2, bytes, 0, length),
    retried: () => outcomes.failed(chunk, jobId, 'f', 'TASK_THREW', 0, 1, 2, bytes, 0, length, 10),
    died: () => outcomes.failed(chunk, jobId, 't', 'TASK_TIMED_OUT', 0, 1, 2, bytes, 0, length, -1),
    cancelled: () => outcomes.cancelled(chunk, jobId, 0, 1, 2, bytes.toString()),
    expired: () => outcomes.expired(chunk, jobId, 2),
    releasedStarted: () => outcomes.release(chunk, jobId, count, true, 0, 1, 2),
    released: () => outcomes.release(chunk, jobId, count, false, -1, 0, 2),
    ephemeral: () => outcomes.completed({ ...chunk, ephemeral: true }, jobId, 0, 1, 2, NONE, 0, 0),
    running: () => outcomes.running(chunk, jobId, 0, 1, null),
  }
  tellings[told.kind]()
}
