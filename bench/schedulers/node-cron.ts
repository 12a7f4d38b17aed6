// node-cron: a timer in this process for each schedule.

import { schedule } from 'node-cron'
import { type Scheduler, Starts } from './scheduler.ts'

export const scheduler: Scheduler = {
  name: 'node-cron',
  packages: ['node-cron'],
  settings: { timezone: 'UTC' },
  takesMax: Number.POSITIVE_INFINITY,
  runsMax: Number.POSITIVE_INFINITY,
  grain: 'second',
  prepare: null,

  async open() {
    const starts = new Starts()
    return {
      async register(plans) {
        for (const { at, cron } of plans) schedule(cron, () => starts.note(at), { timezone: 'UTC' })
      },
      started: (count) => starts.all(count),
    }
  },
}
