// Runs one command line from end to end: builds what commands need, runs the command, and turns whatever goes wrong
// into a message and an exit code. It touches nothing of the process; main.ts hands everything over.

import { CommanderError } from 'commander'
import type { Clock } from '../base/clock.ts'
import { EngineError, ERROR_CODES, messageOf } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { readConfigFile } from '../config/file.ts'
import { type Config, loadConfig } from '../config/load.ts'
import type { Api } from './api.ts'
import type { Cli, Signals } from './context.ts'
import { openLog } from './log.ts'
import { buildProgram, settingFlags } from './program.ts'
import { speaksText } from './start.ts'
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
  const cli: Cli = { terminal, api, clock, signals, cwd, program: name, version, nodeVersion, config, log }
  const openFor = async (to: 'stdout' | 'stderr'): Promise<Log> => {
    const { values, sources } = await config()
    const asked = sources.logLevel.kind !== 'default'
    // A command that answers a question stays silent unless something is wrong.
    const level = asked ? values.logLevel : verbose ? 'debug' : to === 'stderr' ? 'warn' : values.logLevel
    const text =
      to === 'stdout'
        ? speaksText(cli, values)
        : values.logFormat === 'text' || (values.logFormat === 'auto' && !terminal.json && stderr.isTTY === true)
    const write = (line: string) => (to === 'stdout' ? terminal.raw(line) : terminal.error(line))
    return openLog({ level, text, colours: terminal.colours, write })
  }
  const program = buildProgram(cli, outcome)
  try {
    await program.parseAsync(words, { from: 'user' })
  } catch (error) {
    outcome.code = report(terminal, name, error, verbose)
  }
  await terminal.flush()
  return outcome.code
}

/** Says what went wrong; returns the exit code. */
function report(terminal: Terminal, program: string, error: unknown, verbose: boolean): number {
  if (error instanceof CommanderError && error.exitCode === 0) return 0 // help or version was asked for
  const told = tell(error, program)
  if (terminal.json) {
    const { exit, ...facts } = told
    terminal.error(`${JSON.stringify({ error: verbose ? { ...facts, stack: stackOf(error) } : facts })}\n`)
    return exit
  }
  terminal.note(`${terminal.style('red', 'error:')} ${told.message}`)
  if (told.hint !== '') terminal.note(`${terminal.style('dim', 'hint:')}  ${told.hint}`)
  if (verbose) terminal.note(stackOf(error))
  return told.exit
}

interface Told {
  readonly code: string
  readonly message: string
  readonly hint: string
  readonly exit: number
  readonly details?: unknown
}

function tell(error: unknown, program: string): Told {
  if (error instanceof CommanderError) {
    const message = error.message.replace(/^error: /, '').replace(/\s*\n\(Did you mean (.+)\?\)/s, '; did you mean $1?')
    return { code: 'USAGE', message, hint: `${program} --help lists commands and flags.`, exit: USAGE_EXIT }
  }
  if (error instanceof EngineError) {
    const hint = error.hint.replaceAll('`millrace ', `\`${program} `)
    return {
      code: error.code,
      message: error.message,
      hint,
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
