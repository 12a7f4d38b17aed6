// When the claimer asks, and when it leaves PostgreSQL alone. A fake store and a clock that stands still: pure unit level.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nextTurn } from '../engine/base/clock.ts'
import { EngineError } from '../engine/base/errors.ts'
import { silentLog } from '../engine/base/log.ts'
import { Claimer, type ClaimerNeeds, type ClaimerSettings } from '../engine/claimer/claimer.ts'
import type { ClaimedChunk, ClaimRequest, Position } from '../engine/store/types.ts'
import { ManualClock } from './support/manual-clock.ts'

const SETTINGS: ClaimerSettings = {
  queues: null,
  queueConcurrency: null,
  onlyGroup: null,
  claimUnknown: false,
  claimJobsMax: 1_000,
  claimBytesMax: 1_000_000,
  pollMs: 500,
  pollMaxMs: 5_000,
  preScheduleMs: 10_000,
}

function bundle(settings: Partial<ClaimerSettings> = {}) {
  const clock = new ManualClock()
  const world = {
    clock,
    queues: [1],
    wanted: 10,
    ready: 0,
    /** One claim brings so many jobs at most, with these payloads. */
    atOnce: Number.POSITIVE_INFINITY,
    payloads: '1',
    nextInMs: null as number | null,
    /** Milliseconds until jobs become due, of those that wait for their time. */
    soon: [] as number[],
    aheads: [] as number[],
    /** Jobs that are held of the limited queue. */
    seated: 0,
    failure: null as Error | null,
    claims: [] as ClaimRequest[],
    /** Behind what each claim began. */
    afters: [] as (readonly Position[] | null)[],
    claimTakesMs: 0,
    /** So much longer the next claim waits for a connection, which is no cost of the claim. */
    reconnectMs: 0,
    answeredInMs: 0,
    taskIds: [7],
    promotedFrom: [] as (number | null)[],
    promoteTakesMs: 0,
    seq: 0,
    asked: [] as string[],
    promotions: 0,
    arrived: 0,
    fenced: 0,
  }
  const needs: ClaimerNeeds = {
    clock,
    log: silentLog,
    store: {
      async claim(request, after) {
        world.claims.push(request)
        world.afters.push(after)
        world.answeredInMs = after === null ? world.claimTakesMs : 0
        clock.jump(world.answeredInMs + world.reconnectMs)
        world.reconnectMs = 0
        world.asked.push('claim')
        if (world.failure) throw world.failure
        const count = Math.min(request.jobsMax, world.ready, world.atOnce)
        world.ready -= count
        return count === 0
          ? []
          : [{ count, payloads: world.payloads, queueId: 1, rank: 0, seq: ++world.seq, group: null } as ClaimedChunk]
      },
      lastSeq: async () => world.seq,
      async claimAhead({ jobsMax }, withinMs) {
        world.aheads.push(jobsMax)
        const taken = world.soon.filter((ms) => ms - clock.steadyMs() <= withinMs).slice(0, jobsMax)
        world.soon = world.soon.filter((ms) => !taken.includes(ms))
        return {
          chunks: taken.map(() => ({ count: 1, payloads: '1' }) as ClaimedChunk),
          nextInMs: world.soon.length === 0 ? null : Math.min(...world.soon) - clock.steadyMs(),
        }
      },
      async promote(_limit, fromMs) {
        world.promotions++
        world.promotedFrom.push(fromMs)
        world.answeredInMs = fromMs === null ? world.promoteTakesMs : 0
        clock.jump(world.answeredInMs)
        return { moved: 0, queues: [], nextInMs: world.nextInMs, nowMs: clock.wallMs() }
      },
      async allQueues() {
        world.asked.push('queues')
        return world.queues.map((id) => ({ id, name: `q${id}`, paused: false }))
      },
      queueIds: async (names) => names.map((_, at) => at + 1),
      taskIds: async () => world.taskIds,
      get claimAnsweredInMs() {
        return world.answeredInMs
      },
    },
    taking: (take) => take(),
    nodeId: () => 1,
    taskNames: () => ['noop'],
    seats: (limits) => new Map(Object.entries(limits).map(([name, max]) => [name, max - world.seated])),
    wanted: () => world.wanted,
    arrive: (chunks) => {
      for (const chunk of chunks) world.arrived += chunk.count
    },
    onFenced: () => void world.fenced++,
  }
  const claimer = new Claimer(needs, { ...SETTINGS, ...settings })
  const settle = async () => {
    for (let turn = 0; turn < 20; turn++) await nextTurn()
  }
  const stop = async () => {
    const stopped = claimer.stop()
    clock.advance(60_000)
    await stopped
  }
  return { world, claimer, clock, settle, stop }
}

