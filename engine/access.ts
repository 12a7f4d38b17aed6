// What an engine and a client share: the settings, the way to PostgreSQL (the embedded server included), enqueueing, the
// console and the verbs of schedules. Nothing connects before it is used.

import { resolve } from 'node:path'
import { cwd, version as nodeVersion } from 'node:process'
import type { Console, Schedules as ScheduleVerbs } from './api.ts'
import { type Clock, systemClock } from './base/clock.ts'
import { EngineError } from './base/errors.ts'
import { type Log, silentLog } from './base/log.ts'
import { didYouMean } from './base/nearest.ts'
import { activeTraceHeaders } from './base/trace.ts'
import { loadConfig } from './config/load.ts'
import type { Settings } from './config/settings.ts'
import { openConsole } from './console.ts'
import { Enqueuer } from './enqueuer/enqueuer.ts'
import type { TaskDefaults } from './enqueuer/options.ts'
import { openSchedules } from './schedule-verbs.ts'
import { placeOf } from './store/connection.ts'
import { DatabaseTime } from './store/database-time.ts'
import { type EmbeddedServer, openEmbedded } from './store/embedded.ts'
import { Patience } from './store/patience.ts'
import { ScheduleStore } from './store/schedule-store.ts'
import { Store } from './store/store.ts'
import type { MigrationReport } from './store/types.ts'

/** Every setting but the tasks, and what only code can hand over. */
export interface AccessOptions extends Partial<Omit<Settings, 'tasks'>> {
  readonly log?: Log
  readonly clock?: Clock
}

/** What an engine and a client share: settings, the way to PostgreSQL, enqueueing and the console. */
export class Access {
  protected readonly settings: Settings
  /** Judges what is due. */
  protected readonly clock: Clock
  /** The same but under test: of connections, threads, this node's life, and waits for them. */
  protected readonly machineClock: Clock
  protected readonly log: Log
  protected embedded: EmbeddedServer | null = null
  #store: Store | null = null
  /** Not known yet whether it can be used. */
  #opening: Store | null = null
  readonly #patience: Patience
  #enqueuer: Enqueuer | null = null
  #console: Console | null = null
  #schedules: ScheduleVerbs | null = null
  #scheduleStore: ScheduleStore | null = null
  #enqueued = 0

  constructor({ log, clock, ...settings }: AccessOptions) {
    this.settings = { ...loadConfig({ options: settings }).values }
    this.log = log ?? silentLog
    this.clock = clock ?? systemClock
    this.machineClock = this.clock.machine?.clock ?? this.clock
    this.#patience = new Patience({ clock: this.machineClock, log: this.log, place: () => this.#place() })
  }

