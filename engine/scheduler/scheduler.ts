// The loop. It owns every orchestrator of this node, and one iteration is its duties in order:
//
//   schedule due ─► process inbox ─► dispatch ─► deadlines, heartbeats ─► clean up ─► stats ─► depth of the inbox
//
// An iteration is synchronous and bounded, reads the clocks once, and does no I/O, no JSON, no logging and no
// allocation per message. It runs when something woke it (a doorbell of a thread, jobs that arrived, a message) or when
// the next due time or deadline has come; in between it sleeps. It never waits for anybody.
//
// What it must not do: lose a job (every one that arrived is completed, failed, cancelled, expired or given back), or
// report one twice.

import type { LaneLost, TaskInfo } from '../../threads/lanes.ts'
import type { Timer } from '../base/clock.ts'
import { codeOf, messageOf } from '../base/errors.ts'
import type { Deadline } from '../base/lifecycle.ts'
import { NEVER } from '../orchestrator/deadline.ts'
import { NO_SLOT } from '../orchestrator/slots.ts'
import { STATES } from '../orchestrator/states.ts'
import type { ClaimedChunk, DoubtItem } from '../store/types.ts'
import { FLAG, HeldJobs } from './held-jobs.ts'
import type { Message, OrchestratorId, OrchestratorState } from './messages.ts'
import type { SchedulerNeeds } from './needs.ts'
import { Reports } from './reports.ts'
import { Runs } from './runs.ts'
import type { Histograms, SchedulerStats } from './stats.ts'
import { Watch } from './watch.ts'

/** Reports handled in one iteration: about 10 ms of them, so that the event loop gets its turn. */
const REPORTS_PER_ITERATION = 20_000
const MESSAGES_PER_ITERATION = 10_000
const DUE_PER_ITERATION = 20_000
/** Work that should be here so that lanes outlast a claim: some ten round trips to a near database. */
const AHEAD_MS = 250
/** Suspects that wait for their notes may be so many before lanes that are idle ask for no more. */
const SUSPECTS_MAX = 64
/** Below this share of what should be here, more is wanted. Claims are few and large instead of many and small. */
const REFILL_SHARE = 0.7
/** What waits this long beyond what the lanes get done in that time is given to other nodes. */
const SURPLUS_AFTER_MS = 2_000
const SURPLUS_EVERY_MS = 500
/** An iteration is told about this often at most. */
const SAMPLE_EVERY_MS = 1_000
/** Of the time to stop: what aborted jobs get, and what is left to others for their own stop. */
const STOP_GRACE_MS = 1_000

type Life = 'open' | 'quiet' | 'stopped'

export class Scheduler {
  readonly #needs: SchedulerNeeds
  readonly #jobs: HeldJobs
  readonly #runs: Runs
  /** Lanes that are being ended because the node was silent for too long. */
  readonly #fenced = new Set<number>()
  readonly #watch: Watch
  readonly #reports: Reports
  readonly #turn: (fn: () => void) => void
  #life: Life = 'open'
  #woken = false
  #iterating = false
  #timer: Timer | null = null
  #timerAtMs = Number.POSITIVE_INFINITY
  #lastRoom = 0
  #nextSurplusMs = 0
  #nextSampleMs = 0
  #replies: (() => void)[] = []
  /** Who waits for the lanes to be empty. */
  readonly #idleWaiters = new Set<() => void>()

  constructor(needs: SchedulerNeeds) {
    this.#needs = needs
    this.#turn = needs.turn ?? setImmediate
    this.#jobs = new HeldJobs(needs, () => this.wake())
    this.#runs = new Runs(needs, this.#jobs.counters, this.#jobs.now)
    this.#watch = new Watch(this.#jobs, needs)
    this.#reports = new Reports(this.#jobs, needs, this.#watch)
    this.#jobs.onEnd = (jobId, state) => this.#runs.jobEnded(jobId, STATES[state]!)
  }

  /** What the task files declare. May be called again. */
  setTasks(tasks: readonly TaskInfo[]): void {
    this.#jobs.setTasks(tasks)
  }

  /** Begins to look at the clock; arrivals and doorbells wake the loop from then on too. */
  start(): void {
    this.wake()
  }

