// Random sequences of everything that can happen to jobs, by two nodes, against a plain model: after each step every job
// is where the model says, and groups keep their limits; in the end everything has ended, and every small table is empty.
// MILLRACE_MODEL_RUNS sets how many sequences; a failing one prints its seed and the shortest way to the failure.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { Store } from '../engine/store/store.ts'
import type { ClaimedChunk, DoubtItem, Flush } from '../engine/store/types.ts'
import { OutcomePage } from '../engine/syncer/outcome-page.ts'
import { ENDED, JobModel, type ModelJob, type Place } from './support/job-model.ts'
import { openStore, type StoreBundle } from './support/store.ts'

const RUNS = Number(process.env.MILLRACE_MODEL_RUNS ?? 20)
/** Then it ends with what it has tried so far. */
const TIME_MS_MAX = RUNS > 20 ? 450_000 : 90_000
const STEPS_MAX = 40
const RESCUES_MAX = 3
const NOW_MS = 1_790_000_000_000
const RESULT = Buffer.from('true')
const ERROR = Buffer.from('{"code":"TASK_FAILED","message":"as asked"}')

type Outcome = 'complete' | 'retry' | 'bury' | 'cancel' | 'release' | 'stop'

type Step =
  | { readonly do: 'enqueue'; readonly count: number; readonly priority: number; readonly delayed: boolean }
  | { readonly do: 'enqueue one'; readonly group: number; readonly limit: number; readonly skips: boolean }
  | { readonly do: 'enqueue key'; readonly key: number; readonly group: number; readonly delayed: boolean }
  | { readonly do: 'enqueue expiring'; readonly group: number; readonly delayed: boolean }
  | { readonly do: 'claim'; readonly node: 0 | 1; readonly max: number; readonly isLost: boolean }
  | {
      readonly do: 'settle'
      readonly node: 0 | 1
      readonly outcome: Outcome
      readonly max: number
      readonly long: boolean
    }
  | { readonly do: 'note'; readonly node: 0 | 1; readonly how: 'marks' | 'short' | 'long' }
  | { readonly do: 'complete itself'; readonly node: 0 | 1; readonly commits: boolean; readonly otherwise: Outcome }
  | { readonly do: 'cancel'; readonly nth: number }
  | { readonly do: 'rescue'; readonly node: 0 | 1 }
  | { readonly do: 'due' | 'expire' | 'requeue' | 'purge' | 'pause' }

const node = fc.constantFrom<0 | 1>(0, 1)
const flag = fc.boolean()
const outcome = fc.constantFrom<Outcome>('complete', 'retry', 'bury', 'cancel', 'release', 'stop')
const group = fc.integer({ min: 0, max: 2 })
const small = fc.integer({ min: 1, max: 4 })

const STEP: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('enqueue' as const),
      count: small,
      priority: fc.integer({ min: -1, max: 1 }),
      delayed: flag,
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('enqueue one' as const),
      group,
      limit: fc.integer({ min: 1, max: 3 }),
      skips: flag,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('enqueue key' as const),
      key: fc.integer({ min: 0, max: 1 }),
      group,
      delayed: flag,
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('enqueue expiring' as const), group, delayed: flag }) },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('claim' as const),
      node,
      max: fc.integer({ min: 1, max: 6 }),
      isLost: fc.nat(4).map((n) => n === 0),
    }),
  },
  { weight: 8, arbitrary: fc.record({ do: fc.constant('settle' as const), node, outcome, max: small, long: flag }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('note' as const),
      node,
      how: fc.constantFrom('marks' as const, 'short' as const, 'long' as const),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('complete itself' as const), node, commits: flag, otherwise: outcome }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('cancel' as const), nth: fc.nat(100) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('rescue' as const), node }) },
  {
    weight: 5,
    arbitrary: fc.record({ do: fc.constantFrom('due', 'due', 'expire', 'requeue', 'purge', 'pause' as const) }),
  },
)

/** PostgreSQL and the model, side by side. */
class World {
  readonly #it: StoreBundle
  readonly #stores: readonly [Store, Store]
  readonly model = new JobModel()
  readonly #nodes = [0, 0]
  readonly #no = [0, 0]
  /** By job: the chunk that brought it to its holder. */
  readonly #chunks = new Map<number, ClaimedChunk>()
  #paused = false

