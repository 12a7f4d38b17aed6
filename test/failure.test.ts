// Every way in which a handler can fail, through a whole engine: it ends as one attempt of that one job, with a reason
// that a program can read, in the history and in the dead letters. Nobody who shared a thread or a claim with it pays.

import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import type { Log } from '../engine/base/log.ts'
import type { Engine, EnqueueOptions } from '../engine/index.ts'
import { createEngine, type EngineOptions } from '../engine/index.ts'
import { openTestDatabase, type TestDatabase } from './support/database.ts'
import { History } from './support/history.ts'
import { until } from './support/until.ts'

const MINUTE = 60_000
const TASKS = ['witness', 'behaved', 'misbehaved'].map((name) => new URL(`./tasks/${name}.js`, import.meta.url).href)
const NEIGHBOURS = 60

let db: TestDatabase
let history: History
let folder: string
const lines: { event: string; facts: Record<string, unknown> }[] = []
const log: Log = logInto(lines)

before(async () => {
  db = await openTestDatabase()
  history = new History()
  folder = mkdtempSync(join(tmpdir(), 'millrace-failure-'))
  process.env.MILLRACE_TEST_HISTORY = history.file // threads get a copy of this process's environment
})

after(async () => {
  await db?.close()
  history?.close()
  rmSync(folder, { recursive: true, force: true })
})

function logInto(into: typeof lines): Log {
  const method = (facts: Record<string, unknown>, event: string) => into.push({ event, facts })
  return { debug() {}, info: method, warn: method, error: method, child: () => logInto(into) }
}

async function withEngine(options: EngineOptions, run: (engine: Engine) => Promise<void>): Promise<void> {
  const engine = createEngine({
    database: db.url,
    schema: db.schema,
    dataDir: join(folder, 'data'),
    tasks: TASKS,
    threads: 2,
    pollMs: 50,
    pollMaxMs: 200,
    threadHeapMb: 64,
    resultBytesMax: 65_536,
    log,
    ...options,
  })
  try {
    await engine.start()
    await run(engine)
  } finally {
    await engine.stop(2_000)
  }
}

interface Attempt extends Record<string, unknown> {
  readonly run: number
  readonly attempt: number
  readonly outcome: string
  readonly lane: number
  readonly error: { readonly code: string; readonly message: string } | null
  readonly finished_at: Date
}

const query = <Row extends Record<string, unknown>>(sql: string, params?: unknown[]) =>
  db.query<Row>(sql.replace(/\bmillrace\./g, `"${db.schema}".`), params)

const attemptsOf = (id: number) =>
  query<Attempt>('select * from millrace.attempts where job_id = $1 order by run', [id])

function idsOf(many: { ids: readonly { first: number; count: number }[] }): number[] {
  return many.ids.flatMap(({ first, count }) => Array.from({ length: count }, (_, at) => first + at))
}

/** A job among neighbours, in one claim with them; resolves when all have ended, with the job's id. */
async function among(engine: Engine, task: string, payload: unknown, options: EnqueueOptions = {}): Promise<number> {
  const neighbour = { task: 'echo', payload: 1 } as const
  const some = Array.from({ length: NEIGHBOURS / 2 }, () => neighbour)
  const ids = idsOf(
    await engine.enqueueMany([...some, { task, payload, options: { maxAttempts: 1, ...options } }, ...some]),
  )
  await engine.drain(MINUTE)
  const [id] = ids.splice(NEIGHBOURS / 2, 1)
  const [innocent] = await query<{ n: number }>(
    `select count(*)::int as n from millrace.jobs where id = any ($1) and state = 'completed' and attempt = 1`,
    [ids],
  )
  assert.equal(innocent!.n, NEIGHBOURS, 'every neighbour completed in its first charged attempt')
  const charged = await query(
    `select job_id, outcome, error from millrace.attempts where job_id = any ($1) and outcome in ('failed', 'timed_out')`,
    [ids],
  )
  assert.deepEqual(charged, [])
  return id!
}

/** Both threads are there and work. */
async function bothThreadsWork(engine: Engine): Promise<void> {
  for (let round = 0; ; round++) {
    const ids = idsOf(
      await engine.enqueueMany(
        'rest',
        Array.from({ length: 20 }, () => 5),
      ),
    )
    await engine.drain(MINUTE)
    const lanes = await query('select distinct lane from millrace.attempts where job_id = any ($1)', [ids])
    if (lanes.length === 2) return
    assert.ok(round < 100, 'one thread was never replaced')
  }
}

