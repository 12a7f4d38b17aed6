// Payloads as JSON text, within the limits of what PostgreSQL stores and parsers bear.

import { EngineError } from '../base/errors.ts'
import { JSON_DEPTH_MAX } from '../base/limits.ts'

/** The payload as JSON text. @throws EngineError INVALID_PAYLOAD with the limit that it breaks */
export function payloadText(payload: unknown, bytesMax: number): string {
  const text = jsonText(payload === undefined ? null : payload, 'payload')
  // a UTF-16 unit is at most three bytes, so most texts need no count
  if (text.length * 3 > bytesMax && Buffer.byteLength(text) > bytesMax) {
    throw new EngineError(
      'INVALID_PAYLOAD',
      `payload has ${Buffer.byteLength(text)} bytes of JSON, at most ${bytesMax} are allowed`,
      { bytes: Buffer.byteLength(text), bytesMax },
    )
  }
  return text
}

// U+0000 and half surrogate pairs: PostgreSQL cannot store them as text
const UNSTORABLE = /(?:^|[^\\])(?:\\\\)*\\u(?:0000|d[89a-f])/

export function jsonText(value: unknown, field: string): string {
  let text: string | undefined
  try {
    text = JSON.stringify(value)
  } catch (error) {
    throw new EngineError(
      'INVALID_PAYLOAD',
      `${field} is not JSON: ${error instanceof Error ? error.message : String(error)}`,
      { field },
      error,
    )
  }
  if (text === undefined)
    throw new EngineError('INVALID_PAYLOAD', `${field} is not JSON: a ${typeof value} has no JSON form`, { field })
  if (text.includes('\\u') && UNSTORABLE.test(text)) {
    throw new EngineError(
      'INVALID_PAYLOAD',
      `${field} contains U+0000 or half a surrogate pair, which cannot be stored`,
      { field },
    )
  }
  // every level costs at least two characters
  if (text.length > JSON_DEPTH_MAX * 2 && depthOf(text) > JSON_DEPTH_MAX) {
    throw new EngineError('INVALID_PAYLOAD', `${field} is nested deeper than ${JSON_DEPTH_MAX} levels`, {
      field,
      depthMax: JSON_DEPTH_MAX,
    })
  }
  return text
}

function depthOf(text: string): number {
  let depth = 0
  let deepest = 0
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at)
    if (unit === 0x22) {
      // skip the string: JSON.stringify escapes quotes and backslashes
      for (at++; text.charCodeAt(at) !== 0x22; at++) if (text.charCodeAt(at) === 0x5c) at++
    } else if (unit === 0x7b || unit === 0x5b) deepest = Math.max(deepest, ++depth)
    else if (unit === 0x7d || unit === 0x5d) depth--
  }
  return deepest
}
