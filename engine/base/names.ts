// What may be the name of a task, a queue, a group or a key.

import { NAME_CHARS_MAX } from './limits.ts'

/** U+0000 and half surrogate pairs cannot be stored, and two names that differ only there would become one. */
const NOT_STORABLE = /\0|\p{Surrogate}/u

export const NAME_RULE = `a string of 1 to ${NAME_CHARS_MAX} characters, without U+0000 and half surrogate pairs`

export function isName(value: unknown): value is string {
  return typeof value === 'string' && value.length >= 1 && value.length <= NAME_CHARS_MAX && !NOT_STORABLE.test(value)
}