interface Kind {
  readonly title: string
  readonly task: string
  readonly payload?: unknown
  readonly options?: EnqueueOptions
  readonly code: string
  readonly message: RegExp
  readonly outcome?: 'timed_out'
}

const KINDS: readonly Kind[] = [
  { title: '[TM-024] [TM-106] a throw', task: 'throws', payload: 'error', code: 'TASK_THREW', message: /wrong type/ },
  { title: '[TM-024] a rejection', task: 'rejects', payload: 'error', code: 'TASK_THREW', message: /wrong type/ },
  { title: 'a thrown nothing', task: 'throws', payload: 'undefined', code: 'TASK_THREW', message: /./ },
  {
    title: '[TM-024] [TM-107] an unhandled rejection',
    task: 'leaks',
    payload: { ms: 1, runMs: 20_000 },
    code: 'UNHANDLED_REJECTION',
    message: /left behind/,
  },
  {
    title: '[TM-024] [TM-107] process.exit in a handler',
    task: 'exits',
    payload: 0,
    code: 'THREAD_EXITED',
    message: /exit/,
  },
  { title: '[TM-024] process.exit with a code', task: 'exits', payload: 3, code: 'THREAD_EXITED', message: /3/ },
  { title: '[TM-024] out of memory', task: 'hoards', code: 'THREAD_OUT_OF_MEMORY', message: /heap/ },
  {
    title: '[TM-026] [TM-032] an infinite loop past its deadline',
    task: 'spins',
    options: { timeoutMs: 300 },
    code: 'TASK_TIMED_OUT',
    message: /./,
    outcome: 'timed_out',
  },
  { title: '[TM-025] an unknown task', task: 'nobody knows', code: 'TASK_NOT_REGISTERED', message: /nobody knows/ },
  { title: 'a result that is no JSON', task: 'returns', payload: 'bigint', code: 'RESULT_INVALID', message: /BigInt/i },
  { title: 'a result that is a circle', task: 'returns', payload: 'circle', code: 'RESULT_INVALID', message: /./ },
  { title: 'a result that is too large', task: 'big', payload: 60_000, code: 'RESULT_TOO_LARGE', message: /65,?536/ },
]

test('every kind of failure is one failed attempt of one job', { timeout: 5 * MINUTE }, async (t) => {
  await withEngine({ claimUnknown: true }, async (engine) => {
    for (const { title, task, payload, options, code, message, outcome = 'failed' } of KINDS) {
      await t.test(`${title}: ${outcome} with ${code}, and nobody else pays`, { timeout: MINUTE }, async () => {
        const id = await among(engine, task, payload ?? null, options)
        const attempts = await attemptsOf(id)
        assert.deepEqual(
          attempts.map(({ attempt, outcome, error }) => [attempt, outcome, error?.code]),
          [[1, outcome, code]],
        )
        assert.match(attempts[0]!.error!.message, message)
        const job = await engine.console.job(id)
        assert.equal(job?.state, 'failed')
        const [letter] = await engine.console.dead.list({ id })
        assert.equal(letter!.code, code)
        assert.equal((letter!.reason as { code: string }).code, code)
        await bothThreadsWork(engine)
      })
    }
    // threads that had to go were replaced once each, and no others
    const lost = lines.filter(({ event }) => event === 'thread.lost')
    assert.deepEqual(
      lost.map(({ facts }) => facts.code),
      ['THREAD_EXITED', 'THREAD_EXITED', 'THREAD_EXITED', 'THREAD_OUT_OF_MEMORY', 'TASK_TIMED_OUT'],
    )
    // and the numbers that somebody watches tell of every failure
    const { failed, timedOut, dead, retried } = engine.stats()
    assert.deepEqual([failed, timedOut, dead, retried], [KINDS.length, 1, KINDS.length, 0])
  })
})

const PANICS: readonly [what: string, task: string, payload: unknown, code: string][] = [
  ['a throw', 'throws', 'error', 'TASK_THREW'],
  ['a rejection', 'rejects', 'error', 'TASK_THREW'],
  ['an unhandled rejection', 'leaks', { ms: 1, runMs: 20_000 }, 'UNHANDLED_REJECTION'],
  ['process.exit', 'exits', 1, 'THREAD_EXITED'],
  ['out of memory', 'hoards', null, 'THREAD_OUT_OF_MEMORY'],
]

