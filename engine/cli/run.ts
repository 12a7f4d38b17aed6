// Runs one command line from end to end: builds what commands need, runs the command, and turns whatever goes wrong
// into a message and an exit code. It touches nothing of the process; main.ts hands everything over.

import { CommanderError } from 'commander'
import type { Clock } from '../base/clock.ts'
import { EngineError, ERROR_CODES, messageOf } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { readConfigFile } from '../config/file.ts'
import { type Config, loadConfig, masked } from '../config/load.ts'
import { flagOf, type SettingName } from '../config/settings.ts'
import type { Api } from './api.ts'
import type { Cli, Signals } from './context.ts'
import { hintFor, usageHint } from './hints.ts'
import { openLog } from './log.ts'
import { buildProgram, commandPath, settingFlags } from './program.ts'
import { quoted } from './quoted.ts'
import { speaksText } from './start.ts'
import { styled } from './styled.ts'
import { type Output, Terminal } from './terminal.ts'

export interface Surroundings {
  /** What follows the program on the command line. */
  readonly argv: readonly string[]
  readonly env: Readonly<Record<string, string | undefined>>
  readonly cwd: string
  readonly stdout: Output
  readonly stderr: Output
  readonly program: string
  readonly version: string
  readonly nodeVersion: string
  readonly clock: Clock
  readonly signals: Signals
  readonly api: () => Promise<Api>
}

const USAGE_EXIT = 64 // EX_USAGE

/** Resolves with the exit code; never rejects. */
export async function run(around: Surroundings): Promise<number> {
  const { argv, env, stdout, stderr, api, clock, signals, cwd, program: name, version, nodeVersion } = around
  const words = argv.length === 0 ? ['--help'] : argv
  const before = words.includes('--') ? words.slice(0, words.indexOf('--')) : words
  const verbose = before.includes('--verbose')
  const terminal = new Terminal({ stdout, stderr, env, json: before.includes('--json') })
  const outcome = { code: 0 }
  let loaded: Promise<Config> | undefined
  const config = () => {
    loaded ??= (async () => {
      const named = program.opts<{ config?: string }>().config ?? (env.MILLRACE_CONFIG || undefined)
      return loadConfig({ flags: settingFlags(program), env, file: await readConfigFile(cwd, named) })
    })()
    return loaded
  }
  const log = (to: 'stdout' | 'stderr') => openFor(to)
  const command = (...words: readonly string[]) =>
    [name, ...words.map(quoted), ...whichDatabase(program.opts()).map(quoted)].join(' ')
  const cli: Cli = { terminal, api, clock, signals, cwd, program: name, version, nodeVersion, config, log, command }
  const openFor = async (to: 'stdout' | 'stderr'): Promise<Log> => {
    const { values, sources } = await config()
    const asked = sources.logLevel.kind !== 'default'
    // A command that answers a question stays silent unless something is wrong.
    const level = asked ? values.logLevel : verbose ? 'debug' : to === 'stderr' ? 'warn' : values.logLevel
    const text =
      to === 'stdout'
        ? speaksText(cli, values)
        : values.logFormat === 'text' || (values.logFormat === 'auto' && !terminal.json && stderr.isTTY === true)
    return openLog({ level, text, colours: terminal.colours, write: (line, pretty) => terminal.log(to, line, pretty) })
  }
  const program = buildProgram(cli, outcome)
  try {
    await program.parseAsync(words, { from: 'user' })
  } catch (error) {
    outcome.code = report(cli, error, commandPath(program, before), verbose)
  }
  await terminal.flush()
  return outcome.code
}

/** Says what went wrong; returns the exit code. */
function report(cli: Cli, error: unknown, path: string, verbose: boolean): number {
  const { terminal } = cli
  if (error instanceof CommanderError && error.exitCode === 0) return 0 // help or version was asked for
  const told = tell(cli, error, path)
  if (terminal.json) {
    const { exit, ...facts } = told
    terminal.problem({ error: verbose ? { ...facts, stack: stackOf(error) } : facts })
    return exit
  }
  for (const message of messagesOf(error, told.message)) terminal.note(styled('red', 'error:'), ` ${message}`)
  if (told.hint !== '') terminal.note(styled('dim', 'hint:'), `  ${told.hint}`)
  // indented, so that no line of a message can pass for one of ours
  if (verbose) for (const line of stackOf(error).split('\n')) terminal.note('  ', line)
  return told.exit
}

interface Told {
  readonly code: string
  readonly message: string
  readonly hint: string
  readonly exit: number
  readonly details?: unknown
}

function tell(cli: Cli, error: unknown, path: string): Told {
  if (error instanceof CommanderError) {
    const message = error.message.replace(/^error: /, '').replace(/\s*\n\(Did you mean (.+)\?\)/s, '; did you mean $1?')
    return { code: 'USAGE', message, hint: usageHint(cli, path), exit: USAGE_EXIT }
  }
  if (error instanceof EngineError) {
    return {
      code: error.code,
      message: error.message,
      hint: hintFor(cli, error, path),
      exit: ERROR_CODES[error.code].exit,
      details: error.details,
    }
  }
  const hint = 'This was not expected; --verbose shows where it happened.'
  return { code: 'UNEXPECTED', message: messageOf(error), hint, exit: ERROR_CODES.INVARIANT.exit }
}

function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const cause = error.cause === undefined ? '' : `\ncaused by ${stackOf(error.cause)}`
  return `${error.stack ?? error.message}${cause}`
}

/** One error is one line, also when a setting has a line break in it; several wrong settings are several. */
function messagesOf(error: unknown, message: string): string[] {
  if (!(error instanceof EngineError)) return [message]
  const { problems } = error.details
  return Array.isArray(problems) ? problems.map((problem: { message: string }) => problem.message) : [message]
}

const WHICH_DATABASE: readonly SettingName[] = ['database', 'schema', 'dataDir']

/** The flags that were given and say which database is meant, so that a command to copy has them too. */
function whichDatabase(given: Readonly<Record<string, unknown>>): string[] {
  const config = typeof given.config === 'string' ? ['--config', given.config] : []
  const named = WHICH_DATABASE.filter((name) => given[name] !== undefined)
  return [...config, ...named.flatMap((name) => [flagOf(name), String(masked(name, given[name]))])]
}
