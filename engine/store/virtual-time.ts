// A schema whose time a test can move, for millrace/testing. Every due time is judged by clock_timestamp() in SQL; here
// the schema brings functions of its own with the names now() and clock_timestamp(), which add the distance that one row
// holds, and a search path that finds them before PostgreSQL's. The migrations are the same as everywhere, and a schema
// without this pays nothing.
//
// Time is moved under an exclusive lock on that row's table: nobody reads the time while it moves, and the process's own
// clock is moved in the same moment.

import type { Clock } from '../base/clock.ts'
import { Session } from './connection.ts'
import { bindSchema, checkSchema } from './statements.ts'

/** Transactions that have asked for the time keep it from being moved until they end. */
const LOCK_MS = 10_000
const STATEMENT_MS = 30_000

export interface Look {
  /** The database's, moved clock. */
  readonly nowMs: number
  /** Rows that could be claimed, but for paused queues. */
  readonly ready: number
  /** When the next waiting job is due; null when none waits. */
  readonly nextMs: number | null
  /** When it is next to be looked whether jobs have expired; null when none can. */
  readonly expiryMs: number | null
  readonly scheduled: number
  /** Jobs that somebody holds, or whose outcome is not written yet. */
  readonly leases: number
}

export class VirtualTime {
  /** With the search path that makes time move for every connection that uses it. */
  readonly url: string
  readonly #schema: string
  readonly #session: Session

  constructor(options: { readonly url: string; readonly schema: string; readonly clock: Clock }) {
    const { schema, clock } = options
    checkSchema(schema)
    const url = new URL(options.url)
    const given = url.searchParams.get('options')
    const path = `-c search_path=${schema},pg_catalog`
    url.searchParams.set('options', given === null ? path : `${given} ${path}`)
    this.url = url.href.replace(/\+/g, '%20')
    this.#schema = schema
    this.#session = new Session({
      url: this.url,
      schema,
      clock,
      name: 'millrace testing',
      timeoutMs: STATEMENT_MS,
      prepared: true,
    })
  }

  /** Makes the schema, before the migrations. */
  async install(aheadMs: number): Promise<void> {
    await this.#run(`
      begin;
      create schema @schema;
      create table millrace.virtual_time (ahead_ms float8 not null);
      insert into millrace.virtual_time values (${aheadMs});
      create function millrace.clock_timestamp() returns timestamptz language sql stable
        as 'select pg_catalog.clock_timestamp() + t.ahead_ms * interval ''1 ms'' from millrace.virtual_time t';
      create function millrace.now() returns timestamptz language sql stable
        as 'select pg_catalog.now() + t.ahead_ms * interval ''1 ms'' from millrace.virtual_time t';
      commit`)
  }

  /** Binds the functions of the migrations to the path: they then keep this time for connections without it too. */
  async bind(): Promise<void> {
    await this.#run(`
      do $$ declare f record; begin
        for f in select p.oid::regprocedure as name from pg_proc p
          where p.pronamespace = '@schema'::regnamespace and p.prokind in ('f', 'p') and p.proname not in ('now', 'clock_timestamp')
        loop execute format('alter routine %s set search_path = @schema, pg_catalog', f.name); end loop;
      end $$`)
  }

  /** Moves the database's time, and calls `move` while nobody can read it. Nodes are not silent for that. */
  async moveTo(aheadMs: number, byMs: number, move: () => void): Promise<void> {
    await this.#session.exclusive('tx move time', async (client) => {
      await client.query(
        this.#sql(
          `begin; set local lock_timeout = ${LOCK_MS}; lock table millrace.node in share row exclusive mode; lock table millrace.virtual_time in access exclusive mode`,
        ),
      )
      move()
      await client.query(
        this.#sql(`update millrace.virtual_time set ahead_ms = ${aheadMs};
          update millrace.node set seen_at = seen_at + ${byMs} * interval '1 ms'; commit`),
      )
    })
  }

  async look(): Promise<Look> {
    const rows = await this.#session.query<Look>({
      name: 'look',
      text: this.#sql(`select extract(epoch from clock_timestamp())::float8 * 1000 as "nowMs",
          (select count(*) from millrace.ready r join millrace.queue q on q.id = r.queue_id where not q.paused) as ready,
          (select extract(epoch from min(run_at))::float8 * 1000 from millrace.scheduled) as "nextMs",
          (select extract(epoch from min(look_at))::float8 * 1000 from millrace.expiring) as "expiryMs",
          (select count(*) from millrace.scheduled) as scheduled, (select count(*) from millrace.lease) as leases`),
    })
    return rows[0]!
  }

  /** Of these occurrences those that somebody still has to decide. */
  async undecided(occurrences: readonly { readonly id: string; readonly atMs: number }[]): Promise<number> {
    const [row] = await this.#session.query<{ n: number }>({
      text: this.#sql(`select count(*) as n from json_to_recordset($1) as w(id text, "atMs" float8)
        join millrace.schedule s on s.id = w.id and not s.paused and to_timestamp(w."atMs" / 1000) > s.since
        where not exists (select from millrace.occurrence o where o.schedule_id = w.id and o.scheduled_at = to_timestamp(w."atMs" / 1000))`),
      values: [JSON.stringify(occurrences)],
    })
    return row!.n
  }

  /** Every job there ever was, by id. */
  async jobIds(): Promise<number[]> {
    const rows = await this.#session.query<{ id: number }>({
      text: this.#sql('select id from millrace.job order by id'),
    })
    return rows.map(({ id }) => id)
  }

  async drop(): Promise<void> {
    await this.#run('drop schema if exists @schema cascade')
  }

  close(): Promise<void> {
    return this.#session.close()
  }

  #run(text: string): Promise<unknown> {
    return this.#session.exclusive('tx testing', (client) => client.query(this.#sql(text)))
  }

  #sql(text: string): string {
    return bindSchema(text, this.#schema)
  }
}
