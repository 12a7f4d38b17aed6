// 100 jobs a second, one by one, from one process into another: the time from just before the enqueue call to the start
// of the handler. Open loop: a slow answer does not slow the next call. The first second is warm-up.

import type { Harness } from './harness.ts'
import { latency } from './peers/measure.ts'
import { loadSystems, OURS, PEERS } from './peers/table.ts'

export const name = 'latency'
export const says = 'milliseconds from enqueue to start in another process, 100 jobs/s'

export async function run(harness: Harness): Promise<void> {
  const plan = { perSecond: 100, warmup: harness.pick(20, 100), count: harness.pick(50, 800), threads: 2 }
  const systems = await loadSystems(harness.among([OURS, ...PEERS]))
  const server = await harness.server()
  await harness.compare(
    name,
    systems.map((system) => ({
      system: system.name,
      subject: '100/s',
      packages: system.packages,
      settings: { ...plan, ...system.settings('latency', plan.threads) },
      sample: () => latency(server, system, plan),
    })),
  )
}
