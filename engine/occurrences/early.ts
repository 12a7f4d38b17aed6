// Occurrences whose jobs are made ahead of their time, so that at that time one small question is left:
//
//   lead time before ──prepare──► job + lease, held here as PreRun ──due──confirm──► runs
//
// A statement that decides a thousand due times takes tens of milliseconds; one that asks "has anything changed since?"
// takes one. It asks the database, at the due time by the database's clock: whoever pauses, changes or deletes a schedule
// until then is obeyed. Taken are as many as could start here at once; all others, and those that are not plain, are
// decided at their time (schedules.ts), and so are these when anything here fails.
//
// What is held follows the ways of every held job: a node that stops gives it back, one that dies is rescued, and in both
// cases it waits for its time in `scheduled`.

import type { Clock } from '../base/clock.ts'
import { codeOf, messageOf } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { backoffMs, isRetryable } from '../store/connection.ts'
import type { Made, Prepared } from '../store/schedule-store.ts'
import type { ClaimedChunk } from '../store/types.ts'
import type { Entry } from './entry.ts'

/** Occurrences that one statement makes: some ten milliseconds of work, so that nobody waits long behind it. */
const PREPARE_ITEMS_MAX = 250
/** So much after the due time it is noted on the schedules. */
const NOTE_AFTER_MS = 250
/** Tries of a confirmation while PostgreSQL is away; the jobs stay held, and are rescued if this node is given up. */
const CONFIRM_TRIES_MAX = 1_000

export interface EarlyNeeds {
  readonly clock: Clock
  readonly log: Log
  readonly store: {
    prepare(
      nodeId: number,
      items: readonly { scheduleId: string; scheduledAtMs: number; revision: number }[],
    ): Promise<Prepared>
    confirm(atMs: number, change: number): Promise<{ stands: boolean; lateMs: number }>
    standing(made: readonly Made[]): Promise<ReadonlySet<number>>
    noteBegun(made: readonly Made[], lateMs: number): Promise<void>
  }
  readonly jobs: EarlyJobs
  /** Runs a statement that takes jobs: when its answer is lost, the node has to find out what it took. */
  taking<T>(take: () => Promise<T>): Promise<T>
  /** The loop's runs follow the jobs that are made for them. */
  readonly runs: { bindRun(runId: string, jobId: number): boolean }
  nodeId(): number
}

/** The loop's side of the jobs that are held ahead of their time. */
export interface EarlyJobs {
  /** This node would run a job of this task in this queue. */
  serves(queue: string, task: string): boolean
  /** How many jobs of these tasks, in this order, could start at once. */
  mayTake(tasks: readonly string[]): number
  /** Takes them in; they wait until begin(). False: the node that made them is no more. */
  hold(chunks: readonly ClaimedChunk[], nodeId: number): boolean
  begin(chunks: readonly ClaimedChunk[]): void
  /** Gives them back: they wait for their time in the database. */
  giveBack(chunks: readonly ClaimedChunk[]): void
  /** Ends one of them. */
  cancel(jobId: number, reason: string): void
}

/** What became of an occurrence: its job has begun; it was withdrawn; somebody else has it; or it is to be decided now. */
export type EarlyEnd =
  | { readonly end: 'begun'; readonly jobId: number; readonly lateMs: number }
  | { readonly end: 'withdrawn' | 'taken' | 'left' }

const TAKEN: EarlyEnd = { end: 'taken' }
const LEFT: EarlyEnd = { end: 'left' }
const WITHDRAWN: EarlyEnd = { end: 'withdrawn' }

/** The occurrences of one due time. */
interface Batch {
  readonly atMs: number
  readonly nodeId: number
  /** Schedule by run id. */
  readonly runs: Map<string, string>
  readonly jobs: Map<string, number>
  readonly taken: Set<string>
  /** Runs that were ended before their time. */
  readonly cancelled: Set<string>
  readonly chunks: ClaimedChunk[]
  change: number
  flight: Promise<void>
}

interface Answer {
  readonly lateMs: number
  /** Jobs whose occurrences stand; null: all. */
  readonly standing: ReadonlySet<number> | null
}

const NOTHING: Answer = { lateMs: 0, standing: null }

