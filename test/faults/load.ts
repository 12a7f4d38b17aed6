// What goes on while the lab does harm: three clients enqueue in three ways (by the API, within transactions of their
// own, by SQL), schedules fire, people cancel. Each call's answer is written down, to be held against the tables.

import pg from 'pg'
import { systemClock } from '../../engine/base/clock.ts'
import { codeOf } from '../../engine/base/errors.ts'
import { type Client, createClient } from '../../engine/index.ts'
import type { Dice } from '../support/dice.ts'
import type { Acknowledged, History } from '../support/history.ts'
import { isUnsure } from './stage.ts'

export interface LoadNeeds {
  /** What the clients connect to, and what handlers connect to that complete their jobs themselves. */
  readonly url: string
  readonly handlersUrl: string
  readonly schema: string
  readonly dice: Dice
  readonly history: History
  /** Jobs that could run now, or are held, as of a moment ago. */
  readonly waiting: () => number
}

/** A call that was answered with no. */
export interface Refused {
  readonly mark: string
  readonly by: string
  readonly code: string
}

/** A transaction of a caller: the row that it wrote beside its job, and how it went. */
export interface Letter {
  readonly mark: string
  readonly end: 'committed' | 'rolled back' | 'unknown'
}

const SCHEDULES = [
  { id: 'plain', cron: '* * * * * *' },
  { id: 'skipping', cron: '*/2 * * * * *', overlap: 'skip' },
  { id: 'queueing', cron: '*/2 * * * * *', overlap: 'queue' },
  { id: 'late', cron: '* * * * * *', jitterMs: 700 },
] as const

const GROUPS = Array.from({ length: 10 }, (_, n) => `group ${n}`)
const PAUSE_MS = [20, 120] as const
/** Enough for every fault to meet something. With more the speed of the machine would be tested, and who is urgent. */
const WAITING_MAX = 150
const CALL_MS_MAX = 60_000

export class Load {
  readonly #needs: LoadNeeds
  readonly #api: Client
  readonly #over = new AbortController()
  #loops: Promise<void>[] = []
  #marks = 0
  readonly refused: Refused[] = []
  readonly letters: Letter[] = []
  readonly counts = { calls: 0, acknowledged: 0, refused: 0, unknown: 0, cancels: 0 }
  /** Of jobs that complete themselves: each leaves one row behind. */
  readonly ledgers = new Set<number>()

