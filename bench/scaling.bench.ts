// Jobs that compute for some milliseconds: how much of the machine one process uses. Ours with one thread and with two;
// BullMQ with its sandboxed processors in worker threads; graphile-worker, whose handlers share one thread.

import { cpus } from 'node:os'
import type { Harness, Subject } from './harness.ts'
import { drain } from './peers/measure.ts'
import { loadSystem, loadSystems, OURS } from './peers/table.ts'

export const name = 'scaling'
export const says = 'jobs per second when each computes for some milliseconds'

export async function run(harness: Harness): Promise<void> {
  const count = harness.pick(50, 1_500)
  const threadCounts = harness.pick([2], [1, Math.min(4, Math.max(2, cpus().length))])
  const server = await harness.server()
  const peers = await loadSystems(harness.among(['graphile-worker', 'bullmq']))
  const subject = (system: (typeof peers)[number], threads: number): Subject => ({
    system: system.name,
    subject: `${threads} thread${threads === 1 ? '' : 's'}`,
    packages: system.packages,
    settings: { jobs: count, ...system.settings('cpu', threads) },
    sample: () => drain(server, system, { count, threads, purpose: 'cpu' }),
  })
  const subjects = peers.map((system) => subject(system, system.name === 'bullmq' ? threadCounts.at(-1)! : 1))
  if (harness.among([OURS]).length > 0) {
    const ours = await loadSystem(OURS)
    subjects.unshift(...threadCounts.map((threads) => subject(ours, threads)))
  }
  await harness.compare(name, subjects)
}
