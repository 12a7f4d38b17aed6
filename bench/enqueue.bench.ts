// Enqueue alone, every acknowledged job durable: one awaited call after another, 50 callers at once, and in bulk.

import type { Harness, Subject } from './harness.ts'
import { type EnqueueMode, enqueue } from './peers/measure.ts'
import { loadSystems, OURS, PEERS } from './peers/table.ts'

export const name = 'enqueue'
export const says = 'jobs per second that become durable'

const CALLERS = 50

export async function run(harness: Harness): Promise<void> {
  const systems = await loadSystems(harness.among([OURS, ...PEERS]))
  const server = await harness.server()
  const modes: { subject: string; mode: EnqueueMode; count(ours: boolean, slow: boolean): number }[] = [
    { subject: 'single', mode: { kind: 'single' }, count: () => harness.pick(20, 2_000) },
    {
      subject: `${CALLERS} callers`,
      mode: { kind: 'concurrent', callers: CALLERS },
      count: (ours) => (ours ? harness.pick(500, 100_000) : harness.pick(100, 4_000)), // a rate needs a second
    },
    {
      subject: 'bulk',
      mode: { kind: 'bulk' },
      count: (_, slow) => (slow ? harness.pick(2_000, 40_000) : harness.pick(2_000, 200_000)),
    },
  ]
  for (const { subject, mode, count } of modes) {
    const subjects = systems.map((system): Subject => {
      const jobs = count(system.name === OURS, system.share < 1)
      return {
        system: system.name,
        subject,
        packages: system.packages,
        settings: {
          jobs,
          ...(mode.kind === 'bulk' ? { batch: system.bulkBatch, inFlight: system.bulkInFlight } : {}),
        },
        sample: () => enqueue(server, system, jobs, mode),
      }
    })
    await harness.compare(name, subjects)
  }
}
