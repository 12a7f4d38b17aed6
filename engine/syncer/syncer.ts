// Writes back to PostgreSQL what became of the jobs, in batches, one transaction at a time, and beside it the states of
// occurrences and the statistics of the loop, which are for people.
//
// It promises: an outcome that was buffered is written once, or refused because its lease was lost, or it is in the
// outbox or the dead file, and the log says so. A lost connection delays it and never loses it: the same flush with the
// same number is sent again until PostgreSQL has answered, and the number tells PostgreSQL whether it had come through.
// A flush that PostgreSQL refuses for what it says is halved until the one job that it is about stands alone.
//
// It never blocks its caller and never decides what an outcome means; `hasRoom` tells the scheduler when to wait.

import type { Clock, Timer } from '../base/clock.ts'
import { codeOf, EngineError, messageOf } from '../base/errors.ts'
import type { Deadline, Part } from '../base/lifecycle.ts'
import type { Log } from '../base/log.ts'
import { isFinal, sqlStateOf } from '../store/refusal.ts'
import type { DoubtItem, Flush, FlushResult, IterationStats, OccurrenceState } from '../store/types.ts'
import { Batcher } from './batcher.ts'
import { StatsPage } from './iteration-stats.ts'
import { OccurrencePage } from './occurrence-page.ts'
import type { DeadRecord } from './outbox.ts'
import { OutcomeBuffer } from './outcome-buffer.ts'
import { OutcomePage } from './outcome-page.ts'
import { flushOf, outcomesOf, substituteOf, type Unit, unitsOf } from './split.ts'

/** What the syncer needs from below and tells above. */
export interface SyncerNeeds {
  /** One transaction. Throws EngineError with `retry`, or with details.sqlState when PostgreSQL refuses it. */
  flush(flush: Flush): Promise<FlushResult>
  writeStats(rows: readonly IterationStats[]): Promise<void>
  /** States of occurrences; writing the same ones twice is harmless. */
  writeOccurrences?(rows: readonly OccurrenceState[]): Promise<void>
  /** Of this node, for the rows. Asked at every outcome. */
  nodeId(): number
  /** What is added to wall times of this machine so that they are the database's. Asked once per page. Default 0. */
  clockLeadMs?(): number
  /** These leases were no longer ours; `dropped` outcomes were not written. */
  onStale?(leaseIds: readonly number[], dropped: number): void
  /** A page is settled and no longer held; so many of its jobs were written (0: they were stale, or only signs of life). */
  onFlushed?(count: number): void
  /** It is known now whether the job was completed by a transaction of its handler. */
  onDoubtSettled?(doubt: DoubtItem, committed: boolean): void
  /** `hasRoom` said no and would say yes now. */
  onRoom?(): void
  /** The writer met what cannot happen and has stopped: there will be no room any more. A stop saves what is held. */
  onFailed?(error: unknown): void
}

/** Where things go that PostgreSQL does not take. */
export interface SyncerOutbox {
  put(nodeId: number, flush: Flush): Promise<void>
  putDead(record: DeadRecord): Promise<void>
}

export interface SyncerOptions {
  /** Outcomes that start a flush at once. */
  readonly flushRows: number
  /** The longest that fewer of them wait, in ms. */
  readonly flushEveryMs: number
  /** Outcomes in one transaction. */
  readonly flushRowsMax: number
  /** Outcomes handed over and not yet written. */
  readonly channelRowsMax: number
  /** Outcomes buffered at most; above half of it `hasRoom` says no. */
  readonly updatesBufferedMax: number
  /** Bytes held at most before `hasRoom` says no. */
  readonly updatesBytesMax: number
  /** The longest that states of occurrences wait, in ms. */
  readonly occurrencesFlushMs: number
  readonly statsFlushRows: number
  readonly statsFlushMs: number
  /** Wait before the second try of a flush; doubles up to `retryMsMax`. */
  readonly retryMs: number
  readonly retryMsMax: number
}

export const SYNCER_DEFAULTS: SyncerOptions = {
  flushRows: 500,
  flushEveryMs: 5,
  flushRowsMax: 5_000,
  channelRowsMax: 5_000,
  updatesBufferedMax: 100_000,
  updatesBytesMax: 64 * 1024 * 1024,
  occurrencesFlushMs: 1_000,
  statsFlushRows: 30,
  statsFlushMs: 30_000,
  retryMs: 50,
  retryMsMax: 2_000,
}

