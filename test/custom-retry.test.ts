// A task's own function decides what follows a failure: on a thread and inline, in its place among the policies, and
// whatever it does the job goes on.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DELAY_MS_MAX } from '../engine/base/limits.ts'
import type { Log } from '../engine/base/log.ts'
import { defineTask, type EngineError, type RetryPolicy } from '../engine/index.ts'
import { codeFrom, type EngineBundle, withEngines } from './support/engine.ts'
import { inlined, names } from './tasks/decided.ts'

const TASKS = [new URL('./tasks/decided.js', import.meta.url), ...inlined()]
const HOUR = 3_600_000

/** Between the end of the attempt and the next one, in ms. */
async function delayOf(bundle: EngineBundle, id: number): Promise<number> {
  const job = await bundle.inState(id, 'retrying')
  return job.runAt!.getTime() - job.finishedAt!.getTime()
}

/** The two times are taken by two clocks of one machine, and the delay begins when the outcome is written. */
function assertAbout(ms: number, expectedMs: number, what: string): void {
  assert.ok(ms >= expectedMs - 1_000 && ms < expectedMs + 30_000, `${what}: ${ms} instead of ${expectedMs}`)
}

function logInto(lines: { event: string; facts: Record<string, unknown> }[]): Log {
  const method = (facts: Record<string, unknown>, event: string) => lines.push({ event, facts })
  return { debug() {}, info: method, warn: method, error: method, child: () => logInto(lines) }
}

for (const [task, where] of [
  ['threaded', 'on a thread'],
  ['inline', 'inline'],
] as const)
  test(`the function of a task that runs ${where} decides by the attempt and the error`, () =>
    withEngines(async (bundle) => {
      const { client, inState } = bundle
      await bundle.engine({ tasks: TASKS })
      const busy = await client.enqueue(task, { status: 429 })
      const other = await client.enqueue(task, {})
      const gone = await client.enqueue(task, { status: 410 })
      const twice = await client.enqueue(task, { status: 503 })
      assertAbout(await delayOf(bundle, busy.id), HOUR, 'one error')
      assertAbout(await delayOf(bundle, other.id), 10 * HOUR, 'another error')
      const dead = await inState(gone.id, 'failed')
      assert.deepEqual([dead.attempt, dead.maxAttempts], [1, 3])
      const again = await bundle.until('the second attempt has failed', async () => {
        const job = await client.console.job(twice.id)
        return job?.state === 'retrying' && job.attempt === 3 && job
      })
      assertAbout(again.runAt!.getTime() - again.finishedAt!.getTime(), 2 * HOUR, 'the second attempt')
    }))

test('the function is not heard over the policy of the enqueue, an error that is final, and the last attempt', () =>
  withEngines(async (bundle) => {
    await bundle.engine({ tasks: TASKS })
    for (const task of ['threaded', 'inline']) {
      const told = await bundle.client.enqueue(task, {}, { retry: { kind: 'fixed', delayMs: 2 * HOUR } })
      const final = await bundle.client.enqueue(task, { retry: false })
      const only = await bundle.client.enqueue(task, {}, { maxAttempts: 1 })
      assertAbout(await delayOf(bundle, told.id), 2 * HOUR, task)
      assert.equal((await bundle.inState(final.id, 'failed')).attempt, 1)
      assert.equal((await bundle.inState(only.id, 'failed')).attempt, 1)
    }
    const retry = (() => 1) as unknown as RetryPolicy // a function stays with its task: it cannot be stored
    assert.equal(await codeFrom(() => bundle.client.enqueue('threaded', {}, { retry })), 'VALIDATION')
  }))

test('the function is asked of an attempt that ran out of its time, too', () =>
  withEngines(async (bundle) => {
    await bundle.engine({ tasks: TASKS })
    const { id } = await bundle.client.enqueue('slow', null)
    assertAbout(await delayOf(bundle, id), 5 * HOUR, 'slow')
    const [attempt] = await bundle.query('select outcome from millrace.attempts where job_id = $1', [id])
    assert.equal(attempt!.outcome, 'timed_out')
  }))

test('a function that throws, or answers what is neither a delay nor false, loses no job: the default counts, and it is told', () =>
  withEngines(async (bundle) => {
    const lines: { event: string; facts: Record<string, unknown> }[] = []
    await bundle.engine({ tasks: TASKS, log: logInto(lines) })
    const tasks = names.flatMap((name) => [name, `inline-${name}`])
    const ids = await Promise.all(tasks.map((task) => bundle.client.enqueue(task, {}, { maxAttempts: 2 })))
    for (const [at, { id }] of ids.entries()) {
      const dead = await bundle.inState(id, 'failed') // the default waits for a second, then comes the last attempt
      assert.equal(dead.attempt, 2, tasks[at])
      const [waited] = await bundle.query<{ ms: number }>(
        `select extract(epoch from max(started_at) - min(finished_at))::float8 * 1000 as ms from millrace.attempts where job_id = $1`,
        [id],
      )
      assert.ok(waited!.ms > 900, `${tasks[at]}: ${waited!.ms} ms`)
    }
    const told = lines.filter(({ event }) => event === 'retry.undecided')
    assert.equal(told.length, tasks.length, JSON.stringify(told))
  }))

test('a delay is rounded to whole ms, and at most ten years', () =>
  withEngines(async (bundle) => {
    await bundle.engine({ tasks: TASKS })
    const fraction = await bundle.client.enqueue('fraction', {})
    const never = await bundle.client.enqueue('never', {})
    assertAbout(await delayOf(bundle, fraction.id), HOUR, 'fraction')
    assertAbout(await delayOf(bundle, never.id), DELAY_MS_MAX, 'never')
  }))

test('defineTask refuses a policy that means nothing, and says which field', () => {
  const define = (retry: unknown) =>
    defineTask({ name: 'x', retry: retry as RetryPolicy, run: () => {} }) && 'nothing wrong'
  const wrong = (retry: unknown): unknown => {
    try {
      return define(retry)
    } catch (error) {
      const { code, details } = error as EngineError
      return [code, details.field]
    }
  }
  assert.deepEqual(wrong('sometimes'), ['CONFIG_INVALID', 'retry'])
  assert.deepEqual(wrong(null), ['CONFIG_INVALID', 'retry'])
  assert.deepEqual(wrong({ kind: 'sometimes' }), ['CONFIG_INVALID', 'retry.kind'])
  assert.deepEqual(wrong({ kind: 'fixed' }), ['CONFIG_INVALID', 'retry.delayMs'])
  assert.deepEqual(wrong({ kind: 'table', delaysMs: [] }), ['CONFIG_INVALID', 'retry.delaysMs'])
  assert.deepEqual(wrong({ kind: 'table', delaysMs: [1, -1] }), ['CONFIG_INVALID', 'retry.delaysMs'])
  assert.deepEqual(wrong({ kind: 'fixed', delayMs: 1, jitter: 2 }), ['CONFIG_INVALID', 'retry.jitter'])
  assert.equal(wrong({ kind: 'table', delaysMs: [0, 5] }), 'nothing wrong')
  assert.equal(
    wrong(() => false),
    'nothing wrong',
  )
})
