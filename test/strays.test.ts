// Leases that a node has and does not know of: the answer of a claim was lost, or came too late. Nobody else rescues them,
// because the node lives, so the node has to find them itself. First the decision alone, with a clock that a test moves;
// then real engines behind a proxy that loses exactly one answer.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EngineError } from '../engine/base/errors.ts'
import { silentLog } from '../engine/base/log.ts'
import type { Engine, EngineOptions } from '../engine/index.ts'
import { Strays } from '../engine/strays.ts'
import { type EngineBundle, withEngines } from './support/engine.ts'
import { ManualClock, settle, pass as timePasses } from './support/manual-clock.ts'
import { completing, openStore } from './support/store.ts'
import { type WireProxy, wireProxy } from './support/wire-proxy.ts'

const MINUTE = 60_000

// ------------------------------------------------------------------ the decision

function bundle(nodeLimitMs = 30_000) {
  const clock = new ManualClock()
  const world = {
    clock,
    nodeId: 1,
    /** Leases that the table says are this node's, and those that the node accounts for. */
    leased: [] as number[],
    known: [] as number[],
    failure: null as Error | null,
    looks: 0,
    /** Resolves the looks that wait; null: they are answered at once. */
    answer: null as Promise<void> | null,
    reopened: [] as { leaseIds: readonly number[]; held: boolean }[],
    jobs: 0,
  }
  const strays = new Strays(
    {
      clock,
      log: silentLog,
      store: {
        async strayLeases(_nodeId, known) {
          world.looks++
          if (world.failure) throw world.failure
          const found = world.leased.filter((id) => !known.includes(id))
          await world.answer
          return found
        },
        async reopenStrays(_nodeId, leaseIds, _rescuesMax, held) {
          if (world.failure) throw world.failure
          world.reopened.push({ leaseIds, held })
          world.leased = world.leased.filter((id) => !leaseIds.includes(id))
          return { leases: leaseIds.length, reopened: 10, buried: 0 }
        },
      },
      nodeId: () => world.nodeId,
      addKnown: (leaseIds) => {
        for (const id of world.known) leaseIds.add(id)
      },
      onReopened: (jobs) => {
        world.jobs += jobs
      },
    },
    { nodeLimitMs, rescuesMax: 3 },
  )
  const pass = (ms: number) => timePasses(clock, ms)
  const look = async () => {
    strays.look()
    await settle()
  }
  return { world, strays, clock, settle, pass, look }
}

test('a lease that stays unknown is given back uncharged, and one that is known never', async () => {
  const { world, strays, pass, look } = bundle()
  world.leased = [5, 6, 7]
  world.known = [6]
  await look()
  assert.deepEqual(world.reopened, [], 'an answer may be on its way')
  await pass(900)
  assert.deepEqual(world.reopened, [])
  await pass(400) // by its own look, without a beat
  assert.deepEqual(world.reopened, [{ leaseIds: [5, 7], held: false }])
  assert.equal(world.jobs, 10)
  const { looks } = world
  await pass(10_000)
  assert.equal(world.looks, looks, 'when all is accounted for it looks with beats alone')
  assert.equal(strays.counts.leases, 2)
  await strays.stop()
})

test('what arrives between two looks, or during one, is not touched', async () => {
  const { world, strays, settle, pass, look, clock } = bundle()
  world.leased = [5]
  await look()
  world.known = [5]
  await pass(3_000)
  world.leased = [5, 6]
  await look()
  let tell = () => {}
  world.answer = new Promise((resolve) => {
    tell = resolve
  })
  clock.advance(1_200) // the second look is sent, and waits for its answer
  await settle()
  world.known = [5, 6]
  world.answer = null
  tell()
  await pass(3_000)
  assert.deepEqual(world.reopened, [])
  // unknown in the first look and found again by the second, which was on its way when it arrived
  world.leased = [5, 6, 7]
  await look()
  world.answer = new Promise((resolve) => {
    tell = resolve
  })
  await pass(1_500)
  world.known = [5, 6, 7]
  world.answer = null
  tell()
  await pass(3_000)
  assert.deepEqual(world.reopened, [])
  await strays.stop()
})

