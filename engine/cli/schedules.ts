// `schedules list | add | change | pause | resume | trigger | delete | next`: what is due when, and what became of it.

import type { ScheduleChange, ScheduleDefinition, ScheduleFilter, ScheduleRow, TriggerOptions } from './api.ts'
import { type Cli, withClient } from './context.ts'
import { colouredState } from './jobs.ts'
import { quoted } from './quoted.ts'
import { readJson } from './read.ts'
import { type Part, styled } from './styled.ts'
import { printTable } from './table.ts'
import { brief, moment, plural, span } from './text.ts'

/** What the command line gave for add and change. */
export interface ScheduleFlags {
  id?: string
  queue?: string
  cron?: string
  zone?: string
  payload?: string
  priority?: number
  maxAttempts?: number
  timeout?: number
  group?: string
  groupLimit?: number
  onRetry?: 'block' | 'skip'
  startsAt?: Date
  endsAt?: Date
  jitter?: number
  overlap?: 'allow' | 'skip' | 'queue'
  catchUp?: 'none' | 'one' | 'all'
  catchUpWindow?: number
  paused?: boolean
}

export async function schedulesList(cli: Cli, filter: ScheduleFilter): Promise<void> {
  const { terminal } = cli
  const rows = await withClient(cli, (client) => client.schedules.list(filter))
  if (terminal.json) return rows.forEach((row) => void terminal.record(row))
  if (rows.length === 0) return terminal.print('There is no schedule.')
  printTable(
    terminal,
    [
      { head: 'id', narrow: 'cut' },
      { head: 'task', narrow: 'cut', spare: 3 },
      { head: 'queue', narrow: 'cut', spare: 1 },
      { head: 'cron', narrow: 'cut' },
      { head: 'zone', narrow: 'cut', spare: 4 },
      { head: 'runs', align: 'right', spare: 2 },
      { head: 'next (UTC)' },
      { head: 'last', narrow: 'wrap', lines: 2 },
    ],
    rows.map((row) => [
      row.id,
      row.task,
      row.queue,
      row.cron,
      row.timeZone,
      String(row.runCount),
      nextOf(row),
      lastOf(row),
    ]),
  )
  const more = rows.length >= (filter.limit ?? 100) ? `more: --after ${quoted(rows.at(-1)!.id)}; ` : ''
  terminal.note(styled('dim', `  ${more}when is it due: ${cli.command('schedules', 'next', rows[0]!.id)}`))
}

export async function schedulesAdd(
  cli: Cli,
  task: string,
  cron: string,
  json: string | undefined,
  flags: ScheduleFlags,
): Promise<void> {
  const definition: ScheduleDefinition = {
    ...changeOf(flags),
    task,
    cron,
    ...(flags.id !== undefined && { id: flags.id }),
    ...(json !== undefined && { payload: readJson(json) }),
  }
  const row = await withClient(cli, (client) => client.schedules.create(definition))
  say(cli, row, `Schedule ${row.id} made; ${nextIn(row)}`)
  cli.terminal.note(styled('dim', `  when else: ${cli.command('schedules', 'next', row.id)}`))
}

export async function schedulesChange(cli: Cli, id: string, flags: ScheduleFlags): Promise<void> {
  const row = await withClient(cli, async (client) => {
    const change = changeOf(flags)
    if (change.options === undefined) return client.schedules.update(id, change)
    // options that are not named stay as they are
    const options = { ...(await client.schedules.get(id))?.options, ...change.options }
    return client.schedules.update(id, { ...change, options })
  })
  say(cli, row, `Schedule ${row.id} changed; ${nextIn(row)}`)
}

export async function schedulesSwitch(cli: Cli, verb: 'pause' | 'resume' | 'delete', id: string): Promise<void> {
  await withClient(cli, (client) => client.schedules[verb](id))
  const done = { pause: 'paused', resume: 'resumed', delete: 'deleted' }[verb]
  say(cli, { id, [done]: true }, `Schedule ${id} ${done}.`)
}

export async function schedulesTrigger(
  cli: Cli,
  id: string,
  json: string | undefined,
  flags: ScheduleFlags,
): Promise<void> {
  const overrides: TriggerOptions = {
    ...changeOf(flags).options,
    ...(flags.queue !== undefined && { queue: flags.queue }),
    ...(json !== undefined && { payload: readJson(json) }),
  }
  const job = await withClient(cli, (client) => client.schedules.trigger(id, overrides))
  say(
    cli,
    { schedule: id, id: job.id },
    `Enqueued job ${job.id}. See its life: ${cli.command('explain', String(job.id))}`,
  )
}

