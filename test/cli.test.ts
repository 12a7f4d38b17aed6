// The command line without a database: help, flags, errors, exit codes, what is printed for people and for machines.
// Commands run in this process against an engine that answers from memory; the launcher runs as a process of its own.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { stripVTControlCharacters } from 'node:util'
import { EngineError } from '../engine/base/errors.ts'
import type { Api, Console } from '../engine/cli/api.ts'
import type { Signals } from '../engine/cli/context.ts'
import { SETTING_NAMES } from '../engine/config/settings.ts'
import { cli, fakeApi, fakeConsole, JOB, LEFT_NONE, RESULT, SCHEDULE, STATS } from './support/cli.ts'

const COMMANDS = [
  'start',
  'demo',
  'enqueue',
  'stats',
  'jobs',
  'explain',
  'dead',
  'queues',
  'schedules',
  'cancel',
  'migrate',
  'config',
  'doctor',
]

test('help names every command, and every command has a help with its flags and an example', async () => {
  const root = await cli(['--help'])
  assert.equal(root.code, 0)
  for (const name of COMMANDS) {
    assert.match(root.out, new RegExp(`^ {2}${name}\\b`, 'm'))
    const { code, out } = await cli([name, '--help'])
    assert.equal(code, 0)
    assert.match(out, new RegExp(`^millrace ${name}: .+\\n\\nUsage: millrace ${name}`))
    assert.match(out, new RegExp(`Examples\\n {2}millrace ${name}`))
    for (const flag of ['--database', '--schema', '--config', '--json', '--verbose', '--help'])
      assert.ok(out.includes(flag))
    assert.ok(
      out.split('\n').every((line) => line.length <= 120),
      `${name}: a line is too long`,
    )
  }
})

test('no words at all show the help', async () => {
  const { code, out } = await cli([])
  assert.equal(code, 0)
  assert.match(out, /First steps/)
})

test('an unknown flag or command is refused with what was meant, exit 64', async () => {
  const flag = await cli(['jobs', '--flush-evry-ms', '3'])
  assert.equal(flag.code, 64)
  assert.match(flag.err, /unknown option '--flush-evry-ms'; did you mean --flush-every-ms\?/)
  const command = await cli(['strat'])
  assert.equal(command.code, 64)
  assert.match(command.err, /unknown command 'strat'; did you mean start\?/)
  assert.equal((await cli(['jobs', 'surplus'])).code, 64)
  assert.equal((await cli(['explain'])).code, 64)
})

test('a wrong setting exits 78 and says value, rule and source; --json says it as JSON', async () => {
  const text = await cli(['jobs', '--threads', '0'])
  assert.equal(text.code, 78)
  assert.match(
    text.err,
    /^error: threads must be a whole number from 1 to 1,024; got "0" \(from --threads\)\nhint: {2}Correct it where/,
  )
  assert.doesNotMatch(text.err, / at .*\.js/)
  const json = await cli(['jobs', '--threads', '0', '--json'])
  assert.equal(json.code, 78)
  assert.equal(json.out, '')
  const { error } = JSON.parse(json.err) as { error: { code: string; message: string; hint: string; details: unknown } }
  assert.equal(error.code, 'CONFIG_INVALID')
  assert.match(error.message, /threads/)
  assert.equal('stack' in error, false)
})

test('an error of the engine gives its message, its hint and its exit code; a stack only with --verbose', async () => {
  const console = {
    jobs: async () => {
      throw new EngineError('STORE_UNREACHABLE', 'no answer from db:5432', {}, new Error('ECONNREFUSED'))
    },
  }
  const plain = await cli(['jobs'], { api: fakeApi({ console }) })
  assert.equal(plain.code, 69)
  assert.match(plain.err, /^error: no answer from db:5432\nhint: /)
  assert.doesNotMatch(plain.err, /\n\s+at /)
  const verbose = await cli(['jobs', '--verbose'], { api: fakeApi({ console }) })
  assert.match(verbose.err, /\n\s+at /)
  assert.match(verbose.err, /caused by Error: ECONNREFUSED/)
  const api = fakeApi({
    console: {
      jobs: async () => {
        throw new TypeError('x is not a function')
      },
    },
  })
  const unexpected = await cli(['jobs'], { api })
  assert.equal(unexpected.code, 70)
  assert.equal(api.calls.closed, 1)
})

