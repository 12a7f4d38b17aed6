// The lab: a PostgreSQL of its own, two engines as processes, three clients, a proxy before each, and one fault after the
// other. After each it is measured how long it takes until all that was ready when the fault ended has ended; in the end
// everything is drained, and what the witnesses say is held against the tables.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../engine/base/clock.ts'
import { messageOf } from '../../engine/base/errors.ts'
import { type Client, createClient } from '../../engine/index.ts'
import { type OwnServer, openOwnServer } from '../support/database.ts'
import { type Dice, diceOf } from '../support/dice.ts'
import { type EngineProcess, endAll, startEngine } from '../support/engine-process.ts'
import { violations } from '../support/facts.ts'
import { History } from '../support/history.ts'
import { type WireProxy, wireProxy } from '../support/wire-proxy.ts'
import { openSmallDisk, type SmallDisk } from './disks.ts'
import { HARMS, type Harm } from './harms.ts'
import { Load } from './load.ts'
import { within } from './stage.ts'

export interface LabOptions {
  readonly seed: number
  /** How long; 0: each of `harms` once. */
  readonly forMs: number
  /** Names of faults: these, in the order of the list, and again from the beginning, instead of chance. */
  readonly harms?: readonly string[]
  readonly say: (line: string) => void
}

export interface Harmed {
  readonly fault: string
  readonly what: string
  readonly tookS: number
  /** Jobs that were ready when it ended. */
  readonly ready: number
  /** Until the first of them had ended. */
  readonly flowS: number | null
  /** Until all of them had ended; null: they did not. */
  readonly recoveryS: number | null
  /** Jobs that ended within that time, others included: few of them in a long time are a stall. */
  readonly ended: number
}

export interface LabReport {
  readonly seed: number
  readonly seconds: number
  readonly faults: readonly Harmed[]
  readonly jobs: number
  readonly executions: number
  readonly calls: Load['counts']
  /** Jobs that were acknowledged and stand nowhere. */
  readonly lost: number
  /** Jobs that were completed, occurrences that were made, or effects that were written, more than once. */
  readonly doubled: number
  /** Jobs that had not ended when all was over. */
  readonly stuck: number
  /** Calls that were answered with yes, without a job. */
  readonly missing: number
  /** Calls that were answered with no, with a job. */
  readonly ghosts: number
  /** Everything else that must hold and did not. */
  readonly broken: readonly string[]
  /** What could not be tried here. */
  readonly leftOut: readonly string[]
}

export interface LabEngine {
  process: EngineProcess
  readonly proxy: WireProxy
  readonly folder: string
}

const ENGINES = 2
const SCHEMA = 'lab'
const TASKS = ['witness', 'ledger'].map((name) => new URL(`../tasks/${name}.js`, import.meta.url).href)
const SERVER_MIB = 768
const OUTBOX_MIB = 16
const WARM_MS = 2_000
/** A fault that takes longer hangs in something that should have ended, such as the stop of an engine. */
const HARM_MS_MAX = 120_000
const RECOVERY_MS_MAX = 120_000
/** Who was late by that much is named. */
const SLOW_MS = 10_000
const DRAIN_MS_MAX = 90_000
/** The same when something is stuck already. */
const DRAIN_STUCK_MS = 10_000
const UP_MS_MAX = 90_000
const LOOK_EVERY_MS = 100
/** Shown of a longer list. */
const SHOWN = 5

export class Lab {
  readonly #options: LabOptions
  readonly #dice: Dice
  readonly #disks: SmallDisk[] = []
  readonly #folder = mkdtempSync(join(tmpdir(), 'millrace-lab-'))
  readonly #history = new History()
  #load!: Load
  #client!: Client
  #crashed = false
  #waiting = 0
  #counting: Promise<void> = Promise.resolve()
  readonly #over = new AbortController()
  readonly nodeLimitMs = 3_000
  readonly schema = SCHEMA
  readonly engines: LabEngine[] = []
  readonly proxies: WireProxy[] = []
  server!: OwnServer
  serverFolder = ''

  private constructor(options: LabOptions) {
    this.#options = options
    this.#dice = diceOf(options.seed)
  }

  static async run(options: LabOptions): Promise<LabReport> {
    const lab = new Lab(options)
    try {
      await lab.#open()
      return await lab.#run()
    } finally {
      await lab.#close()
    }
  }

  get serverUrl(): string {
    return this.server.url
  }

  /** `millrace.` stands for the schema. */
  sql(text: string): string {
    return text.replace(/\bmillrace\./g, `"${SCHEMA}".`)
  }

  ask<Row extends Record<string, unknown>>(text: string, values?: unknown[]): Promise<Row[]> {
    return this.server.query<Row>(this.sql(text), values)
  }

  // ------------------------------------------------------------------ open and close

