// Filters of lists and of what acts on all that match. A field that is misspelt would choose everything.

import type { JobState } from './api.ts'
import { EngineError, refuseUnknown, shown } from './base/errors.ts'
import { isName, NAME_RULE } from './base/names.ts'

/** States that jobs can be listed by. */
export const JOB_STATES: readonly string[] = [
  'queued',
  'blocked',
  'scheduled',
  'retrying',
  'assigned',
  'running',
  'completed',
  'failed',
  'cancelled',
  'expired',
] satisfies JobState[]

/**
 * A filter by which something is done to all that match: besides, a field that is undefined is refused, as it is mostly
 * a mistake, and would choose more than was meant.
 */
export function checkChoice(filter: unknown, allowed: readonly string[]): void {
  checkFields(filter, allowed)
  for (const [field, value] of Object.entries(filter as object))
    if (value === undefined)
      throw new EngineError('VALIDATION', `${field} is undefined; leave it out to choose whatever it is`, { field })
}

/** @throws EngineError VALIDATION that names the option and those that there are */
export function checkOptions(options: unknown, allowed: readonly string[]): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options))
    throw new EngineError('VALIDATION', `options are an object, got ${shown(options)}`, { field: 'options' })
  refuseUnknown(options, allowed, 'no option of this call')
}

/** @throws EngineError VALIDATION that names the field and those that there are */
export function checkFields(filter: unknown, allowed: readonly string[]): void {
  if (typeof filter !== 'object' || filter === null || Array.isArray(filter))
    throw new EngineError('VALIDATION', `a filter is an object; {} means all of them, got ${shown(filter)}`, {
      field: 'filter',
    })
  refuseUnknown(filter, allowed, 'no field of this filter')
}

/** Left out it means any, as null. @throws EngineError VALIDATION when it is no name */
export function nameIn(field: string, value: unknown): string | null {
  return value === undefined ? null : nameOf(field, value)
}

/** @throws EngineError VALIDATION when it is no name */
export function nameOf(field: string, value: unknown): string {
  if (!isName(value))
    throw new EngineError('VALIDATION', `${field} must be ${NAME_RULE}, got ${shown(value)}`, {
      field,
      rule: NAME_RULE,
    })
  return value
}

/** What people give as a reason is stored and shown. @throws EngineError VALIDATION */
export function checkReason(reason: unknown): void {
  if (typeof reason !== 'string' || reason.includes('\0'))
    throw new EngineError('VALIDATION', 'reason must be a string free of U+0000', { field: 'reason' })
}