test('config shows every setting with value and source, masks passwords, and needs no engine', async () => {
  const env = { DATABASE_URL: 'postgres://u:secret@db/app', MILLRACE_THREADS: '3', MILLRACE_THREDS: '1' }
  const api: Api = {
    createEngine: () => assert.fail('not needed'),
    createClient: () => assert.fail('not needed'),
  }
  const { code, lines, out } = await cli(['config', '--json', '--held-max', '9000'], { env, api })
  assert.equal(code, 0)
  assert.deepEqual(
    lines.map((line) => line.setting),
    SETTING_NAMES,
  )
  const bySetting = new Map(lines.map((line) => [line.setting, line]))
  assert.equal(bySetting.get('heldMax')?.source, 'flag')
  assert.equal(bySetting.get('threads')?.from, 'MILLRACE_THREADS')
  assert.equal(bySetting.get('database')?.value, 'postgres://u:***@db/app')
  assert.doesNotMatch(out, /secret/)
  const text = await cli(['config'], { env, api })
  assert.match(text.out, /threads +3 +MILLRACE_THREADS/)
  assert.match(text.err, /MILLRACE_THREDS is not a setting .*did you mean MILLRACE_THREADS\?/)
  const one = await cli(['config', 'threads'], { env, api })
  assert.match(one.out, /must be +a whole number from 1 to 1,024/)
  assert.match((await cli(['config', 'thread'], { env, api })).err, /did you mean threads\?/)
})

test('a switch can be turned off by --no-..., and the settings file is found in the folder or by --config', async () => {
  const cwd = mkdtempSync(join(tmpdir(), 'millrace-cli-'))
  try {
    writeFileSync(join(cwd, 'millrace.config.json'), '{ "threads": 2, "listen": true }')
    writeFileSync(join(cwd, 'other.mjs'), 'export default { threads: 5 }')
    const value = async (...words: string[]) => (await cli(['config', ...words, '--json'], { cwd })).lines[0]?.value
    assert.equal(await value('threads'), 2)
    assert.equal(await value('listen', '--no-listen'), false)
    assert.equal(await value('threads', '--config', 'other.mjs'), 5)
    const missing = await cli(['config', '--config', 'gone.json'], { cwd })
    assert.equal(missing.code, 78)
    assert.match(missing.err, /gone\.json does not exist/)
  } finally {
    rmSync(cwd, { recursive: true, force: true })
  }
})

test('enqueue hands over the payload and every option', async () => {
  const api = fakeApi()
  const words = [
    'enqueue',
    'mail',
    '{"to":"ada"}',
    '--queue',
    'q',
    '--priority',
    '-5',
    '--delay',
    '10m',
    '--group',
    'g',
    '--group-limit',
    '3',
    '--on-retry',
    'skip',
  ]
  const more = [
    '--key',
    'k',
    '--max-attempts',
    '7',
    '--timeout',
    '2s',
    '--expires-at',
    '2030-01-01T00:00:00Z',
    '--ephemeral',
    '--json',
  ]
  const { code, lines } = await cli([...words, ...more], { api })
  assert.equal(code, 0)
  assert.deepEqual(lines, [{ task: 'mail', id: 41, duplicate: false }])
  assert.deepEqual(api.calls.enqueued, [
    [
      'mail',
      { to: 'ada' },
      {
        queue: 'q',
        priority: -5,
        delayMs: 600_000,
        group: 'g',
        groupLimit: 3,
        onRetry: 'skip',
        idempotencyKey: 'k',
        onDuplicate: 'reject',
        ephemeral: true,
        maxAttempts: 7,
        timeoutMs: 2_000,
        expiresAt: new Date('2030-01-01T00:00:00Z'),
      },
    ],
  ])
  assert.equal(api.calls.closed, 1)
})

