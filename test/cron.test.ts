// Cron expressions and when they are due, compared with two judges: cron-parser where the policies agree, and a walk
// that asks Intl for every single minute (or second) and knows nothing of how the engine goes about it.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CronExpressionParser } from 'cron-parser'
import fc from 'fast-check'
import { EngineError } from '../engine/base/errors.ts'
import { type CronPlan, parseCron } from '../engine/schedule/cron.ts'
import { enumerate, nextAfter, Occurrences, occurrencesBetween } from '../engine/schedule/occurrences.ts'
import { generateRunId, parseRunId } from '../engine/schedule/run-id.ts'
import { findZone, Zone } from '../engine/schedule/zone.ts'

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS
const DAY_MS = 24 * HOUR_MS

// Run ids

test('[CS-043] the id of a run is its schedule and the unix second, the same every time', () => {
  assert.equal(generateRunId('job123', 1_704_067_200_000), 'job123:1704067200')
  assert.equal(generateRunId('job123', 1_704_067_200_000), 'job123:1704067200')
})

test('[CS-044] two schedules at the same time have different run ids', () => {
  assert.equal(generateRunId('job1', 1_704_067_200_000), 'job1:1704067200')
  assert.equal(generateRunId('job2', 1_704_067_200_000), 'job2:1704067200')
})

test('[CS-045] one schedule at two times has different run ids', () => {
  assert.equal(generateRunId('job1', 1_704_067_200_000), 'job1:1704067200')
  assert.equal(generateRunId('job1', 1_704_067_260_000), 'job1:1704067260')
})

test('a run id is taken apart at its last colon, and different runs never share an id', () => {
  const second = fc.integer({ min: 0, max: 253_402_300_799 })
  fc.assert(
    fc.property(
      fc.string({ minLength: 1 }),
      second,
      fc.string({ minLength: 1 }),
      second,
      (id, at, otherId, otherAt) => {
        assert.deepEqual(parseRunId(generateRunId(id, at * 1000)), { scheduleId: id, scheduledAtMs: at * 1000 })
        const same = id === otherId && at === otherAt
        assert.equal(generateRunId(id, at * 1000) === generateRunId(otherId, otherAt * 1000), same)
      },
    ),
  )
  assert.deepEqual(parseRunId('a:b:7'), { scheduleId: 'a:b', scheduledAtMs: 7_000 })
  for (const broken of ['', 'a', ':7', 'a:', 'a:-7', 'a:07', 'a:7.5', 'a:1e3', 'a: 7', 'a:1234567890123'])
    assert.equal(parseRunId(broken), null, broken)
})

// The dialect

const REFUSED: readonly [expression: string, field: string, allowed: RegExp][] = [
  ['60 * * * *', 'minute', /^0-59$/],
  ['-1 * * * *', 'minute', /^0-59$/],
  ['* 24 * * *', 'hour', /^0-23$/],
  ['* * 0 * *', 'dayOfMonth', /^1-31$/],
  ['* * 32 * *', 'dayOfMonth', /^1-31$/],
  ['* * * 0 *', 'month', /^1-12$/],
  ['* * * 13 *', 'month', /^1-12$/],
  ['* * * foo *', 'month', /^1-12$/],
  ['* * * * 8', 'dayOfWeek', /^0-7$/],
  ['* * * * jan', 'dayOfWeek', /^0-7$/],
  ['60 * * * * *', 'second', /^0-59$/],
  ['99999999999999999999 * * * *', 'minute', /^0-59$/],
  ['1.5 * * * *', 'minute', /^0-59$/],
  ['0x10 * * * *', 'minute', /^0-59$/],
  ['mon * * * *', 'minute', /^0-59$/],
  ['? * * * *', 'minute', /^0-59$/],
  ['H * * * *', 'minute', /^0-59$/],
  ['*/0 * * * *', 'minute', /1 to 60/],
  ['*/61 * * * *', 'minute', /1 to 60/],
  ['* */25 * * *', 'hour', /1 to 24/],
  ['*/ * * * *', 'minute', /^0-59$/],
  ['*/2/2 * * * *', 'minute', /^0-59$/],
  ['5*/2 * * * *', 'minute', /^0-59$/],
  ['*-5 * * * *', 'minute', /^0-59$/],
  ['5- * * * *', 'minute', /^0-59$/],
  ['1-2-3 * * * *', 'minute', /^0-59$/],
  ['30-10 * * * *', 'minute', /^0-59$/],
  ['0 0 * * fri-mon', 'dayOfWeek', /^0-7$/],
  ['1,,2 * * * *', 'minute', /^0-59$/],
  [', * * * *', 'minute', /^0-59$/],
  ['1, * * * *', 'minute', /^0-59$/],
  [`${'1,'.repeat(60)}1 * * * *`, 'minute', /at most 60 items/],
  ['0 0 31 2 *', 'dayOfMonth', /exists/],
  ['0 0 30,31 feb *', 'dayOfMonth', /exists/],
  ['0 0 31 4,6,9,11 *', 'dayOfMonth', /exists/],
  ['0 0 15W * *', 'dayOfMonth', /^1-31$/],
  ['0 0 LW * *', 'dayOfMonth', /^1-31$/],
  ['0 0 L-3 * *', 'dayOfMonth', /^1-31$/],
  ['0 0 * * L', 'dayOfWeek', /^0-7$/],
  ['0 0 * * 5#6', 'dayOfWeek', /^0-7$/],
  ['0 0 * * 5#0', 'dayOfWeek', /^0-7$/],
  ['0 0 * * 1#1,3#1', 'dayOfWeek', /^0-7$/],
  ['', 'expression', /5 fields/],
  ['   ', 'expression', /5 fields/],
  ['* * *', 'expression', /5 fields/],
  ['* * * * * * *', 'expression', /5 fields/],
  ['*\n* * * *', 'expression', /5 fields/],
  ['@reboot', 'expression', /@hourly/],
  ['@every 5m', 'expression', /@hourly/],
  ['*'.repeat(10_000), 'expression', /600 characters/],
  ['* '.repeat(10_000), 'expression', /600 characters/],
  [`${'0-59,'.repeat(100)}1 * * * *`, 'expression', /5 fields|items|600/],
]

