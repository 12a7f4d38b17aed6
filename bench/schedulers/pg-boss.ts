// pg-boss with the shortest intervals that it takes for its clock, and with NOTIFY for its worker. Its expressions know
// minutes only. Ten calls are in flight while schedules are made; there is no call for many.

import { PgBoss } from 'pg-boss'
import { inFlight, type Scheduler, Starts } from './scheduler.ts'

const NAME = 'bench-schedules'
const CALLS = 10
const OPTIONS = { cronMonitorIntervalSeconds: 1, cronWorkerIntervalSeconds: 1, useListenNotify: true, max: CALLS }
const WORK = { batchSize: 1_000, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true, localConcurrency: 2 }

export const scheduler: Scheduler = {
  name: 'pg-boss',
  packages: ['pg-boss', 'pg'],
  settings: { ...OPTIONS, ...WORK, callsInFlight: CALLS },
  takesMax: 500,
  runsMax: Number.POSITIVE_INFINITY,
  grain: 'minute',

  async prepare(url) {
    const boss = new PgBoss({ connectionString: url, supervise: false, schedule: false })
    boss.on('error', (error) => console.error('pg-boss:', error))
    await boss.start()
    await boss.createQueue(NAME, { notify: true })
    await boss.stop({ graceful: false })
  },

  async open(url, runs) {
    const starts = new Starts()
    const boss = new PgBoss({ connectionString: url, supervise: false, schedule: runs, ...OPTIONS })
    boss.on('error', (error) => console.error('pg-boss:', error))
    await boss.start()
    if (runs)
      await boss.work<{ at: number }>(NAME, WORK, async (jobs) => {
        for (const job of jobs) starts.note(job.data.at)
      })
    return {
      register: (plans) =>
        inFlight(plans, CALLS, ({ at, cron }) => boss.schedule(NAME, cron, { at }, { key: `s${at}`, tz: 'UTC' })),
      started: (count) => starts.all(count),
    }
  },
}
