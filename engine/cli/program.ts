// The commands, their arguments and their flags, as one list that reads like the manual. Every setting is a flag of
// every command; help shows those that matter for it.

import { Command, CommanderError, Option } from 'commander'
import { CHUNK_JOBS_MAX } from '../base/limits.ts'
import { grouped } from '../config/fields.ts'
import { flagOf, SETTING_NAMES, type SettingName, settingOf } from '../config/settings.ts'
import type { DeadFilter, JobFilter, RequeueFilter, RequeueOptions, ResultFilter, ScheduleFilter } from './api.ts'
import { cancel } from './cancel.ts'
import { config } from './config.ts'
import type { Cli } from './context.ts'
import { deadList, deadPurge, deadRequeue } from './dead.ts'
import { demo } from './demo.ts'
import { doctor } from './doctor.ts'
import { COUNT_MAX, type EnqueueFlags, enqueue } from './enqueue.ts'
import { explain } from './explain.ts'
import { type HelpFacts, helpLines, pathOf } from './help.ts'
import { jobs } from './jobs.ts'
import { grantFrom, type MigrateFlags, migrate } from './migrate.ts'
import { queuesList, queuesPurge, queuesSwitch } from './queues.ts'
import {
  durationFrom,
  groupLimit,
  jobId,
  jobState,
  limit,
  maxAttempts,
  momentFrom,
  nameFrom,
  priority,
  rateFrom,
  wholeFrom,
} from './read.ts'
import { resultsCleanup, resultsList, resultsShow } from './results.ts'
import {
  type ScheduleFlags,
  schedulesAdd,
  schedulesChange,
  schedulesList,
  schedulesNext,
  schedulesSwitch,
  schedulesTrigger,
} from './schedules.ts'
import { start } from './start.ts'
import { stats } from './stats.ts'

export interface Outcome {
  /** Exit code of the command that ran. */
  code: number
}

/** Flags of `enqueue` that have a longer name inside. */
interface Shorthands {
  delay?: number
  timeout?: number
  key?: string
}

