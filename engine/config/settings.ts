// Every setting, as one table: its default, its bounds and one sentence. Nothing else in the engine holds a default.
// A name gives its other spellings: `flushEveryMs` is `--flush-every-ms` and `MILLRACE_FLUSH_EVERY_MS`.
// The docs, `millrace config` and the flags are printed from here.

import { availableParallelism } from 'node:os'
import { NAME_CHARS_MAX, PAYLOAD_BYTES_DEFAULT, RESCUES_MAX, RESULT_BYTES_DEFAULT } from '../base/limits.ts'
import {
  bytes,
  choice,
  database,
  duration,
  flag,
  limits,
  names,
  path,
  type Setting,
  text,
  whole,
  word,
} from './fields.ts'

const SECOND = 1_000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR
const KiB = 1_024
const MiB = 1_024 * KiB

const SETTINGS = {
  // database
  database: database({
    part: 'database',
    default: null,
    defaultText: 'embedded',
    placeholder: 'url',
    env: ['DATABASE_URL'],
    about:
      'PostgreSQL to use; PGHOST, PGPORT and PGDATABASE are understood too; without any, a server of its own runs in dataDir.',
  }),
  embedded: flag({
    part: 'database',
    default: false,
    about:
      'Allow the embedded server also when NODE_ENV is production; without it, nothing runs there that was given no database.',
  }),
  databaseWaitMs: duration({
    part: 'database',
    default: MINUTE,
    min: 0,
    max: DAY,
    about: 'How long a start waits for a database that is not up yet; 0 never waits.',
  }),
  directDatabase: database({
    part: 'database',
    default: null,
    defaultText: 'same as database',
    placeholder: 'url',
    about: 'The same database past a transaction pooler, for LISTEN only.',
  }),
  schema: word({
    part: 'database',
    default: 'millrace',
    placeholder: 'name',
    pattern: /^[a-z_][a-z0-9_]{0,47}$/,
    rule: 'lower-case letters, digits and underscores, at most 48, not starting with a digit',
    about: 'Schema that holds the tables; engines with different schemas do not see each other.',
  }),
  dataDir: path({
    part: 'database',
    default: '.millrace',
    about: 'Folder of the embedded server and of the outbox.',
  }),
  migrate: flag({
    part: 'database',
    default: true,
    about: 'Bring the tables up to date at start; false refuses to start on an older schema instead.',
  }),
  listen: flag({
    part: 'database',
    default: true,
    about: 'Learn of new jobs by LISTEN; false relies on polling alone, as behind a transaction pooler.',
  }),
  preparedStatements: flag({
    part: 'database',
    default: true,
    about: 'Use named prepared statements; false for a pooler that cannot keep them.',
  }),
  statementTimeoutMs: duration({
    part: 'database',
    default: 30 * SECOND,
    min: 100,
    max: HOUR,
    about: 'PostgreSQL ends a statement of the engine that runs longer.',
  }),
  enqueueTimeoutMs: duration({
    part: 'database',
    default: 30 * SECOND,
    min: 100,
    max: HOUR,
    about: 'How long an enqueue keeps trying while PostgreSQL does not answer.',
  }),

  // tasks
  tasks: path({
    part: 'tasks',
    default: './tasks',
    about: 'Folder (or one file) whose modules export the tasks.',
  }),
  queues: names({
    part: 'tasks',
    namesMax: 1_000,
    charsMax: NAME_CHARS_MAX,
    about:
      'Queues that this node works on, the most urgent first: a queue has its turn when those before it have nothing.',
  }),
  queueConcurrency: limits({
    part: 'tasks',
    namesMax: 1_000,
    charsMax: NAME_CHARS_MAX,
    min: 1,
    max: 100_000,
    about: 'Jobs of a queue that this node holds at once, waiting or running.',
  }),
  onlyGroup: text({
    part: 'tasks',
    default: null,
    defaultText: 'all jobs',
    placeholder: 'name',
    about: 'Take only jobs of this group; all others are left to other nodes.',
  }),
  claimUnknown: flag({
    part: 'tasks',
    default: false,
    about: 'Also take jobs of tasks that this node does not have, and fail them, instead of leaving them to others.',
  }),
  defaultTimeoutMs: duration({
    part: 'tasks',
    default: 30 * SECOND,
    min: 0,
    max: DAY,
    about: 'How long an attempt may run when neither its job nor its task says; 0 means no limit.',
  }),
  payloadBytesMax: bytes({
    part: 'tasks',
    default: PAYLOAD_BYTES_DEFAULT,
    min: 64,
    max: 64 * MiB,
    about: 'Largest payload, as JSON text, that an enqueue accepts.',
  }),
  resultBytesMax: bytes({
    part: 'tasks',
    default: RESULT_BYTES_DEFAULT,
    min: 64,
    max: 64 * MiB,
    about: 'Largest result, as JSON text, that a handler may return.',
  }),

  // threads
  threads: whole({
    part: 'threads',
    default: () => availableParallelism(),
    defaultText: 'number of cores',
    min: 1,
    max: 1_024,
    about: 'Worker threads that run handlers.',
  }),
  threadHeapMb: whole({
    part: 'threads',
    default: 0,
    min: 0,
    max: 65_536,
    defaultText: '0 (what Node allows)',
    about: "MiB of JavaScript heap at which a thread is ended and replaced; 0 leaves it to Node's own limit.",
  }),
  ringBytes: bytes({
    part: 'threads',
    default: MiB,
    min: 128 * KiB,
    max: 1_024 * MiB,
    powerOfTwo: true,
    about: 'Shared memory of each thread for its reports; a full ring makes its thread wait, nothing is lost.',
  }),
  loadTimeoutMs: duration({
    part: 'threads',
    default: 30 * SECOND,
    min: 100,
    max: HOUR,
    about: 'How long the import of a task file may take before the file counts as broken.',
  }),
  recycleAfterJobs: whole({
    part: 'threads',
    default: 0,
    min: 0,
    max: 1_000_000_000,
    defaultText: '0 (never)',
    about: 'Replace a thread after this many jobs, against slow leaks; 0 never does.',
  }),

  // claiming
  heldMax: whole({
    part: 'claiming',
    default: 20_000,
    min: 1,
    max: 1_000_000,
    about: 'Jobs that this node holds at once, waiting or running; more hides the database, less spreads work.',
  }),
  claimJobsMax: whole({
    part: 'claiming',
    default: 4_000,
    min: 1,
    max: 100_000,
    about: 'Jobs that one claim takes at most.',
  }),
  claimBytesMax: bytes({
    part: 'claiming',
    default: 16 * MiB,
    min: KiB,
    max: 1_024 * MiB,
    about: 'Bytes of payload that one claim takes at most; a larger job comes alone.',
  }),
  pollMs: duration({
    part: 'claiming',
    default: 500,
    min: 1,
    max: HOUR,
    about: 'How often the queues are looked at while there is work, besides notifications.',
  }),
  pollMaxMs: duration({
    part: 'claiming',
    default: 5 * SECOND,
    min: 1,
    max: HOUR,
    about: 'How rarely the queues are looked at when nothing has come for a while.',
  }),

  // scheduler
  loopIdleMs: duration({
    part: 'scheduler',
    default: SECOND,
    min: 1,
    max: MINUTE,
    about: 'Longest pause of the loop when nothing wakes it.',
  }),
  preScheduleMs: duration({
    part: 'scheduler',
    default: 10 * SECOND,
    min: 0,
    max: HOUR,
    about: 'How long before its due time a job is taken into memory, to start on time.',
  }),
  indexRebuildMs: duration({
    part: 'scheduler',
    default: MINUTE,
    min: 1,
    max: DAY,
    about: 'How often the index of coming runs is built anew.',
  }),
  lookaheadMs: duration({
    part: 'scheduler',
    default: 10 * MINUTE,
    min: 1,
    max: 7 * DAY,
    about: 'How far ahead the index of coming runs reaches.',
  }),
  graceMs: duration({
    part: 'scheduler',
    default: 30 * SECOND,
    min: 0,
    max: DAY,
    about: 'How far back a due time that was missed (a restart, a long pause) is still run.',
  }),
  inboxMessagesMax: whole({
    part: 'scheduler',
    default: 10_000,
    min: 1,
    max: 10_000_000,
    about: 'Messages from senders of the main thread that may wait for the loop.',
  }),
  inboxSendTimeoutMs: duration({
    part: 'scheduler',
    default: 5 * SECOND,
    min: 1,
    max: HOUR,
    about: 'How long a sender waits for room in the inbox before it is refused.',
  }),
  orchestratorHeartbeatMs: duration({
    part: 'scheduler',
    default: 10 * SECOND,
    min: 10,
    max: HOUR,
    about: 'Interval in which a running job that promised heartbeats is expected to give one.',
  }),
  missedHeartbeatsMax: whole({
    part: 'scheduler',
    default: 3,
    min: 1,
    max: 1_000,
    about: 'Intervals without a heartbeat after which a running job is given up.',
  }),

  // syncer
  flushRows: whole({
    part: 'syncer',
    default: 500,
    min: 1,
    max: 100_000,
    about: 'Finished attempts that start a flush at once.',
  }),
  flushEveryMs: duration({
    part: 'syncer',
    default: 5,
    min: 1,
    max: MINUTE,
    about: 'Longest time that a finished attempt waits for company before it is written.',
  }),
  updatesBufferedMax: whole({
    part: 'syncer',
    default: 100_000,
    min: 1,
    max: 10_000_000,
    about: 'Finished attempts that may wait for PostgreSQL; claiming pauses well before.',
  }),
  updatesBytesMax: bytes({
    part: 'syncer',
    default: 64 * MiB,
    min: MiB,
    max: 16_384 * MiB,
    about: 'The same in bytes, results included.',
  }),
  statsFlushRows: whole({
    part: 'syncer',
    default: 30,
    min: 1,
    max: 10_000,
    about: 'Samples of the loop that start a write of statistics.',
  }),
  statsFlushMs: duration({
    part: 'syncer',
    default: 30 * SECOND,
    min: 1,
    max: HOUR,
    about: 'Longest time that a sample of the loop waits to be written.',
  }),

  // life
  nodeHeartbeatMs: duration({
    part: 'life',
    default: 5 * SECOND,
    min: 10,
    max: HOUR,
    about: 'How often this node says that it lives.',
  }),
  nodeLimitMs: duration({
    part: 'life',
    default: 30 * SECOND,
    min: SECOND,
    max: DAY,
    about: 'Silence after which others take over the jobs of a node, and the node itself stops working on them.',
  }),
  rescuesMax: whole({
    part: 'life',
    default: RESCUES_MAX,
    min: 1,
    max: 100,
    about: 'Holders that may die with a job before it becomes a dead letter.',
  }),
  retentionMs: duration({
    part: 'life',
    default: 0,
    min: 0,
    max: 3_650 * DAY,
    about:
      'Age after which jobs that have ended, and their attempts, may be dropped, ten million at a time; 0 keeps everything.',
  }),
  stopTimeoutMs: duration({
    part: 'life',
    default: 10 * SECOND,
    min: 0,
    max: HOUR,
    about: 'Time that running jobs have at the first signal; what is left is released uncharged and runs elsewhere.',
  }),

  // output
  summaryEveryMs: duration({
    part: 'output',
    default: 10 * SECOND,
    min: 0,
    max: DAY,
    about: '`start` prints a summary this often; 0 never does.',
  }),
  logLevel: choice({
    part: 'output',
    default: 'info',
    of: ['debug', 'info', 'warn', 'error', 'silent'],
    env: ['LOG_LEVEL'],
    about: 'Least level that is logged.',
  }),
  logFormat: choice({
    part: 'output',
    default: 'auto',
    of: ['auto', 'text', 'json'],
    env: ['LOG_FORMAT'],
    about: 'Text for people, JSON lines for machines; auto is text on a terminal.',
  }),
} as const satisfies Record<string, Setting<unknown>>

export type SettingName = keyof typeof SETTINGS

/** The value of every setting. */
export type Settings = {
  readonly [Name in SettingName]: (typeof SETTINGS)[Name] extends Setting<infer T> ? T : never
}

export const SETTING_NAMES = Object.keys(SETTINGS) as readonly SettingName[]

/** The row of a setting, for code that walks the table. */
export function settingOf(name: SettingName): Setting<unknown> {
  return SETTINGS[name]
}

/** flushEveryMs as --flush-every-ms. */
export function flagOf(name: SettingName): string {
  return `--${dashed(name, '-')}`
}

/** The environment variables that can hold a setting, the first one that is set wins. */
export function envNamesOf(name: SettingName): readonly string[] {
  return [`MILLRACE_${dashed(name, '_').toUpperCase()}`, ...(settingOf(name).env ?? [])]
}

export function defaultOf(name: SettingName): unknown {
  const value = settingOf(name).default
  return typeof value === 'function' ? value() : value
}

function dashed(name: string, dash: string): string {
  return name.replace(/[A-Z]/g, (letter) => dash + letter.toLowerCase())
}
