// Who takes part. Each name is a file of this folder.

import { OURS } from '../peers/table.ts'
import type { Scheduler } from './scheduler.ts'

export const SCHEDULERS = [OURS, 'croner', 'node-cron', 'bree', 'bullmq', 'pg-boss'] as const

export async function loadScheduler(name: string): Promise<Scheduler> {
  return ((await import(`./${name}.js`)) as { scheduler: Scheduler }).scheduler
}