/** The whole program; the command that runs writes its exit code into `outcome`. */
export function buildProgram(cli: Cli, outcome: Outcome): Command {
  const facts = new Map<Command, HelpFacts>()
  const program = new Command(cli.program)
    .description('A durable queue, a precise cron scheduler and a multi-threaded executor on PostgreSQL.')
    .option('-V, --version', 'print the version')
    .on('option:version', () => {
      if (cli.terminal.json) cli.terminal.record({ version: cli.version, node: cli.nodeVersion })
      else cli.terminal.print(cli.version)
      throw new CommanderError(0, 'commander.version', cli.version)
    })
    .helpOption('-h, --help', 'say what a command does and how')
    .exitOverride()
    .configureOutput({ writeOut: () => {}, writeErr: () => {} })
    .configureHelp({
      formatHelp(command) {
        cli.terminal.page(helpLines(cli, command, facts))
        return '' // said already
      },
    })
  program.option(
    '--config <file>',
    'settings file (or MILLRACE_CONFIG); without it millrace.config.js, .mjs or .json of this folder',
  )
  program.option('--json', 'results as JSON lines')
  program.option('--verbose', 'errors with their stack, and a log that says more')
  for (const name of SETTING_NAMES) addSetting(program, name)

  /** Adds a command; `examples` are shown by its help, without the program's name. */
  const add = (
    usage: string,
    about: string,
    group: string,
    examples: readonly string[],
    settings: SettingName[] = [],
    notes: string[] = [],
  ) => {
    const command = program.command(usage).description(about).helpGroup(group)
    facts.set(command, { examples, settings, notes })
    return command
  }
  const ran = (result: unknown) => {
    outcome.code = typeof result === 'number' ? result : result === false ? 1 : 0
  }

  const RUN = 'Run'
  const LOOK = 'Look'
  const CARE = 'Look after'

  add(
    'start',
    'run an engine: take jobs from the queues and run them on threads',
    RUN,
    ['start', 'start --tasks ./jobs --threads 4 --queues mail,video'],
    ['tasks', 'queues', 'threads', 'stopTimeoutMs', 'logFormat'],
  ).action(async () => ran(await start(cli)))

  add(
    'demo',
    'see it work: fingerprint every file under a folder, one job per file',
    RUN,
    ['demo', 'demo ./src --threads 2'],
    ['threads'],
  )
    .argument('[folder]', 'folder whose files are fingerprinted', 'node_modules')
    .action(async (folder: string) => ran(await demo(cli, folder)))

  add(
    'enqueue',
    'write a job, to be run by a started engine',
    RUN,
    [
      `enqueue send-mail '{"to":"ada@example.com"}'`,
      `enqueue send-mail '{"to":"ada@example.com"}' --delay 10m --key welcome-ada`,
      'enqueue noop --count 1000',
    ],
    [],
    [ABOUT_IDS],
  )
    .argument('<task>', 'name of the task', nameFrom('TASK'))
    .argument('[json]', 'payload as JSON; null when left out')
    .option('--count <n>', 'this many copies', wholeFrom('--count', 1, COUNT_MAX))
    .option('--queue <name>', "queue; the task's own when left out", nameFrom('--queue'))
    .option('--priority <n>', 'higher runs earlier, -100 to 100', priority)
    .option('--delay <time>', 'not before this time has passed, such as 10s or 2h', durationFrom('--delay'))
    .option('--run-at <moment>', 'not before this moment, such as 2026-12-31T23:59:00Z', momentFrom('--run-at'))
    .option('--expires-at <moment>', 'not at all after this moment', momentFrom('--expires-at'))
    .option('--max-attempts <n>', 'tries before it is a dead letter', maxAttempts)
    .option('--timeout <time>', 'time that one try may take', durationFrom('--timeout', 2 ** 31 - 1))
    .option('--group <name>', 'jobs of a group run one after the other, in order', nameFrom('--group'))
    .option('--group-limit <n>', 'or so many of them at a time, over all nodes', groupLimit)
    .addOption(
      new Option('--on-retry <what>', 'what its group does while it waits for a retry').choices(['block', 'skip']),
    )
    .option('--key <text>', 'idempotency key: one unfinished job holds it at most', nameFrom('--key'))
    .addOption(
      new Option('--on-duplicate <what>', 'what a taken key means').choices(['reject', 'ignore']).default('reject'),
    )
    .option('--ephemeral', 'leave no trace once it is completed')
    .action(async (task: string, json: string | undefined, _: unknown, command: Command) => {
      const { delay, timeout, key, ...flags } = command.opts<EnqueueFlags & Shorthands>()
      if (delay !== undefined) flags.delayMs = delay
      if (timeout !== undefined) flags.timeoutMs = timeout
      if (key !== undefined) flags.idempotencyKey = key
      ran(await enqueue(cli, task, json, flags))
    })

  add('stats', 'queues and nodes at a glance', LOOK, ['stats', 'stats --watch'])
    .option('--watch', 'again and again, until Ctrl+C')
    .addOption(
      new Option('--every <time>', 'how often with --watch, such as 500ms or 10s')
        .argParser(durationFrom('--every', 3_600_000))
        .default(1_000, '1s'),
    )
    .action(async (flags: { watch?: boolean; every: number }) => ran(await stats(cli, flags)))

  add('jobs', 'list jobs, the newest first', LOOK, [
    'jobs',
    'jobs --state failed --task send-mail --limit 5',
    'jobs --json | head -3',
  ])
    .option('--state <state>', 'queued, scheduled, running, retrying, blocked, completed, failed, ...', jobState)
    .option('--task <name>', 'only this task', nameFrom('--task'))
    .option('--queue <name>', 'only this queue', nameFrom('--queue'))
    .option('--before <id>', 'only ids below this one: the next page', jobId)
    .option('--limit <n>', 'this many at most', limit, 20)
    .action(async (filter: JobFilter) => ran(await jobs(cli, filter)))

  add('explain', 'the life of one job: every state, when, where and why', LOOK, ['explain 4711'], [], [ABOUT_IDS])
    .argument('<id>', 'id of the job', jobId)
    .action(async (id: number) => ran(await explain(cli, id)))

  const results = add('results', 'what completed jobs returned: list, show, cleanup', LOOK, [
    'results',
    'results --task send-mail --completed-after 2026-12-31',
    'results show 4711',
    'results cleanup --completed-before 2026-12-01',
  ])
  results
    .command('list', { isDefault: true })
    .description('list them, the newest first')
    .option('--task <name>', 'only this task', nameFrom('--task'))
    .option('--queue <name>', 'only this queue', nameFrom('--queue'))
    .option('--group <name>', 'only this group', nameFrom('--group'))
    .option('--completed-after <moment>', 'only what completed then or later', momentFrom('--completed-after'))
    .option('--completed-before <moment>', 'only what completed earlier', momentFrom('--completed-before'))
    .option('--cursor <text>', 'go on where a page ended')
    .option('--limit <n>', 'this many at most', wholeFrom('--limit', 1, 1_000), 20)
    .action(async (filter: ResultFilter) => ran(await resultsList(cli, filter)))
  results
    .command('show')
    .description('one in full')
    .argument('<id>', 'id of the job', jobId)
    .action(async (id: number) => ran(await resultsShow(cli, id)))
  results
    .command('cleanup')
    .description('forget completed jobs, with all their attempts')
    .option('--queue <name>', 'only this queue', nameFrom('--queue'))
    .option('--completed-before <moment>', 'only what completed earlier', momentFrom('--completed-before'))
    .action(async (filter: ResultFilter) => ran(await resultsCleanup(cli, filter)))

  const dead = add('dead', 'dead letters: jobs that failed for good', CARE, [
    'dead list',
    'dead requeue 4711',
    'dead requeue 4711 4712 --expires-at 2027-01-01',
    'dead requeue --task send-mail --per-second 20',
    'dead purge --task send-mail',
  ])
  deadFilter(dead.command('list', { isDefault: true }).description('list them, the newest first'))
    .option('--before <id>', 'only ids below this one: the next page', jobId)
    .action(async (filter: DeadFilter) => ran(await deadList(cli, filter)))
  deadFilter(
    dead
      .command('requeue')
      .description('try them again, with fresh attempts')
      .argument('[ids...]', 'one of them, or several', (text: string, ids: number[] = []) => [...ids, jobId(text)]),
  )
    .option('--all', 'all that fit, up to --limit')
    .option('--per-second <n>', 'so many a second instead of all at once', rateFrom('--per-second', 0.01, 100_000))
    .option(
      '--expires-at <moment>',
      'not at all after this moment; else an expiry that has passed is dropped',
      momentFrom('--expires-at'),
    )
    .action(async (ids: number[], { limit, ...filter }: RequeueFilter & RequeueOptions) =>
      ran(
        await deadRequeue(cli, {
          ...filter,
          // a list is as long as it is
          ...(ids.length > 1 ? { ids } : { ...(limit && { limit }), ...(ids.length === 1 && { id: ids[0]! }) }),
        }),
      ),
    )
  deadFilter(dead.command('purge').description('forget them for ever').argument('[id]', 'one of them', jobId))
    .option('--all', 'all that fit, up to --limit')
    .action(async (id: number | undefined, filter: DeadFilter) =>
      ran(await deadPurge(cli, { ...filter, ...(id && { id }) })),
    )

  const queues = add('queues', 'queues as a whole: list, pause, resume, purge', CARE, [
    'queues list',
    'queues pause mail',
    'queues purge mail',
  ])
  queues
    .command('list', { isDefault: true })
    .description('list them, and which are paused')
    .action(async () => ran(await queuesList(cli)))
  for (const [verb, about] of [
    ['pause', 'let nothing more of it be taken; what runs runs on'],
    ['resume', 'open it again'],
  ] as const)
    queues
      .command(verb)
      .description(about)
      .argument('<queue>', 'which', nameFrom('QUEUE'))
      .action(async (queue: string) => ran(await queuesSwitch(cli, verb, queue)))
  queues
    .command('purge')
    .description('end what waits in it; what runs and dead letters stay')
    .argument('<queue>', 'which', nameFrom('QUEUE'))
    .action(async (queue: string) => ran(await queuesPurge(cli, queue)))

  const schedules = add(
    'schedules',
    'what is due when: list, add, change, pause, resume, trigger, delete, next',
    CARE,
    [
      'schedules list',
      `schedules add report '0 9 * * 1-5' --zone Europe/Berlin`,
      'schedules next report',
      'schedules trigger report --priority 50',
    ],
  )
  schedules
    .command('list', { isDefault: true })
    .description('list them, with the next time and the last outcome')
    .option('--queue <name>', 'only this queue', nameFrom('--queue'))
    .option('--after <id>', 'only ids after this one: the next page', nameFrom('--after'))
    .option('--limit <n>', 'this many at most', wholeFrom('--limit', 1, 1_000), 100)
    .action(async (filter: ScheduleFilter) => ran(await schedulesList(cli, filter)))
  const addCommand = schedules.command('add').description('make one')
  facts.set(addCommand, {
    examples: [
      `schedules add report '0 9 * * 1-5' --zone Europe/Berlin`,
      `schedules add sweep '*/10 * * * *' --overlap skip`,
      `schedules add invoice '0 0 1 * *' '{"customer":17}' --id 'invoice of 17'`,
    ],
    settings: [],
    notes: [ABOUT_CRON],
  })
  scheduleFields(
    addCommand
      .argument('<task>', 'name of the task', nameFrom('TASK'))
      .argument('<cron>', "when, in quotes: '*/5 * * * *', '0 30 9 * * 1-5', @hourly")
      .argument('[json]', 'payload of every job as JSON; {} when left out')
      .option('--id <text>', "its id; the task's name when left out", nameFrom('--id'))
      .option('--paused', 'make it, but let it rest'),
  ).action(async (task: string, cron: string, json: string | undefined, flags: ScheduleFlags) =>
    ran(await schedulesAdd(cli, task, cron, json, flags)),
  )
  scheduleFields(
    schedules
      .command('change')
      .description('change what is named, leave the rest')
      .argument('<id>', 'which', nameFrom('ID'))
      .option('--cron <text>', 'when, in quotes')
      .option('--payload <json>', 'payload of every job'),
  ).action(async (id: string, flags: ScheduleFlags) => ran(await schedulesChange(cli, id, flags)))
  for (const [verb, about] of [
    ['pause', 'let it rest; what is due meanwhile is left out'],
    ['resume', 'let it go on from now'],
    ['delete', 'delete it; its jobs stay'],
  ] as const)
    schedules
      .command(verb)
      .description(about)
      .argument('<id>', 'which', nameFrom('ID'))
      .action(async (id: string) => ran(await schedulesSwitch(cli, verb, id)))
  jobFields(
    schedules
      .command('trigger')
      .description('enqueue one of its jobs now; flags override its options')
      .argument('<id>', 'which', nameFrom('ID'))
      .argument('[json]', 'payload instead of its own')
      .option('--queue <name>', 'queue instead of its own', nameFrom('--queue')),
  ).action(async (id: string, json: string | undefined, flags: ScheduleFlags) =>
    ran(await schedulesTrigger(cli, id, json, flags)),
  )
  schedules
    .command('next')
    .description('when it is due next, and what became of the last times')
    .argument('<id>', 'which', nameFrom('ID'))
    .option('--count <n>', 'this many of each', wholeFrom('--count', 1, 1_000), 5)
    .action(async (id: string, flags: { count: number }) => ran(await schedulesNext(cli, id, flags)))

  add('cancel', 'cancel a job; a running one is told to abort', CARE, ['cancel 4711'])
    .argument('<id>', 'id of the job', jobId)
    .action(async (id: number) => ran(await cancel(cli, id)))

  add('migrate', 'bring the tables up to date (start does so too, unless --no-migrate)', CARE, [
    'migrate --dry-run',
    'migrate',
    'migrate --print-grants web=producer',
  ])
    .option('--dry-run', 'print the SQL and change nothing')
    .option(
      '--print-grants <role=kind>',
      'print the SQL that makes a role an engine, a producer or a reader',
      grantFrom,
    )
    .action(async (flags: MigrateFlags) => ran(await migrate(cli, flags)))

  add('config', 'every setting, its value and where it comes from', CARE, [
    'config',
    'config stopTimeoutMs',
    'config --json',
  ])
    .argument('[name]', 'one setting in full')
    .action(async (name: string | undefined) => ran(await config(cli, name)))

  add('doctor', 'find what is wrong: versions, settings, database, poolers', CARE, [
    'doctor',
    'doctor --database postgres://localhost/app',
  ]).action(async () => ran(await doctor(cli)))

  return program
}

