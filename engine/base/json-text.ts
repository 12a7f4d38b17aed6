// What is asked of a JSON text before it is parsed or stored, without parsing it.

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
