// The command line in this process, against an engine that answers from memory: what tests of its output need.

import assert from 'node:assert/strict'
import { tmpdir } from 'node:os'
import type { JobRow, ResultRow, ScheduleRow, Schedules } from '../../engine/api.ts'
import { type Clock, systemClock } from '../../engine/base/clock.ts'
import type { Api, Client, Console, Engine, EngineStats } from '../../engine/cli/api.ts'
import type { Signals } from '../../engine/cli/context.ts'
import { run } from '../../engine/cli/run.ts'

export interface Ran {
  code: number
  out: string
  err: string
  /** Every JSON line of the output. */
  lines: Record<string, unknown>[]
}

export interface Setup {
  api?: Api
  env?: Record<string, string>
  tty?: boolean
  columns?: number
  signals?: Signals
  clock?: Clock
  cwd?: string
  onOut?: (text: string) => void
}

export const noSignals: Signals = {
  take: () => ({ first: new Promise(() => {}), second: new Promise(() => {}), release() {} }),
}

export async function cli(words: readonly string[], setup: Setup = {}): Promise<Ran> {
  const out: string[] = []
  const err: string[] = []
  const stream = (sink: string[], tell?: (text: string) => void) => ({
    isTTY: setup.tty ?? false,
    columns: setup.columns ?? 120,
    write(text: string) {
      sink.push(text)
      tell?.(text)
      return true
    },
    on() {},
  })
  const code = await run({
    argv: words,
    env: setup.env ?? {},
    cwd: setup.cwd ?? tmpdir(),
    stdout: stream(out, setup.onOut),
    stderr: stream(err),
    program: 'millrace',
    version: '1.2.3',
    nodeVersion: 'v20.20.0',
    clock: setup.clock ?? systemClock,
    signals: setup.signals ?? noSignals,
    api: async () => setup.api ?? fakeApi(),
  })
  const text = out.join('')
  const lines = words.includes('--json')
    ? text
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as Record<string, unknown>)
    : []
  return { code, out: text, err: err.join(''), lines }
}

export const STATS: EngineStats = {
  completed: 0,
  failed: 0,
  timedOut: 0,
  retried: 0,
  dead: 0,
  cancelled: 0,
  released: 0,
  lateReports: 0,
  settled: 0,
  stale: 0,
  enqueued: 0,
  claims: 0,
  claimsBehind: 0,
  strayLeases: 0,
  rescuedJobs: 0,
  held: 0,
  running: 0,
  threads: 1,
  waitMs: { p50: 1, p99: 2 },
  runMs: { p50: 3, p99: 4 },
  occurrences: 0,
  lateMs: { p50: 5, p99: 6 },
}

export const CREATED = new Date('2026-11-21T01:02:03.004Z')

export const LEFT_NONE = { requeued: 2, taken: 0, takenBy: [], notDead: 0, notDeadIds: [] }
export const JOB: JobRow = {
  id: 7,
  task: 'mail',
  queue: 'default',
  state: 'completed',
  attempt: 1,
  maxAttempts: 3,
  priority: 0,
  group: null,
  idempotencyKey: null,
  payload: null,
  result: { sent: true },
  error: null,
  meta: null,
  createdAt: CREATED,
  runAt: null,
  startedAt: null,
  finishedAt: null,
  node: 1,
  progress: null,
  served: true,
}

export const RESULT: ResultRow = {
  id: 7,
  task: 'mail',
  queue: 'default',
  group: null,
  result: { sent: true },
  attempt: 1,
  run: 1,
  node: 1,
  startedAt: CREATED,
  completedAt: CREATED,
}

export const SCHEDULE: ScheduleRow = {
  id: 'report',
  task: 'report',
  queue: 'default',
  cron: '0 9 * * 1-5',
  timeZone: 'Europe/Berlin',
  payload: {},
  options: { priority: 5 },
  startsAt: null,
  endsAt: null,
  jitterMs: 0,
  overlap: 'allow',
  catchUp: 'one',
  catchUpWindowMs: 86_400_000,
  paused: false,
  source: 'api',
  revision: 1,
  error: null,
  nextAt: CREATED,
  lastScheduledAt: CREATED,
  lastDecidedAt: CREATED,
  lastOutcome: 'enqueued',
  lastError: null,
  lastLateMs: 1.25,
  lastJobId: 17,
  runCount: 3,
  createdAt: CREATED,
  updatedAt: CREATED,
}