  protected get store(): Store {
    if (!this.#store) throw new EngineError('NOT_STARTED', 'not connected yet; call start() first')
    return this.#store
  }

  /** Whether opening brings the schema up; otherwise it must be there. */
  protected get migrates(): boolean {
    return false
  }

  /** Connects once: starts the embedded server when no database is given, and brings the schema up if this one may. */
  protected readonly open = once(() => this.#open())

  /** The same, and goes on trying for so long while PostgreSQL is not up. @throws EngineError as open, or STOPPING */
  protected openWithin(forMs: number): Promise<void> {
    return this.#patience.until(this.open, forMs)
  }

  /** Whoever still waits for PostgreSQL is refused, and what is under way to it is dropped. */
  protected stopOpening(): void {
    this.#patience.end()
    this.#opening?.abandon()
  }

  /** Drops every connection at once. */
  protected abandonStore(): void {
    this.#opening?.abandon()
    this.#store?.abandon()
  }

  async #open(): Promise<void> {
    const store = await this.#connect()
    this.#opening = store
    try {
      if (this.migrates) await store.migrate()
      else await store.checkVersion()
    } catch (error) {
      await store.close()
      await this.embedded?.close()
      this.embedded = null
      throw error
    } finally {
      this.#opening = null
    }
    this.#store = store
    this.log.info({ database: this.#place(), schema: this.settings.schema }, 'database.opened')
  }

  /** The way to PostgreSQL, whatever the schema is. */
  async #connect(): Promise<Store> {
    const { database, dataDir, schema, statementTimeoutMs, preparedStatements } = this.settings
    if (database === null && this.embedded === null) {
      this.#checkEmbedded()
      this.embedded = await openEmbedded({
        dataDir: resolve(cwd(), dataDir, 'pg'),
        clock: this.machineClock,
        log: this.log,
      })
      this.log.info({ dataDir: this.embedded.dataDir, shared: this.embedded.shared }, this.embedded.notice)
    }
    return new Store({
      url: this.databaseUrl(),
      schema,
      clock: this.machineClock,
      time: new DatabaseTime(this.clock),
      timeoutMs: statementTimeoutMs,
      prepared: preparedStatements,
      name: 'millrace',
    })
  }

  /** A forgotten DATABASE_URL must not make a production of its own, in a folder that nobody saves. */
  #checkEmbedded(): void {
    if (this.settings.embedded || process.env.NODE_ENV !== 'production') return
    throw new EngineError(
      'CONFIG_INVALID',
      'NODE_ENV is production and no database is given: set `database` (on the command line DATABASE_URL), or `embedded: true` (--embedded, MILLRACE_EMBEDDED) to run on the embedded server',
      { setting: 'database', value: null, rule: 'given in production, unless embedded is true' },
    )
  }

  /** The database that this runs on, as it may be shown. */
  #place(): string {
    const { database, dataDir } = this.settings
    return database === null ? `embedded server in ${resolve(cwd(), dataDir)}` : placeOf(database)
  }

  protected databaseUrl(): string {
    return this.settings.database ?? this.embedded!.url
  }

  protected async closeStore(): Promise<void> {
    const { embedded } = this
    this.embedded = null
    try {
      await this.#store?.close()
    } finally {
      await embedded?.close()
    }
  }

  protected get enqueuer(): Enqueuer {
    this.#enqueuer ??= new Enqueuer(
      {
        clock: this.clock,
        store: this.store,
        databaseNowMs: () => this.clock.wallMs() + this.store.time.leadMs(),
        defaultsOf: (task) => this.defaultsOf(task),
        onExpiry: (atMs) => this.onExpiry(atMs),
        onUnknownTask: (task) => this.onUnknownTask(task),
        traceHeaders: activeTraceHeaders,
        onEnqueued: (queueIds, dueAtMs) => this.onEnqueued(queueIds, dueAtMs),
      },
      this.settings,
    )
    return this.#enqueuer
  }

  protected async closeEnqueuer(): Promise<void> {
    await this.#enqueuer?.close()
  }

  protected get enqueuedCount(): number {
    return this.#enqueued
  }

  protected defaultsOf(_task: string): TaskDefaults | undefined {
    return undefined
  }

  /** Jobs were enqueued that expire at this time, soon. */
  protected onExpiry(_atMs: number): void {}

  /** Nobody has it, as far as anybody has said: mostly a slip of the fingers, and such a job would wait for ever in silence. */
  protected onUnknownTask(task: string): void {
    const hint = didYouMean(task, this.taskNames())
    this.log.warn(
      { task, why: `no node has published this task${hint}; its jobs wait for one that has it` },
      'task.unknown',
    )
  }

  /** Tasks that this process has the definition of. */
  protected taskNames(): Iterable<string> {
    return []
  }

  protected onEnqueued(_queueIds: readonly number[], _dueAtMs: number | null): void {}

  async enqueue(...args: Parameters<Enqueuer['enqueue']>): ReturnType<Enqueuer['enqueue']> {
    if (!this.#store) await this.openWithin(this.settings.enqueueTimeoutMs)
    const done = await this.enqueuer.enqueue(...args)
    this.#enqueued++
    return done
  }

  async enqueueMany(...args: Parameters<Enqueuer['enqueueMany']>): ReturnType<Enqueuer['enqueueMany']> {
    if (!this.#store) await this.openWithin(this.settings.enqueueTimeoutMs)
    const done = await this.enqueuer.enqueueMany(...args)
    this.#enqueued += done.count
    return done
  }

  get console(): Console {
    this.#console ??= lateConsole(async () => {
      await this.open()
      return openConsole(this.store, nodeVersion)
    }, this.schedules)
    return this.#console
  }

  get schedules(): ScheduleVerbs {
    this.#schedules ??= lateSchedules(async () => {
      await this.open()
      return openSchedules({
        store: this.scheduleStore,
        queueIds: (names) => this.store.queueIds(names),
        taskIds: (names) => this.store.taskIds(names),
        check: (task, payload, options) => this.enqueuer.check(task, payload, options),
        enqueue: (task, payload, options) => this.enqueue(task, payload, options),
      })
    })
    return this.#schedules
  }

  protected get scheduleStore(): ScheduleStore {
    this.#scheduleStore ??= new ScheduleStore(this.store, this.clock)
    return this.#scheduleStore
  }

  async migrate(dryRun = false): Promise<MigrationReport> {
    if (this.#store) return this.store.migrate(dryRun)
    const store = await this.#connect()
    try {
      return await store.migrate(dryRun)
    } finally {
      await store.close()
    }
  }
}

