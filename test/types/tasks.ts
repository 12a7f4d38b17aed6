// Typed tasks for the fixtures of the types.

import { defineTask } from '../../engine/index.ts'

export const resize = defineTask({
  name: 'resize',
  module: import.meta.url,
  run: ({ file, width }: { file: string; width: number }) => ({ bytes: file.length * width }),
})

export const ping = defineTask({ name: 'ping', module: import.meta.url, run: (_payload: null) => 'pong' })

/** Takes nothing. */
export const tick = defineTask({ name: 'tick', module: import.meta.url, run: () => 'tock' })

export const never = defineTask({ name: 'never', module: import.meta.url, run: (_payload: undefined) => 'tock' })

export const maybe = defineTask({
  name: 'maybe',
  module: import.meta.url,
  run: async (payload?: { at?: number } | null) => payload?.at,
})

export const tasks = [resize, ping, tick, never, maybe] as const
