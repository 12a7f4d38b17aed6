// The PostgreSQL server that every system of one run shares, and what a piece of work costs there. DATABASE_URL names
// it, else an embedded one is started in a temporary folder. Every measurement gets a database of its own.
//
// CPU of the server is user + system time of the postmaster, of its live children and of those it has reaped, read from
// /proc in ticks of 10 ms: background writer, WAL writer and autovacuum are in it. Elsewhere than on Linux, or with a
// server on another machine, it is null. WAL is the difference of insert positions, full-page images included.

import { randomBytes } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { openEmbedded } from '../engine/store/embedded.ts'

/** What must stand beside every figure that a server took part in. */
export interface ServerFacts {
  version: string
  fsync: string
  synchronous_commit: string
  full_page_writes: string
  shared_buffers: string
  max_wal_size: string
}

/** Server state before or after a piece of work; differences of two are its cost. */
export interface Meter {
  cpuMs: number | null
  wal: number
}

export interface ServerCost {
  cpuMs: number | null
  walBytes: number
}

const TICK_MS = 10 // USER_HZ is 100 on every Linux that Node runs on
const SETTLE_MS = 150 // an exiting backend needs a moment until its parent has counted its time

export class Server {
  readonly url: string
  readonly facts: ServerFacts
  readonly #admin: pg.Client
  readonly #postmaster: number | null
  readonly #close: () => Promise<void>

  private constructor(
    url: string,
    facts: ServerFacts,
    admin: pg.Client,
    postmaster: number | null,
    close: () => Promise<void>,
  ) {
    this.url = url
    this.facts = facts
    this.#admin = admin
    this.#postmaster = postmaster
    this.#close = close
  }

  /** @param close what ends the server itself, when it was started for this run. */
  static async open(url: string, close: () => Promise<void> = async () => {}): Promise<Server> {
    const admin = new pg.Client({ connectionString: url, application_name: 'bench' })
    await admin.connect()
    const facts = (
      await admin.query<ServerFacts>(`
        select current_setting('server_version') as version, current_setting('fsync') as fsync,
               current_setting('synchronous_commit') as synchronous_commit,
               current_setting('full_page_writes') as full_page_writes,
               current_setting('shared_buffers') as shared_buffers, current_setting('max_wal_size') as max_wal_size`)
    ).rows[0]!
    return new Server(url, facts, admin, await findPostmaster(admin), close)
  }

  /** Creates an empty database, hands over its URL, and drops it whatever happens. */
  async withDatabase<T>(work: (url: string) => Promise<T>): Promise<T> {
    const name = `bench_${randomBytes(6).toString('hex')}`
    await this.#admin.query(`create database ${name}`)
    try {
      const url = new URL(this.url)
      url.pathname = `/${name}`
      return await work(url.href)
    } finally {
      await this.#admin.query(`drop database if exists ${name} with (force)`)
    }
  }

  async checkpoint(): Promise<void> {
    await this.#admin.query('checkpoint')
  }

  /** Reads the meters once what has just ended has been reaped. */
  async meter(): Promise<Meter> {
    await sleep(SETTLE_MS)
    const cpuMs = this.#postmaster === null ? null : treeCpuMs(this.#postmaster)
    const { rows } = await this.#admin.query<{ at: string }>(`select pg_current_wal_insert_lsn() - '0/0'::pg_lsn as at`)
    return { cpuMs, wal: Number(rows[0]!.at) }
  }

  async close(): Promise<void> {
    await this.#admin.end()
    await this.#close()
  }
}

/** The server of a run: the one that is named, or an embedded one in a temporary folder, gone with `close`. */
export async function openServer(databaseUrl: string | undefined): Promise<Server> {
  if (databaseUrl !== undefined && databaseUrl !== '') return Server.open(databaseUrl)
  const dataDir = mkdtempSync(join(tmpdir(), 'millrace-bench-'))
  const embedded = await openEmbedded({ dataDir })
  return Server.open(embedded.url, async () => {
    await embedded.close()
    rmSync(embedded.dataDir, { recursive: true, force: true })
    rmSync(dataDir, { recursive: true, force: true })
  })
}

export function cost(before: Meter, after: Meter): ServerCost {
  return {
    cpuMs: before.cpuMs === null || after.cpuMs === null ? null : after.cpuMs - before.cpuMs,
    walBytes: after.wal - before.wal,
  }
}

/** A session that holds a snapshot, as a report, a dump or a stuck replica does. */
export async function holdSnapshot(url: string): Promise<() => Promise<void>> {
  const client = new pg.Client({ connectionString: url, application_name: 'bench-snapshot' })
  await client.connect()
  await client.query('begin isolation level repeatable read')
  await client.query('select count(*) from pg_class')
  return async () => {
    await client.query('commit')
    await client.end()
  }
}

async function findPostmaster(admin: pg.Client): Promise<number | null> {
  if (process.platform !== 'linux') return null
  try {
    const { rows } = await admin.query<{ text: string }>(`select pg_read_file('postmaster.pid') as text`)
    const pid = Number(rows[0]!.text.split('\n')[0])
    // Another machine's or container's server has another process, or none, under this id.
    return /postgres|postmaster/.test(readFileSync(`/proc/${pid}/comm`, 'utf8')) ? pid : null
  } catch {
    return null
  }
}

function treeCpuMs(postmaster: number): number {
  let ticks = 0
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    const pid = Number(entry)
    const stat = statOf(pid)
    if (stat === null) continue
    if (pid === postmaster) ticks += stat.own + stat.reaped
    else if (stat.parent === postmaster) ticks += stat.own
  }
  return ticks * TICK_MS
}

/** Fields of proc(5) behind the name, which may hold spaces: state, ppid, ..., utime, stime, cutime, cstime. */
function statOf(pid: number): { parent: number; own: number; reaped: number } | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
    return {
      parent: Number(fields[1]),
      own: Number(fields[11]) + Number(fields[12]),
      reaped: Number(fields[13]) + Number(fields[14]),
    }
  } catch {
    return null // it has just ended
  }
}
