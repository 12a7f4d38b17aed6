// The table of cuts: a row for every statement of the engine that changes something (statements.ts), with what makes an
// engine or a client send it. Each is lost twice: before it reaches the server, and after the server has done it, before
// anybody hears of it.
//
// A row prepares, calls `stage.arm()`, and does what sends the statement. What the row itself claims to be true afterwards
// it asserts; that nothing is lost, doubled or stuck is asserted for all of them by stage.settled().

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { systemClock } from '../../engine/base/clock.ts'
import { silentLog } from '../../engine/base/log.ts'
import type { EngineOptions, ScheduleDefinition } from '../../engine/index.ts'
import { Retention } from '../../engine/retention.ts'
import { RetentionStore } from '../../engine/store/retention-store.ts'
import { readStatements } from '../../engine/store/statements.ts'
import { completing, PLAIN } from '../support/store.ts'
import type { WireRequest } from '../support/wire-proxy.ts'
import type { Stage } from './stage.ts'

export interface Cut {
  /** As statements.ts names it. */
  readonly statement: string
  /** Tells rows of one statement apart. */
  readonly as?: string
  /** Of the engine behind the proxy; null: none runs. */
  readonly engine?: EngineOptions | null
  /** Which requests are meant, when it is not the statement itself. */
  readonly where?: (request: WireRequest) => boolean
  readonly play: (stage: Stage) => Promise<unknown>
}

const SECOND = 1_000
/** Longer than a hundred jobs need, and shorter than anybody waits. */
const MANY = 250
/** More often than anything is sent within a row. */
const ALL = 10_000

const soon = (ms: number) => systemClock.wallMs() + ms

/** Recognises a statement on the wire. */
export function matcherOf(name: string, schema: string): (request: WireRequest) => boolean {
  const inTransaction = /^(begin|commit) of (.+)$/.exec(name)
  if (inTransaction !== null) {
    const applications = TRANSACTIONS[inTransaction[2]!]!.map((kind) => `millrace ${kind}`)
    const pattern = inTransaction[1] === 'begin' ? /^begin\b/ : /\bcommit$/
    return ({ text, application }) => applications.includes(application) && pattern.test(text)
  }
  const [verb, table] = name.split(' ')
  const contains = (part: string) => (request: WireRequest) => request.text.includes(part)
  if (verb === 'copy') return contains(`copy "${schema}".${table} `)
  if (verb === 'nextval') return contains(`nextval('"${schema}".${table}'`)
  if (verb === 'create') return ({ text }) => text.startsWith(name)
  if (name === 'pg_notify') return contains('pg_notify(')
  if (table !== undefined) {
    const pattern = new RegExp(`\\b${verb} (into |from )?"${schema}"\\.${table}\\b`)
    return ({ text }) => pattern.test(text)
  }
  const block = readStatements('console.sql', schema).get(name) ?? readStatements('schedules.sql', schema).get(name)
  return ({ text }) => text.includes(`"${schema}".${name}(`) || text === block
}

/** On which connections a transaction runs. */
const TRANSACTIONS: Readonly<Record<string, readonly string[]>> = {
  'copy jobs': ['bulk', 'keys'],
  flush: ['flush'],
  migrate: ['ask'],
}

// ------------------------------------------------------------------ what many rows do

const enqueues =
  (options: Record<string, unknown> = {}) =>
  async (stage: Stage) => {
    const client = stage.through()
    await stage.put(client) // it knows the names and has a block of ids
    stage.arm()
    await stage.put(client, {}, options)
  }

/** What a client asks for that has just been made. */
const begins = async (stage: Stage) => {
  stage.arm()
  await stage.put(stage.through(), {}, { queue: `queue ${randomUUID()}` })
}

const copies =
  (options: Record<string, unknown> = {}, facts = {}) =>
  async (stage: Stage) => {
    const client = stage.through()
    await stage.put(client)
    stage.arm()
    await stage.putMany(client, MANY, {}, options, facts)
  }

const copiesKeyed = async (stage: Stage) => {
  const client = stage.through()
  await stage.put(client)
  stage.arm()
  await stage.putItems(
    client,
    Array.from({ length: MANY }, () => ({ idempotencyKey: randomUUID() })),
  )
}

