// The scheduler with real threads: rings, bells, ends of threads. Only the database is missing.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../engine/base/clock.ts'
import { Deadline } from '../engine/base/lifecycle.ts'
import { PAYLOAD_SEPARATOR } from '../engine/base/limits.ts'
import { silentLog } from '../engine/base/log.ts'
import { Scheduler } from '../engine/scheduler/scheduler.ts'
import type { ClaimedChunk } from '../engine/store/types.ts'
import { ThreadPool } from '../threads/pool.ts'
import { BEHAVED, MISBEHAVED } from './support/pool-harness.ts'
import { chunk, FakeOutcomes, task } from './support/scheduler-fakes.ts'

class Rig {
  readonly outcomes = new FakeOutcomes()
  readonly pool: ThreadPool
  readonly scheduler: Scheduler
  #nextId = 1
  #waiting: { isTrue: () => boolean; resolve: () => void } | null = null

  constructor(threads: number) {
    this.pool = new ThreadPool({
      threads,
      modules: [BEHAVED, MISBEHAVED],
      resultBytesMax: 1 << 20,
      loadTimeoutMs: 60_000,
      clock: systemClock,
      log: silentLog,
      onDoorbell: () => this.scheduler.onDoorbell(),
      onLost: (lost) => this.scheduler.onLost(lost),
      onOpen: (lane) => this.scheduler.onOpen(lane),
    })
    this.scheduler = new Scheduler({
      clock: systemClock,
      log: silentLog,
      settings: {
        heldMax: 20_000,
        loopIdleMs: 1_000,
        preScheduleMs: 10_000,
        graceMs: 30_000,
        orchestratorHeartbeatMs: 10_000,
        missedHeartbeatsMax: 3,
        defaultTimeoutMs: 30_000,
      },
      lanes: this.pool,
      outcomes: this.outcomes,
      markRunning: async () => {},
      onRoom: () => {},
    })
    const iterate = this.scheduler.iteration.bind(this.scheduler)
    this.scheduler.iteration = () => {
      const handled = iterate()
      if (this.#waiting?.isTrue()) this.#waiting.resolve()
      return handled
    }
  }

  async start(): Promise<void> {
    this.scheduler.setTasks((await this.pool.start()).tasks)
    this.scheduler.start()
  }

  async stop(): Promise<void> {
    const deadline = new Deadline(systemClock, 5_000)
    await this.scheduler.stop(deadline)
    await this.pool.stop(deadline)
  }

  /** Enqueues one chunk; answers its first id. */
  run(name: string, payloads: readonly unknown[], more: Partial<ClaimedChunk> = {}): number {
    const firstId = this.#nextId
    this.#nextId += payloads.length
    const texts = payloads.map((payload) => JSON.stringify(payload) ?? '').join(PAYLOAD_SEPARATOR)
    const nowMs = Date.now()
    const times = { createdAtMs: nowMs, dueAtMs: nowMs, maxAttempts: 1 }
    this.scheduler.arrive([chunk(firstId, payloads.length, { task: name, payloads: texts, ...times, ...more })])
    return firstId
  }

  /** Resolves when it is true after an iteration. */
  until(isTrue: () => boolean): Promise<void> {
    if (isTrue()) return Promise.resolve()
    return new Promise((resolve) => {
      this.#waiting = { isTrue, resolve }
    })
  }

  idle(): Promise<void> {
    return this.until(() => this.scheduler.stats().held === 0)
  }
}

function withRig(threads: number, body: (rig: Rig) => Promise<void>): () => Promise<void> {
  return async () => {
    const rig = new Rig(threads)
    try {
      await rig.start()
      await body(rig)
    } finally {
      await rig.stop()
    }
  }
}

test(
  'ten thousand jobs through two threads: each one completes once, with its own result',
  withRig(2, async (rig) => {
    for (let i = 0; i < 10; i++)
      rig.run(
        'echo',
        Array.from({ length: 1_000 }, (_, n) => i * 1_000 + n + 1),
      )
    await rig.idle()
    const results = new Map(rig.outcomes.of('completed').map(({ jobId, result }) => [jobId, result]))
    assert.equal(rig.outcomes.written.length, 10_000)
    for (let id = 1; id <= 10_000; id++) assert.equal(results.get(id), String(id))
  }),
)

test(
  'a job that spins for ever times out with its thread; everything around it completes',
  withRig(2, async (rig) => {
    rig.run('noop', new Array(500).fill(null))
    await rig.idle()
    const spinning = rig.run('spins', [null], { timeoutMs: 50 })
    rig.scheduler.setTasks([task('spins', { graceMs: 50 })])
    rig.run('noop', new Array(500).fill(null))
    await rig.idle()
    const failed = rig.outcomes.of('failed')
    assert.deepEqual(
      failed.map(({ jobId, outcome, code }) => [jobId, outcome, code]),
      [[spinning, 't', 'TASK_TIMED_OUT']],
    )
    assert.equal(rig.outcomes.of('completed').length, 1_000)
  }),
)

test(
  'handlers that throw, exit their thread or leave rejections behind: each is charged to its own job alone',
  withRig(2, async (rig) => {
    rig.run('noop', new Array(200).fill(null))
    await rig.idle()
    rig.outcomes.written.length = 0
    const thrown = rig.run('throws', ['coded'])
    const exited = rig.run('exits', [3])
    rig.run('echo', new Array(2_000).fill(7))
    const crashed = rig.run('throws-later', [null])
    await rig.idle()
    const codes = new Map(rig.outcomes.of('failed').map(({ jobId, code }) => [jobId, code]))
    assert.deepEqual(
      [codes.get(exited), codes.has(thrown), codes.has(crashed), codes.size],
      ['THREAD_EXITED', true, true, 3],
    )
    assert.equal(rig.outcomes.of('completed').length, 2_000)
    assert.equal(rig.outcomes.of('release').length, 0)
  }),
)

test(
  'shared jobs overlap on one thread',
  withRig(1, async (rig) => {
    rig.run('shared', [5, 5, 5, 5, 5, 5])
    await rig.idle()
    const most = Math.max(...rig.outcomes.of('completed').map(({ result }) => Number(result)))
    assert.equal(most, 3)
  }),
)

test(
  'a running job that is cancelled sees its signal and ends as cancelled',
  withRig(1, async (rig) => {
    const id = rig.run('patient', [null])
    await rig.until(() => rig.scheduler.getState(id)?.state === 'running')
    assert.ok(rig.scheduler.cancel(id, 'enough'))
    await rig.idle()
    assert.deepEqual(
      rig.outcomes.written.map(({ kind }) => kind),
      ['cancelled'],
    )
  }),
)

test(
  'jobs wait behind no slow one: they finish on the other thread while it still runs',
  withRig(2, async (rig) => {
    rig.run('rest', new Array(100).fill(0))
    await rig.idle()
    rig.outcomes.written.length = 0
    const slow = rig.run('busy', [null], { timeoutMs: 0 })
    rig.run('rest', new Array(300).fill(0))
    await rig.until(() => rig.outcomes.of('completed').length === 300)
    assert.equal(rig.scheduler.getState(slow)!.state, 'running')
    rig.scheduler.cancel(slow, 'done')
    await rig.idle()
  }),
)
