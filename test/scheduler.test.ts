import assert from 'node:assert/strict'
import { test } from 'node:test'
import { chunk, schedulerBench, task } from './support/scheduler-fakes.ts'

test('jobs that arrive are fed, run, and handed over once each', () => {
  const { scheduler, lanes, outcomes, settle } = schedulerBench()
  scheduler.arrive([chunk(1, 1_000), chunk(2_000, 1), chunk(3_000, 700)])
  settle()
  for (let round = 0; round < 1_000 && scheduler.stats().held > 0; round++) {
    lanes.runAll(0.01)
    scheduler.wake()
    settle()
  }
  const ids = outcomes.of('completed').map((item) => item.jobId)
  assert.equal(ids.length, 1_701)
  assert.equal(new Set(ids).size, 1_701)
  assert.equal(scheduler.stats().held, 0)
  assert.equal(scheduler.stats().completed, 1_701)
})
