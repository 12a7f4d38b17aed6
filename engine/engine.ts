// The composition root: builds every part from the settings, hands each what it needs, starts them upwards and stops
// them downwards. Here parts of one floor meet; nowhere else.
//
//   embedded server ─ store ─ node ─ outbox, syncer ─ threads, scheduler ─ claimer, listener
//
// Life: start (connect, migrate, replay what was left on disk, recover predecessors, load tasks, work), then quiet and
// stop under one deadline. When this node was declared dead it drops what it held, unreported, and begins anew.

import { Console } from 'node:console'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { cwd, features, stderr } from 'node:process'
import { Inbox } from '../threads/inbox.ts'
import type { Catalog } from '../threads/lanes.ts'
import { lanesInTimeOf } from '../threads/moved-lanes.ts'
import { ThreadPool } from '../threads/pool.ts'
import { Access } from './access.ts'
import {
  type Engine,
  type EngineStats,
  type Registry,
  type RegistryOf,
  RUNTIME_SETTINGS,
  type RuntimeSettings,
  type ScheduleDefinition,
  type Spread,
  type StopReport,
} from './api.ts'
import { type Clock, systemClock } from './base/clock.ts'
import { codeOf, EngineError, messageOf } from './base/errors.ts'
import { Deadline, Descent } from './base/lifecycle.ts'
import { type Log, textLog } from './base/log.ts'
import type { TaskDefinition } from './base/task.ts'
import { Cancels } from './cancels.ts'
import { Claimer } from './claimer/claimer.ts'
import { loadConfig } from './config/load.ts'
import type { Settings } from './config/settings.ts'
import type { TaskDefaults } from './enqueuer/options.ts'
import { Expiry } from './expiry.ts'
import { JobLog } from './job-log.ts'
import { Node } from './node.ts'
import { Schedules } from './occurrences/schedules.ts'
import { Retention } from './retention.ts'
import type { Message } from './scheduler/messages.ts'
import { Scheduler } from './scheduler/scheduler.ts'
import { backoffMs } from './store/connection.ts'
import { Listener } from './store/listener.ts'
import { writeLoopSamples } from './store/loop-samples.ts'
import { writeOccurrenceStates } from './store/occurrence-states.ts'
import { RetentionStore } from './store/retention-store.ts'
import { completeSql } from './store/statements.ts'
import type { Store } from './store/store.ts'
import type { ClaimedChunk, DoubtItem, Flush } from './store/types.ts'
import { Strays } from './strays.ts'
import { Outbox } from './syncer/outbox.ts'
import { Syncer } from './syncer/syncer.ts'
import { checkCatalog, findTaskFiles, publishedTasks, type TaskFiles, type TaskSource } from './task-files.ts'

/** Every setting (see `millrace config`), the tasks, and who writes the log. */
export interface EngineOptions<Tasks = TaskSource | readonly TaskSource[]> extends Partial<Omit<Settings, 'tasks'>> {
  /** A folder or files whose modules export tasks, or task definitions. Default './tasks'. */
  readonly tasks?: Tasks
  /**
   * Registered at the start: what was registered earlier for the same queues (those named here, and `queues`, default
   * 'default') and is not in the list is deleted. Without it nothing is touched.
   */
  readonly schedules?: readonly ScheduleDefinition[]
  /** Default: warnings and errors as text on standard error. `silentLog` says nothing. */
  readonly log?: Log
  /** For tests: see `millrace/testing`. */
  readonly clock?: Clock
}

/** Of the time to stop: what the syncer keeps for writing what is left. */
const FLUSH_SHARE = 0.3
const INLINE_COST = 'they run on the main thread: one that blocks, blocks the engine; one that crashes, ends it'
/** What kill() allows for giving back and writing. */
const KILL_MS = 2_000
/** How often it is looked whether what a fence has ended is over, in ms. */
const VACATING_LOOK_MS = 10
/** How often it is tried to open what is held by the node that this process was, in ms. */
const REOPEN_EVERY_MS = 250
/** So long after its time a stop waits for a server that says nothing; by then all that it may still do is done. */
const CUT_AFTER_MS = 4_000