test('enqueue --count writes that many copies, and says where they are', async () => {
  const api = fakeApi()
  const { out } = await cli(['enqueue', 'noop', '--count', '1,000'], { api })
  assert.equal(out, 'Enqueued 1,000 jobs of noop: 100 to 1099\n')
  assert.equal((api.calls.enqueued[0]![1] as unknown[]).length, 1_000)
})

test('enqueue refuses what is not JSON and what excludes each other, before it connects', async () => {
  const api: Api = { createEngine: () => assert.fail(), createClient: () => assert.fail('connected') }
  for (const [words, code, message] of [
    [['t', '{to:ada}'], 65, /the payload is not JSON: .*Quote it for the shell/],
    [['t', '--count', '0'], 64, /--count must be a whole number from 1 to 1,000,000; got "0"/],
    [['t', '--count', '2', '--key', 'k'], 64, /--key and --count exclude each other/],
    [['t', '--delay', '1s', '--run-at', '2030-01-01'], 64, /--run-at and --delay exclude each other/],
    [['t', '--delay', 'soon'], 64, /--delay must be a time such as/],
    [['t', '--run-at', 'tomorrow'], 64, /--run-at must be a moment such as/],
    [['t', '--priority', '101'], 64, /--priority must be a whole number from -100 to 100/],
    [['t', '--max-attempts', '0'], 64, /--max-attempts must be/],
    [['x'.repeat(256)], 64, /TASK must be 1 to 255 characters/],
  ] as const) {
    const ran = await cli(['enqueue', ...words], { api })
    assert.equal(ran.code, code, words.join(' '))
    assert.match(ran.err, message)
  }
})

test('jobs and stats print tables for people and one JSON line per row for machines', async () => {
  const text = await cli(['jobs'])
  assert.match(text.out, /id +task +queue +state +attempt/)
  assert.match(text.out, /7 +mail +default +completed +1\/3 +2026-11-21 01:02:03\.004 +\{"sent":true\}/)
  assert.match(text.err, /millrace explain 7/)
  const json = await cli(['jobs', '--json', '--limit', '5'])
  assert.equal(json.lines[0]?.id, 7)
  assert.equal(json.err, '')
  const stats = await cli(['stats'])
  assert.match(stats.out, /default +1,234 +2 +3 +4 +5 +6 +1 min 1 s/)
  assert.match(stats.out, /17 +live +1\.2 s ago +40 µs, 1\.5 ms/)
  assert.deepEqual(Object.keys((await cli(['stats', '--json'])).lines[0]!), ['queues', 'nodes', 'loops', 'unserved'])
})

test('jobs passes its filter on, with the words that people use for states', async () => {
  const seen: unknown[] = []
  const api = fakeApi({
    console: {
      jobs: async (filter) => {
        seen.push(filter)
        return []
      },
    },
  })
  const { out } = await cli(
    ['jobs', '--state', 'canceled', '--task', 't', '--queue', 'q', '--before', '9', '--limit', '3'],
    { api },
  )
  assert.deepEqual(seen, [{ state: 'cancelled', task: 't', queue: 'q', before: 9, limit: 3 }])
  assert.equal(out, 'No job fits.\n')
  assert.equal((await cli(['jobs', '--state', 'lost'], { api })).code, 64)
})

test('explain prints every state with when, where and why', async () => {
  const { out } = await cli(['explain', '7'])
  assert.match(out, /Job 7 {2}mail in queue default: completed/)
  assert.match(out, /01:02:03\.004 +queued +queue default +enqueued/)
  assert.match(out, /01:02:03\.016 +\+12 ms +completed +node n1 +the handler returned/)
  const json = await cli(['explain', '7', '--json'])
  assert.equal((json.lines[0]!.events as unknown[]).length, 2)
})