/** The command that these words call, as a person writes it: `schedules add`; '' when they call none. */
export function commandPath(program: Command, words: readonly string[]): string {
  let command = program
  for (const word of words) command = command.commands.find((sub) => sub.name() === word) ?? command
  return command === program ? '' : pathOf(command)
}

const ABOUT_IDS =
  'About ids: every job has an id, a whole number that is never given twice; it is what explain, cancel, results show ' +
  'and dead requeue take. Ids grow with time, with gaps: a process reserves ' +
  `${grouped(CHUNK_JOBS_MAX)} at a time and drops what is left of them a minute later, or when it ends.`

const ABOUT_CRON =
  "Cron: minute, hour, day of the month, month, day of the week; six fields begin with the second. Every ten minutes is '*/10 * * * *', " +
  "every ten seconds '*/10 * * * * *', every hour @hourly, weekdays at nine '0 9 * * 1-5'. " +
  'What does not divide an hour or a day evenly (every 90 minutes) takes several schedules.'

/** The settings that the command line gave, by name. */
export function settingFlags(program: Command): Record<string, unknown> {
  const given = program.opts<Record<string, unknown>>()
  return Object.fromEntries(
    SETTING_NAMES.filter((name) => given[name] !== undefined).map((name) => [name, given[name]]),
  )
}

