import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { DELAY_MS_MAX } from '../engine/base/limits.ts'
import type { RetryPolicy } from '../engine/base/task.ts'
import { allowedMs, missedBeats, NEVER, profileTimeoutMs, TIMEOUT_PROFILES } from '../engine/orchestrator/deadline.ts'
import { priorityOf, rankByAge, rankByPriority } from '../engine/orchestrator/rank.ts'
import { delayMs, maxAttemptsOf, NO_RETRY, PATIENT, retryDelayMs } from '../engine/orchestrator/retry.ts'

const half = () => 0.5
const MINUTE = 60_000

test('an exponential policy without numbers waits 1 s, 2 s, 4 s and so on up to 300 s', () => {
  const delays = [1, 2, 3, 9, 10, 50, 5_000].map((k) => delayMs({ kind: 'exponential' }, k, half))
  assert.deepEqual(delays, [1_000, 2_000, 4_000, 256_000, 300_000, 300_000, 300_000])
})

test('[PS-031] the patient preset waits 5, 10, 20, 40 s and so on, at most 300 s', () => {
  const delays = [1, 2, 3, 4, 5, 6, 7, 20].map((k) => delayMs(PATIENT, k, half) / 1_000)
  assert.deepEqual(delays, [5, 10, 20, 40, 80, 160, 300, 300])
})

test('fixed, table and none wait what they say', () => {
  assert.equal(delayMs({ kind: 'fixed', delayMs: 70 }, 9, half), 70)
  const table: RetryPolicy = { kind: 'table', delaysMs: [10, 20, 30] }
  assert.deepEqual(
    [1, 2, 3, 4, 99].map((k) => delayMs(table, k, half)),
    [10, 20, 30, 30, 30],
  )
  assert.equal(delayMs({ kind: 'table', delaysMs: [] }, 1, half), NO_RETRY)
  assert.equal(delayMs({ kind: 'none' }, 1, half), NO_RETRY)
})

test('whatever the policy, a delay is whole, not negative, at most ten years, and jitter only shortens it', () => {
  const number = fc.oneof(fc.double({ min: -10, max: 1e15 }), fc.constant(Number.POSITIVE_INFINITY))
  const policy: fc.Arbitrary<RetryPolicy> = fc.oneof(
    fc.record({
      kind: fc.constant('exponential' as const),
      initialMs: number,
      factor: fc.double({ min: 0, max: 1e6, noNaN: true }),
      maxMs: number,
      jitter: fc.double({ min: 0, max: 1, noNaN: true }),
    }),
    fc.record({
      kind: fc.constant('fixed' as const),
      delayMs: number,
      jitter: fc.double({ min: 0, max: 1, noNaN: true }),
    }),
  )
  const dice = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
  fc.assert(
    fc.property(policy, fc.integer({ min: 1, max: 10_000 }), dice, (policy, k, die) => {
      const delay = delayMs(policy, k, () => die)
      assert.ok(Number.isInteger(delay) && delay >= 0 && delay <= DELAY_MS_MAX, String(delay))
      assert.ok(delay <= delayMs({ ...policy, jitter: 0 } as RetryPolicy, k, half))
    }),
  )
})

test('jitter spreads evenly over the share that it names', () => {
  const policy: RetryPolicy = { kind: 'fixed', delayMs: 1_000, jitter: 0.4 }
  assert.equal(
    delayMs(policy, 1, () => 0),
    1_000,
  )
  assert.equal(delayMs(policy, 1, half), 800)
  assert.equal(
    delayMs(policy, 1, () => 0.999_999),
    600,
  )
})

test('[PS-032] no retry after the last attempt, and none when the error says that trying is useless', () => {
  const policy: RetryPolicy = { kind: 'fixed', delayMs: 5 }
  assert.equal(retryDelayMs(policy, 1, 3, true, half), 5)
  assert.equal(retryDelayMs(policy, 2, 3, true, half), 5)
  assert.equal(retryDelayMs(policy, 3, 3, true, half), NO_RETRY)
  assert.equal(retryDelayMs(policy, 1, 3, false, half), NO_RETRY)
})

