// What people do with schedules: register, make, change, pause, trigger, look. Everything is checked here before
// anything is written; engines hear of changes by a notification and look at the rows once a minute anyway.

import type {
  OccurrenceRow,
  ScheduleDefinition,
  ScheduleJobOptions,
  ScheduleRow,
  Schedules,
  TriggerOptions,
  UpcomingRow,
} from './api.ts'
import { EngineError, shown } from './base/errors.ts'
import { NAME_CHARS_MAX } from './base/limits.ts'
import type { Enqueuer } from './enqueuer/enqueuer.ts'
import { checkedName } from './enqueuer/options.ts'
import { checkFields, checkOptions } from './filters.ts'
import { type CronPlan, parseCron } from './schedule/cron.ts'
import { nextAfter } from './schedule/occurrences.ts'
import type { NewSchedule, ScheduleRecord, ScheduleStore } from './store/schedule-store.ts'

/** Of one call of register(), which is one statement. */
const REGISTER_MAX = 10_000
/** Every row is read by every engine. */
const PAYLOAD_BYTES_MAX = 64 * 1024
const JITTER_MS_MAX = 3_600_000
const CATCH_UP_MS_MAX = 7 * 24 * 3_600_000
const CATCH_UP_MS_DEFAULT = 24 * 3_600_000
const LIST_MAX = 1_000
const DATE_MS_MAX = 8.64e15
/** The years 1 to 9999, which every clock and every text form of a time can tell. */
const BEGIN_MS_MIN = -62_135_596_800_000
const END_MS_MAX = 253_402_300_799_999

export interface ScheduleVerbsNeeds {
  readonly store: ScheduleStore
  queueIds(names: readonly string[]): Promise<number[]>
  taskIds(names: readonly string[]): Promise<number[]>
  /** Checks a job as enqueueing would. */
  check(task: string, payload: unknown, options: JobOptions): ReturnType<Enqueuer['check']>
  enqueue(task: string, payload: unknown, options: JobOptions): Promise<{ readonly id: number }>
}

type JobOptions = ScheduleJobOptions & { readonly queue?: string }

