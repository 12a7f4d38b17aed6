// What the engine asks of PostgreSQL, one method per question, typed in and out; nobody else sees rows. Each kind of
// work has its own connection, so that a long flush never delays a claim or the node's sign of life:
//   claim    claims and promotions          flush   settles outcomes         enqueue   single and small batches
//   bulk     COPY of many jobs              beat    the node row, rescues    notify    wake-ups of other nodes
//   keys     jobs with keys, whose statements wait for open transactions with the same key; opened with the first
//   schedule occurrences that are due (schedule-store.ts), opened with the first of them
//   ask      console and everything else
// LISTEN has a connection of its own in listener.ts.

import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import type { Clock } from '../base/clock.ts'
import { EngineError } from '../base/errors.ts'
import type { ForeignClient } from '../base/foreign-client.ts'
import { CHUNK_JOBS_MAX } from '../base/limits.ts'
import { attemptsJson } from './attempt-json.ts'
import { rangesOf } from './claim-ranges.ts'
import { isRetryable, Session, storeError } from './connection.ts'
import { CopyBuffer, copyIn } from './copy.ts'
import { DatabaseTime } from './database-time.ts'
import { answersOf, type DoubtState, withoutDecided } from './doubts.ts'
import { checkVersion, migrate } from './migrate.ts'
import { bindSchema, checkSchema } from './statements.ts'
import type {
  ClaimedChunk,
  ClaimRequest,
  DoubtItem,
  Flush,
  FlushResult,
  MigrationReport,
  NewChunk,
  Position,
  Promoted,
  PublishedOptions,
} from './types.ts'

export interface StoreOptions {
  readonly url: string
  readonly schema: string
  readonly clock: Clock
  readonly timeoutMs: number
  /** False behind a pooler in transaction mode. */
  readonly prepared: boolean
  /** Appears in pg_stat_activity before the kind of work. */
  readonly name: string
  /** What the database's clock is compared with, when that is another clock than the one for timeouts. */
  readonly time?: DatabaseTime
}

export interface NodeFacts {
  readonly uid: string
  readonly host: string
  readonly machine: string
  readonly pid: number
  readonly version: string
  readonly threads: number
  readonly limitMs: number
}

export interface Beat {
  readonly alive: boolean
  readonly silent: number[]
  readonly cancels: boolean
  readonly overdue: boolean
  /** Until the next look at jobs that expire; null: none does. */
  readonly expiresInMs: number | null
}

export interface Duplicate {
  readonly firstId: number
  /** The unfinished job that has the key. */
  readonly heldBy: number
}

type SessionName = 'claim' | 'flush' | 'enqueue' | 'keys' | 'bulk' | 'beat' | 'notify' | 'schedule' | 'ask'

export class Store {
  readonly #options: StoreOptions
  readonly #sessions = new Map<SessionName, Session>()
  readonly #queueNames = new Map<number, string>()
  readonly #queueIds = new Map<string, number>()
  readonly #taskNames = new Map<number, string>()
  readonly #taskIds = new Map<string, number>()
  /** Leases that had a row in `running`; few, and only a hint that saves a statement. */
  readonly #visible = new Set<number>()
  /** False once PostgreSQL has refused it to our role. */
  #mayCopy = true
  /** First id that has no partition yet, as far as we know. */
  #spansUntil = 0
  #isClosed = false

  /** Stands behind hints whose sender has told this process already. */
  readonly origin = randomUUID().slice(0, 13)

  /** What time it is for the database. */
  readonly time: DatabaseTime

  constructor(options: StoreOptions) {
    checkSchema(options.schema)
    this.#options = options
    this.time = options.time ?? new DatabaseTime(options.clock)
  }

  get schema(): string {
    return this.#options.schema
  }

