// What is asked of a JSON text before it is parsed or stored, without parsing it; and of a value that became one.

/** True when a JSON text nests deeper than `max`. Short texts cannot, and strings are skipped in one step. */
export function isDeeper(text: string, max: number): boolean {
  if (text.length <= 2 * max) return false
  let depth = 0
  for (let at = 0; at < text.length; at++) {
    switch (text.charCodeAt(at)) {
      case 0x22: // "
        at = stringEnd(text, at)
        break
      case 0x5b: // [
      case 0x7b: // {
        if (++depth > max) return true
        break
      case 0x5d: // ]
      case 0x7d: // }
        depth--
    }
  }
  return false
}

/** Position of the quote that closes the string which opens at `at`; the text's end when nothing does. */
function stringEnd(text: string, at: number): number {
  for (let end = text.indexOf('"', at + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    if (!isEscaped(text, end)) return end
  }
  return text.length
}

/** True when an odd number of backslashes stands before `at`. */
function isEscaped(text: string, at: number): boolean {
  let first = at
  while (text.charCodeAt(first - 1) === 0x5c) first--
  return (at - first) % 2 === 1
}

/**
 * True when a JSON text holds U+0000 or half a surrogate pair, which PostgreSQL cannot store as text. JSON.stringify always
 * writes them as escapes.
 */
export function isUnstorable(text: string): boolean {
  for (let at = text.indexOf('\\u'); at >= 0; at = text.indexOf('\\u', at + 1)) {
    if (isEscaped(text, at)) continue
    if (text.startsWith('0000', at + 2) || /^d[89a-f]/.test(text.slice(at + 2, at + 4))) return true
  }
  return false
}

/** What to do about what lostIn finds. */
export const JSON_FORMS = 'give null, a text, a list or a plain object instead'

/**
 * The first part of a value that JSON.stringify silently turned into null or {} and that is neither: NaN, Infinity, an
 * invalid Date, a Map, a Promise; as words for a message, with its path below `name`. Null when there is none. `text` is
 * what JSON.stringify made of the value, which must not nest deeper than a recursion may.
 *
 * A text without null and {} needs no look at the value, so most values cost two searches: 0.1 us of 6 us for an enqueue
 * of 1 kB (2026-11). Functions, symbols and undefined are left out, as JSON.stringify always does.
 */
export function lostIn(value: unknown, text: string, name: string): string | null {
  if (!text.includes('null') && !text.includes('{}')) return null
  try {
    const found = lost(value, '')
    return found === null ? null : `${name}${found.path} is ${found.kind}`
  } catch {
    return null // a getter or toJSON that throws at the second look; the text of the first one stands
  }
}

interface Lost {
  readonly kind: string
  /** Put together on the way back, so that what is all right pays nothing for it. */
  path: string
}

function lost(given: unknown, key: string): Lost | null {
  if (typeof given === 'number') return Number.isFinite(given) ? null : { kind: String(given), path: '' }
  if (typeof given !== 'object' || given === null) return null
  if (given instanceof Date && Number.isNaN(given.getTime())) return { kind: 'an invalid Date', path: '' }
  const { toJSON } = given as { toJSON?: unknown }
  if (typeof toJSON !== 'function') return lostWithin(given)
  const value: unknown = toJSON.call(given, key)
  return value === given ? lostWithin(given) : lost(value, key)
}

function lostWithin(value: object): Lost | null {
  if (Array.isArray(value)) {
    for (let at = 0; at < value.length; at++) {
      const found = lost(value[at], '')
      if (found !== null) return below(found, `[${at}]`)
    }
    return null
  }
  const keys = Object.keys(value)
  if (keys.length === 0) {
    const kind = Object.prototype.toString.call(value).slice('[object '.length, -1)
    return FAITHFUL.has(kind) ? null : { kind: `${/^[AEIOU]/.test(kind) ? 'an' : 'a'} ${kind}`, path: '' }
  }
  for (const key of keys) {
    const found = lost((value as Record<string, unknown>)[key], key)
    if (found !== null) return below(found, IDENTIFIER.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`)
  }
  return null
}

function below(found: Lost, step: string): Lost {
  found.path = step + found.path
  return found
}

/** Kinds of objects that may be empty, or stand for a primitive value. */
const FAITHFUL: ReadonlySet<string> = new Set(['Object', 'Arguments', 'Number', 'String', 'Boolean'])
const IDENTIFIER = /^[A-Za-z_$][\w$]*$/
