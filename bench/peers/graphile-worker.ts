// graphile-worker at its documented best: jobs fetched into a local queue, completions and failures batched without
// delay. It deletes a completed job and keeps no results; handlers run on the main thread of its process. The local
// queue of 500 is its own benchmark's; 5,000 drains some 5 to 15 % faster here, so both take part there.

import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import pg from 'pg'
import { compute, Ledger, type Payload, payloads, type System, TASK } from './system.ts'

const silent = new Logger(() => () => {})

export const system = graphileWorker('graphile-worker', 500)

export function graphileWorker(name: string, localQueueSize: number): System {
  const tuned = {
    concurrentJobs: 24,
    localQueue: { size: localQueueSize },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  }
  return {
    name,
    packages: ['graphile-worker', 'pg'],
    settings: () => tuned,
    share: 1,
    bulkBatch: 1_000,
    bulkInFlight: 2,

    async prepare(url) {
      const utils = await makeWorkerUtils({ connectionString: url, logger: silent })
      await utils.migrate()
      await utils.release()
    },

    async openProducer(url) {
      const utils = await makeWorkerUtils({ connectionString: url, logger: silent })
      return {
        enqueue: (id) => utils.addJob(TASK, { id, name: 'x' }),
        enqueueMany: (firstId, count) =>
          utils.addJobs(payloads(firstId, count).map((payload) => ({ identifier: TASK, payload }))),
        close: async () => void (await utils.release()),
      }
    },

    async startWorker(url, plan) {
      const ledger = new Ledger(plan)
      const runner = await run({
        connectionString: url,
        logger: silent,
        noHandleSignals: true,
        preset: { worker: tuned },
        taskList: {
          [TASK]: (payload) => {
            const { id } = payload as Payload
            ledger.note(id)
            if (plan.purpose === 'cpu') compute(id)
          },
        },
      })
      return { allRan: () => ledger.allRan(), stop: () => runner.stop(), tally: async () => ledger.tally() }
    },

    async unfinished(url) {
      const client = new pg.Client({ connectionString: url })
      await client.connect()
      const { rows } = await client.query<{ n: string }>('select count(*) as n from graphile_worker._private_jobs')
      await client.end()
      return Number(rows[0]!.n)
    },
  }
}
