// An engine for tests whose time the test moves. It is the engine itself on a real PostgreSQL: what a test sees is what
// production does, without the waiting.
//
//   advance: settle ─► next moment at which something is due ─► move time there ─► settle ─► ... ─► the end of the span
//
// Settled means: nothing is ready, due, held or unwritten. A handler that runs for longer than `patienceMs` counts as one
// that waits for time to pass. Between two moves time goes on as it always does.

import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { cwd, pid } from 'node:process'
import type { Engine, JobFilter, JobRow, Registry, RegistryOf } from '../api.ts'
import { systemClock } from '../base/clock.ts'
import { EngineError } from '../base/errors.ts'
import { silentLog } from '../base/log.ts'
import { defineTask, isTask, type TaskDefinition } from '../base/task.ts'
import { createClient } from '../client.ts'
import { createEngine, type EngineOptions } from '../engine.ts'
import { checkFields } from '../filters.ts'
import { jitterOf } from '../occurrences/entry.ts'
import type { OrchestratorState } from '../scheduler/messages.ts'
import { openEmbedded } from '../store/embedded.ts'
import { VirtualTime } from '../store/virtual-time.ts'
import type { TaskSource } from '../task-files.ts'
import { checkJobs, JOB_MATCH_FIELDS, type JobMatch } from './match.ts'
import { VirtualClock } from './virtual-clock.ts'
import { type WaitOptions, waitForJob } from './wait.ts'

const NEVER = Number.POSITIVE_INFINITY
const LOOK_EVERY_MS = 3
const SETTLE_MS = 30_000
/** Moments at which one call moves time to: a day of a schedule that is due every second. */
const MOMENTS_MAX = 100_000
const LISTED_MAX = 1_000
const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** Every setting of an engine but those that the kit sees to itself. */
export interface TestKitOptions<Tasks = TaskSource | readonly TaskSource[]>
  extends Omit<EngineOptions<Tasks>, 'clock' | 'schema' | 'dataDir' | 'migrate' | 'directDatabase'> {
  /** A PostgreSQL to make a schema in, dropped by close(). Default: an embedded server with its data in `dataDir`. */
  readonly database?: string
  /** Where the embedded server keeps its data from one run of the tests to the next. Default '.millrace/testing'. */
  readonly dataDir?: string
  /** What time it is at first. Default: now. */
  readonly startAt?: Date | number
  /**
   * True (default) runs tasks that are given as definitions in the thread of the test, so that spies and breakpoints
   * work; false runs them as they say. Folders and files always run on threads.
   */
  readonly inline?: boolean
  /** A handler that still runs after so many ms of the machine's time counts as waiting for time. Default 1,000. */
  readonly patienceMs?: number
}

export interface DrainOptions {
  /** True also runs retries and jobs that are due later, by moving time to each of them. Default false. */
  readonly advance?: boolean
  /** Of the machine's time. Default 30,000. */
  readonly timeoutMs?: number
}

/** An occurrence on its way: due, and enqueued somewhat later where its schedule has a jitter. */
interface Awaited {
  readonly id: string
  readonly atMs: number
  readonly firesAtMs: number
}

/**
 * A started engine on a schema of its own, with a clock that `advance` moves.
 * @throws EngineError CONFIG_INVALID, STORE_UNREACHABLE, EMBEDDED_UNAVAILABLE
 */
