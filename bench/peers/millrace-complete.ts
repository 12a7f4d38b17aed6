// Writes a row and ends its job in the same transaction.

import { defineTask, type TaskContext } from '../../engine/base/task.ts'
import { inTransaction, writeEffect } from './effect.ts'
import { type Payload, TASK } from './system.ts'

export default defineTask({
  name: TASK,
  concurrency: 8,
  run: ({ id }: Payload, ctx: TaskContext) =>
    inTransaction(async (client) => {
      await writeEffect(client, id)
      await ctx.complete(client, id)
    }),
})
