// The no-op: it gives its payload's id back, so that a result is kept and can be checked.

import { defineTask } from '../../engine/base/task.ts'
import { type Payload, TASK } from './system.ts'

export default defineTask({ name: TASK, run: (payload: Payload) => payload.id })
