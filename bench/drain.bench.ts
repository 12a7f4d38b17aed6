// 200,000 no-op jobs are stored; one worker process drains them. The rate counts from the worker's start to the end of
// its graceful stop, when every completion (ours: every result too) is stored. PostgreSQL's CPU and WAL count from the
// first enqueue to the last completion. Ours alone runs handlers on threads and keeps history and results.

import type { Harness } from './harness.ts'
import { drain } from './peers/measure.ts'
import { loadSystems, OURS, PEERS, shareOf } from './peers/table.ts'

export const name = 'drain'
export const says = 'jobs per second out of a full queue, one process, results kept'

export async function run(harness: Harness): Promise<void> {
  const count = harness.pick(500, 200_000)
  const threads = 2
  const systems = await loadSystems(harness.among([OURS, ...PEERS, 'graphile-worker-5000']))
  const server = await harness.server()
  await harness.compare(
    name,
    systems.map((system) => ({
      system: system.name,
      subject: 'drain',
      packages: system.packages,
      settings: { jobs: shareOf(system, count), ...system.settings('throughput', threads) },
      sample: () => drain(server, system, { count: shareOf(system, count), threads }),
    })),
  )
}
