// Prints the tables of the code (settings, error codes, states, functions of the database) and the figures of results/
// into the marked sections of the docs, so that no fact is written down twice and no figure without its measurement.
//
//   node dist/scripts/docs.js           writes what changed
//   node dist/scripts/docs.js --check   writes nothing; exit 1 when a section differs from the code
//
// A section is everything between <!-- table:NAME --> and <!-- end -->.

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Metric, ResultLine } from '../bench/harness.ts'
import { OURS } from '../bench/peers/table.ts'
import { ERROR_CODES } from '../engine/base/errors.ts'
import { EXIT_CODES } from '../engine/cli/exit-codes.ts'
import { bytesText, durationText, grouped, type Part } from '../engine/config/fields.ts'
import { RULES } from '../engine/config/rules.ts'
import { defaultOf, envNamesOf, flagOf, SETTING_NAMES, type SettingName, settingOf } from '../engine/config/settings.ts'
import {
  DURABLE_STATES,
  DURABLE_TRANSITIONS,
  type DurableState,
  STATES,
  TRANSITIONS,
} from '../engine/orchestrator/states.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url)) // from dist/scripts/
const FILES = ['README.md', 'engine/README.md']

const TABLES: Readonly<Record<string, () => string>> = {
  settings: settingsTable,
  rules: () =>
    table(
      ['setting', 'must be'],
      RULES.map(({ settings, rule }) => [code(settings[0]), rule]),
    ),
  errors: () =>
    table(
      ['code', 'again later?', 'HTTP', 'exit', 'what to do'],
      Object.entries(ERROR_CODES).map(([name, row]) => [
        code(name),
        row.retry ? 'yes' : 'no',
        String(row.http),
        String(row.exit),
        row.hint,
      ]),
    ),
  exits: () =>
    table(
      ['exit code', 'meaning'],
      EXIT_CODES.map(({ code, meaning }) => [String(code), meaning]),
    ),
  states: () =>
    table(
      ['state', 'where its row stands', 'may become'],
      DURABLE_STATES.map((state) => [
        code(state),
        STANDS[state],
        DURABLE_TRANSITIONS[state].map(code).join(', ') || 'nothing else, ever',
      ]),
    ),
  orchestrator: () =>
    table(
      ['state', 'event, and what it leads to'],
      STATES.map((state) => [
        code(state),
        Object.entries(TRANSITIONS[state])
          .map(([event, to]) => `${event} → ${code(to)}`)
          .join(', ') || 'accepts nothing',
      ]),
    ),
  functions: functionsTable,
  figures: figuresTable,
}

/** The text with every marked section printed anew. @throws when a section names no table or has no end. */
export function printInto(text: string, file: string): string {
  const marks = [...text.matchAll(/<!-- table:(\S+) -->/g)]
  const printed = text.replace(/<!-- table:(\S+) -->\n[\s\S]*?<!-- end -->/g, (_, name: string) => {
    const print = TABLES[name]
    if (print === undefined)
      throw new Error(`${file}: there is no table "${name}", only ${Object.keys(TABLES).join(', ')}`)
    return `<!-- table:${name} -->\n\n${print()}\n\n<!-- end -->`
  })
  const ends = [...text.matchAll(/<!-- end -->/g)]
  if (ends.length !== marks.length) throw new Error(`${file}: ${marks.length} tables begin, ${ends.length} end`)
  return printed
}

const PARTS: Readonly<Record<Part, string>> = {
  database: 'Database',
  tasks: 'Tasks',
  threads: 'Threads',
  claiming: 'Claiming',
  scheduler: 'Scheduler',
  syncer: 'Syncer',
  life: 'Life',
  output: 'Output',
}

function settingsTable(): string {
  const sections = Object.entries(PARTS).map(([part, title]) => {
    const names = SETTING_NAMES.filter((name) => settingOf(name).part === part)
    const rows = names.map((name) => [
      code(name),
      settingOf(name).defaultText ?? valueText(name),
      settingOf(name).about,
      `${code(flagOf(name))}<br>${envNamesOf(name).map(code).join(' or ')}`,
    ])
    return `**${title}**\n\n${table(['setting', 'default', 'meaning', 'flag and variable'], rows)}`
  })
  return sections.join('\n\n')
}

const STANDS: Readonly<Record<DurableState, string>> = {
  scheduled: '`scheduled`, first run',
  queued: '`ready`, or `blocked` as one of the next of a group that has a seat free',
  blocked: '`blocked`, behind other jobs of its group',
  assigned: '`lease`',
  running: '`lease`, and `running` once it has lasted a heartbeat',
  retrying: '`scheduled`, a later run',
  timed_out: '`attempt` only: the same transaction makes the job retrying or failed',
  completed: 'last row of `attempt`',
  failed: '`dead`',
  cancelled: 'last row of `attempt`',
  expired: '`dead` with the code TASK_EXPIRED',
}