test('text from the database cannot move the cursor or break a line', async () => {
  const console: Partial<Console> = {
    jobs: async () => [{ ...JOB, id: 1, state: 'failed', error: { code: 'X', message: 'a\u001b[2Jb\nc\u0007' } }],
  }
  const { out } = await cli(['jobs'], { api: fakeApi({ console }) })
  assert.match(out, /X a·\[2Jb c·/)
})

test('dead letters are requeued and purged only when it is said which', async () => {
  assert.equal((await cli(['dead', 'purge'])).code, 64)
  assert.match((await cli(['dead', 'requeue'])).err, /name what is meant: an ID, --queue, --task or --all/)
  assert.equal((await cli(['dead', 'requeue', '7'])).out, '2 jobs requeued.\n')
  assert.deepEqual((await cli(['dead', 'purge', '--all', '--json'])).lines, [{ purged: 1 }])
  assert.equal((await cli(['dead'])).out, 'No dead letter fits.\n')
})

test('several dead letters are named at once; what was left is told line by line', async () => {
  const seen: unknown[][] = []
  const requeue = async (...args: unknown[]) => {
    seen.push(args)
    return {
      requeued: 1,
      taken: 2,
      takenBy: [{ id: 8, heldBy: 20 }],
      notDead: 2,
      notDeadIds: [
        { id: 9, state: 'queued' as const },
        { id: 10, state: null },
      ],
    }
  }
  const api = fakeApi({ console: { dead: { ...fakeConsole().dead, requeue } } })
  const { out } = await cli(['dead', 'requeue', '7', '8', '9', '10', '--expires-at', '2030-01-01'], { api })
  assert.deepEqual(seen, [[{ ids: [7, 8, 9, 10] }, { expiresAt: new Date('2030-01-01') }]])
  assert.deepEqual(out.trimEnd().split('\n'), [
    '1 job requeued.',
    '2 jobs left, as another has the key:',
    '  8: job 20 has it',
    '  and 1 more',
    '2 ids left, as they are no dead letters:',
    '  9: queued',
    '  10: no such job',
  ])
  assert.equal((await cli(['dead', 'requeue', '7', 'x'], { api })).code, 64)
})

test('dead letters are chosen by their time too, and are tried again at a rate', async () => {
  const seen: unknown[][] = []
  const requeue = async (...args: unknown[]) => {
    seen.push(args)
    return LEFT_NONE
  }
  const api = fakeApi({ console: { dead: { ...fakeConsole().dead, requeue } } })
  await cli(['dead', 'requeue', '--all', '--per-second', '0.5', '--died-after', '2026-01-01', '--limit', '7'], { api })
  assert.deepEqual(seen, [[{ limit: 7, diedAfter: new Date('2026-01-01') }, { perSecond: 0.5 }]])
  const { code, err } = await cli(['dead', 'requeue', '7', '--per-second', '0'], { api })
  assert.equal(code, 64)
  assert.match(err, /--per-second must be a number from 0\.01 to 100,000; got "0"/)
})

test('results are listed by what they are of, page by page, and are shown in full', async () => {
  const seen: unknown[] = []
  const older = '2026-11-21T01:02:03.004000Z/7'
  const page = async (filter: unknown) => {
    seen.push(filter)
    return { rows: [RESULT], older }
  }
  const api = fakeApi({ console: { results: { ...fakeConsole().results, page } } })
  const text = await cli(['results', '--task', 't', '--completed-before', '2026-12-01', '--limit', '1'], { api })
  assert.deepEqual(seen, [{ task: 't', completedBefore: new Date('2026-12-01'), limit: 1 }])
  assert.match(text.out, /7 +mail +default +1 +2026-11-21 01:02:03\.004 +\{"sent":true\}/)
  assert.match(text.err, /older ones: --cursor 2026-11-21T01:02:03\.004000Z\/7; a whole one: millrace results show 7/)
  const json = await cli(['results', 'list', '--json', '--cursor', older], { api })
  assert.deepEqual(seen[1], { cursor: older, limit: 20 })
  assert.deepEqual([json.lines[0]!.id, json.lines[1]], [7, { older }])
  const none = await cli(['results'], {
    api: fakeApi({ console: { results: { ...fakeConsole().results, page: async () => ({ rows: [], older: null }) } } }),
  })
  assert.equal(none.out, 'No result fits.\n')
  assert.equal((await cli(['results', 'show', '7'])).out, '{\n  "sent": true\n}\n')
  assert.deepEqual((await cli(['results', 'show', '7', '--json'])).lines, [{ id: 7, result: { sent: true } }])
  const failed = fakeApi({ console: { job: async () => ({ ...JOB, state: 'failed' }) } })
  const refused = await cli(['results', 'show', '7'], { api: failed })
  assert.deepEqual([refused.code, /job 7 is failed, not completed/.test(refused.err)], [65, true])
  assert.equal((await cli(['results', 'show', '8'], { api: fakeApi({ console: { job: async () => null } }) })).code, 66)
})

test('results are cleaned up only when it is said which', async () => {
  const seen: unknown[] = []
  const cleanup = async (filter: unknown) => {
    seen.push(filter)
    return 3
  }
  const api = fakeApi({ console: { results: { ...fakeConsole().results, cleanup } } })
  const { code, err } = await cli(['results', 'cleanup'], { api })
  assert.equal(code, 64)
  assert.match(err, /name what is meant: --queue, --completed-before, or both/)
  assert.equal((await cli(['results', 'cleanup', '--queue', 'q'], { api })).out, '3 results forgotten.\n')
  const json = await cli(['results', 'cleanup', '--completed-before', '2026-12-01', '--json'], { api })
  assert.deepEqual(json.lines, [{ forgotten: 3 }])
  assert.deepEqual(seen, [{ queue: 'q' }, { completedBefore: new Date('2026-12-01') }])
})

test('migrate --dry-run prints SQL alone on standard output', async () => {
  const { out, err } = await cli(['migrate', '--dry-run'])
  assert.equal(out, 'create table x ()\n')
  assert.match(err, /1 migration would be applied \(1 base\); nothing was changed/)
  assert.match((await cli(['migrate'])).out, /Applied 1 migration/)
})

test('doctor exits 1 when something is bad, also when the database does not answer', async () => {
  assert.equal((await cli(['doctor'])).code, 0)
  const doctor = async () => {
    throw new EngineError('STORE_UNREACHABLE', 'no answer')
  }
  const { code, out } = await cli(['doctor'], { api: fakeApi({ console: { doctor } }) })
  assert.equal(code, 1)
  assert.match(out, /bad +database +STORE_UNREACHABLE +no answer/)
  const wrong = await cli(['doctor', '--threads', 'x'])
  assert.equal(wrong.code, 1)
  assert.match(wrong.out, /bad +settings +invalid +threads must be/)
})

/** Signals that the test sends. */
function signalSource() {
  let first!: (name: string) => void
  let second!: (name: string) => void
  const source: Signals = {
    take: () => ({
      first: new Promise((resolve) => {
        first = resolve
      }),
      second: new Promise((resolve) => {
        second = resolve
      }),
      release() {},
    }),
  }
  return { source, first: () => first('SIGTERM'), second: () => second('SIGTERM') }
}

test('[TM-036] start names the jobs that it ended at the deadline, and says how many more there were', async () => {
  for (const [count, line] of [
    [1, /\nEnded at the deadline: 1 \(slow\)\.\n$/],
    [12, /\nEnded at the deadline: 1 \(slow\), .*, 10 \(slow\) and 2 more\.\n$/],
  ] as const) {
    const interrupted = Array.from({ length: count }, (_, at) => ({ id: at + 1, task: 'slow' }))
    const api = fakeApi({ engine: { stop: async () => ({ released: count, interrupted, outboxed: 0 }) } })
    const { source, first } = signalSource()
    const onOut = (text: string) => void (text.includes('Ready') && first())
    const { code, out } = await cli(['start'], { api, signals: source, tty: true, env: { NO_COLOR: '1' }, onOut })
    assert.equal(code, 0)
    assert.match(out, line)
  }
})

test('start prints a readable startup on a terminal and ends with 0 at the first signal', async () => {
  const api = fakeApi()
  const { source, first } = signalSource()
  const onOut = (text: string) => void (text.includes('Ready') && first())
  const { code, out } = await cli(['start', '--threads', '2'], {
    api,
    signals: source,
    tty: true,
    env: { NO_COLOR: '1' },
    onOut,
  })
  assert.equal(code, 0)
  assert.equal(api.calls.stopped, 1)
  assert.equal(api.calls.killed, 0)
  assert.match(out, /^Millrace 1\.2\.3 on Node 20\.20\.0\n {2}database +embedded PostgreSQL in \.millrace\n/)
  assert.match(out, /Stopping \(SIGTERM\): flushing\. Once more to leave at once\.\nStopped\. 0 jobs done\.\n$/)
  assert.ok(!out.includes('\u001b'))
})

const LACKING = { task: 'onec', waiting: 3, published: false, didYouMean: 'once' }

test('start, stats and jobs say that no running node has a task', async () => {
  const unserved = async () => [LACKING]
  const line = 'No running node has the task onec: 3 jobs wait for one. Did you mean once?'
  for (const tty of [true, false]) {
    const { source, first } = signalSource()
    const onOut = (text: string) => void (text.includes('onec') && first())
    const api = fakeApi({ console: { unserved } })
    const { code, out } = await cli(['start'], { api, signals: source, tty, env: { NO_COLOR: '1' }, onOut })
    assert.equal(code, 0)
    if (tty) assert.ok(out.includes(line), out)
    else assert.match(out, /"task":"onec","waiting":3.*"msg":"start.unserved_task"/)
  }
  const stats = await cli(['stats'], { api: fakeApi({ console: { unserved } }) })
  assert.ok(stats.out.includes(line), stats.out)
  const json = await cli(['stats', '--json'], { api: fakeApi({ console: { unserved } }) })
  assert.deepEqual((JSON.parse(json.out) as { unserved: unknown }).unserved, [LACKING])
  const rows = async () => [
    { ...JOB, id: 9, task: 'onec', state: 'queued' as const, result: null, served: false },
    { ...JOB, id: 8, state: 'running' as const, result: null, progress: { done: 3 } },
    { ...JOB, served: false },
  ]
  const jobs = await cli(['jobs'], { api: fakeApi({ console: { jobs: rows } }) })
  assert.match(jobs.err, /no running node has the task onec: its jobs wait for one\n/)
  assert.doesNotMatch(jobs.err, /the task mail/)
  assert.match(jobs.out, /running .* progress \{"done":3\}/)
})

test('start writes JSON lines when nobody looks', async () => {
  const { source, first } = signalSource()
  const onOut = (text: string) => void (text.includes('start.ready') && first())
  const { code, out } = await cli(['start'], { signals: source, onOut })
  assert.equal(code, 0)
  const events = out
    .trim()
    .split('\n')
    .map((line) => (JSON.parse(line) as { msg: string }).msg)
  assert.deepEqual(events, ['start.begun', 'start.ready', 'start.stopping', 'start.stopped'])
})

test('a second signal releases and leaves with 1, even when stopping never ends', async () => {
  const { source, first, second } = signalSource()
  const api = fakeApi({
    engine: {
      stop: () => {
        second()
        return new Promise(() => {})
      },
    },
  })
  const onOut = (text: string) => void (text.includes('start.ready') && first())
  const { code, out } = await cli(['start'], { api, signals: source, onOut })
  assert.equal(code, 1)
  assert.equal(api.calls.killed, 1)
  assert.match(out, /start\.leaving/)
})

test('an engine that stops itself ends start with 70, so that a supervisor starts it again', async () => {
  const { code, out } = await cli(['start'], { api: fakeApi({ engine: { stopped: Promise.resolve() } }) })
  assert.equal(code, 70)
  assert.match(out, /start\.stopped_itself/)
})

test('start that cannot start says why and exits with the code of the error', async () => {
  const start = async () => {
    throw new EngineError('SCHEMA_MISSING', 'schema "millrace" does not exist')
  }
  const { code, err } = await cli(['start'], { api: fakeApi({ engine: { start } }) })
  assert.equal(code, 78)
  assert.match(err, /schema "millrace" does not exist\nhint: {2}Run `millrace migrate`/)
})

test('the demo enqueues one job per file on a queue of its own and sums up', async () => {
  const cwd = mkdtempSync(join(tmpdir(), 'millrace-demo-'))
  try {
    mkdirSync(join(cwd, 'files', 'deep'), { recursive: true })
    for (const name of ['a', 'b', 'deep/c']) writeFileSync(join(cwd, 'files', name), 'x'.repeat(1_000))
    const api = fakeApi({ engine: { stats: () => ({ ...STATS, completed: 3, retried: 1 }) } })
    const { code, out } = await cli(['demo', 'files'], { api, cwd })
    assert.equal(code, 0)
    assert.match(out, /Fingerprinting 3 files \(0\.00 MB\) under files/)
    assert.match(out, /files +3 of 3/)
    assert.match(out, /waited +p50 1\.0 ms, p99 2\.0 ms/)
    assert.match(out, /retries +1\n/)
    assert.match(out, /millrace explain 100/)
    const [task, payloads, { queue }] = api.calls.enqueued[0] as [string, { path: string }[], { queue: string }]
    assert.equal(task, 'fingerprint')
    assert.deepEqual(
      payloads.map(({ path }) => path).sort(),
      ['a', 'b', 'deep/c'].map((name) => join(cwd, 'files', name)),
    )
    assert.deepEqual((api.calls.options[0] as { queues: string[] }).queues, [queue])
    assert.equal(api.calls.stopped, 1)
    const json = await cli(['demo', 'files', '--json'], { api, cwd })
    assert.equal(json.lines.length, 1)
    assert.equal(json.lines[0]!.files, 3)
    const none = await cli(['demo', 'nowhere'], { api, cwd })
    assert.equal(none.code, 64)
    assert.match(none.err, /nowhere does not exist/)
  } finally {
    rmSync(cwd, { recursive: true, force: true })
  }
})

// The launcher, as a process.

const LAUNCHER = fileURLToPath(new URL('../../engine', import.meta.url))

function launch(words: readonly string[], env: Record<string, string> = {}) {
  const child = spawn(process.execPath, [LAUNCHER, ...words], { env: { PATH: process.env.PATH, ...env } })
  const out: string[] = []
  const err: string[] = []
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk.toString()))
  const ended = new Promise<{ code: number | null; out: string; err: string }>((resolve) => {
    child.on('close', (code) => resolve({ code, out: out.join(''), err: err.join('') }))
  })
  return { child, ended }
}

