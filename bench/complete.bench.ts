// What it costs that a handler's writes and the end of its job are one transaction. 20,000 jobs are stored; one worker
// process runs them. Each writes a row, on a pool of its thread, and either completes its job in that same transaction
// (`ctx.complete`) or commits and returns: then the end travels with others, and a job whose process dies in between runs,
// and writes, again. pg-boss has transactional workers: a batch is one transaction, so that one job that fails takes back
// what its neighbours did. It is measured with the smallest batches that it fetches without waiting for a poll, and with
// large ones. graphile-worker has nothing of the kind.

import type { Harness } from './harness.ts'
import { drain } from './peers/measure.ts'
import type { Purpose } from './peers/system.ts'
import { loadSystem, OURS } from './peers/table.ts'

export const name = 'complete'
export const says = 'jobs per second that write a row and end, in one transaction or one after the other'

const WAYS: readonly {
  system: string
  purpose: Exclude<Purpose, 'latency'>
  subject: string
  settings: Record<string, unknown>
}[] = [
  { system: OURS, purpose: 'write', subject: 'write, commit, return', settings: { concurrency: 8 } },
  { system: OURS, purpose: 'complete', subject: 'write, complete, commit', settings: { concurrency: 8 } },
  { system: 'pg-boss', purpose: 'complete', subject: '2 jobs a transaction', settings: {} },
  { system: 'pg-boss', purpose: 'complete-many', subject: '100 jobs a transaction', settings: {} },
]

export async function run(harness: Harness): Promise<void> {
  const count = harness.pick(300, 20_000)
  const threads = 2
  const server = await harness.server()
  const subjects = []
  for (const way of WAYS) {
    if (harness.among([way.system]).length === 0) continue
    const system = await loadSystem(way.system)
    subjects.push({
      system: way.system,
      subject: way.subject,
      packages: system.packages,
      settings: { jobs: count, ...way.settings, ...system.settings(way.purpose, threads) },
      sample: () => drain(server, system, { count, threads, purpose: way.purpose }),
    })
  }
  await harness.compare(name, subjects)
}
