// Computes for some milliseconds.

import { defineTask } from '../../engine/base/task.ts'
import { compute, type Payload, TASK } from './system.ts'

export default defineTask({ name: TASK, run: (payload: Payload) => compute(payload.id) })
