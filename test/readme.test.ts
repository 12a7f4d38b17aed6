// What the README shows works: its programs run as they stand there, in a folder of their own, against a database of
// their own; its SQL runs; its commands and flags exist.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { openTestDatabase, type TestDatabase } from './support/database.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const README = readFileSync(join(ROOT, 'README.md'), 'utf8')
const PROGRAM_MS_MAX = 60_000

let server: TestDatabase
let url: string
let folder: string
const database = `readme_${randomBytes(5).toString('hex')}`

before(async () => {
  server = await openTestDatabase()
  await server.query(`create database ${database}`)
  const own = new URL(server.url)
  own.pathname = `/${database}`
  url = own.href
  folder = mkdtempSync(join(tmpdir(), 'millrace-readme-'))
  mkdirSync(join(folder, 'node_modules'))
  symlinkSync(ROOT, join(folder, 'node_modules', 'millrace'), 'junction')
  symlinkSync(join(ROOT, 'node_modules', 'pg'), join(folder, 'node_modules', 'pg'), 'junction')
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }\n')
  for (const block of blocks('js')) {
    const name = /^\/\/ (\S+\.js)\n/.exec(block)?.[1]
    assert.ok(name, `this block does not say which file it is:\n${block}`)
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), block)
  }
})

after(async () => {
  await server.query(`drop database if exists ${database} with (force)`)
  await server.close()
  rmSync(folder, { recursive: true, force: true })
})

test('the first program of the README enqueues a job, runs it on a thread and prints its result', () => {
  assert.match(run('app.js'), /^[0-9a-f]{64}\n$/)
})

test('the task that names its module runs; options, keys and batches do what the README says', () => {
  assert.equal(run('enqueue.js'), '2 2 4\n')
})

test('a job that is enqueued in a transaction of the caller is there after the commit', () => {
  assert.equal(run('transaction.js'), 'queued\n')
})

test('handlers that complete themselves in their own transactions take each charge once', () => {
  assert.equal(run('charges.js'), '30\n')
})

test('a connection that PostgreSQL ends, at rest or between two statements of a handler, costs no thread', () => {
  const source = readFileSync(join(folder, 'charge.js'), 'utf8')
  const ends = (pid: string) => `await pool.query('select pg_terminate_backend($1)', [${pid}])`
  const gap = source.replace(
    '      await ctx.complete',
    `      if (ctx.attempt === 1) {
        const gone = new Promise((resolve) => client.once('end', resolve))
        ${ends('client.processID')}
        await gone
      }
      await ctx.complete`,
  )
  assert.notEqual(gap, source)
  writeFileSync(join(folder, 'gap.js'), gap)
  writeFileSync(
    join(folder, 'gaps.js'),
    `import { createEngine } from 'millrace'
import pg from 'pg'
import { charge } from './gap.js'
const lost = []
const note = (facts, event) => event.startsWith('thread.') && lost.push(event)
const log = { debug() {}, info() {}, warn: note, error: note, child: () => log }
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL })
pool.on('error', () => {})
await pool.query("create table if not exists account as select 'ada' as name, 100 as cents")
const engine = createEngine({ tasks: [charge], threads: 1, database: process.env.DATABASE_URL, log })
await engine.start()
const retry = { kind: 'fixed', delayMs: 0, jitter: 0 }
const first = await engine.enqueue('charge', { account: 'ada', cents: 1 }, { retry })
await engine.drain()
// what rests in the handler's pool now; millrace's own have names
await pool.query("select pg_terminate_backend(pid) from pg_stat_activity where application_name = '' and pid <> pg_backend_pid() and datname = current_database()")
const second = await engine.enqueue('charge', { account: 'ada', cents: 1 }, { retry })
await engine.drain()
for (const { id } of [first, second]) {
  const { state, attempt } = await engine.console.job(id)
  console.log(state, attempt)
}
console.log(lost.length)
await engine.stop()
await pool.end()
`,
  )
  assert.equal(run('gaps.js'), 'completed 2\ncompleted 2\n0\n')
})

test('the SQL of the README enqueues a job and shows it', async () => {
  const client = new pg.Client(url)
  await client.connect()
  try {
    for (const statement of blocks('sql')
      .join('\n')
      .split(';\n')
      .filter((text) => text.trim() !== '')) {
      const { rows } = await client.query(statement)
      assert.ok(rows.length > 0, statement)
    }
    const { rows } = await client.query(
      "select task, queue, state from millrace.jobs where queue = 'mail' order by id desc limit 1",
    )
    assert.deepEqual(rows, [{ task: 'welcome', queue: 'mail', state: 'queued' }])
  } finally {
    await client.end()
  }
})

test('a limit of three lets three of five start, as the README says', () => {
  assert.equal(run('limits.js'), '3 2\n')
})

test('schedules are registered, and their next time is told in their zone', () => {
  assert.match(run('schedules.js'), /^\[ 'report', 'sweep' \] \d+-\d+-\d+ 09:00/)
})

test('a test moves the clock, and what is due runs', () => {
  assert.equal(run('trial.js'), 'reminded bob 2026-03-05\n')
})

test('dead letters are listed and requeued, and queues are shown, as the README does it', () => {
  assert.match(run('care.js'), /0 requeued[\s\S]*queue: 'mail'/)
})

test('every command that the README shows exists, with the flags that it shows', () => {
  const lines = blocks('sh').flatMap((block) => block.split('\n').filter((line) => line.startsWith('node engine ')))
  assert.ok(lines.length > 8)
  for (const line of lines) {
    const words = line.split(' ').slice(2)
    const command = ['dead', 'queues', 'schedules'].includes(words[0]!) ? words.slice(0, 2) : words.slice(0, 1)
    const { status, stdout } = spawnSync(process.execPath, [join(ROOT, 'engine'), ...command, '--help'], {
      encoding: 'utf8',
    })
    assert.equal(status, 0, line)
    for (const flag of words.filter((word) => word.startsWith('--')))
      assert.ok(stdout.includes(`${flag} `) || stdout.includes(`${flag}\n`), `${line}: help does not know ${flag}`)
  }
})

function blocks(language: string): string[] {
  return [...README.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, 'gm'))].map((match) => match[1]!)
}

function run(name: string): string {
  const { status, stdout, stderr, error } = spawnSync(process.execPath, [name], {
    cwd: folder,
    encoding: 'utf8',
    timeout: PROGRAM_MS_MAX,
    env: { ...process.env, DATABASE_URL: url },
  })
  assert.ifError(error)
  assert.equal(status, 0, `${name}: ${stderr}`)
  return stdout
}