test('what is impossible, malformed or abusive is refused with the field and what it allows', () => {
  for (const [expression, field, allowed] of REFUSED) {
    assert.throws(
      () => parseCron(expression),
      (error) => {
        assert.ok(error instanceof EngineError, expression)
        assert.equal(error.code, 'VALIDATION')
        if (expression.length < 500) assert.equal(error.details.field, field, error.message)
        assert.match(String(error.details.allowed), allowed, error.message)
        assert.ok(error.message.length < 500, 'the message does not repeat what is huge')
        return true
      },
      expression.slice(0, 80),
    )
  }
  for (const odd of [undefined, null, 5, ['*'], {}])
    assert.throws(() => parseCron(odd as string), { code: 'VALIDATION' }, String(odd))
})

test('a refusal costs nothing: cron-parser is not asked, except for days that never come', (t) => {
  const parse = t.mock.method(CronExpressionParser, 'parse')
  for (const [expression, , allowed] of REFUSED) {
    if (allowed.source === 'exists') continue
    assert.throws(() => parseCron(expression), { code: 'VALIDATION' })
  }
  assert.equal(parse.mock.callCount(), 0)
})

test('any text is either refused as VALIDATION or is a plan that is due some day', () => {
  const piece = fc.constantFrom(
    '*',
    '?',
    '/',
    '-',
    ',',
    '#',
    'L',
    'W',
    'H',
    '0',
    '1',
    '5',
    '7',
    '12',
    '31',
    '59',
    'mon',
  )
  const field = fc.array(piece, { minLength: 1, maxLength: 4 }).map((pieces) => pieces.join(''))
  const text = fc.oneof(
    fc.string(),
    fc.array(field, { minLength: 4, maxLength: 7 }).map((fields) => fields.join(' ')),
  )
  fc.assert(
    fc.property(text, (expression) => {
      let plan: CronPlan
      try {
        plan = parseCron(expression)
      } catch (error) {
        assert.ok(error instanceof EngineError && error.code === 'VALIDATION', String(error))
        assert.doesNotMatch(String(error.cause), /alias|characters|range|repeat/i, 'cron-parser is the last to judge')
        return
      }
      assert.notEqual(nextAfter(plan, 0), null, expression)
    }),
    { numRuns: 3_000 },
  )
})

test('time zones are names that Intl knows, in any case of letters; others are refused', () => {
  assert.equal(parseCron('0 9 * * *', 'europe/berlin').timeZone, 'Europe/Berlin')
  assert.equal(parseCron('0 9 * * *').timeZone, 'UTC')
  assert.equal(parseCron('0 9 * * *', 'Etc/UTC').zone, parseCron('1 1 * * *', 'UTC').zone)
  for (const name of ['', 'Mars/Olympus', '+01:00', 'UTC+1', 'Europe/Berlin ', '../etc', 'x'.repeat(10_000), 5, null])
    assert.throws(
      () => parseCron('0 9 * * *', name as string),
      (error) => error instanceof EngineError && error.code === 'VALIDATION' && error.details.field === 'timeZone',
    )
})

test('a plan is immutable, and equal expressions share one', () => {
  const plan = parseCron('0 9 * * *', 'Europe/Berlin')
  assert.ok(Object.isFrozen(plan))
  assert.equal(parseCron('0 9 * * *', 'Europe/Berlin'), plan)
  assert.notEqual(parseCron('0 9 * * *', 'Europe/Paris'), plan)
})

/** The first `count` times from a moment, as UTC text. */
function firstOf(expression: string, from: string, count = 4, timeZone = 'UTC'): string[] {
  const plan = parseCron(expression, timeZone)
  const times: string[] = []
  for (let atMs = Date.parse(from) - 1; times.length < count; ) {
    const next = nextAfter(plan, atMs)
    assert.ok(next !== null)
    times.push(new Date(next).toISOString().slice(0, 16))
    atMs = next
  }
  return times
}

