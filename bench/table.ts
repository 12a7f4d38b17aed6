// Every benchmark, in the order in which they run: the small ones first, while the process is fresh.

import * as claim from './claim.bench.ts'
import * as complete from './complete.bench.ts'
import { cron } from './cron.bench.ts'
import * as drain from './drain.bench.ts'
import * as enqueue from './enqueue.bench.ts'
import type { Harness } from './harness.ts'
import * as inbox from './inbox.bench.ts'
import * as iteration from './iteration.bench.ts'
import * as latency from './latency.bench.ts'
import * as memory from './memory.bench.ts'
import * as orchestrator from './orchestrator.bench.ts'
import * as queue from './queue.bench.ts'
import * as ring from './ring.bench.ts'
import * as scaling from './scaling.bench.ts'
import * as schedules from './schedules.bench.ts'
import * as settle from './settle.bench.ts'
import * as snapshot from './snapshot.bench.ts'
import * as sustained from './sustained.bench.ts'

export interface Bench {
  readonly name: string
  /** What it measures, for the head of its table. */
  readonly says: string
  /** The cases of the specification that it is, for titles of tests. */
  readonly cases?: string
  run(harness: Harness): Promise<void>
}

export const benches: readonly Bench[] = [
  memory,
  ring,
  inbox,
  orchestrator,
  iteration,
  cron,
  schedules,
  claim,
  settle,
  queue,
  enqueue,
  drain,
  complete,
  sustained,
  latency,
  snapshot,
  scaling,
]