test('while the statement that may bring it has no answer, a lease has three seconds; then its answer comes too late', async () => {
  const { world, strays, pass, settle } = bundle()
  let answer = (_chunks: { leaseId: number }[]) => {}
  const taken = strays.taking(
    () =>
      new Promise<{ leaseId: number }[]>((resolve) => {
        answer = resolve
      }),
  )
  world.leased = [5]
  await pass(3_500) // found after one second
  assert.deepEqual(world.reopened, [])
  await pass(1_500)
  assert.deepEqual(world.reopened, [{ leaseIds: [5], held: false }])
  answer([{ leaseId: 5 }, { leaseId: 6 }])
  assert.deepEqual(strays.admit(await taken), [{ leaseId: 6 }], 'its jobs may run elsewhere by now')
  await settle()
  assert.equal(strays.counts.late, 1)
  await strays.stop()
})

test('of a node with a short limit it takes less than that limit', async () => {
  const { world, strays, pass } = bundle(1_000)
  void strays.taking(() => new Promise(() => {}))
  world.leased = [5]
  await pass(1_000)
  assert.deepEqual(world.reopened, [{ leaseIds: [5], held: false }])
  await strays.stop()
})

test('a statement that failed is looked after at once, and for seconds, as it may still commit', async () => {
  const { world, strays, pass, settle } = bundle()
  await assert.rejects(
    strays.taking(async () => {
      throw new EngineError('STORE_UNREACHABLE', 'cut')
    }),
  )
  await settle()
  assert.equal(world.looks, 1)
  await pass(1_100)
  world.leased = [5] // it was not over
  await pass(2_500)
  assert.deepEqual(world.reopened, [{ leaseIds: [5], held: false }])
  await strays.stop()
})

test('a look that fails is repeated until one succeeds, and so is a reopening whose answer was lost', async () => {
  const { world, strays, pass, look } = bundle()
  world.leased = [5]
  world.failure = new EngineError('STORE_UNREACHABLE', 'gone')
  await look()
  await pass(5_000)
  assert.ok(world.looks >= 4, `${world.looks} looks`)
  world.failure = null
  await pass(2_300)
  assert.deepEqual(world.reopened, [{ leaseIds: [5], held: false }])
  await strays.stop()
})

test('a lease whose jobs were here and that nothing holds any more is charged: its jobs may be what loses them', async () => {
  const { world, strays, pass, look } = bundle()
  strays.admit([{ leaseId: 5 }])
  world.leased = [5]
  await look()
  await pass(1_200)
  assert.deepEqual(world.reopened, [{ leaseIds: [5], held: true }])
  await strays.stop()
})

test('a node that is none just now looks at nothing, and what it found as another node is forgotten', async () => {
  const { world, strays, pass, look } = bundle()
  world.leased = [5]
  await look()
  world.nodeId = 0
  await pass(1_500)
  assert.deepEqual(world.reopened, [])
  world.nodeId = 2
  await look()
  assert.deepEqual(world.reopened, [], 'two looks as the same node')
  await pass(1_200)
  assert.equal(world.reopened.length, 1)
  await strays.stop()
})

// ------------------------------------------------------------------ real engines

async function withProxy(run: (bundle: EngineBundle, proxy: WireProxy) => Promise<void>): Promise<void> {
  await withEngines(async (bundle) => {
    const proxy = await wireProxy(bundle.url)
    try {
      await run(bundle, proxy)
    } finally {
      proxy.cutAll()
      await proxy.close()
    }
  })
}

/** Where every job ended, in order: state, attempt and run. */
const ends = ({ query }: EngineBundle) =>
  query<{ id: number; outcome: string; attempt: number; run: number }>(
    'select job_id::float8 as id, outcome, attempt, run from millrace.attempts order by job_id, run',
  )

/** Beats and polls are rare: what is found is found by the failure itself, and every claim is for a job that was enqueued. */
const CALM = { nodeHeartbeatMs: 60_000, nodeLimitMs: 600_000, pollMs: 120_000, pollMaxMs: 120_000 }

/** An engine behind the proxy that has done one job, and does nothing now. */
async function idle({ engine, until }: EngineBundle, proxy: WireProxy, options: EngineOptions = {}): Promise<Engine> {
  const made = await engine({ database: proxy.url, ...CALM, ...options })
  await made.enqueue('echo', 'the first')
  await until('it has run', async () => made.stats().settled === 1)
  return made
}

