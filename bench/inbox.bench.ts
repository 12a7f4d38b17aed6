// Messages into the loop: the threads' reports, pre-filled and processed.

import { systemClock } from '../engine/base/clock.ts'
import { handScheduler } from './hand-scheduler.ts'
import type { Harness } from './harness.ts'
import { perCall } from './tiny.ts'

export const name = 'inbox'
export const says = 'messages into the scheduler'
export const cases = '[CS-098] [CS-101]'

export async function run(harness: Harness): Promise<void> {
  const hand = handScheduler()
  try {
    await harness.compare(name, [
      ...[100, 1_000, 10_000].map((count) => ({
        system: 'scheduler',
        subject: `process ${count.toLocaleString('en')}`,
        settings: { messages: 'completed, with a result, in 16 rings', until: 'outcome handed over' },
        sample: () => {
          let settled = 0
          return perCall(harness, {
            perCall: count,
            before: () => {
              hand.fill(count)
              hand.lanes.completeAll(systemClock.wallMs())
              settled = hand.settled()
            },
            run: () => hand.scheduler.processInbox(),
            after: () => {
              if (hand.settled() - settled !== count) throw new Error('bench: a report left no outcome')
              hand.expectActive(0)
            },
          })
        },
      })),
    ])
  } finally {
    hand.close()
  }
}