export function createTestKit<const Tasks extends readonly TaskDefinition<string, never, unknown>[]>(
  options: TestKitOptions<Tasks> & { readonly tasks: Tasks },
): Promise<TestKit<RegistryOf<Tasks>>>
export function createTestKit<Tasks = Registry>(options?: TestKitOptions): Promise<TestKit<Tasks>>
export async function createTestKit(options: TestKitOptions = {}): Promise<TestKit> {
  const {
    database,
    dataDir = '.millrace/testing',
    startAt,
    inline = true,
    patienceMs = 1_000,
    tasks,
    ...rest
  } = options
  const startMs = startAt === undefined ? systemClock.wallMs() : Number(startAt)
  if (!Number.isFinite(startMs)) throw new EngineError('VALIDATION', 'startAt must be a time', { field: 'startAt' })
  const server = database === undefined ? await openEmbedded({ dataDir: resolve(cwd(), dataDir) }) : null
  const schema = `millrace_test_${pid}_${randomBytes(5).toString('hex')}`
  const folder = mkdtempSync(join(tmpdir(), 'millrace-testing-'))
  const clock = new VirtualClock(startMs - systemClock.wallMs())
  const time = new VirtualTime({ url: database ?? server!.url, schema, clock: systemClock })
  const base = { database: time.url, schema, clock }
  let engine: Engine | null = null
  const close = async (): Promise<void> => {
    try {
      await engine?.stop(1_000)
      await time.drop()
    } finally {
      await time.close()
      await server?.close()
      rmSync(folder, { recursive: true, force: true })
    }
  }
  try {
    await time.install(clock.aheadMs)
    const client = createClient(base)
    await client.migrate().finally(() => client.close())
    await time.bind()
    engine = createEngine({
      threads: 1,
      pollMs: 50,
      pollMaxMs: 200,
      preScheduleMs: 0, // what is taken ahead of its time would be asked for by a time that has moved since
      nodeHeartbeatMs: 100, // it is then that jobs are found whose time has passed
      log: silentLog, // a test expects what fails
      ...rest,
      ...base,
      dataDir: folder,
      tasks: inline ? inlined(tasks ?? []) : (tasks ?? []),
    })
    await engine.start()
    return new TestKit(engine, clock, time, base, patienceMs, close)
  } catch (error) {
    await close().catch(() => {}) // the first error is the one that tells
    throw error
  }
}

export class TestKit<Tasks = Registry> {
  readonly engine: Engine<Tasks>
  readonly clock: VirtualClock
  /** What further clients of the code under test are made with: `createClient({ ...kit.connection })`. */
  readonly connection: { readonly database: string; readonly schema: string; readonly clock: VirtualClock }
  readonly #time: VirtualTime
  readonly #patienceMs: number
  readonly #close: () => Promise<void>
  #closing: Promise<void> | null = null
  /** One call that moves time after the other. */
  #line: Promise<unknown> = Promise.resolve()
  /** What things looked like when nothing more happened without time passing. */
  #stuck = ''
  #awaited: Awaited[] = []

  constructor(
    engine: Engine,
    clock: VirtualClock,
    time: VirtualTime,
    connection: TestKit['connection'],
    patienceMs: number,
    close: () => Promise<void>,
  ) {
    this.engine = engine as unknown as Engine<Tasks>
    this.clock = clock
    this.connection = connection
    this.#time = time
    this.#patienceMs = patienceMs
    this.#close = close
  }

  get enqueue(): Engine<Tasks>['enqueue'] {
    return this.engine.enqueue.bind(this.engine)
  }

  get enqueueMany(): Engine<Tasks>['enqueueMany'] {
    return this.engine.enqueueMany.bind(this.engine)
  }

  /** What time it is for the engine and its database. */
  now(): Date {
    return new Date(this.clock.wallMs())
  }

  // ------------------------------------------------------------------ time

  /**
   * Lets time pass, in ms or as '90s', '15m', '1h', '3d': everything that comes due on the way (delayed jobs, retries,
   * schedules, timeouts, expiry) happens at its time and in its order, and has happened when this resolves.
   */
  async advance(span: number | string): Promise<void> {
    const ms = spanOf(span)
    await this.#inTurn(() => this.#advanceTo(this.clock.wallMs() + ms))
  }

  /** The same up to a moment. @throws EngineError VALIDATION when it has passed */
  async advanceTo(at: Date | number): Promise<void> {
    if (!(Number(at) >= this.clock.wallMs())) {
      const now = this.now().toISOString()
      throw new EngineError('VALIDATION', `time goes forwards only: it is ${now}`, { field: 'at', value: at })
    }
    await this.#inTurn(() => this.#advanceTo(Number(at)))
  }

