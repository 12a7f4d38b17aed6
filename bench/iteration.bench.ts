// One iteration of the loop, by how many orchestrators run and how many messages wait. The messages are heartbeats in
// the threads' rings, so that an iteration changes nothing and can be repeated; the look at all running jobs, which
// comes every tenth of a second here, is in the tail.

import { systemClock } from '../engine/base/clock.ts'
import { handScheduler } from './hand-scheduler.ts'
import type { Harness } from './harness.ts'
import { percentiles } from './tiny.ts'

export const name = 'iteration'
export const says = 'one iteration of the scheduler, by active orchestrators and waiting messages'
export const cases = '[CS-100]'

export async function run(harness: Harness): Promise<void> {
  const active = harness.pick([0, 1_000], [0, 10, 100, 1_000, 10_000])
  const hands = active.map((count) => {
    const hand = handScheduler()
    if (count > 0) hand.fill(count)
    hand.lanes.startAll(systemClock.wallMs())
    hand.scheduler.iteration()
    if (hand.scheduler.stats().running !== count) throw new Error(`bench: not all of ${count} jobs run`)
    return { count, hand }
  })
  try {
    await harness.compare(
      name,
      hands.flatMap(({ count, hand }) =>
        [0, 10, 100].map((depth) => ({
          system: 'scheduler',
          subject: `${count.toLocaleString('en')} active, inbox ${depth}`,
          settings: { lanes: hand.lanes.count },
          sample: () =>
            percentiles(harness, {
              calls: harness.pick(50, 500),
              before: () => hand.lanes.beat(depth, systemClock.wallMs()),
              run: () => hand.scheduler.iteration(),
            }),
        })),
      ),
    )
    for (const { count, hand } of hands) hand.expectActive(count)
  } finally {
    for (const { hand } of hands) hand.close()
  }
}