test(
  'the answer of a claim is lost: its jobs run within seconds, uncharged, and doctor says that it happened',
  { timeout: MINUTE },
  () =>
    withProxy(async (bundle, proxy) => {
      const { client, until } = bundle
      const made = await idle(bundle, proxy)
      const cut = proxy.cutBeforeAnswer('claim_of_tasks')
      const { ids } = await made.enqueueMany(
        'echo',
        Array.from({ length: 50 }, (_, at) => at),
      )
      await cut.happened
      await until('all have run', async () => made.stats().settled === 51)
      assert.ok(made.stats().strayLeases >= 1)
      const rows = (await ends(bundle)).slice(1)
      assert.equal(rows.length, 50)
      assert.ok(rows.every(({ outcome, attempt, run }) => outcome === 'completed' && attempt === 1 && run === 1))
      assert.equal(rows[0]!.id, ids[0]!.first)
      const said = (await client.console.doctor()).find(({ check }) => check.endsWith('stray leases'))
      assert.equal(said?.verdict, 'warn')
      assert.equal((await client.console.nodes())[0]!.strayLeases, made.stats().strayLeases)
    }),
)

test('a cancel of a job whose claim was lost is carried out, and its group goes on', { timeout: MINUTE }, () =>
  withProxy(async (bundle, proxy) => {
    const { client, inState, until } = bundle
    const made = await idle(bundle, proxy)
    const hold = proxy.holdAnswer('claim_of_tasks')
    const first = await made.enqueue('echo', 1, { group: 'g' })
    await hold.happened
    const second = await made.enqueue('echo', 2, { group: 'g' })
    assert.equal(await client.console.cancel(first.id, 'not wanted'), 'signalled')
    hold.drop()
    assert.equal((await inState(first.id, 'cancelled')).state, 'cancelled')
    await inState(second.id, 'completed')
    await until('nothing is left', async () => made.stats().held === 0)
  }),
)

test(
  'an answer that comes after its jobs were given back is not taken in: nobody runs them twice',
  { timeout: MINUTE },
  () =>
    withProxy(async (bundle, proxy) => {
      const { engine, until, query } = bundle
      const slow = await idle(bundle, proxy, { nodeHeartbeatMs: 300, nodeLimitMs: 20_000 })
      const hold = proxy.holdAnswer('claim_of_tasks')
      await slow.enqueueMany('echo', [1, 2, 3])
      await hold.happened
      const other = await engine({ pollMs: 100, pollMaxMs: 100 })
      await until('the other has run them', async () => other.stats().completed === 3)
      hold.release()
      await slow.enqueue('echo', 4)
      await until('all four have run', async () => slow.stats().completed + other.stats().completed === 5)
      await until('nothing is leased', async () => (await query('select from millrace.lease')).length === 0)
      assert.equal(slow.stats().lateReports + slow.stats().stale, 0)
      const rows = await ends(bundle)
      assert.deepEqual(
        rows.map(({ run }) => run),
        [1, 1, 1, 1, 1],
      )
    }),
)

test('the answer of a claim ahead of time is lost: the jobs run at their time all the same', { timeout: MINUTE }, () =>
  withProxy(async (bundle, proxy) => {
    const { inState } = bundle
    const made = await idle(bundle, proxy)
    const { id } = await made.enqueue('echo', 1, { delayMs: 2_500 })
    const cut = proxy.cutBeforeAnswer('claim_ahead')
    await cut.happened
    await inState(id, 'completed')
    assert.deepEqual(
      (await ends(bundle)).map(({ attempt }) => attempt),
      [1, 1],
    )
    assert.equal(made.stats().strayLeases, 1)
  }),
)

test('the answer about occurrences made ahead is lost: each has its one job, and it runs', { timeout: MINUTE }, () =>
  withProxy(async ({ engine, client, query, until }, proxy) => {
    await engine({ database: proxy.url, ...CALM })
    const cut = proxy.cutBeforeAnswer('schedule_prepare')
    await client.schedules.create({ id: 'ticks', task: 'echo', cron: '* * * * * *', payload: 1 })
    const { request } = await cut.happened
    const at = (JSON.parse(request.values[1]!) as { d: number }[])[0]!.d
    const row = await until('that occurrence has run', async () => {
      const [found] = await query<{ state: string; attempt: number }>(
        `select j.state, j.attempt from millrace.occurrence o join millrace.jobs j on j.id = o.job_id
         where o.scheduled_at = to_timestamp($1 / 1000.0)`,
        [at],
      )
      return found?.state === 'completed' && found
    })
    assert.equal(row.attempt, 1)
    await client.schedules.delete('ticks')
    await until('nothing is leased', async () => (await query('select from millrace.lease')).length === 0)
  }),
)

