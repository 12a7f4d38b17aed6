// Puts the settings together: options of code, flags, environment, file, defaults, in this order; the first that names
// a setting wins. Every value comes with its source. It reads nothing itself: environment and file are handed in.
// All that is wrong is said at once, in one error.

import { EngineError } from '../base/errors.ts'
import { didYouMean } from '../base/nearest.ts'
import { grouped } from './fields.ts'
import { brokenRules } from './rules.ts'
import { defaultOf, envNamesOf, flagOf, SETTING_NAMES, type SettingName, type Settings, settingOf } from './settings.ts'

export interface ConfigInput {
  /** What code passes to createEngine. */
  readonly options?: Readonly<Record<string, unknown>>
  /** What the command line gave, by setting name. */
  readonly flags?: Readonly<Record<string, unknown>>
  readonly env?: Readonly<Record<string, string | undefined>>
  /** The settings file, when there is one. */
  readonly file?: ConfigFile | null
}

export interface ConfigFile {
  readonly path: string
  readonly values: Readonly<Record<string, unknown>>
}

export interface Source {
  readonly kind: 'option' | 'flag' | 'environment' | 'file' | 'default'
  /** The flag, the variables or the path; '' for a default. */
  readonly from: string
}

export interface Config {
  readonly values: Settings
  readonly sources: Readonly<Record<SettingName, Source>>
  /** Sentences about what was given and is not used. */
  readonly warnings: readonly string[]
}

interface Problem {
  setting: string
  value: unknown
  rule: string
  message: string
}

/**
 * The value and source of every setting.
 * @throws EngineError CONFIG_INVALID naming each wrong setting, its value and its rule; `details.problems` lists them.
 */
export function loadConfig(input: ConfigInput = {}): Config {
  const problems: Problem[] = []
  refuseUnknown(problems, input.options, 'the options')
  refuseUnknown(problems, input.flags, 'the flags')
  refuseUnknown(problems, input.file?.values, input.file?.path ?? '')

  const values: Record<string, unknown> = {}
  const sources: Partial<Record<SettingName, Source>> = {}
  for (const name of SETTING_NAMES) {
    const found = find(name, input)
    sources[name] = found.source
    values[name] = check(problems, name, found.raw, found.source)
  }
  const settings = values as Settings
  if (problems.length === 0) {
    for (const broken of brokenRules(settings)) {
      problems.push({ ...broken, value: masked(broken.setting, settings[broken.setting]) })
    }
  }
  if (problems.length > 0) {
    const { setting, value, rule } = problems[0]!
    throw new EngineError('CONFIG_INVALID', problems.map((problem) => problem.message).join('\n'), {
      setting,
      value,
      rule,
      problems,
    })
  }
  return {
    values: Object.freeze(settings),
    sources: sources as Record<SettingName, Source>,
    warnings: unusedVariables(input.env ?? {}),
  }
}

/** A value as it may be shown: without its password when the setting is secret. */
export function masked(name: SettingName, value: unknown): unknown {
  if (!settingOf(name).secret || typeof value !== 'string') return value
  try {
    const url = new URL(value)
    if (url.password !== '') url.password = '***'
    if (url.searchParams.has('password')) url.searchParams.set('password', '***')
    return url.href
  } catch {
    return '***'
  }
}

function find(name: SettingName, input: ConfigInput): { raw: unknown; source: Source } {
  const option = own(input.options, name)
  if (option !== undefined) return { raw: option, source: { kind: 'option', from: name } }
  const flag = own(input.flags, name)
  if (flag !== undefined) return { raw: flag, source: { kind: 'flag', from: flagOf(name) } }
  for (const variable of envNamesOf(name)) {
    const raw = own(input.env, variable)
    // An empty variable means "not set": compose files and CI write them so.
    if (raw !== undefined && raw !== '') return { raw, source: { kind: 'environment', from: variable } }
  }
  const file = own(input.file?.values, name)
  if (file !== undefined) return { raw: file, source: { kind: 'file', from: input.file!.path } }
  if (name === 'database') {
    const libpq = databaseFromLibpq(input.env ?? {})
    if (libpq !== null) return { raw: libpq.url, source: { kind: 'environment', from: libpq.variables.join(', ') } }
  }
  return { raw: defaultOf(name), source: { kind: 'default', from: '' } }
}

function check(problems: Problem[], name: SettingName, raw: unknown, source: Source): unknown {
  const row = settingOf(name)
  const parsed = row.schema.safeParse(typeof raw === 'string' ? row.fromText(raw) : raw)
  if (parsed.success) return parsed.data
  const value = row.secret ? '***' : raw
  const where = source.kind === 'option' ? '' : ` (from ${source.from})`
  problems.push({
    setting: name,
    value,
    rule: row.rule,
    message: `${name} must be ${row.rule}; got ${said(value)}${where}`,
  })
  return undefined
}

function refuseUnknown(
  problems: Problem[],
  values: Readonly<Record<string, unknown>> | undefined,
  where: string,
): void {
  for (const name of Object.keys(values ?? {})) {
    if (SETTING_NAMES.includes(name as SettingName)) continue
    const rule = 'the name of a setting'
    const message = `${name} is not a setting (in ${where})${didYouMean(name, SETTING_NAMES)}`
    problems.push({ setting: name, value: undefined, rule, message })
  }
}

// A Kubernetes service named "millrace" puts such variables into every container of its namespace.
const FROM_KUBERNETES = /_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_.*)?)$/

function unusedVariables(env: Readonly<Record<string, string | undefined>>): string[] {
  const known = new Set([...SETTING_NAMES.flatMap(envNamesOf), 'MILLRACE_CONFIG'])
  return Object.keys(env)
    .filter((name) => name.startsWith('MILLRACE_') && !known.has(name) && !FROM_KUBERNETES.test(name))
    .sort()
    .map((name) => `the environment variable ${name} is not a setting and is ignored${didYouMean(name, known)}`)
}

/** The database that libpq's variables name, when one of them says where it is. */
function databaseFromLibpq(
  env: Readonly<Record<string, string | undefined>>,
): { url: string; variables: string[] } | null {
  if (!env.PGHOST && !env.PGPORT && !env.PGDATABASE) return null
  const variables = ['PGHOST', 'PGPORT', 'PGDATABASE', 'PGUSER', 'PGPASSWORD', 'PGSSLMODE'].filter((name) => env[name])
  const host = env.PGHOST || 'localhost'
  const socket = host.startsWith('/')
  const url = new URL(`postgres://${socket ? 'localhost' : host.includes(':') ? `[${host}]` : host}`)
  url.port = env.PGPORT ?? ''
  url.username = encodeURIComponent(env.PGUSER ?? '')
  url.password = encodeURIComponent(env.PGPASSWORD ?? '')
  if (env.PGDATABASE) url.pathname = `/${encodeURIComponent(env.PGDATABASE)}`
  if (socket) url.searchParams.set('host', host)
  if (env.PGSSLMODE) url.searchParams.set('sslmode', env.PGSSLMODE)
  return { url: url.href, variables }
}

function own(values: Readonly<Record<string, unknown>> | undefined, name: string): unknown {
  return values !== undefined && Object.hasOwn(values, name) ? values[name] : undefined
}

function said(value: unknown): string {
  if (typeof value === 'number') return grouped(value)
  return JSON.stringify(value) ?? String(value)
}
