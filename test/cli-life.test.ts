// The command line as a person uses it: real processes, a real database. Every wait is for a line that a process
// prints or for its end.

import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, afterEach, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { openTestDatabase, type TestDatabase } from './support/database.ts'

const LAUNCHER = fileURLToPath(new URL('../../engine', import.meta.url))
const TASK_MODULE = new URL('../engine/base/task.js', import.meta.url).href

const TASKS = `
import { defineTask } from ${JSON.stringify(TASK_MODULE)}
export const add = defineTask({ name: 'add', run: ({ a, b }) => ({ sum: a + b }) })
export const fail = defineTask({ name: 'fail', maxAttempts: 1, run: () => { throw new Error('as asked') } })
export const hold = defineTask({ name: 'hold', timeoutMs: 0, graceMs: 60_000, run: () => new Promise((r) => setTimeout(r, 120_000)) })
`

type Line = Record<string, unknown> & { msg?: string }

interface Ended {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

let database: TestDatabase
let folder: string
const living = new Set<ChildProcess>()

before(async () => {
  database = await openTestDatabase()
  folder = mkdtempSync(join(tmpdir(), 'millrace-life-'))
  mkdirSync(join(folder, 'tasks'))
  writeFileSync(join(folder, 'tasks', 'all.mjs'), TASKS)
})

// An engine that a failed test leaves would take the jobs of the next one.
afterEach(() => {
  for (const child of living) child.kill('SIGKILL')
})

after(async () => {
  await database?.close()
  rmSync(folder, { recursive: true, force: true })
})

/** One process of `node engine` on the schema of this file, unless the environment says otherwise. */
function launch(words: readonly string[], env: Record<string, string> = {}) {
  const own = { PATH: process.env.PATH ?? '', DATABASE_URL: database.url, MILLRACE_SCHEMA: database.schema }
  const child = spawn(process.execPath, [LAUNCHER, ...words], { cwd: folder, env: { ...own, ...env } })
  living.add(child)
  const out: string[] = []
  const err: string[] = []
  const seen: Line[] = []
  const waiting: { msg: string; resolve: (line: Line) => void }[] = []
  createInterface({ input: child.stdout }).on('line', (text) => {
    out.push(text)
    if (!text.startsWith('{')) return
    const line = JSON.parse(text) as Line
    seen.push(line)
    for (const one of waiting) if (one.msg === line.msg) one.resolve(line)
  })
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk.toString()))
  const ended = new Promise<Ended>((resolve) => {
    child.on('close', (code) => {
      living.delete(child)
      resolve({ code, out: out.join('\n'), err: err.join('') })
    })
  })
  /** The first line with this event, also when it came before. Fails when the process ends without it. */
  const line = async (msg: string): Promise<Line> => {
    const found = seen.find((one) => one.msg === msg)
    if (found) return found
    const comes = new Promise<Line>((resolve) => waiting.push({ msg, resolve }))
    const ends = ended.then(({ code, out: text, err: errors }) =>
      assert.fail(`ended with ${code} before ${msg}\n${text}\n${errors}`),
    )
    return await Promise.race([comes, ends])
  }
  return { child, ended, line }
}

async function ok(...words: string[]): Promise<Ended> {
  const ended = await launch(words).ended
  assert.equal(ended.code, 0, `${words.join(' ')}\n${ended.out}\n${ended.err}`)
  return ended
}

async function rows(...words: string[]): Promise<Line[]> {
  const { out } = await ok(...words, '--json')
  return out
    .split('\n')
    .filter((text) => text !== '')
    .map((text) => JSON.parse(text) as Line)
}

/** Asks again until a job is in a state; the process that asks is the pause. */
async function untilState(id: unknown, state: string): Promise<Line> {
  for (;;) {
    const [life] = await rows('explain', String(id))
    const job = life!.job as Line
    if (job.state === state) return life!
  }
}

test('migrate --dry-run prints SQL and changes nothing; migrate applies it once', { timeout: 120_000 }, async () => {
  const dry = await ok('migrate', '--dry-run')
  assert.match(dry.out, /create table/i)
  const sql = 'select count(*)::int as n from pg_namespace where nspname = $1'
  assert.deepEqual(await database.query(sql, [database.schema]), [{ n: 0 }])
  assert.match((await ok('migrate')).out, /Applied \d+ migration/)
  assert.match((await ok('migrate')).out, /up to date/)
})

test('start runs what enqueue writes, explain tells its life, SIGTERM ends it with 0', {
  timeout: 180_000,
}, async () => {
  const engine = launch(['start', '--threads', '1'])
  await engine.line('start.ready')
  const [sum] = await rows('enqueue', 'add', '{"a":2,"b":3}')
  const life = await untilState(sum!.id, 'completed')
  assert.deepEqual((life.job as Line).result, { sum: 5 })
  const states = (life.events as Line[]).map(({ state }) => state)
  assert.equal(states.at(0), 'queued')
  assert.equal(states.at(-1), 'completed')
  for (const event of life.events as Line[]) assert.ok(event.where && event.why, JSON.stringify(event))
  assert.match((await ok('explain', String(sum!.id))).out, /completed/)

  const [bad] = await rows('enqueue', 'fail')
  await untilState(bad!.id, 'failed')
  const [letter] = await rows('dead', 'list', '--task', 'fail')
  assert.equal(letter!.id, bad!.id)
  assert.deepEqual(await rows('dead', 'requeue', String(bad!.id)), [
    { requeued: 1, taken: 0, takenBy: [], notDead: 0, notDeadIds: [] },
  ])
  await untilState(bad!.id, 'failed')
  assert.deepEqual(await rows('dead', 'purge', '--task', 'fail'), [{ purged: 1 }])

  const listed = await rows('jobs', '--task', 'add', '--state', 'completed')
  assert.deepEqual(
    listed.map(({ id }) => id),
    [sum!.id],
  )
  assert.match((await ok('stats')).out, /default/)

  engine.child.kill('SIGTERM')
  const { code, out } = await engine.ended
  assert.equal(code, 0)
  for (const text of out.split('\n')) assert.doesNotThrow(() => JSON.parse(text), text)
})

