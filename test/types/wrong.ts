// What must not compile: the build fails when one of the lines below a mark would.

import { createClient, createEngine, defineTask, type RegistryOf, type TaskContext } from '../../engine/index.ts'
import { ping, resize, tasks } from './tasks.ts'

export const engine = createEngine({ tasks: [resize, ping] })
export const client = createClient({ tasks })
export const byEngine = createClient<RegistryOf<typeof tasks>>()

// @ts-expect-error
engine.enqueue('resise', { file: 'a', width: 1 })
// @ts-expect-error
engine.enqueue('resize', { file: 'a', width: 'wide' })
// @ts-expect-error
engine.enqueue('resize', { file: 'a' })
// @ts-expect-error
engine.enqueue('resize', null)
// @ts-expect-error
engine.enqueue('resize')
// @ts-expect-error
client.enqueue('ping', 'payload')
// @ts-expect-error
client.enqueue('pong', null)
// @ts-expect-error
byEngine.enqueue('pong', null)
// @ts-expect-error
client.enqueueMany('resize', [
  { file: 'a', width: 1 },
  { file: 1, width: 1 },
])
// @ts-expect-error
client.enqueue('ping', null, { prio: 1 })
// @ts-expect-error
client.enqueue('ping', null, { priority: 'high' })
// @ts-expect-error
client.enqueue('ping', null, { retry: { kind: 'sometimes' } })
// @ts-expect-error
client.enqueue('maybe', { at: 'noon' })
// @ts-expect-error
client.enqueueMany([{ task: 'resize' }])
// @ts-expect-error
engine.schedules.create({ task: 'resise', cron: '@daily', payload: { file: 'a', width: 1 } })
// @ts-expect-error
engine.schedules.create({ task: 'resize', cron: '@daily' })
// @ts-expect-error
client.schedules.create({ task: 'resize', cron: '@daily', payload: { file: 'a' } })
// @ts-expect-error
client.schedules.register([{ task: 'tock', cron: '@daily' }])
// @ts-expect-error
client.schedules.update('resize', { task: 'resise' })
// @ts-expect-error
client.console.schedules.create({ task: 'resise', cron: '@daily' })
// @ts-expect-error
createEngine({ tasks: [resize], thread: 4 })
// @ts-expect-error
defineTask({ name: 'x', maxAttempts: '3', run: () => {} })
defineTask({
  name: 'y',
  run: (_: unknown, ctx: TaskContext) => {
    // @ts-expect-error
    ctx.job.id = 1
    // @ts-expect-error
    ctx.log.inform('hello')
  },
})
