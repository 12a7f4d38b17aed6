// What a test says of jobs, and how that is held against them.

import { AssertionError } from 'node:assert'
import type { JobRow, JobState } from '../api.ts'
import { errorOf } from './wait.ts'

const SHOWN_MAX = 10

/** What is left out does not matter. */
export interface JobMatch {
  readonly id?: number
  readonly task?: string
  readonly queue?: string
  readonly group?: string | null
  readonly priority?: number
  readonly idempotencyKey?: string | null
  /** When it is due: exactly this time. */
  readonly runAt?: Date
  /**
   * What the payload must contain: of objects the fields named here, of arrays every element; a function is asked
   * (true: it matches), a regular expression is tried on a text.
   */
  readonly payload?: unknown
  /** The same for the result. */
  readonly result?: unknown
  /** Exactly so many. Default: at least one. */
  readonly count?: number
}

export const JOB_MATCH_FIELDS = [
  'id',
  'task',
  'queue',
  'group',
  'priority',
  'idempotencyKey',
  'runAt',
  'payload',
  'result',
  'count',
] as const satisfies readonly (keyof JobMatch)[]

export function contains(pattern: unknown, value: unknown): boolean {
  if (typeof pattern === 'function') return pattern(value) === true
  if (pattern instanceof RegExp) return typeof value === 'string' && value.search(pattern) !== -1
  if (typeof pattern !== 'object' || pattern === null) return Object.is(pattern, value)
  if (typeof value !== 'object' || value === null) return false
  if (Array.isArray(pattern))
    return Array.isArray(value) && value.length === pattern.length && pattern.every((it, at) => contains(it, value[at]))
  return Object.entries(pattern).every(([key, it]) => contains(it, (value as Record<string, unknown>)[key]))
}

function matches(match: JobMatch, job: JobRow): boolean {
  const { count: _, payload, result, runAt, ...plain } = match
  return (
    Object.entries(plain).every(([key, it]) => it === undefined || job[key as keyof JobRow] === it) &&
    (payload === undefined || contains(payload, job.payload)) &&
    (result === undefined || contains(result, job.result)) &&
    (runAt === undefined || job.runAt?.getTime() === runAt.getTime())
  )
}

/** @returns those that match. @throws AssertionError when they are not as many as wanted */
export function checkJobs(
  what: string,
  jobs: readonly JobRow[],
  match: JobMatch,
  states: readonly JobState[] | null = null,
): JobRow[] {
  const found = jobs.filter((job) => matches(match, job) && (states === null || states.includes(job.state)))
  if (match.count === undefined ? found.length > 0 : found.length === match.count) return found
  const near = jobs.filter(({ id, task }) => (match.id ?? id) === id && (match.task ?? task) === task)
  const wanted = match.count === undefined ? 'a job' : `${match.count} job${match.count === 1 ? '' : 's'}`
  const seen =
    near.length > 0
      ? `There are:\n${shown(near)}`
      : jobs.length > 0
        ? `None is near; there are:\n${shown(jobs)}`
        : 'There are no jobs at all.'
  throw new AssertionError({
    message: `expected ${wanted} ${what}: ${textOf(match)}; ${found.length} found. ${seen}`,
    actual: found.length,
    expected: match.count ?? 1,
    operator: what,
  })
}

function shown(jobs: readonly JobRow[]): string {
  const lines = jobs
    .slice(0, SHOWN_MAX)
    .map((job) => `  ${job.id} ${job.task} in ${job.queue}, ${job.state}${errorOf(job)}: ${textOf(job.payload)}`)
  if (jobs.length > SHOWN_MAX) lines.push(`  and ${jobs.length - SHOWN_MAX} more`)
  return lines.join('\n')
}

function textOf(value: unknown): string {
  return String(
    JSON.stringify(value, (_, it) => (typeof it === 'function' || it instanceof RegExp ? String(it) : it)),
  ).slice(0, 500)
}
