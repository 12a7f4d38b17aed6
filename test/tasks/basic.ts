// Tasks that behave.

import { setTimeout as sleep } from 'node:timers/promises'
import { defineTask } from '../../engine/base/task.ts'

export const noop = defineTask({ name: 'noop', run: () => {} })

export const noopAsync = defineTask({ name: 'noop-async', run: async () => {} })

export const echo = defineTask({ name: 'echo', run: (payload: unknown) => payload })

export default defineTask({
  name: 'rest',
  run: async (ms: number) => {
    await sleep(ms)
    return ms
  },
})