  /** Takes claimed jobs in. After quiet() they are given back at once. */
  arrive(chunks: readonly ClaimedChunk[]): void {
    if (!this.#iterating) this.#jobs.now.renew()
    this.#lastRoom = 0 // what is wanted after these is news again
    if (this.#life === 'open') this.#jobs.arrive(chunks)
    else this.#jobs.refuse(chunks)
    this.wake()
  }

  /** Takes jobs in ahead of their time: they wait as PreRun until begin(). After quiet() they are given back at once. */
  hold(chunks: readonly ClaimedChunk[]): void {
    if (!this.#iterating) this.#jobs.now.renew()
    if (this.#life === 'open') this.#jobs.hold(chunks)
    else this.#jobs.refuse(chunks)
  }

  /** The time of chunks that were held has come: lanes that have room get them at once. */
  begin(chunks: readonly ClaimedChunk[]): void {
    if (this.#life === 'stopped') return
    if (!this.#iterating) this.#jobs.now.renew()
    this.#jobs.begin(chunks)
    if (!this.#iterating) this.#jobs.dispatch()
    this.wake()
  }

  /** Chunks that were held are not to run here after all. */
  giveBack(chunks: readonly ClaimedChunk[]): void {
    if (!this.#iterating) this.#jobs.now.renew()
    this.#jobs.giveBack(chunks)
  }

  /** How many more jobs of each limited queue may be held here. */
  seats(limits: Readonly<Record<string, number>>): ReadonlyMap<string, number> {
    return this.#jobs.seats(limits)
  }

  /** How many jobs of these tasks, in this order, could start at once if they were due soon. 0 when there is much to do. */
  mayTake(tasks: readonly string[]): number {
    const jobs = this.#jobs
    const room = this.#needs.settings.heldMax - jobs.held
    if (this.#life !== 'open' || room <= 0 || !this.#needs.outcomes.hasRoom()) return 0
    if (!this.#iterating) jobs.now.renew()
    let roomMs = 0
    for (const lane of jobs.dispatcher.lanes)
      if (this.#needs.lanes.isOpen(lane.index))
        roomMs += AHEAD_MS - (lane.outstanding > 0 ? jobs.dispatcher.workMs(lane, jobs.now.steadyMs, AHEAD_MS) : 0)
    for (const { task, waiting } of jobs.pending.groups)
      roomMs -= waiting * (task.known ? Math.min(task.costMs, AHEAD_MS) : AHEAD_MS)
    return Math.min(room, jobs.mayTake(tasks, roomMs, AHEAD_MS))
  }

  /** Runs one iteration soon. Cheap, and many calls are one. */
  wake(): void {
    if (this.#woken || this.#life === 'stopped') return
    this.#woken = true
    this.#turn(this.#wokenRun)
  }

  /** A lane has reports. For the pool. */
  readonly onDoorbell = (): void => this.wake()

  /** A lane may be fed again. For the pool. */
  readonly onOpen = (_lane: number): void => this.wake()

  /** There are more lanes, or some leave: what those have not taken waits again, for the others. */
  lanesChanged(): void {
    if (!this.#iterating) this.#jobs.now.renew()
    this.#jobs.lanesChanged()
    this.wake()
  }

  /** A thread died or was ended; its ring has been drained. For the pool. */
  readonly onLost = (lost: LaneLost): void => {
    if (!this.#iterating) this.#jobs.now.renew()
    this.#fenced.delete(lost.lane)
    this.#reports.lost(lost)
    this.wake()
  }

  /** PostgreSQL has said whether a handler's own transaction completed its job. */
  doubtSettled(doubt: DoubtItem, committed: boolean): void {
    this.#reports.doubtSettled(doubt, committed)
  }

  /** The index of runs has changed. */
  indexChanged(): void {
    this.#runs.indexChanged()
    this.wake()
  }

  /** Schedules have changed: runs that wait for their time have these configurations from now on. */
  configureRuns(configs: ReadonlyMap<string, unknown>): void {
    this.#runs.configureAll(configs)
  }

  /** A run of the grace window that the store knows already: it is not launched again. */
  rememberRun(runId: string, scheduleId: string, scheduledAtMs: number): void {
    this.#runs.remember(runId, scheduleId, scheduledAtMs)
  }

  /** Job `jobId` is what the run does on this node: the run lives with it and ends as it ends. */
  bindRun(runId: string, jobId: number): boolean {
    return this.#runs.bind(runId, jobId)
  }

  /** A run's new state, told by whoever sees to its durable side. False: unknown, or the state does not accept it. */
  changeRun(runId: string, to: OrchestratorState['state'], error: string | null): boolean {
    if (!this.#iterating) this.#jobs.now.renew()
    return this.#runs.change(runId, to, error)
  }

  /** Whoever sees to the run's durable side is still at it. */
  beatRun(runId: string): boolean {
    if (!this.#iterating) this.#jobs.now.renew()
    return this.#runs.beat(runId, this.#jobs.now.wallMs)
  }

  /** Ends a job or a run for somebody who asked. False: it is not here, or over already. */
  cancel(id: OrchestratorId, reason: string): boolean {
    if (!this.#iterating) this.#jobs.now.renew()
    if (typeof id === 'string') return this.#runs.cancel(id, reason)
    const done = this.#jobs.cancel(id, reason)
    this.#watch.soon(this.#jobs.now.steadyMs)
    this.wake()
    return done
  }

  /** A copy of one orchestrator; null when there is none. */
  getState(id: OrchestratorId): OrchestratorState | null {
    if (!this.#iterating) this.#jobs.now.renew()
    if (typeof id === 'string') return this.#runs.stateOf(id)
    const slot = this.#jobs.slots.of(id)
    return slot === NO_SLOT ? null : this.#copy(slot)
  }

  /** Copies of all of them: for people, not for loops. */
  getAll(): OrchestratorState[] {
    if (!this.#iterating) this.#jobs.now.renew()
    return [...this.#runs.all(), ...Array.from(this.#jobs.slots.all(), (slot) => this.#copy(slot))]
  }

  /** Jobs here, waiting or running. */
  get held(): number {
    return this.#jobs.held
  }

  /** Adds the leases of every job that is here. */
  addLeases(leaseIds: Set<number>): void {
    this.#jobs.addLeases(leaseIds)
  }

  stats(): SchedulerStats {
    const jobs = this.#jobs
    let running = 0
    for (const lane of jobs.dispatcher.lanes) running += lane.running
    return {
      ...jobs.counters,
      activeOrchestrators: jobs.held + this.#runs.size,
      held: jobs.held,
      prerun: jobs.prerun,
      awaiting: jobs.awaiting,
      pending: jobs.held - jobs.prerun - running,
      running,
      indexSize: this.#runs.indexSize,
      inboxDepth: this.#needs.inbox?.depth ?? 0,
      wanted: this.wanted(),
    }
  }

  /** Jobs that still ran at the deadline of a stop, and were ended and given back. */
  get interrupted(): readonly { readonly id: number; readonly task: string }[] {
    return this.#jobs.interrupted
  }

  get histograms(): Histograms {
    return this.#jobs.histograms
  }

  /**
   * How many more jobs it wants to be claimed now. 0 when quiet, when the writer of outcomes is behind, and when enough
   * is held; at least one per idle lane otherwise, and one per free seat of a lane that jobs share, however long those
   * take. Of jobs whose length nobody knows only as many as lanes are idle, so that a few long ones spread over the nodes.
   */
  wanted(): number {
    const jobs = this.#jobs
    const { heldMax } = this.#needs.settings
    const room = heldMax - jobs.held
    if (this.#life !== 'open' || room <= 0 || !this.#needs.outcomes.hasRoom()) return 0
    const { lanes } = jobs.dispatcher
    let alive = 0
    let idle = 0 // lanes, or seats of them
    let workMs = 0
    for (const lane of lanes) {
      if (lane.outstanding > 0) {
        workMs += jobs.dispatcher.workMs(lane, jobs.now.steadyMs, AHEAD_MS)
        if (this.#needs.lanes.isOpen(lane.index)) idle += jobs.dispatcher.seats(lane)
      } else if (this.#needs.lanes.isOpen(lane.index)) idle++
      else continue // its thread is gone, or not there yet
      alive++
    }
    for (const { task, waiting } of jobs.pending.groups)
      workMs += waiting * (task.known ? Math.min(task.costMs, AHEAD_MS) : AHEAD_MS)
    const suspectsBehind = Math.max(0, jobs.suspects.waiting - SUSPECTS_MAX)
    const least = Math.min(room, Math.max(0, idle - jobs.pending.size - suspectsBehind))
    const meanMs = Math.min(AHEAD_MS, this.#reports.meanCostMs)
    if (Number.isNaN(meanMs) || alive === 0) return least
    const full = Math.min(heldMax, Math.ceil((alive * AHEAD_MS) / meanMs))
    const here = Math.max(heldMax - room - jobs.prerun, Math.ceil(workMs / meanMs))
    if (here >= full * REFILL_SHARE) return least
    return Math.min(room, Math.max(least, full - here))
  }

  /** Takes no new work from now on; what is here goes on. */
  quiet(): void {
    if (this.#life === 'open') this.#life = 'quiet'
  }

  /**
   * Gives back what has not started, waits for what runs, and shortly before the deadline ends that too: signal, grace,
   * thread. Those that had to be ended are given back uncharged. Safe twice (an earlier deadline counts from then on),
   * safe without start.
   */
  async stop(deadline: Deadline): Promise<void> {
    if (this.#life === 'stopped') return
    this.quiet()
    this.#jobs.now.renew()
    this.#runs.cancelAll('the engine stops')
    this.#jobs.releaseWaiting()
    const totalMs = deadline.leftMs()
    const graceMs = Math.min(STOP_GRACE_MS, totalMs / 4)
    await this.#idleWithin(totalMs - 2 * graceMs)
    this.#abortAll()
    await this.#idleWithin(graceMs)
    this.#killAll('the engine stops')
    await this.#idleWithin(graceMs)
    this.#end()
  }

  /** The node lost its leases: everything is dropped without a word, what runs is ended. */
  fence(): void {
    this.#jobs.now.renew()
    const { lanes } = this.#jobs.dispatcher
    const busy = lanes.filter((lane) => lane.outstanding > 0).map((lane) => lane.index)
    for (const index of busy) this.#needs.lanes.revoke(index)
    this.#jobs.drop()
    this.#runs.clear()
    for (const index of busy)
      if (this.#needs.lanes.outstanding(index) > 0) {
        this.#fenced.add(index)
        this.#needs.lanes.kill(index, 'NODE_FENCED', 'the node was silent for too long and lost its jobs')
      }
  }

  /** Something that a fence ended may still run. */
  get isVacating(): boolean {
    return this.#fenced.size > 0
  }

  /** One turn of the loop. Returns how many messages and reports it handled. Public for tests and benches. */
  iteration(): number {
    const jobs = this.#jobs
    this.#iterating = true
    jobs.now.renew()
    jobs.histograms.open()
    jobs.counters.iterations++
    this.scheduleDue()
    const handled = this.processInbox()
    jobs.dispatch()
    this.checkHeartbeats()
    this.cleanUp()
    this.#recordStats(handled)
    this.#needs.inbox?.updateDepthStats()
    this.#iterating = false
    return handled
  }

  // The duties, in their order.

  /** Runs and jobs whose time comes. */
  scheduleDue(): number {
    const runs = this.#runs.schedule(this.#life === 'open')
    if (this.#runs.overflowed) this.#overflow()
    return runs + this.#jobs.due(DUE_PER_ITERATION) + this.#jobs.expire()
  }

  /** Messages of the main thread's senders, then the threads' reports, each up to what was there at its start. */
  processInbox(): number {
    const { inbox, lanes } = this.#needs
    let messages = 0
    if (inbox !== undefined)
      for (let left = Math.min(inbox.depth, MESSAGES_PER_ITERATION); left > 0; left--) {
        const message = inbox.tryReceive()
        if (message === undefined) break
        this.#handle(message)
        messages++
      }
    const handled = messages + lanes.drain(this.#reports, REPORTS_PER_ITERATION)
    this.#jobs.counters.messages += handled
    return handled
  }

  /** Deadlines and silence of running jobs, heartbeats of runs, and lanes that are stuck behind a slow job. */
  checkHeartbeats(): void {
    this.#watch.check()
    this.#runs.checkHeartbeats(this.#jobs.now.wallMs)
    const { dispatcher, now, counters } = this.#jobs
    const stolen = dispatcher.steal(now.steadyMs)
    if (stolen === 0) return
    counters.stolen += stolen
    this.#jobs.dispatch()
  }

  /** Runs past their grace time, and jobs that others could do sooner. */
  cleanUp(): number {
    const { now } = this.#jobs
    const removed = this.#runs.cleanup(now.wallMs)
    if (now.steadyMs < this.#nextSurplusMs) return removed
    this.#nextSurplusMs = now.steadyMs + SURPLUS_EVERY_MS
    return removed + this.#jobs.releaseSurplus(SURPLUS_AFTER_MS)
  }

  #recordStats(handled: number): void {
    const { now, histograms, held } = this.#jobs
    const durationMs = this.#needs.clock.steadyMs() - now.steadyMs
    histograms.iterated(durationMs)
    if (this.#needs.onIteration === undefined || now.steadyMs < this.#nextSampleMs) return
    this.#nextSampleMs = now.steadyMs + Math.max(SAMPLE_EVERY_MS, this.#needs.settings.loopIdleMs)
    this.#needs.onIteration({
      timestampMs: now.wallMs,
      durationMs,
      activeOrchestrators: held + this.#runs.size,
      indexSize: this.#runs.indexSize,
      inboxDepth: this.#needs.inbox?.depth ?? 0,
      messagesProcessed: handled,
    })
  }

  // Between iterations.

  readonly #wokenRun = (): void => {
    this.#woken = false
    this.#run()
  }

  readonly #timedRun = (): void => {
    this.#timer = null
    this.#timerAtMs = Number.POSITIVE_INFINITY
    this.#run()
  }

  #run(): void {
    if (this.#life === 'stopped') return
    try {
      this.iteration()
    } catch (error) {
      this.#iterating = false
      this.#needs.log.error({ error, code: codeOf(error) }, 'scheduler.iteration_failed')
      this.#needs.onShutdown?.(messageOf(error))
    }
    this.#answer()
    this.#passTurns()
    this.#tellRoom()
    if (this.#idleWaiters.size > 0 && this.#jobs.outstanding === 0) for (const tell of this.#idleWaiters) tell()
    const { lanes, inbox } = this.#needs
    if (lanes.hasReports() || (inbox?.depth ?? 0) > 0 || lanes.armDoorbell?.() === false) this.wake()
    else this.#sleep()
  }

  /** Sets the timer for the next thing that comes by itself. A timer that is early enough already is left alone. */
  #sleep(): void {
    const { now } = this.#jobs
    const dueInMs = Math.min(this.#jobs.nextDueMs(), this.#runs.nextDueMs()) - now.wallMs
    const nextMs = Math.min(this.#watch.nextLookMs, this.#jobs.dispatcher.nextStealMs) - now.steadyMs
    const waitMs = Math.max(0, Math.min(dueInMs, nextMs, this.#needs.settings.loopIdleMs))
    const atMs = now.steadyMs + waitMs
    if (this.#timer !== null && this.#timerAtMs <= atMs) return
    this.#timer?.cancel()
    this.#timerAtMs = atMs
    this.#timer = this.#needs.clock.after(waitMs, this.#timedRun)
  }

  /** While other work waits here, flushes in company cost less; without it the lanes would idle until the next of a group. */
  #passTurns(): void {
    const jobs = this.#jobs
    if (!jobs.turnEnded || jobs.pending.size > 0) return
    jobs.turnEnded = false
    this.#needs.hurry?.()
  }

  #tellRoom(): void {
    const wanted = this.wanted()
    const grown = wanted > 0 && (this.#lastRoom === 0 || wanted >= 2 * this.#lastRoom)
    if (grown || wanted === 0) this.#lastRoom = wanted
    if (grown) this.#needs.onRoom()
  }

  #answer(): void {
    if (this.#replies.length === 0) return
    for (const reply of this.#replies.splice(0)) {
      try {
        reply()
      } catch (error) {
        this.#needs.log.warn({ error }, 'scheduler.reply_failed')
      }
    }
  }

  // Messages.

  #handle(message: Message): void {
    switch (message.type) {
      case 'orchestrator_state_change':
        this.#change(message.id, message.status, null)
        return
      case 'orchestrator_complete':
        // "Complete without success" is how a run says that it was cancelled before its time.
        if (message.success) this.#change(message.id, 'completed', null)
        else if (this.#isPrerun(message.id)) this.#change(message.id, 'cancelled', message.error)
        else this.#change(message.id, 'failed', message.error)
        return
      case 'orchestrator_failed':
        this.#change(message.id, 'failed', message.error)
        return
      case 'orchestrator_heartbeat':
        if (!this.#beat(message.id, message.atMs))
          this.#needs.log.warn({ id: message.id }, 'heartbeat of an unknown orchestrator')
        return
      case 'cancel_run':
        if (!this.#isHere(message.id)) this.#needs.log.warn({ id: message.id }, 'attempted to cancel non-existent run')
        else if (this.cancel(message.id, message.reason)) this.#needs.log.info({ id: message.id }, 'cancelled run')
        else this.#needs.log.debug({ id: message.id }, 'cancel came too late')
        return
      case 'update_run_config':
        if (typeof message.id !== 'string' || !this.#runs.configure(message.id, message.config))
          this.#needs.log.warn({ id: message.id }, 'configuration can be updated in PreRun only')
        return
      case 'get_orchestrator_state': {
        const state = this.getState(message.id)
        this.#replies.push(() => message.reply(state))
        return
      }
      case 'get_all_active_runs': {
        const states = this.getAll()
        this.#replies.push(() => message.reply(states))
        return
      }
      case 'get_stats': {
        const stats = this.stats()
        this.#replies.push(() => message.reply(stats))
        return
      }
      case 'shutdown':
        this.#needs.onShutdown?.('asked by message')
        return
      default:
        this.#needs.log.warn({ type: (message as { type: unknown }).type }, 'unknown message type')
    }
  }

  #change(id: OrchestratorId, to: Parameters<Runs['change']>[1], error: string | null): void {
    if (typeof id === 'string' && this.#runs.change(id, to, error)) return
    // Jobs change by their threads' reports alone; a message about one, or about what is over, is late.
    if (typeof id !== 'string') this.#jobs.counters.lateReports++
    this.#needs.log.debug({ id, to }, 'message ignored: the state does not accept it')
  }

  #beat(id: OrchestratorId, atMs: number): boolean {
    if (typeof id === 'string') return this.#runs.beat(id, atMs)
    const { slots, now } = this.#jobs
    const slot = slots.of(id)
    if (slot === NO_SLOT) return false
    slots.heartbeatSteadyMs[slot] = now.steadyMs
    slots.missed[slot] = 0
    return true
  }

  #isHere(id: OrchestratorId): boolean {
    return typeof id === 'string' ? this.#runs.has(id) : this.#jobs.slots.of(id) !== NO_SLOT
  }

  #isPrerun(id: OrchestratorId): boolean {
    return typeof id === 'string' && this.#runs.stateOf(id)?.state === 'prerun'
  }

  #overflow(): void {
    if (this.#life !== 'open') return
    this.quiet()
    this.#needs.log.error({}, 'scheduler stopping due to buffer overflow')
    this.#needs.onShutdown?.('scheduler stopping due to buffer overflow')
  }

  // Stopping.

  /** Resolves when no lane has a job, or after `ms`. */
  #idleWithin(ms: number): Promise<void> {
    if (this.#jobs.outstanding === 0) return Promise.resolve()
    return new Promise((resolve) => {
      const done = () => {
        timer.cancel()
        this.#idleWaiters.delete(done)
        resolve()
      }
      const timer = this.#needs.clock.after(ms, done, true)
      this.#idleWaiters.add(done)
      this.wake()
    })
  }

  #abortAll(): void {
    const { slots, dispatcher } = this.#jobs
    for (const lane of dispatcher.lanes)
      for (let slot = lane.head; slot !== NO_SLOT; slot = slots.next[slot]!) {
        slots.flags[slot]! |= FLAG.stop
        this.#needs.lanes.abort(lane.index, slot, slots.generation[slot]!, 'stopping')
      }
  }

  #killAll(message: string): void {
    for (const lane of this.#jobs.dispatcher.lanes)
      if (lane.outstanding > 0) this.#needs.lanes.kill(lane.index, 'STOPPING', message)
  }

  #end(): void {
    if (this.#life === 'stopped') return
    this.#jobs.now.renew()
    this.#needs.lanes.drain(this.#reports, Number.POSITIVE_INFINITY)
    // A thread that could not even be ended in time: its jobs count as let go.
    for (const lane of this.#jobs.dispatcher.lanes)
      if (lane.outstanding > 0)
        this.#reports.lost({ lane: lane.index, code: 'STOPPING', message: 'the engine stops', notTaken: [] })
    this.#jobs.releaseWaiting()
    this.#life = 'stopped'
    this.#timer?.cancel()
    this.#timer = null
    for (const tell of this.#idleWaiters) tell()
    this.#answer()
  }

  #copy(slot: number): OrchestratorState {
    const { slots, now } = this.#jobs
    const { chunk } = slots.ref[slot]!
    const startedAtMs = slots.startedAtMs[slot]!
    const lane = slots.lane[slot]!
    const deadlineMs = slots.deadlineSteadyMs[slot]!
    return {
      id: slots.id[slot]!,
      state: STATES[slots.state[slot]!]!,
      name: chunk.task,
      scheduledAtMs: chunk.dueAtMs,
      startedAtMs: startedAtMs === 0 ? null : startedAtMs,
      completedAtMs: null,
      deadlineAtMs: startedAtMs === 0 || deadlineMs >= NEVER ? null : now.wallMs + deadlineMs - now.steadyMs,
      silentMs: Math.max(0, now.steadyMs - slots.heartbeatSteadyMs[slot]!),
      missedHeartbeats: slots.missed[slot]!,
      lane: lane === -1 ? null : lane,
      config: null,
      error: null,
    }
  }
}
