// The drain again, while another session holds a snapshot from before the first job: a report, a dump, a stuck replica.
// What a claim leaves behind then cannot be cleaned up, and designs that update or delete rows walk over it. Then claims of
// one job after so many were claimed one by one: from the beginning of the queue, and behind the position of the last.

import { fillFast, withStore } from './claim.bench.ts'
import { type Harness, quantile, type Sample, type Subject } from './harness.ts'
import { drain } from './peers/measure.ts'
import { monotonicUs } from './peers/system.ts'
import { loadSystems, OURS } from './peers/table.ts'
import { holdSnapshot, type Server } from './server.ts'

export const name = 'snapshot'
export const says = 'drain with and without an old snapshot held by another session'

const CLAIMS = 80
const WARM_CLAIMS = 10

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
  await harness.compare(
    name,
    harness.pick([10_000], [100_000, 1_000_000]).flatMap((claimed) =>
      [false, true].map((behind): Subject => {
        const from = behind ? 'behind the last' : 'from the beginning'
        return {
          system: OURS,
          subject: `${claimed.toLocaleString('en')} claimed under the snapshot, next claims ${from}`,
          packages: ['pg'],
          settings: { claims: CLAIMS },
          sample: () => claimAfter(server, claimed, behind),
        }
      }),
    ),
  )
}

function claimAfter(server: Server, claimed: number, behind: boolean): Promise<Sample> {
  return withStore(server, async (store, nodeId, queueId, taskId, url) => {
    const release = await holdSnapshot(url)
    try {
      await fillFast(store, queueId, taskId, claimed + CLAIMS + WARM_CLAIMS, 0)
      await store.ask(`delete from millrace.ready where first_id <= ${claimed}`)
      await server.checkpoint()
      const request = { nodeId, queueIds: [queueId], taskIds: [taskId], jobsMax: 1, bytesMax: 1e9, group: null }
      const after = behind ? [{ queueId, rank: 0, seq: claimed }] : null
      for (let at = 0; at < WARM_CLAIMS; at++) await store.claim(request, after)
      const took: number[] = []
      for (let at = 0; at < CLAIMS; at++) {
        const startUs = monotonicUs()
        const chunks = await store.claim(request, after)
        took.push((monotonicUs() - startUs) / 1e3)
        if (chunks.length !== 1) throw new Error(`bench: a claim took ${chunks.length} jobs`)
      }
      return { p50Ms: quantile(took, 0.5), p95Ms: quantile(took, 0.95), p99Ms: quantile(took, 0.99) }
    } finally {
      await release()
    }
  })
}
