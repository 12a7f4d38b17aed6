// The log of the command line: pino, as JSON lines for machines, through pino-pretty for people.

import type { Log } from '../base/log.ts'
import type { Pretty } from './terminal.ts'

export interface LogOptions {
  readonly level: 'debug' | 'info' | 'warn' | 'error' | 'silent'
  readonly text: boolean
  readonly colours: boolean
  /** Takes a line of JSON, and what makes a line for people of its facts. */
  readonly write: (json: string, pretty: Pretty | null) => void
}

/** A log that writes through `write`, so that a reader that goes away is noticed in one place. */
export async function openLog({ level, text, colours, write }: LogOptions): Promise<Log> {
  const { pino } = await import('pino')
  const options = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    serializers: { err: (error: unknown) => error }, // described already, with its cause
  }
  if (!text) {
    const log: Log = pino(options, { write: (line: string) => write(line, null) })
    return log
  }
  const { prettyFactory } = await import('pino-pretty')
  // Not its stream: that one writes later, between other lines.
  const pretty = prettyFactory({
    colorize: colours,
    translateTime: 'SYS:HH:MM:ss',
    singleLine: true,
    errorLikeObjectKeys: ['err'], // `error` is one line of text
  })
  const log: Log = pino(options, { write: (line: string) => write(line, pretty) })
  return log
}
