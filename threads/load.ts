// Loading of task files: imports them one by one, finds what defineTask returned among their exports, and describes
// each task with every default filled in. A file that does not load is named in the catalog; the others still load.

import { MAX_ATTEMPTS_DEFAULT } from '../engine/base/limits.ts'
import { RETRY_DEFAULT } from '../engine/base/retry-policy.ts'
import { isTask, type TaskDefinition } from '../engine/base/task.ts'
import type { Catalog, TaskInfo } from './lanes.ts'
import { loadMessage } from './load-message.ts'

export interface Loaded {
  readonly catalog: Catalog
  readonly tasks: ReadonlyMap<string, TaskDefinition>
}

/** `onImport` is called with the index of each file before it is imported. */
export async function loadTasks(
  modules: readonly string[],
  skip: readonly number[],
  onImport: (index: number) => void,
): Promise<Loaded> {
  const tasks = new Map<string, TaskDefinition>()
  const files = new Map<string, string>()
  const catalog: Catalog = { tasks: [], broken: [], doubles: [] }
  for (const [index, file] of modules.entries()) {
    if (skip.includes(index)) continue
    onImport(index)
    let exports: Record<string, unknown>
    try {
      exports = (await import(file)) as Record<string, unknown>
    } catch (error) {
      catalog.broken.push({ file, message: await loadMessage(error, file) })
      continue
    }
    for (const task of tasksOf(exports)) {
      const other = files.get(task.name)
      if (tasks.get(task.name) === task) continue // the same object, exported twice or re-exported
      if (other !== undefined) {
        catalog.doubles.push({ task: task.name, places: [other, file] })
        continue
      }
      tasks.set(task.name, task)
      files.set(task.name, file)
      catalog.tasks.push(describeTask(task, file))
    }
  }
  return { catalog, tasks }
}

/** All about a task but its handler. */
export function describeTask(task: TaskDefinition, file: string): TaskInfo {
  return {
    name: task.name,
    file,
    queue: task.queue ?? 'default',
    maxAttempts: task.maxAttempts ?? MAX_ATTEMPTS_DEFAULT,
    group: task.group ?? null,
    groupLimit: task.groupLimit ?? null,
    onRetry: task.onRetry ?? 'block',
    timeoutMs: task.timeoutMs ?? null,
    graceMs: task.graceMs ?? 5_000,
    heartbeatMs: task.heartbeatMs ?? null,
    concurrency: task.concurrency ?? 1,
    retry: typeof task.retry === 'object' ? task.retry : RETRY_DEFAULT, // a function stays in the thread
    decides: typeof task.retry === 'function',
    inline: task.inline ?? false,
  }
}

/** The tasks among a file's exports: default, named, and in exported arrays. */
function* tasksOf(exports: Record<string, unknown>): Generator<TaskDefinition> {
  for (const value of Object.values(exports)) {
    if (isTask(value)) yield value
    else if (Array.isArray(value)) for (const item of value) if (isTask(item)) yield item
  }
}
