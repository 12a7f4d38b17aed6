// How numbers and times read for people.

import { cleanJson } from '../base/clean.ts'
import type { UnservedTask } from './api.ts'

export function count(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

/** About three digits: 0.42, 31.4, 1,240. */
export function rate(value: number): string {
  if (value === 0 || value >= 100) return count(value)
  return value >= 10 ? value.toFixed(1) : value.toFixed(2)
}

/** A span of time as a person says it. */
export function span(ms: number): string {
  if (ms > 0 && ms < 0.1) return `${Math.round(ms * 1_000)} µs`
  if (ms < 10) return `${ms.toFixed(1)} ms`
  if (ms < 1_000) return `${Math.round(ms)} ms`
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`
  const minutes = Math.floor(ms / 60_000)
  if (minutes < 60) return `${minutes} min ${Math.floor((ms % 60_000) / 1_000)} s`
  const hours = Math.floor(minutes / 60)
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`
}

export function megabytes(bytes: number): string {
  return `${rate(bytes / 1e6)} MB`
}

/** A moment in UTC, to the millisecond. */
export function moment(at: Date | null | undefined): string {
  return at instanceof Date ? at.toISOString().replace('T', ' ').replace('Z', '') : ''
}

/** Anything on one line. */
export function brief(value: unknown): string {
  if (value === undefined || value === null) return ''
  return typeof value === 'string' ? value : cleanJson(value)
}

export function plural(n: number, one: string, many = `${one}s`): string {
  return `${count(n)} ${n === 1 ? one : many}`
}

/** A task that no running node has although jobs of it wait, as a sentence. */
export function lackingNode({ task, waiting, didYouMean }: UnservedTask): string {
  const jobs = `${plural(waiting, 'job')} ${waiting === 1 ? 'waits' : 'wait'}`
  return `No running node has the task ${task}: ${jobs} for one.${didYouMean === null ? '' : ` Did you mean ${didYouMean}?`}`
}