  session(name: SessionName): Session {
    let session = this.#sessions.get(name)
    if (!session) {
      const { url, schema, clock, timeoutMs, prepared } = this.#options
      session = new Session({ url, schema, clock, timeoutMs, prepared, name: `${this.#options.name} ${name}` })
      this.#sessions.set(name, session)
      if (this.#isClosed) session.abandon()
    }
    return session
  }

  migrate(dryRun = false): Promise<MigrationReport> {
    return migrate(this.session('ask'), dryRun)
  }

  /** @throws EngineError SCHEMA_MISSING, SCHEMA_NEWER */
  checkVersion(): Promise<void> {
    return checkVersion(this.session('ask'))
  }

  /**
   * Names this schema of this database for ever, also after a failover or a restore: when its first table was made. The
   * answer tells the database's time, too, so that it is known before anything else is written.
   */
  async identity(): Promise<string> {
    const sentMs = this.time.steadyMs()
    const [row] = await this.ask<{ made: string; now: number }>(
      `select (extract(epoch from applied_at) * 1000000)::bigint::text as made,
         extract(epoch from clock_timestamp())::float8 * 1000 as now
       from millrace.migration where version = 1`,
    )
    this.time.note(sentMs, this.time.steadyMs(), row!.now)
    return row!.made
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.all([...this.#sessions.values()].map((session) => session.close()))
  }

  /** Drops every connection at once. */
  abandon(): void {
    this.#isClosed = true
    for (const session of this.#sessions.values()) session.abandon()
  }

  // ------------------------------------------------------------------ names and ids

  /** Ids of queue names; unknown names are added. */
  async queueIds(names: readonly string[]): Promise<number[]> {
    await this.#learn(
      'queue',
      names.filter((name) => !this.#queueIds.has(name)),
      this.#queueIds,
      this.#queueNames,
    )
    return names.map((name) => this.#queueIds.get(name)!)
  }

  async taskIds(names: readonly string[]): Promise<number[]> {
    await this.#learn(
      'task',
      names.filter((name) => !this.#taskIds.has(name)),
      this.#taskIds,
      this.#taskNames,
    )
    return names.map((name) => this.#taskIds.get(name)!)
  }

  /** Published options of these tasks; a name that is missing has none. Names that are not there are not added. */
  async publishedTasks(names: readonly string[]): Promise<Map<string, PublishedOptions>> {
    const sentMs = this.time.steadyMs()
    const rows = await this.session('ask').repeatable<{
      now: number
      name: string | null
      id: number
      options: PublishedOptions | null
    }>({
      text: this.#sql(`select c.now, t.name, t.id, t.options
        from (select extract(epoch from clock_timestamp())::float8 * 1000 as now) c
        left join millrace.task t on t.name = any ($1)`),
      values: [names],
    })
    this.time.note(sentMs, this.time.steadyMs(), rows[0]!.now)
    const published = new Map<string, PublishedOptions>()
    for (const row of rows) {
      if (row.name === null) continue
      this.#taskIds.set(row.name, row.id)
      this.#taskNames.set(row.id, row.name)
      if (row.options !== null) published.set(row.name, row.options)
    }
    return published
  }

  /** Names the tasks that a node has; harmless to repeat. @throws EngineError NODE_FENCED when the node row is gone */
  async publishTasks(nodeId: number, tasks: readonly { name: string; options: PublishedOptions }[]): Promise<void> {
    await this.session('ask').repeatable({
      text: this.#sql('select millrace.publish_tasks($1, $2)'),
      values: [nodeId, JSON.stringify(tasks)],
    })
  }

  /** The id of a name that is known already; undefined otherwise. Never waits. */
  knownQueueId(name: string): number | undefined {
    return this.#queueIds.get(name)
  }

  knownTaskId(name: string): number | undefined {
    return this.#taskIds.get(name)
  }

  /** Every queue that exists, by id. */
  async allQueues(): Promise<{ id: number; name: string; paused: boolean }[]> {
    const rows = await this.session('ask').repeatable<{ id: number; name: string; paused: boolean }>({
      text: this.#sql('select id, name, paused from millrace.queue order by id'),
    })
    for (const row of rows) {
      this.#queueIds.set(row.name, row.id)
      this.#queueNames.set(row.id, row.name)
    }
    return rows
  }

  async #learn(
    kind: 'queue' | 'task',
    names: readonly string[],
    ids: Map<string, number>,
    known: Map<number, string>,
  ): Promise<void> {
    if (names.length === 0) return
    const rows = await this.session('ask').repeatable<{ name: string; id: number }>({
      text: this.#sql(`select w.name, millrace.${kind}_id(w.name) as id from unnest($1::text[]) as w(name)`),
      values: [[...new Set(names)].sort()],
    })
    for (const row of rows) {
      ids.set(row.name, row.id)
      known.set(row.id, row.name)
    }
  }

  async #nameOf(
    kind: 'queue' | 'task',
    id: number,
    known: Map<number, string>,
    ids: Map<string, number>,
  ): Promise<string> {
    const name = known.get(id)
    if (name !== undefined) return name
    const rows = await this.session('ask').repeatable<{ id: number; name: string }>({
      text: this.#sql(`select id, name from millrace.${kind}`),
    })
    for (const row of rows) {
      known.set(row.id, row.name)
      ids.set(row.name, row.id)
    }
    return known.get(id) ?? `${kind} ${id}`
  }

  /** First ids of `count` fresh blocks of 1,000. Makes partitions ahead of them. */
  async reserveBlocks(count: number): Promise<number[]> {
    const rows = await this.session('enqueue').repeatable<{ block: number }>({
      name: 'reserve',
      text: this.#sql(`select nextval('millrace.id_block') as block from generate_series(1, $1)`),
      values: [count],
    })
    const firsts = rows.map((row) => row.block * CHUNK_JOBS_MAX + 1)
    const last = Math.max(...firsts) + CHUNK_JOBS_MAX
    if (last >= this.#spansUntil) {
      const spans = await this.session('ask').repeatable<{ until: number }>({
        text: this.#sql('select millrace.make_spans($1) as until'),
        values: [last],
      })
      this.#spansUntil = spans[0]!.until - 10_000_000 // ask again one span early
    }
    return firsts
  }

  // ------------------------------------------------------------------ enqueue

  /**
   * Writes chunks in one statement. On `client` (the caller's own transaction) or on a connection of ours.
   * `notify` wakes the listeners of others with the same commit, where that costs nothing extra. `limitMs`: no answer by
   * then is an error. @returns the chunks whose key an unfinished job has.
   */
  async enqueue(
    chunks: readonly NewChunk[],
    allOrNothing: boolean,
    client?: ForeignClient,
    notify = false,
    limitMs?: number,
  ): Promise<Duplicate[]> {
    const [only] = chunks
    if (chunks.length === 1 && isNarrow(only!)) {
      await this.#enqueueOn(client, {
        name: 'enqueue_plain',
        text: this.#sql('select millrace.enqueue_plain($1, $2, $3, $4, $5, $6, $7, $8::text::json, $9)'),
        values: [
          only!.firstId,
          only!.count,
          only!.queueId,
          only!.taskId,
          only!.priority,
          only!.maxAttempts,
          bytesOf(only!),
          `[${only!.payloads.join(',')}]`,
          notify ? this.#ownHint(`q${only!.queueId}`) : null,
        ],
        limitMs,
      })
      return []
    }
    const plain = chunks.every((chunk) => chunk.runAtMs === null && chunk.group === null)
    const keyed = chunks.some((chunk) => chunk.key !== null)
    const rows = await this.#enqueueOn<{ first_id: number | string; held_by: number | string }>(
      client,
      {
        name: 'enqueue_chunks',
        text: this.#sql('select first_id, held_by from millrace.enqueue_chunks($1::text::json, $2, $3, $4, $5)'),
        values: [chunksJson(chunks, true), plain, keyed, allOrNothing, chunks.some(expires)],
        limitMs,
      },
      keyed ? 'keys' : 'enqueue',
    )
    if (notify) void this.notify(`q${only!.queueId}`, true).catch(() => {})
    return rows.map((row) => ({ firstId: Number(row.first_id), heldBy: Number(row.held_by) }))
  }

  #enqueueOn<Row>(
    client: ForeignClient | undefined,
    statement: { name: string; text: string; values: unknown[]; limitMs: number | undefined },
    session: SessionName = 'enqueue',
  ): Promise<Row[]> {
    return client
      ? foreignRows<Row>(client, statement.text, statement.values)
      : this.session(session).query<Row>(statement)
  }

  /** Writes many jobs by COPY in one transaction. Chunks with keys are refused as a whole when one is taken. */
  async copyChunks(chunks: readonly NewChunk[], limitMs?: number): Promise<Duplicate[]> {
    const plain = chunks.every((chunk) => chunk.runAtMs === null && chunk.group === null)
    const narrow = chunks.every(isNarrow)
    const columns = narrow
      ? '(id, queue_id, task_id, priority, max_attempts, payload_bytes, payload)'
      : '(id, queue_id, task_id, priority, max_attempts, payload_bytes, payload, run_at, expires_at, timeout_ms, ephemeral, group_key, key, retry, meta, group_limit, retry_skips)'
    const bytes: number[] = []
    const keys = chunks
      .filter((chunk) => chunk.key !== null)
      .map((chunk) => ({ q: chunk.queueId, k: chunk.key, j: chunk.firstId }))
    const copy = async (client: pg.Client): Promise<Duplicate[]> => {
      await client.query('begin')
      if (keys.length > 0) {
        const taken = await client.query(this.#sql('select job_id, held_by from millrace.take_keys($1)'), [
          JSON.stringify(keys),
        ])
        if (taken.rows.length > 0) {
          await client.query('rollback')
          return taken.rows.map((row) => ({ firstId: row.job_id, heldBy: row.held_by }))
        }
      }
      await copyIn(client, this.#sql(`millrace.job ${columns}`), encodeJobs(chunks, narrow, bytes))
      await client.query(this.#sql('select millrace.place_chunks($1, $2)'), [chunksJson(chunks, false, bytes), plain])
      if (chunks.some(expires))
        await client.query(this.#sql('select millrace.watch_expiry($1)'), [chunksJson(chunks.filter(expires), false)])
      await client.query('commit')
      return []
    }
    const inTurn = (client: pg.Client): Promise<Duplicate[]> => this.#enqueueInTurn(client, chunks)
    const session = this.session(keys.length > 0 ? 'keys' : 'bulk')
    try {
      return await session.exclusive('tx copy jobs', this.#mayCopy ? copy : inTurn, limitMs)
    } catch (error) {
      // a role that only enqueues may call the functions for it, and write no table
      if (!this.#mayCopy || !(error instanceof EngineError && error.details.sqlState === '42501')) throw error
      this.#mayCopy = false
      return session.exclusive('tx copy jobs', inTurn, limitMs)
    }
  }

  /** Writes many jobs by the function that enqueues, part by part in one transaction. */
  async #enqueueInTurn(client: pg.Client, chunks: readonly NewChunk[]): Promise<Duplicate[]> {
    const duplicates: Duplicate[] = []
    await client.query('begin')
    for (let from = 0, to = 1; from < chunks.length; from = to) {
      to = from + 1
      for (let bytes = bytesOf(chunks[from]!); to < chunks.length && bytes < PART_BYTES; to++)
        bytes += bytesOf(chunks[to]!)
      const part = chunks.slice(from, to)
      const plain = part.every((chunk) => chunk.runAtMs === null && chunk.group === null)
      const keyed = part.some((chunk) => chunk.key !== null)
      const { rows } = await client.query(
        this.#sql('select first_id, held_by from millrace.enqueue_chunks($1::text::json, $2, $3, true, $4)'),
        [chunksJson(part, true), plain, keyed, part.some(expires)],
      )
      for (const row of rows) duplicates.push({ firstId: row.first_id, heldBy: row.held_by })
    }
    await client.query(duplicates.length > 0 ? 'rollback' : 'commit')
    return duplicates
  }

  /** Of these ids those that jobs have. What is under way in an open transaction is not seen. */
  async existing(ids: readonly number[], limitMs?: number): Promise<number[]> {
    const rows = await this.session('ask').repeatable<{ id: number }>({
      text: this.#sql('select id from millrace.job where id = any ($1)'),
      values: [ids],
      limitMs,
    })
    return rows.map(({ id }) => id)
  }

  // ------------------------------------------------------------------ claim and settle

  /**
   * Claims; an empty answer means that nothing is ready for us. `after`: it begins behind these in their queues and ranks,
   * unless it is for one group or for any task.
   * @throws EngineError NODE_FENCED when the node row is gone
   */
  async claim(request: ClaimRequest, after: readonly Position[] | null = null): Promise<ClaimedChunk[]> {
    const plan = request.group !== null ? 'claim_of_group' : request.taskIds !== null ? 'claim_of_tasks' : 'claim'
    const taskIds = request.taskIds?.toSorted((a, b) => a - b) ?? null
    if (after !== null && plan === 'claim_of_tasks') return this.#claimAfter(request, taskIds, after)
    const rows = await this.session('claim').query<ClaimRow>({
      name: plan,
      text: this.#sql(`select * from millrace.${plan}($1, $2, $3, $4, $5, $6)`),
      values: [request.nodeId, request.queueIds, taskIds, request.jobsMax, request.bytesMax, request.group],
    })
    return this.chunksOf(rows)
  }

  /** What PostgreSQL took for the last claim or promotion, in ms: from its sending to its answer, without connecting. */
  get claimAnsweredInMs(): number {
    return this.session('claim').answeredInMs
  }

  /** The number that was dealt last to what is ready: no row that is visible now has a higher one. */
  async lastSeq(): Promise<number> {
    const rows = await this.session('claim').query<{ seq: number }>({
      name: 'last_seq',
      text: this.#sql('select last_value as seq from millrace.ready_seq_seq'),
      values: [],
    })
    return rows[0]!.seq
  }

  async #claimAfter(
    request: ClaimRequest,
    taskIds: readonly number[] | null,
    after: readonly Position[],
  ): Promise<ClaimedChunk[]> {
    const { nodeId, queueIds, jobsMax, bytesMax } = request
    const ranges = rangesOf(queueIds, after)
    const rows = await this.session('claim').query<ClaimRow>({
      name: 'claim_after',
      text: this.#sql('select * from millrace.claim_after($1, $2, $3, $4, $5, null, $6, $7, $8, $9)'),
      values: [
        nodeId,
        queueIds,
        taskIds,
        jobsMax,
        bytesMax,
        ranges.queueIds,
        ranges.ranks,
        ranges.seqs,
        ranges.lastRanks,
      ],
    })
    return this.chunksOf(rows)
  }

  /**
   * Claims what becomes due within `withinMs`, but for what has a group or was tried before. Also answers in how many ms
   * the next job becomes due that was left where it is (null: none waits).
   * @throws EngineError NODE_FENCED when the node row is gone
   */
  async claimAhead(
    request: Omit<ClaimRequest, 'group'>,
    withinMs: number,
    fromMs: number | null = null,
  ): Promise<{ chunks: ClaimedChunk[]; nextInMs: number | null }> {
    const sentMs = this.time.steadyMs()
    const rows = await this.session('claim').query<ClaimRow & { report: { next: number | null; now: number } | null }>({
      name: 'claim_ahead',
      text: this.#sql('select * from millrace.claim_ahead($1, $2, $3, $4, $5, $6, $7)'),
      values: [
        request.nodeId,
        request.queueIds,
        request.taskIds,
        request.jobsMax,
        request.bytesMax,
        withinMs,
        momentOf(fromMs),
      ],
    })
    const { next, now } = rows.pop()!.report!
    this.time.note(sentMs, this.time.steadyMs(), now)
    return { chunks: await this.chunksOf(rows), nextInMs: next }
  }

  /** Rows as claim() in SQL answers them, in the order of their queue. */
  async chunksOf(rows: readonly ClaimRow[]): Promise<ClaimedChunk[]> {
    const chunks: ClaimedChunk[] = []
    for (const row of rows) {
      chunks.push({
        leaseId: row.lease_id,
        firstId: row.first_id,
        count: row.count,
        queueId: row.queue_id,
        queue:
          this.#queueNames.get(row.queue_id) ??
          (await this.#nameOf('queue', row.queue_id, this.#queueNames, this.#queueIds)),
        task:
          this.#taskNames.get(row.task_id) ?? (await this.#nameOf('task', row.task_id, this.#taskNames, this.#taskIds)),
        rank: row.rank,
        seq: row.seq,
        attempt: row.attempt,
        run: row.run,
        rescues: row.rescues,
        maxAttempts: row.max_attempts,
        timeoutMs: row.timeout_ms,
        expiresAtMs: row.expires_at_ms,
        createdAtMs: row.created_at_ms,
        dueAtMs: row.due_at_ms,
        keyed: row.keyed,
        ephemeral: row.ephemeral,
        group: row.group_key,
        retry: row.retry,
        timed: row.timed,
        payloads: row.payloads,
        metas: row.metas,
      })
    }
    return chunks.sort((a, b) => a.rank - b.rank || a.seq - b.seq || a.firstId - b.firstId)
  }

  /**
   * Settles outcomes in one transaction: locks the leases, drops what belongs to lost ones, copies the attempts, and does
   * everything that hangs on them. Sending the same flush again is harmless.
   * @throws EngineError NODE_FENCED when the node was declared dead; nothing was written then
   */
  async flush(nodeId: number, flush: Flush): Promise<FlushResult> {
    for (const { leaseId } of flush.running) this.#visible.add(leaseId)
    if (flush.doubts === undefined && flush.rowCount <= FEW_ROWS && flush.rows.length <= FEW_BYTES) {
      const done = await this.#flushFew(nodeId, flush)
      if (done) return done
    }
    const no = Math.floor(flush.no)
    const leases = `{${flush.leaseIds.map(Number).join(',')}}`
    return this.session('flush').exclusive('tx flush', async (client) => {
      const begun = (await client.query(
        `begin; ${this.#sql(`select fenced, already, stale from millrace.flush_begin(${Number(nodeId)}, ${no}, '${leases}')`)}`,
      )) as unknown as pg.QueryResult[]
      const { fenced, already, stale } = begun[1]!.rows[0] as { fenced: boolean; already: boolean; stale: number[] }
      if (fenced || already) {
        await client.query('rollback')
        if (fenced) throw fencedError(nodeId)
        const doubts = { open: flush.doubts?.map(({ jobId }) => jobId) ?? [], committed: [] } // who knows what it found
        return { staleLeases: [], alreadyDone: true, ...(flush.doubts && { doubts }) }
      }
      const lost = new Set(stale.map(Number))
      const doubts = (flush.doubts ?? []).filter(({ leaseId }) => !lost.has(leaseId))
      const states = await this.#doubtStates(client, doubts)
      const kept = flush.doubts === undefined ? flush : withoutDecided(flush, states)
      const pieces = lost.size === 0 ? [kept.rows] : rowsWithout(kept, lost)
      if (kept.rowCount > 0 && pieces.length > 0) {
        await copyIn(client, this.#sql(`millrace.attempt ${ATTEMPT_COLUMNS}`), pieces)
      }
      const leasesDone = flush.leaseIds
        .map((id, at) => [id, kept.leaseDone[at]!] as const)
        .filter(([id]) => !lost.has(id))
      const rest = restJson(kept, lost)
      await client.query(
        `${this.#sql(
          `select millrace.flush_end(${Number(nodeId)}, ${no}, '{${leasesDone.map(([id]) => Number(id)).join(',')}}', '{${leasesDone.map(([, done]) => Number(done)).join(',')}}', ${
            rest === null ? 'null' : client.escapeLiteral(rest)
          })`,
        )}; commit`,
      )
      return { staleLeases: [...lost], alreadyDone: false, ...(flush.doubts && { doubts: answersOf(doubts, states) }) }
    })
  }

  async #doubtStates(client: pg.Client, doubts: readonly DoubtItem[]): Promise<Map<number, DoubtState>> {
    if (doubts.length === 0) return new Map()
    const answer = await client.query(this.#sql('select job, state from millrace.flush_doubts($1, $2)'), [
      doubts.map(({ jobId }) => jobId),
      doubts.map(({ run }) => run),
    ])
    return new Map(answer.rows.map((row: { job: number; state: DoubtState }) => [Number(row.job), row.state]))
  }

  /** The short way; null when a lease was lost and the long way has to sort it out. */
  async #flushFew(nodeId: number, flush: Flush): Promise<FlushResult | null> {
    try {
      const rows = await this.session('flush').query<{ fresh: boolean }>({
        name: 'flush_few',
        text: this.#sql('select millrace.flush_few($1, $2, $3, $4, $5, $6, $7) as fresh'),
        values: [
          nodeId,
          flush.no,
          flush.leaseIds,
          flush.leaseDone,
          attemptsJson(flush),
          restJson(flush, NONE),
          this.#isVisible(flush),
        ],
      })
      return { staleLeases: [], alreadyDone: !rows[0]!.fresh }
    } catch (error) {
      // a lost lease, or data that COPY takes and JSON functions do not, such as half a surrogate pair
      const state = error instanceof EngineError ? String(error.details.sqlState) : ''
      if (state === 'MR409' || state.startsWith('22')) return null
      throw error
    }
  }

  /** Rows of `running` go with their lease, so leases that this node no longer has need not be remembered. */
  #forgetVisible(known: readonly number[]): void {
    if (this.#visible.size === 0) return
    const held = new Set(known)
    for (const leaseId of this.#visible) if (!held.has(leaseId)) this.#visible.delete(leaseId)
  }

  /** True when rows of `running` may belong to its leases. */
  #isVisible(flush: Flush): boolean {
    if (this.#visible.size === 0) return false
    if (this.#visible.size > VISIBLE_MAX) return true
    return flush.leaseIds.some((id) => this.#visible.has(id))
  }

  /** Flushes for an earlier incarnation. @throws EngineError NODE_FENCED when its row is gone or is somebody else's */
  async replay(nodeId: number, nodeUid: string, flush: Flush): Promise<FlushResult> {
    const rows = await this.ask<{ uid: string }>('select uid from millrace.node where id = $1', [nodeId])
    if (rows[0]?.uid !== nodeUid)
      throw new EngineError('NODE_FENCED', `node ${nodeId} is gone; its jobs run again`, { nodeId })
    return this.flush(nodeId, flush)
  }

  /**
   * True when some job of these queues, tasks and group could be claimed now, or becomes due within a moment; null: of
   * any. What waits in a paused queue does not count.
   */
  async hasReady(
    queueIds: readonly number[] | null,
    taskIds: readonly number[] | null,
    group: string | null,
  ): Promise<boolean> {
    const served = `($1::int[] is null or queue_id = any ($1)) and ($2::int[] is null or task_id = any ($2))
      and ($3::text is null or group_key = $3) and not exists (select from millrace.queue q where q.id = queue_id and q.paused)`
    const rows = await this.ask<{ any: boolean }>(
      `select exists (select from millrace.ready where ${served})
        or exists (select from millrace.scheduled where run_at <= now() + interval '1 second' and ${served}) as any`,
      [queueIds, taskIds, group],
    )
    return rows[0]!.any
  }

  /**
   * Writes, durably, that jobs are about to run: who dies with them later is known by it.
   * @throws EngineError HOLDER_LOST when a lease is lost: nothing was written, and none of them may run
   */
  async markRunning(items: readonly { leaseId: number; jobId: number; run: number; lane: number }[]): Promise<void> {
    for (const { leaseId } of items) this.#visible.add(leaseId)
    // the lock keeps a rescuer out until the note is there for it to read
    const rows = await this.session('beat').repeatable({
      text: this.#sql(`with held as materialized (
          select l.id from millrace.lease l where l.id = any ($2) order by l.id for key share
        )
        insert into millrace.running (job_id, lease_id, run, lane, started_at)
        select (x ->> 'j')::bigint, (x ->> 'l')::bigint, (x ->> 'r')::smallint, (x ->> 'n')::smallint, now() from json_array_elements($1) x
        where (select count(*) from held) = cardinality($2)
        on conflict (job_id) do update set lease_id = excluded.lease_id, run = excluded.run, lane = excluded.lane, started_at = now(), seen_at = now(), progress = null
        returning job_id`),
      values: [
        JSON.stringify(items.map((item) => ({ j: item.jobId, l: item.leaseId, r: item.run, n: item.lane }))),
        [...new Set(items.map(({ leaseId }) => leaseId))],
      ],
    })
    if (rows.length < items.length)
      throw new EngineError('HOLDER_LOST', 'the lease of these jobs is lost: they run elsewhere', {
        leases: items.map(({ leaseId }) => leaseId),
      })
  }

  /** Makes due jobs ready. @returns how many, in which queues, and milliseconds until the next one (null: none waits) */
  async promote(limit: number, fromMs: number | null = null): Promise<Promoted> {
    const sentMs = this.time.steadyMs()
    const rows = await this.session('claim').query<{
      moved: number
      queues: number[] | null
      next_in_ms: number | null
      now_ms: number
      aside: number
    }>({
      name: 'promote',
      text: this.#sql('select moved, queues, next_in_ms, now_ms, aside from millrace.promote($1, $2)'),
      values: [limit, momentOf(fromMs)],
    })
    const row = rows[0]!
    this.time.note(sentMs, this.time.steadyMs(), row.now_ms)
    const { moved, queues, next_in_ms: nextInMs, now_ms: nowMs, aside } = row
    return { moved, queues: queues ?? [], nextInMs, nowMs, ...setAside(aside) }
  }

  // ------------------------------------------------------------------ nodes

  async join(facts: NodeFacts): Promise<number> {
    const rows = await this.session('beat').query<{ id: number }>({
      text: this.#sql('select millrace.node_join($1, $2, $3, $4, $5, $6, $7) as id'),
      values: [facts.uid, facts.host, facts.machine, facts.pid, facts.version, facts.threads, facts.limitMs],
    })
    return rows[0]!.id
  }

  /**
   * Renews the node. @returns false when it was declared dead, the ids of other nodes that are silent, whether there is
   * a job that it is asked to end, and whether the time of waiting jobs has passed
   */
  async beat(nodeId: number, state: 'live' | 'quiet', threads: number | null = null): Promise<Beat> {
    const rows = await this.session('beat').query<Beat>({
      name: 'beat',
      text: this.#sql(
        'select alive, silent, cancels, overdue, expires_in_ms as "expiresInMs" from millrace.node_beat($1, $2, $3)',
      ),
      values: [nodeId, state, threads],
    })
    return rows[0]!
  }

  /** Makes dead letters of jobs of up to so many chunks that wait although their time has passed. */
  async expireDue(chunks: number): Promise<{ expired: number; more: boolean; aside?: number }> {
    const [row] = await this.ask<{ expired: number; more: boolean; aside: number }>(
      'select expired, more, aside from millrace.expire_due($1)',
      [chunks],
    )
    const { aside, ...done } = row!
    return { ...done, ...setAside(aside) }
  }

  /** The jobs that this node is asked to end: never more than it holds. */
  async cancelsOf(nodeId: number): Promise<{ jobId: number; reason: string }[]> {
    const rows = await this.session('beat').query<{ job_id: number; reason: string }>({
      name: 'cancels',
      text: this.#sql('select job_id, reason from millrace.cancels_of($1)'),
      values: [nodeId],
    })
    return rows.map((row) => ({ jobId: row.job_id, reason: row.reason }))
  }

  /**
   * Reopens a dead node's leases. Null when it lives after all or another node is at it; gone is false when a lease had to
   * be left, because a handler's own transaction is ending a job of it. `blames`: its process may have died of what it held.
   */
  async rescue(
    nodeId: number,
    rescuesMax: number,
    sure: boolean,
    blames = true,
  ): Promise<{ reopened: number; buried: number; gone: boolean; aside?: number } | null> {
    const rows = await this.session('beat').query<{
      reopened: number
      buried: number
      gone: boolean
      aside: number
    }>({
      text: this.#sql('select reopened, buried, gone, aside from millrace.rescue($1, $2, $3, $4)'),
      values: [nodeId, rescuesMax, sure, blames],
    })
    if (rows.length === 0) return null
    const { aside, ...done } = rows[0]!
    return { ...done, ...setAside(aside) }
  }

  /** The leases of a node, a thousand at most, that are not among those it knows. Index: lease_node. */
  async strayLeases(nodeId: number, known: readonly number[]): Promise<number[]> {
    this.#forgetVisible(known)
    const rows = await this.session('beat').query<{ id: number }>({
      name: 'stray_leases',
      text: this.#sql(`select l.id from millrace.lease l where l.node_id = $1
        and not exists (select from unnest($2::bigint[]) k(id) where k.id = l.id) limit 1000`),
      values: [nodeId, known],
    })
    return rows.map((row) => row.id)
  }

  /**
   * Gives the jobs of stray leases back; `held`: the node had them and lost track of them, which is charged. Harmless to
   * repeat. Null when the node was declared dead. Not on the connection of the beat, because it may wait for a group.
   */
  async reopenStrays(
    nodeId: number,
    leaseIds: readonly number[],
    rescuesMax: number,
    held: boolean,
  ): Promise<{ leases: number; reopened: number; buried: number } | null> {
    const rows = await this.ask<{ leases: number; reopened: number; buried: number }>(
      'select leases, reopened, buried from millrace.reopen_strays($1, $2, $3, $4)',
      [nodeId, leaseIds, rescuesMax, held],
    )
    return rows[0] ?? null
  }

  /** @returns false when the node still holds leases or is gone already */
  async leave(nodeId: number): Promise<boolean> {
    const rows = await this.session('beat').repeatable<{ gone: boolean }>({
      text: this.#sql('select millrace.node_leave($1) as gone'),
      values: [nodeId],
    })
    return rows[0]!.gone
  }

  /** Nodes of this machine and boot, with their process ids. */
  async nodesOf(machine: string): Promise<{ id: number; pid: number }[]> {
    return this.session('beat').repeatable({
      text: this.#sql('select id, pid from millrace.node where machine = $1 order by id'),
      values: [machine],
    })
  }

  /** Runs any statement for the console and for tests; `millrace.` stands for the schema. */
  ask<Row>(text: string, values: readonly unknown[] = []): Promise<Row[]> {
    return this.session('ask').query<Row>({ text: this.#sql(text), values })
  }

  /** The local port of the asking connection; null on a unix socket. It differs from what the server sees when something stands between. */
  localPort(): Promise<number | null> {
    return this.session('ask').exclusive('port', async (client) => {
      const { stream } = (client as unknown as { connection: { stream: { localPort?: number } } }).connection
      return stream.localPort ?? null
    })
  }

  /** Wakes whoever listens, `toOthers`: except this process, which knows. A hint, so a failure is not an error. */
  async notify(message: string, toOthers = false): Promise<void> {
    try {
      await this.session('enqueue').query({
        name: 'notify',
        text: `select pg_notify($1, $2)`,
        values: [`millrace_${this.schema}`, toOthers ? this.#ownHint(message) : message],
      })
    } catch (error) {
      if (!isRetryable(error)) throw error
    }
  }

  #ownHint(message: string): string {
    return `${message}@${this.origin}`
  }

  #sql(text: string): string {
    return bindSchema(text, this.#options.schema)
  }
}

async function foreignRows<Row>(client: ForeignClient, text: string, values: unknown[]): Promise<Row[]> {
  try {
    const result = await client.query(text, values)
    return result.rows as Row[]
  } catch (error) {
    throw storeError(error, 'enqueue in your transaction')
  }
}

/** Up to here one call beats COPY's round trips. */
const FEW_ROWS = 32
const FEW_BYTES = 64 * 1024
/** Payload of one part where COPY is not allowed. */
const PART_BYTES = 4 * 1024 * 1024
/** Leases with visible runs that are remembered one by one. */
const VISIBLE_MAX = 10_000
const NONE: ReadonlySet<number> = new Set()

/** Said only where it happened, which is hardly ever. */
function setAside(aside: number): { aside?: number } {
  return aside === 0 ? {} : { aside }
}

function momentOf(wallMs: number | null): string {
  return wallMs === null ? '-infinity' : new Date(wallMs).toISOString()
}

function fencedError(nodeId: number): EngineError {
  return new EngineError('NODE_FENCED', `node ${nodeId} was declared dead; its reports are refused`, { nodeId })
}

const ATTEMPT_COLUMNS = '(job_id, run, attempt, outcome, node_id, lane, started_at, finished_at, error, result)'

export interface ClaimRow {
  lease_id: number
  first_id: number
  count: number
  queue_id: number
  task_id: number
  rank: number
  seq: number
  attempt: number
  run: number
  rescues: number
  max_attempts: number | null
  timeout_ms: number | null
  expires_at_ms: number | null
  created_at_ms: number
  due_at_ms: number
  keyed: boolean
  ephemeral: boolean
  group_key: string | null
  retry: string | null
  timed: boolean
  payloads: string
  metas: string | null
}

function isNarrow(chunk: NewChunk): boolean {
  return (
    chunk.runAtMs === null &&
    chunk.expiresAtMs === null &&
    chunk.timeoutMs === null &&
    !chunk.ephemeral &&
    chunk.group === null &&
    chunk.key === null &&
    chunk.retry === null &&
    chunk.meta === null
  )
}

function expires(chunk: NewChunk): boolean {
  return chunk.expiresAtMs !== null
}

function bytesOf(chunk: NewChunk): number {
  let bytes = 0
  for (const payload of chunk.payloads) bytes += Buffer.byteLength(payload)
  return bytes
}

/** Tuples piece by piece, so that PostgreSQL works on one while the next is made; notes each chunk's payload bytes. */
function* encodeJobs(chunks: readonly NewChunk[], narrow: boolean, bytesOfChunk: number[]): Generator<Buffer> {
  let out = new CopyBuffer(256 * 1024)
  for (const chunk of chunks) {
    const before = out.payloadBytes
    for (let at = 0; at < chunk.count; at++) {
      out.row(narrow ? 7 : 17)
      out.int8(chunk.firstId + at)
      out.int4(chunk.queueId)
      out.int4(chunk.taskId)
      out.int2(chunk.priority)
      chunk.maxAttempts === null ? out.null() : out.int2(chunk.maxAttempts)
      out.sizedText(chunk.payloads[at]!)
      if (narrow) continue
      chunk.runAtMs === null ? out.null() : out.time(chunk.runAtMs)
      chunk.expiresAtMs === null ? out.null() : out.time(chunk.expiresAtMs)
      chunk.timeoutMs === null ? out.null() : out.int4(chunk.timeoutMs)
      out.bool(chunk.ephemeral)
      for (const text of [chunk.group, chunk.key, chunk.retry, chunk.meta]) text === null ? out.null() : out.text(text)
      chunk.groupLimit === null ? out.null() : out.int2(chunk.groupLimit)
      chunk.retrySkips ? out.bool(true) : out.null()
    }
    bytesOfChunk.push(out.payloadBytes - before)
    if (out.length >= 192 * 1024) {
      yield out.take()
      out = new CopyBuffer(256 * 1024)
    }
  }
  if (out.length > 0) yield out.take()
}

/** Chunks as the functions read them. Payloads are JSON already, so they are put in as they are. */
function chunksJson(chunks: readonly NewChunk[], withPayloads: boolean, bytes?: readonly number[]): string {
  const parts = chunks.map((chunk, at) => {
    const size = bytes?.[at] ?? bytesOf(chunk)
    let json = `{"f":${chunk.firstId},"c":${chunk.count},"q":${chunk.queueId},"t":${chunk.taskId},"p":${chunk.priority},"b":${size}`
    if (chunk.maxAttempts !== null) json += `,"m":${chunk.maxAttempts}`
    if (chunk.runAtMs !== null) json += `,"r":${chunk.runAtMs}`
    if (chunk.expiresAtMs !== null) json += `,"e":${chunk.expiresAtMs}`
    if (chunk.group !== null) json += `,"g":${JSON.stringify(chunk.group)}`
    if (chunk.groupLimit !== null) json += `,"l":${chunk.groupLimit}`
    if (withPayloads) {
      if (chunk.timeoutMs !== null) json += `,"o":${chunk.timeoutMs}`
      if (chunk.retry !== null) json += `,"y":${chunk.retry}`
      if (chunk.retrySkips) json += ',"s":true'
      if (chunk.ephemeral) json += ',"x":true'
      if (chunk.meta !== null) json += `,"a":${chunk.meta}`
      if (chunk.key !== null) json += `,"k":${JSON.stringify(chunk.key)}`
      json += `,"d":[${chunk.payloads.join(',')}]`
    }
    return `${json}}`
  })
  return `[${parts.join(',')}]`
}

function rowsWithout(flush: Flush, lost: ReadonlySet<number>): Buffer[] {
  const pieces: Buffer[] = []
  for (let at = 0; at < flush.rowCount; at++) {
    if (lost.has(flush.rowLeases[at]!)) continue
    pieces.push(flush.rows.subarray(at === 0 ? 0 : flush.rowEnds[at - 1]!, flush.rowEnds[at]!))
  }
  return pieces
}

function restJson(flush: Flush, lost: ReadonlySet<number>): string | null {
  const mine = <T extends { leaseId: number }>(items: readonly T[]) =>
    lost.size === 0 ? items : items.filter((item) => !lost.has(item.leaseId))
  const finished = mine(flush.finished)
  const rest = {
    retries: mine(flush.retries).map((item) => ({
      j: item.jobId,
      d: item.delayMs,
      a: item.attempt,
      r: item.run,
      s: item.rescues,
    })),
    deads: mine(flush.deads).map((item) => ({
      j: item.jobId,
      c: item.code,
      e: JSON.parse(item.reason) as unknown,
      a: item.attempts,
      r: item.run,
    })),
    releases: mine(flush.releases).map((item) => ({
      l: item.leaseId,
      f: item.firstId,
      n: item.count,
      a: item.attempt,
      r: item.run,
      s: item.rescues,
      k: item.rank,
      q: item.seq,
    })),
    keyed: finished.filter((item) => item.keyed).map((item) => item.jobId),
    grouped: finished.filter((item) => item.group !== null).map((item) => item.jobId),
    ephemeral: finished.filter((item) => item.ephemeral).map((item) => item.jobId),
    running: mine(flush.running).map((item) => ({
      l: item.leaseId,
      j: item.jobId,
      r: item.run,
      n: item.lane,
      t: item.startedAtMs,
      p: item.progress === null ? null : (JSON.parse(item.progress) as unknown),
    })),
  }
  const empty = Object.values(rest).every((items) => items.length === 0)
  return empty ? null : JSON.stringify(rest)
}
