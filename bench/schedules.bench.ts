// Schedules side by side: taking many, knowing what comes next, running what is due at one moment, and costing nothing
// while nothing is due. Ours keeps schedules, occurrences and results in PostgreSQL and runs handlers on threads; some
// peers have nothing but timers in their own process, which is the floor that lateness is compared with.
//
// What lateness is: from the due time until the handler started, by the clock of the machine.

import { CronExpressionParser } from 'cron-parser'
import { Cron } from 'croner'
import { createTask } from 'node-cron'
import { systemClock } from '../engine/base/clock.ts'
import { parseCron } from '../engine/schedule/cron.ts'
import { enumerate, occurrencesBetween } from '../engine/schedule/occurrences.ts'
import { mixed } from './cron.bench.ts'
import { type Harness, quantile, type Sample, type Subject } from './harness.ts'
import { OURS } from './peers/table.ts'
import { ask } from './schedulers/ask.ts'
import type { Late } from './schedulers/child.ts'
import type { Scheduler } from './schedulers/scheduler.ts'
import { loadScheduler, SCHEDULERS } from './schedulers/table.ts'
import type { Server } from './server.ts'
import { perCall } from './tiny.ts'

export const name = 'schedules'
export const says = 'taking 10,000 schedules, next runs, lateness of what is due at once, idle'

export async function run(harness: Harness): Promise<void> {
  const systems = await Promise.all(harness.among(SCHEDULERS).map(loadScheduler))
  const server = await harness.server()
  await harness.compare(name, registering(harness, server, systems))
  await harness.compare(name, nextRuns(harness), Math.min(2, harness.repetitions))
  const quick = systems.filter((system) => !isSlow(system))
  await harness.compare(name, lateness(harness, server, quick), Math.min(2, harness.repetitions))
  await harness.compare(name, lateness(harness, server, systems.filter(isSlow)), 1)
  await harness.compare(name, idling(harness, server, systems), 1)
}

function registering(harness: Harness, server: Server, systems: readonly Scheduler[]): Subject[] {
  return systems.map((system) => {
    const count = Math.min(system.takesMax, harness.pick(200, 10_000))
    return {
      system: system.name,
      subject: 'register',
      packages: system.packages,
      settings: { ...system.settings, count },
      sample: () =>
        within(server, system, async (url) => {
          const tookMs = await ask(system.name, url, 'register', count)
          return { opsPerSecond: (count * 1e3) / tookMs }
        }),
    }
  })
}

/** Every due time of the next ten minutes of a mixture of expressions. */
function nextRuns(harness: Harness): Subject[] {
  const n = harness.pick(200, 10_000)
  const startMs = Date.now()
  const endMs = startMs + 600_000
  const expressions = Array.from({ length: n }, (_, i) => mixed(i))
  const plans = expressions.map((expression) => parseCron(expression, 'UTC'))
  const calls: Record<string, () => () => void> = {
    [OURS]: () => () => void enumerate(plans, startMs, endMs),
    croner() {
      const crons = expressions.map((text) => new Cron(text, { timezone: 'UTC', paused: true }))
      return () => {
        for (const cron of crons)
          for (
            let at = cron.nextRun(new Date(startMs - 1));
            at !== null && at.getTime() < endMs;
            at = cron.nextRun(at)
          );
      }
    },
    'cron-parser'() {
      const crons = expressions.map((text) => CronExpressionParser.parse(text, { tz: 'UTC', currentDate: startMs - 1 }))
      return () => {
        for (const cron of crons) {
          cron.reset()
          while (cron.next().getTime() < endMs);
        }
      }
    },
    // it counts from now and knows no end: it is told how many there are, and finds one where there is none, as all do
    'node-cron'() {
      const tasks = expressions.map((text, i) => {
        const runs = occurrencesBetween(plans[i]!, startMs, endMs, 1_000).length
        return { task: createTask(text, () => {}, { timezone: 'UTC' }), runs: Math.max(1, runs) }
      })
      return () => {
        for (const { task, runs } of tasks) task.getNextRuns(runs)
      }
    },
  }
  return harness.among(Object.keys(calls)).map((system) => {
    let call: (() => void) | null = null
    return {
      system,
      subject: `10 minutes of ${n.toLocaleString('en')}`,
      packages: system === OURS ? [] : [system],
      settings: { n, timeZone: 'UTC' },
      async sample() {
        call ??= calls[system]!()
        if (system === OURS) return perCall(harness, { perCall: n, run: call })
        const started = systemClock.steadyMs() // one call is long enough
        call()
        const totalMs = systemClock.steadyMs() - started
        return { opsPerSecond: (n * 1e3) / totalMs, totalMs }
      },
    }
  })
}

/**
 * A few to warm up, as many as the threads take at once, and many, twice: the first time most code runs uncompiled.
 * One after the other; one run gives all.
 */
function lateness(harness: Harness, server: Server, systems: readonly Scheduler[]): Subject[] {
  const warm = 10
  const few = harness.pick(5, 20)
  const many = harness.pick(50, 1_000)
  return systems.flatMap((system): Subject[] => {
    const groups = system.grain === 'minute' ? [many] : system.runsMax < many ? [1, few] : [warm, few, many, many]
    const taken = new Map<number, Promise<Late>>()
    const take = (repetition: number) => {
      const late =
        taken.get(repetition) ??
        within(server, system, (url) =>
          ask(system.name, url, 'due', groups, harness.pick(2_000, isSlow(system) ? 12_000 : 5_000)),
        )
      taken.set(repetition, late)
      return late
    }
    const subject = (what: string, pick: (late: Late) => Float64Array): Subject => ({
      system: system.name,
      subject: what,
      packages: system.packages,
      settings: { ...system.settings, groups },
      sample: async (repetition) => spread(pick(await take(repetition))),
    })
    return groups.flatMap((count, group) => {
      if (group === 0 && groups.length > 1) return []
      const isFirst = group < groups.lastIndexOf(count)
      const text = `${count.toLocaleString('en')} due at once${isFirst ? ', for the first time' : ''}`
      return [subject(text, (late) => late.started[group]!)]
    })
  })
}

function idling(harness: Harness, server: Server, systems: readonly Scheduler[]): Subject[] {
  const overMs = harness.pick(500, 10_000)
  return systems
    .filter((system) => system.name === OURS || system.name === 'croner')
    .map((system) => {
      const count = harness.pick(200, 10_000)
      return {
        system: system.name,
        subject: `idle with ${count.toLocaleString('en')}`,
        packages: system.packages,
        settings: { ...system.settings, overMs },
        sample: () =>
          within(server, system, async (url) => ({
            corePercent: 100 * (await ask(system.name, url, 'idle', count, overMs)),
          })),
      }
    })
}

/** Takes a thousand schedules one by one. */
function isSlow(system: Scheduler): boolean {
  return system.prepare !== null && system.name !== OURS
}

function within<T>(server: Server, system: Scheduler, work: (url: string) => Promise<T>): Promise<T> {
  const { prepare } = system
  if (prepare === null) return work('')
  return server.withDatabase(async (url) => {
    await prepare(url)
    await server.checkpoint()
    return work(url)
  })
}

function spread(values: Float64Array): Sample {
  const ms = Array.from(values)
  return { p50Ms: quantile(ms, 0.5), p95Ms: quantile(ms, 0.95), p99Ms: quantile(ms, 0.99) }
}
