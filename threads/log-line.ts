// A line of a handler's log: what pino's methods take, as JSON text within a bound. A handler may hand over anything. What
// JSON cannot hold is described, what throws while it is read says so, and what is too long is cut: no fact is lost because
// of another one, and no line is long enough to block a ring.

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'

const LINE_BYTES_MAX = 8 * 1024

/** How much of a value is shown. */
interface Limits {
  /** Characters of a text. */
  readonly text: number
  readonly stack: number
  /** Members of an object or a list. */
  readonly members: number
  readonly depth: number
}

/** The first of these with which a line keeps its bound is used. */
const LIMITS: readonly Limits[] = [
  { text: 4_000, stack: 4_000, members: 100, depth: 6 },
  { text: 1_000, stack: 1_500, members: 40, depth: 5 },
  { text: 300, stack: 500, members: 20, depth: 4 },
  { text: 60, stack: 200, members: 8, depth: 1 },
]
/** Values that one line looks at, and the characters of their texts, whatever their shape. */
const VALUES_MAX = 1_000
const CHARS_MAX = 4 * LINE_BYTES_MAX
/** What a text may have when there is no room any more. */
const CHARS_MIN = 20
const MESSAGE_CHARS_MAX = 2_000
const NAME_CHARS_MAX = 100

export type Facts = Readonly<Record<string, unknown>>

/**
 * The line as JSON text of at most 8 KiB: { level, event, facts }. `args` are what a method was called with: facts, message
 * and values for it; an error, message and values; or message and values. Values that the message has no place for are
 * kept under `args`, an error among them under `err`.
 */
export function lineText(level: LogLevel, bindings: Facts, args: readonly unknown[]): string {
  for (const limits of LIMITS) {
    const text = JSON.stringify({ level, ...read(bindings, args, limits) })
    if (text.length * 3 <= LINE_BYTES_MAX || Buffer.byteLength(text) <= LINE_BYTES_MAX) return text
  }
  const { event, facts } = read(bindings, args, LIMITS.at(-1)!)
  return JSON.stringify({
    level,
    event: cut(event, 500),
    facts: { factsDropped: Object.keys(facts).slice(0, 10).map(name) },
  })
}

/** What a child of a log adds to each line: described when the child is made, as it is then. */
export function bindingsOf(before: Facts, more: unknown): Facts {
  return { ...before, ...new Description(LIMITS[0]!).facts(more) }
}

/** Anything that was thrown, as plain facts. */
export function errorFacts(thrown: unknown): Facts & { readonly type: string; readonly message: string } {
  const description = new Description(LIMITS[0]!)
  if (isError(thrown)) return description.of(thrown) as Facts & { readonly type: string; readonly message: string }
  return { type: thrown === null ? 'null' : typeof thrown, message: description.text(thrown) }
}

function read(
  bindings: Facts,
  args: readonly unknown[],
  limits: Limits,
): { event: string; facts: Record<string, unknown> } {
  const description = new Description(limits)
  let facts: Record<string, unknown> = { ...bindings }
  const [first] = args
  let rest = args
  if (isError(first)) {
    facts.err = description.of(first)
    rest = args.slice(1)
  } else if ((typeof first === 'object' && first !== null) || typeof first === 'function') {
    facts = { ...facts, ...description.facts(first) } // not assigned: a key may be __proto__
    rest = args.slice(1)
  } else if (first === undefined || first === null) rest = args.slice(1)

  let event: string | null = null
  if (rest[0] === undefined || rest[0] === null) rest = rest.slice(1)
  else if (!isObject(rest[0])) {
    const { message, left } = formatted(rest, description)
    event = message
    rest = left
  }
  const unplaced: unknown[] = []
  for (const value of rest) {
    if (isError(value) && facts.err === undefined) facts.err = description.of(value)
    else if (value !== undefined) unplaced.push(description.of(value) ?? null)
  }
  if (unplaced.length > 0) facts.args = unplaced
  if (event === null && typeof facts.msg === 'string') {
    event = facts.msg
    delete facts.msg
  }
  event ??= messageIn(facts.err) ?? ''
  return { event: cut(event, MESSAGE_CHARS_MAX), facts }
}

const PLACE = /%[sdifjoOc%]/g

