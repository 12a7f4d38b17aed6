// Prints the tables of the code (settings, error codes) into the marked sections of the docs, so that no default and no
// code is written down twice.
//
//   node dist/scripts/docs.js           writes what changed
//   node dist/scripts/docs.js --check   writes nothing; exit 1 when a section differs from the code
//
// A section is everything between <!-- table:NAME --> and <!-- end -->.

import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ERROR_CODES } from '../engine/base/errors.ts'
import { bytesText, durationText, grouped, type Part } from '../engine/config/fields.ts'
import { RULES } from '../engine/config/rules.ts'
import { defaultOf, envNamesOf, flagOf, SETTING_NAMES, type SettingName, settingOf } from '../engine/config/settings.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url)) // from dist/scripts/
const FILES = ['README.md', 'engine/README.md']

const TABLES: Readonly<Record<string, () => string>> = {
  settings: settingsTable,
  rules: () =>
    table(
      ['setting', 'must be'],
      RULES.map(({ settings, rule }) => [code(settings[0]), rule]),
    ),
  errors: () =>
    table(
      ['code', 'again later?', 'HTTP', 'exit', 'what to do'],
      Object.entries(ERROR_CODES).map(([name, row]) => [
        code(name),
        row.retry ? 'yes' : 'no',
        String(row.http),
        String(row.exit),
        row.hint,
      ]),
    ),
}

/** The text with every marked section printed anew. @throws when a section names no table or has no end. */
export function printInto(text: string, file: string): string {
  const marks = [...text.matchAll(/<!-- table:(\S+) -->/g)]
  const printed = text.replace(/<!-- table:(\S+) -->\n[\s\S]*?<!-- end -->/g, (_, name: string) => {
    const print = TABLES[name]
    if (print === undefined)
      throw new Error(`${file}: there is no table "${name}", only ${Object.keys(TABLES).join(', ')}`)
    return `<!-- table:${name} -->\n\n${print()}\n\n<!-- end -->`
  })
  const ends = [...text.matchAll(/<!-- end -->/g)]
  if (ends.length !== marks.length) throw new Error(`${file}: ${marks.length} tables begin, ${ends.length} end`)
  return printed
}

const PARTS: Readonly<Record<Part, string>> = {
  database: 'Database',
  tasks: 'Tasks',
  threads: 'Threads',
  claiming: 'Claiming',
  scheduler: 'Scheduler',
  syncer: 'Syncer',
  life: 'Life',
  output: 'Output',
}

function settingsTable(): string {
  const sections = Object.entries(PARTS).map(([part, title]) => {
    const names = SETTING_NAMES.filter((name) => settingOf(name).part === part)
    const rows = names.map((name) => [
      code(name),
      settingOf(name).defaultText ?? valueText(name),
      settingOf(name).about,
      `${code(flagOf(name))}<br>${envNamesOf(name).map(code).join(' or ')}`,
    ])
    return `**${title}**\n\n${table(['setting', 'default', 'meaning', 'flag and variable'], rows)}`
  })
  return sections.join('\n\n')
}

function valueText(name: SettingName): string {
  const value = defaultOf(name)
  if (typeof value !== 'number') return code(String(value))
  const { kind } = settingOf(name)
  if (kind === 'duration') return durationText(value)
  return kind === 'bytes' ? bytesText(value) : grouped(value)
}

function table(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`
  return [line(heads), line(heads.map(() => '---')), ...rows.map(line)].join('\n')
}

function code(text: string): string {
  return `\`${text}\``
}

function main(check: boolean): number {
  let differs = 0
  for (const file of FILES) {
    const path = join(ROOT, file)
    if (!existsSync(path)) continue
    const before = readFileSync(path, 'utf8')
    const after = printInto(before, file)
    if (before === after) continue
    differs++
    if (check) console.error(`${file}: a table differs from the code; run npm run docs`)
    else {
      writeFileSync(path, after)
      console.log(`${file}: printed anew`)
    }
  }
  return check && differs > 0 ? 1 : 0
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = main(process.argv.includes('--check'))
