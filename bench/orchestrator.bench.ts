// Orchestrators: from a claim's answer to being given to lanes, for occurrences of schedules from the run index into
// memory, and one job's whole life in the scheduler.

import { systemClock } from '../engine/base/clock.ts'
import { RunIndex, Runs } from '../engine/schedule/run-index.ts'
import { chunksOf, handScheduler } from './hand-scheduler.ts'
import type { Harness } from './harness.ts'
import { perCall, perThing } from './tiny.ts'

export const name = 'orchestrator'
export const says = 'scheduling orchestrators, and one life of an orchestrator'
export const cases = '[CS-097] [CS-102]'

export async function run(harness: Harness): Promise<void> {
  const hand = handScheduler()
  try {
    await harness.compare(name, [
      ...[10, 100, 1_000, 10_000].map((count) => ({
        system: 'scheduler',
        subject: `schedule ${count.toLocaleString('en')}`,
        settings: { from: 'claimed chunks of up to 1,000', until: 'given to lanes' },
        sample: () => {
          let chunks = chunksOf(0)
          return perCall(harness, {
            perCall: count,
            before: () => {
              chunks = chunksOf(count)
            },
            run: () => {
              hand.scheduler.arrive(chunks)
              hand.scheduler.iteration()
            },
            after: () => {
              hand.expectActive(count)
              if (hand.lanes.waiting !== count) throw new Error('bench: not every job was given to a lane')
              hand.empty()
            },
          })
        },
      })),
      ...[1_000, 10_000].map((count) => ({
        system: 'scheduler',
        subject: `schedule ${count.toLocaleString('en')} runs`,
        settings: { from: 'run index', until: 'in memory, its update handed over' },
        sample: () => scheduleRuns(harness, count),
      })),
      {
        system: 'scheduler',
        subject: 'life of one',
        settings: { steps: 'arrive, dispatch, started, completed, outcome handed over' },
        sample: () =>
          perThing(harness, {
            run: () => {
              hand.fill(1)
              hand.lanes.startAll(systemClock.wallMs())
              hand.scheduler.iteration()
              hand.lanes.completeAll(systemClock.wallMs())
              hand.scheduler.iteration()
            },
            after: () => hand.expectActive(0),
          }),
      },
    ])
  } finally {
    hand.close()
  }
}

/** As many schedules, all due within the next second; each sample has a scheduler that has seen none of them. */
async function scheduleRuns(harness: Harness, count: number) {
  let hand = handScheduler()
  let updates = 0
  try {
    return await perCall(harness, {
      perCall: count,
      before: () => {
        hand.close()
        updates = 0
        hand = handScheduler({
          occurrences: {
            index: indexOf(count),
            launch: () => {},
            update: () => {
              updates++
              return true
            },
          },
        })
      },
      run: () => hand.scheduler.iteration(),
      after: () => {
        hand.expectActive(count)
        if (updates < count) throw new Error('bench: a run left no update')
      },
    })
  } finally {
    hand.close()
  }
}

function indexOf(count: number): RunIndex<{ id: string }> {
  const startMs = systemClock.wallMs()
  const dueMs = new Float64Array(count).map((_, at) => startMs + 1_000 + Math.floor((at * 1_000) / count))
  const refs = new Uint32Array(count).map((_, at) => at)
  const schedules = Array.from({ length: count }, (_, at) => ({ id: `schedule-${at}` }))
  const index = new RunIndex<{ id: string }>()
  index.swap(new Runs(startMs - 60_000, startMs + 60_000, dueMs, refs, schedules))
  return index
}
