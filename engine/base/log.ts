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

/** Says nothing. The default of a library. */
export const silentLog: Log = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => silentLog,
}