/** Puts values into the places of a format text: %s, %d, %i, %f, %j, %o, %O; %% is a percent sign. */
function formatted(
  [text, ...values]: readonly unknown[],
  description: Description,
): { message: string; left: unknown[] } {
  const format = typeof text === 'string' ? text : description.text(text)
  if (values.length === 0) return { message: format, left: [] }
  let next = 0
  const message = format.replace(PLACE, (place) => {
    if (place === '%%') return '%'
    if (next === values.length) return place
    const value = values[next++]
    switch (place) {
      case '%d':
      case '%f':
      case '%i':
        return numberText(value, place)
      case '%s':
        return description.text(value)
      case '%c':
        return '' // a style, for consoles of browsers
      default:
        return JSON.stringify(description.of(value)) ?? 'undefined'
    }
  })
  return { message, left: values.slice(next) }
}

function numberText(value: unknown, place: string): string {
  if (typeof value === 'bigint') return `${value}`
  const read = () => {
    if (place === '%d') return Number(value)
    return place === '%i' ? Number.parseInt(String(value), 10) : Number.parseFloat(String(value))
  }
  return guarded(() => String(read()), 'NaN')
}

/** Anything as plain JSON values. */
class Description {
  readonly #limits: Limits
  readonly #above: object[] = []
  #left = VALUES_MAX
  #charsLeft = CHARS_MAX

  constructor(limits: Limits) {
    this.#limits = limits
  }

  /** As one text, for a place in a message. */
  text(value: unknown): string {
    const described = isError(value) ? `${this.#name(value)}: ${this.#message(value)}` : this.of(value)
    return typeof described === 'string' ? described : (JSON.stringify(described) ?? 'undefined')
  }

  /** The members of what was given as facts. */
  facts(given: unknown): Record<string, unknown> {
    const described = this.of(given)
    if (typeof described === 'object' && described !== null && !Array.isArray(described) && !isError(given))
      return described as Record<string, unknown>
    return described === undefined || described === null ? {} : { [isError(given) ? 'err' : 'value']: described }
  }

  of(value: unknown): unknown {
    switch (typeof value) {
      case 'string':
        return this.#cut(value, this.#limits.text)
      case 'number':
        return Number.isFinite(value) ? value : String(value)
      case 'bigint':
        return this.#cut(`${value}n`, this.#limits.text)
      case 'symbol':
        return cut(String(value), NAME_CHARS_MAX)
      case 'function':
        return guarded(() => `[function ${name(value.name)}]`, '[function]')
      case 'object':
        return value === null ? null : this.#object(value)
      default:
        return value // true, false, undefined
    }
  }

  #cut(text: string, chars: number): string {
    const short = cut(text, Math.min(chars, Math.max(CHARS_MIN, this.#charsLeft)))
    this.#charsLeft -= short.length
    return short
  }

  #object(value: object): unknown {
    if (this.#above.includes(value)) return '[circular]'
    if (this.#above.length > this.#limits.depth || --this.#left < 0)
      return guarded(() => `[${className(value)}]`, '[object]')
    this.#above.push(value)
    try {
      return this.#described(value)
    } catch (error) {
      return `[not readable: ${this.#message(error)}]`
    } finally {
      this.#above.pop()
    }
  }

  #described(value: object): unknown {
    if (isError(value)) return this.#error(value)
    if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'Invalid Date' : value.toISOString()
    if (value instanceof Map) return this.#map(value)
    if (value instanceof Set) return this.#list(value, value.size)
    if (value instanceof RegExp) return this.#cut(String(value), this.#limits.text)
    if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer || value instanceof SharedArrayBuffer)
      return `[${className(value)} of ${value.byteLength} bytes]`
    const { toJSON } = value as { toJSON?: unknown }
    if (typeof toJSON === 'function') {
      const json: unknown = toJSON.call(value, '')
      if (json !== value) return this.of(json)
    }
    if (Array.isArray(value)) return this.#list(value, value.length)
    const described = this.#members(value, Object.keys(value))
    if (Object.keys(described).length > 0) return described
    const kind = Object.prototype.toString.call(value).slice('[object '.length, -1)
    return kind === 'Object' ? described : `[${kind}]`
  }

  #error(error: object): Record<string, unknown> {
    const described: Record<string, unknown> = { type: this.#name(error), message: this.#message(error) }
    const stack = this.#read(error, 'stack')
    if (typeof stack === 'string' && stack !== '') described.stack = this.#cut(ownStack(stack), this.#limits.stack)
    for (const key of ['code', 'errors', 'cause']) {
      const value = this.#member(error, key)
      if (value !== undefined) described[key] = value
    }
    const others = guarded(() => Object.keys(error), []).filter((key) => !ERROR_KEYS.has(key))
    return Object.assign(this.#members(error, others), described)
  }

  #name(error: object): string {
    const type = this.#read(error, 'name')
    if (typeof type === 'string' && type !== '' && type !== 'Error') return name(type)
    return guarded(() => name(className(error)), 'Error')
  }

  #message(error: unknown): string {
    const message = isObject(error) ? this.#read(error, 'message') : error
    return guarded(() => this.#cut(String(message), this.#limits.text), 'an error that cannot be printed')
  }

  #read(value: object, key: string): unknown {
    return guarded(() => (value as Record<string, unknown>)[key], undefined)
  }

