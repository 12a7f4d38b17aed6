// Says when it started, on the clock that all processes share.

import { defineTask } from '../../engine/base/task.ts'
import { monotonicUs, TASK } from './system.ts'

export default defineTask({ name: TASK, run: () => monotonicUs() })