export class Early {
  readonly #needs: EarlyNeeds
  readonly #batches = new Map<number, Batch>()
  /** Occurrences made ahead, and those that were withdrawn again; for the metrics. */
  readonly counts = { prepared: 0, withdrawn: 0 }
  /** Confirmations whose notes are not written yet, and what makes them hurry. */
  readonly #confirming = new Set<Promise<void>>()
  readonly #hurry = new AbortController()

  constructor(needs: EarlyNeeds) {
    this.#needs = needs
  }

  /** Takes what it can of the occurrences of a due time that is near: [run id, schedule]. */
  take(atMs: number, occurrences: readonly (readonly [runId: string, entry: Entry])[]): void {
    if (this.#batches.has(atMs)) return
    const { jobs, nodeId } = this.#needs
    const plain = occurrences.filter(([, entry]) => isPlain(entry) && jobs.serves(entry.queue, entry.task))
    const room = jobs.mayTake(plain.map(([, entry]) => entry.task))
    if (room === 0) return
    const mine = plain.slice(0, room)
    const batch: Batch = {
      atMs,
      nodeId: nodeId(),
      runs: new Map(mine.map(([runId, entry]) => [runId, entry.id])),
      jobs: new Map(),
      taken: new Set(),
      cancelled: new Set(),
      chunks: [],
      change: 0,
      flight: Promise.resolve(),
    }
    this.#batches.set(atMs, batch)
    batch.flight = this.#prepare(batch, mine).catch((error) =>
      // nothing is lost: they are decided at their time
      this.#needs.log.warn({ error: messageOf(error), due: mine.length }, 'schedule.prepare_failed'),
    )
  }

  has(atMs: number, runId: string): boolean {
    return this.#batches.get(atMs)?.runs.has(runId) === true
  }

  /** Its run was ended before its time; what becomes of the occurrence still shows then. */
  isCancelled(atMs: number, runId: string): boolean {
    return this.#batches.get(atMs)?.cancelled.has(runId) === true
  }

  /** The due time has come, or will in a moment: waits for it, and says what became of each. */
  confirm(atMs: number, tell: (runId: string, scheduleId: string, end: EarlyEnd) => void): Promise<void> {
    const confirming = this.#confirm(atMs, tell)
    this.#confirming.add(confirming)
    const over = () => void this.#confirming.delete(confirming)
    confirming.then(over, over)
    return confirming
  }