test('the forms of the dialect mean what they say', () => {
  const from = '2026-01-01T00:00Z' // a Thursday
  const days = (expression: string, count?: number) =>
    firstOf(`0 0 ${expression}`, from, count).map((text) => text.slice(5, 10))
  assert.deepEqual(days('* * 0'), days('* * 7'))
  assert.deepEqual(days('* * sun'), ['01-04', '01-11', '01-18', '01-25'])
  assert.deepEqual(days('* * FRI-SUN'), ['01-02', '01-03', '01-04', '01-09'])
  assert.deepEqual(days('* * 5-7'), days('* * fri,sat,sun'))
  assert.deepEqual(days('* * 0-7', 3), ['01-01', '01-02', '01-03'])
  assert.deepEqual(days('* * mon-sun', 3), ['01-01', '01-02', '01-03'])
  assert.deepEqual(days('1 feb,APR *'), ['02-01', '04-01', '02-01', '04-01'])
  assert.deepEqual(days('10-20/5 1 *', 3), ['01-10', '01-15', '01-20'])
  assert.deepEqual(days('20/5 1 *', 3), ['01-20', '01-25', '01-30'])
  assert.deepEqual(days('5,1-6,5 1 *', 6), ['01-01', '01-02', '01-03', '01-04', '01-05', '01-06'])
  assert.deepEqual(days('L * *'), ['01-31', '02-28', '03-31', '04-30'])
  assert.deepEqual(days('1,L 2 *'), ['02-01', '02-28', '02-01', '02-28'])
  assert.deepEqual(days('* * 5L'), ['01-30', '02-27', '03-27', '04-24'])
  assert.deepEqual(days('* * fri#2'), ['01-09', '02-13', '03-13', '04-10'])
  assert.deepEqual(days('* * 5#5'), ['01-30', '05-29', '07-31', '10-30'])
  assert.deepEqual(firstOf('0 0 29 2 *', from, 2), ['2028-02-29T00:00', '2032-02-29T00:00'])
  assert.deepEqual(firstOf('0 0 29 2 *', '2096-03-01T00:00Z', 1), ['2104-02-29T00:00'])
  assert.deepEqual(firstOf('0 0 * 2 0#5', from, 2), ['2032-02-29T00:00', '2060-02-29T00:00'])
  assert.deepEqual(firstOf('0 0 * 2 0#5', '2072-03-01T00:00Z', 1), ['2088-02-29T00:00'])
  assert.deepEqual(firstOf('  @hourly ', from, 2), ['2026-01-01T00:00', '2026-01-01T01:00'])
  assert.deepEqual(firstOf('@weekly', from, 2), ['2026-01-04T00:00', '2026-01-11T00:00'])
  assert.deepEqual(occurrencesBetween(parseCron('*/20 * * * * *'), 0, 60_000), [0, 20_000, 40_000])
})

test('when both day fields restrict, either one is enough; a bare * does not restrict', () => {
  const days = (expression: string) => firstOf(`0 0 ${expression}`, '2026-02-01T00:00Z', 6).map((t) => t.slice(8, 10))
  assert.deepEqual(days('13 * 5'), ['06', '13', '20', '27', '06', '13'])
  assert.deepEqual(days('1,2 * 1'), ['01', '02', '09', '16', '23', '01'])
  assert.deepEqual(days('* * 1'), ['02', '09', '16', '23', '02', '09'])
  assert.deepEqual(days('*/1 * 1'), days('? * 1'))
  assert.deepEqual(days('13 * ?'), days('13 * *'))
  assert.deepEqual(days('31 2 1').slice(0, 4), ['02', '09', '16', '23'], 'the 31st never comes, Mondays do')
})

test('times are asked for strictly after a moment, in windows that include their start and not their end', () => {
  const plan = parseCron('*/5 * * * *')
  assert.equal(nextAfter(plan, 0), 300_000)
  assert.equal(nextAfter(plan, -1), 0)
  assert.equal(nextAfter(plan, Number.NEGATIVE_INFINITY), 0)
  assert.equal(nextAfter(plan, 299_999.5), 300_000)
  assert.equal(nextAfter(plan, 8.64e15), null)
  assert.equal(nextAfter(plan, Number.POSITIVE_INFINITY), null)
  assert.throws(() => nextAfter(plan, Number.NaN), { code: 'INVARIANT' })
  assert.deepEqual(occurrencesBetween(plan, 300_000, 900_000), [300_000, 600_000])
  assert.deepEqual(occurrencesBetween(plan, 300_001, 900_001), [600_000, 900_000])
  assert.deepEqual(occurrencesBetween(plan, 300_000, 300_000), [])
  assert.deepEqual(occurrencesBetween(plan, 300_000, 0), [])
  assert.deepEqual(occurrencesBetween(plan, 0, DAY_MS, 2), [0, 300_000])
  assert.equal(occurrencesBetween(parseCron('* * * * * *'), 0, Number.POSITIVE_INFINITY, 5).length, 5)
})

test('an occurrence at the very end of a window belongs to the next one', () => {
  const noon = parseCron('30 0 12 * * *')
  const at = (day: number) => Date.UTC(2026, 0, day, 12, 0, 30)
  assert.deepEqual(occurrencesBetween(noon, Date.UTC(2026, 0, 1), Date.UTC(2026, 0, 4)), [at(1), at(2), at(3)])
  assert.deepEqual(occurrencesBetween(noon, at(1), at(2)), [at(1)])
  assert.deepEqual(occurrencesBetween(noon, at(1) + 1, at(2) + 1), [at(2)])
})

// Clock changes, case by case. Times are UTC.

function between(expression: string, timeZone: string, from: string, to: string): string[] {
  return occurrencesBetween(parseCron(expression, timeZone), Date.parse(from), Date.parse(to)).map((ms) =>
    new Date(ms).toISOString().slice(5, 16),
  )
}