  async #open(): Promise<void> {
    const disk = this.#disk(SERVER_MIB)
    this.serverFolder = disk?.folder ?? this.#folder
    const settings = { max_connections: '60', max_wal_size: '96MB', shared_buffers: '64MB' }
    this.server = await openOwnServer(settings, this.serverFolder)
    this.#client = createClient({ database: this.server.url, schema: SCHEMA })
    await this.#client.migrate()
    await this.ask('create table millrace.effect (job bigint, run int, pid int)')
    await this.ask('create table millrace.letter (mark text)')
    for (let at = 0; at < ENGINES; at++) {
      const proxy = await this.#proxy()
      this.engines.push({ process: null!, proxy, folder: this.#disk(OUTBOX_MIB)?.folder ?? this.#folder })
      this.launch(at)
    }
    await Promise.all(this.engines.map(({ process }) => process.ready()))
    const clients = await this.#proxy()
    const handlers = await this.#proxy()
    this.#load = new Load({
      url: clients.url,
      handlersUrl: handlers.url,
      schema: SCHEMA,
      dice: diceOf(this.#options.seed + 1),
      history: this.#history,
      waiting: () => this.#waiting,
    })
    await this.#load.start()
    this.#counting = this.#count()
  }

  /** Keeps an eye on how much there is to do, so that the load does not outgrow the machine. */
  async #count(): Promise<void> {
    const { signal } = this.#over
    while (!signal.aborted) {
      const rows = await this.ask<{ n: number }>(
        `select ((select coalesce(sum(count), 0) from millrace.ready) + (select count(*) from millrace.blocked)
           + (select coalesce(sum(open), 0) from millrace.lease))::int as n`,
      ).catch(() => null)
      if (rows !== null) this.#waiting = rows[0]!.n
      await systemClock.sleep(LOOK_EVERY_MS, signal)
    }
  }

  #disk(mebibytes: number): SmallDisk | null {
    const disk = openSmallDisk(mebibytes)
    if (disk !== null) this.#disks.push(disk)
    return disk
  }

  async #proxy(): Promise<WireProxy> {
    const proxy = await wireProxy(this.server.url)
    this.proxies.push(proxy)
    return proxy
  }

  /** Starts an engine in this place; the one that was there is gone. */
  launch(at: number): void {
    const engine = this.engines[at]!
    engine.process = startEngine(
      {
        database: engine.proxy.url,
        schema: SCHEMA,
        dataDir: join(engine.folder, 'data'),
        tasks: TASKS,
        threads: 2,
        nodeHeartbeatMs: 300,
        nodeLimitMs: this.nodeLimitMs,
        statementTimeoutMs: 8_000,
        pollMs: 200,
        pollMaxMs: 1_000,
        rescuesMax: 100, // whoever dies here, dies by our hand
      },
      this.#history.env,
    )
  }

  /** Resolves when the server answers; starts it when it is gone. */
  async serverIsUp(): Promise<'still' | 'again'> {
    const untilMs = systemClock.steadyMs() + UP_MS_MAX
    let came: 'still' | 'again' = 'still'
    for (;;) {
      try {
        if (this.server.pid === 0) {
          came = 'again'
          this.#crashed = true
          await this.server.start()
        }
        await this.ask('select 1')
        return came
      } catch (error) {
        if (systemClock.steadyMs() > untilMs) throw error
        await systemClock.sleep(LOOK_EVERY_MS)
      }
    }
  }

  async #close(): Promise<void> {
    for (const proxy of this.proxies) {
      proxy.resume()
      proxy.accept()
    }
    await this.#load?.stop().catch(() => {})
    this.#over.abort()
    await this.#counting
    await endAll()
    await this.#load?.close().catch(() => {})
    await this.#client?.close().catch(() => {})
    for (const proxy of this.proxies) await proxy.close()
    await this.server?.close().catch(() => {})
    this.#history.close()
    for (const disk of this.#disks) disk.remove()
    rmSync(this.#folder, { recursive: true, force: true })
  }

  // ------------------------------------------------------------------ the run

  async #run(): Promise<LabReport> {
    const { forMs, harms, say, seed } = this.#options
    const fromMs = systemClock.steadyMs()
    const hasDisks = this.#disks.length > ENGINES
    const possible = HARMS.filter((harm) => hasDisks || !harm.needsDisks)
    const leftOut = HARMS.filter((harm) => !possible.includes(harm)).map(({ name }) => name)
    if (leftOut.length > 0) say(`NOT TRIED, no small disk can be mounted here: ${leftOut.join('; ')}`)
    const faults: Harmed[] = []
    const broken: string[] = []
    await systemClock.sleep(WARM_MS)
    const chosen = harms === undefined ? null : possible.filter(({ name }) => harms.includes(name))
    const goesOn = (n: number) =>
      forMs > 0 ? systemClock.steadyMs() - fromMs < forMs : chosen !== null && n < chosen.length
    for (let n = 0; goesOn(n); n++) {
      const harm = chosen?.[n % chosen.length] ?? this.#dice.pick(possible)
      const harmed = await this.#harm(harm).catch((error) => void broken.push(`${harm.name}: ${messageOf(error)}`))
      if (!harmed) break
      faults.push(harmed)
      say(lineOf(harmed))
      if (harmed.recoveryS === null) break // the rest would only be hidden by it
      await systemClock.sleep(this.#dice.whole(100, 1_500))
    }
    await this.#load.stop()
    await this.#load.endSchedules(this.#client)
    const stuck = await this.#drain(faults.some(({ recoveryS }) => recoveryS === null) ? DRAIN_STUCK_MS : DRAIN_MS_MAX)
    const verdict = await this.#judge(broken, stuck)
    return {
      seed,
      seconds: (systemClock.steadyMs() - fromMs) / 1_000,
      faults,
      jobs: this.#history.ids.length,
      executions: this.#history.executions().length,
      calls: this.#load.counts,
      stuck: stuck.length,
      ...verdict,
      broken,
      leftOut,
    }
  }

  async #harm(harm: Harm): Promise<Harmed> {
    const beganMs = systemClock.steadyMs()
    const what = await within(HARM_MS_MAX, `"${harm.name}" was over`, harm.do(this, this.#dice))
    const endedMs = systemClock.steadyMs()
    if (harm.name.startsWith('PostgreSQL') || harm.name.includes('disk of PostgreSQL')) this.#crashed = true
    await this.serverIsUp()
    const ready = await this.#ready()
    const { left, last, flowMs } = await this.#left(ready, RECOVERY_MS_MAX)
    const recoveryMs = systemClock.steadyMs() - endedMs
    for (const id of left.slice(0, SHOWN)) this.#options.say(await this.#explain(id))
    if (left.length === 0 && recoveryMs > SLOW_MS)
      for (const id of last.slice(0, SHOWN)) this.#options.say(await this.#explain(id))
    const [row] = await this.ask<{ n: number }>(
      `select count(*)::int as n from millrace.attempt where finished_at > now() - $1 * interval '1 ms' and outcome in ('c', 'x')`,
      [recoveryMs],
    )
    return {
      fault: harm.name,
      what,
      tookS: (endedMs - beganMs) / 1_000,
      ready: ready.length,
      flowS: flowMs === null ? null : flowMs / 1_000,
      recoveryS: left.length > 0 ? null : recoveryMs / 1_000,
      ended: row!.n,
    }
  }

  /** Jobs that could run now, or are held. */
  async #ready(): Promise<number[]> {
    const rows = await this.ask<{ id: number }>(`
      select (r.first_id + n)::float8 as id from millrace.ready r, generate_series(0, r.count - 1) n
      union select (s.first_id + n)::float8 from millrace.scheduled s, generate_series(0, s.count - 1) n where s.run_at <= now()
      union select b.job_id::float8 from millrace.blocked b
      union select (c.first_id + n)::float8 from millrace.lease l cross join lateral unnest(l.chunks) c, generate_series(0, c.count - 1) n`)
    return rows.map(({ id }) => id)
  }

  /** Those that have not ended after so long, those that were the last to, and when the first had. */
  async #left(
    ids: readonly number[],
    limitMs: number,
  ): Promise<{ left: readonly number[]; last: readonly number[]; flowMs: number | null }> {
    const fromMs = systemClock.steadyMs()
    let left = ids
    let last = ids
    let flowMs: number | null = null
    for (;;) {
      const rows = await this.ask<{ id: number }>(
        `select i.id::float8 as id from unnest($1::bigint[]) as i(id) where exists (select from millrace.job j where j.id = i.id)
           and not exists (select from millrace.attempt a where a.job_id = i.id and a.outcome in ('c', 'x'))
           and not exists (select from millrace.dead d where d.job_id = i.id)`,
        [left],
      ).catch(() => null)
      if (rows !== null) {
        if (rows.length < left.length) {
          flowMs ??= systemClock.steadyMs() - fromMs
          last = left
        }
        left = rows.map(({ id }) => id)
      }
      if (left.length === 0 || systemClock.steadyMs() > fromMs + limitMs) return { left, last, flowMs }
      await systemClock.sleep(LOOK_EVERY_MS)
    }
  }

  async #explain(id: number): Promise<string> {
    const { job, events } = await this.#client.console.explain(id)
    return `  ${job.finishedAt ? 'late' : 'stuck'}: job ${id} (${job.task}) is ${job.state}; ${events.map(({ state, why }) => `${state}: ${why}`).join(' | ')}`
  }

  // ------------------------------------------------------------------ the verdict

  /** Waits until nothing is left. @returns the jobs that are */
  async #drain(limitMs: number): Promise<number[]> {
    const untilMs = systemClock.steadyMs() + limitMs
    for (;;) {
      const [row] = await this.ask<{ n: number }>(
        `select (select count(*) from millrace.ready) + (select count(*) from millrace.scheduled)
         + (select count(*) from millrace.blocked) + (select count(*) from millrace.lease) as n`,
      )
      if (Number(row!.n) === 0) return []
      if (systemClock.steadyMs() > untilMs) break
      await systemClock.sleep(LOOK_EVERY_MS)
    }
    const all = await this.ask<{ id: number }>('select (first_id + count - 1)::float8 as id from millrace.scheduled')
    const { left } = await this.#left([...(await this.#ready()), ...all.map(({ id }) => id)], 0)
    for (const id of left.slice(0, SHOWN)) this.#options.say(await this.#explain(id))
    return [...left]
  }

  async #judge(
    broken: string[],
    stuck: readonly number[],
  ): Promise<Pick<LabReport, 'lost' | 'doubled' | 'missing' | 'ghosts'>> {
    const count = async (text: string, values: unknown[] = []) => (await this.ask(text, values)).length
    const ids = this.#history.ids
    const { refused, letters, ledgers } = this.#load
    const ofEnd = (end: string) => letters.filter((letter) => letter.end === end).map(({ mark }) => mark)
    const missing = await count(
      'select from unnest($1::bigint[]) as i(id) where not exists (select from millrace.job j where j.id = i.id)',
      [ids],
    )
    const lost = await count(`select id from millrace.jobs where state = 'unknown'`)
    const ghosts = await count(
      `select distinct payload ->> 'mark' from millrace.job where payload ->> 'mark' = any ($1)`,
      [[...refused.map(({ mark }) => mark), ...ofEnd('rolled back')]],
    )
    const doubled =
      (await count(`select job_id from millrace.attempt where outcome = 'c' group by 1 having count(*) > 1`)) +
      (await count('select job from millrace.effect group by 1 having count(*) > 1')) +
      (await count(`select o.schedule_id from millrace.occurrence o join millrace.job j on j.meta ->> 'schedule' = o.schedule_id
        and (j.meta ->> 'scheduledAt')::timestamptz = o.scheduled_at where not o.manual
        and not exists (select from millrace.attempt a where a.job_id = j.id and a.outcome = 'x')
        group by o.schedule_id, o.scheduled_at having count(*) > 1`))
    const rule = async (what: string, text: string, values: unknown[] = []) => {
      const rows = await this.ask(text, values)
      if (rows.length > 0) broken.push(`${what}: ${rows.length} times, ${JSON.stringify(rows.slice(0, SHOWN))}`)
    }
    await rule(
      'a job that was enqueued in a transaction exists without what that wrote, or the other way round',
      `select i.mark from unnest($1::text[]) as i(mark) where exists (select from millrace.letter l where l.mark = i.mark)
        is distinct from exists (select from millrace.job j where j.payload ->> 'mark' = i.mark)`,
      [letters.map(({ mark }) => mark)],
    )
    await rule(
      'a job that completes itself has ended without what its transaction wrote',
      `select j.id from millrace.jobs j where j.id = any ($1) and j.state = 'completed'
        and not exists (select from millrace.effect e where e.job = j.id)`,
      [[...ledgers]],
    )
    await rule(
      'an occurrence has no job',
      `select o.schedule_id, o.scheduled_at from millrace.occurrence o where o.outcome = 'enqueued' and not o.manual
        and not exists (select from millrace.job j where j.id = o.job_id)`,
    )
    try {
      await this.#history.check(this.ask.bind(this), { runsAreUnique: !this.#crashed })
    } catch (error) {
      if (stuck.length === 0) broken.push(messageOf(error))
    }
    for (const { rule: what, job, detail } of await violations(this.ask.bind(this)))
      broken.push(`${what}: job ${job}, ${detail}`)
    return { lost, doubled, missing, ghosts }
  }
}

export function lineOf({ fault, what, tookS, ready, flowS, recoveryS, ended }: Harmed): string {
  const flow = flowS === null ? '' : `the first ended after ${flowS.toFixed(1)} s, `
  const after = recoveryS === null ? 'some are STUCK' : `all after ${recoveryS.toFixed(1)} s`
  return `${fault}: ${what} (${tookS.toFixed(1)} s); ${ready} jobs were ready, ${flow}${after}, ${ended} jobs ended meanwhile`
}

/** Nothing that must not be. */
export function isClean(report: LabReport): boolean {
  const { lost, doubled, stuck, missing, ghosts, broken, faults } = report
  return lost + doubled + stuck + missing + ghosts + broken.length === 0 && faults.every((it) => it.recoveryS !== null)
}