test(
  '[TM-024] after a panic its job is put back, charged with one attempt, and runs again; only the last makes a dead letter',
  {
    timeout: 5 * MINUTE,
  },
  () =>
    withEngine({}, async (engine) => {
      for (const [what, task, payload, code] of PANICS) {
        const retry = { kind: 'fixed', delayMs: 24 * 60 * MINUTE } as const
        const { id } = await engine.enqueue(task, payload as never, { maxAttempts: 2, retry })
        await until(`${what}: it is put back`, async () => (await engine.console.job(id))?.state === 'retrying')
        const placed = () =>
          query('select attempt, run, run_at > now() as later from millrace.scheduled where first_id = $1', [id])
        assert.deepEqual(await placed(), [{ attempt: 2, run: 2, later: true }], what)
        assert.deepEqual(await engine.console.dead.list({ id }), [], what)
        assert.deepEqual(await query('select from millrace.lease'), [], 'nobody holds it')
        await query('update millrace.scheduled set run_at = now() where first_id = $1', [id])
        await until(`${what}: it is dead`, async () => (await engine.console.dead.list({ id })).length === 1)
        assert.deepEqual(
          (await attemptsOf(id)).map(({ run, attempt, outcome, error }) => [run, attempt, outcome, error?.code]),
          [
            [1, 1, 'failed', code],
            [2, 2, 'failed', code],
          ],
          what,
        )
        await bothThreadsWork(engine)
      }
    }),
)

test(
  '[TM-026] [PC-047] a handler that loops for ever among 1,000 others fails alone, and the rest goes on',
  {
    timeout: 2 * MINUTE,
  },
  () =>
    withEngine({}, async (engine) => {
      const many = Array.from({ length: 500 }, () => ({ task: 'witness', payload: null }) as const)
      const loop = { task: 'forever', payload: null, options: { priority: 1 } } as const
      const ids = idsOf(await engine.enqueueMany([...many, loop, ...many]))
      await engine.drain(MINUTE)
      const [looped] = ids.splice(500, 1)
      const attempts = await attemptsOf(looped!)
      assert.deepEqual(
        attempts.map(({ outcome, error }) => [outcome, error?.code]),
        [['timed_out', 'TASK_TIMED_OUT']],
      )
      assert.equal((await engine.console.dead.list({ id: looped! })).length, 1)
      const others = await query(
        `select state, attempt, count(*)::int as n from millrace.jobs where id = any ($1) group by 1, 2`,
        [ids],
      )
      assert.deepEqual(others, [{ state: 'completed', attempt: 1, n: 1_000 }])
      const began = history.executions().find(({ jobId }) => jobId === looped)!
      const meanwhile = history
        .executions()
        .filter(({ startMs, endMs }) => startMs >= began.startMs && endMs < attempts[0]!.finished_at.getTime())
      assert.ok(meanwhile.length > 100, 'the others did not wait for it')
      // throughput recovers: both threads are back
      await bothThreadsWork(engine)
      await engine.enqueueMany(
        'witness',
        Array.from({ length: 1_000 }, () => null),
      )
      await engine.drain(MINUTE)
      assert.equal(engine.stats().timedOut, 1)
    }),
)

for (const [how, options, code] of [
  ['exit', {}, 'THREAD_EXITED'],
  ['spin', { timeoutMs: 500 }, 'TASK_TIMED_OUT'],
] as const) {
  test(
    `of jobs that share a thread only the one that ends it (${how}) pays; the others run again uncharged`,
    {
      timeout: MINUTE,
    },
    () =>
      withEngine({ threads: 1 }, async (engine) => {
        const resting = Array.from({ length: 8 }, () => ({ task: 'mixed', payload: 300 }) as const)
        const bad = { task: 'mixed', payload: how, options }
        const ids = idsOf(await engine.enqueueMany([...resting, bad, ...resting]))
        await engine.drain(MINUTE)
        const [guilty] = ids.splice(resting.length, 1)
        const last = (await attemptsOf(guilty!)).at(-1)!
        assert.deepEqual([last.attempt, last.error?.code], [1, code])
        assert.equal((await engine.console.dead.list({ id: guilty! })).length, 1)
        const others = await query(
          'select state, attempt, count(*)::int as n from millrace.jobs where id = any ($1) group by 1, 2',
          [ids],
        )
        assert.deepEqual(others, [{ state: 'completed', attempt: 1, n: ids.length }])
      }),
  )
}

