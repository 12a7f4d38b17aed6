// The run index: sorted by due time and id, asked by half-open windows, rebuilt in slices and swapped whole.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseCron } from '../engine/schedule/cron.ts'
import { nextAfter, occurrencesBetween } from '../engine/schedule/occurrences.ts'
import { buildRuns, type Planned, RunIndex, Runs, RunsBuilder } from '../engine/schedule/run-index.ts'

const START_MS = Date.UTC(2026, 9, 25, 0, 30) // half an hour before Berlin sets its clocks back
const MINUTE_MS = 60_000

function schedule(id: string, expression: string, timeZone = 'UTC'): Planned {
  return { id, plan: parseCron(expression, timeZone) }
}

/** What the index should hold, by comparing instead of counting. */
function sortedRuns(schedules: readonly Planned[], startMs: number, endMs: number): [number, string][] {
  const runs = schedules.flatMap(({ id, plan }) =>
    occurrencesBetween(plan, startMs, endMs).map((dueMs): [number, string] => [dueMs, id]),
  )
  return runs.sort(([dueA, a], [dueB, b]) => dueA - dueB || (a < b ? -1 : a > b ? 1 : 0))
}

function listed(runs: Runs<Planned>): [number, string][] {
  return Array.from({ length: runs.length }, (_, i) => [runs.dueAt(i), runs.scheduleAt(i).id])
}

function queried(index: RunIndex<Planned>, startMs: number, endMs: number): [number, string][] {
  const found: [number, string][] = []
  const count = index.query(startMs, endMs, ({ id }, dueMs) => void found.push([dueMs, id]))
  assert.equal(count, found.length)
  return found
}

const someSchedules = fc
  .uniqueArray(fc.string({ maxLength: 6 }), { maxLength: 40 })
  .chain((ids) =>
    fc.tuple(
      ...ids.map((id) =>
        fc
          .tuple(
            fc.constantFrom('* * * * *', '*/5 * * * *', '*/7 * * * * *', '0 * * * *', '30 2 * * *', '0 0 1 1 *'),
            fc.constantFrom('UTC', 'Europe/Berlin', 'Australia/Lord_Howe'),
          )
          .map(([expression, timeZone]) => schedule(id, expression, timeZone)),
      ),
    ),
  )

test('runs are sorted by due time, then by id, whatever order the schedules come in', () => {
  fc.assert(
    fc.property(someSchedules, fc.nat(3 * 60 * MINUTE_MS), fc.nat(20 * MINUTE_MS), (schedules, aheadMs, lastsMs) => {
      const startMs = START_MS + aheadMs
      const runs = buildRuns(schedules, startMs, startMs + lastsMs)
      assert.deepEqual(listed(runs), sortedRuns(schedules, startMs, startMs + lastsMs))
      assert.equal(runs.startMs, startMs)
      assert.equal(runs.endMs, startMs + lastsMs)
    }),
    { numRuns: 300 },
  )
})

test('an index is half open wherever its window begins and ends, also over many days', () => {
  const beside = fc.constantFrom(-1_000, -1, 0, 1, 1_000)
  fc.assert(
    fc.property(
      fc.constantFrom('30 0 12 * * *', '0 30 0 * * *', '29 59 23 * * *', '45 */20 * * * *'),
      fc.constantFrom('UTC', 'Europe/Berlin', 'Australia/Lord_Howe'),
      fc.nat(3),
      beside,
      beside,
      (expression, timeZone, days, before, after) => {
        const only = schedule('only', expression, timeZone)
        const startMs = nextAfter(only.plan, START_MS)! + before
        const lastMs = nextAfter(only.plan, startMs + days * 24 * 60 * MINUTE_MS)!
        const endMs = Math.max(startMs, lastMs + after)
        const expected: number[] = []
        for (let at = nextAfter(only.plan, startMs - 1); at !== null && at < endMs; at = nextAfter(only.plan, at))
          expected.push(at)
        assert.deepEqual(
          listed(buildRuns([only], startMs, endMs)).map(([dueMs]) => dueMs),
          expected,
        )
      },
    ),
    { numRuns: 300 },
  )
})