/** A job is there, and the next one who asks takes it. */
const claims =
  (options: Record<string, unknown> = {}) =>
  (stage: Stage) =>
    stage.armWith(() => stage.put(stage.client, {}, options))

const flushes = async (stage: Stage) => {
  stage.arm()
  await stage.put(stage.client)
}

/** More reports than the short way of a flush takes. */
const flushesMany = async (stage: Stage) => {
  const cut = stage.arm()
  await stage.until('a long flush was sent', async () => {
    await stage.putMany(stage.client, MANY)
    return cut.count > 0
  })
}

/** A job that its handler completes in a transaction of its own. */
const completes = (url: 'wire' | 'direct') => async (stage: Stage) => {
  stage.arm()
  const entry = { url: url === 'wire' ? stage.wire.url : stage.directUrl, schema: stage.schema }
  await stage.put(stage.client, entry, { task: 'ledger', maxAttempts: 10 })
}

/** A node holds a job and falls silent. */
const rescues = async (stage: Stage) => {
  stage.arm()
  await stage.putHeldByTheDead()
}

const schedules = (change: Partial<ScheduleDefinition>) => async (stage: Stage) => {
  const id = `schedule ${randomUUID()}`
  const cut = stage.arm()
  await stage.client.schedules.create({ id, task: 'witness', cron: '* * * * * *', payload: {}, ...change })
  try {
    await stage.until('the statement was sent', () => cut.count > 0)
    await stage.until('it goes on', async () => {
      const row = await stage.client.schedules.get(id)
      return (row?.runCount ?? 0) >= 2
    })
  } finally {
    await stage.client.schedules.delete(id)
  }
}

const schedule = async (stage: Stage) => {
  const id = `schedule ${randomUUID()}`
  await stage.client.schedules.create({ id, task: 'witness', cron: '0 0 1 1 *' })
  return id
}

/** A letter of a job that fails whenever it runs. */
const letter = async (stage: Stage) => {
  const id = await stage.put(stage.client, { failures: 1 }, { maxAttempts: 1 }, { end: 'failed' })
  await stage.until('it is dead', async () => (await stage.client.console.job(id!))?.state === 'failed')
  return id!
}

/** A day-old span with one job that has ended and one that waits; the pass that retires it is tried until it is through. */
const retains = async (stage: Stage) => {
  const schema = `${stage.schema}_old`
  const store = stage.storeThrough(schema)
  try {
    await store.migrate()
    const nodeId = await store.join({ ...NODE, uid: randomUUID() })
    const [queueId] = await store.queueIds(['default'])
    const [taskId] = await store.taskIds(['noop'])
    const chunk = { ...PLAIN, queueId: queueId!, taskId: taskId!, firstId: 1, count: 1, payloads: ['1'] }
    await store.enqueue([chunk], true)
    const request = { nodeId, queueIds: [queueId!], taskIds: null, jobsMax: 10, bytesMax: 1e6, group: null }
    await store.flush(nodeId, completing(1, nodeId, await store.claim(request)))
    await store.enqueue([{ ...chunk, firstId: 2, runAtMs: soon(3_600_000) }], true)
    await store.ask(`update millrace.job set created_at = created_at - interval '1 day'`)
    await store.ask(`update millrace.attempt set finished_at = finished_at - interval '1 day'`)
    await store.ask(`select setval('millrace.id_block', 10001)`)
    await store.ask('select millrace.make_spans(10001000)')
    stage.arm()
    const retention = new Retention(
      { clock: systemClock, log: silentLog, open: () => new RetentionStore(store) },
      { retentionMs: 3_600_000 },
    )
    await stage.surely(() => retention.pass())
    const jobs = await store.ask<{ id: number; state: string }>('select id, state from millrace.jobs order by id')
    assert.deepEqual(jobs, [{ id: 2, state: 'scheduled' }])
  } finally {
    await stage.query(`drop schema if exists "${schema}" cascade`)
  }
}

const NODE = { host: 'test', machine: 'test', pid: 1, version: '0', threads: 1, limitMs: 60_000 }

const migrates = async (stage: Stage) => {
  const schema = `${stage.schema}_new`
  stage.arm()
  try {
    const store = stage.storeThrough(schema)
    await stage.surely(() => store.migrate())
    const [row] = await stage.query<{ n: number }>(`select count(*)::int as n from "${schema}".migration`)
    const { to } = await store.migrate()
    assert.equal(row!.n, to)
  } finally {
    await stage.query(`drop schema if exists "${schema}" cascade`)
  }
}

