// What a row of the table of cuts plays on: a schema, a proxy that loses requests and answers, an engine of this process
// behind that proxy, a client of its own that no fault reaches, and the witnesses that say afterwards what was true.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { systemClock } from '../../engine/base/clock.ts'
import { codeOf } from '../../engine/base/errors.ts'
import {
  type Client,
  type ClientOptions,
  createClient,
  createEngine,
  type Engine,
  type EngineOptions,
  type EnqueueOptions,
} from '../../engine/index.ts'
import { Store } from '../../engine/store/store.ts'
import { openTestDatabase, type TestDatabase } from '../support/database.ts'
import { checkFacts } from '../support/facts.ts'
import { type Acknowledged, History } from '../support/history.ts'
import { FakeLog } from '../support/scheduler-fakes.ts'
import { type WireFault, type WireHold, type WireProxy, wireProxy } from '../support/wire-proxy.ts'

const TASKS = ['witness', 'ledger'].map((name) => new URL(`../tasks/${name}.js`, import.meta.url))

/** Long enough for a loaded machine, and for others to take over what a node that is gone has left. */
const SETTLE_MS = 20_000
const LOOK_EVERY_MS = 20
/** A beat is quick here, and the limit is far: a node of these tests falls silent only when a test wants it. */
const BEAT_MS = 150
const LIMIT_MS = 3_000

const BEHIND_WIRE = {
  threads: 2,
  nodeHeartbeatMs: BEAT_MS,
  nodeLimitMs: LIMIT_MS,
  pollMs: 100,
  pollMaxMs: 500,
  statementTimeoutMs: 5_000,
  enqueueTimeoutMs: 10_000,
} as const satisfies EngineOptions

/** Enough for a claim from the beginning to take longer than claims may. */
const DEAD_ROWS = 300_000
const DEAD_FROM = 5_000_000_000

type Facts = Partial<Omit<Acknowledged, 'id' | 'atMs'>>

/** Who enqueues: an engine, or a client. */
type Producer = Pick<Client, 'enqueue' | 'enqueueMany'>

interface Refused {
  readonly mark: string
  readonly code: string
}

export class Stage {
  readonly #db: TestDatabase
  readonly #open: { close(): Promise<unknown> }[] = []
  #engine: { readonly key: string; readonly engine: Engine } | null = null
  #marks = 0
  #refused: Refused[] = []
  readonly wire: WireProxy
  readonly history: History
  readonly log = new FakeLog()
  /** For data folders. */
  readonly folder = mkdtempSync(join(tmpdir(), 'millrace-stage-'))
  /** No fault reaches it. */
  readonly client: Client
  /** Loses the statement of this row, when the row is ready for it. */
  arm!: (times?: number) => WireFault
  /** Keeps the statement of this row from leaving until it is dropped. */
  hold!: () => WireHold

  private constructor(db: TestDatabase, wire: WireProxy, history: History) {
    this.#db = db
    this.wire = wire
    this.history = history
    this.client = createClient({ database: db.url, schema: db.schema })
  }

  static async open(): Promise<Stage> {
    const db = await openTestDatabase()
    const history = new History()
    process.env.MILLRACE_TEST_HISTORY = history.file // threads take it over
    const stage = new Stage(db, await wireProxy(db.url), history)
    await stage.client.migrate()
    await stage.query('create table millrace.effect (job bigint, run int, pid int)')
    await stage.query('create table millrace.said (code text)')
    return stage
  }

  get schema(): string {
    return this.#db.schema
  }

  /** `millrace.` stands for the schema. */
  query<Row extends Record<string, unknown>>(sql: string, params?: unknown[]): Promise<Row[]> {
    return this.#db.query<Row>(sql.replace(/\bmillrace\./g, `"${this.schema}".`), params)
  }

  // ------------------------------------------------------------------ players

  /** The engine of the rows, with these options beside the usual ones: the same one as long as they are the same. */
  async engine(options: EngineOptions = {}): Promise<Engine> {
    const key = JSON.stringify(options)
    if (this.#engine?.key !== key) {
      await this.noEngine()
      const engine = this.#build(options)
      await engine.start()
      this.#engine = { key, engine }
    }
    return this.#engine!.engine
  }

