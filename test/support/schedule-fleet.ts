// Schedules on a real database: a store with short ways to make schedules, and fleets of engines with a log to wait on.

import type { Engine } from '../../engine/api.ts'
import { systemClock } from '../../engine/base/clock.ts'
import type { Log } from '../../engine/base/log.ts'
import type { Client } from '../../engine/index.ts'
import { createClient, createEngine, type EngineOptions } from '../../engine/index.ts'
import { type FireItem, type NewSchedule, ScheduleStore } from '../../engine/store/schedule-store.ts'
import { openTestDatabase, type TestDatabase } from './database.ts'
import { endAll } from './engine-process.ts'
import { openStore, type StoreBundle } from './store.ts'

const TASKS = new URL('../tasks/behaved.js', import.meta.url).href
export const MINUTE = 60_000
const HOUR = 60 * MINUTE
const WAIT_MS = 60_000

export interface ScheduleStoreBench extends StoreBundle {
  readonly schedules: ScheduleStore
  readonly nodeId: number
  make(id: string, more?: Partial<NewSchedule>): Promise<void>
  /** Makes the schedule's due times begin in the past. */
  age(id: string, ms?: number): Promise<void>
  item(scheduleId: string, scheduledAtMs: number, revision?: number): FireItem
}

/** The last full minute but one: due, whatever the moment. */
export const DUE = Math.floor(systemClock.wallMs() / MINUTE) * MINUTE - MINUTE

export async function withStore(run: (bench: ScheduleStoreBench) => Promise<void>): Promise<void> {
  const bundle = await openStore()
  try {
    const schedules = new ScheduleStore(bundle.store, systemClock)
    const age = async (id: string, ms = HOUR) =>
      void (await bundle.query(`update millrace.schedule set since = now() - $2 * interval '1 ms' where id = $1`, [
        id,
        ms,
      ]))
    await run({
      ...bundle,
      schedules,
      nodeId: await bundle.join(),
      age,
      async make(id, more = {}) {
        await schedules.put(
          [
            {
              id,
              queueId: bundle.queueId,
              taskId: bundle.taskId,
              cron: '* * * * *',
              timeZone: 'UTC',
              payload: '{}',
              options: {},
              startsMs: null,
              endsMs: null,
              jitterMs: 0,
              overlap: 'allow',
              catchUp: 'one',
              catchUpMs: 86_400_000,
              paused: undefined,
              ...more,
            },
          ],
          'api',
          false,
          null,
        )
        await age(id)
      },
      item: (scheduleId, scheduledAtMs, revision = 1) => ({ scheduleId, scheduledAtMs, jitterMs: 0, revision }),
    })
  } finally {
    await bundle.close()
  }
}

export interface Fleet {
  readonly client: Client
  readonly db: TestDatabase
  readonly log: Heard
  engine(options?: EngineOptions): Engine
  start(options?: EngineOptions): Promise<Engine>
  query: StoreBundle['query']
}

/** A log that a test can wait on. */
class Heard implements Log {
  readonly lines: { level: string; event: string; facts: Record<string, unknown> }[] = []
  #waiting: (() => void)[] = []
  debug = (facts: Record<string, unknown>, event: string) => this.#hear('debug', facts, event)
  info = (facts: Record<string, unknown>, event: string) => this.#hear('info', facts, event)
  warn = (facts: Record<string, unknown>, event: string) => this.#hear('warn', facts, event)
  error = (facts: Record<string, unknown>, event: string) => this.#hear('error', facts, event)
  child = () => this

  of(event: string) {
    return this.lines.filter((line) => line.event === event)
  }

  /** Resolves when so many lines of this event were heard. */
  async times(event: string, count: number, where: (facts: Record<string, unknown>) => boolean = () => true) {
    const untilMs = systemClock.steadyMs() + WAIT_MS
    while (this.of(event).filter(({ facts }) => where(facts)).length < count) {
      const leftMs = untilMs - systemClock.steadyMs()
      if (leftMs <= 0)
        throw new Error(`heard ${event} ${this.of(event).length} times within ${WAIT_MS} ms, not ${count}`)
      await new Promise<void>((resolve) => {
        const timer = systemClock.after(leftMs, resolve, true)
        this.#waiting.push(() => {
          timer.cancel()
          resolve()
        })
      })
    }
  }

  #hear(level: string, facts: Record<string, unknown>, event: string): void {
    this.lines.push({ level, event, facts })
    for (const wake of this.#waiting.splice(0)) wake()
  }
}

export async function withFleet(run: (fleet: Fleet) => Promise<void>): Promise<void> {
  const db = await openTestDatabase()
  const base = { database: db.url, schema: db.schema }
  const client = createClient(base)
  const log = new Heard()
  const engines: Engine[] = []
  const engine = (options: EngineOptions = {}) => {
    const made = createEngine({ ...base, tasks: TASKS, threads: 1, log, ...options }) as Engine
    engines.push(made)
    return made
  }
  try {
    await client.migrate()
    await run({
      client,
      db,
      log,
      engine,
      async start(options) {
        const made = engine(options)
        await made.start()
        return made
      },
      query: (sql, params) => db.query(sql.replace(/\bmillrace\./g, `"${db.schema}".`), params),
    })
  } finally {
    await endAll()
    await Promise.all(engines.map((it) => it.stop(5_000)))
    await client.close()
    await db.close()
  }
}