// ------------------------------------------------------------------ the table

export const CUTS: readonly Cut[] = [
  // names, ids, enqueueing
  { statement: 'queue_id', play: begins },
  {
    statement: 'task_id',
    async play(stage) {
      const client = stage.through()
      stage.arm()
      const id = await stage.put(client, {}, { task: `task ${randomUUID()}` }, { end: 'cancelled' })
      await stage.client.console.cancel(id!) // nobody has it
    },
  },
  { statement: 'nextval id_block', play: begins },
  { statement: 'make_spans', play: begins },
  { statement: 'enqueue_plain', play: enqueues() },
  { statement: 'enqueue_chunks', as: 'of a group', play: enqueues({ group: 'g' }) },
  { statement: 'enqueue_chunks', as: 'with a key', play: (stage) => enqueues({ idempotencyKey: randomUUID() })(stage) },
  {
    statement: 'enqueue_plain',
    as: "in the caller's transaction",
    async play(stage) {
      const client = stage.through()
      await stage.put(client)
      const connection = await stage.connection()
      await connection.query('begin')
      stage.arm()
      await stage.put(client, {}, { client: connection })
      // whoever is refused has no transaction any more
      await assert.rejects(connection.query('commit'))
    },
  },
  { statement: 'begin of copy jobs', play: copies() },
  { statement: 'copy job', play: copies() },
  { statement: 'place_chunks', play: copies() },
  { statement: 'watch_expiry', play: (stage) => copies({ expiresAt: soon(3_600_000) })(stage) },
  { statement: 'commit of copy jobs', play: copies() },
  { statement: 'take_keys', play: copiesKeyed },
  { statement: 'commit of copy jobs', as: 'with keys', play: copiesKeyed },
  { statement: 'pg_notify', play: (stage) => enqueues({ group: 'h' })(stage) },

  // claiming
  { statement: 'claim_of_tasks', play: claims() },
  { statement: 'claim_of_tasks', as: 'of a group', play: claims({ group: 'of claims' }) },
  { statement: 'claim_ahead', play: (stage) => claims({ runAt: soon(1_000) })(stage) },
  {
    statement: 'promote',
    play: (stage) =>
      // jobs of groups are not claimed ahead
      stage.armWith(async () => {
        await stage.put(stage.client, {}, { runAt: soon(300), group: 'of promotions' })
        await systemClock.sleep(300)
      }),
  },
  {
    statement: 'claim_after',
    async play(stage) {
      const release = await stage.slowClaims()
      try {
        const cut = stage.arm()
        await stage.until('a claim began behind the last ones', async () => {
          await stage.put(stage.client)
          await systemClock.sleep(20)
          return cut.count > 0
        })
      } finally {
        await release()
      }
    },
  },

  {
    statement: 'reopen_strays',
    async play(stage) {
      const claim = stage.wire.cutBeforeAnswer(matcherOf('claim_of_tasks', stage.schema), ALL)
      const cut = stage.arm()
      await stage.put(stage.client)
      await stage.until('the node has looked for what it lost', () => cut.count > 0)
      claim.cancel()
    },
  },

  // settling
  { statement: 'flush_few', play: flushes },
  { statement: 'begin of flush', play: flushesMany },
  { statement: 'flush_begin', play: flushesMany },
  { statement: 'copy attempt', play: flushesMany },
  { statement: 'flush_end', play: flushesMany },
  { statement: 'commit of flush', play: flushesMany },
  { statement: 'flush_doubts', play: completes('direct') },
  { statement: 'flush_end', as: 'of a completion', play: completes('direct') },
  { statement: 'complete', play: completes('wire') },
  {
    statement: 'complete',
    as: 'commit',
    where: ({ application, text }) => application === 'ledger' && text === 'commit',
    play: completes('wire'),
  },

  // nodes
  { statement: 'rescue', play: rescues },
  { statement: 'insert running', play: rescues },
  { statement: 'node_beat', play: async (stage) => stage.arm(2) },
  {
    statement: 'node_join',
    async play(stage) {
      stage.arm()
      const other = stage.newEngine()
      await other.start().catch(() => {}) // whether it waits for the database is a matter of its settings
      await other.stop()
      await stage.onlyNodes(1)
    },
  },
  {
    statement: 'publish_tasks',
    async play(stage) {
      stage.arm()
      const other = stage.newEngine({ queues: ['nothing'] })
      await other.start().catch(() => {})
      await other.stop()
      await stage.onlyNodes(1)
    },
  },
  {
    statement: 'node_leave',
    async play(stage) {
      const other = stage.newEngine()
      await other.start()
      stage.arm()
      await other.stop()
      await stage.onlyNodes(1)
    },
  },
  {
    statement: 'expire_due',
    async play(stage) {
      const queue = `paused ${randomUUID()}`
      await stage.client.console.queue.pause(queue)
      stage.arm()
      await stage.put(stage.client, {}, { queue, expiresAt: soon(SECOND) }, { end: 'expired' })
    },
  },
  {
    statement: 'cancels_of',
    async play(stage) {
      const id = await stage.put(stage.client, { restMs: 1_500 }, {}, { end: 'ended' })
      await stage.until('it runs', () => stage.history.executions().some(({ jobId }) => jobId === id))
      stage.arm()
      await stage.client.console.cancel(id!)
    },
  },
  {
    statement: 'insert loop_sample',
    engine: { statsFlushMs: 200, statsFlushRows: 1 },
    async play(stage) {
      const cut = stage.arm()
      await stage.until('samples were written', async () => {
        await stage.put(stage.client)
        return cut.count > 0
      })
    },
  },

  // schedules
  { statement: 'fire', play: schedules({ overlap: 'skip' }) },
  { statement: 'prepare', play: schedules({}) },
  { statement: 'confirm', play: schedules({}) },
  { statement: 'note_begun', play: schedules({}) },
  { statement: 'insert occurrence_state', play: schedules({}) },
  {
    statement: 'standing',
    async play(stage) {
      const cut = stage.arm()
      const id = `schedule ${randomUUID()}`
      await stage.client.schedules.create({ id, task: 'witness', cron: '* * * * * *', payload: {} })
      // another schedule changes while jobs are made ahead
      const other = await schedule(stage)
      for (let n = 1; cut.count === 0 && n < 100; n++) {
        await stage.client.schedules.update(other, { payload: { n } })
        await systemClock.sleep(200)
      }
      await stage.client.schedules.delete(id)
    },
  },
  {
    statement: 'fire_failed',
    async play(stage) {
      const lift = await stage.refuseOccurrencesOf('refused')
      try {
        stage.arm()
        await stage.client.schedules.create({ id: 'refused', task: 'witness', cron: '* * * * * *', overlap: 'skip' })
        await stage.until('it is noted', async () =>
          (await stage.client.schedules.history('refused')).some(({ outcome }) => outcome === 'failed'),
        )
      } finally {
        await stage.client.schedules.delete('refused')
        await lift()
      }
    },
  },
  {
    statement: 'note_error',
    async play(stage) {
      const id = await schedule(stage)
      const cut = stage.arm()
      await stage.breakSchedule(id)
      await stage.until('it was noted', () => cut.count > 0)
      await stage.client.schedules.delete(id)
    },
  },
  {
    statement: 'clean',
    engine: { indexRebuildMs: 300 },
    async play(stage) {
      const id = await schedule(stage)
      const cut = stage.arm()
      await stage.until('it was sent', () => cut.count > 0)
      await stage.client.schedules.delete(id)
    },
  },
  {
    statement: 'put_schedules',
    async play(stage) {
      const { schedules } = stage.through()
      stage.arm()
      const id = `schedule ${randomUUID()}`
      const made = await stage.surely(() =>
        schedules.register([{ id, task: 'witness', cron: '0 0 1 1 *' }], { queue: 'registered' }),
      )
      assert.ok(made.created.length <= 1)
      assert.equal((await stage.client.schedules.get(id))?.cron, '0 0 1 1 *')
      await stage.client.schedules.delete(id)
    },
  },
  {
    statement: 'pause_schedule',
    async play(stage) {
      const id = await schedule(stage)
      const { schedules } = stage.through()
      stage.arm()
      await stage.surely(() => schedules.pause(id))
      assert.equal((await stage.client.schedules.get(id))?.paused, true)
      await stage.client.schedules.delete(id)
    },
  },
  {
    statement: 'resume_schedule',
    async play(stage) {
      const id = await schedule(stage)
      await stage.client.schedules.pause(id)
      const { schedules } = stage.through()
      stage.arm()
      await stage.surely(() => schedules.resume(id))
      assert.equal((await stage.client.schedules.get(id))?.paused, false)
      await stage.client.schedules.delete(id)
    },
  },
  {
    statement: 'delete_schedule',
    async play(stage) {
      const id = await schedule(stage)
      const { schedules } = stage.through()
      stage.arm()
      // the second call may find that the first has done it
      await stage.surely(() => schedules.delete(id)).catch((error) => assert.equal(error.code, 'SCHEDULE_NOT_FOUND'))
      assert.equal(await stage.client.schedules.get(id), null)
    },
  },
  {
    statement: 'note_trigger',
    async play(stage) {
      const id = await schedule(stage)
      const { schedules } = stage.through()
      stage.arm()
      const job = await schedules.trigger(id)
      stage.history.acknowledge(job.id)
      await stage.client.schedules.delete(id)
    },
  },

  // the console
  {
    statement: 'cancel',
    async play(stage) {
      const id = await stage.put(stage.client, {}, { runAt: soon(3_600_000) }, { end: 'cancelled' })
      const { console } = stage.through()
      stage.arm()
      const said = await stage.surely(() => console.cancel(id!))
      assert.ok(said === 'cancelled' || said === 'finished')
    },
  },
  {
    statement: 'requeue',
    async play(stage) {
      const id = await letter(stage)
      const { console } = stage.through()
      stage.arm()
      await stage.surely(() => console.dead.requeue({ ids: [id] }))
      await stage.until('it has run again', () => stage.history.executions().length >= 2)
    },
  },
  {
    statement: 'purge_dead',
    async play(stage) {
      const id = await letter(stage)
      const { console } = stage.through()
      stage.arm()
      // the second call may find that the first has done it
      await stage.surely(() => console.dead.purge({ id })).catch((error) => assert.equal(error.code, 'NOT_DEAD'))
      assert.deepEqual(await stage.client.console.dead.list({ id }), [])
    },
  },
  {
    statement: 'queue_pause',
    async play(stage) {
      const queue = `paused ${randomUUID()}`
      const { console } = stage.through()
      await console.queue.resume(queue)
      stage.arm()
      await stage.surely(() => console.queue.pause(queue))
      assert.equal((await stage.client.console.queue.stats(queue)).paused, true)
    },
  },
  {
    statement: 'purge_waiting',
    async play(stage) {
      const queue = `purged ${randomUUID()}`
      await stage.putMany(stage.client, 10, {}, { queue, runAt: soon(3_600_000) }, { end: 'cancelled' })
      const { console } = stage.through()
      stage.arm()
      await stage.surely(() => console.queue.purge(queue))
    },
  },
  {
    statement: 'forget_completed',
    async play(stage) {
      const queue = `forgotten ${randomUUID()}`
      // what is forgotten cannot be checked: it is not acknowledged
      const { id } = await stage.client.enqueue('witness', {}, { queue })
      await stage.until('it has ended', async () => (await stage.client.console.job(id))?.state === 'completed')
      const { console } = stage.through()
      stage.arm()
      await stage.surely(() => console.results.cleanup({ queue }))
      assert.equal((await stage.client.console.results.list({ queue })).length, 0)
    },
  },

  // keeping house
  { statement: 'retire_span', play: retains },
  { statement: 'sweep_attic', play: retains },
  { statement: 'analyze_parents', play: retains },
  { statement: 'begin of migrate', play: migrates },
  { statement: 'create schema', play: migrates },
  { statement: 'insert migration', play: migrates },
  { statement: 'commit of migrate', play: migrates },

  // engines of other settings, last: each is started for its row
  { statement: 'claim', engine: { claimUnknown: true }, play: claims() },
  { statement: 'claim_of_group', engine: { onlyGroup: 'alone' }, play: claims({ group: 'alone' }) },
]

/** Statements that are not cut, and why. */
export const NOT_CUT: Readonly<Record<string, string>> = {
  'create database': 'the embedded server makes it before anything else is there, and looks for it at each start',
  'delete loop_sample': 'is one statement with insert loop_sample',
  'delete occurrence_state': 'is one statement with insert occurrence_state',
}
