// The file that BullMQ loads in its worker threads for jobs that compute.

import { compute, type Payload } from './system.ts'

export default async function run(job: { data: Payload }): Promise<number> {
  return compute(job.data.id)
}