test('`node engine` works from a checkout, with exit codes and variables of the environment', async () => {
  const help = await launch(['--help']).ended
  assert.equal(help.code, 0)
  assert.match(help.out, /Usage: node engine <command>/)
  const value = await launch(['config', 'threads', '--json'], { MILLRACE_THREADS: '7' }).ended
  assert.equal((JSON.parse(value.out) as { value: number }).value, 7)
  const wrong = await launch(['config'], { MILLRACE_THREADS: 'x' }).ended
  assert.equal(wrong.code, 78)
  assert.match(wrong.err, /from MILLRACE_THREADS/)
})

test('schedules says when it is due, in UTC and as a clock in its zone shows it, and what became of the last times', async () => {
  const list = await cli(['schedules'])
  assert.equal(list.code, 0, list.err)
  assert.match(
    list.out,
    /report .*0 9 \* \* 1-5 .*Europe\/Berlin .*3 .*2026-11-21 01:02:03 .*enqueued job 17, 1\.3 ms late/,
  )
  const next = await cli(['schedules', 'next', 'report', '--count', '1'])
  assert.equal(next.code, 0, next.err)
  assert.match(next.out, /2026-11-21 01:02:03\.004 +2026-11-21 02:02:03 \+01:00/)
  assert.match(next.out, /1\.3 ms +17 +1 +completed/)
  const json = await cli(['schedules', 'next', 'report', '--json'])
  assert.deepEqual(
    json.lines.map((line) => line.kind),
    ['upcoming', 'decided'],
  )
})

