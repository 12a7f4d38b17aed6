// What the log tells of jobs: failed attempts, dead letters, ends that were asked for; within bounds, and never from within
// the loop.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { nextTurn } from '../engine/base/clock.ts'
import { type Log, silentLog, textLog } from '../engine/base/log.ts'
import { defineTask } from '../engine/index.ts'
import { JobLog, LINES_PER_SECOND } from '../engine/job-log.ts'
import type { ClaimedChunk } from '../engine/store/types.ts'
import { TASKS, withEngines } from './support/engine.ts'
import { ManualClock } from './support/manual-clock.ts'
import { says } from './tasks/public.ts'

interface Line {
  level: string
  event: string
  facts: Record<string, unknown>
}

function recorder(lines: Line[], onLine: () => void = () => {}): Log {
  const level = (name: string) => (facts: Record<string, unknown>, event: string) => {
    lines.push({ level: name, event, facts })
    onLine()
  }
  const log: Log = {
    debug: level('debug'),
    info: level('info'),
    warn: level('warn'),
    error: level('error'),
    child: () => log,
  }
  return log
}

const chunk = { task: 'mail', attempt: 1, maxAttempts: 3 } as ClaimedChunk
const ERROR = {
  code: 'TASK_THREW',
  type: 'TypeError',
  message: 'no socket',
  stack: 'TypeError: no socket\n    at send',
}

function failWith(jobLog: JobLog, jobId: number, delayMs: number, error: object = ERROR): void {
  const bytes = Buffer.from(`--${JSON.stringify(error)}--`)
  jobLog.failed(chunk, jobId, delayMs, bytes, 2, bytes.length - 2)
  bytes.fill(0) // a ring writes on
}

test('a failed attempt is a warning with its code, message and next try; a dead letter an error with the stack', async () => {
  const lines: Line[] = []
  const jobLog = new JobLog({ clock: new ManualClock(), log: recorder(lines) })
  failWith(jobLog, 7, 1_234.5)
  failWith(jobLog, 8, -1)
  assert.equal(lines.length, 0, 'nothing is logged within the call')
  await nextTurn()
  await nextTurn()
  assert.deepEqual(lines[0], {
    level: 'warn',
    event: 'attempt.failed',
    facts: {
      task: 'mail',
      job: 7,
      attempt: 1,
      maxAttempts: 3,
      retryInMs: 1_235,
      code: 'TASK_THREW',
      error: 'no socket',
    },
  })
  assert.deepEqual(
    { ...lines[1], facts: { ...lines[1]!.facts, err: { ...(lines[1]!.facts.err as object) } } },
    {
      level: 'error',
      event: 'job.dead',
      facts: { task: 'mail', job: 8, attempt: 1, maxAttempts: 3, code: 'TASK_THREW', err: ERROR },
    },
  )
})

test('so many lines a second are written of each kind; the rest is counted, and told in one line', async () => {
  const clock = new ManualClock()
  const lines: Line[] = []
  const jobLog = new JobLog({ clock, log: recorder(lines) })
  for (let second = 0; second < 3; second++) {
    for (let n = 0; n < 1_000; n++) failWith(jobLog, n, 10)
    for (let n = 0; n < 30; n++) failWith(jobLog, n, -1)
    for (let n = 0; n < 21; n++) jobLog.expired(chunk, n)
    for (let n = 0; n < 20; n++) jobLog.cancelled(chunk, n, 'asked')
    clock.advance(1_000)
  }
  for (let turn = 0; turn < 10; turn++) await nextTurn()
  const of = (event: string) => lines.filter((line) => line.event === event)
  for (const event of ['attempt.failed', 'job.dead', 'job.expired', 'job.cancelled'])
    assert.equal(of(event).length, 3 * LINES_PER_SECOND, event)
  assert.deepEqual(
    of('jobs.not_logged'),
    [1, 2, 3].map(() => ({ level: 'warn', event: 'jobs.not_logged', facts: { retried: 980, dead: 10, expired: 1 } })),
  )
  assert.equal(clock.waiting, 0, 'nothing is timed while nothing ends')
  failWith(jobLog, 1, 10)
  for (let n = 0; n < 25; n++) failWith(jobLog, n, -1)
  jobLog.close()
  assert.deepEqual(lines.at(-1)!.facts, { dead: 5 })
  assert.equal(clock.waiting, 0)
})

