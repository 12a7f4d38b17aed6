// What must compile.

import {
  type Client,
  createClient,
  createEngine,
  type Engine,
  type EnqueueItem,
  type Log,
  type Producer,
  type RegistryOf,
  type ScheduleChange,
  type ScheduleDefinition,
  type TaskContext,
  type TaskDefinition,
} from '../../engine/index.ts'
import { ping, resize, tasks } from './tasks.ts'

type Tasks = RegistryOf<typeof tasks>

const same: Tasks = { resize: { file: 'a', width: 1 }, ping: null, tick: undefined, never: undefined, maybe: {} }
const task: TaskDefinition<'resize', { file: string; width: number }, { bytes: number }> = resize

export async function use(): Promise<void> {
  const engine = createEngine({ tasks: [resize, ping] })
  await engine.enqueue('resize', { file: 'a', width: 1 })
  await engine.enqueue('ping', null, { priority: 1 })
  await engine.enqueueMany('resize', [{ file: 'a', width: 1 }])
  await engine.enqueueMany([
    { task: 'resize', payload: { file: 'a', width: 1 }, options: { group: 'g' } },
    { task: 'ping', payload: null },
  ])

  // a task that takes nothing needs no payload
  const byTasks = createClient({ tasks })
  await byTasks.enqueue('tick')
  await byTasks.enqueue('never')
  await byTasks.enqueue('never', undefined, { delayMs: 10 })
  await byTasks.enqueue('maybe')
  await byTasks.enqueue('maybe', { at: 1 })
  await engine.enqueue('ping')
  await byTasks.enqueueMany('tick', [null, null])
  await byTasks.enqueueMany([{ task: 'tick' }, { task: 'maybe', payload: { at: 1 } }, { task: 'ping' }])
  await byTasks.schedules.create({ task: 'tick', cron: '@daily' })
  await byTasks.schedules.create({ task: 'maybe', cron: '@daily' })
  await byTasks.schedules.register([
    { task: 'resize', cron: '@daily', payload: { file: 'a', width: 1 }, timeZone: 'Europe/Berlin' },
    { task: 'tick', cron: '@hourly', options: { priority: 1 } },
  ])
  await byTasks.schedules.update('resize', { task: 'tick', payload: {}, paused: true })

  await byTasks.enqueue('resize', { file: 'a', width: 1 })
  const byEngine: Client<RegistryOf<typeof tasks>> = createClient<RegistryOf<typeof tasks>>()
  await byEngine.enqueue('ping', null)

  // who only enqueues needs no more than this, and gets an engine or a client
  const producers: Producer<Tasks>[] = [engine, byTasks, byEngine]
  const [{ id }] = [await producers[0]!.enqueue('ping', null)]
  const exact: number = id

  // without tasks any name and payload will do
  const loose: Engine = createEngine({ tasks: './tasks' })
  await loose.enqueue('anything', { at: all(exact) })
  await loose.enqueue('anything')
  const daily: ScheduleDefinition = { task: 'anything', cron: '@daily', payload: 1 }
  await loose.schedules.create(daily)
  const change: ScheduleChange = { cron: '@hourly' }
  await loose.schedules.update('anything', change)
  const items: EnqueueItem[] = [{ task: 'x' }, { task: 'y', payload: 1 }]
  await loose.enqueueMany(items)
  await loose.stop()
}

export function logs({ log }: TaskContext, error: unknown): Log {
  log.info('hello')
  log.info('%s of %d', 'one', 2)
  log.info({ n: 1 }, 'hello')
  log.info({ n: 1 })
  log.error(error)
  log.error(error, 'it failed after %d ms', 10)
  log.child({ part: 1 }).debug({ error }, 'hello')
  return log
}

function all(...values: unknown[]): number {
  return values.length
}

export { same, task }