export function openSchedules(needs: ScheduleVerbsNeeds): Schedules {
  const { store } = needs

  const find = async (id: string): Promise<ScheduleRecord> => {
    const [row] = await store.list({ id: checkedName('id', id), queue: null, after: null, before: null, limit: 1 })
    if (!row) throw notFound(id)
    return row
  }

  /** Gives the definitions their numbers, and writes them. */
  const put = async (
    list: readonly Checked[],
    source: 'code' | 'api',
    isNew: boolean,
    pruneQueues: readonly string[] | null,
  ) => {
    const queueIds = await needs.queueIds(list.map((it) => it.queue))
    const taskIds = await needs.taskIds(list.map((it) => it.task))
    const rows = list.map((it, at): NewSchedule => ({ ...it.row, queueId: queueIds[at]!, taskId: taskIds[at]! }))
    return store.put(rows, source, isNew, pruneQueues && (await needs.queueIds(pruneQueues)))
  }

  return {
    async register(list, options = {}) {
      checkOptions(options, ['queue']) // misspelt, it would delete the schedules of another queue
      const { queue = 'default' } = options
      const queues = typeof queue === 'string' ? [queue] : queue
      if (!Array.isArray(queues) || queues.length === 0) refuse('queue', 'one name or several', queue)
      for (const name of queues) checkedName('queue', name)
      if (!Array.isArray(list) || list.length > REGISTER_MAX) refuse('list', `a list of at most ${REGISTER_MAX}`, list)
      const checked = await Promise.all(
        list.map((it, at) =>
          inItem(at, () => checkDefinition(needs, it, options.queue === undefined ? undefined : queues[0])),
        ),
      )
      const ids = new Set<string>()
      for (const [at, { row }] of checked.entries()) {
        if (ids.has(row.id)) await inItem(at, async () => refuse('id', 'given once in the list', row.id))
        ids.add(row.id)
      }
      const done = await put(checked, 'code', false, [...new Set([...queues, ...checked.map((it) => it.queue)])])
      const of = (what: string) => done.filter((it) => it.what === what).map((it) => it.id)
      return { created: of('created'), changed: of('changed'), deleted: of('deleted') }
    },

    async create(definition) {
      const checked = await checkDefinition(needs, definition)
      const [done] = await put([checked], 'api', true, null)
      if (done?.what === 'exists')
        throw new EngineError('VALIDATION', `a schedule with the id ${JSON.stringify(checked.row.id)} exists`, {
          field: 'id',
          rule: 'new',
        })
      return rowOf(await find(checked.row.id), store.time.nowMs())
    },

    async update(id, change) {
      const row = await find(id)
      if (typeof change !== 'object' || change === null || Array.isArray(change)) refuse('change', 'an object', change)
      const checked = await checkDefinition(needs, { ...definitionOf(row), ...defined(change), id })
      await put([checked], row.source as 'code' | 'api', false, null)
      return rowOf(await find(id), store.time.nowMs())
    },

    async delete(id) {
      if (!(await store.delete(checkedName('id', id)))) throw notFound(id)
    },

    async pause(id) {
      if (!(await store.pause(checkedName('id', id)))) throw notFound(id)
    },

    async resume(id) {
      if (!(await store.resume(checkedName('id', id)))) throw notFound(id)
    },

    async trigger(id, overrides = {}) {
      checkOptions(overrides, TRIGGER_FIELDS)
      const row = await find(id)
      const { payload = row.payload, ...over } = defined(overrides) as TriggerOptions
      const options = row.options as ScheduleJobOptions
      const turn =
        row.overlap === 'queue' && id.length <= NAME_CHARS_MAX - 9 ? { group: `schedule:${id}`, groupLimit: 1 } : {}
      const job = await needs.enqueue(row.task as string, payload, {
        queue: row.queue as string,
        ...turn,
        ...options,
        ...over,
        meta: { ...options.meta, ...over.meta, schedule: id },
      })
      await store.noteTrigger(id, job.id).catch(() => {}) // the job is there; what is lost is its line in the history
      return { id: job.id }
    },

    async get(id) {
      const [row] = await store.list({ id: checkedName('id', id), queue: null, after: null, before: null, limit: 1 })
      return row ? rowOf(row, await nowMs(store)) : null
    },

    async list(filter = {}) {
      checkFields(filter, ['queue', 'limit', 'after', 'before'])
      const rows = await store.list({
        id: null,
        queue: filter.queue === undefined ? null : checkedName('queue', filter.queue),
        after: filter.after === undefined ? null : checkedName('after', filter.after),
        before: filter.before === undefined ? null : checkedName('before', filter.before),
        limit: wholeOf('limit', filter.limit ?? 100, 1, LIST_MAX),
      })
      const now = await nowMs(store)
      return rows.map((row) => rowOf(row, now))
    },

    async upcoming(id, count = 10) {
      wholeOf('count', count, 1, LIST_MAX)
      const row = await find(id)
      const timeZone = row.time_zone as string
      const plan = parseCron(row.cron as string, timeZone)
      const times: UpcomingRow[] = []
      let atMs = nextOf(row, plan, await nowMs(store))
      while (atMs !== null && times.length < count && atMs < (msOf(row.ends_at) ?? Number.POSITIVE_INFINITY)) {
        times.push({ at: new Date(atMs), local: localText(atMs, timeZone), timeZone })
        atMs = nextAfter(plan, atMs)
      }
      return times
    },

    async history(id, filter = {}) {
      checkFields(filter, ['limit', 'before'])
      const { limit = 50, before } = filter
      await find(id)
      const beforeMs = before === undefined ? null : timeOf('before', before)
      const rows = await store.history(id, beforeMs, wholeOf('limit', limit, 1, LIST_MAX))
      return rows.map(
        (row): OccurrenceRow => ({
          scheduledAt: row.scheduled_at as Date,
          decidedAt: row.decided_at as Date,
          outcome: row.outcome as OccurrenceRow['outcome'],
          manual: row.manual as boolean,
          lateMs: row.late_ms as number,
          startLateMs: row.start_late_ms as number | null,
          jobId: row.job_id as number | null,
          jobState: row.job_state as OccurrenceRow['jobState'],
          node: row.node_id as number,
          error: row.error as string | null,
        }),
      )
    },
  }
}

// ------------------------------------------------------------------ checks

interface Checked {
  readonly task: string
  readonly queue: string
  readonly row: Omit<NewSchedule, 'queueId' | 'taskId'>
}

