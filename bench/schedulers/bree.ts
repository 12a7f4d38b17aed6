// bree: a timer in this process for each schedule, and a new worker thread for each run.

import { fileURLToPath } from 'node:url'
import Bree from 'bree'
import { type Scheduler, Starts } from './scheduler.ts'

export const scheduler: Scheduler = {
  name: 'bree',
  packages: ['bree'],
  settings: { timezone: 'UTC', hasSeconds: 'where the expression has them' },
  takesMax: 500, // each is compared with all before it
  runsMax: 20, // a thread each
  grain: 'second',
  prepare: null,

  async open() {
    const starts = new Starts()
    const bree = new Bree({
      root: false,
      logger: false,
      timezone: 'UTC',
      workerMessageHandler: ({ name, message }: { name: string; message: unknown }) => {
        if (typeof message === 'number') starts.note(Number(name), message)
      },
    })
    return {
      async register(plans) {
        const path = fileURLToPath(new URL('./bree-job.js', import.meta.url))
        await bree.add(
          plans.map(({ at, cron }) => ({
            name: String(at),
            path,
            cron,
            timezone: 'UTC',
            hasSeconds: cron.split(' ').length === 6,
          })),
        )
        await bree.start()
      },
      started: (count) => starts.all(count),
    }
  },
}
