// Tasks whose options show in what becomes of their jobs, for the tests of published options.

import { defineTask } from '../../engine/base/task.ts'

/** Fails for good at the first try, in a group of its own queue. */
export const once = defineTask({
  name: 'once',
  queue: 'special',
  maxAttempts: 1,
  group: 'onces',
  groupLimit: 2,
  onRetry: 'skip',
  retry: { kind: 'fixed', delayMs: 0 },
  run: () => {
    throw new Error('as always')
  },
})

/** Fails for good at the second try, whatever somebody thinks who does not know it; and its own function decides when. */
export const twice = defineTask({
  name: 'twice',
  maxAttempts: 2,
  retry: () => 0,
  run: () => {
    throw new Error('as always')
  },
})
