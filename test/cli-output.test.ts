// What the command line writes, byte by byte, when everything from outside is hostile: names, payloads, results, errors,
// reasons, arguments, settings. And how it fits a terminal. The list of commands is the program's own.

import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { stripVTControlCharacters } from 'node:util'
import type { Argument, Command } from 'commander'
import stringWidth from 'string-width'
import { EngineError, ERROR_CODES } from '../engine/base/errors.ts'
import { asErrorFact, type Log } from '../engine/base/log.ts'
import type { Api } from '../engine/cli/api.ts'
import type { Cli } from '../engine/cli/context.ts'
import { EXIT_CODES } from '../engine/cli/exit-codes.ts'
import { buildProgram, commandPath } from '../engine/cli/program.ts'
import { quoted } from '../engine/cli/quoted.ts'
import { Text } from '../engine/cli/styled.ts'
import { CREATED, cli, fakeApi, fakeConsole, JOB, RESULT, SCHEDULE, STATS } from './support/cli.ts'

/** Sets the title, clears the screen, changes the background, reverses the reading order, forges a line. */
const HOSTILE =
  'evil\u001b]0;title\u0007\u001b[2J\u001b[41m\u009b3J\u0090q\u202e\u2066\u200f\u061c\u007f\u0000\u2028FORGED\u2029FORGED\r\nFORGED\u0085FORGED\tx'

/** Our own colours: bold, dim, red, green, yellow, cyan, and their ends. cli-progress moves the cursor. */
const OURS = /\u001b\[(?:1|2|22|31|32|33|36|39|90)m/g
const BAR = /\u001b[78]|\u001b\[(?:\?25[lh]|0K|0?G|1G|\?7[lh]|K|\d+[ABCD])/g
const BAD = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/

/** Every string at every depth is hostile; numbers, dates and names of fields stay. */
function poisoned<T>(value: T): T {
  if (typeof value === 'string') return `${value}${HOSTILE}` as T
  if (Array.isArray(value)) return value.map(poisoned) as T
  if (typeof value !== 'object' || value === null || value instanceof Date || value instanceof Promise) return value
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, poisoned(item)])) as T
}

/** The object with every method answering hostile texts. */
function poisonedVerbs<T extends object>(verbs: T, only?: (name: string) => boolean): T {
  return new Proxy(verbs, {
    get(target, name) {
      const verb = Reflect.get(target, name) as unknown
      if (typeof verb === 'object' && verb !== null && !(verb instanceof Promise)) return poisonedVerbs(verb)
      if (typeof verb !== 'function' || only?.(String(name)) === false) return verb
      return (...args: unknown[]) => {
        const answer = Reflect.apply(verb, target, args) as unknown
        return answer instanceof Promise ? answer.then(poisoned) : poisoned(answer)
      }
    },
  })
}

const ROWS = {
  jobs: async () => [
    { ...JOB, payload: { [HOSTILE]: HOSTILE }, result: HOSTILE, group: 'g', idempotencyKey: 'k' },
    { ...JOB, id: 9, state: 'queued' as const, served: false },
    { ...JOB, id: 10, state: 'running' as const, progress: HOSTILE },
    { ...JOB, id: 8, state: 'failed' as const, error: { code: 'X', message: 'broken', stack: 'Error: a\n    at b' } },
  ],
  job: async () => ({ ...JOB, state: 'completed' as const, result: { [HOSTILE]: [HOSTILE] } }),
  dead: {
    ...fakeConsole().dead,
    list: async () => [
      {
        id: 7,
        task: 'mail',
        queue: 'default',
        attempts: 3,
        diedAt: CREATED,
        code: 'TASK_THREW',
        reason: { message: 'no' },
      },
    ],
    requeue: async () => ({
      requeued: 1,
      taken: 2,
      takenBy: [{ id: 8, heldBy: 20 }],
      notDead: 2,
      notDeadIds: [
        { id: 9, state: 'queued' as const },
        { id: 10, state: null },
      ],
    }),
  },
  results: {
    ...fakeConsole().results,
    page: async () => ({ rows: [{ ...RESULT, result: { [HOSTILE]: HOSTILE } }], older: 'cursor' }),
  },
  unserved: async () => [{ task: 'onec', waiting: 3, published: false, didYouMean: 'once' }],
  doctor: async () => [
    { check: 'database', value: 'PostgreSQL 15', verdict: 'ok' as const, advice: '' },
    { check: 'node 3', value: 'silent', verdict: 'bad' as const, advice: 'look' },
  ],
}

