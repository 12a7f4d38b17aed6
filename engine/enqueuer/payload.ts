// Payloads as JSON text, within the limits of what PostgreSQL stores and parsers bear.

import { EngineError } from '../base/errors.ts'
import { isDeeper, isUnstorable, JSON_FORMS, lostIn } from '../base/json-text.ts'
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
  if (isUnstorable(text)) {
    throw new EngineError(
      'INVALID_PAYLOAD',
      `${field} contains U+0000 or half a surrogate pair, which cannot be stored`,
      { field },
    )
  }
  if (isDeeper(text, JSON_DEPTH_MAX)) {
    throw new EngineError('INVALID_PAYLOAD', `${field} is nested deeper than ${JSON_DEPTH_MAX} levels`, {
      field,
      depthMax: JSON_DEPTH_MAX,
    })
  }
  const lost = lostIn(value, text, field)
  if (lost !== null) {
    throw new EngineError('INVALID_PAYLOAD', `${lost}, which JSON cannot hold; ${JSON_FORMS}`, { field })
  }
  return text
}