/** Every function of the migrations with the first sentence of what stands above it. */
function functionsTable(): string {
  const folder = join(ROOT, 'engine', 'store', 'migrations')
  const rows: string[][] = []
  let says = ''
  for (const file of readdirSync(folder).sort()) {
    const text = readFileSync(join(folder, file), 'utf8')
    const found = /((?:^--.*\n)*)^create(?: or replace)? function millrace\.(\w+)\(/gm
    for (const [, comment = '', name = ''] of text.matchAll(found)) {
      const words = comment.replace(/^-- ?/gm, ' ').replace(/\s+/g, ' ').trim()
      says = /^.+?\.(?= |$)/.exec(words)?.[0] ?? says // twins share a comment
      rows.push([code(name), says, code(file)])
    }
  }
  return table(['function', 'what it does', 'file'], rows)
}

interface Figure {
  readonly says: string
  readonly bench: string
  readonly subject: string
  readonly metric: Metric
  readonly unit: string
  readonly lessIsBetter?: boolean
}

/** What the first page shows, if it was measured. */
const FIGURES: readonly Figure[] = [
  { says: 'drain a full queue', bench: 'drain', subject: 'drain', metric: 'jobsPerSecond', unit: 'jobs/s' },
  {
    says: 'producer and worker at once, to empty',
    bench: 'sustained',
    subject: 'enqueue to done',
    metric: 'jobsPerSecond',
    unit: 'jobs/s',
  },
  { says: 'enqueue in bulk', bench: 'enqueue', subject: 'bulk', metric: 'jobsPerSecond', unit: 'jobs/s' },
  {
    says: 'enqueue, 50 callers that await each call',
    bench: 'enqueue',
    subject: '50 callers',
    metric: 'jobsPerSecond',
    unit: 'jobs/s',
  },
  {
    says: 'enqueue to start in another process, p50',
    bench: 'latency',
    subject: '100/s',
    metric: 'p50Ms',
    unit: 'ms',
    lessIsBetter: true,
  },
  {
    says: 'enqueue to start in another process, p99',
    bench: 'latency',
    subject: '100/s',
    metric: 'p99Ms',
    unit: 'ms',
    lessIsBetter: true,
  },
  {
    says: "PostgreSQL's CPU per job while draining",
    bench: 'drain',
    subject: 'drain',
    metric: 'serverCpuUs',
    unit: 'us',
    lessIsBetter: true,
  },
]

/** Medians of each bench's newest real run, ours beside the best peer of the same run. */
function figuresTable(): string {
  const runs = newestRuns()
  const rows: string[][] = []
  const heads = new Map<string, ResultLine>()
  for (const { says, bench, subject, metric, unit, lessIsBetter } of FIGURES) {
    const found = runs.get(bench)
    const value = (line: ResultLine) => line.metrics[metric]!.median
    const lines = (found?.lines ?? []).filter((line) => line.subject === subject && line.metrics[metric] !== undefined)
    const ours = lines.find((line) => line.system === OURS)
    if (found === undefined || ours === undefined) continue
    const peers = lines.filter((line) => line.system !== OURS).sort((a, b) => value(a) - value(b))
    const best = lessIsBetter ? peers[0] : peers.at(-1)
    const ratio = best && (lessIsBetter ? value(best) / value(ours) : value(ours) / value(best))
    heads.set(facts(ours), ours)
    rows.push([
      says,
      `${figure(value(ours))} ${unit}`,
      best === undefined ? '' : `${best.system} ${figure(value(best))} ${unit}`,
      ratio === undefined ? '' : `${ratio.toFixed(1)} x`,
      `[${bench}](results/${found.file})`,
    ])
  }
  if (rows.length === 0) return 'No run of the real size has been recorded in `results/` yet.'
  const circumstances = [...heads.keys()].map((text) => `Measured on ${text}.`).join(' ')
  return `${circumstances}\n\n${table(['what', 'Millrace', 'best peer of the same run', 'better by', 'from'], rows)}`
}

function facts({ machine, server, run, commit }: ResultLine): string {
  const database =
    server === null
      ? ''
      : `, PostgreSQL ${server.version} on the same machine with fsync ${server.fsync} and synchronous_commit ${server.synchronous_commit}`
  return `${machine.cores} cores of ${machine.cpu}${database}, ${run.slice(0, 10)}, commit ${commit}`
}

function newestRuns(): Map<string, { file: string; lines: ResultLine[] }> {
  const folder = join(ROOT, 'results')
  const newest = new Map<string, { file: string; lines: ResultLine[] }>()
  for (const file of readdirSync(folder).sort()) {
    if (!file.endsWith('.jsonl')) continue
    for (const row of readFileSync(join(folder, file), 'utf8').split('\n')) {
      if (row === '') continue
      const line = JSON.parse(row) as ResultLine
      if (line.size !== 'real') continue
      const known = newest.get(line.bench)
      if (known === undefined || known.lines[0]!.run < line.run) newest.set(line.bench, { file, lines: [line] })
      else if (known.lines[0]!.run === line.run) known.lines.push(line)
    }
  }
  return newest
}

function figure(value: number): string {
  return value.toLocaleString('en', value >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 })
}

function valueText(name: SettingName): string {
  const value = defaultOf(name)
  if (typeof value !== 'number') return code(String(value))
  const { kind } = settingOf(name)
  if (kind === 'duration') return durationText(value)
  return kind === 'bytes' ? bytesText(value) : grouped(value)
}

function table(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`
  return [line(heads), line(heads.map(() => '---')), ...rows.map(line)].join('\n')
}

function code(text: string): string {
  return `\`${text}\``
}

function main(check: boolean): number {
  let differs = 0
  for (const file of FILES) {
    const path = join(ROOT, file)
    if (!existsSync(path)) continue
    const before = readFileSync(path, 'utf8')
    const after = printInto(before, file)
    if (before === after) continue
    differs++
    if (check) console.error(`${file}: a table differs from the code; run npm run docs`)
    else {
      writeFileSync(path, after)
      console.log(`${file}: printed anew`)
    }
  }
  return check && differs > 0 ? 1 : 0
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = main(process.argv.includes('--check'))
