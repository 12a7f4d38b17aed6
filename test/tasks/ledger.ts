// Tasks that enter a row into a table of the test and complete themselves in the same transaction, on a connection of
// their own, as a handler would: test/complete.test.ts.

import { appendFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { systemClock } from '../../engine/base/clock.ts'
import { defineTask, type TaskContext } from '../../engine/base/task.ts'

export interface Entry {
  readonly url: string
  /** The schema of the test; the table is `effect`. */
  readonly schema: string
  /** What happens after the row was entered and the job completed in one transaction. Default: commit, and return. */
  readonly then?:
    | 'return'
    | 'return what is not JSON'
    | 'throw'
    | 'linger'
    | 'spin'
    | 'exit'
    | 'roll back'
    | 'roll back and again'
    | 'roll back and throw'
    | 'again before'
    | 'again after'
    | 'leave open'
    | 'leave open and commit'
  readonly isolation?: string
  readonly result?: unknown
  /** Key of an advisory lock: the transaction waits for it before its end. */
  readonly gate?: number
  /** No transaction: the call is one of its own. */
  readonly auto?: boolean
  /** Milliseconds within the transaction, and how many bytes the result shall have. */
  readonly restMs?: number
  readonly bytes?: number
}

const { MILLRACE_TEST_HISTORY: file } = process.env

function note(kind: 's' | 'e', { job, run, attempt }: TaskContext): void {
  if (file) appendFileSync(file, `${kind} ${job.id} ${run} ${attempt} ${process.pid} ${systemClock.wallMs()}\n`)
}

async function open(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, application_name: 'ledger' })
  client.on('error', () => {}) // ended by the server: the next query says so
  await client.connect()
  return client
}

/** Waits until the test lets go of an advisory lock. */
async function passed(entry: Entry): Promise<void> {
  if (entry.gate === undefined) return
  const client = await open(entry.url)
  await client.query('select pg_advisory_lock_shared($1)', [entry.gate])
  await client.end()
}

async function enter(client: pg.Client, entry: Entry, ctx: TaskContext): Promise<void> {
  if (!entry.auto) await client.query(`begin isolation level ${entry.isolation ?? 'read committed'}`)
  await client.query(`insert into "${entry.schema}".effect (job, run, pid) values ($1, $2, $3)`, [
    ctx.job.id,
    ctx.run,
    process.pid,
  ])
  if (entry.restMs) await sleep(entry.restMs)
  const witnessed = entry.result === undefined ? { run: ctx.run, pid: process.pid } : entry.result
  const result = entry.bytes === undefined ? witnessed : 'x'.repeat(entry.bytes)
  await ctx.complete(client, result)
}

const codeOf = (error: unknown) => (error as { code?: string }).code

async function run(entry: Entry, ctx: TaskContext): Promise<unknown> {
  note('s', ctx)
  const client = await open(entry.url)
  try {
    await enter(client, entry, ctx)
    if (entry.then === 'again before') return { second: await ctx.complete(client).catch(codeOf) }
    if (entry.then === 'leave open' || entry.then === 'leave open and commit') {
      const end = entry.then === 'leave open' ? 'rollback' : 'commit'
      void passed(entry)
        .then(() => client.query(end))
        .finally(() => client.end())
      return 'too early'
    }
    await passed(entry)
    if (entry.then?.startsWith('roll back')) {
      await client.query('rollback')
      if (entry.then === 'roll back and throw') throw new Error('as asked')
      if (entry.then === 'roll back') return 'nothing was committed'
      await enter(client, entry, ctx)
    }
    if (!entry.auto) {
      note('e', ctx)
      await client.query('commit')
    }
    if (entry.then === 'throw') throw new Error('after the commit')
    if (entry.then === 'linger') await sleep(3_600_000, null, { signal: ctx.signal })
    if (entry.then === 'spin') for (;;);
    if (entry.then === 'exit') process.exit(1)
    if (entry.then === 'again after')
      await client.query(`insert into "${entry.schema}".said values ($1)`, [await ctx.complete(client).catch(codeOf)])
    return entry.then === 'return what is not JSON' ? 10n : 'ignored'
  } finally {
    if (!entry.then?.startsWith('leave open')) await client.end().catch(() => {})
  }
}

const often = { kind: 'fixed', delayMs: 0 } as const

export const alone = defineTask({ name: 'ledger', retry: often, timeoutMs: 60_000, run })

export const shared = defineTask({ name: 'ledger-shared', retry: often, concurrency: 20, timeoutMs: 60_000, run })

/** A short deadline, and no mercy. */
export const hasty = defineTask({ name: 'ledger-hasty', retry: often, timeoutMs: 1_000, graceMs: 100, run })