function addSetting(program: Command, name: SettingName): void {
  const row = settingOf(name)
  if (row.kind !== 'flag') return void program.option(`${flagOf(name)} <${row.placeholder}>`, row.about)
  program.option(flagOf(name), row.about)
  program.option(flagOf(name).replace('--', '--no-'), `the opposite of ${flagOf(name)}`)
}

function deadFilter(command: Command): Command {
  return command
    .option('--task <name>', 'only this task', nameFrom('--task'))
    .option('--queue <name>', 'only this queue', nameFrom('--queue'))
    .option('--died-after <moment>', 'only what died then or later', momentFrom('--died-after'))
    .option('--died-before <moment>', 'only what died earlier', momentFrom('--died-before'))
    .option('--limit <n>', 'this many at most', limit, 100)
}

/** Options of the jobs that a schedule makes. */
function jobFields(command: Command): Command {
  return command
    .option('--priority <n>', 'higher runs earlier, -100 to 100', priority)
    .option('--max-attempts <n>', 'tries before it is a dead letter', maxAttempts)
    .option('--timeout <time>', 'time that one try may take', durationFrom('--timeout', 2 ** 31 - 1))
    .option('--group <name>', 'jobs of a group run one after the other, in order', nameFrom('--group'))
    .option('--group-limit <n>', 'or so many of them at a time, over all nodes', groupLimit)
    .addOption(
      new Option('--on-retry <what>', 'what its group does while it waits for a retry').choices(['block', 'skip']),
    )
}

function scheduleFields(command: Command): Command {
  return jobFields(command)
    .option('--queue <name>', "queue of its jobs; the task's own when left out", nameFrom('--queue'))
    .option('--zone <name>', 'time zone, such as Europe/Berlin; UTC when left out')
    .option('--starts-at <moment>', 'not before this moment, such as 2027-01-01T00:00Z', momentFrom('--starts-at'))
    .option('--ends-at <moment>', 'not from this moment on', momentFrom('--ends-at'))
    .option(
      '--jitter <time>',
      'spread: each up to so long after its time, such as 30s',
      durationFrom('--jitter', 3_600_000),
    )
    .addOption(new Option('--overlap <what>', 'while the job before has not ended').choices(['allow', 'skip', 'queue']))
    .addOption(new Option('--catch-up <what>', 'what is made up for after nobody ran').choices(['none', 'one', 'all']))
    .option(
      '--catch-up-window <time>',
      'how far back that goes; 24h when left out',
      durationFrom('--catch-up-window', 7 * 24 * 3_600_000),
    )
}
