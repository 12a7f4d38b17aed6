// How help reads: what a command is for, examples first, then its own flags, then the settings that matter for it.

import type { Argument, Command, Option } from 'commander'
import { defaultOf, flagOf, type SettingName, settingOf } from '../config/settings.ts'
import { shown } from './config.ts'
import type { Cli } from './context.ts'
import { EXIT_CODES } from './exit-codes.ts'
import { type Part, styled, Text } from './styled.ts'

export interface HelpFacts {
  /** Without the program's name. */
  readonly examples: readonly string[]
  /** Settings that matter for this command, besides those of every command. */
  readonly settings: readonly SettingName[]
  /** Paragraphs at the end. */
  readonly notes: readonly string[]
}

const EVERYWHERE: readonly SettingName[] = ['database', 'schema']

/** The lines of a command's help. */
export function helpLines(cli: Cli, command: Command, facts: ReadonlyMap<Command, HelpFacts>): Part[] {
  return command.parent === null ? rootLines(cli, command) : commandLines(cli, command, facts)
}

function rootLines(cli: Cli, root: Command): Part[] {
  const { program } = cli
  const lines: Part[] = [Text.of(styled('bold', `Millrace ${cli.version}`), `: ${lower(root.description())}`), '']
  lines.push(`Usage: ${program} <command> [options]`, '')
  lines.push(
    ...section(cli, 'First steps', [
      [`${program} demo`, 'see it work; needs nothing installed'],
      [`${program} start`, 'run the tasks of ./tasks'],
      [`${program} enqueue TASK '{"some":"json"}'`, 'give it a job'],
      [`${program} explain ID`, 'see what became of it'],
    ]),
  )
  const groups = new Map<string, [string, string][]>()
  for (const command of root.commands) {
    const rows = groups.get(command.helpGroup()) ?? []
    rows.push([`${command.name()} ${argumentsOf(command)}`.trim(), command.description()])
    groups.set(command.helpGroup(), rows)
  }
  for (const [title, rows] of groups) lines.push(...section(cli, title, rows))
  lines.push(...section(cli, 'With every command', everywhere(root)))
  lines.push(
    ...section(
      cli,
      'Exit codes',
      EXIT_CODES.map(({ code, meaning }) => [String(code), meaning]),
    ),
  )
  lines.push(`More about one: ${program} <command> --help`, footer(program))
  return lines
}

function commandLines(cli: Cli, command: Command, facts: ReadonlyMap<Command, HelpFacts>): Part[] {
  const { program } = cli
  const own = facts.get(command) ?? { examples: [], settings: [], notes: [] }
  const path = pathOf(command)
  const sentence = command.description()
  const lines: Part[] = [Text.of(styled('bold', `${program} ${path}`), `: ${sentence}`), '']
  const hasCommands = command.commands.length > 0
  lines.push(
    `Usage: ${program} ${path}${hasCommands ? ' <command>' : ''} ${`${argumentsOf(command)} [options]`.trim()}`,
    '',
  )
  if (own.examples.length > 0)
    lines.push(
      ...section(
        cli,
        'Examples',
        own.examples.map((line) => [`${program} ${line}`, '']),
      ),
    )
  if (hasCommands) {
    lines.push(
      ...section(
        cli,
        'Commands',
        command.commands.map((sub) => [`${sub.name()} ${argumentsOf(sub)}`.trim(), sub.description()]),
      ),
    )
  }
  lines.push(...section(cli, 'Arguments', command.registeredArguments.map(argumentRow)))
  lines.push(...section(cli, 'Options', command.options.map(optionRow)))
  lines.push(...section(cli, 'Settings', own.settings.map(settingRow)))
  lines.push(...section(cli, 'With every command', everywhere(rootOf(command))))
  for (const note of own.notes) lines.push(...Text.of(note).wrapped(widthOf(cli)), '')
  lines.push(footer(program))
  return lines
}

function footer(program: string): string {
  return `Every setting is a flag, a variable and a line of millrace.config.json: ${program} config`
}

function everywhere(root: Command): [string, string][] {
  const own = ['--config', '--json', '--verbose']
  const options = root.options.filter(({ long }) => own.includes(long ?? '')).map(optionRow)
  return [...EVERYWHERE.map(settingRow), ...options, ['-h, --help', 'say what a command does and how']]
}

function settingRow(name: SettingName): [string, string] {
  const { placeholder, about } = settingOf(name)
  return [
    `${flagOf(name)} <${placeholder}>`,
    `${lower(about).replace(/\.$/, '')} (default: ${shown(name, defaultOf(name))})`,
  ]
}

function optionRow(option: Option): [string, string] {
  const fallback =
    option.defaultValue === undefined
      ? ''
      : ` (default: ${option.defaultValueDescription ?? String(option.defaultValue)})`
  const choices = option.argChoices === undefined ? '' : `: ${option.argChoices.join(', ')}`
  return [option.flags, `${option.description}${choices}${fallback}`]
}

function argumentRow(argument: Argument): [string, string] {
  const fallback = argument.defaultValue === undefined ? '' : ` (default: ${String(argument.defaultValue)})`
  return [argument.name().toUpperCase(), `${argument.description}${fallback}`]
}

function argumentsOf(command: Command): string {
  return command.registeredArguments
    .map((argument) => (argument.required ? argument.name().toUpperCase() : `[${argument.name().toUpperCase()}]`))
    .join(' ')
}

/** The names of a command and of those above it, without the program's. */
export function pathOf(command: Command): string {
  return command.parent?.parent ? `${pathOf(command.parent)} ${command.name()}` : command.name()
}

function rootOf(command: Command): Command {
  return command.parent === null ? command : rootOf(command.parent)
}

const LEFT_MAX = 44 // wider left cells get a line of their own

function section(cli: Cli, title: string, rows: readonly (readonly [string, string])[]): Part[] {
  if (rows.length === 0) return []
  const width = Math.max(...rows.map(([left]) => Math.min(left.length, LEFT_MAX)))
  const room = Math.max(30, widthOf(cli) - width - 4)
  const lines: Part[] = [styled('bold', title)]
  for (const [left, right] of rows) {
    const [first = '', ...rest] = Text.of(right).wrapped(room)
    if (right === '') lines.push(Text.of('  ', styled('cyan', left)))
    else lines.push(Text.of('  ', styled('cyan', left), ' '.repeat(Math.max(0, width - left.length)), '  ', first))
    for (const line of rest) lines.push(Text.of(' '.repeat(width + 4), line))
  }
  return [...lines, '']
}

function widthOf({ terminal }: Cli): number {
  return Math.min(terminal.columns, 120)
}

function lower(sentence: string): string {
  return /^[A-Z][a-z ]/.test(sentence) && !sentence.startsWith('PostgreSQL')
    ? sentence[0]!.toLowerCase() + sentence.slice(1)
    : sentence
}
