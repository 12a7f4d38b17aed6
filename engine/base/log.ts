// The log: an interface of five methods that pino, console-like loggers and tests satisfy. The engine never formats
// for people; the command line does.

import { cleanJson, cleanLine } from './clean.ts'

/** Facts first, then the event's name in the form `noun.verbed` or a short sentence. */
export type LogMethod = (facts: Record<string, unknown>, event: string) => void

export interface Log {
  debug: LogMethod
  info: LogMethod
  warn: LogMethod
  error: LogMethod
  child(bindings: Record<string, unknown>): Log
}

/**
 * What pino's methods take: facts, message and values for it; an error, message and values; or message and values. A
 * message has places for values: %s, %d, %i, %f, %j, %o, %O. Values without a place are kept under `args`, an error among
 * them under `err`.
 */
export interface TaskLogMethod {
  (message: string, ...values: unknown[]): void
  /** Facts may be an error, which is logged under `err`, or anything else that was caught. */
  (facts: unknown, message?: string, ...values: unknown[]): void
}

/**
 * The log of a handler. Whatever it is given reaches the engine's log as plain facts: errors with type, message, stack,
 * code, cause and their other members; what JSON has no form for is described, what is long is cut. A line has at most
 * 8 KiB, a thread writes at most 1,000 lines per second; what was left out is counted in a line `log.dropped`.
 */
export interface TaskLog {
  readonly debug: TaskLogMethod
  readonly info: TaskLogMethod
  readonly warn: TaskLogMethod
  readonly error: TaskLogMethod
  /** A log that adds these facts, as they are now, to each line. */
  child(bindings: Record<string, unknown>): TaskLog
}

/** Says nothing: an engine that is given it, or `millrace/testing`, which expects failures, writes no line. */
export const silentLog: Log = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => silentLog,
}

/**
 * Warnings and errors as lines of text, a stack indented below its line: what an engine has that is given no log, so that
 * nothing fails in silence.
 */
export function textLog(write: (text: string) => void, wallMs: () => number): Log {
  const method =
    (level: string, bindings: Record<string, unknown>): LogMethod =>
    (facts, event) => {
      const { err, ...rest } = { ...bindings, ...facts }
      const { stack, ...error } = (typeof err === 'object' && err !== null ? err : {}) as Record<string, unknown>
      const shown = err === undefined ? rest : { ...rest, err: stack === undefined ? err : error }
      const lines = typeof stack === 'string' ? stack.split('\n').map((line) => `\n    ${cleanLine(line)}`) : []
      const at = new Date(wallMs()).toISOString()
      write(`${at} millrace ${level} ${cleanLine(event)} ${cleanJson(shown)}${lines.join('')}`)
    }
  const silence = () => {}
  const logWith = (bindings: Record<string, unknown>): Log => ({
    debug: silence,
    info: silence,
    warn: method('WARN', bindings),
    error: method('ERROR', bindings),
    child: (more) => logWith({ ...bindings, ...more }),
  })
  return logWith({})
}

/**
 * A described error as the fact `err`. pino names the type of whatever looks like an error by its constructor, which is
 * Object for plain facts; of an object without one it keeps `type`.
 */
export function asErrorFact(error: unknown): unknown {
  if (typeof error !== 'object' || error === null || Array.isArray(error)) return error
  return Object.assign(Object.create(null), error)
}
