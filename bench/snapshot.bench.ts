// The drain again, while another session holds a snapshot from before the first job: a report, a dump, a stuck replica.
// What a claim leaves behind then cannot be cleaned up, and designs that update or delete rows walk over it.

import type { Harness } from './harness.ts'
import { drain } from './peers/measure.ts'
import { loadSystems, OURS } from './peers/table.ts'

export const name = 'snapshot'
export const says = 'drain with and without an old snapshot held by another session'

export async function run(harness: Harness): Promise<void> {
  const count = harness.pick(500, 200_000)
  const threads = 2
  const systems = await loadSystems(harness.among([OURS, 'graphile-worker']))
  const server = await harness.server()
  await harness.compare(
    name,
    systems.flatMap((system) =>
      [false, true].map((snapshotHeld) => ({
        system: system.name,
        subject: snapshotHeld ? 'snapshot held' : 'no snapshot',
        packages: system.packages,
        settings: { jobs: count, ...system.settings('throughput', threads) },
        sample: () => drain(server, system, { count, threads, snapshotHeld }),
      })),
    ),
  )
}
