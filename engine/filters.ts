// Filters of lists and of what acts on all that match. A field that is misspelt would choose everything.

import type { JobState } from './api.ts'
import { EngineError } from './base/errors.ts'

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

/** @throws EngineError VALIDATION that names the field and those that there are */
export function checkFields(filter: unknown, allowed: readonly string[]): void {
  if (typeof filter !== 'object' || filter === null)
    throw new EngineError('VALIDATION', `a filter is an object; {} means all of them, got ${filter}`, {
      field: 'filter',
    })
  for (const field of Object.keys(filter))
    if (!allowed.includes(field))
      throw new EngineError('VALIDATION', `${field} is no field of this filter: ${allowed.join(', ')}`, { field })
}
