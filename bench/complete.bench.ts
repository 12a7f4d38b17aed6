// What it costs that a handler's writes and the end of its job are one transaction. 20,000 jobs are stored; one worker
// process runs them. Each writes a row, on a pool of its thread, and either completes its job in that same transaction
// (`ctx.complete`) or commits and returns: then the end travels with others, and a job whose process dies in between runs,
// and writes, again. No peer takes part: graphile-worker has no such call, and that of pg-boss is for jobs that are fetched by
// hand, not for its workers.

import type { Harness } from './harness.ts'
import { drain } from './peers/measure.ts'
import { loadSystem, OURS } from './peers/table.ts'

export const name = 'complete'
export const says = 'jobs per second that write a row and end, in one transaction or one after the other'

const WAYS = [
  { purpose: 'write', subject: 'write, commit, return' },
  { purpose: 'complete', subject: 'write, complete, commit' },
] as const

export async function run(harness: Harness): Promise<void> {
  const count = harness.pick(300, 20_000)
  const threads = 2
  if (harness.among([OURS]).length === 0) return
  const system = await loadSystem(OURS)
  const server = await harness.server()
  await harness.compare(
    name,
    WAYS.map(({ purpose, subject }) => ({
      system: OURS,
      subject,
      packages: system.packages,
      settings: { jobs: count, concurrency: 8, ...system.settings(purpose, threads) },
      sample: () => drain(server, system, { count, threads, purpose }),
    })),
  )
}