test(
  '[TM-023] [TM-038] [TM-039] [TM-040] [TM-079] [TM-080] [TM-111] [PC-005] retries wait 1 s, 2 s, 4 s, then a dead letter; requeued it completes',
  {
    timeout: 2 * MINUTE,
  },
  () =>
    withEngine({}, async (engine) => {
      const obstacle = join(folder, 'obstacle')
      writeFileSync(obstacle, '')
      const { id } = await engine.enqueue('obstructed', obstacle, { maxAttempts: 4 })
      for (const [at, waitMs] of [1_000, 2_000, 4_000].entries()) {
        let run_at!: Date
        await until('the retry is scheduled', async () => {
          const rows = await query<{ run_at: Date; attempt: number }>(
            'select * from millrace.scheduled where first_id = $1',
            [id],
          )
          if (rows[0]?.attempt !== at + 2) return false
          run_at = rows[0].run_at
          return true
        })
        const last = (await attemptsOf(id)).at(-1)!
        assert.equal(last.attempt, at + 1)
        const gapMs = run_at.getTime() - last.finished_at.getTime()
        // from the end of the attempt to its flush some ms pass, on a busy machine some hundred
        assert.ok(
          gapMs >= waitMs && gapMs < waitMs + 900,
          `attempt ${at + 2} is due ${gapMs} ms after attempt ${at + 1}`,
        )
        assert.equal((await engine.console.job(id))?.state, 'retrying')
        await query('update millrace.scheduled set run_at = now() where first_id = $1', [id])
      }
      await until('it is dead', async () => (await engine.console.dead.list({ id })).length === 1)
      assert.deepEqual(
        (await attemptsOf(id)).map(({ attempt, outcome }) => [attempt, outcome]),
        [1, 2, 3, 4].map((attempt) => [attempt, 'failed']),
      )
      assert.equal((await engine.console.job(id))?.state, 'failed')
      rmSync(obstacle)
      assert.equal((await engine.console.dead.requeue({ id })).requeued, 1)
      await until('it completes', async () => (await engine.console.job(id))?.state === 'completed')
      const last = (await attemptsOf(id)).at(-1)!
      assert.deepEqual([last.attempt, last.run, last.outcome], [1, 5, 'completed'])
      assert.deepEqual(await engine.console.dead.list({ id }), [])
    }),
)

const TASK_MODULE = new URL('../engine/base/task.js', import.meta.url).href
const BROKEN: Record<string, string> = {
  'a-throws.mjs': `throw new Error('no import for you')`,
  'b-syntax.mjs': `export const = 1`,
  'c-exits.mjs': `process.exit(1)`,
  'd-hangs.mjs': `for (;;);`,
  'e-missing.mjs': `import './not-there.mjs'`,
  'f-good.mjs': `import { defineTask } from ${JSON.stringify(TASK_MODULE)}
    import { threadId } from 'node:worker_threads'
    export const good = defineTask({ name: 'good', run: () => threadId })`,
}

test('task files that do not load are named, cost nobody a job, and are not tried for ever', {
  timeout: 2 * MINUTE,
}, async () => {
  const tasks = join(folder, 'tasks')
  mkdirSync(tasks)
  for (const [name, text] of Object.entries(BROKEN)) writeFileSync(join(tasks, name), text)
  const from = lines.length
  await withEngine({ tasks, loadTimeoutMs: 500, claimUnknown: true }, async (engine) => {
    const names = engine.broken.map(({ file }) => file.split('/').at(-1)).sort()
    assert.deepEqual(names, ['a-throws.mjs', 'b-syntax.mjs', 'c-exits.mjs', 'd-hangs.mjs', 'e-missing.mjs'])
    const good = idsOf(
      await engine.enqueueMany(
        'good',
        Array.from({ length: 200 }, () => null),
      ),
    )
    const lost = await engine.enqueue('was in a broken file', null, { maxAttempts: 1 })
    await engine.drain(MINUTE)
    const ran = await query<{ result: string }>(
      `select distinct result::text as result from millrace.jobs where id = any ($1) and state = 'completed'`,
      [good],
    )
    assert.ok(ran.length >= 1 && ran.length <= 2, `${ran.length} threads ran 200 jobs`)
    assert.equal((await attemptsOf(lost.id))[0]?.error?.code, 'TASK_NOT_REGISTERED')
    // a thread that dies later comes back without the bad files
    await engine.enqueueMany(
      'good',
      Array.from({ length: 200 }, () => null),
    )
    await engine.drain(MINUTE)
    const events = lines.slice(from).map(({ event }) => event)
    assert.equal(events.filter((event) => event === 'thread.lost').length, 0)
    assert.equal(events.filter((event) => event === 'thread.given_up').length, 0)
  })
  // pathToFileURL names what the log names
  const told = lines
    .slice(from)
    .filter(({ event, facts }) => event === 'task_file.broken' && String(facts.file).endsWith('.mjs'))
  assert.ok(told.some(({ facts }) => facts.file === pathToFileURL(join(tasks, 'a-throws.mjs')).href))
})
