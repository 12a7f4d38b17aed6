// Typed tasks for the fixtures of the types.

import { defineTask } from '../../engine/index.ts'

export const resize = defineTask({
  name: 'resize',
  module: import.meta.url,
  run: ({ file, width }: { file: string; width: number }) => ({ bytes: file.length * width }),
})

export const ping = defineTask({ name: 'ping', module: import.meta.url, run: (_payload: null) => 'pong' })

export const tasks = [resize, ping] as const