test('a log that throws loses its line only; a silent one costs nothing; what waits is bounded', async () => {
  const lines: Line[] = []
  const log = recorder(lines, () => {
    if (lines.length === 1) throw new Error('disk full')
  })
  const jobLog = new JobLog({ clock: new ManualClock(), log })
  failWith(jobLog, 1, 10)
  failWith(jobLog, 2, 10)
  jobLog.close()
  assert.deepEqual(
    lines.map(({ facts }) => facts.job),
    [1, 2],
  )

  const clock = new ManualClock()
  const silent = new JobLog({ clock, log: silentLog })
  failWith(silent, 1, 10)
  assert.equal(clock.waiting, 0)

  const said = Buffer.from('{"level":"info","event":"line","facts":{}}')
  for (let n = 0; n < 10_005; n++) jobLog.said(chunk, n, said, 0, said.length)
  jobLog.close()
  assert.deepEqual([lines.length, lines.at(-1)!.event, lines.at(-1)!.facts], [2 + 10_001, 'log.dropped', { lines: 5 }])
})

test('an error that was cut, or is none of ours, is still told', () => {
  const lines: Line[] = []
  const jobLog = new JobLog({ clock: new ManualClock(), log: recorder(lines) })
  const doubt = { leaseId: 1, jobId: 5, run: 2, timedOut: false }
  jobLog.doubtFailed({ ...doubt, otherwise: 'dead', said: '{"code":"TASK_THREW","mess' })
  jobLog.doubtFailed({ ...doubt, otherwise: 'retried', said: JSON.stringify(ERROR) })
  jobLog.doubtFailed({ ...doubt, otherwise: 'released', said: 'stopped' })
  jobLog.doubtFailed({ ...doubt, otherwise: 'retried', said: null })
  jobLog.close()
  assert.deepEqual(
    lines.map(({ level, facts }) => [level, facts.code, facts.job, facts.run]),
    [
      ['error', 'TASK_THREW', 5, 2],
      ['warn', 'TASK_THREW', 5, 2],
      ['warn', undefined, 5, 2],
    ],
  )
})

test('an engine tells of every end that is no success: retries, dead letters, timeouts, lost threads, cancels', async () => {
  const lines: Line[] = []
  await withEngines(async ({ engine, inState, until }) => {
    const one = await engine({ log: recorder(lines), claimUnknown: true })
    const line = (event: string, job: number) =>
      until(`${event} of ${job} is logged`, async () => lines.find((it) => it.event === event && it.facts.job === job))

    const flaky = await one.enqueue('flaky', { failures: 1 })
    await inState(flaky.id, 'completed')
    const failed = await line('attempt.failed', flaky.id)
    assert.equal(failed.level, 'warn')
    assert.deepEqual(failed.facts, {
      task: 'flaky',
      job: flaky.id,
      attempt: 1,
      maxAttempts: 3,
      retryInMs: 0,
      code: 'TASK_THREW',
      error: 'failure 1 as asked',
    })

    const dead = await one.enqueue('fail', null, { maxAttempts: 1 })
    const letter = await line('job.dead', dead.id)
    assert.equal(letter.level, 'error')
    const err = letter.facts.err as Record<string, unknown>
    assert.deepEqual(
      [letter.facts.task, letter.facts.code, err.type, err.message],
      ['fail', 'TASK_THREW', 'Error', 'always'],
    )
    assert.match(err.stack as string, /public\.js/)

    const slow = await one.enqueue('wait', null, { timeoutMs: 20, maxAttempts: 1 })
    assert.equal((await line('job.dead', slow.id)).facts.code, 'TASK_TIMED_OUT')

    const asked = await one.enqueue('wait', null)
    await until('it runs', async () => one.stats().running === 1)
    await one.console.cancel(asked.id, 'not wanted')
    assert.deepEqual((await line('job.cancelled', asked.id)).facts, {
      task: 'wait',
      job: asked.id,
      reason: 'not wanted',
    })

    const unknown = await one.enqueue('nobody knows', null, { maxAttempts: 1 })
    assert.equal((await line('job.dead', unknown.id)).facts.code, 'TASK_NOT_REGISTERED')
  })
})