test('a node that stops after a lost answer gives those jobs back before it goes', { timeout: MINUTE }, () =>
  withProxy(async (bundle, proxy) => {
    const { client, query } = bundle
    const made = await idle(bundle, proxy)
    const hold = proxy.holdAnswer('claim_of_tasks')
    const { id } = await made.enqueue('echo', 1)
    await hold.happened
    const stopped = made.stop()
    hold.drop()
    await stopped
    assert.deepEqual(await query('select from millrace.node'), [])
    const job = await client.console.job(id)
    assert.equal(job?.state, 'queued')
    assert.equal(job?.attempt, 1)
  }),
)

test('a goodbye leaves the row of a node to which something is leased: without it nobody would rescue that', async () => {
  const it = await openStore()
  try {
    const nodeId = await it.join()
    await it.put(3)
    assert.equal((await it.claim(nodeId, 2)).length, 1)
    assert.equal(await it.store.leave(nodeId), false)
    assert.equal((await it.query('select from millrace.node')).length, 1)
    const rescued = await it.store.rescue(nodeId, 3, true, false)
    assert.deepEqual(rescued, { reopened: 2, buried: 0, gone: true })
    assert.equal((await it.query('select from millrace.node')).length, 0)
  } finally {
    await it.close()
  }
})

test('of the leases of a node those that are named go back, and no others', async () => {
  const it = await openStore()
  try {
    const [nodeId, other] = [await it.join(), await it.join()]
    await it.put(6)
    const [[stray], [held], [theirs]] = [await it.claim(nodeId, 1), await it.claim(nodeId, 2), await it.claim(other, 3)]
    const reopened = await it.store.reopenStrays(nodeId, [stray!.leaseId, theirs!.leaseId], 3, false)
    assert.deepEqual(reopened, { leases: 1, reopened: 1, buried: 0 })
    const left = await it.query<{ id: number }>('select id::float8 as id from millrace.lease order by id')
    assert.deepEqual(
      left.map(({ id }) => id),
      [held!.leaseId, theirs!.leaseId],
    )
  } finally {
    await it.close()
  }
})

test('stray leases of a node that was declared dead are left to whoever rescues it', async () => {
  const it = await openStore()
  try {
    const nodeId = await it.join()
    await it.put(3)
    const [chunk] = await it.claim(nodeId)
    assert.deepEqual(await it.store.strayLeases(nodeId, []), [chunk!.leaseId])
    assert.deepEqual(await it.store.strayLeases(nodeId, [chunk!.leaseId]), [])
    const other = await it.join()
    assert.deepEqual(await it.store.reopenStrays(other, [chunk!.leaseId], 3, false), {
      leases: 0,
      reopened: 0,
      buried: 0,
    })
    await it.query('delete from millrace.node where id = $1', [nodeId])
    assert.equal(await it.store.reopenStrays(nodeId, [chunk!.leaseId], 3, false), null)
    assert.equal((await it.query('select from millrace.lease')).length, 1)
  } finally {
    await it.close()
  }
})

test('the visible row of a long job goes with its lease, whichever way the flushes went that wrote it and ended it', async () => {
  for (const [noted, ended] of [
    ['short', 'long'],
    ['long', 'short'],
  ]) {
    const it = await openStore()
    try {
      const nodeId = await it.join()
      await it.put(1)
      const [chunk] = await it.claim(nodeId)
      const way = (how: string | undefined) => (how === 'long' ? { doubts: [] } : {})
      const { leaseId, firstId: jobId, run } = chunk!
      const row = { leaseId, jobId, run, lane: 0, startedAtMs: 1, progress: null }
      const nothing = { leaseIds: [leaseId], leaseDone: [0], running: [row] }
      await it.store.flush(nodeId, completing(1, nodeId, [], { ...nothing, ...way(noted) }))
      assert.equal((await it.query('select from millrace.running')).length, 1)
      await it.store.strayLeases(nodeId, [leaseId]) // it is still held: what is known of it is kept
      await it.store.flush(nodeId, completing(2, nodeId, [chunk!], way(ended)))
      assert.deepEqual(await it.query('select from millrace.running'), [])
    } finally {
      await it.close()
    }
  }
})