/**
 * An engine: a queue, a scheduler and threads in this process. It does nothing until `start()`.
 * The environment is not read: `database: process.env.DATABASE_URL` is the caller's to say, and where `database` is left out
 * or undefined, an embedded server for development runs in `dataDir`. Where NODE_ENV is production, `start()` refuses that,
 * unless `embedded: true` says that it is meant.
 * @throws EngineError CONFIG_INVALID naming every wrong setting
 */
export function createEngine<const Tasks extends readonly TaskDefinition<string, never, unknown>[]>(
  options: EngineOptions<Tasks> & { readonly tasks: Tasks },
): Engine<RegistryOf<Tasks>>
export function createEngine<Tasks = Registry>(options?: EngineOptions): Engine<Tasks>
export function createEngine(options: EngineOptions = {}): Engine {
  return new MillraceEngine(options) as unknown as Engine
}

type Life = 'new' | 'starting' | 'running' | 'stopping' | 'stopped'

class MillraceEngine extends Access {
  readonly #tasks: TaskSource | readonly TaskSource[]
  readonly #declared: readonly ScheduleDefinition[] | undefined
  #onStopped!: () => void
  readonly stopped = new Promise<void>((resolve) => {
    this.#onStopped = resolve
  })
  #life: Life = 'new'
  #starting: Promise<void> | null = null
  #stopping: Promise<StopReport> | null = null
  #catalog: Catalog = { tasks: [], broken: [], doubles: [] }
  #node!: Node
  #outbox!: Outbox
  #syncer!: Syncer
  #pool!: ThreadPool
  #scheduler!: Scheduler
  #claimer!: Claimer
  #cancels!: Cancels
  #expiry!: Expiry
  #strays!: Strays
  #cron!: Schedules
  #retention!: Retention
  readonly #jobLog: JobLog
  #listener: Listener | null = null
  readonly inbox: Inbox<Message>
  #isInline = false
  /** Fenced, and on its way back. */
  #rejoin: Promise<void> | null = null
  #storeId = ''
  #delivering: Promise<boolean> | null = null
  #idle: (() => void)[] = []
  #taskByName = new Map<string, TaskDefaults>()

  constructor({ tasks, schedules, log = defaultLog(), ...options }: EngineOptions) {
    super({ ...options, log })
    this.#tasks = tasks ?? './tasks'
    this.#declared = schedules
    this.#jobLog = new JobLog({ clock: this.machineClock, log: this.log })
    this.inbox = new Inbox({
      messagesMax: this.settings.inboxMessagesMax,
      sendTimeoutMs: this.settings.inboxSendTimeoutMs,
      clock: this.machineClock,
      onSend: () => this.#scheduler?.wake(),
    })
  }

  protected override get migrates(): boolean {
    return this.settings.migrate
  }

  get broken(): Catalog['broken'] {
    return this.#catalog.broken
  }

  // ------------------------------------------------------------------ start

