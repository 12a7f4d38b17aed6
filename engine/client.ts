// A client: enqueues and looks, without threads.

import { Access } from './access.ts'
import type { Client, Registry, RegistryOf } from './api.ts'
import type { Clock } from './base/clock.ts'
import type { Log } from './base/log.ts'
import type { TaskDefinition } from './base/task.ts'
import type { Settings } from './config/settings.ts'
import type { TaskDefaults } from './enqueuer/options.ts'

export interface ClientOptions extends Partial<Omit<Settings, 'tasks' | 'migrate'>> {
  /**
   * Definitions of tasks, for their names and types. Not needed for their options: what running nodes have published counts
   * here too. Those of a definition that is given here count before them.
   */
  readonly tasks?: readonly TaskDefinition<string, never, unknown>[]
  readonly log?: Log
  readonly clock?: Clock
}

/**
 * Enqueues and looks, without threads: for web servers and scripts. Connects when first used; as in createEngine the
 * environment is not read, but for NODE_ENV. An enqueue waits for a database that is not up yet, for `enqueueTimeoutMs`.
 * It makes no tables by itself: an engine that starts does, `millrace migrate`, or `migrate()`; before that every call fails
 * with SCHEMA_MISSING.
 */
export function createClient<const Tasks extends readonly TaskDefinition<string, never, unknown>[]>(
  options: ClientOptions & { readonly tasks: Tasks },
): Client<RegistryOf<Tasks>>
export function createClient<Tasks = Registry>(options?: ClientOptions): Client<Tasks>
export function createClient(options: ClientOptions = {}): Client {
  return new MillraceClient(options) as unknown as Client
}

class MillraceClient extends Access {
  readonly #defaults = new Map<string, TaskDefaults>()

  constructor({ tasks = [], ...options }: ClientOptions) {
    super(options)
    for (const task of tasks) this.#defaults.set(task.name, task)
  }

  protected override defaultsOf(task: string): TaskDefaults | undefined {
    return this.#defaults.get(task)
  }

  protected override taskNames(): Iterable<string> {
    return this.#defaults.keys()
  }

  async close(): Promise<void> {
    this.stopOpening()
    await this.closeEnqueuer()
    await this.closeStore()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
