// Reads what a person writes after a flag or as an argument; every refusal names it and says what is allowed.

import type { JobState } from '../api.ts'
import { EngineError, messageOf } from '../base/errors.ts'
import {
  DELAY_MS_MAX,
  GROUP_LIMIT_MAX,
  JOB_ID_MAX,
  MAX_ATTEMPTS_MAX,
  NAME_CHARS_MAX,
  PRIORITY_MAX,
  PRIORITY_MIN,
} from '../base/limits.ts'
import { duration, grouped, whole } from '../config/fields.ts'
import { JOB_STATES } from '../filters.ts'

/** A reader for commander: takes the text, returns the value or throws VALIDATION. */
export type Reader<T> = (text: string) => T

export function wholeFrom(what: string, min: number, max: number): Reader<number> {
  const field = whole({ part: 'output', about: '', default: min, min, max })
  return (text) => {
    const parsed = field.schema.safeParse(field.fromText(text))
    if (parsed.success) return parsed.data
    throw refused(what, text, `a whole number from ${grouped(min)} to ${grouped(max)}`)
  }
}

export function durationFrom(what: string, max = DELAY_MS_MAX): Reader<number> {
  const field = duration({ part: 'output', about: '', default: 0, min: 0, max })
  return (text) => {
    const parsed = field.schema.safeParse(field.fromText(text))
    if (parsed.success) return parsed.data
    throw refused(what, text, 'a time such as 500ms, 10s, 5m or 2h')
  }
}

export function momentFrom(what: string): Reader<Date> {
  return (text) => {
    const at = new Date(text)
    if (/^\d{4}-\d\d-\d\d/.test(text) && !Number.isNaN(at.getTime())) return at
    throw refused(what, text, 'a moment such as 2026-12-31T23:59:00Z')
  }
}

export function nameFrom(what: string): Reader<string> {
  return (text) => {
    if (text.length > 0 && text.length <= NAME_CHARS_MAX) return text
    throw refused(what, text, `1 to ${NAME_CHARS_MAX} characters`)
  }
}

/** So many per second, such as 50 or 0.5. */
export function rateFrom(what: string, min: number, max: number): Reader<number> {
  return (text) => {
    const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN
    if (value >= min && value <= max) return value
    throw refused(what, text, `a number from ${min} to ${grouped(max)}`)
  }
}

export const jobId = wholeFrom('ID', 1, JOB_ID_MAX)
export const limit = wholeFrom('--limit', 1, 10_000)
export const priority = wholeFrom('--priority', PRIORITY_MIN, PRIORITY_MAX)
export const groupLimit = wholeFrom('--group-limit', 1, GROUP_LIMIT_MAX)
export const maxAttempts = wholeFrom('--max-attempts', 1, MAX_ATTEMPTS_MAX)

/** JSON that a person typed; the refusal says where it breaks and reminds of the quotes that a shell eats. */
export function readJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new EngineError(
      'INVALID_PAYLOAD',
      `the payload is not JSON: ${messageOf(error)}. Quote it for the shell, for example '{"to":"ada"}' or '"text"'`,
      { payload: text.slice(0, 200) },
    )
  }
}

const SYNONYMS: Readonly<Record<string, string>> = {
  pending: 'queued',
  ready: 'queued',
  processing: 'running',
  canceled: 'cancelled',
  dead: 'failed',
}

export function jobState(text: string): JobState {
  const state = SYNONYMS[text] ?? text
  if (JOB_STATES.includes(state)) return state as JobState
  throw refused('--state', text, `one of ${JOB_STATES.join(', ')}`)
}

function refused(what: string, text: string, rule: string): EngineError {
  return new EngineError('VALIDATION', `${what} must be ${rule}; got ${JSON.stringify(text)}`, {
    field: what,
    value: text,
  })
}
