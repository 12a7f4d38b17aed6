// What the engine asks of PostgreSQL about schedules, one method per question. Occurrences are fired on a connection of
// their own, so that a due time never waits behind a claim or a flush; it is opened with the first of them. Every
// answer that carries the database's clock is noted.

import type { Clock } from '../base/clock.ts'
import type { Session } from './connection.ts'
import type { DatabaseTime } from './database-time.ts'
import { readStatements } from './statements.ts'
import type { ClaimRow, Store } from './store.ts'
import type { ClaimedChunk } from './types.ts'

export interface LoadedSchedule {
  readonly id: string
  readonly queue: string
  readonly task: string
  /** Its jobs have a group. */
  readonly grouped: boolean
  readonly revision: number
  /** Another number after a change of any kind. */
  readonly changed: number
  readonly cron: string
  readonly timeZone: string
  /** Due times up to here do not count. */
  readonly sinceMs: number
  readonly startsMs: number | null
  readonly endsMs: number | null
  readonly jitterMs: number
  readonly overlap: 'allow' | 'skip' | 'queue'
  readonly catchUp: 'none' | 'one' | 'all'
  readonly catchUpMs: number
  /** As it is noted in the database. */
  readonly error: string | null
  readonly lastScheduledMs: number | null
}

export interface FireItem {
  readonly scheduleId: string
  readonly scheduledAtMs: number
  readonly jitterMs: number
  readonly revision: number
}

/** enqueued: this call made the job. taken: it was decided before. The others say why there is none. */
export type FireOutcome = 'enqueued' | 'skipped' | 'taken' | 'gone' | 'paused' | 'changed' | 'out' | 'early'

export interface Fired {
  readonly outcome: FireOutcome
  readonly jobId: number | null
  readonly queueId: number | null
  /** Due until decided, by the database's clock; negative when early. */
  readonly lateMs: number
}

/** An occurrence whose job was made ahead of its time. */
export interface Made {
  readonly scheduleId: string
  readonly scheduledAtMs: number
  readonly jobId: number
}

/** What prepare() made, and what it met. */
export interface Prepared {
  /** What this node holds now. */
  readonly chunks: ClaimedChunk[]
  /** The jobs that were made, by the place of their item. */
  readonly jobs: ReadonlyMap<number, number>
  /** Places of items that were decided before. */
  readonly taken: readonly number[]
  /** For confirm(). */
  readonly change: number
}

/** A schedule to be written; undefined `paused` leaves that as it is. */
export interface NewSchedule {
  readonly id: string
  readonly queueId: number
  readonly taskId: number
  readonly cron: string
  readonly timeZone: string
  /** JSON text. */
  readonly payload: string
  readonly options: Readonly<Record<string, unknown>>
  readonly startsMs: number | null
  readonly endsMs: number | null
  readonly jitterMs: number
  readonly overlap: string
  readonly catchUp: string
  readonly catchUpMs: number
  readonly paused: boolean | undefined
}

export type PutWhat = 'created' | 'changed' | 'same' | 'exists' | 'deleted'

export type ScheduleRecord = Readonly<Record<string, unknown>>

export class ScheduleStore {
  readonly #store: Store
  readonly #clock: Clock
  readonly #statements: ReadonlyMap<string, string>
  readonly time: DatabaseTime

  constructor(store: Store, clock: Clock) {
    this.#store = store
    this.#clock = clock
    this.#statements = readStatements('schedules.sql', store.schema)
    this.time = store.time
  }

  // ------------------------------------------------------------------ for the running engine

  /** Asks for the database's clock, and has the connection and the plans ready with which occurrences are fired. */
  async sync(): Promise<void> {
    await this.fire(0, [])
    await this.#timed(this.#store.session('schedule'), 'clock', [])
  }

  /** Two equal digests mean that no schedule was made, changed or deleted in between. */
  async digest(): Promise<{ schedules: number; digest: string }> {
    const [row] = await this.#timed<{ schedules: number; changes: string }>(this.#store.session('ask'), 'digest', [])
    return { schedules: row!.schedules, digest: `${row!.schedules} ${row!.changes}` }
  }