export async function schedulesNext(cli: Cli, id: string, { count }: { count: number }): Promise<void> {
  const { terminal } = cli
  const { row, upcoming, history } = await withClient(cli, async ({ schedules }) => {
    const upcoming = await schedules.upcoming(id, count)
    return { row: (await schedules.get(id))!, upcoming, history: await schedules.history(id, { limit: count }) }
  })
  if (terminal.json) {
    for (const it of upcoming) terminal.record({ kind: 'upcoming', ...it })
    for (const it of history) terminal.record({ kind: 'decided', ...it })
    return
  }
  terminal.print(`${id}: ${row.cron} in ${row.timeZone}, runs ${row.task} in queue ${row.queue}`)
  if (row.paused) terminal.print(styled('yellow', 'It is paused: none of these will run before it is resumed.'))
  if (upcoming.length === 0) terminal.print('It is not due any more.')
  else
    printTable(
      terminal,
      [
        { head: 'due (UTC)', narrow: 'seconds' },
        { head: `in ${row.timeZone}`, narrow: 'cut' },
      ],
      upcoming.map((it) => [moment(it.at), it.local]),
    )
  if (history.length === 0) return terminal.print('It has not been due yet.')
  printTable(
    terminal,
    [
      { head: 'was due (UTC)', narrow: 'seconds' },
      { head: 'late', align: 'right' },
      { head: 'job', align: 'right' },
      { head: 'node', align: 'right', spare: 1 },
      { head: 'outcome', narrow: 'wrap' },
    ],
    history.map((it) => [
      moment(it.scheduledAt),
      it.manual ? 'by hand' : span(Math.max(0, it.startLateMs ?? it.lateMs)),
      brief(it.jobId),
      it.manual ? '' : String(it.node),
      it.outcome === 'failed'
        ? styled('red', `failed ${brief(it.error)}`)
        : it.jobState === null
          ? it.outcome
          : colouredState(it.jobState),
    ]),
  )
  terminal.note(styled('dim', `  ${plural(row.runCount, 'job')} made so far`))
}

/** The named flags as fields; those left out are left out. */
function changeOf(flags: ScheduleFlags): ScheduleChange & { options?: Record<string, unknown> } {
  const options = {
    ...(flags.priority !== undefined && { priority: flags.priority }),
    ...(flags.maxAttempts !== undefined && { maxAttempts: flags.maxAttempts }),
    ...(flags.timeout !== undefined && { timeoutMs: flags.timeout }),
    ...(flags.group !== undefined && { group: flags.group }),
    ...(flags.groupLimit !== undefined && { groupLimit: flags.groupLimit }),
    ...(flags.onRetry !== undefined && { onRetry: flags.onRetry }),
  }
  return {
    ...(flags.queue !== undefined && { queue: flags.queue }),
    ...(flags.cron !== undefined && { cron: flags.cron }),
    ...(flags.zone !== undefined && { timeZone: flags.zone }),
    ...(flags.payload !== undefined && { payload: readJson(flags.payload) }),
    ...(flags.startsAt !== undefined && { startsAt: flags.startsAt }),
    ...(flags.endsAt !== undefined && { endsAt: flags.endsAt }),
    ...(flags.jitter !== undefined && { jitterMs: flags.jitter }),
    ...(flags.overlap !== undefined && { overlap: flags.overlap }),
    ...(flags.catchUp !== undefined && { catchUp: flags.catchUp }),
    ...(flags.catchUpWindow !== undefined && { catchUpWindowMs: flags.catchUpWindow }),
    ...(flags.paused !== undefined && { paused: flags.paused }),
    ...(Object.keys(options).length > 0 && { options }),
  }
}

function say({ terminal }: Cli, record: object, text: string): void {
  if (terminal.json) terminal.record(record)
  else terminal.print(text)
}

function nextIn(row: ScheduleRow): string {
  if (row.paused) return 'it is paused.'
  return row.nextAt === null ? 'it is not due any more.' : `next at ${moment(row.nextAt)} UTC.`
}

function nextOf(row: ScheduleRow): Part {
  if (row.error !== null) return styled('red', 'invalid')
  if (row.paused) return styled('yellow', 'paused')
  return row.nextAt === null ? 'over' : moment(row.nextAt).slice(0, 19)
}

function lastOf(row: ScheduleRow): Part {
  if (row.error !== null) return styled('red', row.error)
  if (row.lastOutcome === 'failed') return styled('red', `failed ${brief(row.lastError)}`)
  if (row.lastOutcome === null) return ''
  const late = row.lastLateMs === null ? '' : `, ${span(Math.max(0, row.lastLateMs))} late`
  return `${row.lastOutcome}${row.lastJobId === null ? '' : ` job ${row.lastJobId}`}${late}`
}