export function fakeSchedules(overrides: Partial<Schedules> = {}): Schedules {
  return {
    register: async () => ({ created: [], changed: [], deleted: [] }),
    create: async () => SCHEDULE,
    update: async () => SCHEDULE,
    delete: async () => {},
    pause: async () => {},
    resume: async () => {},
    trigger: async () => ({ id: 18 }),
    get: async () => SCHEDULE,
    list: async () => [SCHEDULE],
    upcoming: async () => [{ at: CREATED, local: '2026-11-21 02:02:03 +01:00', timeZone: 'Europe/Berlin' }],
    history: async () => [
      {
        scheduledAt: CREATED,
        decidedAt: CREATED,
        outcome: 'enqueued',
        manual: false,
        lateMs: 0,
        startLateMs: 1.25,
        jobId: 17,
        jobState: 'completed',
        node: 1,
        error: null,
      },
    ],
    ...overrides,
  }
}

export function fakeConsole(overrides: Partial<Console> = {}): Console {
  return {
    schedules: fakeSchedules(),
    queues: async () => [
      {
        queue: 'default',
        paused: false,
        available: 1_234,
        inFlight: 2,
        scheduled: 3,
        retrying: 4,
        blocked: 5,
        dead: 6,
        oldestWaitingMs: 61_000,
      },
    ],
    queue: {
      names: async () => [],
      stats: async () => assert.fail('not asked for'),
      pause: async () => {},
      resume: async () => {},
      purge: async () => 0,
    },
    results: {
      list: async () => [RESULT],
      page: async () => ({ rows: [RESULT], older: null }),
      cleanup: async () => 0,
    },
    nodes: async () => [
      {
        id: 3,
        host: 'h',
        pid: 99,
        version: '1.2.3',
        threads: 2,
        state: 'live',
        startedAt: CREATED,
        seenAt: CREATED,
        silentMs: 1_200,
        limitMs: 30_000,
        strayLeases: 0,
        held: 17,
      },
    ],
    loops: async () => [
      {
        node: 3,
        samples: 60,
        lastAt: CREATED,
        p50Ms: 0.04,
        maxMs: 1.5,
        activeOrchestrators: 17,
        indexSize: 100,
        inboxDepthMax: 2,
        messages: 12.5,
      },
    ],
    jobs: async () => [JOB],
    job: async () => JOB,
    explain: async () => ({
      job: JOB,
      events: [
        { at: CREATED, state: 'queued', where: 'queue default', why: 'enqueued' },
        { at: new Date(CREATED.getTime() + 12), state: 'completed', where: 'node n1', why: 'the handler returned' },
      ],
    }),
    dead: { list: async () => [], requeue: async () => LEFT_NONE, purge: async () => 1 },
    cancel: async () => 'cancelled',
    unserved: async () => [],
    doctor: async () => [{ check: 'database', value: 'PostgreSQL 15', verdict: 'ok', advice: '' }],
    migrations: async () => ({ from: 0, to: 1, applied: [{ version: 1, name: 'base' }], sql: 'create table x ()' }),
    grants: async () => [],
    ...overrides,
  }
}

export interface Calls {
  enqueued: unknown[][]
  options: object[]
  closed: number
  stopped: number
  killed: number
}

export function fakeApi(
  overrides: {
    console?: Partial<Console>
    engine?: Partial<Engine>
    client?: Partial<Client>
    schedules?: Partial<Schedules>
  } = {},
) {
  const calls: Calls = { enqueued: [], options: [], closed: 0, stopped: 0, killed: 0 }
  const producer = {
    console: fakeConsole(overrides.console),
    schedules: fakeSchedules(overrides.schedules),
    async enqueue(...args: unknown[]) {
      calls.enqueued.push(args)
      return { id: 41, duplicate: false }
    },
    async enqueueMany(...args: unknown[]) {
      calls.enqueued.push(args)
      const count = (args[1] as unknown[]).length
      return { ids: [{ first: 100, count }], count }
    },
    async migrate(dryRun = false) {
      return { from: 0, to: 1, applied: [{ version: 1, name: 'base' }], sql: dryRun ? 'create table x ()' : '' }
    },
    async [Symbol.asyncDispose]() {},
  }
  const api: Api & { calls: Calls } = {
    calls,
    createEngine(options) {
      calls.options.push(options)
      return {
        ...producer,
        start: async () => {},
        stop: async () => {
          calls.stopped++
          return { released: 0, interrupted: [], outboxed: 0 }
        },
        kill: async () => {
          calls.killed++
        },
        stats: () => STATS,
        configure: () => {},
        drain: async () => {},
        broken: [],
        inbox: {
          trySend: () => true,
          send: async () => true,
          stats: () => ({ totalSent: 0, totalReceived: 0, timeoutCount: 0, currentDepth: 0, maxDepthSeen: 0 }),
        },
        stopped: new Promise<void>(() => {}),
        ...overrides.engine,
      }
    },
    createClient(options) {
      calls.options.push(options)
      return {
        ...producer,
        close: async () => {
          calls.closed++
        },
        ...overrides.client,
      }
    },
  }
  return api
}