/** What became of everything that was buffered when the syncer stopped. */
export interface StopReport {
  /** Jobs settled in PostgreSQL during the stop. */
  readonly written: number
  /** Jobs whose outcome lies in the outbox. */
  readonly outboxed: number
}

export interface SyncerStats {
  readonly bufferedUpdates: number
  readonly bufferedStats: number
  /** With what is handed over and in flight. */
  readonly heldUpdates: number
  readonly heldBytes: number
  readonly flushes: number
  readonly written: number
  /** Tries that failed and were or will be repeated. */
  readonly retries: number
  /** Flushes that turned out to have been committed by a try whose answer was lost. */
  readonly alreadyDone: number
  readonly stale: number
  /** Outcomes in the dead file, and how many of them ended with a substitute in PostgreSQL. */
  readonly dead: number
  readonly substituted: number
  readonly outboxed: number
  readonly occurrencesWritten: number
  readonly occurrencesLost: number
  readonly statsWritten: number
  readonly statsLost: number
  /** Steady clock: since when flushes have been failing; null while they succeed. */
  readonly failingSinceSteadyMs: number | null
}

const PAGE_SHARE = 4 // a page takes a quarter of the bytes at most, so that one can fill while another is written
const STATS_BYTES_MAX = 16 * 1024 * 1024
const OCCURRENCES_BYTES_MAX = 64 * 1024 * 1024
const STOP_RESERVE_MS = 1_000 // of the deadline, for writing the outbox

/** Between two looks at jobs whose handlers' own transactions are still open after the handlers have ended. */
const OPEN_LOOK_MS = 100
/** A transaction that is open for so long after its handler has ended is worth a warning. */
const OPEN_WARN_MS = 5_000
/** Of the time to stop, for such transactions to end; whose do not are left to whoever recovers this node's leases. */
const OPEN_SHARE = 0.5

/** When not even substitutes are taken any more, the outcomes are not what is wrong: from here on they wait. */
const REFUSED_IN_A_ROW_MAX = 10

export class Syncer implements Part {
  /** What the scheduler reports to. */
  readonly outcomes: OutcomeBuffer
  readonly #updates: Batcher<OutcomePage>
  readonly #occurrences: Batcher<OccurrencePage>
  readonly #stats: Batcher<StatsPage>
  readonly #needs: SyncerNeeds
  readonly #outbox: SyncerOutbox
  readonly #options: SyncerOptions
  readonly #clock: Clock
  readonly #log: Log
  readonly #random: () => number

  #no = 0
  /** What the flush in progress still has to write, the part that is being sent first. */
  #remaining: Flush[] = []
  /** The lease of an outcome that was refused and has no substitute yet. */
  #burying: number | null = null
  /** Outcomes refused one by one, substitutes included, since the last one that was taken. */
  #refusedInARow = 0
  /** Jobs whose handlers' own transactions are not over: asked about again and again. */
  #open: Unit[] = []
  #openTimer: Timer | null = null
  /** Since when, by job; Infinity when that was said. */
  readonly #openSinceMs = new Map<number, number>()
  /** Those that the page in flight asks about. */
  #asked = 0
  readonly #cut = new AbortController()
  #stopping: Promise<StopReport> | null = null

  #pageWritten = 0 // of the page in flight
  #flushes = 0
  #written = 0
  #retries = 0
  #alreadyDone = 0
  #staleCount = 0
  #dead = 0
  #substituted = 0
  #outboxed = 0
  #occurrencesWritten = 0
  #occurrencesLost = 0
  #statsWritten = 0
  #statsLost = 0
  #failingSinceSteadyMs: number | null = null