  async start(): Promise<void> {
    if (this.#life !== 'new') throw new EngineError('NOT_STARTED', `an engine starts once; this one is ${this.#life}`)
    this.#life = 'starting'
    this.#starting = this.#start()
    await this.#starting
  }

  async #start(): Promise<void> {
    try {
      const files = findTaskFiles(this.#tasks, cwd(), 'typescript' in features && features.typescript !== false)
      this.#buildPool(files)
      const loading = this.#pool.start()
      loading.catch(() => {}) // looked at below; PostgreSQL may fail first
      await this.openWithin(this.settings.databaseWaitMs)
      this.#goOn()
      this.#storeId = await this.store.identity()
      this.#build()
      this.#goOn()
      await this.#node.start()
      this.#catalog = await loading
      this.#goOn()
      checkCatalog(this.#catalog, files, this.settings.claimUnknown ? [] : this.#tasks)
      this.#learnTasks()
      await this.store.publishTasks(this.#node.id, publishedTasks(this.#catalog.tasks))
      await this.#syncer.start()
      await this.#registerSchedules()
      await this.#cron.start()
      this.#goOn()
      this.#scheduler.start()
      this.#claimer.start()
      this.#cancels.start()
      this.#retention.start()
      this.#listen()
      this.#life = 'running'
      this.#resize() // it may have been changed meanwhile
    } catch (error) {
      this.#life = 'stopped'
      const deadline = new Deadline(this.machineClock, KILL_MS)
      const descent = new Descent(this.log)
      await descent.step('schedules', () => this.#cron?.stop())
      await descent.step('retention', () => this.#retention?.stop())
      await descent.step('cancels', () => this.#cancels?.stop())
      await descent.step('expiry', () => this.#expiry?.stop())
      await descent.step('strays', () => this.#strays?.stop())
      await descent.step('threads', () => this.#pool?.stop(deadline))
      await descent.step('syncer', () => this.#syncer?.finish(deadline))
      await descent.step('node', () => this.#node?.stop(true))
      await descent.step('outbox', () => this.#outbox?.close())
      await descent.step('enqueuer', () => this.closeEnqueuer())
      await descent.step('store', () => this.closeStore())
      await descent.step('log', () => this.#jobLog.close())
      throw error
    }
  }

  /** Between the steps of a start. */
  #goOn(): void {
    if (this.#life !== 'starting') throw new EngineError('STOPPING', 'the engine was stopped while it started')
  }

  #buildPool({ modules, inline }: TaskFiles): void {
    const { ringBytes, threadHeapMb, resultBytesMax, loadTimeoutMs, recycleAfterJobs } = this.settings
    if (inline.length > 0)
      this.log.warn({ tasks: inline.map((task) => task.name), cost: INLINE_COST }, 'engine.inline_tasks')
    this.#isInline = modules.length === 0
    this.#pool = new ThreadPool({
      threads: this.#threads(),
      modules,
      inline,
      ringBytes,
      ...(threadHeapMb > 0 ? { threadHeapMb } : {}),
      resultBytesMax,
      completeSql: completeSql(this.settings.schema),
      loadTimeoutMs,
      recycleAfterJobs,
      clock: this.machineClock,
      log: this.log,
      onDoorbell: () => this.#scheduler?.onDoorbell(),
      onLost: (lost) => this.#scheduler?.onLost(lost),
      onOpen: (lane) => this.#scheduler?.onOpen(lane),
    })
  }

  /** Lanes that there should be. The one that inline tasks alone need never runs any. */
  #threads(): number {
    return this.#isInline ? 1 : this.settings.threads
  }

  #build(): void {
    const { clock, machineClock, log, settings, store } = this
    this.#expiry = new Expiry({
      clock,
      log,
      databaseMs: () => store.time.surelyMs(),
      expireDue: (chunks) => store.expireDue(chunks),
    })
    this.#node = new Node(
      {
        clock: machineClock,
        log,
        store,
        threads: () => settings.threads,
        deliver: () => this.#deliver(),
        onFenced: (reason) => this.#fenced(reason),
        onCancels: () => this.#cancels?.ask(),
        onOverdue: (inMs) => this.#expiry.in(inMs),
        onBeat: () => this.#strays?.look(),
        onRescued: () => this.#claimer?.returned(),
      },
      { ...settings, version: packageVersion() },
    )
    this.#outbox = new Outbox(
      { folder: join(resolve(cwd(), settings.dataDir), 'outbox') },
      () => ({ schema: settings.schema, storeId: this.#storeId, nodeUid: this.#node.uid }),
      machineClock,
      log,
    )
    this.#syncer = new Syncer(
      {
        flush: (flush) => this.#flush(flush),
        writeStats: (rows) => writeLoopSamples(store, this.#node.id, clock.wallMs(), rows),
        writeOccurrences: (rows) => writeOccurrenceStates(store, this.#node.id, clock.wallMs(), rows),
        nodeId: () => this.#node.id,
        clockLeadMs: () => store.time.leadMs(),
        onDoubtSettled: (doubt, committed) => this.#doubtSettled(doubt, committed),
        onStale: (leases, dropped) => log.warn({ leases: leases.slice(0, 20), dropped }, 'report.stale'),
        onFlushed: () => this.#checkIdle(),
        onRoom: () => this.#scheduler.wake(),
        onFailed: (error) => this.#stopItself(`the writer of outcomes failed: ${messageOf(error)}`),
      },
      this.#outbox,
      settings,
      machineClock,
      log,
    )
    this.#strays = new Strays(
      {
        clock: machineClock,
        log,
        store,
        nodeId: () => (this.#isMember(this.#node.id) ? this.#node.id : 0),
        addKnown: (leaseIds) => {
          this.#scheduler.addLeases(leaseIds)
          this.#syncer.addLeases(leaseIds)
        },
        onReopened: () => this.#claimer.returned(),
      },
      settings,
    )
    this.#cron = new Schedules(
      {
        clock,
        log,
        store: this.scheduleStore,
        runs: {
          indexChanged: () => this.#scheduler.indexChanged(),
          configureRuns: (configs) => this.#scheduler.configureRuns(configs),
          rememberRun: (runId, scheduleId, atMs) => this.#scheduler.rememberRun(runId, scheduleId, atMs),
          changeRun: (runId, to, error) => this.#scheduler.changeRun(runId, to, error),
          beatRun: (runId) => this.#scheduler.beatRun(runId),
          bindRun: (runId, jobId) => this.#scheduler.bindRun(runId, jobId),
        },
        jobs: {
          serves: (queue, task) => this.#serves(queue, task),
          mayTake: (tasks) => (this.#isMember(this.#node.id) ? this.#scheduler.mayTake(tasks) : 0),
          hold: (chunks, nodeId) => {
            const isOurs = this.#isMember(nodeId) && this.#strays.admit(chunks).length === chunks.length
            if (isOurs) this.#scheduler.hold(chunks)
            return isOurs
          },
          begin: (chunks) => this.#scheduler.begin(chunks),
          giveBack: (chunks) => this.#scheduler.giveBack(chunks),
          cancel: (jobId, reason) => void this.#scheduler.cancel(jobId, reason),
        },
        taking: (take) => this.#strays.taking(take),
        updates: {
          hasRoom: () => this.#syncer.hasRoomForOccurrences(),
          record: (update) => this.#syncer.recordOccurrence(update),
        },
        nodeId: () => this.#node.id,
        onEnqueued: (queueIds) => {
          this.#claimer.ready(queueIds)
          store.notify(`q${queueIds.join(',')}`, true).catch(() => {}) // polling is the truth
        },
      },
      settings,
    )
    this.#retention = new Retention({ clock: machineClock, log, open: () => new RetentionStore(store) }, settings)
    this.#scheduler = new Scheduler({
      clock,
      log,
      settings,
      lanes: lanesInTimeOf(clock, this.#pool),
      outcomes: this.#syncer.outcomes,
      inbox: this.inbox,
      occurrences: this.#cron.occurrences,
      markRunning: (jobs) =>
        store.markRunning(
          jobs.map(({ chunk, jobId }) => ({ leaseId: chunk.leaseId, jobId, run: chunk.run, lane: -1 })),
        ),
      settled: () => this.#syncer.flush(),
      hurry: () => this.#syncer.requestFlush(),
      onRoom: () => this.#claimer.room(),
      onSeat: () => this.#claimer.seat(),
      onShutdown: (reason) => this.#stopItself(reason),
      onIteration: (stats) => this.#syncer.recordStats(stats),
      notices: this.#jobLog,
      onJobLog: (chunk, jobId, bytes, start, end) => this.#jobLog.said(chunk, jobId, bytes, start, end),
    })
    this.#claimer = new Claimer(
      {
        clock,
        log,
        store,
        taking: (take) => this.#strays.taking(take),
        nodeId: () => this.#node.id,
        taskNames: () => this.#catalog.tasks.map((task) => task.name),
        seats: (limits) => this.#scheduler.seats(limits),
        wanted: () => (this.#node.isMember ? this.#scheduler.wanted() : 0),
        arrive: (chunks, nodeId) => this.#arrive(chunks, nodeId),
        onFenced: (nodeId) => this.#unknown(nodeId),
      },
      settings,
    )
    this.#cancels = new Cancels(
      {
        clock: machineClock,
        log,
        read: () => store.cancelsOf(this.#node.id),
        cancel: (jobId, reason) => this.#scheduler.cancel(jobId, reason),
        isHolding: () => this.#scheduler.held > 0,
        isTold: () => this.#listener?.isUp ?? false,
      },
      settings,
    )
  }

  /**
   * Sends what an earlier life, or another engine with this data folder, could not; leases that others took over meanwhile
   * refuse it, which is right. False: something is left.
   */
  #deliver(): Promise<boolean> {
    this.#delivering ??= this.#replay().finally(() => {
      this.#delivering = null
    })
    return this.#delivering
  }

  async #replay(): Promise<boolean> {
    const report = await this.#outbox.replay((record) => this.store.replay(record.nodeId, record.nodeUid, record.flush))
    if (report.sent + report.stale + report.refused + report.unreadable + report.left > 0)
      this.log.info({ ...report }, 'outbox.replayed')
    return report.left === 0
  }

  #learnTasks(): void {
    this.#scheduler.setTasks(this.#catalog.tasks)
    for (const task of this.#catalog.tasks) this.#taskByName.set(task.name, task)
    this.log.info(
      { tasks: this.#catalog.tasks.map((task) => task.name), threads: this.settings.threads, node: this.#node.id },
      'engine.started',
    )
  }

  /** What the code declares becomes what the database has, for the queues that it is about. */
  async #registerSchedules(): Promise<void> {
    if (this.#declared === undefined) return
    const list = this.#declared.map((schedule) => ({
      ...schedule,
      queue: schedule.queue ?? this.defaultsOf(schedule.task)?.queue ?? 'default',
    }))
    await this.schedules.register(list, { queue: this.settings.queues ?? 'default' })
  }

