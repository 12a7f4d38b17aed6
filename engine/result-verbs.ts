// The results of completed jobs: found by time and by whose they are, and forgotten when they are not wanted any more.

import type { ResultFilter, ResultPage, ResultRow, ResultVerbs } from './api.ts'
import { EngineError, shown } from './base/errors.ts'
import { checkChoice, checkFields, nameIn } from './filters.ts'
import { readStatements } from './store/statements.ts'
import type { Store } from './store/store.ts'

const LIST_DEFAULT = 100
const LIST_MAX = 1_000
const OFFSET_MAX = 100_000
/** Completed jobs that a list looks through for those that fit: about a second. */
const SCAN_MAX = 100_000
/** Completed jobs that one batch looks at: bounds its transaction. */
const BATCH_JOBS = 10_000

const FIELDS = ['queue', 'task', 'group', 'completedAfter', 'completedBefore', 'limit', 'offset', 'cursor']

type Row = Record<string, unknown>

export function openResultVerbs(store: Store): ResultVerbs {
  const statements = readStatements('console.sql', store.schema)
  const ask = <R = Row>(name: string, values: readonly unknown[] = []) => store.ask<R>(statements.get(name)!, values)

  const page = async (filter: ResultFilter = {}): Promise<ResultPage> => {
    checkFields(filter, FIELDS)
    const limit = wholeOf('limit', filter.limit ?? LIST_DEFAULT, 1, LIST_MAX)
    const offset = wholeOf('offset', filter.offset ?? 0, 0, OFFSET_MAX)
    const before = timeOf('completedBefore', filter.completedBefore)
    const from = filter.cursor === undefined ? null : cursorOf(filter.cursor)
    const found = await ask<Row & { job_id: number | null; moment: string }>('results', [
      nameIn('queue', filter.queue),
      nameIn('task', filter.task),
      nameIn('group', filter.group),
      timeOf('completedAfter', filter.completedAfter),
      from?.at ?? before,
      limit,
      offset,
      from?.below ?? null,
      SCAN_MAX + offset + limit,
    ])
    const rows = found.filter((row) => row.job_id !== null)
    const last = found.at(-1)
    const goesOn = last !== undefined && (last.job_id === null || rows.length === limit)
    return { rows: rows.map(resultOf), older: goesOn ? `${last.moment}/${last.job_id ?? 0}` : null }
  }

  return {
    page,

    list: async (filter) => (await page(filter)).rows,

    async cleanup(filter) {
      checkChoice(filter, ['queue', 'completedBefore'])
      const { queue, completedBefore } = filter
      if (queue === undefined && completedBefore === undefined)
        throw new EngineError('VALIDATION', 'name what is meant: queue, completedBefore, or both', {
          field: 'completedBefore',
        })
      const before = timeOf('completedBefore', completedBefore)
      let forgotten = 0
      for (let after: number | null = 0; after !== null; ) {
        const [batch]: { jobs: number; last: number | null }[] = await ask('forget_completed', [
          nameIn('queue', queue),
          before,
          after,
          BATCH_JOBS,
        ])
        forgotten += batch!.jobs
        after = batch!.last
      }
      return forgotten
    },
  }
}

function resultOf(row: Row): ResultRow {
  return {
    id: row.job_id as number,
    task: row.task as string,
    queue: row.queue as string,
    group: row.group_key as string | null,
    result: row.result,
    attempt: row.attempt as number,
    run: row.run as number,
    node: row.node_id as number,
    startedAt: row.started_at as Date | null,
    completedAt: row.finished_at as Date,
  }
}

/** `<time>/<job>`: what comes after this job, or before this time. */
function cursorOf(text: string): { at: string; below: number } {
  const [, at, id] =
    typeof text !== 'string' ? [] : (/^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)\/(\d{1,16})$/.exec(text) ?? [])
  if (at === undefined || Number.isNaN(Date.parse(at)))
    throw new EngineError('VALIDATION', 'cursor must be what an earlier page answered as `older`', { field: 'cursor' })
  return { at, below: Number(id) }
}

/** As PostgreSQL reads it; a Date is milliseconds and no more, which is what the text says. */
export function timeOf(field: string, at: Date | number | undefined): string | null {
  if (at === undefined) return null
  const ms = typeof at === 'number' ? at : at instanceof Date ? at.getTime() : Number.NaN
  if (!Number.isFinite(ms) || Math.abs(ms) > 8.64e15 || ms < -6e13)
    throw new EngineError('VALIDATION', `${field} must be a Date or milliseconds since 1970`, { field })
  return new Date(ms).toISOString()
}

function wholeOf(field: string, value: number, min: number, max: number): number {
  if (!Number.isInteger(value) || value < min || value > max)
    throw new EngineError('VALIDATION', `${field} must be a whole number from ${min} to ${max}, got ${shown(value)}`, {
      field,
    })
  return value
}