  async noEngine(): Promise<void> {
    const engine = this.#engine?.engine
    this.#engine = null
    await engine?.stop(2_000)
  }

  /** An engine behind the proxy that is not started yet; stopped at the end of the row. */
  newEngine(options: EngineOptions = {}): Engine {
    const engine = this.#build(options)
    this.#open.push({ close: () => engine.stop(2_000) })
    return engine
  }

  #build(options: EngineOptions): Engine {
    const dataDir = mkdtempSync(join(this.folder, 'data-'))
    return createEngine({
      ...BEHIND_WIRE,
      database: this.wire.url,
      schema: this.schema,
      tasks: TASKS,
      dataDir,
      log: this.log,
      ...options,
    })
  }

  /** A client behind the proxy, closed at the end of the row. */
  through(options: ClientOptions = {}): Client {
    const { enqueueTimeoutMs, statementTimeoutMs } = BEHIND_WIRE
    const base = { database: this.wire.url, schema: this.schema, enqueueTimeoutMs, statementTimeoutMs }
    const client = createClient({ ...base, ...options })
    this.#open.push(client)
    return client
  }

  /** The same for what no client offers. */
  storeThrough(schema = this.schema): Store {
    const { wire } = this
    const store = new Store({
      url: wire.url,
      schema,
      clock: systemClock,
      timeoutMs: 5_000,
      prepared: true,
      name: 'millrace',
    })
    this.#open.push(store)
    return store
  }

  /** A connection that belongs to the caller; through the proxy or past it. */
  async connection(url: string = this.wire.url): Promise<pg.Client> {
    const connection = new pg.Client({ connectionString: url, application_name: 'caller' })
    connection.on('error', () => {})
    this.#open.push({ close: () => connection.end().catch(() => {}) })
    await connection.connect()
    return connection
  }

  get directUrl(): string {
    return this.#db.url
  }

  // ------------------------------------------------------------------ calls, and what was said to them

  /** One job. What the answer says is remembered, and is held against the tables in the end. */
  async put(
    by: Producer,
    payload: Record<string, unknown> = {},
    { task = 'witness', ...options }: EnqueueOptions & { task?: string } = {},
    facts: Facts = {},
  ): Promise<number | null> {
    const mark = `${++this.#marks}`
    try {
      const { id } = await by.enqueue(task, { ...payload, mark }, options)
      this.history.acknowledge(id, { ...factsOf(options), ...facts })
      return id
    } catch (error) {
      this.#refuse(mark, error)
      return null
    }
  }

  async putMany(
    by: Producer,
    count: number,
    payload: Record<string, unknown> = {},
    { task = 'witness', ...options }: EnqueueOptions & { task?: string } = {},
    facts: Facts = {},
  ): Promise<number[]> {
    const mark = `${++this.#marks}`
    const payloads = Array.from({ length: count }, () => ({ ...payload, mark }))
    try {
      return this.history.acknowledgeMany(await by.enqueueMany(task, payloads, options), {
        ...factsOf(options),
        ...facts,
      })
    } catch (error) {
      this.#refuse(mark, error)
      return []
    }
  }

  /** Jobs with options of their own, in one call. */
  async putItems(by: Producer, options: readonly EnqueueOptions[]): Promise<void> {
    const mark = `${++this.#marks}`
    try {
      this.history.acknowledgeMany(
        await by.enqueueMany(options.map((it) => ({ task: 'witness', payload: { mark }, options: it }))),
      )
    } catch (error) {
      this.#refuse(mark, error)
    }
  }

  /** Who is told that it may have been written knows as much as can be known. */
  #refuse(mark: string, error: unknown): void {
    if (isUnsure(error)) return
    this.#refused.push({ mark, code: codeOf(error) })
  }

  /** A verb whose answer may be lost is called again, as people do; it must not mind. */
  async surely<T>(verb: () => Promise<T>): Promise<T> {
    for (let tries = 1; ; tries++) {
      try {
        return await verb()
      } catch (error) {
        if (tries === 4 || (error as { retry?: boolean }).retry !== true) throw error
      }
    }
  }

  /**
   * Loses the first statement of this row that has something to take: those that would find nothing, because they are
   * sent again and again, wait meanwhile and are sent anew.
   */
  async armWith(giveWork: () => Promise<unknown>): Promise<void> {
    const hold = this.hold()
    await Promise.all([giveWork(), within(SETTLE_MS, 'the statement was sent', hold.happened)])
    this.arm()
    hold.drop()
  }

  // ------------------------------------------------------------------ states to begin from

  /** A job that a node took which has died, and which somebody has to take over. */
  async putHeldByTheDead(): Promise<void> {
    const [node] = await this.query<{ id: number }>(
      `select millrace.node_join($1, 'elsewhere', 'elsewhere', 1, '0', 1, 1000) as id`,
      [randomUUID()],
    )
    const connection = await this.connection(this.#db.url)
    const queue = `held ${node!.id}`
    await connection.query('begin')
    await this.put(this.client, {}, { queue, client: connection })
    const claimed = await connection.query(
      `select * from "${this.schema}".claim($1, (select array_agg(id) from "${this.schema}".queue where name = $2), null, 10, 1000000, null)`,
      [node!.id, queue],
    )
    assert.equal(claimed.rowCount, 1)
    await connection.query('commit')
  }

  /** So many dead rows in front of what is ready that claims begin behind the last ones. @returns what ends it */
  async slowClaims(): Promise<() => Promise<void>> {
    const snapshot = await this.connection(this.#db.url)
    await snapshot.query('begin isolation level repeatable read')
    await snapshot.query('select 1')
    // one transaction: nobody ever sees them
    await this.query(`insert into millrace.ready (first_id, rank, due_at, queue_id, task_id, bytes, count, attempt, run, rescues)
      select n, 0, now(), q.id, t.id, 0, 1, 1, 1, 0
      from generate_series(${DEAD_FROM}, ${DEAD_FROM} + ${DEAD_ROWS}) n, millrace.queue q, millrace.task t
      where q.name = 'default' and t.name = 'witness';
      delete from millrace.ready where first_id >= ${DEAD_FROM}`)
    return async () => {
      await snapshot.query('rollback')
    }
  }

  /** No occurrence of this schedule can be enqueued. @returns what lifts that */
  async refuseOccurrencesOf(id: string): Promise<() => Promise<void>> {
    await this.query(`create function millrace.refuse() returns trigger language plpgsql as
      $$ begin raise exception 'refused'; end $$`)
    await this.query(`create trigger refuse before insert on millrace.occurrence for each row
      when (new.schedule_id = '${id}' and new.outcome = 'enqueued') execute function millrace.refuse()`)
    return async () => {
      await this.query('drop function millrace.refuse() cascade')
    }
  }

  /** As if an older version had taken an expression that this one cannot read. */
  async breakSchedule(id: string): Promise<void> {
    await this.query(
      `update millrace.schedule set cron = 'whenever', revision = revision + 1, changed = changed + 1 where id = $1`,
      [id],
    )
    await this.query(`select pg_notify($1, 'h')`, [`millrace_${this.schema}`])
  }

  /** Engines that are gone have no row any more. */
  async onlyNodes(count: number): Promise<void> {
    await this.until(`there are ${count} nodes`, async () => {
      const rows = await this.query('select id from millrace.node')
      return rows.length === count
    })
  }

  // ------------------------------------------------------------------ waits and verdicts

  async until(what: string, look: () => boolean | Promise<boolean>, limitMs = SETTLE_MS): Promise<void> {
    const untilMs = systemClock.steadyMs() + limitMs
    while (!(await look())) {
      if (systemClock.steadyMs() > untilMs)
        throw new Error(`waited ${limitMs} ms until ${what}; ${await this.#story()}`)
      await systemClock.sleep(LOOK_EVERY_MS)
    }
  }

  /** Everything has ended, and what the witnesses say agrees. */
  async settled(): Promise<void> {
    await this.until('nothing is left in any place', async () => {
      const [row] = await this.query<{ n: number }>(`select ${LEFT} as n`)
      return Number(row!.n) === 0
    })
    await this.history.check(this.query.bind(this))
    await this.#checkRefused()
    const twice =
      await this.query(`select o.schedule_id, o.scheduled_at, count(j.id)::int as jobs from millrace.occurrence o
      left join millrace.job j on j.meta ->> 'schedule' = o.schedule_id and j.meta ->> 'scheduledAt' is not null
        and (j.meta ->> 'scheduledAt')::timestamptz = o.scheduled_at
      where o.outcome = 'enqueued' and not o.manual group by 1, 2 having count(j.id) <> 1`)
    assert.deepEqual(twice, [], 'an occurrence has one job')
    const effects = await this.query(
      `select e.job, count(*)::int as n from millrace.effect e join millrace.jobs j on j.id = e.job
       where j.state = 'completed' group by 1 having count(*) > 1`,
    )
    assert.deepEqual(effects, [], 'a transaction that completed its job was made once')
    this.history.forget()
    this.#refused = []
  }

  /** What all rows together have left. */
  async checkFacts(): Promise<void> {
    await checkFacts(this.query.bind(this))
  }

  /** Who was told no has no job. */
  async #checkRefused(): Promise<void> {
    const marks = this.#refused.map(({ mark }) => mark)
    const there = await this.query<{ mark: string }>(
      `select distinct payload ->> 'mark' as mark from millrace.job where payload ->> 'mark' = any ($1)`,
      [marks],
    )
    const wrong = this.#refused.filter(({ mark }) => there.some((row) => row.mark === mark))
    assert.deepEqual(wrong, [], 'a call was refused and its job exists')
  }

  async #story(): Promise<string> {
    const left = await this.query(`select ${LEFT.replaceAll(' + ', "::text || ' ' || ")} as left`).catch(() => [])
    const leases = await this.query('select id, node_id, open from millrace.lease').catch(() => [])
    const lines = this.log.lines.slice(-15).map((line) => JSON.stringify(line))
    return `left: ${JSON.stringify(left)}; leases ${JSON.stringify(leases)}; ${JSON.stringify(this.#engine?.engine.stats())}; log: ${lines.join('\n')}`
  }

  /** Between two rows: what a row has opened is closed. */
  async sweep(): Promise<void> {
    for (const it of this.#open.splice(0)) await it.close().catch(() => {})
  }

  async close(): Promise<void> {
    await this.noEngine().catch(() => {})
    await this.sweep()
    await this.client.close()
    await this.wire.close()
    await this.#db.close()
    this.history.close()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** The error of a call whose jobs may be there all the same, and that says so. */
export function isUnsure(error: unknown): boolean {
  return (error as { details?: { maybeWritten?: unknown } }).details?.maybeWritten === true
}

/** The same promise, or an error that names what did not happen. */
export async function within<T>(limitMs: number, what: string, happening: Promise<T>): Promise<T> {
  const over = new AbortController()
  const late = systemClock.sleep(limitMs, over.signal).then((): never => {
    throw new Error(`waited ${limitMs} ms until ${what}`)
  })
  late.catch(() => {})
  try {
    return await Promise.race([happening, late])
  } finally {
    over.abort()
  }
}

function factsOf({ group, groupLimit = 1, priority = 0, runAt }: EnqueueOptions): Facts {
  return { group: group ?? null, groupLimit, priority, runAtMs: runAt === undefined ? null : new Date(runAt).getTime() }
}

const LEFT = `(select coalesce(sum(greatest(count, 1)), 0) from millrace.ready) + (select count(*) from millrace.scheduled)
  + (select count(*) from millrace.blocked) + (select count(*) from millrace.lease) + (select count(*) from millrace.running)
  + (select count(*) from millrace.hold) + (select count(*) from millrace.key) + (select count(*) from millrace.completion)
  + (select count(*) from millrace.cancelling)`