test('a job that outlives the deadline is released uncharged; a second signal leaves with 1', {
  timeout: 180_000,
}, async () => {
  const engine = launch(['start', '--threads', '1', '--stop-timeout-ms', '60s'])
  await engine.line('start.ready')
  const [job] = await rows('enqueue', 'hold')
  for (let running = 0; running === 0; ) {
    const stats = await rows('stats')
    running = (stats[0]!.queues as Line[]).reduce((sum, queue) => sum + Number(queue.inFlight), 0)
  }
  engine.child.kill('SIGTERM')
  await engine.line('start.stopping')
  engine.child.kill('SIGTERM')
  assert.equal((await engine.ended).code, 1)
  const life = await untilState(job!.id, 'queued')
  assert.equal((life.job as Line).id, job!.id)
  await ok('cancel', String(job!.id))
  await untilState(job!.id, 'cancelled')
})

test('a reader of the log that goes away ends the engine in good order', { timeout: 120_000 }, async () => {
  const engine = launch(['start', '--threads', '1', '--summary-every-ms', '50'])
  await engine.line('start.ready')
  engine.child.stdout.destroy()
  const { code, err } = await engine.ended
  assert.equal(code, 0)
  assert.equal(err, '')
})

test('the demo fingerprints every file of a folder and keeps the results', { timeout: 180_000 }, async () => {
  mkdirSync(join(folder, 'files'))
  for (let i = 0; i < 40; i++) writeFileSync(join(folder, 'files', `f${i}`), `line\n`.repeat(i))
  const [sum] = await rows('demo', 'files', '--threads', '2')
  assert.equal(sum!.files, 40)
  assert.equal(sum!.completed, 40)
  const jobs = await rows('jobs', '--queue', String(sum!.queue), '--limit', '100')
  assert.equal(jobs.length, 40)
  const lines = jobs.map(({ result }) => (result as { lines: number }).lines).sort((a, b) => a - b)
  assert.deepEqual(
    lines,
    Array.from({ length: 40 }, (_, i) => i),
  )
})

test('doctor finds a healthy database healthy, and one that does not answer bad', { timeout: 120_000 }, async () => {
  const checks = await rows('doctor')
  assert.ok(checks.length > 3)
  const lost = await launch(['doctor', '--json'], { DATABASE_URL: 'postgres://127.0.0.1:9/none' }).ended
  assert.equal(lost.code, 1)
  assert.match(lost.out, /"check":"database".*"verdict":"bad"/)
})

test('errors of the store have their exit code and no stack', { timeout: 120_000 }, async () => {
  const lost = await launch(['jobs'], { DATABASE_URL: 'postgres://127.0.0.1:9/none' }).ended
  assert.equal(lost.code, 69)
  assert.match(lost.err, /^error: .+\nhint: /)
  assert.doesNotMatch(lost.err, /\n\s+at /)
  const missing = await launch(['jobs'], { MILLRACE_SCHEMA: `${database.schema}x` }).ended
  assert.equal(missing.code, 78)
  assert.match(missing.err, /hint: {2}Run `node engine migrate`/)
  const unknown = await launch(['explain', '987654321']).ended
  assert.equal(unknown.code, 66)
})

for (const [how, listens] of [
  ['nothing listens', false],
  ['a server takes the connection and says nothing', true],
] as const)
  test(`start waits for its database and says for whom; SIGTERM while ${how} ends it with 0`, {
    timeout: 120_000,
  }, async () => {
    const silent = createServer((socket) => socket.on('error', () => {}))
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
    const { port } = silent.address() as AddressInfo
    if (!listens) await new Promise((resolve) => silent.close(resolve))
    try {
      const url = `postgres://app:geheim@127.0.0.1:${port}/shop`
      const engine = launch(['start', '--threads', '1'], { DATABASE_URL: url })
      const waiting = await engine.line('database.waiting')
      assert.equal(waiting.database, `127.0.0.1:${port}/shop`)
      engine.child.kill('SIGTERM')
      const { code, out, err } = await engine.ended
      assert.equal(code, 0, err)
      assert.ok(!`${out}${err}`.includes('geheim'))
    } finally {
      if (listens) silent.close()
    }
  })

test('start without a database in production exits 78 and says what to set; with 0 it never waits', {
  timeout: 120_000,
}, async () => {
  const forgotten = await launch(['start'], { DATABASE_URL: '', NODE_ENV: 'production' }).ended
  assert.equal(forgotten.code, 78)
  assert.match(forgotten.err, /NODE_ENV is production[\s\S]*--embedded/)
  const hasty = { DATABASE_URL: 'postgres://127.0.0.1:9/none', MILLRACE_DATABASE_WAIT_MS: '0' }
  assert.equal((await launch(['start'], hasty).ended).code, 69)
})