test("a handler's log reaches the engine's as plain facts, in threads and inline", async () => {
  const near = defineTask({ ...says, name: 'near', inline: true })
  const lines: Line[] = []
  await withEngines(async ({ engine, inState }) => {
    const one = await engine({ tasks: [near, TASKS], log: recorder(lines) })
    for (const task of ['near', 'says'] as const) {
      lines.length = 0
      const { id } = await one.enqueue(task, null)
      await inState(id, 'completed')
      const [error, child, plain] = lines.filter(({ facts }) => facts.job === id)
      const { type, message, stack, cause } = error!.facts.err as Record<string, unknown>
      assert.deepEqual([error!.level, error!.event, type, message], ['error', 'out of it', 'RangeError', 'out of it'])
      assert.match(stack as string, /\.js/)
      assert.deepEqual(
        [(cause as Record<string, unknown>).type, (cause as Record<string, unknown>).message],
        ['TypeError', 'below'],
      )
      assert.deepEqual(child, {
        level: 'info',
        event: '1 of two',
        facts: { job: id, task, part: { a: 1 }, args: [{ left: '1n' }] },
      })
      assert.deepEqual(plain!.facts, { job: id, task, err: 'a text', n: 'NaN' })
    }
  })
})

test('an engine that is given no log writes warnings and errors to standard error, and nothing else', async () => {
  await withEngines(async ({ base }) => {
    const program = `
      import { createEngine, defineTask, silentLog } from ${JSON.stringify(new URL('../engine/index.js', import.meta.url).href)}
      const options = { ...${JSON.stringify(base)}, tasks: new URL(${JSON.stringify(TASKS.href)}), threads: 1 }
      for (const more of [{}, { log: silentLog }]) {
        const engine = createEngine({ ...options, ...more })
        await engine.start()
        await engine.enqueue('fail', null, { maxAttempts: 1 })
        await engine.enqueue('flaky', { failures: 1 })
        await engine.drain()
        await engine.stop()
      }`
    const words = ['--input-type=module', '--eval', program]
    const { status, stdout, stderr } = spawnSync(process.execPath, words, { encoding: 'utf8', timeout: 60_000 })
    assert.deepEqual([status, stdout], [0, ''], stderr)
    const lines = stderr.trimEnd().split('\n')
    assert.deepEqual(
      lines
        .filter((line) => !line.startsWith('    '))
        .map((line) => line.split(' ').slice(1, 4).join(' '))
        .sort(),
      ['millrace ERROR job.dead', 'millrace WARN attempt.failed'],
      stderr,
    )
    assert.match(
      stderr,
      /ERROR job\.dead \{"task":"fail".*"message":"always"\}\}\n {4}Error: always\n {8}at .*public\.js/,
    )
  })
})

test('a line of text cannot be forged by what an error says', () => {
  const lines: string[] = []
  const log = textLog(
    (text) => lines.push(text),
    () => 0,
  )
  const text = 'no\n1970-01-01T00:00:00.000Z millrace ERROR engine.hacked {}\u001b[2J\u202e'
  log
    .child({ part: 1 })
    .error({ error: text, err: { message: text, stack: `Error: ${text}\n    at x` } }, `said ${text}`)
  log.info({}, 'not told')
  assert.equal(lines.length, 1)
  const [first, ...stack] = lines[0]!.split('\n')
  assert.match(first!, /^1970-01-01T00:00:00\.000Z millrace ERROR said no 1970/)
  assert.ok(stack.length === 3 && stack.every((line) => line.startsWith('    ')), lines[0])
  assert.doesNotMatch(lines[0]!, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/)
})
