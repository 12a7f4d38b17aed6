// What must compile.

import {
  type Client,
  createClient,
  createEngine,
  type Engine,
  type EnqueueItem,
  type Producer,
  type RegistryOf,
  type TaskDefinition,
} from '../../engine/index.ts'
import { ping, resize, tasks } from './tasks.ts'

type Tasks = RegistryOf<typeof tasks>

const same: Tasks = { resize: { file: 'a', width: 1 }, ping: null }
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

  const byTasks = createClient({ tasks })
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
  const items: EnqueueItem[] = [{ task: 'x' }, { task: 'y', payload: 1 }]
  await loose.enqueueMany(items)
  await loose.stop()
}

function all(...values: unknown[]): number {
  return values.length
}

export { same, task }