test('while no queue exists every poll looks for one: the first job does not wait for the next look at the list', async () => {
  const { world, claimer, clock, settle, stop } = bundle({ pollMaxMs: 500 })
  world.queues = []
  claimer.start()
  await settle()
  world.queues = [1]
  world.ready = 1
  clock.advance(700)
  await settle()
  assert.equal(world.arrived, 1)
  await stop()
})

test('what is ready in a known queue is claimed before an old list of queues is read again, and then it is read', async () => {
  const { world, claimer, clock, settle, stop } = bundle({ pollMs: 60_000, pollMaxMs: 60_000 })
  claimer.start()
  await settle()
  clock.advance(6_000) // older than the list may be, earlier than the next poll
  await settle()
  world.asked.length = 0
  world.queues = [1, 2]
  world.ready = 1
  claimer.ready([1])
  await settle()
  assert.deepEqual(world.asked, ['claim', 'queues'])
  claimer.ready([1])
  await settle()
  assert.deepEqual([...world.claims.at(-1)!.queueIds].sort(), [1, 2])
  await stop()
})

test('while claims from the beginning are slow, claims begin behind what was taken; other tasks to take make it forgotten', async () => {
  const { world, claimer, clock, settle, stop } = bundle({ pollMs: 60_000, pollMaxMs: 60_000 })
  const claimOne = async (afterMs: number) => {
    clock.advance(afterMs)
    world.ready = 1
    claimer.ready([1])
    await settle()
    return world.afters.at(-1)
  }
  claimer.start()
  await settle()
  world.claimTakesMs = 200
  for (let i = 0; i < 3; i++) await claimOne(300)
  assert.deepEqual(await claimOne(300), [{ queueId: 1, rank: 0, seq: 1 }])
  assert.equal(claimer.counts.behind, 1)
  world.taskIds = [7, 8]
  claimer.changed()
  await settle()
  assert.equal(await claimOne(300), null)
  await stop()
})

/** Claims one job a step; answers which of the claims began at the beginning. */
async function claimsFull(
  { world, claimer, clock, settle }: ReturnType<typeof bundle>,
  steps: number,
  everyMs: number,
): Promise<boolean[]> {
  const full: boolean[] = []
  for (let step = 0; step < steps; step++) {
    clock.advance(everyMs)
    world.ready = 1
    claimer.ready([1])
    await settle()
    full.push(world.afters.at(-1) === null)
  }
  return full
}

const STILL = { pollMs: 600_000, pollMaxMs: 600_000 }

test('one claim that stalls, or waits for its connection, is no reason to pass over the front of the queue', async () => {
  for (const [answeredMs, reconnectMs] of [
    [2_400, 0],
    [0, 2_400],
  ] as const) {
    const it = bundle(STILL)
    it.claimer.start()
    await it.settle()
    await claimsFull(it, 3, 300)
    it.world.claimTakesMs = answeredMs
    it.world.reconnectMs = reconnectMs
    await claimsFull(it, 1, 300)
    it.world.claimTakesMs = 0
    assert.deepEqual(new Set(await claimsFull(it, 10, 300)), new Set([true]))
    await it.stop()
  }
})

