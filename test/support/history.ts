// What a test knows of the truth, from three witnesses that do not know each other: the ids that an enqueue had
// acknowledged, the lines that handlers wrote into a file while they ran, and what the database says in the end.
//
// `check` holds them against each other:
//   - every acknowledged job ended in exactly one terminal outcome, and nothing is left in between;
//   - at most one holder committed: one completion per job, and it belongs to an execution that really took place,
//     by the process that the result names;
//   - no execution before its job was due;
//   - in a group one at a time, or never more than the smallest limit of those that run, and with a limit of one in order: by priority, then as they were enqueued.

import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../engine/base/clock.ts'
import type { EnqueuedMany } from '../../engine/index.ts'

type Query = <Row extends Record<string, unknown>>(sql: string, params?: unknown[]) => Promise<Row[]>

export interface Acknowledged {
  readonly id: number
  /** Wall time at which the enqueue had been answered. */
  readonly atMs: number
  readonly group: string | null
  /** Jobs of its group that may run while it does. */
  readonly groupLimit: number
  readonly priority: number
  readonly runAtMs: number | null
  /** How it must end; either: completed or failed; ended: in any way. */
  readonly end: 'completed' | 'failed' | 'cancelled' | 'expired' | 'either' | 'ended'
}

export interface Execution {
  readonly jobId: number
  readonly run: number
  readonly attempt: number
  readonly pid: number
  readonly startMs: number
  /** Infinity: it never came to its end. */
  endMs: number
}

export interface Verdict {
  readonly jobs: number
  readonly executions: number
  /** Jobs that were executed more than once. */
  readonly again: number
  /** Attempts that ended with their holder. */
  readonly lost: number
  readonly dead: number
  /** Jobs of one group that ran at the same time, at most. */
  readonly together: number
}

export interface CheckOptions {
  /**
   * False where the server itself crashed: a claim that it forgot may be made again with the same number, and only the
   * commit tells which of the two counts.
   */
  readonly runsAreUnique?: boolean
  /** Order within groups is judged among jobs that were acknowledged before this. Default: not at all. */
  readonly orderedBeforeMs?: number
}

const ENDS: Readonly<Record<Acknowledged['end'], readonly string[]>> = {
  completed: ['completed'],
  failed: ['failed'],
  cancelled: ['cancelled'],
  expired: ['expired'],
  either: ['completed', 'failed'],
  ended: ['completed', 'failed', 'cancelled', 'expired'],
}

interface AttemptRow extends Record<string, unknown> {
  readonly job_id: number
  readonly run: number
  readonly attempt: number
  readonly outcome: string
  readonly result: { readonly run?: number; readonly pid?: number } | null
}