const FIELDS: ReadonlySet<string> = new Set<keyof ScheduleDefinition>([
  'id',
  'task',
  'queue',
  'cron',
  'timeZone',
  'payload',
  'options',
  'startsAt',
  'endsAt',
  'jitterMs',
  'overlap',
  'catchUp',
  'catchUpWindowMs',
  'paused',
])
const OPTIONS: readonly (keyof ScheduleJobOptions)[] = [
  'priority',
  'maxAttempts',
  'timeoutMs',
  'retry',
  'group',
  'groupLimit',
  'onRetry',
  'ephemeral',
  'meta',
]
const TRIGGER_FIELDS: readonly (keyof TriggerOptions)[] = ['payload', 'queue', ...OPTIONS]

async function checkDefinition(
  needs: ScheduleVerbsNeeds,
  definition: ScheduleDefinition,
  queue?: string,
): Promise<Checked> {
  if (typeof definition !== 'object' || definition === null || Array.isArray(definition))
    refuse('definition', 'an object with task, cron and options', definition)
  const given =
    queue === undefined
      ? definition
      : { ...definition, queue: definition.queue === undefined ? queue : definition.queue }
  for (const field of Object.keys(given))
    if (!FIELDS.has(field)) refuse(field, `one of ${[...FIELDS].join(', ')}`, 'an unknown field')
  const { task, cron, timeZone = 'UTC', payload = {}, overlap = 'allow', catchUp = 'one', paused } = given
  const options = defined(given.options ?? {}) as ScheduleJobOptions
  for (const field of Object.keys(options))
    if (!(OPTIONS as readonly string[]).includes(field))
      refuse(`options.${field}`, `one of ${OPTIONS.join(', ')}`, 'an unknown option')
  const job = await needs.check(task, payload, given.queue === undefined ? options : { ...options, queue: given.queue })
  if (Buffer.byteLength(job.json) > PAYLOAD_BYTES_MAX)
    refuse('payload', `at most ${PAYLOAD_BYTES_MAX} bytes of JSON`, `${Buffer.byteLength(job.json)} bytes`)
  const plan = parseCron(cron, timeZone)
  if (!['allow', 'skip', 'queue'].includes(overlap)) refuse('overlap', "'allow', 'skip' or 'queue'", overlap)
  // of those that queue one runs at a time
  const groupLimit = overlap === 'queue' ? 1 : job.groupLimit
  if ((options.groupLimit ?? 1) > (groupLimit ?? 1))
    refuse('options.groupLimit', "1 where overlap is 'queue'", options.groupLimit)
  if (!['none', 'one', 'all'].includes(catchUp)) refuse('catchUp', "'none', 'one' or 'all'", catchUp)
  if (paused !== undefined && typeof paused !== 'boolean') refuse('paused', 'true or false', paused)
  const startsMs = given.startsAt == null ? null : edgeOf('startsAt', given.startsAt)
  const endsMs = given.endsAt == null ? null : edgeOf('endsAt', given.endsAt)
  if (startsMs !== null && endsMs !== null && endsMs <= startsMs) refuse('endsAt', 'after startsAt', given.endsAt)
  return {
    task,
    queue: job.queue,
    row: {
      id: checkedName('id', given.id === undefined ? task : given.id),
      cron: plan.expression,
      timeZone,
      payload: job.json,
      options: {
        ...options,
        ...(job.maxAttempts !== null && { maxAttempts: job.maxAttempts }),
        ...(job.group !== null && { group: job.group }),
        ...(job.group !== null && groupLimit !== null && { groupLimit }),
        ...(job.onRetry === 'skip' && { onRetry: job.onRetry }),
      },
      startsMs,
      endsMs,
      jitterMs: wholeOf('jitterMs', given.jitterMs ?? 0, 0, JITTER_MS_MAX),
      overlap,
      catchUp,
      catchUpMs: wholeOf('catchUpWindowMs', given.catchUpWindowMs ?? CATCH_UP_MS_DEFAULT, 0, CATCH_UP_MS_MAX),
      paused,
    },
  }
}

function wholeOf(field: string, value: unknown, min: number, max: number): number {
  if (!Number.isInteger(value) || (value as number) < min || (value as number) > max)
    refuse(field, `a whole number from ${min} to ${max}`, value)
  return value as number
}

function timeOf(field: string, value: unknown): number {
  const ms = value instanceof Date ? value.getTime() : value
  if (typeof ms !== 'number' || !(Math.abs(ms) <= DATE_MS_MAX))
    refuse(field, 'a Date or milliseconds since 1970', value)
  return Math.round(ms as number)
}

function edgeOf(field: string, value: unknown): number {
  const ms = timeOf(field, value)
  if (ms < BEGIN_MS_MIN || ms > END_MS_MAX) refuse(field, 'a time of the years 1 to 9999', value)
  return ms
}