test('[PS-033] maxRetries counts the runs after the first one', () => {
  const policy: RetryPolicy = { kind: 'fixed', delayMs: 0 }
  let runs = 1
  while (retryDelayMs(policy, runs, maxAttemptsOf(3), true, half) !== NO_RETRY) runs++
  assert.equal(runs, 4)
})

test('[PS-030] a profile gives 2 x the duration, or the duration and 30 s, 30 min without one, 5 min unstarted', () => {
  assert.equal(profileTimeoutMs(TIMEOUT_PROFILES.ffmpeg, MINUTE), 2 * MINUTE)
  assert.equal(profileTimeoutMs(TIMEOUT_PROFILES.auto, MINUTE), 2 * MINUTE)
  assert.equal(profileTimeoutMs(TIMEOUT_PROFILES.gstreamer, MINUTE), 90_000)
  assert.equal(profileTimeoutMs(undefined, MINUTE), MINUTE)
  assert.equal(profileTimeoutMs(TIMEOUT_PROFILES.ffmpeg, null), 30 * MINUTE)
  assert.equal(profileTimeoutMs(TIMEOUT_PROFILES.ffmpeg, MINUTE, false), 5 * MINUTE)
})

test('an attempt may run until its timeout or until the job expires, whichever comes first', () => {
  assert.equal(allowedMs(1_000, null, 50), 1_000)
  assert.equal(allowedMs(1_000, 550, 50), 500)
  assert.equal(allowedMs(0, 550, 50), 500)
  assert.equal(allowedMs(0, null, 50), NEVER)
  assert.equal(allowedMs(1_000, 10, 50), 0)
})

test('a beat that is 15 s old has missed one interval of 10 s; 5 s have missed none', () => {
  assert.equal(missedBeats(5_000, 10_000, 0, 3), 0)
  assert.equal(missedBeats(15_000, 10_000, 0, 3), 1)
  assert.equal(missedBeats(60_000, 10_000, 4, 5), 5)
})

test('a beat that is exactly one interval old has missed that interval, one that is a millisecond younger has not', () => {
  for (const intervals of [1, 2, 3])
    for (const already of [0, 1]) {
      assert.equal(missedBeats(intervals * 10_000, 10_000, already, 5), intervals)
      assert.equal(missedBeats(intervals * 10_000 - 1, 10_000, already, 5), Math.max(already, intervals - 1))
    }
  assert.equal(missedBeats(0, 10_000, 0, 5), 0)
  assert.equal(missedBeats(-10_000, 10_000, 0, 5), 0, 'a beat of the future')
  assert.equal(missedBeats(90_000, 10_000, 0, 5), 5, 'no more than are counted')
})

test('[PS-046] ageing: five minutes of waiting are one level, so old low jobs overtake new high ones in time', () => {
  const low = rankByAge(0, 0)
  assert.ok(rankByAge(2, 9 * MINUTE) < low, 'two levels beat nine minutes')
  assert.ok(low < rankByAge(2, 11 * MINUTE), 'eleven minutes beat two levels')
  assert.ok(low < rankByAge(3, 15 * MINUTE + 1))
})

test('[PS-044] without ageing, the higher priority comes first and equal ones are equal', () => {
  const order = [0, 10, -5, 100].sort((a, b) => rankByPriority(a) - rankByPriority(b))
  assert.deepEqual(order, [100, 10, 0, -5])
  assert.ok(Object.is(rankByPriority(0), 0))
})

test('classes of queues and labels map to priorities: the class decides, then the label', () => {
  const all = (['batch', 'default', 'live'] as const).flatMap((queueClass) =>
    (['low', 'medium', 'high'] as const).map((label) => priorityOf(queueClass, label)),
  )
  assert.deepEqual(
    all,
    all.toSorted((a, b) => a - b),
  )
  assert.equal(new Set(all).size, 9)
})
