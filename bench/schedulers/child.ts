// A process with one system's schedules. Its parent asks for one measurement; the clock around the work runs here.

import { setTimeout as sleep } from 'node:timers/promises'
import { monotonicUs } from '../peers/system.ts'
import { dailyAt, farAway, type Plan, type Scheduler, wallMinusMonotonicUs } from './scheduler.ts'
import { loadScheduler } from './table.ts'

export interface Verbs {
  /** Schedules that are far away; ms until all are taken. */
  register(count: number): Promise<number>
  /** Groups that come due one after the other, the first `leadMs` from now at the earliest. */
  due(groups: readonly number[], leadMs: number): Promise<Late>
  /** Part of a core that this process takes while `count` schedules wait. */
  idle(count: number, overMs: number): Promise<number>
}

export interface Late {
  /** Due until the handler started, ms, by group. */
  readonly started: readonly Float64Array[]
}

export interface Request {
  readonly system: string
  readonly url: string
  readonly verb: keyof Verbs
  readonly args: readonly unknown[]
}

export type Reply = { readonly value: unknown } | { readonly error: string }

/** Until what registering leaves behind has been heard, read and compiled. */
const SETTLE_MS = 2_000

/** What one group leaves behind is over when the next is prepared for. */
const GROUPS_APART_MS = 3_000

function verbsOf(scheduler: Scheduler, url: string): Verbs {
  return {
    async register(count) {
      const plans = farAway(count)
      const opened = await scheduler.open(url, false)
      const startUs = monotonicUs()
      await opened.register(plans)
      return (monotonicUs() - startUs) / 1e3
    },

    async due(groups, leadMs) {
      const opened = await scheduler.open(url, true)
      const before = wallMinusMonotonicUs()
      const grainMs = scheduler.grain === 'second' ? 1_000 : 60_000
      const stepMs = Math.max(grainMs, GROUPS_APART_MS)
      const firstMs = Math.ceil((Date.now() + leadMs) / grainMs) * grainMs
      const dueMs = groups.flatMap((count, group) => new Array<number>(count).fill(firstMs + group * stepMs))
      const plans = dueMs.map((ms, at): Plan => ({ at, cron: dailyAt(ms, scheduler.grain) }))
      await opened.register(plans)
      if (Date.now() > firstMs - 500) throw new Error(`bench: ${scheduler.name} took too long to register`)
      const startedUs = await opened.started(plans.length)
      // the clocks may have moved against each other a little; take the middle
      const offsetUs = (before + wallMinusMonotonicUs()) / 2
      const lateMs = startedUs.map((us, at) => (us + offsetUs) / 1e3 - dueMs[at]!)
      if (lateMs.some(Number.isNaN)) throw new Error(`bench: ${scheduler.name} did not run all that was due`)
      return { started: split(lateMs, groups) }
    },

    async idle(count, overMs) {
      const opened = await scheduler.open(url, true)
      await opened.register(farAway(count))
      await sleep(SETTLE_MS)
      const startUs = monotonicUs()
      const before = process.cpuUsage()
      await sleep(overMs)
      const { user, system } = process.cpuUsage(before)
      return (user + system) / (monotonicUs() - startUs)
    },
  }
}

function split(values: Float64Array, groups: readonly number[]): Float64Array[] {
  let from = 0
  return groups.map((count) => {
    from += count
    return values.slice(from - count, from)
  })
}

process.once('message', async ({ system, url, verb, args }: Request) => {
  let reply: Reply
  try {
    const verbs = verbsOf(await loadScheduler(system), url)
    reply = { value: await (verbs[verb] as (...args: readonly unknown[]) => Promise<unknown>)(...args) }
  } catch (error) {
    reply = { error: error instanceof Error ? (error.stack ?? error.message) : String(error) }
  }
  if (process.connected) process.send!(reply)
})
process.on('disconnect', () => process.exit())
