// The clock of the test kit: what a moved clock has made due is called as if that time had passed.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { VirtualClock } from '../engine/testing/virtual-clock.ts'

const HOUR = 3_600_000

test('what a move makes due is called in the order of its moments, and in the order of the calls within one', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 20 }), { maxLength: 30 }), (hours) => {
      const clock = new VirtualClock(0)
      const called: [hour: number, nth: number][] = []
      const timers = hours.map((hour, nth) => clock.after(hour * HOUR, () => void called.push([hour, nth])))
      try {
        clock.moveTo(10.5 * HOUR)
        const expected = hours
          .map((hour, nth): [number, number] => [hour, nth])
          .sort(([a, n], [b, m]) => a - b || n - m)
        assert.deepEqual(
          called,
          expected.filter(([hour]) => hour <= 10),
        )
        clock.moveTo(20.5 * HOUR)
        assert.deepEqual(called, expected, 'what was not due then is due now, once')
      } finally {
        for (const timer of timers) timer.cancel()
      }
    }),
    { numRuns: 100 },
  )
})

test('what is cancelled by a callback of the same move is not called, and a timer set meanwhile waits for the next', () => {
  const clock = new VirtualClock(0)
  const called: string[] = []
  const late = clock.after(2 * HOUR, () => called.push('late'))
  clock.after(HOUR, () => {
    called.push('first')
    late.cancel()
    clock.after(HOUR, () => called.push('set by the first'))
  })
  clock.moveTo(3 * HOUR)
  assert.deepEqual(called, ['first'])
  clock.moveTo(4.5 * HOUR)
  assert.deepEqual(called, ['first', 'set by the first'])
})