  /**
   * Resolves when nothing is ready, due, running or unwritten. What is due later waits, unless `advance` is true;
   * schedules are not followed.
   * @throws EngineError STOP_TIMEOUT with what is left
   */
  async drain({ advance = false, timeoutMs = SETTLE_MS }: DrainOptions = {}): Promise<void> {
    await this.#inTurn(async () => {
      const untilMs = systemClock.steadyMs() + timeoutMs
      for (;;) {
        await this.#settle(untilMs, NEVER)
        const { nextMs } = await this.#time.look()
        if (!advance || nextMs === null) return
        await this.#moveTo(nextMs)
      }
    })
  }

  // ------------------------------------------------------------------ jobs

  /** Resolves with the job, as the console shows it, once it is in the state (default: once it has ended). */
  waitForJob(id: number, options?: WaitOptions): Promise<JobRow> {
    return waitForJob(this.engine, id, options)
  }

  /** Newest first, at most 1,000. */
  jobs(filter: JobFilter = {}): Promise<JobRow[]> {
    return this.engine.console.jobs({ limit: LISTED_MAX, ...filter })
  }

  /** Runs the code and tells which jobs came into being meanwhile, oldest first, whoever enqueued them. */
  async enqueuedBy<T>(code: () => T | Promise<T>): Promise<{ readonly result: T; readonly jobs: JobRow[] }> {
    const before = new Set(await this.#time.jobIds())
    const result = await code()
    const jobs: JobRow[] = []
    for (const id of await this.#time.jobIds()) {
      const job = before.has(id) ? null : await this.engine.console.job(id)
      if (job !== null) jobs.push(job)
    }
    return { result, jobs: jobs.sort((a, b) => a.createdAt.getTime() - b.createdAt.getTime() || a.id - b.id) }
  }

  /** Such a job was enqueued, whatever became of it. @returns those that match. @throws AssertionError */
  async assertEnqueued(match: JobMatch): Promise<JobRow[]> {
    const full = matchOf(match)
    return checkJobs('enqueued', await this.#candidates(full), full)
  }

  /** No such job was enqueued. @throws AssertionError */
  async assertNotEnqueued(match: Omit<JobMatch, 'count'>): Promise<void> {
    await this.assertEnqueued({ ...match, count: 0 })
  }

  /** Such a job was completed; an id says which. @throws AssertionError */
  async assertCompleted(match: number | JobMatch): Promise<JobRow[]> {
    const full = matchOf(match)
    return checkJobs('completed', await this.#candidates(full), full, ['completed'])
  }

  /** Such a job is a dead letter: it failed for good, or expired. @throws AssertionError */
  async assertDead(match: number | JobMatch): Promise<JobRow[]> {
    const full = matchOf(match)
    return checkJobs('dead', await this.#candidates(full), full, ['failed', 'expired'])
  }

  /** Such a job waits: it is due later, will be retried, or has not begun. @throws AssertionError */
  async assertWaiting(match: number | JobMatch): Promise<JobRow[]> {
    const full = matchOf(match)
    const states = ['queued', 'scheduled', 'retrying', 'blocked'] as const
    return checkJobs('waiting', await this.#candidates(full), full, states)
  }

  async #candidates({ id, task }: JobMatch): Promise<JobRow[]> {
    const found = await this.jobs({ ...(id === undefined ? {} : { id }), ...(task === undefined ? {} : { task }) })
    return found.length > 0 ? found : this.jobs() // for the message
  }

  /** Stops the engine and drops the schema. Safe twice. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  // ------------------------------------------------------------------ moving time

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#line.then(work)
    this.#line = turn.catch(() => {})
    return turn
  }

  async #advanceTo(targetMs: number): Promise<void> {
    await this.#settle()
    for (let moments = 0; moments <= MOMENTS_MAX; moments++) {
      const nextMs = await this.#nextMoment(targetMs)
      await this.#moveTo(Math.min(nextMs, targetMs))
      await this.#settle()
      if (nextMs > targetMs) return
    }
    throw new EngineError('VALIDATION', `more than ${MOMENTS_MAX} moments in one span: advance in smaller ones`, {
      field: 'span',
    })
  }

  /** Wall ms of the next thing that time alone brings about; infinite when there is none before `targetMs`. */
  async #nextMoment(targetMs: number): Promise<number> {
    const nowMs = this.clock.wallMs()
    const moments: number[] = []
    const { nextMs, expiryMs } = await this.#time.look()
    if (nextMs !== null) moments.push(nextMs)
    if (expiryMs !== null) moments.push(expiryMs)
    for (const state of await this.#held()) {
      if (state.deadlineAtMs === null || state.deadlineAtMs <= nowMs) continue
      moments.push(state.deadlineAtMs)
      if (state.deadlineAtMs <= targetMs) this.#stuck = '' // it is told to end: that is worth waiting for
    }
    this.#awaited = this.#awaited.filter(({ atMs }) => atMs <= nowMs) // what lies ahead may have changed
    for (const { id, nextAt, jitterMs } of await this.engine.schedules.list({ limit: LISTED_MAX })) {
      if (nextAt === null) continue
      const atMs = nextAt.getTime()
      moments.push(atMs)
      this.#awaited.push({ id, atMs, firesAtMs: atMs + jitterOf({ id, jitterMs }, atMs) })
    }
    for (const { firesAtMs } of this.#awaited) moments.push(firesAtMs)
    const next = Math.min(...moments.filter((ms) => ms > nowMs))
    return next <= targetMs ? Math.ceil(next) : NEVER
  }

  /** What the loop holds. */
  async #held(): Promise<OrchestratorState[]> {
    const { inbox } = this.engine
    if (this.engine.stats().held === 0) return []
    return new Promise((resolve) => {
      if (!inbox.trySend({ type: 'get_all_active_runs', reply: resolve })) resolve([])
    })
  }

  async #moveTo(atMs: number): Promise<void> {
    const byMs = atMs - (systemClock.wallMs() + this.clock.aheadMs)
    if (byMs <= 0) return
    const aheadMs = this.clock.aheadMs + byMs
    await this.#time.moveTo(aheadMs, byMs, () => this.clock.moveTo(aheadMs))
  }

  /** Resolves when nothing more happens without time passing. */
  async #settle(untilMs = systemClock.steadyMs() + SETTLE_MS, patienceMs = this.#patienceMs): Promise<void> {
    let last = ''
    let sinceMs = 0
    for (;;) {
      const look = await this.#time.look()
      const stats = this.engine.stats()
      const undecided = await this.#undecided(look.nowMs)
      const isDue = undecided > 0 || Math.min(look.nextMs ?? NEVER, look.expiryMs ?? NEVER) <= look.nowMs
      if (!isDue && look.ready + look.leases + stats.held === 0) return
      const { completed, failed, cancelled, released, held, running, settled } = stats
      const { ready, scheduled, leases } = look
      const facts = { ready, scheduled, leases, held, running, completed, failed, cancelled, released, settled }
      const now = `${Object.values(facts)} ${undecided}`
      const nowMs = systemClock.steadyMs()
      if (now !== last) sinceMs = nowMs
      last = now
      if (!isDue && patienceMs !== NEVER && (now === this.#stuck || nowMs - sinceMs >= patienceMs)) {
        this.#stuck = now
        return
      }
      if (nowMs >= untilMs) {
        const { due, list } = { due: undecided, list: await this.jobs({ limit: 10 }) }
        const jobs = list.map(({ id, task, state }) => `${id} ${task} ${state}`)
        throw new EngineError(
          'STOP_TIMEOUT',
          `it does not come to rest: ${JSON.stringify({ ...facts, due, jobs })}`,
          {},
        )
      }
      await systemClock.sleep(LOOK_EVERY_MS)
    }
  }

  /** Occurrences whose time has come and that nobody has decided yet. */
  async #undecided(nowMs: number): Promise<number> {
    const due = this.#awaited.filter(({ firesAtMs }) => firesAtMs <= nowMs)
    if (due.length === 0) return 0
    const undecided = await this.#time.undecided(due)
    if (undecided === 0) this.#awaited = this.#awaited.filter(({ firesAtMs }) => firesAtMs > nowMs)
    return undecided
  }
}

function inlined(tasks: TaskSource | readonly TaskSource[]): TaskSource[] {
  const list = Array.isArray(tasks) ? (tasks as readonly TaskSource[]) : [tasks as TaskSource]
  return list.map((task) => (isTask(task) ? defineTask({ ...(task as TaskDefinition), inline: true }) : task))
}

function matchOf(match: number | JobMatch): JobMatch {
  if (typeof match === 'number') return { id: match }
  checkFields(match, JOB_MATCH_FIELDS)
  return match
}

function spanOf(span: number | string): number {
  const [, digits, unit] = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$/.exec(String(span)) ?? []
  const ms = typeof span === 'number' ? span : digits === undefined ? Number.NaN : Number(digits) * UNITS[unit!]!
  if (!Number.isFinite(ms) || ms < 0) {
    const rule = "milliseconds from 0, or a text such as '90s', '15m', '1h', '3d'"
    throw new EngineError('VALIDATION', `span must be ${rule}, got ${JSON.stringify(span)}`, { field: 'span' })
  }
  return ms
}
