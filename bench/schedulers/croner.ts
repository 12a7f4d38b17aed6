// croner: a timer in this process for each schedule.

import { Cron } from 'croner'
import { type Scheduler, Starts } from './scheduler.ts'

export const scheduler: Scheduler = {
  name: 'croner',
  packages: ['croner'],
  settings: { timezone: 'UTC' },
  takesMax: Number.POSITIVE_INFINITY,
  runsMax: Number.POSITIVE_INFINITY,
  grain: 'second',
  prepare: null,

  async open() {
    const starts = new Starts()
    const kept: Cron[] = []
    return {
      async register(plans) {
        for (const { at, cron } of plans) kept.push(new Cron(cron, { timezone: 'UTC' }, () => starts.note(at)))
      },
      started: (count) => starts.all(count),
    }
  },
}
