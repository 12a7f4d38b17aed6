// Makes text from outside harmless before anybody sees it: names, payloads, results, errors and settings may hold escape
// sequences, which move the cursor or set the window title, marks that reverse the reading order, and line breaks, which
// forge lines. Terminal, Text and the logs go through here, so that no command has to think of it.

/** Whatever ends a line, or jumps within one. */
const BREAKS = /\r\n|[\t\n\v\f\r\u0085\u2028\u2029]/g

/** C0, DEL, C1 and the controls of bidirectional text. */
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g

/** What JSON may hold as it is and a terminal may not. JSON.stringify has escaped C0 already. */
const UNESCAPED = /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g

/** The text on one line: a line break or a tab becomes a space, a control character a dot. */
export function cleanLine(text: string): string {
  return text.replace(BREAKS, ' ').replace(CONTROLS, '·')
}

/** JSON that a terminal can show and every parser reads: the same value, with control characters as \uXXXX. */
export function cleanJson(value: unknown, indent?: number): string {
  return escapeJson(JSON.stringify(value, null, indent) ?? 'null')
}

/** The same for JSON that is text already. */
export function escapeJson(json: string): string {
  return json.replace(UNESCAPED, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/**
 * Facts of a log line, cleaned at every depth. A stack keeps its lines: whoever prints it indents them, so that none can
 * pass for a line of the log.
 */
export function cleanFacts(value: unknown, key = ''): unknown {
  if (typeof value === 'string') return key === 'stack' ? value.split('\n').map(cleanLine).join('\n') : cleanLine(value)
  if (Array.isArray(value)) return value.map((item) => cleanFacts(item))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [cleanLine(name), cleanFacts(item, name)]))
}
