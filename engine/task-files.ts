// Which files hold the tasks: a folder's modules, or files that were named. Threads import them; here they are only found.

import { readdirSync, statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { Catalog, TaskInfo } from '../threads/lanes.ts'
import { EngineError } from './base/errors.ts'
import { isTask, type TaskDefinition } from './base/task.ts'
import type { PublishedOptions } from './store/types.ts'

/** A folder, a file, a URL, or task definitions; or a list of them. */
export type TaskSource = string | URL | TaskDefinition<string, never, unknown>

const MODULE = /\.(js|mjs|cjs)$/
const TYPESCRIPT = /\.(ts|mts|cts)$/
const NOT_A_TASK = /(\.d\.[cm]?ts|\.(test|spec)\.[cm]?[jt]s)$/
const FILES_MAX = 10_000
/** Files that an error names. */
const NAMED_MAX = 5

export interface TaskFiles {
  /** URLs of the files that threads import. */
  readonly modules: readonly string[]
  /** Definitions whose handlers run on the main thread. */
  readonly inline: readonly TaskDefinition[]
}

/** @throws EngineError CONFIG_INVALID when a source does not exist or a definition says neither `module` nor `inline` */
export function findTaskFiles(
  sources: TaskSource | readonly TaskSource[],
  cwd: string,
  typescript: boolean,
): TaskFiles {
  const modules = new Set<string>()
  const inline: TaskDefinition[] = []
  for (const source of Array.isArray(sources) ? (sources as readonly TaskSource[]) : [sources as TaskSource]) {
    if (isTask(source)) {
      if (source.inline) {
        const other = inline.find(({ name }) => name === source.name)
        if (other !== undefined && other !== source)
          throw definedTwice(source.name, ['one definition that was given', 'another'])
        if (other === undefined) inline.push(source)
      } else if (source.module) modules.add(source.module)
      else {
        throw new EngineError(
          'CONFIG_INVALID',
          `task ${JSON.stringify(source.name)} does not say which file exports it: add module: import.meta.url, give the engine its folder, or set inline: true`,
          { task: source.name },
        )
      }
    } else if (typeof source === 'string' || source instanceof URL) {
      for (const path of filesOf(pathOf(source, cwd), typescript)) modules.add(pathToFileURL(path).href)
    } else {
      throw new EngineError(
        'CONFIG_INVALID',
        `tasks must be folders, files or what defineTask returned, got ${typeof source}`,
        {},
      )
    }
  }
  return { modules: [...modules], inline }
}

/**
 * Refuses tasks with which an engine should not start: two definitions of one name, of which one would never run, and
 * sources that give no task at all, which is mostly a wrong folder or a build that failed. An empty list gives none on purpose.
 * @throws EngineError CONFIG_INVALID; TASK_LOAD_FAILED when there are files and none of them loads
 */
export function checkCatalog(
  { tasks, broken, doubles }: Catalog,
  { modules }: TaskFiles,
  sources: TaskSource | readonly TaskSource[],
): void {
  const [double] = doubles
  if (double !== undefined) throw definedTwice(double.task, double.places)
  const given = Array.isArray(sources) ? (sources as readonly TaskSource[]) : [sources as TaskSource]
  if (tasks.length > 0 || given.length === 0) return
  if (broken.length > 0)
    throw new EngineError(
      'TASK_LOAD_FAILED',
      `there is no task: ${some(broken.map(({ file, message }) => `${file} did not load, ${message}`))}`,
      { broken },
    )
  throw new EngineError(
    'CONFIG_INVALID',
    modules.length === 0
      ? `there is no task: ${some(given.map(String))} holds no .js, .mjs or .cjs file`
      : `there is no task: ${some(modules)} exports nothing that defineTask returned`,
    { field: 'tasks' },
  )
}

function some(list: readonly string[]): string {
  return `${list.slice(0, NAMED_MAX).join('; ')}${list.length > NAMED_MAX ? `; and ${list.length - NAMED_MAX} more` : ''}`
}

function definedTwice(task: string, [one, other]: readonly [string, string]): EngineError {
  const where = one === other ? `in ${one}` : `by ${one} and by ${other}`
  return new EngineError('CONFIG_INVALID', `task ${JSON.stringify(task)} is defined twice, ${where}`, {
    field: 'tasks',
    task,
  })
}

/** What a node tells of its tasks. The order of the fields is part of it: two definitions are compared as text. */
export function publishedTasks(tasks: readonly TaskInfo[]): { name: string; options: PublishedOptions }[] {
  return tasks.map((task) => ({
    name: task.name,
    options: {
      queue: task.queue,
      maxAttempts: task.maxAttempts,
      timeoutMs: task.timeoutMs,
      graceMs: task.graceMs,
      heartbeatMs: task.heartbeatMs,
      retry: task.decides ? { kind: 'custom' } : task.retry,
      group: task.group,
      groupLimit: task.groupLimit,
      onRetry: task.onRetry,
      concurrency: task.concurrency,
    },
  }))
}

function pathOf(source: string | URL, cwd: string): string {
  if (source instanceof URL || source.startsWith('file:')) return fileURLToPath(source)
  return resolve(cwd, source)
}

function filesOf(path: string, typescript: boolean): string[] {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (!stat) throw new EngineError('CONFIG_INVALID', `tasks: there is no folder or file ${path}`, { path })
  if (stat.isFile()) return [path]
  const names = readdirSync(path).filter((name) => !NOT_A_TASK.test(name) && !name.startsWith('.'))
  const found = names.filter((name) => MODULE.test(name) || (typescript && TYPESCRIPT.test(name))).sort()
  if (found.length > FILES_MAX)
    throw new EngineError('CONFIG_INVALID', `tasks: ${path} has ${found.length} files, at most ${FILES_MAX} are read`, {
      path,
    })
  if (found.length === 0 && !typescript && names.some((name) => TYPESCRIPT.test(name))) {
    throw new EngineError(
      'CONFIG_INVALID',
      `tasks: ${path} holds TypeScript only, which this Node does not run: name the folder of the built files`,
      { path },
    )
  }
  return found.map((name) => join(path, name)).filter((file) => statSync(file).isFile())
}