test('a list of schedules fits 80 columns: it says less rather than wrap, and a colour is never cut', async () => {
  const long = {
    ...SCHEDULE,
    id: 'the daily report of the customer with the longest name',
    task: 'render-report',
    queue: 'reports',
    timeZone: 'America/Argentina/ComodRivadavia',
    lastOutcome: 'failed' as const,
    lastError: 'the group of this schedule has a name that PostgreSQL does not take',
  }
  const api = fakeApi({ schedules: { list: async () => [SCHEDULE, long] } })
  for (const env of [{}, { FORCE_COLOR: '1' }]) {
    const { code, out, err } = await cli(['schedules'], { api, columns: 80, tty: true, env })
    assert.equal(code, 0, err)
    const plain = stripVTControlCharacters(out)
    for (const line of plain.trimEnd().split('\n')) assert.ok(line.length <= 80, line)
    assert.match(plain, /the daily .*… +0 9 \* \* 1-5 +2026-11-21 01:02:03 +failed the group of\n {50,}this .*…$/m)
    assert.doesNotMatch(plain, /·/, 'no escape sequence was cut')
    if ('FORCE_COLOR' in env) assert.match(out, /\u001b\[31mfailed the group of\u001b\[39m\n +\u001b\[31mthis/)
  }
  const wide = await cli(['schedules'], { api, columns: 220, tty: true })
  assert.match(stripVTControlCharacters(wide.out), /id +task +queue +cron +zone +runs +next \(UTC\) +last/)
})

test('schedules add, change and trigger hand over what the flags name and nothing else', async () => {
  const calls: unknown[][] = []
  const note =
    <T>(name: string, result: T) =>
    async (...args: unknown[]) => {
      calls.push([name, ...args])
      return result
    }
  const api = fakeApi({
    schedules: {
      create: note('create', SCHEDULE),
      update: note('update', SCHEDULE),
      trigger: note('trigger', { id: 18 }),
      pause: note('pause', undefined),
    },
  })
  const words = [
    [
      'schedules',
      'add',
      'report',
      '0 9 * * 1-5',
      '{"a":1}',
      '--zone',
      'Europe/Berlin',
      '--jitter',
      '5s',
      '--overlap',
      'skip',
    ],
    ['schedules', 'change', 'report', '--priority', '-3', '--catch-up', 'all'],
    ['schedules', 'trigger', 'report', '--priority', '50'],
    ['schedules', 'pause', 'report'],
  ]
  for (const line of words) assert.equal((await cli(line, { api })).code, 0)
  assert.deepEqual(calls, [
    [
      'create',
      {
        task: 'report',
        cron: '0 9 * * 1-5',
        payload: { a: 1 },
        timeZone: 'Europe/Berlin',
        jitterMs: 5_000,
        overlap: 'skip',
      },
    ],
    ['update', 'report', { options: { priority: -3 }, catchUp: 'all' }],
    ['trigger', 'report', { priority: 50 }],
    ['pause', 'report'],
  ])
  const refused = await cli(['schedules', 'add', 'report', '* * * * *', '--overlap', 'maybe'], { api })
  assert.equal(refused.code, 64)
})

test('queues lists what is paused, pauses, resumes and purges', async () => {
  const said: string[] = []
  const queue: Console['queue'] = {
    names: async () => [],
    stats: async () => assert.fail('not asked for'),
    pause: async (name) => void said.push(`pause ${name}`),
    resume: async (name) => void said.push(`resume ${name}`),
    purge: async (name) => {
      said.push(`purge ${name}`)
      return 5
    },
  }
  const api = fakeApi({ console: { queue } })
  assert.match((await cli(['queues'], { api })).out, /default +│? *open/)
  assert.match((await cli(['queues', 'pause', 'mail'], { api })).out, /mail is paused/)
  assert.match((await cli(['queues', 'resume', 'mail'], { api })).out, /open again/)
  assert.match((await cli(['queues', 'purge', 'mail'], { api })).out, /5 jobs purged/)
  assert.deepEqual((await cli(['queues', 'purge', 'mail', '--json'], { api })).lines, [{ queue: 'mail', purged: 5 }])
  assert.equal((await cli(['queues', 'pause'], { api })).code, 64)
  assert.deepEqual(said, ['pause mail', 'resume mail', 'purge mail', 'purge mail'])
})