/** An engine all of whose answers are hostile, and whose log says hostile things. */
function hostileApi(): Api {
  const { createEngine, createClient } = fakeApi({
    console: ROWS as never,
    schedules: {
      list: async () => [
        SCHEDULE,
        { ...SCHEDULE, id: 'b', error: 'invalid' },
        { ...SCHEDULE, id: 'c', lastOutcome: 'failed', lastError: 'no' },
      ],
    },
    engine: { stats: () => ({ ...STATS, completed: 1 }), stopped: new Promise((resolve) => setImmediate(resolve)) },
  })
  const say = (log: Log) => {
    const { stack = '' } = new Error(HOSTILE)
    const cause = { type: HOSTILE, message: HOSTILE, stack }
    const error = asErrorFact({ type: HOSTILE, message: HOSTILE, stack, code: HOSTILE, cause })
    log.child({ [HOSTILE]: HOSTILE }).error({ err: error, deep: [{ [HOSTILE]: HOSTILE }] }, HOSTILE)
    log.warn({ error: HOSTILE }, HOSTILE)
  }
  return {
    createEngine(options) {
      say(options.log)
      return poisonedVerbs(createEngine(options), (name) => !['stats', 'start', 'stop', 'kill'].includes(name))
    },
    createClient(options) {
      say(options.log)
      return poisonedVerbs(createClient(options))
    },
  }
}

/** Every verb throws, with hostile words in every place. */
function throwingApi(error: () => Error): Api {
  const throwing = <T extends object>(verbs: T): T =>
    new Proxy(verbs, {
      get(target, name) {
        const verb = Reflect.get(target, name) as unknown
        if (typeof verb === 'object' && verb !== null && !(verb instanceof Promise)) return throwing(verb)
        if (typeof verb !== 'function' || ['close', 'kill', 'stats'].includes(String(name))) return verb
        return async () => {
          throw error()
        }
      },
    })
  const { createEngine, createClient } = fakeApi()
  return {
    createEngine: (options) => throwing(createEngine(options)),
    createClient: (options) => throwing(createClient(options)),
  }
}

/** Commands that end in a verb, with words that they take. */
function commandLines(): { path: string; words: string[] }[] {
  const program = buildProgram({ program: 'millrace', version: '1', terminal: {} } as Cli, { code: 0 })
  const visit = (command: Command, names: string[]): { path: string; words: string[] }[] => {
    if (command.commands.length > 0) return command.commands.flatMap((sub) => visit(sub, [...names, sub.name()]))
    return [
      {
        path: names.join(' '),
        words: [...names, ...command.registeredArguments.map(wordFor), ...(FLAGS[names.join(' ')] ?? [])],
      },
    ]
  }
  return visit(program, [])
}

function wordFor(argument: Argument): string {
  if (/^ids?$/.test(argument.name()) && argument.description !== 'which') return '7'
  if (argument.name() === 'json') return JSON.stringify({ [HOSTILE]: HOSTILE })
  if (argument.name() === 'name') return 'tasks'
  if (argument.name() === 'folder') return 'files'
  return `word${HOSTILE}`
}

const FLAGS: Readonly<Record<string, string[]>> = {
  'dead purge': ['--all'],
  'results cleanup': ['--queue', `q${HOSTILE}`],
}

const LOOKS = [
  { name: 'a terminal with colours', tty: true, env: { FORCE_COLOR: '1' }, json: false },
  { name: 'a narrow terminal', tty: true, env: {}, json: false, columns: 60 },
  { name: 'a pipe', tty: false, env: {}, json: false },
  { name: 'JSON', tty: true, env: {}, json: true },
]

function assertClean(text: string, what: string): void {
  const found = BAD.exec(text.replace(OURS, '').replace(BAR, ''))
  if (found === null) return
  assert.fail(
    `${what}: U+${found[0].codePointAt(0)!.toString(16)} in ${JSON.stringify(text.slice(Math.max(0, found.index - 60), found.index + 40))}`,
  )
}

function assertNotForged(text: string, what: string): void {
  for (const line of stripVTControlCharacters(text).split('\n'))
    assert.ok(!line.startsWith('FORGED'), `${what}: a line break made a line of its own`)
}