  /** All that are not paused, by id. */
  async load(): Promise<LoadedSchedule[]> {
    const rows = await this.#timed<LoadRow>(this.#store.session('ask'), 'load', [])
    return rows.map((row) => ({
      id: row.id,
      queue: row.queue,
      task: row.task,
      grouped: row.grouped,
      revision: row.revision,
      changed: row.changed,
      cron: row.cron,
      timeZone: row.time_zone,
      sinceMs: row.since_ms,
      startsMs: row.starts_ms,
      endsMs: row.ends_ms,
      jitterMs: row.jitter_ms,
      overlap: row.overlap,
      catchUp: row.catch_up,
      catchUpMs: row.catch_up_ms,
      error: row.error,
      lastScheduledMs: row.last_scheduled_ms,
    }))
  }

  /** Occurrences that were decided, from a moment on. */
  async decidedSince(atMs: number): Promise<{ scheduleId: string; scheduledAtMs: number }[]> {
    const rows = await this.#ask<{ schedule_id: string; scheduled_ms: number }>('decided', [atMs])
    return rows.map((row) => ({ scheduleId: row.schedule_id, scheduledAtMs: row.scheduled_ms }))
  }

  /** Decides occurrences, in the order given; harmless to repeat. At most one per schedule that does not allow overlaps. */
  async fire(nodeId: number, items: readonly FireItem[]): Promise<Fired[]> {
    const rows = await this.#timed<FireRow>(this.#store.session('schedule'), 'fire', [
      nodeId,
      JSON.stringify(
        items.map((item, n) => ({
          n,
          s: item.scheduleId,
          d: item.scheduledAtMs,
          j: item.jitterMs,
          v: item.revision,
        })),
      ),
    ])
    const fired: Fired[] = new Array(items.length)
    for (const row of rows)
      fired[row.n] = { outcome: row.outcome, jobId: row.job_id, queueId: row.queue_id, lateMs: row.late_ms }
    return fired
  }

  /**
   * Makes the jobs of occurrences shortly before their time and leases them to this node. Items that are in neither part
   * of the answer are decided at their time.
   * @throws EngineError NODE_FENCED when the node row is gone
   */
  async prepare(nodeId: number, items: readonly Omit<FireItem, 'jitterMs'>[]): Promise<Prepared> {
    const sentMs = this.#clock.steadyMs()
    const rows = await this.#store.session('ask').query<ClaimRow & { report: PrepareReport | null }>({
      name: 'schedule_prepare',
      text: this.#statements.get('prepare')!,
      values: [
        nodeId,
        JSON.stringify(items.map((it, n) => ({ n, s: it.scheduleId, d: it.scheduledAtMs, v: it.revision }))),
      ],
    })
    const report = rows.pop()!.report!
    this.time.note(sentMs, this.#clock.steadyMs(), report.now)
    return {
      chunks: await this.#store.chunksOf(rows),
      jobs: new Map(report.items.map((n, at) => [n, report.jobs[at]!])),
      taken: report.taken,
      change: report.change,
    }
  }

  /** Waits for the time, when it is near. False: schedules have changed since prepare(), or it is not that late yet. */
  async confirm(atMs: number, change: number): Promise<{ stands: boolean; lateMs: number }> {
    const [row] = await this.#timed<{ stands: boolean; late_ms: number }>(this.#store.session('schedule'), 'confirm', [
      atMs,
      change,
    ])
    return { stands: row!.stands, lateMs: row!.late_ms }
  }

  /** Those whose occurrence still has that job; waits for changes of their schedules that are being made. */
  async standing(made: readonly Made[]): Promise<Set<number>> {
    const rows = await this.#store.session('schedule').query<{ job_id: number }>({
      name: 'schedule_standing',
      text: this.#statements.get('standing')!,
      values: [madeJson(made)],
    })
    return new Set(rows.map((row) => row.job_id))
  }

  /** Notes on their schedules that these have begun; all of one due time. */
  async noteBegun(made: readonly Made[], lateMs: number): Promise<void> {
    await this.#ask('note_begun', [madeJson(made), lateMs])
  }

  async fireFailed(nodeId: number, scheduleId: string, scheduledAtMs: number, error: string): Promise<void> {
    await this.#repeat('fire_failed', [nodeId, scheduleId, scheduledAtMs, error])
  }

  async noteError(id: string, revision: number, error: string | null): Promise<void> {
    await this.#repeat('note_error', [id, revision, error])
  }

  /** Forgets occurrences that are older, of more than a million the younger ones too; answers how many went. */
  async clean(olderThanMs: number, olderIfManyMs: number, limit: number): Promise<number> {
    return (await this.#ask('clean', [olderThanMs, olderIfManyMs, limit])).length
  }

  // ------------------------------------------------------------------ for people

  /** All or nothing, in one transaction. `pruneQueues`: schedules from code of these queues that are not listed go. */
  async put(
    list: readonly NewSchedule[],
    source: 'code' | 'api',
    isNew: boolean,
    pruneQueues: readonly number[] | null,
  ): Promise<{ id: string; what: PutWhat }[]> {
    const items = list.map(
      (it) =>
        `{"id":${JSON.stringify(it.id)},"queue_id":${it.queueId},"task_id":${it.taskId},"cron":${JSON.stringify(it.cron)},` +
        `"time_zone":${JSON.stringify(it.timeZone)},"payload":${it.payload},"options":${JSON.stringify(it.options)},` +
        `"starts_ms":${it.startsMs},"ends_ms":${it.endsMs},"jitter_ms":${it.jitterMs},"overlap":"${it.overlap}",` +
        `"catch_up":"${it.catchUp}","catch_up_ms":${it.catchUpMs},"paused":${it.paused ?? null}}`,
    )
    return this.#repeat<{ id: string; what: PutWhat }>('put', [`[${items.join(',')}]`, source, isNew, pruneQueues])
  }

  /** False when there is no such schedule. */
  async pause(id: string): Promise<boolean> {
    return (await this.#repeat('pause', [id])).length > 0
  }

  async resume(id: string): Promise<boolean> {
    return (await this.#repeat('resume', [id])).length > 0
  }

  async delete(id: string): Promise<boolean> {
    return (await this.#ask('delete', [id])).length > 0
  }

  async noteTrigger(id: string, jobId: number): Promise<void> {
    await this.#ask('note_trigger', [id, jobId])
  }

  list(filter: {
    id: string | null
    queue: string | null
    after: string | null
    before: string | null
    limit: number
  }): Promise<ScheduleRecord[]> {
    return this.#repeat('list', [filter.id, filter.queue, filter.after, filter.before, filter.limit])
  }

  history(id: string, beforeMs: number | null, limit: number): Promise<ScheduleRecord[]> {
    return this.#repeat('history', [id, beforeMs, limit])
  }

  #ask<Row>(name: string, values: readonly unknown[]): Promise<Row[]> {
    return this.#store.session('ask').query<Row>({ text: this.#statements.get(name)!, values })
  }

  #repeat<Row>(name: string, values: readonly unknown[]): Promise<Row[]> {
    return this.#store.session('ask').repeatable<Row>({ text: this.#statements.get(name)!, values })
  }

  async #timed<Row>(session: Session, name: string, values: readonly unknown[]): Promise<Row[]> {
    const sentMs = this.#clock.steadyMs()
    const rows = await session.query<Row & { now_ms: number }>({
      name: `schedule_${name}`,
      text: this.#statements.get(name)!,
      values,
    })
    const last = rows.at(-1)
    if (last !== undefined) this.time.note(sentMs, this.#clock.steadyMs(), last.now_ms)
    return rows
  }
}

interface LoadRow {
  id: string
  queue: string
  task: string
  grouped: boolean
  revision: number
  changed: number
  cron: string
  time_zone: string
  since_ms: number
  starts_ms: number | null
  ends_ms: number | null
  jitter_ms: number
  overlap: LoadedSchedule['overlap']
  catch_up: LoadedSchedule['catchUp']
  catch_up_ms: number
  error: string | null
  last_scheduled_ms: number | null
}

interface PrepareReport {
  items: number[]
  jobs: number[]
  taken: number[]
  change: number
  now: number
}

function madeJson(made: readonly Made[]): string {
  return JSON.stringify(made.map((it) => ({ s: it.scheduleId, d: it.scheduledAtMs, j: it.jobId })))
}

interface FireRow {
  n: number
  outcome: FireOutcome
  job_id: number | null
  queue_id: number | null
  late_ms: number
}
