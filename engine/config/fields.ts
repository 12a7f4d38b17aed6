// The kinds of values that a setting can have. Each kind knows how a person writes it (`10s`, `16MiB`, `a,b`), what is
// allowed (a zod schema), and how to say what is allowed (`rule` completes the sentence "must be ...").
// It never knows a setting by name.

import { z } from 'zod'

export type FieldKind = 'whole' | 'duration' | 'bytes' | 'text' | 'flag' | 'choice' | 'names' | 'limits'

/** What a zod schema is asked. Named here, so that the declarations of the package need no other package. */
interface Schema<T> {
  safeParse(value: unknown): { readonly success: true; readonly data: T } | { readonly success: false }
}

/** One row of the table of settings, without its name. */
export interface Setting<T> {
  readonly kind: FieldKind
  /** The value when nobody sets it. A function when it depends on the machine. */
  readonly default: T | (() => T)
  /** How the default reads in the docs when it depends on the machine or means "none". */
  readonly defaultText?: string
  readonly schema: Schema<T>
  /** Completes "must be ...". */
  readonly rule: string
  /** What stands for the value in `--help`. */
  readonly placeholder: string
  /** Reads what a person wrote; what it cannot read it returns unchanged, for the schema to refuse. */
  readonly fromText: (text: string) => unknown
  /** Section of the docs, in the order of the table. */
  readonly part: Part
  /** One sentence: meaning and what a change does. */
  readonly about: string
  /** True: the value holds a password and is masked wherever it is shown. */
  readonly secret?: boolean
  /** Further environment variables, after the one that its name gives. */
  readonly env?: readonly string[]
}

export type Part = 'database' | 'tasks' | 'threads' | 'claiming' | 'scheduler' | 'syncer' | 'life' | 'output'

interface Common {
  readonly part: Part
  readonly about: string
}

interface Bounds extends Common {
  readonly min: number
  readonly max: number
}

/** A whole number. */
export function whole(row: Bounds & { default: number | (() => number); defaultText?: string }): Setting<number> {
  return numeric('whole', 'n', `a whole number from ${grouped(row.min)} to ${grouped(row.max)}`, readWhole, row)
}

/** Milliseconds; also written `500ms`, `10s`, `5m`, `1h`. */
export function duration(row: Bounds & { default: number }): Setting<number> {
  const rule = `a time from ${durationText(row.min)} to ${durationText(row.max)}, in milliseconds or with a unit (ms, s, m, h)`
  return numeric('duration', 'ms', rule, readDuration, row)
}

/** Bytes; also written `64KiB`, `16MiB`, `1GiB`. */
export function bytes(row: Bounds & { default: number; powerOfTwo?: boolean }): Setting<number> {
  const { powerOfTwo, ...bounds } = row
  const size = `a size from ${bytesText(row.min)} to ${bytesText(row.max)}, in bytes or with a unit (KiB, MiB, GiB)`
  const field = numeric('bytes', 'bytes', powerOfTwo ? `${size}, and a power of two` : size, readBytes, bounds)
  if (!powerOfTwo) return field
  return { ...field, schema: field.schema.refine((value) => Number.isInteger(Math.log2(value))) }
}

interface Optional extends Common {
  readonly default: null
  readonly defaultText: string
  readonly placeholder: string
}

/** Any text that is not empty; null when none is set. */
export function text(row: Optional): Setting<string | null> {
  return { ...row, kind: 'text', rule: 'a text', schema: z.string().min(1).nullable(), fromText: (value) => value }
}

/** The URL of a database; null when none is set. It may hold a password. */
export function database(row: Optional & { env?: readonly string[] }): Setting<string | null> {
  const schema = z.string().refine(isDatabaseUrl).nullable()
  const rule =
    'a URL such as postgres://user:password@host:5432/database, in which special characters of the password are percent-encoded (@ as %40, / as %2F, # as %23, ? as %3F, % as %25)'
  return { ...row, kind: 'text', secret: true, rule, schema, fromText: (value) => value.trim() }
}

