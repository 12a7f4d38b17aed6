// The rules that test/tidy.test.ts holds the sources to, as data: who stands on which floor, where foreign packages and
// the ambient things of a process may be used, and the exceptions, each with its reason.

export interface Floor {
  /** The name of the part; files of one part may import each other. */
  readonly part: string
  readonly floor: number
  /** Matches the paths of its files. */
  readonly files: RegExp
}

/** A file may import files of its own part and of lower floors. The first row that matches counts. */
export const FLOORS: readonly Floor[] = [
  { part: 'base', floor: 0, files: /^engine\/base\// },
  { part: 'config', floor: 1, files: /^engine\/config\// },
  { part: 'schedule', floor: 1, files: /^engine\/schedule\// },
  { part: 'orchestrator', floor: 1, files: /^engine\/orchestrator\// },
  { part: 'demo', floor: 1, files: /^engine\/demo\// },
  { part: 'shared memory', floor: 1, files: /^threads\/(layout|ring|messages|inbox|lanes)\.ts$/ },
  { part: 'store', floor: 2, files: /^engine\/store\// },
  { part: 'threads', floor: 2, files: /^threads\// },
  { part: 'adapters', floor: 3, files: /^engine\/adapters\// },
  { part: 'enqueuer', floor: 3, files: /^engine\/enqueuer\// },
  { part: 'claimer', floor: 3, files: /^engine\/claimer\// },
  { part: 'occurrences', floor: 3, files: /^engine\/occurrences\// },
  { part: 'scheduler', floor: 3, files: /^engine\/scheduler\// },
  { part: 'syncer', floor: 3, files: /^engine\/syncer\// },
  { part: 'bot', floor: 3, files: /^engine\/bot\// },
  // the console answers in the shapes of the public surface, which name those of the enqueuer below
  {
    part: 'console',
    floor: 4,
    files: /^engine\/(access|console|filters|schedule-verbs|queue-verbs|result-verbs|api)\.ts$/,
  },
  { part: 'http', floor: 4, files: /^engine\/http\// },
  { part: 'engine', floor: 5, files: /^engine\/(engine|client)\.ts$/ },
  { part: 'public API', floor: 6, files: /^engine\/index\.ts$/ },
  { part: 'testing', floor: 7, files: /^engine\/testing\// },
  { part: 'command line', floor: 7, files: /^engine\/(main\.ts$|cli\/)/ },
]

/** Every other file directly in engine/ is a part of its own on this floor: cancels, node, ... */
export const SINGLE_FILE_FLOOR = 3
export const SINGLE_FILE = /^engine\/([a-z-]+)\.ts$/

/** Where the packages that users install are imported. */
export const PACKAGE_HOMES: Readonly<Record<string, RegExp>> = {
  pg: /^engine\/store\//,
  'pg-copy-streams': /^engine\/store\/copy\.ts$/,
  piscina: /^threads\/pool\.ts$/,
  'cron-parser': /^engine\/schedule\//,
  zod: /^engine\/(config|http)\//,
  commander: /^engine\/cli\//,
  'cli-progress': /^engine\/cli\/terminal\.ts$/, // reaches the stream
  'string-width': /^engine\/cli\/styled\.ts$/,
  pino: /^engine\/cli\/log\.ts$/,
  'pino-pretty': /^engine\/cli\/log\.ts$/,
  'node:worker_threads': /^threads\//,
  'node:child_process': /^engine\/store\/embedded/,
  'node:perf_hooks': /^engine\/scheduler\/stats\.ts$/, // histograms; the clock is in base/
}

export interface Ambient {
  readonly what: string
  readonly pattern: RegExp
  readonly homes: RegExp
  /** Files that may use it all the same, and why. */
  readonly exceptions?: Readonly<Record<string, string>>
}

const CLOCK = /^engine\/base\/clock\.ts$/

/** What belongs to the process as a whole, so that a test can own time, chance and output. */
export const AMBIENT: readonly Ambient[] = [
  { what: 'the wall clock', pattern: /\bDate\.now\b|\bnew Date\(\s*\)/g, homes: CLOCK },
  { what: 'the steady clock', pattern: /\bperformance\.now\b|\bhrtime\b/g, homes: CLOCK },
  {
    what: 'timers',
    pattern: /\b(?:setTimeout|setInterval)\b/g,
    homes: CLOCK,
    exceptions: {
      'threads/task-thread.ts': 'a handler may replace what is injected, never what the thread has kept for itself',
    },
  },
  {
    what: 'turns of the event loop',
    pattern: /\bsetImmediate\b/g,
    homes: CLOCK,
    exceptions: {
      'engine/scheduler/scheduler.ts': 'the default of an injected need',
      'threads/task-thread.ts': 'lets messages in between two jobs',
      'threads/inline-lane.ts': 'lets the engine in between two jobs',
    },
  },
  {
    what: 'chance',
    pattern: /\bMath\.random\b/g,
    homes: /^engine\/store\/embedded/, // which port, how long between two tries for a lock
    exceptions: {
      'engine/syncer/syncer.ts': 'spreads the tries of many nodes; no outcome depends on it',
      'engine/claimer/claimer.ts': 'spreads the polls of many nodes; no outcome depends on it',
      'engine/scheduler/reports.ts': 'the default of an injected need',
      'engine/store/connection.ts': 'the default of a parameter',
    },
  },
  { what: 'the console', pattern: /(?<![.\w#])console\./g, homes: /^$/ },
  {
    what: 'the environment and the arguments',
    pattern: /(?<![.\w])process\.(?:env|argv)\b/g,
    homes: /^engine\/main\.ts$/,
    exceptions: {
      'engine/store/embedded-watchdog.ts': 'the entry of a process of its own',
      'engine/access.ts':
        'NODE_ENV alone, for an engine in a program of others: whether this is production is no setting of ours',
    },
  },
  {
    what: 'the process',
    pattern: /(?<![.\w])process\.(?!env\b|argv\b)/g,
    homes: /^engine\/(?:main\.ts|store\/embedded)/, // the embedded server is about processes, accounts and platforms
    exceptions: {
      'engine/base/record-folder.ts': 'Windows does not sync folders',
      'engine/cli/start.ts': 'tells its own pid',
      'threads/task-thread.ts': 'hears what escapes from handlers',
    },
  },
]

/** Error codes that nothing uses yet, and why they stand in the table all the same. */
export const CODES_IN_WAITING: Readonly<Record<string, string>> = {
  INBOX_FULL: 'the inbox refuses by value; the code is for those who turn that into an error',
}

/** Codes that are not ours, or of the command line alone, where it says what it could not read. */
export const CODES_OF_OTHERS = /^(?:ERR_\w+|E[A-Z]+|USAGE|UNEXPECTED)$/

/** Functions of the database that users call. */
export const FUNCTIONS_FOR_OTHERS: ReadonlySet<string> = new Set([
  'enqueue',
  'put_schedule',
  'grant_engine',
  'grant_producer',
  'grant_reader',
])

/** Durable states that no row can show, and why. */
export const STATES_NOT_SHOWN: Readonly<Record<string, string>> = {
  timed_out: 'the same transaction makes the job retrying or failed; the attempt keeps the word',
}

/** What the view shows beside the durable states. */
export const STATES_BESIDE: Readonly<Record<string, string>> = {
  unknown: 'no row tells: the attempts of the job were dropped with their partition',
}