function refuse(field: string, rule: string, value: unknown): never {
  throw new EngineError('VALIDATION', `${field} must be ${rule}, got ${shown(value)}`, { field, rule })
}

async function inItem<T>(at: number, check: () => Promise<T>): Promise<T> {
  try {
    return await check()
  } catch (error) {
    if (!(error instanceof EngineError)) throw error
    throw new EngineError(error.code, `schedule ${at}: ${error.message}`, { ...error.details, index: at }, error)
  }
}

function notFound(id: string): EngineError {
  return new EngineError('SCHEDULE_NOT_FOUND', `no schedule has the id ${JSON.stringify(id)}`, { scheduleId: id })
}

/** Without the fields that are there but undefined: they mean the same as left out. */
function defined<T extends object>(fields: T): Partial<T> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Partial<T>
}

// ------------------------------------------------------------------ rows

async function nowMs(store: ScheduleStore): Promise<number> {
  await store.digest() // notes the database's clock
  return store.time.nowMs()
}

/** What a definition and a listed schedule have in common. */
function definitionOf(row: ScheduleRecord) {
  return {
    id: row.id as string,
    task: row.task as string,
    queue: row.queue as string,
    cron: row.cron as string,
    timeZone: row.time_zone as string,
    payload: row.payload,
    options: row.options as ScheduleJobOptions,
    startsAt: row.starts_at as Date | null,
    endsAt: row.ends_at as Date | null,
    jitterMs: row.jitter_ms as number,
    overlap: row.overlap as ScheduleRow['overlap'],
    catchUp: row.catch_up as ScheduleRow['catchUp'],
    catchUpWindowMs: row.catch_up_ms as number,
  }
}

function rowOf(row: ScheduleRecord, now: number): ScheduleRow {
  return {
    ...definitionOf(row),
    paused: row.paused as boolean,
    source: row.source as ScheduleRow['source'],
    revision: row.revision as number,
    ...planned(row, now),
    lastScheduledAt: row.last_scheduled_at as Date | null,
    lastDecidedAt: row.last_decided_at as Date | null,
    lastOutcome: row.last_outcome as ScheduleRow['lastOutcome'],
    lastError: row.last_error as string | null,
    lastLateMs: row.last_late_ms as number | null,
    lastJobId: row.last_job_id as number | null,
    runCount: row.run_count as number,
    createdAt: row.created_at as Date,
    updatedAt: row.updated_at as Date,
  }
}

function planned(row: ScheduleRecord, now: number): { error: string | null; nextAt: Date | null } {
  try {
    const plan = parseCron(row.cron as string, row.time_zone as string)
    if (row.error !== null) return { error: row.error as string, nextAt: null } // an engine says so
    const nextMs = row.paused ? null : nextOf(row, plan, now)
    const isOver = nextMs === null || nextMs >= (msOf(row.ends_at) ?? Number.POSITIVE_INFINITY)
    return { error: null, nextAt: isOver ? null : new Date(nextMs) }
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error), nextAt: null }
  }
}

/** The first due time that lies ahead: after the last one that was decided, whatever the clock says. */
function nextOf(row: ScheduleRecord, plan: CronPlan, now: number): number | null {
  const from = Math.max(now, msOf(row.last_scheduled_at) ?? 0, msOf(row.since) ?? 0, (msOf(row.starts_at) ?? 0) - 1)
  return nextAfter(plan, from)
}

function msOf(value: unknown): number | null {
  return value instanceof Date ? value.getTime() : null
}

const formats = new Map<string, Intl.DateTimeFormat>()

function localText(atMs: number, timeZone: string): string {
  let format = formats.get(timeZone)
  if (format === undefined) {
    format = new Intl.DateTimeFormat('en-US', {
      timeZone,
      year: 'numeric',
      month: '2-digit',
      day: '2-digit',
      hour: '2-digit',
      minute: '2-digit',
      second: '2-digit',
      hourCycle: 'h23',
      timeZoneName: 'longOffset',
    })
    if (formats.size < 1_000) formats.set(timeZone, format)
  }
  const part = Object.fromEntries(format.formatToParts(atMs).map(({ type, value }) => [type, value]))
  const offset = part.timeZoneName === 'GMT' ? '+00:00' : String(part.timeZoneName).replace('GMT', '')
  return `${part.year}-${part.month}-${part.day} ${part.hour}:${part.minute}:${part.second} ${offset}`
}