  constructor(it: StoreBundle, stores: readonly [Store, Store]) {
    this.#it = it
    this.#stores = stores
  }

  async begin(): Promise<void> {
    await this.#it.empty()
    await this.#it.query('update millrace.queue set paused = false')
    for (const at of [0, 1] as const) await this.#join(at)
  }

  async #join(at: 0 | 1): Promise<void> {
    this.#nodes[at] = await this.#it.join(this.#stores[at])
    this.#no[at] = 0
  }

  async step(step: Step): Promise<void> {
    switch (step.do) {
      case 'enqueue':
        return this.#enqueue(step.count, { priority: step.priority, delayed: step.delayed })
      case 'enqueue one':
        return this.#enqueue(1, { group: `g${step.group}`, limit: step.limit, skips: step.skips })
      case 'enqueue key':
        return this.#enqueue(1, { key: `k${step.key}`, delayed: step.delayed, ...groupOf(step.group) })
      case 'enqueue expiring':
        return this.#enqueue(1, { expires: true, delayed: step.delayed, ...groupOf(step.group) })
      case 'claim':
        return this.#claim(step.node, step.max, step.isLost)
      case 'settle':
        return this.#settle(step.node, step.outcome, step.max, step.long)
      case 'note':
        return this.#note(step.node, step.how)
      case 'complete itself':
        return this.#completeItself(step.node, step.commits, step.otherwise)
      case 'cancel':
        return this.#cancel(step.nth)
      case 'rescue':
        return this.#rescue(step.node)
      case 'due':
        return this.#due()
      case 'expire':
        return this.#expire()
      case 'requeue':
        return this.#requeue()
      case 'purge':
        return this.#purge()
      case 'pause':
        this.#paused = !this.#paused
        await this.#it.query('update millrace.queue set paused = $1', [this.#paused])
    }
  }

  async #enqueue(
    count: number,
    options: {
      priority?: number
      delayed?: boolean
      group?: string
      limit?: number
      skips?: boolean
      key?: string
      expires?: boolean
    },
  ): Promise<void> {
    const {
      priority = 0,
      delayed = false,
      group = null,
      limit = 1,
      skips = false,
      key = null,
      expires = false,
    } = options
    const { store, queueId, taskId } = this.#it
    const [firstId] = await store.reserveBlocks(1)
    const later = Date.UTC(2100, 0, 1)
    const duplicates = await store.enqueue(
      [
        {
          firstId: firstId!,
          count,
          queueId,
          taskId,
          priority,
          runAtMs: delayed ? later : null,
          expiresAtMs: expires ? later + 1 : null,
          maxAttempts: 3,
          timeoutMs: null,
          retry: null,
          group,
          groupLimit: group === null || limit === 1 ? null : limit,
          retrySkips: skips,
          key,
          ephemeral: false,
          meta: null,
          payloads: Array.from({ length: count }, () => 'null'),
        },
      ],
      true,
    )
    const holder = key === null ? undefined : this.model.holderOf(key)
    assert.deepEqual(duplicates, holder === undefined ? [] : [{ firstId, heldBy: holder.id }])
    if (holder !== undefined) return
    for (let id = firstId!; id < firstId! + count; id++)
      this.model.add({ id, group, groupLimit: limit, skips, key, expires }, delayed)
  }

  async #claim(at: 0 | 1, max: number, isLost: boolean): Promise<void> {
    const nodeId = this.#nodes[at]!
    const free = this.#paused ? 0 : this.model.where('waiting').filter(({ group }) => group === null).length
    const chunks = await this.#it.claim(nodeId, max, this.#stores[at])
    const ids = chunks.flatMap(({ firstId, count }) => Array.from({ length: count }, (_, n) => firstId + n))
    if (this.#paused) assert.deepEqual(ids, [], 'nothing is claimed from a queue that is paused')
    assert.ok(
      ids.length <= max && ids.length >= Math.min(max, free),
      `${ids.length} of ${free} free jobs, at most ${max}`,
    )
    if (isLost) {
      const leases = [...new Set(chunks.map(({ leaseId }) => leaseId))]
      const strays = await this.#stores[at].strayLeases(nodeId, this.#leasesOf(at))
      assert.deepEqual(strays, leases, 'the leases that this node does not know')
      const done = await this.#stores[at].reopenStrays(nodeId, leases, RESCUES_MAX, false)
      assert.equal(done?.reopened, ids.length)
      return
    }
    for (const chunk of chunks)
      for (let id = chunk.firstId; id < chunk.firstId + chunk.count; id++) {
        this.model.claimed(id, nodeId, chunk.attempt, chunk.run)
        this.#chunks.set(id, chunk)
      }
  }

  #leasesOf(at: 0 | 1): number[] {
    return this.model.heldBy(this.#nodes[at]!).map(({ id }) => this.#chunks.get(id)!.leaseId)
  }

  /** Writes down one outcome of each job, and tells the model. */
  #report(page: OutcomePage, nodeId: number, job: ModelJob, outcome: Outcome): void {
    const { model } = this
    const chunk = this.#chunks.get(job.id)!
    switch (outcome) {
      case 'complete':
        page.completed(nodeId, chunk, job.id, 0, NOW_MS, NOW_MS, RESULT, 0, RESULT.length)
        model.end(job, 'completed')
        break
      case 'retry':
        page.failed(nodeId, chunk, job.id, 'f', 'TASK_FAILED', 0, NOW_MS, NOW_MS, ERROR, 0, ERROR.length, 3_600_000)
        model.retry(job)
        break
      case 'bury':
        page.failed(nodeId, chunk, job.id, 'f', 'TASK_FAILED', 0, NOW_MS, NOW_MS, ERROR, 0, ERROR.length, -1)
        model.end(job, 'failed')
        break
      case 'cancel':
        page.cancelled(nodeId, chunk, job.id, 0, NOW_MS, NOW_MS, 'as asked')
        model.end(job, 'cancelled')
        break
      case 'release':
        page.release(nodeId, chunk, job.id, 1, false, -1, 0, NOW_MS)
        model.giveBack(job, false)
        break
      case 'stop':
        page.release(nodeId, chunk, job.id, 1, true, 0, NOW_MS, NOW_MS)
        model.giveBack(job, true)
        break
    }
  }

  async #settle(at: 0 | 1, outcome: Outcome, max: number, long: boolean): Promise<void> {
    const nodeId = this.#nodes[at]!
    const page = new OutcomePage()
    const jobs = this.model.heldBy(nodeId).slice(0, max)
    if (jobs.length === 0) return
    for (const job of jobs) this.#report(page, nodeId, job, outcome)
    const flush = page.toFlush(++this.#no[at]!)
    const sent: Flush = long ? { ...flush, doubts: [] } : flush
    const result = await this.#stores[at].flush(nodeId, sent)
    assert.deepEqual([result.staleLeases, result.alreadyDone], [[], false])
    const again = await this.#stores[at].flush(nodeId, sent)
    assert.equal(again.alreadyDone, true, 'the same flush again changes nothing')
  }

  async #note(at: 0 | 1, how: 'marks' | 'short' | 'long'): Promise<void> {
    const nodeId = this.#nodes[at]!
    const job = this.model.heldBy(nodeId)[0]
    if (job === undefined) return
    const chunk = this.#chunks.get(job.id)!
    job.noted = true
    if (how === 'marks')
      return this.#stores[at].markRunning([{ leaseId: chunk.leaseId, jobId: job.id, run: chunk.run, lane: 0 }])
    const page = new OutcomePage()
    page.running(chunk, job.id, 0, NOW_MS, Buffer.from('1'))
    const flush = page.toFlush(++this.#no[at]!)
    await this.#stores[at].flush(nodeId, how === 'long' ? { ...flush, doubts: [] } : flush)
  }

  /** A handler completes its job in a transaction of its own, and then its thread reports something else. */
  async #completeItself(at: 0 | 1, commits: boolean, otherwise: Outcome): Promise<void> {
    const nodeId = this.#nodes[at]!
    const job = this.model.heldBy(nodeId)[0]
    if (job === undefined || otherwise === 'complete') return
    const chunk = this.#chunks.get(job.id)!
    const sql = `select millrace.complete(${chunk.leaseId}, ${job.id}, ${chunk.run})`
    if (commits) await this.#it.query(sql)
    else
      await this.#it
        .query(
          `do $$ begin perform ${sql.slice('select '.length)}; raise exception 'rolled back' using errcode = 'MR999'; end $$`,
        )
        .catch((error: { code?: string }) => assert.equal(error.code, 'MR999'))
    const page = new OutcomePage()
    const doubt: DoubtItem = {
      leaseId: chunk.leaseId,
      jobId: job.id,
      run: chunk.run,
      otherwise: 'dead',
      timedOut: false,
      said: null,
    }
    page.doubt(doubt)
    const before = { ...job }
    this.#report(page, nodeId, job, otherwise)
    if (commits) {
      Object.assign(job, before)
      this.model.end(job, 'completed')
    }
    const result = await this.#stores[at].flush(nodeId, page.toFlush(++this.#no[at]!))
    assert.deepEqual(result.doubts, { open: [], committed: commits ? [job.id] : [] })
  }

  async #cancel(nth: number): Promise<void> {
    const jobs = [...this.model.jobs.values()]
    if (jobs.length === 0) return
    const job = jobs[nth % jobs.length]!
    const [row] = await this.#it.query<{ outcome: string }>('select millrace.cancel($1, $2) as outcome', [
      job.id,
      'asked',
    ])
    assert.equal(row!.outcome, this.model.cancel(job), `cancel of job ${job.id}`)
  }

  async #rescue(at: 0 | 1): Promise<void> {
    const nodeId = this.#nodes[at]!
    const jobs = this.model.heldBy(nodeId)
    const done = await this.#stores[1 - at]!.rescue(nodeId, RESCUES_MAX, true)
    for (const job of jobs) this.model.rescue(job, RESCUES_MAX)
    assert.equal(done?.gone, true)
    assert.equal(done.buried, jobs.filter(({ place }) => place === 'failed').length)
    await this.#join(at)
  }

  async #due(): Promise<void> {
    await this.#it.query(`update millrace.scheduled set run_at = clock_timestamp() - interval '1 second'`)
    await this.#it.query(
      `update millrace.job set run_at = clock_timestamp() - interval '1 second' where run_at is not null`,
    )
    await this.#it.store.promote(10_000)
    for (const job of this.model.where('later', 'retrying')) job.place = 'waiting'
  }

  async #expire(): Promise<void> {
    await this.#it.query(`update millrace.expiring set look_at = clock_timestamp() - interval '1 second'`)
    await this.#it.query(
      `update millrace.job set expires_at = clock_timestamp() - interval '1 second' where expires_at is not null`,
    )
    while ((await this.#it.store.expireDue(100)).more);
    for (const job of this.model.where('later', 'retrying', 'waiting')) if (job.expires) this.model.expire(job)
  }

  async #requeue(): Promise<void> {
    for (const job of this.model.where('failed', 'expired')) {
      const holder = job.key === null ? undefined : this.model.holderOf(job.key)
      const [row] = await this.#it.query<{ held_by: string | null }>(
        'select held_by from millrace.requeue(array[$1::bigint])',
        [job.id],
      )
      assert.equal(row!.held_by === null ? null : Number(row!.held_by), holder?.id ?? null)
      if (holder === undefined) this.model.requeue(job)
    }
  }

  async #purge(): Promise<void> {
    for (const place of ['scheduled', 'blocked', 'ready']) {
      let after: number | null = 0
      while (after !== null) {
        const [row]: { last: string | null }[] = await this.#it.query(
          `select last from millrace.purge_waiting($1, $2, $3, clock_timestamp(), 1000, 'purged')`,
          [this.#it.queueId, place, after],
        )
        after = row!.last === null ? null : Number(row!.last)
      }
    }
    for (const job of this.model.where('later', 'retrying', 'waiting')) this.model.end(job, 'cancelled')
  }

  /** Everything is where the model says, and no group has more than it may. */
  async compare(): Promise<void> {
    const rows = await this.#it.query<{ id: number; state: string; attempt: number; open: boolean }>(
      'select id::float8 as id, state, attempt, millrace.is_unfinished(id) as open from millrace.jobs order by id',
    )
    assert.deepEqual(
      rows.map(({ id, state, attempt, open }) => [id, placeOf(state), attempt, open]),
      [...this.model.jobs.values()].map(({ id, place, attempt }) => [id, place, attempt, !ENDED.has(place)]),
    )
    const wrong = await this.#it.query(
      'select group_key, count(*), min(group_limit) from millrace.hold group by group_key having count(*) > min(group_limit)',
    )
    assert.deepEqual(wrong, [], 'a group has more seats taken than its smallest limit')
    const seats = await this.#it.query<{ id: number }>('select job_id::float8 as id from millrace.hold')
    for (const job of this.model.where('held'))
      if (job.group !== null)
        assert.ok(
          seats.some(({ id }) => id === job.id),
          `held job ${job.id} has no seat`,
        )
  }

  /** Lets everything come to its end; then nothing is left in any small table. */
  async drain(): Promise<void> {
    await this.#it.query('update millrace.queue set paused = false')
    this.#paused = false
    for (let rounds = 0; this.model.where('later', 'waiting', 'held', 'retrying').length > 0; rounds++) {
      assert.ok(rounds < 30, `stuck: ${JSON.stringify(this.model.where('later', 'waiting', 'held', 'retrying'))}`)
      for (const at of [0, 1] as const) {
        await this.#claim(at, 100, false)
        await this.#settle(at, 'complete', 1_000, false)
      }
      await this.#due()
    }
    await this.compare()
    await this.#expire()
    for (const at of [0, 1] as const) {
      assert.deepEqual(await this.#stores[at].cancelsOf(this.#nodes[at]!), [])
      assert.equal(await this.#stores[at].leave(this.#nodes[at]!), true)
    }
    await this.#claimTickets()
    const tables = ['ready', 'scheduled', 'blocked', 'lease', 'hold', 'key', 'running', 'completion', 'cancelling']
    for (const table of [...tables, 'expiring', 'node', 'flushed', 'node_task']) {
      const left = await this.#it.query(`select * from millrace.${table} limit 3`)
      assert.deepEqual(left, [], `rows are left in ${table}`)
    }
  }

  /** Tickets that nobody needs any more are spent by the next claim. */
  async #claimTickets(): Promise<void> {
    const nodeId = await this.#it.join()
    assert.deepEqual(await this.#it.claim(nodeId, 100), [])
    assert.equal(await this.#it.store.leave(nodeId), true)
  }
}

function groupOf(n: number): { group?: string } {
  return n === 0 ? {} : { group: `g${n}` }
}

function placeOf(state: string): Place {
  if (state === 'queued' || state === 'blocked') return 'waiting'
  if (state === 'assigned' || state === 'running') return 'held'
  return state === 'scheduled' ? 'later' : (state as Place)
}

test(`${RUNS} random lives of jobs on two nodes are as the model says, and leave nothing behind`, {
  timeout: 600_000,
}, async () => {
  const it = await openStore()
  const stores = [it.store, it.other()] as const
  try {
    await fc.assert(
      fc.asyncProperty(fc.array(STEP, { minLength: 5, maxLength: STEPS_MAX }), async (steps) => {
        const world = new World(it, stores)
        await world.begin()
        for (const step of steps) {
          await world.step(step)
          await world.compare()
        }
        await world.drain()
      }),
      { numRuns: RUNS, interruptAfterTimeLimit: TIME_MS_MAX },
    )
  } finally {
    await it.close()
  }
})

test('a claim takes all that it may, past tickets of groups that are full and of jobs for others', async () => {
  const it = await openStore()
  try {
    const nodeId = await it.join()
    for (let at = 0; at < 5; at++) await it.put(1, { group: 'g', priority: 1 })
    await it.put(6)
    const chunks = await it.claim(nodeId, 3)
    assert.deepEqual(
      chunks.map(({ group, count }) => [group, count]),
      [
        ['g', 1],
        [null, 2],
      ],
      'the first of the group and two others',
    )
  } finally {
    await it.close()
  }
})