  /** One member, or what happened when it was read. */
  #member(value: object, key: string): unknown {
    try {
      return this.of((value as Record<string, unknown>)[key])
    } catch (error) {
      return `[not readable: ${this.#message(error)}]`
    }
  }

  #members(value: object, keys: readonly string[]): Record<string, unknown> {
    const described: [string, unknown][] = []
    for (const key of keys.slice(0, this.#limits.members)) {
      if (this.#left-- < 0) break
      const member = this.#member(value, key)
      if (member !== undefined) described.push([name(key), member])
    }
    const more = keys.length - Math.min(keys.length, this.#limits.members)
    if (more > 0) described.push(['...', `${more} more`])
    return Object.fromEntries(described) // also of a key like __proto__
  }

  #list(values: Iterable<unknown>, size: number): unknown[] {
    const described: unknown[] = []
    for (const value of values) {
      if (described.length === this.#limits.members || this.#left-- < 0) {
        described.push(`${size - described.length} more`)
        break
      }
      described.push(this.of(value) ?? null)
    }
    return described
  }

  /** An object where the keys are texts, a list of pairs otherwise. */
  #map(map: Map<unknown, unknown>): unknown {
    const pairs = this.#list(map, map.size) as ([unknown, unknown] | string)[]
    const isPlain = pairs.every((pair) => typeof pair === 'string' || typeof pair[0] === 'string')
    if (!isPlain) return pairs
    return Object.fromEntries(pairs.map((pair) => (typeof pair === 'string' ? ['...', pair] : pair)))
  }
}

const THREADS = new URL('.', import.meta.url).href

/** A stack down to the handler: the lines of what called it tell its author nothing. */
export function ownStack(stack: string): string {
  const end = stack.indexOf(THREADS)
  return end < 0 ? stack : stack.slice(0, Math.max(0, stack.lastIndexOf('\n', end)))
}

const ERROR_KEYS: ReadonlySet<string> = new Set(['type', 'message', 'stack', 'code', 'cause', 'errors', 'name'])

function isObject(value: unknown): value is object {
  return (typeof value === 'object' && value !== null) || typeof value === 'function'
}

/** Also errors of other realms, and what is no Error by its prototype alone. */
function isError(value: unknown): value is Error {
  if (typeof value !== 'object' || value === null) return false
  return guarded(() => value instanceof Error || Object.prototype.toString.call(value) === '[object Error]', false)
}

function messageIn(described: unknown): string | null {
  const message = (described as { message?: unknown } | null | undefined)?.message
  return typeof message === 'string' ? message : null
}

function className(value: object): string {
  return (value as { constructor?: { name?: unknown } }).constructor?.name?.toString() || 'Object'
}

function name(text: string): string {
  return cut(text, NAME_CHARS_MAX)
}

function cut(text: string, chars: number): string {
  return text.length <= chars ? text : `${text.slice(0, chars)}... (${text.length} characters)`
}

function guarded<T>(read: () => T, otherwise: T): T {
  try {
    return read()
  } catch {
    return otherwise
  }
}