test('Europe/Berlin: a skipped time fires once right after the gap, a repeated one the first time only', () => {
  const spring = (expression: string) => between(expression, 'Europe/Berlin', '2026-03-29T00:00Z', '2026-03-29T03:00Z')
  assert.deepEqual(spring('30 2 * * *'), ['03-29T01:00'])
  assert.deepEqual(spring('*/10 2 * * *'), ['03-29T01:00'], 'six skipped ones fire once')
  assert.deepEqual(spring('0 2,3 * * *'), ['03-29T01:00'], 'together with what is due then')
  assert.deepEqual(spring('0,30 1-3 * * *'), ['03-29T00:00', '03-29T00:30', '03-29T01:00', '03-29T01:30'])
  const autumn = (expression: string) => between(expression, 'Europe/Berlin', '2026-10-24T23:00Z', '2026-10-25T03:00Z')
  assert.deepEqual(autumn('30 2 * * *'), ['10-25T00:30'])
  assert.deepEqual(autumn('*/30 2 * * *'), ['10-25T00:00', '10-25T00:30'])
  assert.deepEqual(autumn('0 3 * * *'), ['10-25T02:00'])
})

test('Europe/Berlin: an expression for all hours follows the clock, five minutes stay five minutes', () => {
  const gaps = (expression: string, from: string, to: string) => {
    const times = occurrencesBetween(parseCron(expression, 'Europe/Berlin'), Date.parse(from), Date.parse(to))
    return new Set(times.slice(1).map((ms, i) => (ms - times[i]!) / MINUTE_MS))
  }
  for (const [from, to] of [
    ['2026-03-28T12:00Z', '2026-03-29T12:00Z'],
    ['2026-10-24T12:00Z', '2026-10-25T12:00Z'],
  ] as const) {
    assert.deepEqual(gaps('*/5 * * * *', from, to), new Set([5]))
    assert.deepEqual(gaps('* * * * *', from, to), new Set([1]))
    assert.deepEqual(gaps('17 * * * *', from, to), new Set([60]))
    assert.deepEqual(gaps('@hourly', from, to), new Set([60]))
    assert.deepEqual(gaps('0 0-23 * * *', from, to), new Set([60]), 'the set of hours counts, not how it is written')
  }
})

test('America/New_York: the same rules at its own dates', () => {
  const at = (expression: string, from: string, to: string) => between(expression, 'America/New_York', from, to)
  assert.deepEqual(at('30 2 * * *', '2026-03-08T05:00Z', '2026-03-08T12:00Z'), ['03-08T07:00'])
  assert.deepEqual(at('30 1 * * *', '2026-11-01T04:00Z', '2026-11-01T12:00Z'), ['11-01T05:30'])
  assert.deepEqual(at('30 * * * *', '2026-11-01T05:00Z', '2026-11-01T08:00Z'), [
    '11-01T05:30',
    '11-01T06:30',
    '11-01T07:30',
  ])
})

test('Australia/Lord_Howe: the clock shifts by 30 minutes', () => {
  const at = (expression: string, from: string, to: string) => between(expression, 'Australia/Lord_Howe', from, to)
  // 2026-10-04 02:00 becomes 02:30 (+10:30 to +11); 2026-04-05 02:00 becomes 01:30.
  assert.deepEqual(at('15 2 * * *', '2026-10-03T14:00Z', '2026-10-04T02:00Z'), ['10-03T15:30'])
  assert.deepEqual(at('45 2 * * *', '2026-10-03T14:00Z', '2026-10-04T02:00Z'), ['10-03T15:45'])
  assert.deepEqual(at('45 1 * * *', '2026-04-04T14:00Z', '2026-04-05T02:00Z'), ['04-04T14:45'])
  assert.deepEqual(at('15 1 * * *', '2026-04-04T14:00Z', '2026-04-05T02:00Z'), ['04-04T14:15'])
  assert.deepEqual(at('45 * * * *', '2026-04-04T14:00Z', '2026-04-04T17:00Z'), [
    '04-04T14:45',
    '04-04T15:15',
    '04-04T16:15',
  ])
})

test('America/Santiago: the shift is at midnight and moves the date', () => {
  const at = (expression: string, from: string, to: string) => between(expression, 'America/Santiago', from, to)
  // 2026-09-06 00:00 becomes 01:00; 2026-04-05 00:00 becomes 23:00 of the 4th.
  assert.deepEqual(at('0 0 * * *', '2026-09-05T12:00Z', '2026-09-07T12:00Z'), ['09-06T04:00', '09-07T03:00'])
  assert.deepEqual(at('30 0 * * 0', '2026-09-05T12:00Z', '2026-09-07T12:00Z'), ['09-06T04:00'])
  assert.deepEqual(at('30 23 * * *', '2026-04-04T12:00Z', '2026-04-05T12:00Z'), ['04-05T02:30'])
  assert.deepEqual(at('0 0 * * *', '2026-04-04T12:00Z', '2026-04-05T12:00Z'), ['04-05T04:00'])
  assert.deepEqual(at('30 * * * 6', '2026-04-05T01:00Z', '2026-04-05T12:00Z'), [
    '04-05T01:30',
    '04-05T02:30',
    '04-05T03:30',
  ])
})

test('America/Santiago: the next time is in the repeated hour even when the one after it is a year away', () => {
  const plan = parseCron('30 * 4 4 *', 'America/Santiago')
  const first = Date.parse('2026-04-05T02:30Z')
  assert.equal(nextAfter(plan, first - 1), first)
  assert.equal(nextAfter(plan, first), first + HOUR_MS)
  assert.equal(nextAfter(plan, first + HOUR_MS), Date.parse('2027-04-04T04:30Z'))
})