test('windows of hours, days and months are sorted as well as short ones', () => {
  const schedules = [schedule('b', '*/20 * * * *'), schedule('a', '0 */6 * * *', 'Asia/Tokyo'), schedule('c', '@daily')]
  for (const hours of [1, 30, 24 * 60, 24 * 400]) {
    const endMs = START_MS + hours * 60 * MINUTE_MS
    assert.deepEqual(listed(buildRuns(schedules, START_MS, endMs)), sortedRuns(schedules, START_MS, endMs))
  }
})

test('many schedules in any order of ids, more than one slice can sort, come out in order', () => {
  const schedules: Planned[] = []
  for (let i = 0; i < 5_000; i++)
    schedules.push(schedule(`s${(i * 2_741) % 5_000}`, i % 2 ? '* * * * *' : `${i % 60} * * * *`))
  const endMs = START_MS + 5 * MINUTE_MS
  const expected = sortedRuns(schedules, START_MS, endMs)
  assert.deepEqual(listed(buildRuns(schedules, START_MS, endMs)), expected)
  assert.deepEqual(listed(buildRuns(schedules.toReversed(), START_MS, endMs)), expected)
  const byId = schedules.toSorted((a, b) => (a.id < b.id ? -1 : 1))
  assert.deepEqual(listed(buildRuns(byId, START_MS, endMs)), expected)
})

test('a query is half open: it includes its start and not its end', () => {
  const index = new RunIndex<Planned>()
  index.swap(buildRuns([schedule('b', '* * * * *'), schedule('a', '* * * * *')], 0, 5 * MINUTE_MS))
  assert.equal(index.length, 10)
  assert.deepEqual(queried(index, 60_000, 120_000), [
    [60_000, 'a'],
    [60_000, 'b'],
  ])
  assert.deepEqual(queried(index, 60_001, 120_000), [])
  assert.equal(queried(index, 60_001, 120_001).length, 2)
  assert.equal(queried(index, 60_000, 60_000).length, 0)
  assert.equal(queried(index, 120_000, 60_000).length, 0)
  assert.equal(queried(index, Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY).length, 10)
})

test('a query finds what filtering all runs finds, and nextDue the first strictly after', () => {
  const edge = fc.integer({ min: -2 * MINUTE_MS, max: 22 * MINUTE_MS })
  fc.assert(
    fc.property(someSchedules, edge, edge, (schedules, from, to) => {
      const index = new RunIndex<Planned>()
      index.swap(buildRuns(schedules, START_MS, START_MS + 20 * MINUTE_MS))
      const all = listed(index.runs)
      const [startMs, endMs] = [START_MS + from, START_MS + to]
      assert.deepEqual(
        queried(index, startMs, endMs),
        all.filter(([dueMs]) => dueMs >= startMs && dueMs < endMs),
      )
      assert.equal(index.nextDue(startMs), all.find(([dueMs]) => dueMs > startMs)?.[0] ?? null)
    }),
    { numRuns: 300 },
  )
})

test('a query stops when its visitor says so', () => {
  const index = new RunIndex<Planned>()
  index.swap(buildRuns([schedule('a', '* * * * *')], 0, 10 * MINUTE_MS))
  let seen = 0
  assert.equal(
    index.query(0, 10 * MINUTE_MS, () => ++seen < 3),
    3,
  )
})

test('an index without runs answers, and so does one of no schedules', () => {
  const index = new RunIndex<Planned>()
  for (const runs of [index.runs, buildRuns<Planned>([], 0, 1_000), buildRuns([schedule('a', '@yearly')], 1, 2)]) {
    index.swap(runs)
    assert.equal(index.length, 0)
    assert.equal(index.nextDue(0), null)
    assert.deepEqual(queried(index, 0, 1e15), [])
  }
})

