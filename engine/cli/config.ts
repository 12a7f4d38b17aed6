// `config [NAME]`: every setting, its value and where it comes from. Passwords are masked. It needs no database.

import { EngineError } from '../base/errors.ts'
import { didYouMean } from '../base/nearest.ts'
import { bytesText, durationText, grouped } from '../config/fields.ts'
import { type Config, masked } from '../config/load.ts'
import { defaultOf, envNamesOf, flagOf, SETTING_NAMES, type SettingName, settingOf } from '../config/settings.ts'
import type { Cli } from './context.ts'
import { styled } from './styled.ts'
import { printTable } from './table.ts'
import { brief } from './text.ts'

export async function config(cli: Cli, name: string | undefined): Promise<void> {
  const { terminal } = cli
  if (name !== undefined && !SETTING_NAMES.includes(name as SettingName)) {
    throw new EngineError('VALIDATION', `${name} is not a setting${didYouMean(name, SETTING_NAMES)}`, { field: 'NAME' })
  }
  const loaded = await cli.config()
  for (const warning of loaded.warnings) terminal.note(styled('yellow', 'note:'), ` ${warning}`)
  const chosen = name === undefined ? SETTING_NAMES : [name as SettingName]
  if (terminal.json) return chosen.forEach((setting) => void terminal.record(facts(loaded, setting)))
  if (name !== undefined) return one(cli, loaded, name as SettingName)
  printTable(
    terminal,
    [
      { head: 'setting' },
      { head: 'value', narrow: 'cut' },
      { head: 'from', narrow: 'cut' },
      { head: 'meaning', narrow: 'wrap', spare: 1 },
    ],
    chosen.map((setting) => {
      const { kind, from } = loaded.sources[setting]
      const value = shown(setting, loaded.values[setting])
      return [
        setting,
        kind === 'default' ? value : styled('bold', value),
        kind === 'default' ? styled('dim', 'default') : from,
        settingOf(setting).about,
      ]
    }),
  )
  terminal.note(styled('dim', `  one setting in full, with its bounds: ${cli.command('config', 'threads')}`))
}

function one({ terminal }: Cli, loaded: Config, name: SettingName): void {
  const row = facts(loaded, name)
  terminal.print(styled('bold', name), `: ${settingOf(name).about}`)
  for (const [label, value] of [
    ['value', `${shown(name, loaded.values[name])}  (${row.from === '' ? 'default' : row.from})`],
    ['default', settingOf(name).defaultText ?? shown(name, defaultOf(name))],
    ['must be', row.rule],
    ['flag', row.flag],
    ['environment', row.env.join(' or ')],
    ['file', `millrace.config.json: { "${name}": ... }`],
  ] as const) {
    terminal.print('  ', styled('dim', label.padEnd(11)), `  ${value}`)
  }
}

function facts(loaded: Config, name: SettingName) {
  const { kind, from } = loaded.sources[name]
  return {
    setting: name,
    value: masked(name, loaded.values[name]),
    source: kind,
    from,
    default: defaultOf(name),
    rule: settingOf(name).rule,
    flag: flagOf(name),
    env: envNamesOf(name),
    about: settingOf(name).about,
  }
}

/** A value for people: with its unit, masked, and "none" said in words. */
export function shown(name: SettingName, value: unknown): string {
  const row = settingOf(name)
  if (value === null) return row.defaultText ?? 'none'
  if (value === 0 && row.defaultText?.startsWith('0 ')) return row.defaultText
  if (typeof value === 'number') {
    if (row.kind === 'duration') return durationText(value)
    return row.kind === 'bytes' ? bytesText(value) : grouped(value)
  }
  return Array.isArray(value) ? value.join(', ') : brief(masked(name, value))
}
