// What to do about an error, in the words of the command line: the command that was called, with the ids and the database
// of this call. What is not said here is said by the table of errors.

import type { EngineError, ErrorCode } from '../base/errors.ts'
import type { Cli } from './context.ts'

type Hint = (cli: Cli, details: Readonly<Record<string, unknown>>, path: string) => string

const HINTS: Partial<Record<ErrorCode, Hint>> = {
  CONFIG_INVALID: () => 'Correct it where it comes from; nothing was done.',
  VALIDATION: (cli, _, path) => `${usageHint(cli, path)} Nothing was done.`,
  DUPLICATE_TASK: (cli, { jobId }) =>
    typeof jobId === 'number'
      ? `\`${cli.command('explain', String(jobId))}\` shows the unfinished job that holds the key.`
      : 'An unfinished job holds the key.',
  JOB_NOT_FOUND: (cli) => `\`${cli.command('jobs')}\` lists the newest. What is older than retentionMs was dropped.`,
}

/** The hint for an error of the engine. `path` is the command that was called, such as `schedules add`. */
export function hintFor(cli: Cli, error: EngineError, path: string): string {
  const own = HINTS[error.code]
  if (own !== undefined) return own(cli, error.details, path)
  const id = error.details.jobId ?? error.details.id
  return error.hint.replace(/`millrace ([^`]+)`/g, (_, words: string) => {
    const said = words.split(' ').map((word) => (word === 'ID' && id !== undefined ? String(id) : word))
    return `\`${cli.command(...said)}\``
  })
}

/** Where to read what a command takes; about all of them without a path. */
export function usageHint({ program }: Cli, path: string): string {
  return path === ''
    ? `\`${program} --help\` lists the commands.`
    : `\`${program} ${path} --help\` shows what it takes.`
}