test('a swap is whole: who reads the old runs reads them to the end, the next query sees the new ones', () => {
  const index = new RunIndex<Planned>()
  const old = buildRuns([schedule('old', '* * * * *')], 0, 3 * MINUTE_MS)
  const fresh = buildRuns([schedule('new', '*/2 * * * *')], 0, 3 * MINUTE_MS)
  index.swap(old)
  const seen: string[] = []
  index.query(0, 3 * MINUTE_MS, ({ id }) => {
    if (seen.length === 0) assert.equal(index.swap(fresh), old)
    seen.push(id)
  })
  assert.deepEqual(seen, ['old', 'old', 'old'])
  assert.deepEqual(queried(index, 0, 3 * MINUTE_MS), [
    [0, 'new'],
    [120_000, 'new'],
  ])
  assert.equal(old.length, 3)
})

test('building in slices gives the same runs, pauses often, and reads the schedules as they were at its start', () => {
  const schedules: Planned[] = []
  for (let i = 0; i < 20_000; i++) schedules.push(schedule(`s${(i * 7_919) % 20_000}`, '* * * * *'))
  const endMs = START_MS + 10 * MINUTE_MS
  const whole = buildRuns(schedules, START_MS, endMs)
  const builder = new RunsBuilder(schedules, START_MS, endMs)
  schedules.length = 1
  let steps = 1
  let readings = 0
  const clock = { steadyMs: () => readings++ } // every reading is a millisecond later: each step does one piece
  let runs = builder.step(1, clock)
  for (; runs === null; runs = builder.step(1, clock)) steps++
  assert.ok(steps > 100, `20,000 schedules and 200,000 runs take ${steps} pieces`)
  assert.equal(runs.length, 200_000)
  assert.equal(builder.step(1, clock), runs, 'asking again gives the same')
  for (let i = 0; i < runs.length; i++)
    if (runs.dueAt(i) !== whole.dueAt(i) || runs.scheduleAt(i) !== whole.scheduleAt(i)) assert.fail(`run ${i} differs`)
})

test('more runs than there is room for shorten the window, and the runs say how far they reach', () => {
  const schedules = [schedule('a', '* * * * * *'), schedule('b', '*/2 * * * * *')]
  const runs = buildRuns(schedules, START_MS, START_MS + 10 * MINUTE_MS, 100)
  assert.ok(runs.length > 0 && runs.length <= 100)
  assert.ok(runs.endMs > START_MS && runs.endMs < START_MS + 10 * MINUTE_MS)
  assert.deepEqual(listed(runs), sortedRuns(schedules, START_MS, runs.endMs))
  assert.equal(buildRuns(schedules, START_MS, START_MS + 10 * MINUTE_MS, 2).endMs, START_MS + 1_000)
})

test('a new zone is a pause of its own, because learning it costs more than a piece of work', () => {
  const zones = Intl.supportedValuesOf('timeZone').slice(0, 50)
  const schedules = zones.map((timeZone, i) => schedule(`s${i}`, '0 12 * * *', timeZone))
  const builder = new RunsBuilder(schedules, START_MS, START_MS + MINUTE_MS)
  let readings = 0
  let steps = 1
  while (builder.step(1, { steadyMs: () => readings++ }) === null) steps++
  assert.ok(steps > 50)
})

test('an index of a million runs is read by position without being copied', () => {
  const dueMs = Float64Array.from({ length: 1_000_000 }, (_, i) => i * 10)
  const runs = new Runs(0, 10_000_000, dueMs, new Uint32Array(1_000_000), ['only'])
  const index = new RunIndex<string>()
  index.swap(runs)
  assert.equal(index.nextDue(4_999_990), 5_000_000)
  assert.equal(
    index.query(5_000_000, 5_000_100, () => {}),
    10,
  )
  assert.equal(runs.firstFrom(1e9), 1_000_000)
})