/** The console's methods, connecting when one is first called. */
function lateConsole(open: () => Promise<Omit<Console, 'schedules'>>, schedules: ScheduleVerbs): Console {
  const get = once(open)
  return {
    schedules,
    queues: async () => (await get()).queues(),
    queue: {
      names: async () => (await get()).queue.names(),
      stats: async (queue) => (await get()).queue.stats(queue),
      pause: async (queue) => (await get()).queue.pause(queue),
      resume: async (queue) => (await get()).queue.resume(queue),
      purge: async (queue, reason) => (await get()).queue.purge(queue, reason),
    },
    results: {
      list: async (filter) => (await get()).results.list(filter),
      page: async (filter) => (await get()).results.page(filter),
      cleanup: async (filter) => (await get()).results.cleanup(filter),
    },
    nodes: async () => (await get()).nodes(),
    loops: async (overMs) => (await get()).loops(overMs),
    jobs: async (filter) => (await get()).jobs(filter),
    job: async (id) => (await get()).job(id),
    unserved: async () => (await get()).unserved(),
    explain: async (id) => (await get()).explain(id),
    dead: {
      list: async (filter) => (await get()).dead.list(filter),
      requeue: async (filter, options) => (await get()).dead.requeue(filter, options),
      purge: async (filter) => (await get()).dead.purge(filter),
    },
    cancel: async (id, reason) => (await get()).cancel(id, reason),
    doctor: async () => (await get()).doctor(),
    migrations: async (dryRun) => (await get()).migrations(dryRun),
    grants: async (role, kind) => (await get()).grants(role, kind),
  }
}

/** The same for schedules. */
function lateSchedules(open: () => Promise<ScheduleVerbs>): ScheduleVerbs {
  const get = once(open)
  return {
    register: async (list, options) => (await get()).register(list, options),
    create: async (definition) => (await get()).create(definition),
    update: async (id, change) => (await get()).update(id, change),
    delete: async (id) => (await get()).delete(id),
    pause: async (id) => (await get()).pause(id),
    resume: async (id) => (await get()).resume(id),
    trigger: async (id, overrides) => (await get()).trigger(id, overrides),
    get: async (id) => (await get()).get(id),
    list: async (filter) => (await get()).list(filter),
    upcoming: async (id, count) => (await get()).upcoming(id, count),
    history: async (id, filter) => (await get()).history(id, filter),
  }
}

/** Opens at the first call and shares what came of it; a failure is forgotten, so that the next call tries again. */
function once<T>(open: () => Promise<T>): () => Promise<T> {
  let opened: Promise<T> | null = null
  return () => {
    opened ??= open().catch((error) => {
      opened = null
      throw error
    })
    return opened
  }
}