test('Pacific/Apia: a whole day was skipped; its times fire once when the next day begins', () => {
  const at = (expression: string) => between(expression, 'Pacific/Apia', '2011-12-29T10:00Z', '2011-12-31T10:00Z')
  // 2011-12-29 24:00 at -10 became 2011-12-31 00:00 at +14: 2011-12-30T10:00Z.
  assert.deepEqual(at('0 9 * * *'), ['12-29T19:00', '12-30T10:00', '12-30T19:00'])
  assert.deepEqual(at('0 9 30 12 *'), ['12-30T10:00'])
  assert.deepEqual(at('0,30 9-17 30 12 *'), ['12-30T10:00'])
  assert.deepEqual(at('0 0 * * *'), ['12-29T10:00', '12-30T10:00'])
  assert.deepEqual(at('0 * 30 12 *'), [], 'hourly on a day that never was')
  assert.equal(at('0 * * * *').length, 48)
})

// Properties

interface Expression {
  readonly text: string
  readonly seconds: ReadonlySet<number>
  readonly minutes: ReadonlySet<number>
  readonly hours: ReadonlySet<number>
  /** LAST stands for the last day. */
  readonly days: ReadonlySet<number>
  readonly months: ReadonlySet<number>
  /** w + LAST stands for the last weekday w, w + 10 * n for the n-th. */
  readonly weekdays: ReadonlySet<number>
  readonly either: boolean
}

const LAST = 100

interface FieldCase {
  readonly text: string
  readonly values: ReadonlySet<number>
}

function series(from: number, to: number, step: number): number[] {
  const values: number[] = []
  for (let value = from; value <= to; value += step) values.push(value)
  return values
}

/** Text and values side by side, so that the judge needs no parser. */
function fieldCase(min: number, max: number, stars = 1): fc.Arbitrary<FieldCase> {
  const value = fc.integer({ min, max })
  const range = fc.tuple(value, value).map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const)
  const step = fc.integer({ min: 1, max: Math.min(20, max - min) })
  const item = fc.oneof(
    value.map((v): FieldCase => ({ text: `${v}`, values: new Set([v]) })),
    range.map(([a, b]): FieldCase => ({ text: `${a}-${b}`, values: new Set(series(a, b, 1)) })),
    fc
      .tuple(range, step)
      .map(([[a, b], n]): FieldCase => ({ text: `${a}-${b}/${n}`, values: new Set(series(a, b, n)) })),
    step.map((n): FieldCase => ({ text: `*/${n}`, values: new Set(series(min, max, n)) })),
  )
  const list = fc.array(item, { minLength: 1, maxLength: 3 }).map(
    (items): FieldCase => ({
      text: items.map(({ text }) => text).join(','),
      values: new Set(items.flatMap(({ values }) => [...values])),
    }),
  )
  return fc.oneof(
    { weight: stars, arbitrary: fc.constant({ text: '*', values: new Set(series(min, max, 1)) }) },
    { weight: 2, arbitrary: list },
  )
}

const dayCase = fc.oneof(
  { weight: 6, arbitrary: fieldCase(1, 31, 4) },
  {
    weight: 1,
    arbitrary: fc.constantFrom({ text: 'L', values: new Set([LAST]) }, { text: '9,L', values: new Set([9, LAST]) }),
  },
)

const weekdayCase = fc.oneof(
  { weight: 6, arbitrary: fieldCase(0, 7, 4) },
  { weight: 1, arbitrary: fc.nat(7).map((w): FieldCase => ({ text: `${w}L`, values: new Set([(w % 7) + LAST]) })) },
  {
    weight: 1,
    arbitrary: fc
      .tuple(fc.nat(7), fc.integer({ min: 1, max: 5 }))
      .map(([w, n]): FieldCase => ({ text: `${w}#${n}`, values: new Set([(w % 7) + 10 * n]) })),
  },
)

function isBare(text: string): boolean {
  return text === '*' || text === '*/1'
}