  #listen(): void {
    if (!this.settings.listen) return
    this.#listener = new Listener({
      url: this.settings.directDatabase ?? this.databaseUrl(),
      schema: this.settings.schema,
      clock: this.machineClock,
      log: this.log,
      name: 'millrace',
      origin: this.store.origin,
      onHeard: (heard) => {
        if (heard.kind === 'ready') this.#claimer.ready(heard.queueIds)
        else if (heard.kind === 'cancel') {
          if (heard.nodeId === this.#node.id) this.#cancels.ask()
        } else if (heard.kind === 'scheduled') this.#claimer.dueIn(0)
        else if (heard.kind === 'schedules') this.#cron.reload()
        else if (heard.kind === 'expiry') this.#expiry.at(heard.atMs)
        else {
          this.#claimer.ready(null)
          this.#claimer.dueIn(0)
          this.#cron.reload()
          this.#cancels.ask()
        }
      },
    })
    this.#listener.start()
  }

  // ------------------------------------------------------------------ between the parts

  async #flush(flush: Flush): ReturnType<Store['flush']> {
    const nodeId = this.#node.id
    try {
      const result = await this.store.flush(nodeId, flush)
      let soonest = Number.POSITIVE_INFINITY
      for (const retry of flush.retries) soonest = Math.min(soonest, retry.delayMs)
      if (soonest < Number.POSITIVE_INFINITY) this.#claimer.dueIn(soonest)
      if (flush.releases.length > 0 || flush.finished.length > 0) this.#claimer.ready(null)
      return result
    } catch (error) {
      if (codeOf(error) === 'NODE_FENCED') this.#unknown(nodeId)
      throw error
    }
  }

  /** An answer that comes late may be about a node that we are no more: that is no news. */
  #unknown(nodeId: number): void {
    if (nodeId === this.#node.id) this.#fenced('PostgreSQL does not know this node any more')
  }

  /** What was claimed by a node that we are no more is for others to rescue. */
  #arrive(chunks: ClaimedChunk[], nodeId: number): void {
    const admitted = this.#isMember(nodeId) ? [...this.#strays.admit(chunks)] : []
    if (admitted.length < chunks.length)
      this.log.warn({ node: nodeId, chunks: chunks.length - admitted.length }, 'claim.too_late')
    if (admitted.length === 0) return
    this.#cron.arrived(admitted)
    this.#scheduler.arrive(admitted)
    this.#cancels.arrived()
  }

  #isMember(nodeId: number): boolean {
    return this.#node.isMember && this.#rejoin === null && nodeId === this.#node.id
  }

  /** This node runs jobs of this task in this queue, whatever their group. */
  #serves(queue: string, task: string): boolean {
    const { queues, queueConcurrency, onlyGroup } = this.settings
    if (queueConcurrency?.[queue] !== undefined) return false // whether there will be a seat shows at its time
    return onlyGroup === null && (queues === null || queues.includes(queue)) && this.#taskByName.has(task)
  }

  /** We may hold nothing any more: drop it all, and come back as a new node. */
  #fenced(reason: string): void {
    if (this.#rejoin !== null || this.#life === 'stopped') return
    const left = this.#node.id
    this.log.error({ reason, held: this.#scheduler.stats().held }, 'engine.fenced')
    this.#scheduler.fence()
    this.#rejoin = this.#comeBack(left).finally(() => {
      this.#rejoin = null
    })
  }

  async #comeBack(left: number): Promise<void> {
    const goesOn = () => this.#life === 'running' || this.#life === 'starting'
    for (let tries = 0; goesOn(); tries++) {
      try {
        await this.#writeAsBefore()
        if (!goesOn()) return // what could not be written is kept for the node that held it
        await this.#node.join()
        this.log.info({ node: this.#node.id }, 'engine.rejoined')
        this.#claimer.returned()
        void this.#reopen(left)
        void this.#publishAgain(this.#node.id)
        return
      } catch (error) {
        if (tries === 0) this.log.warn({ error: messageOf(error) }, 'engine.rejoin_failed')
        await this.machineClock.sleep(backoffMs(tries))
      }
    }
  }

  /** A new node has to name its tasks, too. Until it has, people are told that it has none; jobs do not wait for that. */
  async #publishAgain(nodeId: number): Promise<void> {
    for (let tries = 1; this.#life === 'running' && this.#node.id === nodeId; tries++) {
      try {
        await this.store.publishTasks(nodeId, publishedTasks(this.#catalog.tasks))
        return
      } catch (error) {
        if (tries === 1) this.log.warn({ node: nodeId, error: messageOf(error) }, 'tasks.not_published')
        await this.machineClock.sleep(backoffMs(tries))
      }
    }
  }

  /** What has ended is accepted from the node that held it, and from no other. */
  async #writeAsBefore(): Promise<void> {
    const over = new AbortController()
    const written = this.#syncer.flush().catch(() => {})
    await Promise.race([written, this.machineClock.sleep(this.settings.nodeLimitMs, over.signal)])
    over.abort()
  }

  /**
   * What we held before is ready at once, without waiting until we have been silent for long enough, and nobody is charged.
   * First everything that ran is over. A session of ours that still hangs in PostgreSQL may stand in the way for a while.
   */
  async #reopen(nodeId: number): Promise<void> {
    const { machineClock } = this
    const untilMs = machineClock.steadyMs() + this.settings.nodeLimitMs
    try {
      const goesOn = () => machineClock.steadyMs() < untilMs && this.#life === 'running' // then the limit is what all wait for
      while (this.#scheduler.isVacating && goesOn()) await machineClock.sleep(VACATING_LOOK_MS)
      while (!this.#scheduler.isVacating && goesOn() && !(await this.#node.reopen(nodeId)))
        await machineClock.sleep(REOPEN_EVERY_MS)
    } catch (error) {
      this.log.warn({ node: nodeId, error: messageOf(error) }, 'node.not_reopened')
    }
  }

  /** It is known by now whether a handler's own transaction completed its job. */
  #doubtSettled(doubt: DoubtItem, committed: boolean): void {
    this.#scheduler.doubtSettled(doubt, committed)
    if (committed) this.#jobLog.endedAfterCompletion(doubt)
    else this.#jobLog.doubtFailed(doubt)
  }

  #stopItself(reason: string): void {
    this.log.error({ reason }, 'engine.stopping_itself')
    this.stop().catch((error) => this.log.error({ error: messageOf(error) }, 'engine.stop_failed'))
  }

  protected override defaultsOf(task: string): TaskDefaults | undefined {
    return this.#taskByName.get(task)
  }

  protected override taskNames(): Iterable<string> {
    return this.#taskByName.keys()
  }

  protected override onEnqueued(queueIds: readonly number[], dueAtMs: number | null): void {
    if (this.#life !== 'running') return
    if (queueIds.length > 0) this.#claimer.ready(queueIds)
    if (dueAtMs !== null) this.#claimer.dueIn(dueAtMs - this.store.time.nowMs())
  }

  protected override onExpiry(atMs: number): void {
    if (this.#life === 'running') this.#expiry.at(atMs)
  }

  // ------------------------------------------------------------------ changing

  configure(changes: RuntimeSettings): void {
    const fixed = Object.keys(changes).filter((name) => !(RUNTIME_SETTINGS as readonly string[]).includes(name))
    if (fixed.length > 0)
      throw new EngineError(
        'CONFIG_INVALID',
        `${fixed.join(', ')} cannot be changed while an engine runs; these can: ${RUNTIME_SETTINGS.join(', ')}`,
        { setting: fixed[0], value: undefined, rule: `one of ${RUNTIME_SETTINGS.join(', ')}` },
      )
    const { values } = loadConfig({ options: { ...this.settings, ...changes } })
    Object.assign(this.settings, values)
    this.log.info({ ...changes }, 'engine.configured')
    if (this.#life !== 'running') return
    if (changes.threads !== undefined) this.#resize()
    this.#claimer.changed()
    this.#scheduler.wake()
  }

  #resize(): void {
    this.#pool.resize(this.#threads())
    this.#scheduler.lanesChanged()
  }

  // ------------------------------------------------------------------ looking

  stats(): EngineStats {
    if (this.#life === 'new' || this.#scheduler === undefined) return NO_STATS
    const scheduler = this.#scheduler.stats()
    const syncer = this.#syncer.stats()
    const { late, run, wait } = this.#scheduler.histograms
    return {
      completed: scheduler.completed,
      failed: scheduler.failed,
      timedOut: scheduler.timedOut,
      retried: scheduler.retried,
      dead: scheduler.dead,
      cancelled: scheduler.cancelled,
      released: scheduler.released,
      lateReports: scheduler.lateReports,
      settled: syncer.written,
      stale: syncer.stale,
      enqueued: this.enqueuedCount,
      claims: this.#claimer.counts.claims,
      claimsBehind: this.#claimer.counts.behind,
      rescuedJobs: this.#node.counts.rescuedJobs,
      strayLeases: this.#strays.counts.leases,
      held: scheduler.held,
      running: scheduler.running,
      threads: this.#pool.threadsUp,
      waitMs: spread(wait),
      runMs: spread(run),
      occurrences: this.#cron.counts.enqueued,
      lateMs: spread(late),
    }
  }

  async drain(timeoutMs = 60_000): Promise<void> {
    const deadline = new Deadline(this.machineClock, timeoutMs)
    for (;;) {
      if (this.#isEmpty() && !(await this.#hasWork())) {
        if (this.#isEmpty()) return
      }
      if (deadline.leftMs() === 0)
        throw new EngineError('STOP_TIMEOUT', `not drained within ${timeoutMs} ms`, { ...this.#scheduler.stats() })
      await new Promise<void>((wake) => {
        const timer = this.machineClock.after(Math.min(100, deadline.leftMs()), wake, true)
        this.#idle.push(() => {
          timer.cancel()
          wake()
        })
      })
    }
  }

  /** PostgreSQL has something ready that this engine would claim. */
  async #hasWork(): Promise<boolean> {
    const { queues, claimUnknown, onlyGroup } = this.settings
    const queueIds = queues && (await this.store.queueIds(queues))
    const taskIds = claimUnknown ? null : await this.store.taskIds(this.#catalog.tasks.map((task) => task.name))
    return this.store.hasReady(queueIds, taskIds, onlyGroup)
  }

  #isEmpty(): boolean {
    const { awaiting, held } = this.#scheduler.stats() // an occurrence that is not due is no work yet
    return held === awaiting && this.#syncer.stats().heldUpdates === 0
  }

  #checkIdle(): void {
    if (this.#idle.length === 0 || !this.#isEmpty()) return
    for (const wake of this.#idle.splice(0)) wake()
  }

  // ------------------------------------------------------------------ stop

  stop(timeoutMs: number = this.settings.stopTimeoutMs): Promise<StopReport> {
    this.#stopping ??= this.#stop(timeoutMs).finally(() => this.#onStopped())
    return this.#stopping
  }

  async kill(): Promise<void> {
    if (this.#stopping === null) await this.stop(KILL_MS)
    else await Promise.race([this.#stopping, this.#hurry()])
  }

  /** A second wish to stop: what still runs is ended now. */
  async #hurry(): Promise<void> {
    this.#cutShort?.()
    await this.#stopping
  }

  #cutShort: (() => void) | null = null

  async #stop(timeoutMs: number): Promise<StopReport> {
    const was = this.#life
    if (was === 'new' || was === 'stopped') {
      this.#life = 'stopped'
      await this.closeEnqueuer()
      await this.closeStore()
      return { released: 0, interrupted: [], outboxed: 0 }
    }
    this.#life = 'stopping'
    this.log.info({ timeoutMs }, 'engine.stopping')
    if (was === 'starting') {
      this.stopOpening()
      const cut = this.machineClock.after(KILL_MS, () => this.abandonStore(), true)
      await this.#pool?.stop(new Deadline(this.machineClock, 0)) // so that nobody waits for the files to load
      await this.#starting?.catch(() => {}) // it sees what is wished at its next step, and cleans up
      cut.cancel()
      return { released: 0, interrupted: [], outboxed: 0 }
    }
    const deadline = new Deadline(this.machineClock, timeoutMs)
    const descent = new Descent(this.log)
    const releasedBefore = this.#scheduler.stats().released
    const cut = this.machineClock.after(timeoutMs + CUT_AFTER_MS, () => this.store.abandon(), true)
    for (const part of [this.#node, this.#cron, this.#claimer, this.#scheduler])
      await descent.step('quiet', () => part.quiet())
    await descent.step('enqueuer', () => this.closeEnqueuer())
    const hurried = new Promise<void>((resolve) => {
      this.#cutShort = resolve
    })
    const running = new Deadline(this.machineClock, timeoutMs * (1 - FLUSH_SHARE))
    await Promise.race([
      Promise.all([
        descent.step('schedules', () => this.#cron.stop()),
        descent.step('retention', () => this.#retention.stop()),
        descent.step('claimer', () => this.#claimer.stop()),
        descent.step('scheduler', () => this.#scheduler.stop(running)),
      ]),
      hurried,
    ])
    await Promise.all([
      descent.step('claimer', () => this.#claimer.stop()),
      descent.step('scheduler', () => this.#scheduler.stop(new Deadline(this.machineClock, 0))),
    ])
    this.#cutShort = null
    await descent.step('cancels', () => this.#cancels.stop())
    await descent.step('expiry', () => this.#expiry.stop())
    await descent.step('strays', () => this.#strays.stop()) // from here on the outbox may have what is leased to this node
    await descent.step('listener', () => this.#listener?.close())
    await descent.step('threads', () =>
      this.#pool.stop(new Deadline(this.machineClock, Math.max(200, deadline.leftMs() / 2))),
    )
    const flushed = await descent.step('syncer', () =>
      this.#syncer.finish(new Deadline(this.machineClock, Math.max(1_500, deadline.leftMs()))),
    )
    await descent.step('rejoin', () => this.#rejoin)
    await descent.step('node', () => this.#node.stop(flushed?.outboxed === 0))
    await descent.step('outbox', () => this.#outbox.close())
    await descent.step('store', () => this.closeStore())
    await descent.step('log', () => this.#jobLog.close())
    cut.cancel()
    this.#life = 'stopped'
    descent.end()
    const released = this.#scheduler.stats().released - releasedBefore
    const { interrupted } = this.#scheduler
    const { outboxed } = flushed!
    const named = interrupted.slice(0, INTERRUPTED_LOGGED_MAX)
    this.log.info({ released, outboxed, ...(named.length > 0 && { interrupted: named }) }, 'engine.stopped')
    return { released, interrupted, outboxed }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }
}

/** Jobs that the line about a stop names. */
const INTERRUPTED_LOGGED_MAX = 20
const NO_SPREAD: Spread = { p50: 0, p99: 0 }
const NO_STATS: EngineStats = {
  completed: 0,
  failed: 0,
  timedOut: 0,
  retried: 0,
  dead: 0,
  cancelled: 0,
  released: 0,
  lateReports: 0,
  settled: 0,
  stale: 0,
  enqueued: 0,
  claims: 0,
  claimsBehind: 0,
  rescuedJobs: 0,
  strayLeases: 0,
  held: 0,
  running: 0,
  threads: 0,
  waitMs: NO_SPREAD,
  runMs: NO_SPREAD,
  occurrences: 0,
  lateMs: NO_SPREAD,
}

function spread(histogram: { count: number; percentile(share: number): number }): Spread {
  if (histogram.count === 0) return NO_SPREAD
  return { p50: histogram.percentile(50) / 1_000, p99: histogram.percentile(99) / 1_000 }
}

/** What goes wrong, on standard error; a reader that has gone away is no reason to end. */
function defaultLog(): Log {
  const out = new Console({ stdout: stderr, ignoreErrors: true })
  return textLog((text) => out.log('%s', text), systemClock.wallMs)
}

let knownVersion: string | null = null

function packageVersion(): string {
  knownVersion ??= (
    JSON.parse(
      readFileSync(
        new URL(import.meta.url.includes('/dist/') ? '../../package.json' : '../package.json', import.meta.url),
        'utf8',
      ),
    ) as { version: string }
  ).version
  return knownVersion
}