test('whatever comes from outside, every command writes nothing but text, own colours and line ends', {
  timeout: 120_000,
}, async () => {
  const cwd = mkdtempSync(join(tmpdir(), 'millrace-hostile-'))
  mkdirSync(join(cwd, 'files'))
  writeFileSync(join(cwd, 'files', 'a'), 'a')
  const env = { MILLRACE_TASKS: `./tasks${HOSTILE.replace('\u0000', '')}`, [`MILLRACE_${HOSTILE}`]: '1' }
  try {
    const lines = commandLines()
    assert.ok(lines.length > 20, `only ${lines.length} commands were found`)
    for (const { path, words } of lines) {
      for (const look of LOOKS) {
        const what = `${path} on ${look.name}`
        const setup = {
          api: hostileApi(),
          cwd,
          tty: look.tty,
          columns: look.columns ?? 100,
          env: { ...env, ...look.env },
        }
        const { out, err, code } = await cli([...words, ...(look.json ? ['--json'] : [])], setup)
        assert.ok([0, 1, 65, 70].includes(code), `${what}: exit code ${code}: ${err}`)
        assert.ok(`${out}${err}` !== '', `${what} wrote nothing`)
        for (const text of [out, err]) {
          assertClean(text, what)
          assertNotForged(text, what)
        }
      }
    }
  } finally {
    rmSync(cwd, { recursive: true, force: true })
  }
})

test('errors and hints are clean too: of the engine, unexpected ones, with their stacks, and of wrong use', async () => {
  const details = { jobId: HOSTILE, id: HOSTILE, problems: undefined }
  const errors = [
    () => new EngineError('NO_RESULT', HOSTILE, details, new Error(HOSTILE)),
    () => Object.assign(new TypeError(HOSTILE), { stack: `${HOSTILE}\nFORGED\n    at x` }),
  ]
  const runs = commandLines().flatMap(({ words }) =>
    errors.map((error) => ({ words: [...words, '--verbose'], api: throwingApi(error) })),
  )
  const api = fakeApi()
  for (const words of [
    [HOSTILE],
    ['jobs', `--${HOSTILE}`],
    ['jobs', HOSTILE],
    ['jobs', '--threads', HOSTILE],
    ['jobs', '--state', HOSTILE],
    ['jobs', '--config', `${HOSTILE.replace('\u0000', '')}.json`],
    ['enqueue', 't', HOSTILE],
    ['config', HOSTILE],
    ['demo', HOSTILE],
    ['schedules', 'next', HOSTILE, '--count', HOSTILE],
  ])
    runs.push({ words, api })
  for (const { words, api } of runs) {
    for (const json of [[], ['--json']]) {
      const { out, err, code } = await cli([...words, ...json], { api, tty: true, env: { FORCE_COLOR: '1' } })
      const what = JSON.stringify([...words, ...json])
      if (!words.includes('--verbose')) assert.notEqual(code, 0, what)
      for (const text of [out, err]) {
        assertClean(text, what)
        assertNotForged(text, what)
      }
    }
  }
})

test('JSON says the same value that was stored, with control characters as escapes', async () => {
  const result = { text: HOSTILE }
  const { out, lines } = await cli(['jobs', '--json'], {
    api: fakeApi({ console: { jobs: async () => [{ ...JOB, result }] } }),
  })
  assert.deepEqual(lines[0]!.result, result)
  assert.doesNotMatch(out, BAD)
  const shown = await cli(['results', 'show', '7'], {
    api: fakeApi({ console: { job: async () => ({ ...JOB, result }) } }),
  })
  assert.deepEqual(JSON.parse(shown.out), result)
})

// ------------------------------------------------------------------ fitting a terminal

const LONG = {
  name: 'customers/billing/send-the-monthly-invoice-to-everybody',
  wide: '日本語のタスク名前は長い🚀🫠👩‍👩‍👧 e\u0301',
  text: 'connection to the payment provider was refused after three tries, the last of them at noon, by a rule of theirs',
}