/** Where a `/`, `?` or `#` of a password is not encoded, its end and the host stand in what seems to be the path. */
function isDatabaseUrl(text: string): boolean {
  if (!/^(postgres|postgresql):\/\//.test(text)) return false
  try {
    const { username, pathname, search, hash } = new URL(text.replace('@/', '@socket/')) // no host: a socket's folder is a parameter
    return username !== '' || !`${pathname}${search}${hash}`.includes('@')
  } catch {
    return false
  }
}

/** A path; relative ones are meant from the current folder. */
export function path(row: Common & { default: string; env?: readonly string[] }): Setting<string> {
  return { ...row, kind: 'text', placeholder: 'path', rule: 'a path', schema: z.string().min(1), fromText: (v) => v }
}

/** A text of a fixed form. */
export function word(
  row: Common & { default: string; placeholder: string; pattern: RegExp; rule: string },
): Setting<string> {
  const { pattern, ...rest } = row
  return { ...rest, kind: 'text', schema: z.string().regex(pattern), fromText: (value) => value }
}

/** Yes or no. */
export function flag(row: Common & { default: boolean }): Setting<boolean> {
  return { ...row, kind: 'flag', placeholder: '', rule: 'true or false', schema: z.boolean(), fromText: readFlag }
}

/** One of a few words. */
export function choice<const T extends string>(
  row: Common & { default: NoInfer<T>; of: readonly T[]; env?: readonly string[] },
): Setting<T> {
  const { of, ...rest } = row
  return {
    ...rest,
    kind: 'choice',
    placeholder: of.join('|'),
    rule: `one of ${of.join(', ')}`,
    schema: z.literal([...of]),
    fromText: (value) => value.trim().toLowerCase(),
  }
}

/** A list of names, `a,b` on the command line; null means all. */
export function names(row: Common & { namesMax: number; charsMax: number }): Setting<readonly string[] | null> {
  const { namesMax, charsMax, ...rest } = row
  return {
    ...rest,
    kind: 'names',
    default: null,
    defaultText: 'all',
    placeholder: 'a,b',
    rule: `a list of 1 to ${grouped(namesMax)} names of at most ${charsMax} characters`,
    schema: z.array(z.string().min(1).max(charsMax)).min(1).max(namesMax).readonly().nullable(),
    fromText: readNames,
  }
}

/** A whole number per name, `a=2,b=10` on the command line; null means that nothing is limited. */
export function limits(
  row: Common & { namesMax: number; charsMax: number; min: number; max: number },
): Setting<Readonly<Record<string, number>> | null> {
  const { namesMax, charsMax, min, max, ...rest } = row
  return {
    ...rest,
    kind: 'limits',
    default: null,
    defaultText: 'no limits',
    placeholder: 'a=2,b=10',
    rule: `a whole number from ${grouped(min)} to ${grouped(max)} for each of 1 to ${grouped(namesMax)} names of at most ${charsMax} characters`,
    schema: z
      .record(z.string().min(1).max(charsMax), z.int().min(min).max(max))
      .refine((it) => Object.keys(it).length >= 1 && Object.keys(it).length <= namesMax)
      .readonly()
      .nullable(),
    fromText: readLimits,
  }
}

/** 12345 as 12,345. */
export function grouped(value: number): string {
  return value.toLocaleString('en-US')
}

/** Milliseconds in the largest unit that divides them. */
export function durationText(ms: number): string {
  for (const [unit, size] of [
    ['h', 3_600_000],
    ['min', 60_000],
    ['s', 1_000],
  ] as const) {
    if (ms >= size && ms % size === 0) return `${grouped(ms / size)} ${unit}`
  }
  return `${grouped(ms)} ms`
}

/** Bytes in the largest unit that divides them. */
export function bytesText(value: number): string {
  for (const [unit, size] of BYTE_UNITS)
    if (value >= size && value % size === 0) return `${grouped(value / size)} ${unit}`
  return `${grouped(value)} B`
}

const BYTE_UNITS = [
  ['GiB', 2 ** 30],
  ['MiB', 2 ** 20],
  ['KiB', 2 ** 10],
] as const

function numeric(
  kind: FieldKind,
  placeholder: string,
  rule: string,
  fromText: (text: string) => unknown,
  row: Bounds & { default: number | (() => number); defaultText?: string },
): Setting<number> & { readonly schema: z.ZodType<number> } {
  const { min, max, ...rest } = row
  return { ...rest, kind, placeholder, rule, fromText, schema: z.int().min(min).max(max) }
}

function readWhole(value: string): unknown {
  const plain = ungrouped(value)
  return /^-?\d+$/.test(plain) ? Number(plain) : value
}

function readDuration(value: string): unknown {
  const match = /^(-?\d+(?:\.\d+)?)\s*(ms|s|m|min|h)$/i.exec(ungrouped(value))
  if (!match) return readWhole(value)
  const size = { ms: 1, s: 1_000, m: 60_000, min: 60_000, h: 3_600_000 }[match[2]!.toLowerCase()]!
  return Math.round(Number(match[1]) * size)
}

function readBytes(value: string): unknown {
  const match = /^(\d+(?:\.\d+)?)\s*(b|[kmg](?:i?b)?)$/i.exec(ungrouped(value))
  if (!match) return readWhole(value)
  const size = { b: 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 }[match[2]!.toLowerCase()[0]!]!
  return Math.round(Number(match[1]) * size)
}

function ungrouped(value: string): string {
  return value.trim().replace(/(?<=\d)[,_](?=\d)/g, '')
}

function readFlag(value: string): unknown {
  const plain = value.trim().toLowerCase()
  if (['true', '1', 'yes', 'on'].includes(plain)) return true
  if (['false', '0', 'no', 'off'].includes(plain)) return false
  return value
}

function readLimits(value: string): unknown {
  const pairs = value.split(',').map((pair) => /^\s*(.+?)\s*=\s*(\d+)\s*$/.exec(pair))
  return pairs.includes(null) ? value : Object.fromEntries(pairs.map((pair) => [pair![1]!, Number(pair![2])]))
}

function readNames(value: string): unknown {
  const list = value
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '')
  return list.length === 1 && list[0] === '*' ? null : list
}