  /** Resolves when what has begun is noted: at once, with nobody waiting for the processors any more. */
  async stop(): Promise<void> {
    this.#hurry.abort()
    await Promise.allSettled(this.#confirming)
  }

  async #confirm(atMs: number, tell: (runId: string, scheduleId: string, end: EarlyEnd) => void): Promise<void> {
    const batch = this.#batches.get(atMs)
    if (batch === undefined) return
    await batch.flight
    const { jobs, log, nodeId, store } = this.#needs
    const { lateMs, standing } = await this.#ask(batch).catch((error) => {
      // whoever claims them next need not ask: what is withdrawn is cancelled wherever it waits
      log.error({ error: messageOf(error), due: batch.jobs.size }, 'schedule.confirm_failed')
      jobs.giveBack(batch.chunks)
      batch.jobs.clear()
      return NOTHING
    })
    if (this.#batches.get(atMs) !== batch) return // stopped meanwhile
    this.#batches.delete(atMs)
    if (batch.nodeId !== nodeId()) batch.jobs.clear() // others have them
    const begun: (Made & { runId: string })[] = []
    const others: [runId: string, scheduleId: string, end: EarlyEnd][] = []
    for (const [runId, scheduleId] of batch.runs) {
      const jobId = batch.jobs.get(runId)
      if (jobId === undefined) {
        if (!batch.cancelled.has(runId)) others.push([runId, scheduleId, batch.taken.has(runId) ? TAKEN : LEFT])
      } else if (standing === null || standing.has(jobId)) {
        if (!batch.cancelled.has(runId)) begun.push({ runId, scheduleId, scheduledAtMs: atMs, jobId })
      } else {
        this.counts.withdrawn++
        jobs.cancel(jobId, 'its schedule was changed before it was due')
        others.push([runId, scheduleId, WITHDRAWN])
      }
    }
    jobs.begin(batch.chunks) // first of all: they are due
    for (const { runId, scheduleId, jobId } of begun) tell(runId, scheduleId, { end: 'begun', jobId, lateMs })
    for (const other of others) tell(...other)
    if (begun.length === 0) return
    await this.#needs.clock.sleep(NOTE_AFTER_MS, this.#hurry.signal) // nobody waits for it, and the jobs need the processors
    await store.noteBegun(begun, lateMs).catch((error) => log.warn({ error: messageOf(error) }, 'schedule.note_failed'))
  }

  /** Its run was ended before its time: by a person, or with its job. */
  cancel(atMs: number, runId: string, reason: string): void {
    const batch = this.#batches.get(atMs)
    if (batch === undefined || batch.cancelled.has(runId)) return
    batch.cancelled.add(runId)
    const jobId = batch.jobs.get(runId)
    if (jobId !== undefined) this.#needs.jobs.cancel(jobId, reason)
  }

  /** What is held is given back by who holds it. */
  clear(): void {
    this.#batches.clear()
  }

  async #prepare(batch: Batch, mine: readonly (readonly [string, Entry])[]): Promise<void> {
    for (let from = 0; from < mine.length; from += PREPARE_ITEMS_MAX)
      if (!(await this.#make(batch, mine.slice(from, from + PREPARE_ITEMS_MAX)))) return
  }

  /** False: this node is over. */
  async #make(batch: Batch, some: readonly (readonly [string, Entry])[]): Promise<boolean> {
    const { jobs, runs, store, taking } = this.#needs
    const items = some.map(([, { id, revision }]) => ({ scheduleId: id, scheduledAtMs: batch.atMs, revision }))
    const made = await taking(() => store.prepare(batch.nodeId, items)).catch((error: unknown) => {
      if (isRetryable(error) || codeOf(error) === 'NODE_FENCED') throw error
      return null
    })
    if (made === null) {
      // one of them is refused: it alone is left for its time, when its schedule is told why
      if (some.length === 1) return true
      const half = some.length >> 1
      return (await this.#make(batch, some.slice(0, half))) && (await this.#make(batch, some.slice(half)))
    }
    // the first answer's number: what changed between two of them is asked about too
    if (batch.change === 0) batch.change = made.change
    for (const n of made.taken) batch.taken.add(some[n]![0])
    if (made.chunks.length > 0 && !jobs.hold(made.chunks, batch.nodeId)) return false
    batch.chunks.push(...made.chunks)
    for (const [n, jobId] of made.jobs) {
      this.counts.prepared++
      const [runId] = some[n]!
      batch.jobs.set(runId, jobId)
      if (batch.cancelled.has(runId)) jobs.cancel(jobId, 'cancelled in PreRun')
      else runs.bindRun(runId, jobId)
    }
    return true
  }

  async #ask(batch: Batch): Promise<Answer> {
    const { clock, log, store } = this.#needs
    if (batch.jobs.size === 0) return NOTHING
    for (let tries = 0; this.#batches.get(batch.atMs) === batch; tries++) {
      try {
        const { stands, lateMs } = await store.confirm(batch.atMs, batch.change)
        if (stands) return { lateMs, standing: null }
        if (lateMs < 0) {
          await clock.sleep(Math.min(20, Math.max(1, -lateMs - 5)), this.#hurry.signal)
          continue
        }
        const made = Array.from(batch.jobs, ([runId, jobId]) => ({
          scheduleId: batch.runs.get(runId)!,
          scheduledAtMs: batch.atMs,
          jobId,
        })).filter((it) => it.scheduleId !== undefined)
        return { lateMs, standing: await store.standing(made) }
      } catch (error) {
        if (tries === 0) log.warn({ error: messageOf(error), due: batch.jobs.size }, 'schedule.confirm_delayed')
        if (!isRetryable(error) || tries === CONFIRM_TRIES_MAX) throw error
        await clock.sleep(backoffMs(tries), this.#hurry.signal)
      }
    }
    return NOTHING // stopped meanwhile
  }
}

/** Its verdict cannot depend on what happens until its time, and its time is the one that the cron expression names. */
function isPlain(entry: Entry): boolean {
  return entry.overlap === 'allow' && entry.jitterMs === 0 && !entry.grouped
}