export class History {
  readonly #folder = mkdtempSync(join(tmpdir(), 'millrace-history-'))
  readonly #acknowledged = new Map<number, Acknowledged>()
  readonly file = join(this.#folder, 'lines')
  /** Bytes of it that are not looked at any more. */
  #passed = 0

  constructor() {
    writeFileSync(this.file, '')
  }

  /** For the environment of the engines. */
  get env(): Record<string, string> {
    return { MILLRACE_TEST_HISTORY: this.file }
  }

  /** An enqueue was answered. */
  acknowledge(id: number, facts: Partial<Omit<Acknowledged, 'id' | 'atMs'>> = {}): void {
    assert.ok(!this.#acknowledged.has(id), `job ${id} was acknowledged twice`)
    const plain = { group: null, groupLimit: 1, priority: 0, runAtMs: null, end: 'completed' } as const
    this.#acknowledged.set(id, { ...plain, ...facts, id, atMs: systemClock.wallMs() })
  }

  acknowledgeMany(done: EnqueuedMany, facts: Partial<Omit<Acknowledged, 'id' | 'atMs'>> = {}): number[] {
    const ids = done.ids.flatMap(({ first, count }) => Array.from({ length: count }, (_, at) => first + at))
    for (const id of ids) this.acknowledge(id, facts)
    return ids
  }

  get ids(): number[] {
    return [...this.#acknowledged.keys()]
  }

  /** Bytes that handlers have written: cheap to watch. */
  get bytes(): number {
    return statSync(this.file).size
  }

  /** What there is was checked, nothing of it runs, and it is over: what comes begins anew. */
  forget(): void {
    this.#acknowledged.clear()
    this.#places = null
    this.#passed = this.bytes
  }

  /** Everything that handlers wrote, in the order in which it reached the file. */
  executions(): Execution[] {
    const open = new Map<string, Execution>()
    const all: Execution[] = []
    const lines = readFileSync(this.file).toString('utf8', this.#passed).split('\n')
    lines.pop() // after the last newline
    for (const line of lines) {
      const [kind, id, run, attempt, pid, at] = line.split(' ')
      const name = `${id} ${run} ${pid}`
      if (kind === 's') {
        const startMs = Number(at)
        const execution = {
          jobId: Number(id),
          run: Number(run),
          attempt: Number(attempt),
          pid: Number(pid),
          startMs,
          endMs: Number.POSITIVE_INFINITY,
        }
        open.set(name, execution)
        all.push(execution)
      } else {
        const execution = open.get(name)
        assert.ok(execution || this.#passed > 0, `an end without a start: ${line}`)
        if (execution) execution.endMs = Number(at)
      }
    }
    return all
  }

  /** `query` replaces `millrace.` by the schema of the test. */
  async check(query: Query, options: CheckOptions = {}): Promise<Verdict> {
    const executions = this.executions()
    const attempts = await query<AttemptRow>(
      `select job_id::float8 as job_id, run, attempt, outcome, result from millrace.attempts where job_id = any ($1) order by job_id, run`,
      [this.ids],
    )
    await this.#checkPositions(query)
    const dead = await this.#checkEnds(query, attempts)
    this.#checkRuns(executions, attempts, options.runsAreUnique ?? true)
    this.#checkTimes(executions)
    const together = this.#checkGroups(executions, attempts, options.orderedBeforeMs ?? Number.NEGATIVE_INFINITY)
    const byJob = groupBy(executions, ({ jobId }) => jobId)
    return {
      jobs: this.#acknowledged.size,
      executions: executions.length,
      again: [...byJob.values()].filter((all) => all.length > 1).length,
      lost: attempts.filter(({ outcome }) => outcome === 'lost').length,
      dead,
      together,
    }
  }

  /** Nothing is held, waiting, or in the way any more. */
  async #checkPositions(query: Query): Promise<void> {
    const [left] = await query<Record<string, number>>(`select
      (select coalesce(sum(greatest(count, 1)), 0) from millrace.ready)::int as ready,
      (select count(*) from millrace.scheduled)::int as scheduled, (select count(*) from millrace.blocked)::int as blocked,
      (select count(*) from millrace.lease)::int as leases, (select count(*) from millrace.running)::int as running,
      (select count(*) from millrace.hold)::int as holds, (select count(*) from millrace.key)::int as keys,
      (select count(*) from millrace.completion)::int as uncounted, (select count(*) from millrace.cancelling)::int as cancelling`)
    assert.deepEqual(left, {
      ready: 0,
      scheduled: 0,
      blocked: 0,
      leases: 0,
      running: 0,
      holds: 0,
      keys: 0,
      uncounted: 0,
      cancelling: 0,
    })
  }

  async #checkEnds(query: Query, attempts: readonly AttemptRow[]): Promise<number> {
    const jobs = await query<{ id: number; state: string }>(
      'select id::float8 as id, state from millrace.jobs where id = any ($1)',
      [this.ids],
    )
    const states = new Map(jobs.map(({ id, state }) => [id, state]))
    const committed = groupBy(
      attempts.filter(({ outcome }) => outcome === 'completed'),
      ({ job_id }) => job_id,
    )
    let dead = 0
    for (const { id, end } of this.#acknowledged.values()) {
      const state = states.get(id)
      const allowed = ENDS[end]
      assert.ok(allowed.includes(String(state)), `job ${id} is ${state}, not ${allowed.join(' or ')}`)
      const times = committed.get(id)?.length ?? 0
      assert.equal(times, state === 'completed' ? 1 : 0, `job ${id} is ${state} and was completed ${times} times`)
      if (state === 'failed') dead++
    }
    return dead
  }

  #checkRuns(executions: readonly Execution[], attempts: readonly AttemptRow[], unique: boolean): void {
    const byRun = groupBy(executions, ({ jobId, run }) => `${jobId} ${run}`)
    if (unique) {
      for (const [name, all] of byRun)
        assert.equal(all.length, 1, `job and run ${name} had several holders: ${JSON.stringify(all)}`)
    }
    let last: AttemptRow | null = null
    for (const row of attempts) {
      if (!this.#acknowledged.has(row.job_id)) continue
      if (last?.job_id === row.job_id) {
        assert.ok(row.run > last.run && row.attempt >= last.attempt, `job ${row.job_id}: runs go backwards`)
        assert.notEqual(last.outcome, 'completed', `job ${row.job_id} went on after it was completed`)
      }
      last = row
      if (row.outcome !== 'completed') continue
      // what was committed is the word of the holder of just this run, who came to the end of it
      assert.equal(
        row.result?.run,
        row.run,
        `job ${row.job_id}: the result of run ${row.result?.run} as run ${row.run}`,
      )
      const held = byRun.get(`${row.job_id} ${row.run}`)?.find(({ pid }) => pid === row.result?.pid)
      assert.ok(held, `job ${row.job_id} run ${row.run} was completed by ${row.result?.pid}, who never ran it`)
      assert.ok(Number.isFinite(held.endMs), `job ${row.job_id} run ${row.run} was completed before its end`)
    }
  }

  #checkTimes(executions: readonly Execution[]): void {
    for (const { jobId, startMs } of executions) {
      const runAtMs = this.#acknowledged.get(jobId)?.runAtMs ?? null
      if (runAtMs !== null)
        assert.ok(startMs >= runAtMs, `job ${jobId} started ${runAtMs - startMs} ms before its time`)
    }
  }

  /** Executions that were fenced off do not count: theirs is the past of a holder that did not know it was over. */
  #checkGroups(executions: readonly Execution[], attempts: readonly AttemptRow[], orderedBeforeMs: number): number {
    const reported = new Set(
      attempts.filter(({ outcome }) => outcome !== 'lost').map(({ job_id, run }) => `${job_id} ${run}`),
    )
    let most = 0
    const grouped = executions.filter(({ jobId }) => this.#acknowledged.get(jobId)?.group != null)
    for (const [group, all] of groupBy(grouped, ({ jobId }) => this.#acknowledged.get(jobId)!.group)) {
      const counted = all.filter(({ jobId, run, endMs }) => reported.has(`${jobId} ${run}`) && Number.isFinite(endMs))
      counted.sort((a, b) => a.startMs - b.startMs || a.endMs - b.endMs)
      let running: Execution[] = []
      for (const execution of counted) {
        running = [...running.filter(({ endMs }) => endMs > execution.startMs), execution]
        const limit = Math.min(...running.map(({ jobId }) => this.#acknowledged.get(jobId)!.groupLimit))
        const ids = running.map(({ jobId }) => jobId).join(', ')
        assert.ok(running.length <= limit, `group ${group}: jobs ${ids} ran at the same time, allowed are ${limit}`)
        most = Math.max(most, running.length)
      }
      const order: Acknowledged[] = []
      for (const { jobId } of all.sort((a, b) => a.startMs - b.startMs)) {
        const job = this.#acknowledged.get(jobId)!
        if (job.atMs < orderedBeforeMs && job.runAtMs === null && !order.includes(job)) order.push(job)
      }
      const right = [...order].sort((a, b) => b.priority - a.priority || this.#place(a) - this.#place(b))
      assert.deepEqual(
        order.map(({ id }) => id),
        right.map(({ id }) => id),
        `group ${group} ran out of order`,
      )
    }
    return most
  }

  #places: Map<number, number> | null = null

  #place(job: Acknowledged): number {
    if (this.#places?.size !== this.#acknowledged.size) {
      this.#places = new Map([...this.#acknowledged.keys()].map((id, place) => [id, place]))
    }
    return this.#places.get(job.id)!
  }

  close(): void {
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

function groupBy<Item, Key>(items: readonly Item[], keyOf: (item: Item) => Key): Map<Key, Item[]> {
  const groups = new Map<Key, Item[]>()
  for (const item of items) {
    const key = keyOf(item)
    const group = groups.get(key)
    if (group) group.push(item)
    else groups.set(key, [item])
  }
  return groups
}