test('every connection slow for good: the front is passed over for no longer than two seconds', async () => {
  const it = bundle(STILL)
  it.claimer.start()
  await it.settle()
  it.world.reconnectMs = 0
  it.world.claimTakesMs = 5_000
  await claimsFull(it, 4, 300)
  const full = await claimsFull(it, 40, 300)
  assert.ok(full.includes(false), 'positions are in use')
  for (let from = 0; from + 8 <= full.length; from++)
    assert.ok(full.slice(from, from + 8).includes(true), `none from the beginning in 2.4 s: ${full}`)
  await it.stop()
})

test('after a failure, and when jobs have come back, claims begin at the beginning', async () => {
  for (const upset of ['failure', 'returned'] as const) {
    const it = bundle(STILL)
    it.claimer.start()
    await it.settle()
    it.world.claimTakesMs = 200
    await claimsFull(it, 4, 300)
    assert.deepEqual(await claimsFull(it, 1, 300), [false])
    if (upset === 'returned') it.claimer.returned()
    else {
      it.world.failure = new EngineError('STORE_UNREACHABLE', 'gone')
      it.claimer.ready([1])
      await it.settle()
      it.world.failure = null
      it.clock.advance(200)
    }
    await it.settle()
    assert.equal(it.world.afters.at(-1), null)
    await it.stop()
  }
})

test('while promotions from the beginning are slow they begin a second before the last one, but for one in so many', async () => {
  const { world, clock, claimer, settle, stop } = bundle({ pollMs: 100, pollMaxMs: 100 })
  world.promoteTakesMs = 40
  claimer.start()
  await settle()
  clock.advance(130)
  await settle()
  const secondEndedMs = clock.wallMs()
  for (let i = 0; i < 30; i++) {
    clock.advance(130)
    await settle()
  }
  const [first, second, third, ...more] = world.promotedFrom
  assert.deepEqual([first, second, third], [null, null, secondEndedMs - 40 - 1_000], 'one alone may have been a stall')
  const full = more.filter((fromMs) => fromMs === null).length
  assert.ok(full >= 3 && full <= 5, `${full} of ${more.length}`) // 4 s, one a second
  await stop()
})

test('without any queue it polls calmly and lets others run', async () => {
  const { world, claimer, clock, settle, stop } = bundle()
  world.queues = []
  claimer.start()
  await settle() // never returns when the claimer spins in microtasks
  assert.equal(world.claims.length, 0)
  assert.ok(world.promotions <= 2)
  world.queues = [5]
  world.ready = 3
  claimer.ready([5])
  await settle()
  assert.equal(world.arrived, 3, 'a queue that is heard of is learned at once')
  clock.advance(1)
  await stop()
})

test('it asks again only when it got all that it asked for', async () => {
  const { world, claimer, settle, stop } = bundle()
  world.ready = 25
  claimer.start()
  await settle()
  assert.deepEqual(
    world.claims.map((claim) => claim.jobsMax),
    [10, 10, 10],
  )
  assert.equal(world.arrived, 25)
  await stop()
})

test('a notification, room, and a due time wake it; polls come ever more rarely while nothing comes', async () => {
  const { world, claimer, clock, settle, stop } = bundle()
  claimer.start()
  await settle()
  const asked = () => world.claims.length
  const before = asked()
  claimer.room()
  await settle()
  assert.equal(asked(), before, 'room alone asks nothing where nothing was')
  world.ready = 1
  claimer.ready([1])
  await settle()
  assert.equal(world.arrived, 1)
  const promotions = world.promotions
  claimer.dueIn(40)
  clock.advance(40)
  await settle()
  assert.ok(world.promotions > promotions)
  const gaps: number[] = []
  for (let waited = 0, last = asked(); waited < 60_000; waited += 100) {
    clock.advance(100)
    await nextTurn()
    await nextTurn()
    await nextTurn()
    if (asked() > last) {
      gaps.push(waited)
      last = asked()
    }
  }
  const spans = gaps.slice(1).map((at, index) => at - gaps[index]!)
  assert.ok(spans.at(-1)! >= 4_000, `the last polls are far apart: ${spans.join(' ')}`)
  assert.ok(Math.max(...spans) <= 6_100, 'and never farther than pollMaxMs and its spread')
  await stop()
})

