// Heartbeats of a running job, from the handler in its thread to the sink on the main thread.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { PoolHarness } from './support/pool-harness.ts'

const BEATING = new URL('./tasks/beating.js', import.meta.url).href

class Beats extends PoolHarness {
  readonly beats: { slot: number; generation: number; atMs: number }[] = []

  override heartbeat(lane: number, slot: number, generation: number, atMs = 0): void {
    super.heartbeat(lane, slot, generation)
    this.beats.push({ slot, generation, atMs })
  }
}

let pool: Beats
before(async () => {
  pool = await new Beats({ modules: [BEATING] }).start()
})
after(() => pool.stop())

test('[CS-080] a running job beats at its interval, each beat with its own identity and time', async () => {
  const told = await pool.run('beating', { beats: 5, everyMs: 100 }, 1)
  const mine = pool.beats.filter((beat) => beat.slot === 1)
  assert.ok(mine.length >= 5, `${mine.length} beats`)
  assert.ok(mine.every((beat) => beat.generation === 2))
  let last = told.startedAtMs
  for (const { atMs } of mine) {
    assert.ok(atMs >= last, 'times rise from the start')
    last = atMs
  }
  // timers are never early; how late they are is the machine's business
  assert.ok(mine.at(-1)!.atMs - told.startedAtMs >= 400)
})

test('[CS-081] a job that ended beats no more, even when its handler left a timer that tries', async () => {
  await pool.run('beating', { beats: 1, everyMs: 60 }, 2)
  const before = pool.beats.filter((beat) => beat.slot === 2).length
  // another job in the same thread gives the forgotten timer time and turns to beat
  await pool.run('beating', { beats: 5, everyMs: 100 }, 3)
  assert.equal(pool.beats.filter((beat) => beat.slot === 2).length, before)
  const events = pool.told.get(2)!.events
  assert.equal(events.at(-1), 'completed')
})
