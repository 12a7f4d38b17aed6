// What the README shows works, as a stranger meets it: the package as it is published and pg, installed into an empty
// folder; there the programs run as they stand, in their order, against a database of their own, then the SQL and the
// commands.

import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { openTestDatabase, type TestDatabase } from './support/database.ts'
import { install, pack } from './support/empty-folder.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const README = readFileSync(join(ROOT, 'README.md'), 'utf8')
const PROGRAM_MS_MAX = 60_000

let server: TestDatabase
let url: string
let folder: string
let env: NodeJS.ProcessEnv
const database = `readme_${randomBytes(5).toString('hex')}`

before(
  async () => {
    server = await openTestDatabase()
    await server.query(`create database ${database}`)
    const own = new URL(server.url)
    own.pathname = `/${database}`
    url = own.href
    folder = mkdtempSync(join(tmpdir(), 'millrace-readme-'))
    const packed = await pack(folder)
    const home = join(folder, 'home')
    if (!(await install(home, [packed.file, 'pg']))) linkInstead(home)
    rmSync(packed.file)
    folder = home
    // the node that runs this is the one that runs the examples, also under npx
    const path = [dirname(process.execPath), process.env.PATH].join(delimiter)
    const around = Object.entries(process.env).filter(
      ([name]) => !/^(PG|MILLRACE_|NODE_OPTIONS$|NODE_TEST_)/.test(name),
    )
    env = { ...Object.fromEntries(around), PATH: path, DATABASE_URL: url }
    for (const { name, text } of programs()) {
      mkdirSync(dirname(join(folder, name)), { recursive: true })
      writeFileSync(join(folder, name), text)
    }
  },
  { timeout: 4 * 60_000 },
)

/** Where no registry can be reached: the repository in the place of the package. */
function linkInstead(home: string): void {
  mkdirSync(join(home, 'node_modules', '.bin'), { recursive: true })
  symlinkSync(ROOT, join(home, 'node_modules', 'millrace'), 'junction')
  symlinkSync(join(ROOT, 'node_modules', 'pg'), join(home, 'node_modules', 'pg'), 'junction')
  symlinkSync(join(ROOT, 'engine', 'index.js'), join(home, 'node_modules', '.bin', 'millrace'))
}

after(async () => {
  await server.query(`drop database if exists ${database} with (force)`)
  await server.close()
  rmSync(dirname(folder), { recursive: true, force: true })
})

test('every example says which file it is and exactly the packages that it imports', () => {
  const installed = blocks('sh')
    .join('\n')
    .match(/^npm install (.+)$/m)![1]!
    .split(' ')
  for (const { name, packages, text } of programs()) {
    const foreign = [...text.matchAll(/ from '((?!node:|\.)[^']+)'/g)].map((match) => match[1]!.split('/')[0]!)
    assert.deepEqual(packages, [...new Set(foreign)].sort(), name)
    for (const wanted of packages) assert.ok(installed.includes(wanted), `${name}: the install lacks ${wanted}`)
  }
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

test('the commands of the README do what they say, in their order, beside a started engine', {
  timeout: 4 * 60_000,
}, async () => {
  const lines = blocks('sh').flatMap((block) => block.split('\n').filter((line) => line.startsWith('npx millrace ')))
  assert.ok(lines.length > 12)
  const [start, ...others] = lines
  const engine = await started(start!)
  try {
    let id = 'none yet'
    for (const line of others) {
      const { status, stdout, stderr } = spawnSync('bash', ['-c', command(line).replace(/\bID\b/, id)], {
        cwd: folder,
        encoding: 'utf8',
        timeout: PROGRAM_MS_MAX,
        env,
      })
      assert.equal(status, 0, `${line}\n${stdout}${stderr}`)
      id = /^Enqueued job (\d+)/.exec(stdout)?.[1] ?? id
    }
  } finally {
    engine.kill('SIGTERM')
    if (engine.exitCode === null) await new Promise((resolve) => engine.once('exit', resolve))
  }
  assert.equal(engine.exitCode, 0)
})

/** The engine of the README's first command, once it is ready. It ends with its bound, whatever happens. */
async function started(line: string): Promise<ChildProcess> {
  const words = command(line).split(' ')
  const engine = spawn(words[0]!, words.slice(1), {
    cwd: folder,
    env,
    timeout: 3 * 60_000,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  await new Promise<void>((resolve, reject) => {
    for (const stream of [engine.stdout!, engine.stderr!])
      stream.on('data', (chunk: Buffer) => {
        said += chunk.toString()
        if (said.includes('start.ready')) resolve()
      })
    engine.once('error', reject)
    engine.once('exit', (code) => reject(new Error(`${line} ended with ${code}: ${said}`)))
  })
  return engine
}

/** npx passes signals on only when it likes, so the command that it would run stands in its place. */
function command(line: string): string {
  return line.replace('npx millrace', `${process.execPath} ${join('node_modules', 'millrace', 'engine', 'index.js')}`)
}

test('npx finds the command, whose hints then say npx', { timeout: 60_000 }, () => {
  const npx = (...words: string[]) =>
    execFileSync('npx', ['--no-install', 'millrace', ...words], { cwd: folder, env, encoding: 'utf8' })
  assert.match(npx('--help'), /Usage: npx millrace <command>/)
  const text = npx('--version', '--json')
  assert.equal((JSON.parse(text) as { node: string }).node, process.version)
})

test('the switches that the README shows beside its commands exist', () => {
  const help = spawnSync(process.execPath, [join(ROOT, 'engine'), 'stats', '--help'], { encoding: 'utf8' }).stdout
  assert.match(help, /--watch/)
})

interface Program {
  readonly name: string
  readonly packages: readonly string[]
  readonly text: string
}

function programs(): Program[] {
  return blocks('js').map((text) => {
    const [, name, packages] = /^\/\/ (\S+\.js) \(packages: ([^)]+)\)\n/.exec(text) ?? []
    assert.ok(name && packages, `this block does not say which file it is and what it needs:\n${text}`)
    return { name, packages: packages.split(', '), text }
  })
}

function blocks(language: string): string[] {
  return [...README.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, 'gm'))].map((match) => match[1]!)
}

function run(name: string): string {
  const { status, stdout, stderr, error } = spawnSync(process.execPath, [name], {
    cwd: folder,
    encoding: 'utf8',
    timeout: PROGRAM_MS_MAX,
    env,
  })
  assert.ifError(error)
  assert.equal(status, 0, `${name}: ${stderr}`)
  return stdout
}