function longApi(): Api {
  const jobs = [1, 2, 3].map((n) => ({
    ...JOB,
    id: 1_041_000 + n,
    task: n === 1 ? LONG.wide : LONG.name,
    queue: n === 2 ? LONG.wide : LONG.name,
    state: (['completed', 'retrying', 'failed'] as const)[n - 1]!,
    result: { said: LONG.wide, text: LONG.text },
    error: n === 1 ? null : { code: 'TASK_THREW', message: `${LONG.wide} ${LONG.text}` },
    payload: { text: `${LONG.text} ${LONG.wide}` },
  }))
  return fakeApi({
    console: {
      jobs: async () => jobs,
      job: async () => jobs[0]!,
      explain: async () => ({
        job: jobs[2]!,
        events: [
          { at: CREATED, state: 'queued', where: `queue ${LONG.wide}`, why: 'enqueued' },
          {
            at: CREATED,
            state: 'failed attempt',
            where: 'node 17 on worker-7.internal',
            why: `TASK_THREW: ${LONG.text} ${LONG.wide}`,
          },
        ],
      }),
      dead: {
        ...fakeConsole().dead,
        list: async () =>
          jobs.map((job) => ({
            ...job,
            attempts: 25,
            diedAt: CREATED,
            code: 'TASK_THREW',
            reason: { message: LONG.text },
          })) as never,
      },
      results: {
        ...fakeConsole().results,
        page: async () => ({ rows: jobs.map((job) => ({ ...RESULT, ...job }) as never), older: null }),
      },
      queues: async () =>
        [LONG.name, LONG.wide].map((queue) => ({
          queue,
          paused: false,
          available: 1_234_567,
          inFlight: 20_000,
          scheduled: 3_333_333,
          retrying: 4_444,
          blocked: 555_555,
          dead: 66_666,
          oldestWaitingMs: 61_000_000,
        })),
      nodes: async () => [
        { ...(await fakeConsole().nodes())[0]!, host: `${LONG.name}.internal`, id: 123, pid: 1_234_567, held: 20_000 },
      ],
      doctor: async () => [
        { check: 'old snapshots', value: `${LONG.wide} 14 hours`, verdict: 'bad', advice: LONG.text },
      ],
    },
    schedules: {
      list: async () => [
        { ...SCHEDULE, id: LONG.wide, task: LONG.name, queue: LONG.name, timeZone: 'America/Argentina/ComodRivadavia' },
        {
          ...SCHEDULE,
          id: LONG.name,
          cron: '0,5,10,15,20,25,30,35,40,45,50,55 8-18 * * 1-5',
          lastOutcome: 'failed',
          lastError: LONG.text,
        },
      ],
    },
  })
}

test('every table fits terminals of 60, 80 and 140 columns, also with wide characters, and no time is cut', async () => {
  for (const columns of [60, 80, 140]) {
    for (const words of TABLES) {
      const { out, code, err } = await cli(words, { api: longApi(), tty: true, columns, env: { FORCE_COLOR: '1' } })
      assert.ok(code <= 1, err)
      // sentences wrap by themselves, commands to copy must not be broken
      const lines = stripVTControlCharacters(out).split('\n')
      for (const line of lines.filter((text) => text.startsWith('  ') && !text.includes('millrace '))) {
        assert.ok(
          stringWidth(line) <= columns,
          `${words.join(' ')} at ${columns}: ${stringWidth(line)} columns: ${line}`,
        )
        for (const [, date] of line.matchAll(/(2026-11\S* ?\S*)/g))
          assert.match(date!, /^2026-11-21 0\d:02:03(\.004)?$/, `${words.join(' ')} at ${columns}: ${line}`)
      }
    }
  }
})

const TABLES = [
  ['jobs'],
  ['explain', '7'],
  ['dead', 'list'],
  ['results'],
  ['queues'],
  ['stats'],
  ['schedules'],
  ['schedules', 'next', 'report'],
  ['config'],
  ['doctor'],
  ['--help'],
  ['schedules', 'add', '--help'],
  ['enqueue', '--help'],
]

test('in a pipe nothing is cut or left out', async () => {
  for (const words of [['jobs'], ['dead', 'list'], ['schedules'], ['results'], ['explain', '7'], ['doctor']]) {
    const { out, err } = await cli(words, { api: longApi() })
    assert.doesNotMatch(out, /…/, words.join(' '))
    assert.doesNotMatch(err, /left out here/)
    assert.ok(out.includes(LONG.text.slice(-40)), words.join(' '))
  }
})

