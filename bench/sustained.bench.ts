// Producer and worker at once, each in its own process, from an empty queue to 100,000 jobs done: what a system does
// under steady load on one machine. The clock runs from the first enqueue call to the end of the worker's graceful stop.

import type { Harness } from './harness.ts'
import { sustain } from './peers/measure.ts'
import { loadSystems, OURS, PEERS, shareOf } from './peers/table.ts'

export const name = 'sustained'
export const says = 'jobs per second from enqueue to done, producer and worker at once'

export async function run(harness: Harness): Promise<void> {
  const count = harness.pick(500, 100_000)
  const threads = 2
  const systems = await loadSystems(harness.among([OURS, ...PEERS]))
  const server = await harness.server()
  await harness.compare(
    name,
    systems.map((system) => ({
      system: system.name,
      subject: 'enqueue to done',
      packages: system.packages,
      settings: {
        jobs: shareOf(system, count),
        batch: system.bulkBatch,
        inFlight: system.bulkInFlight,
        ...system.settings('throughput', threads),
      },
      sample: () => sustain(server, system, { count: shareOf(system, count), threads }),
    })),
  )
}
