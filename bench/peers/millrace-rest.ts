// Waits for some milliseconds, as a job does that calls somebody: many workers at once are worth as much as they are many.

import { setTimeout as sleep } from 'node:timers/promises'
import { defineTask } from '../../engine/base/task.ts'

export const REST_TASK = 'bench-rest'

export default defineTask({ name: REST_TASK, run: (ms: number) => sleep(ms) })
