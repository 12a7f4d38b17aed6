// The same peer with a local queue of 5,000.

import { graphileWorker } from './graphile-worker.ts'

export const system = graphileWorker('graphile-worker-5000', 5_000)