function expressions(withSeconds: boolean): fc.Arbitrary<Expression> {
  return fc
    .record({
      second: withSeconds ? fieldCase(0, 59) : fc.constant({ text: '0', values: new Set([0]) }),
      minute: fieldCase(0, 59),
      hour: fieldCase(0, 23, 2),
      day: dayCase,
      month: fieldCase(1, 12, 8),
      weekday: weekdayCase,
    })
    .map(({ second, minute, hour, day, month, weekday }) => ({
      text: [...(withSeconds ? [second] : []), minute, hour, day, month, weekday].map(({ text }) => text).join(' '),
      seconds: second.values,
      minutes: minute.values,
      hours: hour.values,
      days: day.values,
      months: month.values,
      weekdays: new Set([...weekday.values].map((value) => (value === 7 ? 0 : value))),
      either: !isBare(day.text) && !isBare(weekday.text),
    }))
    .filter(({ text, days, months }) => {
      if (!/ \*(\/1)?$/.test(text)) return true
      const lengths = [0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
      return [...months].some((month) => [...days].some((day) => day === LAST || day <= lengths[month]!))
    })
}

/** `local` is the local clock read as if it were UTC. */
function matches(cron: Expression, localMs: number): boolean {
  const local = new Date(localMs)
  if (!cron.seconds.has(local.getUTCSeconds())) return false
  if (!cron.minutes.has(local.getUTCMinutes()) || !cron.hours.has(local.getUTCHours())) return false
  if (!cron.months.has(local.getUTCMonth() + 1)) return false
  const date = local.getUTCDate()
  const weekdayNumber = local.getUTCDay()
  const length = new Date(Date.UTC(local.getUTCFullYear(), local.getUTCMonth() + 1, 0)).getUTCDate()
  const day = cron.days.has(date) || (date === length && cron.days.has(LAST))
  const weekday =
    cron.weekdays.has(weekdayNumber) ||
    (date + 7 > length && cron.weekdays.has(weekdayNumber + LAST)) ||
    cron.weekdays.has(weekdayNumber + 10 * Math.ceil(date / 7))
  return cron.either ? day || weekday : day && weekday
}

const formats = new Map<string, Intl.DateTimeFormat>()

function localOf(timeZone: string, atMs: number): number {
  let format = formats.get(timeZone)
  if (format === undefined) {
    const numeric = 'numeric'
    const fields = {
      year: numeric,
      month: numeric,
      day: numeric,
      hour: numeric,
      minute: numeric,
      second: numeric,
    } as const
    format = new Intl.DateTimeFormat('en-GB', { timeZone, hourCycle: 'h23', ...fields })
    formats.set(timeZone, format)
  }
  const parts = Object.fromEntries(format.formatToParts(atMs).map(({ type, value }) => [type, Number(value)]))
  return Date.UTC(parts.year!, parts.month! - 1, parts.day!, parts.hour!, parts.minute!, parts.second!)
}

/** Every step of the clock between two moments: [UTC, local]. */
function walk(timeZone: string, fromMs: number, toMs: number, stepMs: number): [number, number][] {
  const steps: [number, number][] = []
  for (let atMs = fromMs; atMs < toMs; atMs += stepMs) steps.push([atMs, localOf(timeZone, atMs)])
  return steps
}

/** The policy, told without any cleverness: look at the clock again and again, remember how far it ever came. */
function judge(cron: Expression, steps: readonly [number, number][], stepMs: number): number[] {
  const due: number[] = []
  let reachedMs = steps[0]![1]
  for (const [atMs, localMs] of steps) {
    if (cron.hours.size === 24) {
      if (matches(cron, localMs)) due.push(atMs)
      continue
    }
    let fires = false
    for (; reachedMs <= localMs; reachedMs += stepMs) fires ||= matches(cron, reachedMs)
    if (fires) due.push(atMs)
  }
  return due
}

/** Moments at which clocks changed, of many kinds. */
const CHANGES: readonly [timeZone: string, at: string][] = [
  ['Europe/Berlin', '2026-03-29T01:00Z'],
  ['Europe/Berlin', '2026-10-25T01:00Z'],
  ['America/New_York', '2026-03-08T07:00Z'],
  ['America/New_York', '2026-11-01T06:00Z'],
  ['Australia/Lord_Howe', '2026-04-04T15:00Z'], // 30 minutes
  ['Australia/Lord_Howe', '2026-10-03T15:30Z'],
  ['America/Santiago', '2026-04-05T03:00Z'], // at midnight
  ['America/Santiago', '2026-09-06T04:00Z'],
  ['Pacific/Apia', '2011-12-30T10:00Z'], // a day
  ['Antarctica/Troll', '2026-03-29T01:00Z'], // two hours
  ['Antarctica/Troll', '2026-10-25T01:00Z'],
  ['America/Caracas', '2016-05-01T07:00Z'], // for good, by half an hour
  ['Asia/Pyongyang', '2018-05-04T15:00Z'],
  ['America/St_Johns', '2006-10-29T02:31Z'], // at one minute past midnight
  ['Africa/Cairo', '1988-10-01T00:00Z'], // just where one block of the cache ends and the next begins
  ['Africa/Windhoek', '2004-04-04T00:00Z'],
  ['Asia/Kolkata', '2026-06-01T00:00Z'], // nothing happens
]

test('in all zones the times equal a walk that asks Intl for every minute around the change', () => {
  const walks = CHANGES.map(([timeZone, at]) => {
    const atMs = Date.parse(at)
    return { timeZone, atMs, steps: walk(timeZone, atMs - 3 * DAY_MS, atMs + 2 * DAY_MS, MINUTE_MS) }
  })
  fc.assert(
    fc.property(
      expressions(false),
      fc.constantFrom(...walks),
      fc.integer({ min: -1.8 * DAY_MS, max: 1.8 * DAY_MS }),
      fc.integer({ min: 0, max: 1.8 * DAY_MS }),
      (cron, { timeZone, atMs, steps }, startsMs, lastsMs) => {
        const startMs = atMs + startsMs
        const endMs = Math.min(startMs + lastsMs, atMs + 2 * DAY_MS)
        const expected = judge(cron, steps, MINUTE_MS).filter((ms) => ms >= startMs && ms < endMs)
        assert.deepEqual(occurrencesBetween(parseCron(cron.text, timeZone), startMs, endMs), expected)
      },
    ),
    { numRuns: 1_500 },
  )
})

test('with seconds the times equal a walk that asks Intl for every second around the change', () => {
  // Liberia left an offset of 44 minutes and 30 seconds in 1972.
  const changes = [...CHANGES.slice(0, 6), ['Africa/Monrovia', '1972-01-07T00:44:30Z'] as const]
  const walks = changes.map(([timeZone, at]) => {
    const atMs = Date.parse(at)
    return { timeZone, atMs, steps: walk(timeZone, atMs - 1.5 * HOUR_MS, atMs + 1.5 * HOUR_MS, 1_000) }
  })
  fc.assert(
    fc.property(expressions(true), fc.constantFrom(...walks), (cron, { timeZone, atMs, steps }) => {
      const expected = judge(cron, steps, 1_000)
      const plan = parseCron(cron.text, timeZone)
      const found = occurrencesBetween(plan, atMs - 1.5 * HOUR_MS, atMs + 1.5 * HOUR_MS)
      assert.deepEqual(found, expected)
    }),
    { numRuns: 300 },
  )
})

test('where no clock changes the times equal those of cron-parser', () => {
  // Not compared: skipped times (cron-parser moves them on by the length of the gap, each for itself), clocks that shift
  // by half an hour (it leaves occurrences out or finds none), and a bare */1 beside a restricted day field, which it
  // takes as a restriction.
  const quiet = fc.oneof(
    fc.tuple(fc.constant('UTC'), fc.integer({ min: 0, max: 30 * 365 * DAY_MS })),
    fc.tuple(fc.constant('Asia/Kathmandu'), fc.integer({ min: 20 * 365 * DAY_MS, max: 50 * 365 * DAY_MS })),
    fc.tuple(fc.constant('Europe/Berlin'), fc.integer({ min: Date.UTC(2026, 3, 1), max: Date.UTC(2026, 9, 1) })),
  )
  fc.assert(
    fc.property(
      expressions(true).filter(({ text }) => !/\*\/1( |$)/.test(text)),
      quiet,
      (cron, [timeZone, fromMs]) => {
        const plan = parseCron(cron.text, timeZone)
        // It refuses lists that name a value twice, so it is given the values.
        const list = (values: ReadonlySet<number>) => [...values].sort((a, b) => a - b).join(',')
        const written = cron.text.split(' ')
        const text = [cron.seconds, cron.minutes, cron.hours, cron.days, cron.months, cron.weekdays]
          .map((values, i) => (/^\*$|[L#]/.test(written[i]!) ? written[i]! : list(values)))
          .join(' ')
        const theirs = CronExpressionParser.parse(text, { tz: timeZone, currentDate: fromMs })
        let atMs = fromMs
        for (let i = 0; i < 5; i++) {
          const next = nextAfter(plan, atMs)
          if (timeZone === 'Europe/Berlin' && next !== null && next > Date.UTC(2026, 9, 20)) return
          assert.equal(next, theirs.next().getTime(), `${cron.text} after ${new Date(atMs).toISOString()}`)
          atMs = next!
        }
      },
    ),
    { numRuns: 500 },
  )
})

test('where an hour is repeated the times equal those of cron-parser too', () => {
  for (const [timeZone, at] of [CHANGES[1]!, CHANGES[3]!]) {
    const startMs = Date.parse(at) - 4 * HOUR_MS
    for (const expression of ['*/5 * * * *', '17 * * * *', '30 1 * * *', '30 2 * * *', '*/30 1,2 * * *', '0 3 * * 0']) {
      const theirs = CronExpressionParser.parse(expression, { tz: timeZone, currentDate: startMs - 1 })
      const ours = occurrencesBetween(parseCron(expression, timeZone), startMs, startMs + 8 * HOUR_MS)
      assert.ok(ours.length > 0)
      assert.deepEqual(
        ours.map(() => theirs.next().getTime()),
        ours,
        `${expression} in ${timeZone}`,
      )
    }
  }
})

/** A plan in some zone and a moment near one of its changes. */
const nearChange = fc
  .tuple(
    fc.boolean().chain(expressions),
    fc.constantFrom(...CHANGES),
    fc.integer({ min: -2 * DAY_MS, max: 2 * DAY_MS }),
  )
  .map(([cron, [timeZone, at], away]) => ({ plan: parseCron(cron.text, timeZone), atMs: Date.parse(at) + away }))

test('a window holds the same times however it is cut, and none outside it', () => {
  const part = fc.integer({ min: 0, max: 6 * HOUR_MS })
  fc.assert(
    fc.property(nearChange, part, part, ({ plan, atMs }, firstMs, secondMs) => {
      const middleMs = atMs + firstMs
      const endMs = middleMs + secondMs
      const whole = occurrencesBetween(plan, atMs, endMs)
      assert.deepEqual(
        [...occurrencesBetween(plan, atMs, middleMs), ...occurrencesBetween(plan, middleMs, endMs)],
        whole,
      )
      for (const [i, ms] of whole.entries()) {
        assert.ok(ms >= atMs && ms < endMs && ms % 1000 === 0)
        if (i > 0) assert.ok(ms > whole[i - 1]!, 'no time comes twice')
      }
    }),
    { numRuns: 1_000 },
  )
})

test('a window is half open wherever it begins and ends: at an occurrence, within its second, or beside it', () => {
  const beside = fc.constantFrom(-1_000, -999, -1, -0.5, 0, 0.5, 1, 999, 1_000)
  fc.assert(
    fc.property(nearChange, fc.nat(4), beside, beside, ({ plan, atMs }, steps, before, after) => {
      const chain = [nextAfter(plan, atMs)!]
      while (chain.length <= steps) chain.push(nextAfter(plan, chain.at(-1)!)!)
      const startMs = chain[0]! + before
      const endMs = chain.at(-1)! + after
      const first = nextAfter(plan, chain[0]! - 1_001)!
      const around = [...(first < chain[0]! ? [first] : []), ...chain, nextAfter(plan, chain.at(-1)!)!]
      const expected = around.filter((ms) => ms >= startMs && ms < endMs)
      assert.deepEqual(occurrencesBetween(plan, startMs, endMs), expected)
      if (endMs - startMs > 40 * DAY_MS) return // a window is cut into all its days
      const found = enumerate([plan], startMs, endMs)
      assert.deepEqual([...found.dueMs.subarray(0, found.length)], expected)
    }),
    { numRuns: 2_000 },
  )
})

test('going from each scheduled time to the next neither repeats nor skips one, however late it is noticed', () => {
  fc.assert(
    fc.property(nearChange, ({ plan, atMs }) => {
      const endMs = atMs + 5 * HOUR_MS
      const expected = occurrencesBetween(plan, atMs, endMs)
      const chain: number[] = []
      for (let next = nextAfter(plan, atMs - 1); next !== null && next < endMs; next = nextAfter(plan, next)) {
        chain.push(next)
        if (chain.length > expected.length) break
      }
      assert.deepEqual(chain, expected)
    }),
    { numRuns: 1_000 },
  )
})

test('between a moment and the next time there is none, and asking from anywhere between gives the same', () => {
  fc.assert(
    fc.property(nearChange, fc.double({ min: 0, max: 0.999_999, noNaN: true }), ({ plan, atMs }, share) => {
      const next = nextAfter(plan, atMs)
      assert.ok(next !== null && next > atMs)
      assert.equal(nextAfter(plan, atMs + Math.floor((next - atMs) * share)), next)
      assert.deepEqual(occurrencesBetween(plan, Math.max(atMs + 1, next - 40 * DAY_MS), next), [])
      assert.deepEqual(occurrencesBetween(plan, next, next + 1), [next])
    }),
    { numRuns: 1_000 },
  )
})

test('many plans at once have the times that each has alone', () => {
  fc.assert(
    fc.property(fc.array(nearChange, { maxLength: 20 }), fc.integer({ min: 0, max: 3 * HOUR_MS }), (cases, lastsMs) => {
      const plans = cases.map(({ plan }) => plan)
      const startMs = cases[0]?.atMs ?? 0
      const found = enumerate(plans, startMs, startMs + lastsMs, new Occurrences(1))
      const pairs = Array.from({ length: found.length }, (_, i) => [found.refs[i], found.dueMs[i]])
      const expected = plans.flatMap((plan, ref) =>
        occurrencesBetween(plan, startMs, startMs + lastsMs).map((ms) => [ref, ms]),
      )
      assert.deepEqual(pairs, expected)
    }),
    { numRuns: 200 },
  )
})

test('the spans of every zone that Intl knows give the local time that Intl gives', () => {
  const names = [...Intl.supportedValuesOf('timeZone'), 'UTC', 'Etc/GMT+12', 'Etc/GMT-14']
  fc.assert(
    fc.property(fc.constantFrom(...names), fc.integer({ min: 0, max: 2_524_608_000 }), (name, atS) => {
      const span = findZone(name).spanAt(atS)
      assert.ok(span.startS <= atS && atS < span.endS)
      assert.equal((atS + span.offsetS) * 1000, localOf(name, atS * 1000))
      assert.ok(span.reachedS - (span.startS + span.offsetS) <= 86_400 || name === 'UTC')
    }),
    { numRuns: 3_000 },
  )
})

/** A zone whose clock is set by `shiftMinutes` at `changeS`, as Intl would tell it. */
function zoneThatChanges(changeS: number, shiftMinutes: number): { zone: Zone; localMs: (atMs: number) => number } {
  const localMs = (atMs: number) => atMs + (atMs < changeS * 1000 ? 0 : shiftMinutes * MINUTE_MS)
  const format = (atMs: number) => {
    const [, year, month, day, time] = /^(\d+)-(\d+)-(\d+)T([\d:]+)/.exec(new Date(localMs(atMs)).toISOString())!
    return `${month}/${day}/${year}, ${time}`
  }
  const asked = { format, resolvedOptions: () => ({ timeZone: 'Test/Changing' }) }
  return { zone: new Zone(asked as unknown as Intl.DateTimeFormat), localMs }
}

test('a clock change at, shortly before or shortly after the edge of two blocks of a zone is a change like any other', () => {
  const edgeMs = 640 * 32 * DAY_MS // blocks are 32 days long, from 1970 on
  const change = fc.oneof(fc.constantFrom(-60, -30, -1, 0, 1, 30), fc.integer({ min: -200, max: 200 }))
  const shift = fc.oneof(fc.constantFrom(-60, 60), fc.integer({ min: -180, max: 180 }))
  const everyDay = expressions(false).map(({ text, ...cron }): Expression => {
    const all = {
      days: new Set(series(1, 31, 1)),
      months: new Set(series(1, 12, 1)),
      weekdays: new Set(series(0, 6, 1)),
    }
    return { ...cron, ...all, either: false, text: `${text.split(' ').slice(0, 2).join(' ')} * * *` }
  })
  fc.assert(
    fc.property(everyDay, change, shift, (cron, changeMinutes, shiftMinutes) => {
      const changeMs = edgeMs + changeMinutes * MINUTE_MS
      const { zone, localMs } = zoneThatChanges(changeMs / 1000, shiftMinutes)
      const plan: CronPlan = { ...parseCron(cron.text), zone }
      const steps: [number, number][] = []
      for (let atMs = edgeMs - 12 * HOUR_MS; atMs < edgeMs + 12 * HOUR_MS; atMs += MINUTE_MS)
        steps.push([atMs, localMs(atMs)])
      const expected = judge(cron, steps, MINUTE_MS)
      const [startMs, endMs] = [edgeMs - 12 * HOUR_MS, edgeMs + 12 * HOUR_MS]
      assert.deepEqual(occurrencesBetween(plan, startMs, endMs), expected)
      assert.deepEqual(
        [...occurrencesBetween(plan, startMs, edgeMs), ...occurrencesBetween(plan, edgeMs, endMs)],
        expected,
        'also by who looks at one side of the edge alone',
      )
    }),
    { numRuns: 500 },
  )
})
