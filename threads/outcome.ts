// What becomes of a handler's end: a result as JSON text, or an error as JSON text and the word whether to retry.
// Handlers may return and throw anything; nothing here throws anything but an EngineError with a code of the table.

import { EngineError, ERROR_CODES, type ErrorCode, messageOf } from '../engine/base/errors.ts'
import { isDeeper, isUnstorable, JSON_FORMS, lostIn } from '../engine/base/json-text.ts'
import { JSON_DEPTH_MAX } from '../engine/base/limits.ts'
import type { RetryDecision } from '../engine/base/retry-policy.ts'
import { ownStack } from './log-line.ts'

const PROGRESS_BYTES_MAX = 16 * 1024
const STACK_BYTES_MAX = 4 * 1024
const MESSAGE_BYTES_MAX = 8 * 1024
const NAME_CHARS_MAX = 200

/** An error as it is stored, and whether another attempt may help. */
export interface ErrorText {
  readonly text: string
  readonly retryable: boolean
}

/**
 * The payload of a job. An empty text is `undefined`.
 * @throws EngineError INVALID_PAYLOAD
 */
export function parsePayload(text: string): unknown {
  if (text === '') return undefined
  if (isDeeper(text, JSON_DEPTH_MAX))
    throw plainError('INVALID_PAYLOAD', `the payload is nested deeper than ${JSON_DEPTH_MAX}`)
  try {
    return JSON.parse(text)
  } catch (error) {
    throw plainError('INVALID_PAYLOAD', `the payload is not JSON: ${(error as Error).message}`)
  }
}

/**
 * A result as JSON text; '' when there is none.
 * @throws EngineError RESULT_INVALID or RESULT_TOO_LARGE
 */
export function resultText(value: unknown, bytesMax: number): string {
  if (value === undefined) return ''
  let text: string | undefined
  try {
    text = JSON.stringify(value)
  } catch (error) {
    throw plainError('RESULT_INVALID', `the result is not JSON: ${textOf(() => (error as Error).message)}`)
  }
  if (text === undefined) throw plainError('RESULT_INVALID', `the result is not JSON: it is a ${typeof value}`)
  if (text.length * 3 > bytesMax) {
    const bytes = Buffer.byteLength(text)
    if (bytes > bytesMax)
      throw plainError('RESULT_TOO_LARGE', `the result has ${bytes} bytes, allowed are ${bytesMax}`, { bytes })
  }
  if (isUnstorable(text))
    throw plainError('RESULT_INVALID', 'the result holds U+0000 or half a surrogate pair, which no database text can')
  if (isDeeper(text, JSON_DEPTH_MAX))
    throw plainError('RESULT_INVALID', `the result is nested deeper than ${JSON_DEPTH_MAX}`)
  const lost = lostIn(value, text, 'the result')
  if (lost !== null) throw plainError('RESULT_INVALID', `${lost}, which JSON cannot hold; ${JSON_FORMS}`)
  return text
}

/**
 * Describes anything that was thrown. `fallback` is the code of what carries none of ours, and of everything when
 * `isForced`; the error's own code then stands in its details. Not retryable: an error
 * with `retry === false`, or whose own code the table calls so.
 */
export function errorText(thrown: unknown, fallback: ErrorCode = 'TASK_THREW', isForced = false): ErrorText {
  const isObject = (typeof thrown === 'object' && thrown !== null) || typeof thrown === 'function'
  const get = (key: string): unknown => {
    if (!isObject) return undefined
    try {
      return (thrown as Record<string, unknown>)[key]
    } catch {
      return undefined
    }
  }
  const ownCode = get('code')
  const known = typeof ownCode === 'string' && Object.hasOwn(ERROR_CODES, ownCode)
  const code = known && !isForced ? (ownCode as ErrorCode) : fallback
  const retry = get('retry')
  const name = get('name')
  const type = isObject ? (typeof name === 'string' && name !== '' ? name : className(thrown)) : kindOf(thrown)
  const message = get('message')
  const stack = get('stack')
  const error: Record<string, unknown> = {
    code,
    type: cut(type, NAME_CHARS_MAX),
    message: cut(typeof message === 'string' ? message : textOf(() => String(thrown)), MESSAGE_BYTES_MAX),
  }
  if (typeof stack === 'string' && stack !== '') error.stack = cut(ownStack(stack), STACK_BYTES_MAX)
  const details: Record<string, unknown> = {}
  if (code !== ownCode && (typeof ownCode === 'string' || typeof ownCode === 'number'))
    details.code = cut(`${ownCode}`, 200)
  const cause = get('cause')
  if (cause !== undefined && cause !== null)
    details.cause = cut(
      textOf(() => String(cause)),
      500,
    )
  if (Object.keys(details).length > 0) error.details = details
  return { text: JSON.stringify(error), retryable: retry !== false && ERROR_CODES[code].retry }
}

/** What a task's own function answers about a further attempt. */
export interface Decided {
  /** Below 0: none. Null: the default policy counts. */
  readonly delayMs: number | null
  /** Why the function does not count. */
  readonly complaint: string | null
}

/** Asks a task's function what follows this failure. Whatever it does, the job goes on. */
export function decide(decision: RetryDecision, attempt: number, thrown: unknown): Decided {
  let answer: unknown
  try {
    answer = decision(attempt, thrown)
  } catch (error) {
    const shown = textOf(() => String(error))
    return { delayMs: null, complaint: `retry threw: ${cut(shown, 500)}` }
  }
  if (answer === false) return { delayMs: -1, complaint: null }
  if (typeof answer === 'number' && answer >= 0 && answer < Number.POSITIVE_INFINITY)
    return { delayMs: answer, complaint: null }
  // a promise that is rejected later belongs to nobody
  if (answer instanceof Promise) answer.catch(() => {})
  const shown = typeof answer === 'number' ? `${answer}` : kindOf(answer)
  return { delayMs: null, complaint: `retry must answer milliseconds from 0, or false, and answered ${shown}` }
}

/**
 * A progress value as JSON text.
 * @throws EngineError VALIDATION, to the handler, when it is not JSON or too large.
 */
export function progressText(value: unknown): string {
  try {
    return resultText(value, PROGRESS_BYTES_MAX)
  } catch (error) {
    throw new EngineError('VALIDATION', `progress: ${messageOf(error)}`)
  }
}

/** An error of ours about a job: it has no stack, because our own lines tell nobody anything. */
export function plainError(code: ErrorCode, message: string, details: Record<string, unknown> = {}): EngineError {
  const error = new EngineError(code, message, details)
  error.stack = ''
  return error
}

function kindOf(value: unknown): string {
  return value === null ? 'null' : typeof value
}

function className(value: unknown): string {
  return textOf(() => (value as { constructor: { name: string } }).constructor.name) || 'Object'
}

/** What `read` answers as text; a fixed word when it throws, as getters and toString methods of users may. */
function textOf(read: () => unknown): string {
  try {
    return `${read()}`
  } catch {
    return 'an error that cannot be printed'
  }
}

/** As much of a text as takes at most `bytes` bytes inside of JSON; U+0000 and half characters are replaced. */
function cut(text: string, bytes: number): string {
  let short = text.slice(0, bytes).replace(/[\u0000\p{Surrogate}]/gu, '\ufffd')
  while (Buffer.byteLength(JSON.stringify(short)) > bytes)
    short = short.slice(0, Math.floor(short.length * 0.8)).replace(/\p{Surrogate}/gu, '')
  return short
}