  /** `random` (0 to 1) spreads the waits between tries. */
  constructor(
    needs: SyncerNeeds,
    outbox: SyncerOutbox,
    options: Partial<SyncerOptions>,
    clock: Clock,
    log: Log,
    random: () => number = Math.random,
  ) {
    this.#needs = needs
    this.#outbox = outbox
    this.#clock = clock
    this.#log = log
    this.#random = random
    const all = { ...SYNCER_DEFAULTS, ...options }
    this.#options = all
    this.#updates = new Batcher(
      {
        name: 'job run update',
        threshold: all.flushRows,
        lingerMs: all.flushEveryMs,
        pageCountMax: all.flushRowsMax,
        pageBytesMax: all.updatesBytesMax / PAGE_SHARE,
        channelCountMax: all.channelRowsMax,
        bufferCountMax: all.updatesBufferedMax,
        bytesMax: all.updatesBytesMax,
      },
      clock,
      log,
      () => new OutcomePage(needs.clockLeadMs),
      (page) => this.#writePage(page),
      () => this.#pageSettled(),
      (error) => needs.onFailed?.(error),
    )
    this.#occurrences = new Batcher(
      {
        name: 'occurrence update',
        threshold: all.flushRows,
        lingerMs: all.occurrencesFlushMs,
        pageCountMax: all.flushRowsMax,
        pageBytesMax: OCCURRENCES_BYTES_MAX / PAGE_SHARE,
        channelCountMax: all.channelRowsMax,
        bufferCountMax: all.updatesBufferedMax,
        bytesMax: OCCURRENCES_BYTES_MAX,
      },
      clock,
      log,
      () => new OccurrencePage(),
      (page) => this.#writeOccurrences(page),
    )
    this.#stats = new Batcher(
      {
        name: 'stats update',
        threshold: all.statsFlushRows,
        lingerMs: all.statsFlushMs,
        pageCountMax: Math.max(1_000, all.statsFlushRows),
        pageBytesMax: STATS_BYTES_MAX,
        channelCountMax: Math.max(1_000, all.statsFlushRows),
        bufferCountMax: Math.max(10_000, 2 * all.statsFlushRows),
        bytesMax: STATS_BYTES_MAX,
      },
      clock,
      log,
      () => new StatsPage(),
      (page) => this.#writeStats(page),
    )
    this.outcomes = new OutcomeBuffer(
      this.#updates,
      () => needs.nodeId(),
      () => needs.onRoom?.(),
    )
  }

  async start(): Promise<void> {
    this.#updates.start()
    this.#occurrences.start()
    this.#stats.start()
  }

  /** Outcomes are still taken: those of the jobs that are running. */
  quiet(): void {}

  /** Writes what is buffered; what PostgreSQL does not take until the last second goes to the outbox. */
  async stop(deadline: Deadline): Promise<void> {
    await this.finish(deadline)
  }

  /**
   * What `stop` does, with a report.
   * @throws EngineError OUTBOX_FAILED when outcomes could go nowhere; their jobs will run again.
   */
  finish(deadline: Deadline): Promise<StopReport> {
    this.#stopping ??= this.#finish(deadline)
    return this.#stopping
  }

  /** Resolves when every outcome that was buffered before is settled. Waits as long as PostgreSQL is away. */
  flush(): Promise<void> {
    return this.#updates.flush()
  }

  /** Asks for a flush now and does not wait. */
  requestFlush(): void {
    this.#updates.ask()
  }

  /**
   * Hands the buffered outcomes to the writer now, as far as there is room; the rest stays buffered.
   * @throws EngineError CHANNEL_FULL when something stayed.
   */
  tryFlush(): number {
    return handOver('job run', this.#updates)
  }

  /** The same for the statistics. */
  tryFlushStats(): number {
    return handOver('stats', this.#stats)
  }

  /** Keeps the statistics of one iteration. They are a help, not a fact: where there is no room they are dropped. */
  recordStats(stats: IterationStats): void {
    if (this.#stopping !== null || !this.#stats.hasRoom()) {
      this.#statsLost++
      return
    }
    this.#stats.page.add(stats)
    this.#stats.added()
  }

  /** There is room for the states of more occurrences: without it none is taken into memory. */
  hasRoomForOccurrences(): boolean {
    return this.#occurrences.hasRoom()
  }

  /** Keeps the state of an occurrence until it is written. False: the buffer is over its limit, and the loop must stop. */
  recordOccurrence(state: OccurrenceState): boolean {
    if (this.#stopping !== null) {
      this.#occurrencesLost++
      return true
    }
    this.#occurrences.page.add(state)
    try {
      this.#occurrences.added()
      return true
    } catch (error) {
      if (codeOf(error) === 'BUFFER_OVERFLOW') return false
      throw error
    }
  }

  stats(): SyncerStats {
    return {
      bufferedUpdates: this.#updates.buffered,
      bufferedStats: this.#stats.buffered,
      heldUpdates: this.#updates.held + this.#open.length + this.#asked,
      heldBytes: this.#updates.heldBytes,
      flushes: this.#flushes,
      written: this.#written,
      retries: this.#retries,
      alreadyDone: this.#alreadyDone,
      stale: this.#staleCount,
      dead: this.#dead,
      substituted: this.#substituted,
      outboxed: this.#outboxed,
      occurrencesWritten: this.#occurrencesWritten,
      occurrencesLost: this.#occurrencesLost,
      statsWritten: this.#statsWritten,
      statsLost: this.#statsLost,
      failingSinceSteadyMs: this.#failingSinceSteadyMs,
    }
  }

  /** Adds the leases of every outcome that is not settled yet. */
  addLeases(leaseIds: Set<number>): void {
    for (const page of this.#updates.pages()) for (const id of page.leaseIds) leaseIds.add(id)
    for (const flush of this.#remaining) for (const id of flush.leaseIds) leaseIds.add(id)
    for (const unit of this.#open) leaseIds.add(unit.leaseId)
    if (this.#burying !== null) leaseIds.add(this.#burying)
  }

  /** What was asked for and has not begun yet: 'size', 'time' or 'asked'. */
  get flushSignal(): { updates: string | null; stats: string | null } {
    return { updates: this.#updates.signal, stats: this.#stats.signal }
  }

  async #writePage(page: OutcomePage): Promise<void> {
    this.#remaining = page.count > 0 ? [page.toFlush(++this.#no)] : []
    this.#asked = this.#open.length
    if (this.#asked > 0) this.#remaining.push(flushOf(++this.#no, this.#open.splice(0)))
    while (this.#remaining.length > 0) {
      const flush = this.#remaining[0]!
      const refusal = await this.#send(flush, page)
      if (this.#cut.signal.aborted) return // what remains is on its way to the outbox
      const units = refusal === null ? [] : unitsOf(flush)
      this.#remaining.shift()
      if (units.length > 1) this.#halve(units)
      else if (refusal !== null && units.length === 1) await this.#bury(flush, units[0]!, refusal.error, page)
      if (this.#cut.signal.aborted) return
    }
  }

  /** Sends one flush until PostgreSQL has answered. Returns null when it was taken, otherwise why it was refused. */
  async #send(flush: Flush, page: OutcomePage): Promise<{ error: unknown } | null> {
    for (let tries = 0; ; tries++) {
      const answer = await this.#try(flush)
      if (this.#cut.signal.aborted) return null
      if ('result' in answer) {
        this.#taken(flush, answer.result)
        return null
      }
      page.share() // a try whose answer was lost may still be reading this memory
      const { error } = answer
      if (isFinal(error) && this.#refusedInARow < REFUSED_IN_A_ROW_MAX) return { error }
      this.#retries++
      this.#failingSinceSteadyMs ??= this.#clock.steadyMs()
      const facts = { no: flush.no, rows: flush.rowCount, code: codeOf(error), error: messageOf(error) }
      if (tries === 0) this.#log.warn(facts, 'flush.failed')
      else this.#log.debug({ ...facts, tries: tries + 1 }, 'flush.failed_again')
      await this.#clock.sleep(this.#backoffMs(tries), this.#cut.signal)
      if (this.#cut.signal.aborted) return null
    }
  }

  async #try(flush: Flush): Promise<{ result: FlushResult } | { error: unknown }> {
    try {
      return { result: await this.#needs.flush(flush) }
    } catch (error) {
      // Others have taken over everything that this node held: there is nobody to tell and nothing to try again.
      if (codeOf(error) === 'NODE_FENCED') return { result: { staleLeases: flush.leaseIds, alreadyDone: false } }
      return { error }
    }
  }

  #taken(flush: Flush, result: FlushResult): void {
    if (this.#failingSinceSteadyMs !== null) {
      const outMs = Math.round(this.#clock.steadyMs() - this.#failingSinceSteadyMs)
      this.#failingSinceSteadyMs = null
      this.#log.info({ no: flush.no, outMs }, 'flush.recovered')
    }
    this.#refusedInARow = 0
    const stale = staleOutcomes(flush, result.staleLeases)
    const open = flush.doubts === undefined ? 0 : this.#doubtsAnswered(flush, result)
    const written = outcomesOf(flush) - stale - open
    this.#flushes++
    this.#written += written
    this.#staleCount += stale
    if (result.alreadyDone) this.#alreadyDone++
    this.#log.debug({ no: flush.no, jobs: written, rows: flush.rowCount, stale }, 'wrote job run update')
    this.#pageWritten += written
    if (result.staleLeases.length > 0) this.#needs.onStale?.(result.staleLeases, stale)
  }

  /** Keeps what cannot be decided yet for later, and tells of the rest. Returns how many are kept. */
  #doubtsAnswered(flush: Flush, { doubts, staleLeases }: FlushResult): number {
    const open = new Set(doubts?.open)
    const committed = new Set(doubts?.committed)
    const stale = new Set(staleLeases)
    // copies: the page's memory is used again
    if (open.size > 0)
      for (const unit of unitsOf(flush))
        if (unit.doubt !== null && open.has(unit.jobId))
          this.#open.push({ ...unit, tuple: unit.tuple && Buffer.from(unit.tuple) })
    if (this.#open.length > 0) this.#lookLater()
    for (const { jobId } of flush.doubts!) this.#noteOpen(jobId, open.has(jobId))
    for (const doubt of flush.doubts!)
      if (!open.has(doubt.jobId) && !stale.has(doubt.leaseId))
        this.#needs.onDoubtSettled?.(doubt, committed.has(doubt.jobId))
    return open.size
  }

  /** A transaction that nobody ends holds its job for ever, and its session may be one that a handler has forgotten. */
  #noteOpen(jobId: number, isOpen: boolean): void {
    if (!isOpen) {
      this.#openSinceMs.delete(jobId)
      return
    }
    const nowMs = this.#clock.steadyMs()
    const sinceMs = this.#openSinceMs.get(jobId) ?? nowMs
    const isNews = nowMs - sinceMs >= OPEN_WARN_MS
    this.#openSinceMs.set(jobId, isNews ? Number.POSITIVE_INFINITY : sinceMs)
    if (isNews) this.#log.warn({ job: jobId, openMs: Math.round(nowMs - sinceMs) }, 'job.transaction_open')
  }

  /** An empty page makes the writer ask again. */
  #lookLater(): void {
    this.#openTimer ??= this.#clock.after(OPEN_LOOK_MS, () => {
      this.#openTimer = null
      if (this.#open.length > 0 && !this.#updates.trySend(new OutcomePage())) this.#lookLater()
    })
  }

  /** Resolves when every job that its handler may have completed is decided. */
  async #decided(): Promise<void> {
    await this.#updates.flush().catch(() => {}) // a writer that has failed is seen to below
    while (this.#open.length > 0 && !this.#cut.signal.aborted) await this.#clock.sleep(OPEN_LOOK_MS, this.#cut.signal)
  }

  #pageSettled(): void {
    this.#asked = 0
    const written = this.#pageWritten
    this.#pageWritten = 0
    this.outcomes.settled()
    this.#needs.onFlushed?.(written)
  }

  /**
   * Both halves, before whatever else remains. Numbers only rise in the order of sending, so what comes behind them,
   * and has not been sent yet, gets new ones too.
   */
  #halve(units: readonly Unit[]): void {
    const half = Math.ceil(units.length / 2)
    const halves = [flushOf(0, units.slice(0, half)), flushOf(0, units.slice(half))]
    this.#remaining = [...halves, ...this.#remaining].map((waiting) => this.#renumbered(waiting))
  }

  /** One outcome that PostgreSQL refuses: it is kept as evidence, and its job ends with a substitute. */
  async #bury(flush: Flush, unit: Unit, error: unknown, page: OutcomePage): Promise<void> {
    const { leaseId, jobId } = unit
    const sqlState = sqlStateOf(error)
    const message = messageOf(error)
    const nodeId = this.#needs.nodeId()
    const facts: Record<string, unknown> = { jobId, leaseId, code: codeOf(error), sqlState, error: message }
    this.#dead++
    this.#burying = leaseId
    try {
      await this.#outbox.putDead({ atMs: this.#clock.wallMs(), nodeId, leaseId, jobId, sqlState, message, flush })
    } catch (outboxError) {
      facts.outboxError = messageOf(outboxError)
    }
    this.#burying = null
    this.#log.error(facts, 'failed to write job run update')
    if (this.#cut.signal.aborted) return
    this.#refusedInARow++
    const text = `PostgreSQL refused what this attempt reported: ${message}`
    const substitute = substituteOf(unit, 'STORE_FAILED', text, { sqlState })
    if (substitute === null) return
    this.#remaining = [flushOf(0, [substitute]), ...this.#remaining].map((waiting) => this.#renumbered(waiting))
    const refused = await this.#send(this.#remaining[0]!, page)
    if (this.#cut.signal.aborted) return
    this.#remaining.shift()
    if (refused === null) this.#substituted++
    else this.#log.warn({ jobId, leaseId, error: messageOf(refused.error) }, 'substitute.refused')
  }

  #renumbered(flush: Flush): Flush {
    return { ...flush, no: ++this.#no }
  }

  #backoffMs(tries: number): number {
    const { retryMs, retryMsMax } = this.#options
    return Math.min(retryMsMax, retryMs * 2 ** Math.min(tries, 30)) * (0.5 + this.#random() / 2)
  }

  /** Tried until the stop; what PostgreSQL refuses for what it says would be refused again. */
  async #writeOccurrences(page: OccurrencePage): Promise<void> {
    const { rows } = page
    for (let tries = 0; !this.#cut.signal.aborted; tries++) {
      try {
        await this.#needs.writeOccurrences?.(rows)
        this.#occurrencesWritten += rows.length
        return
      } catch (error) {
        const facts = { rows: rows.length, code: codeOf(error), error: messageOf(error) }
        if (isFinal(error)) {
          this.#occurrencesLost += rows.length
          this.#log.error(facts, 'failed to write occurrence update')
          return
        }
        if (tries === 0) this.#log.warn(facts, 'occurrences.failed')
        await this.#clock.sleep(this.#backoffMs(tries), this.#cut.signal)
      }
    }
  }

  async #writeStats(page: StatsPage): Promise<void> {
    try {
      await this.#needs.writeStats(page.rows)
      this.#statsWritten += page.rows.length
    } catch (error) {
      this.#statsLost += page.rows.length
      this.#log.error({ rows: page.rows.length, error: messageOf(error) }, 'failed to write stats update')
    }
  }

  async #finish(deadline: Deadline): Promise<StopReport> {
    const before = this.#written
    this.#log.debug({ held: this.#updates.held }, 'syncer.stopping')
    const timeUp = new AbortController()
    if (this.outcomes.sawDoubts)
      await Promise.race([this.#decided(), this.#clock.sleep(deadline.leftMs() * OPEN_SHARE, timeUp.signal)])
    const leftMs = deadline.leftMs()
    const closed = Promise.all([this.#updates.close(), this.#occurrences.close(), this.#stats.close()])
    await Promise.race([closed, this.#clock.sleep(leftMs - Math.min(STOP_RESERVE_MS, leftMs / 2), timeUp.signal)])
    timeUp.abort()
    this.#openTimer?.cancel()
    if (this.#open.length > 0)
      this.#log.warn(
        { jobs: this.#open.map(({ jobId }) => jobId).slice(0, 20) },
        'transactions of handlers are still open',
      )
    this.#occurrencesLost += this.#occurrences.held
    this.#occurrences.abandon()
    this.#statsLost += this.#stats.held
    this.#stats.abandon()
    const outboxed = await this.#storeRest()
    const report = { written: this.#written - before, outboxed }
    this.#log.debug({ ...report }, 'syncer.stopped')
    return report
  }

  /** Puts what is not written into the outbox, oldest first, each with the number that it was or would be sent with. */
  async #storeRest(): Promise<number> {
    this.#cut.abort()
    const { inFlight, waiting } = this.#updates.abandon()
    const flushes = inFlight === null ? [] : [...this.#remaining]
    for (const page of waiting) flushes.push(page.toFlush(++this.#no))
    let outboxed = 0
    try {
      for (const flush of flushes) {
        await this.#outbox.put(this.#needs.nodeId(), flush)
        outboxed += outcomesOf(flush)
      }
    } catch (error) {
      const lost = flushes.reduce((sum, flush) => sum + outcomesOf(flush), -outboxed)
      this.#log.error({ lost, outboxed, error: messageOf(error) }, 'outbox.failed')
      this.#updates.settleAll(error)
      throw error
    } finally {
      this.#outboxed += outboxed
    }
    if (outboxed > 0) this.#log.warn({ outboxed }, 'outcomes are in the outbox and will be sent at the next start')
    this.#updates.settleAll(null)
    return outboxed
  }
}

function handOver(name: string, batcher: Batcher<OutcomePage> | Batcher<StatsPage>): number {
  const { handed, full } = batcher.tryFlush()
  if (full) throw new EngineError('CHANNEL_FULL', `${name} channel full`, { handed, left: batcher.buffered })
  return handed
}

function staleOutcomes(flush: Flush, staleLeases: readonly number[]): number {
  if (staleLeases.length === 0) return 0
  const stale = new Set(staleLeases)
  let count = 0
  flush.leaseIds.forEach((leaseId, index) => {
    if (stale.has(leaseId)) count += flush.leaseDone[index]!
  })
  return count
}