  constructor(needs: LoadNeeds) {
    this.#needs = needs
    this.#api = createClient({
      database: needs.url,
      schema: needs.schema,
      enqueueTimeoutMs: 20_000,
      statementTimeoutMs: 8_000,
    })
  }

  async start(): Promise<void> {
    for (const schedule of SCHEDULES)
      await this.#api.schedules.create({ ...schedule, task: 'witness', payload: { restMs: 20 }, catchUp: 'all' })
    const { signal } = this.#over
    this.#loops = [() => this.#byApi(), () => this.#inTransactions(signal), () => this.#bySql(signal)].map((turn) =>
      this.#loop(turn, signal),
    )
  }

  /** Nothing new from here on; what is under way is answered. */
  async stop(): Promise<void> {
    this.#over.abort()
    await Promise.all(this.#loops)
    await Promise.all([this.#transactions?.end().catch(() => {}), this.#sql?.end().catch(() => {})])
  }

  async close(): Promise<void> {
    await this.#api.close()
  }

  async #loop(turn: () => Promise<void>, signal: AbortSignal): Promise<void> {
    const { dice, waiting } = this.#needs
    while (!signal.aborted) {
      while (waiting() > WAITING_MAX && !signal.aborted) await systemClock.sleep(PAUSE_MS[0], signal)
      this.counts.calls++
      await turn()
      await systemClock.sleep(dice.whole(...PAUSE_MS), signal)
    }
  }

  #mark(): string {
    return `${++this.#marks}`
  }

  #no(mark: string, by: string, error: unknown): void {
    if (isUnsure(error)) {
      this.counts.unknown++
      return
    }
    this.counts.refused++
    this.refused.push({ mark, by, code: codeOf(error) })
  }

  // ------------------------------------------------------------------ by the API

  async #byApi(): Promise<void> {
    const { dice } = this.#needs
    const mark = this.#mark()
    try {
      const kind = dice.next()
      if (kind < 0.1) await this.#many(mark)
      else if (kind < 0.25) await this.#ledger(mark)
      else if (kind < 0.3) await this.#cancel(mark)
      else await this.#one(mark)
    } catch (error) {
      this.#no(mark, 'api', error)
    }
  }

  async #one(mark: string): Promise<void> {
    const { task, payload, options, facts } = this.#job(mark)
    const { id } = await this.#api.enqueue(task, payload, options)
    this.#yes(id, facts)
  }

  async #many(mark: string): Promise<void> {
    const { dice, history } = this.#needs
    const payloads = Array.from({ length: dice.pick([5, 20, 40, 250]) }, () => ({ mark, spinMs: 1 }))
    const done = await this.#api.enqueueMany('witness', payloads)
    this.counts.acknowledged += done.count
    history.acknowledgeMany(done)
  }

  /** A job that its handler completes in a transaction of its own, through what the lab harms. */
  async #ledger(mark: string): Promise<void> {
    const { handlersUrl: url, schema } = this.#needs
    const { id } = await this.#api.enqueue('ledger-shared', { mark, url, schema }, { maxAttempts: 20 })
    this.ledgers.add(id)
    this.#yes(id, { end: 'either' }) // while nobody can be reached its attempts fail
  }

  async #cancel(mark: string): Promise<void> {
    const { dice } = this.#needs
    const options = dice.next() < 0.5 ? { runAt: systemClock.wallMs() + 3_000 } : {}
    const { id } = await this.#api.enqueue('witness-shared', { mark, restMs: 300 }, options)
    this.#yes(id, { end: 'ended' })
    this.counts.cancels++
    await this.#api.console.cancel(id).catch(() => {}) // it ends in one way or the other
  }

  #yes(id: number, facts: Partial<Acknowledged>): void {
    this.counts.acknowledged++
    this.#needs.history.acknowledge(id, facts)
  }

  /** Of every kind, with what is known of how it must end. */
  #job(mark: string) {
    const { dice } = this.#needs
    const failures = dice.pick([0, 0, 0, 0, 1, 2, 9])
    const group = dice.next() < 0.3 ? dice.pick(GROUPS) : null
    const runAtMs = group === null && dice.next() < 0.15 ? systemClock.wallMs() + dice.whole(100, 3_000) : null
    const priority = dice.pick([0, 0, 0, 0, 1]) // with more of them recovery would tell who is urgent
    const key = dice.next() < 0.2 ? `key ${mark}` : null
    // a group takes one after the other, and a thread has room for one that does not share it
    const isShort = group !== null || dice.next() < 0.5
    const work = isShort
      ? dice.pick([{ spinMs: 1 }, { spinMs: 3 }, { restMs: 10 }])
      : dice.pick([{ restMs: 30 }, { restMs: dice.whole(200, 1_500) }])
    return {
      task: isShort ? 'witness' : 'witness-shared',
      payload: { mark, failures, ...work },
      options: {
        priority,
        ...(group === null ? {} : { group }),
        ...(runAtMs === null ? {} : { runAt: runAtMs }),
        ...(key === null ? {} : { idempotencyKey: key }),
      },
      facts: { group, priority, runAtMs, end: failures >= 3 ? 'failed' : 'completed' } as const,
    }
  }

  // ------------------------------------------------------------------ within transactions of the caller

  #transactions: pg.Client | null = null

  async #inTransactions(signal: AbortSignal): Promise<void> {
    const { dice, schema } = this.#needs
    const mark = this.#mark()
    const { task, payload, options, facts } = this.#job(mark)
    const keeps = dice.next() < 0.8
    let committing = false
    try {
      this.#transactions ??= await this.#connect('caller')
      const client = this.#transactions
      await client.query('begin')
      await client.query(`insert into "${schema}".letter values ($1)`, [mark])
      const { id } = await this.#api.enqueue(task, payload, { ...options, client })
      committing = keeps
      await client.query(keeps ? 'commit' : 'rollback')
      this.letters.push({ mark, end: keeps ? 'committed' : 'rolled back' })
      if (keeps) this.#yes(id, facts)
    } catch {
      // whoever does not hear of his commit does not know
      this.letters.push({ mark, end: committing ? 'unknown' : 'rolled back' })
      this.counts.unknown++
      await this.#transactions?.end().catch(() => {})
      this.#transactions = null
      await systemClock.sleep(200, signal)
    }
  }

  // ------------------------------------------------------------------ by SQL

  #sql: pg.Client | null = null

  async #bySql(signal: AbortSignal): Promise<void> {
    const { schema, dice } = this.#needs
    const mark = this.#mark()
    const group = dice.next() < 0.3 ? dice.pick(GROUPS) : null
    try {
      this.#sql ??= await this.#connect('sql')
      const { rows } = await this.#sql.query(
        `select "${schema}".enqueue(task => 'witness', payload => $1, group_key => $2, max_attempts => 3)::float8 as id`,
        [{ mark, failures: dice.pick([0, 0, 1]) }, group],
      )
      this.#yes(rows[0].id, { group })
    } catch {
      this.counts.unknown++ // one statement of his own: he does not know, and nobody told him no
      await this.#sql?.end().catch(() => {})
      this.#sql = null
      await systemClock.sleep(200, signal)
    }
  }

  async #connect(name: string): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString: this.#needs.url,
      application_name: name,
      connectionTimeoutMillis: 5_000,
      query_timeout: CALL_MS_MAX / 2,
    })
    client.on('error', () => {})
    await client.connect()
    return client
  }

  async endSchedules(client: Client): Promise<void> {
    for (const { id } of SCHEDULES) await client.schedules.delete(id)
  }
}
