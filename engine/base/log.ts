// The log: an interface of five methods that pino, console-like loggers and tests satisfy. The engine never formats
// for people; the command line does.

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

/** Says nothing. The default of a library. */
export const silentLog: Log = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => silentLog,
}

/**
 * A described error as the fact `err`. pino names the type of whatever looks like an error by its constructor, which is
 * Object for plain facts; of an object without one it keeps `type`.
 */
export function asErrorFact(error: unknown): unknown {
  if (typeof error !== 'object' || error === null || Array.isArray(error)) return error
  return Object.assign(Object.create(null), error)
}