test('wanting nothing asks nothing', async () => {
  const { world, claimer, clock, settle, stop } = bundle()
  world.wanted = 0
  world.ready = 5
  claimer.start()
  await settle()
  clock.advance(10_000)
  await settle()
  assert.equal(world.claims.length, 0)
  world.wanted = 5
  claimer.room()
  await settle()
  assert.equal(world.arrived, 5)
  await stop()
})

test('unlisted queues begin in turn, so that a full one starves no other; listed ones keep their order', async () => {
  for (const queues of [null, ['a', 'b', 'c']]) {
    const { world, claimer, settle, stop } = bundle({ queues })
    world.queues = [1, 2, 3]
    world.ready = 40
    claimer.start()
    await settle()
    const firsts = world.claims.slice(0, 3).map((claim) => claim.queueIds[0])
    assert.deepEqual(firsts, queues ? [1, 1, 1] : [1, 2, 3])
    await stop()
  }
})

test('a failure is tried again after a pause, a fence is told', async () => {
  const { world, claimer, clock, settle, stop } = bundle()
  world.failure = new EngineError('STORE_UNREACHABLE', 'gone')
  claimer.start()
  await settle()
  assert.equal(world.claims.length, 1, 'no storm')
  world.failure = new EngineError('NODE_FENCED', 'dead')
  clock.advance(5_000)
  await settle()
  assert.equal(world.fenced, 1)
  world.failure = null
  world.ready = 2
  clock.advance(5_000)
  await settle()
  assert.equal(world.arrived, 2)
  await stop()
})

test('what becomes due within a second is claimed ahead, as much as there is room for, and is not asked for at its time', async () => {
  const { world, claimer, clock, settle, stop } = bundle({ pollMs: 60_000, pollMaxMs: 60_000 })
  claimer.start()
  await settle()
  const { promotions } = world
  world.soon = [1_990, 2_000, 2_010].map((ms) => clock.steadyMs() + ms)
  world.wanted = 2
  claimer.dueIn(1_990)
  clock.advance(980)
  await settle()
  assert.deepEqual(world.aheads, [], 'not earlier')
  clock.advance(20)
  await settle()
  assert.deepEqual(world.aheads, [2])
  assert.equal(world.arrived, 2)
  world.wanted = 0
  clock.advance(1_000)
  await settle()
  assert.equal(world.promotions, promotions, 'those that were taken are not promoted')
  clock.advance(100)
  await settle()
  assert.equal(world.promotions, promotions + 1, 'the one that had no room is')
  await stop()
})

test('for one group alone nothing is claimed ahead, nor when jobs are not to be in memory before their time', async () => {
  for (const settings of [{ onlyGroup: 'g' }, { preScheduleMs: 0 }]) {
    const { world, claimer, clock, settle, stop } = bundle(settings)
    claimer.start()
    await settle()
    claimer.dueIn(1_000)
    clock.advance(990)
    await settle()
    assert.deepEqual(world.aheads, [])
    await stop()
  }
})

test('a claim that its bytes have cut short is followed by the next, whatever characters they are', async () => {
  const { world, claimer, settle, stop } = bundle({ claimBytesMax: 6_000 })
  Object.assign(world, { wanted: 10, ready: 3, atOnce: 1, payloads: JSON.stringify('工'.repeat(1_000)) })
  claimer.start()
  await settle()
  assert.equal(world.arrived, 3)
  await stop()
})
