// Writes a row in a transaction and commits it; the end of the job follows by itself.

import { defineTask } from '../../engine/base/task.ts'
import { inTransaction, writeEffect } from './effect.ts'
import { type Payload, TASK } from './system.ts'

export default defineTask({
  name: TASK,
  concurrency: 8,
  run: ({ id }: Payload) =>
    inTransaction(async (client) => {
      await writeEffect(client, id)
      return id
    }),
})
