// How help reads: what a command is for, examples first, then its own flags, then the settings that matter for it.

import type { Argument, Command, Option } from 'commander'
import { defaultOf, flagOf, type SettingName, settingOf } from '../config/settings.ts'
import { shown } from './config.ts'
import type { Cli } from './context.ts'

export interface HelpFacts {
  /** Without the program's name. */
  readonly examples: readonly string[]
  /** Settings that matter for this command, besides those of every command. */
  readonly settings: readonly SettingName[]
}

const EVERYWHERE: readonly SettingName[] = ['database', 'schema']

export function helpText(cli: Cli, command: Command, facts: ReadonlyMap<Command, HelpFacts>): string {
  const lines = command.parent === null ? rootLines(cli, command) : commandLines(cli, command, facts)
  return `${lines.join('\n')}\n`
}

function rootLines(cli: Cli, root: Command): string[] {
  const { terminal, program } = cli
  const lines = [`${terminal.style('bold', `Millrace ${cli.version}`)}: ${lower(root.description())}`, '']
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
  lines.push(`More about one: ${program} <command> --help`, footer(program))
  return lines
}

function commandLines(cli: Cli, command: Command, facts: ReadonlyMap<Command, HelpFacts>): string[] {
  const { terminal, program } = cli
  const own = facts.get(command) ?? { examples: [], settings: [] }
  const path = pathOf(command)
  const sentence = command.description()
  const lines = [`${terminal.style('bold', `${program} ${path}`)}: ${sentence}`, '']
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
  const fallback = option.defaultValue === undefined ? '' : ` (default: ${String(option.defaultValue)})`
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

function pathOf(command: Command): string {
  return command.parent?.parent ? `${pathOf(command.parent)} ${command.name()}` : command.name()
}

function rootOf(command: Command): Command {
  return command.parent === null ? command : rootOf(command.parent)
}

const LEFT_MAX = 44 // wider left cells get a line of their own

function section(cli: Cli, title: string, rows: readonly (readonly [string, string])[]): string[] {
  if (rows.length === 0) return []
  const width = Math.max(...rows.map(([left]) => Math.min(left.length, LEFT_MAX)))
  const room = Math.max(30, Math.min(cli.terminal.columns, 120) - width - 4)
  const lines = [cli.terminal.style('bold', title)]
  for (const [left, right] of rows) {
    const [first = '', ...rest] = wrap(right, room)
    lines.push(
      `  ${cli.terminal.style('cyan', left)}${' '.repeat(Math.max(0, width - left.length))}  ${first}`.trimEnd(),
    )
    for (const line of rest) lines.push(`${' '.repeat(width + 4)}${line}`)
  }
  return [...lines, '']
}

function wrap(text: string, room: number): string[] {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > room) {
      lines.push(line)
      line = word
    } else line = line === '' ? word : `${line} ${word}`
  }
  return line === '' ? lines : [...lines, line]
}

function lower(sentence: string): string {
  return /^[A-Z][a-z ]/.test(sentence) && !sentence.startsWith('PostgreSQL')
    ? sentence[0]!.toLowerCase() + sentence.slice(1)
    : sentence
}