test('the colour of a cell is never part of its text, and a cut keeps its colour', async () => {
  const { out } = await cli(['dead', 'list'], { api: longApi(), tty: true, columns: 80, env: { FORCE_COLOR: '1' } })
  assert.match(out, /\u001b\[31mTASK_THREW\u001b\[39m connection/)
  assert.doesNotMatch(stripVTControlCharacters(out), /\[3\dm/)
})

test('what is left out for lack of room is named', async () => {
  const { err } = await cli(['stats'], { api: longApi(), tty: true, columns: 60, env: {} })
  assert.match(err, /left out here: blocked, retrying/)
})

test('text is measured, cut and wrapped by what it takes on a terminal', () => {
  assert.equal(Text.of('日本').width, 4)
  assert.equal(Text.of('👩‍👩‍👧🚀').width, 4)
  assert.equal(Text.of('日本語').cut(5).toString(), '日本…')
  assert.equal(Text.of('日本語').cut(4).width, 3)
  assert.deepEqual(Text.of('one two  three').wrapped(7).map(String), ['one two', 'three'])
  assert.deepEqual(Text.of('abcdefgh').wrapped(3).map(String), ['abc', 'def', 'gh'])
  assert.deepEqual(Text.of('日本語').wrapped(1).map(String), ['日', '本', '語'])
  assert.deepEqual(Text.of('').wrapped(9).map(String), [''])
  const red = Text.styled('red', 'a long word')
  assert.deepEqual(
    red.wrapped(6).map((line) => line.painted()),
    ['\u001b[31ma long\u001b[39m', '\u001b[31mword\u001b[39m'],
  )
})

// ------------------------------------------------------------------ logs

test('a log line on a terminal cannot be forged, and keeps the lines of a stack indented below it', async () => {
  const api = hostileApi()
  const { out } = await cli(['start', '--log-format', 'text'], { api, tty: true, env: {} })
  const begins = stripVTControlCharacters(out)
    .split('\n')
    .filter((line) => /^\[\d\d:/.test(line))
  assert.equal(begins.length, 2, out)
  assert.match(out, /\n {4,}at /)
})

// ------------------------------------------------------------------ hints, exit codes, version

test('every exit code of the table of errors has its meaning in the help and in the README', async () => {
  const known = new Set(EXIT_CODES.map(({ code }) => code))
  for (const [name, { exit }] of Object.entries(ERROR_CODES)) assert.ok(known.has(exit), `${name}: ${exit}`)
  const { out } = await cli(['--help'])
  for (const { code, meaning } of EXIT_CODES)
    assert.ok(out.includes(`${code}  `) && out.includes(meaning), String(code))
})

test('--version --json is JSON, --version alone is the bare version', async () => {
  assert.equal((await cli(['--version'])).out, '1.2.3\n')
  const { lines, code } = await cli(['--version', '--json'])
  assert.equal(code, 0)
  assert.deepEqual(lines, [{ version: '1.2.3', node: 'v20.20.0' }])
})

test('a hint is a command that can be copied: quoted for a shell, and for the same database', async () => {
  assert.equal(quoted(`it's; rm -rf ~`), `'it'\\''s; rm -rf ~'`)
  const api = fakeApi({ schedules: { list: async () => [{ ...SCHEDULE, id: 'report of $(id)' }] } })
  const { err } = await cli(['schedules', '--schema', 'other', '--database', 'postgres://u:secret@h/d'], { api })
  assert.match(
    err,
    /millrace schedules next 'report of \$\(id\)' --database 'postgres:\/\/u:\*\*\*@h\/d' --schema other/,
  )
  const taken = throwingApi(() => new EngineError('DUPLICATE_TASK', 'taken', { jobId: 41 }))
  assert.match((await cli(['enqueue', 't', '--key', 'k'], { api: taken })).err, /hint: {2}`millrace explain 41` shows/)
  const wrong = await cli(['schedules', 'add', 'report', '* * * * *', '--jitter', 'x'])
  assert.match(wrong.err, /hint: {2}`millrace schedules add --help` shows what it takes/)
  const usage = await cli(['jobs', '--nope'])
  assert.match(usage.err, /hint: {2}`millrace jobs --help` shows what it takes/)
  const notDead = throwingApi(() => new EngineError('NOT_DEAD', 'job 7 is queued', { jobId: 7 }))
  assert.match((await cli(['dead', 'requeue', '7'], { api: notDead })).err, /`millrace explain 7` shows where/)
})

test('help says how often a schedule can be due, what an id is, and times with their unit', async () => {
  const words = async (...line: string[]) => (await cli([...line, '--help'])).out.replace(/\s+/g, ' ')
  assert.match(await words('schedules', 'add'), /Every ten minutes is '\*\/10 \* \* \* \*'/)
  assert.match(await words('explain'), /reserves 1,000 at a time/)
  assert.match(await words('stats'), /--every <time> .*\(default: 1s\)/)
  assert.equal(
    commandPath(buildProgram({ terminal: {} } as Cli, { code: 0 }), ['--json', 'schedules', 'add']),
    'schedules add',
  )
})
