// The mathematics of schedules: reading expressions, listing what is due, and the run index. Nothing here touches the
// database, so it also runs by itself: `node dist/bench/cron.bench.js [smoke|real]` prints a line of JSON per case.

import { pathToFileURL } from 'node:url'
import { CronExpressionParser } from 'cron-parser'
import { nextTurn, systemClock } from '../engine/base/clock.ts'
import { type CronPlan, parseCron } from '../engine/schedule/cron.ts'
import { enumerate, nextAfter } from '../engine/schedule/occurrences.ts'
import { buildRuns, type Planned, RunIndex, RunsBuilder } from '../engine/schedule/run-index.ts'
import { type Harness, quantile, type Size, type Subject } from './harness.ts'
import { perCall } from './tiny.ts'

/** One case measured by itself. */
export interface Row {
  readonly bench: 'cron'
  readonly name: string
  /** Things that one call does: expressions, plans, runs or queries. */
  readonly n: number
  readonly calls: number
  readonly medianMs: number
  readonly minMs: number
  readonly p95Ms: number
}

interface Case {
  readonly system: 'schedule' | 'cron-parser'
  readonly name: string
  readonly n: number
  /** Real calls, when a call is slow. Default 40. */
  readonly calls?: number
  call(): void
}

/** Measures every case by itself. */
export function run(size: Size): Row[] {
  return casesOf(size).map((one) => {
    for (let i = 0; i < (size === 'smoke' ? 1 : Math.min(5, one.calls ?? 5)); i++) one.call()
    const tookMs: number[] = []
    for (let i = 0; i < (size === 'smoke' ? 3 : (one.calls ?? 40)); i++) {
      const startedMs = systemClock.steadyMs()
      one.call()
      tookMs.push(systemClock.steadyMs() - startedMs)
    }
    const at = (q: number) => Number(quantile(tookMs, q).toPrecision(4))
    const name = one.system === 'schedule' ? one.name : `${one.name}, ${one.system}`
    return { bench: 'cron', name, n: one.n, calls: tookMs.length, medianMs: at(0.5), minMs: at(0), p95Ms: at(0.95) }
  })
}

/** The same cases for the table of benchmarks. */
export const cron = {
  name: 'cron',
  says: 'schedules: reading, listing what is due, the run index',
  async run(harness: Harness): Promise<void> {
    const cases = casesOf(harness.size)
    await harness.compare(
      'cron',
      cases.map(({ system, name, n, calls, call }) => ({
        system,
        subject: name,
        packages: ['cron-parser'],
        settings: { n },
        sample: () => perCall(harness, { perCall: n, run: call, ...(calls === undefined ? {} : { calls }) }),
      })),
    )
    await harness.compare('cron', [pauses(harness)])
  },
}

const START_MS = Date.UTC(2026, 10, 21, 12)
const MINUTE_MS = 60_000

function casesOf(size: Size): Case[] {
  const n = size === 'smoke' ? 200 : 10_000
  const count = n.toLocaleString('en')
  const cases: Case[] = []
  const add = (name: string, things: number, call: () => void, calls?: number) =>
    cases.push({ system: 'schedule', name, n: things, call, ...(calls === undefined ? {} : { calls }) })

  // Four sets of different expressions are more than parseCron keeps, so it meets each for the first time.
  let turn = 0
  add(`parse ${count}`, n, () => {
    for (let i = 0; i < n; i++) parseCron(distinct((turn * n + i) % (4 * n)))
    turn++
  })
  const expressions = Array.from({ length: n }, (_, i) => mixed(i))
  add(`parse ${count} again`, n, () => {
    for (const expression of expressions) parseCron(expression)
  })

  const zones = Intl.supportedValuesOf('timeZone')
  for (const [where, zoneOf] of [
    ['UTC', () => 'UTC'],
    ['Europe/Berlin', () => 'Europe/Berlin'],
    [`${zones.length} zones`, (i: number) => zones[i % zones.length]!],
  ] as const) {
    const plans = expressions.map((expression, i): CronPlan => parseCron(expression, zoneOf(i)))
    add(`10 minutes of ${count}, ${where}`, n, () => void enumerate(plans, START_MS, START_MS + 10 * MINUTE_MS))
    add(`next of ${count}, ${where}`, n, () => {
      for (const plan of plans) nextAfter(plan, START_MS)
    })
  }
  const theirs = expressions.map((text) => CronExpressionParser.parse(text, { tz: 'UTC', currentDate: START_MS - 1 }))
  cases.push({
    system: 'cron-parser',
    name: `10 minutes of ${count}, UTC`,
    n,
    calls: 3,
    call() {
      for (const one of theirs) {
        one.reset()
        while (one.next().getTime() < START_MS + 10 * MINUTE_MS);
      }
    },
  })

  const everyMinute = schedules(n, '* * * * *')
  const everySixSeconds = schedules(n, '*/6 * * * * *')
  const shuffled = everyMinute.map((_, i) => everyMinute[(i * 7_919) % n]!)
  for (const [source, minutes, note] of [
    [everyMinute, 1, ''],
    [everyMinute, 10, ''],
    [shuffled, 10, ', ids in no order'],
    [everySixSeconds, 10, ''],
  ] as const) {
    const { length } = buildRuns(source, START_MS, START_MS + minutes * MINUTE_MS)
    const name = `index of ${length.toLocaleString('en')}${note}`
    add(name, length, () => void buildRuns(source, START_MS, START_MS + minutes * MINUTE_MS), 20)
  }

  const index = new RunIndex<Planned>()
  index.swap(buildRuns(everySixSeconds, START_MS, START_MS + 10 * MINUTE_MS))
  const held = index.length.toLocaleString('en')
  add(`1,000 slices of 0 ms of an index of ${held}`, 1_000, slices(everySixSeconds))
  add(`1,000 empty queries in ${held}`, 1_000, () => {
    for (let i = 0; i < 1_000; i++) index.query(START_MS + i * 600 + 1, START_MS + i * 600 + 2, visited)
  })
  add(`one query of a minute in ${held}`, index.length / 10, () => {
    index.query(START_MS + MINUTE_MS, START_MS + 2 * MINUTE_MS, visited)
  })
  return cases
}

/** How long a rebuild holds the event loop at once: it works in slices, of 1 ms in the engine. */
function pauses(harness: Harness): Subject {
  const source = schedules(harness.pick(200, 10_000), '*/6 * * * * *')
  const { length } = buildRuns(source, START_MS, START_MS + 10 * MINUTE_MS)
  return {
    system: 'schedule',
    subject: `pauses by a rebuild of ${length.toLocaleString('en')}`,
    settings: { sliceMs: 1 },
    async sample() {
      const tookMs: number[] = []
      for (let times = 0; times < harness.pick(2, 10); times++) {
        const builder = new RunsBuilder(source, START_MS, START_MS + 10 * MINUTE_MS)
        let startedMs = systemClock.steadyMs()
        for (let built = builder.step(1, systemClock); built === null; built = builder.step(1, systemClock)) {
          tookMs.push(systemClock.steadyMs() - startedMs)
          await nextTurn()
          startedMs = systemClock.steadyMs()
        }
        tookMs.push(systemClock.steadyMs() - startedMs)
      }
      return { p50Ms: quantile(tookMs, 0.5), p95Ms: quantile(tookMs, 0.95), p99Ms: quantile(tookMs, 0.99) }
    },
  }
}

let seen = 0
function visited(_: Planned, dueMs: number): void {
  seen += dueMs
}

/** The smallest pieces of work there are; a slice overruns its budget by at most one of them. */
function slices(source: readonly Planned[]): () => void {
  const fresh = () => new RunsBuilder(source, START_MS, START_MS + 10 * MINUTE_MS)
  let builder = fresh()
  return () => {
    for (let i = 0; i < 1_000; i++) if (builder.step(0, systemClock) !== null) builder = fresh()
  }
}

function schedules(n: number, expression: string): Planned[] {
  const plan = parseCron(expression)
  return Array.from({ length: n }, (_, i) => ({ id: `schedule-${String(i).padStart(6, '0')}`, plan }))
}

/** A fifth each: every minute, every few minutes, hourly, daily, weekly. */
export function mixed(i: number): string {
  const forms = [
    '* * * * *',
    `*/${2 + (i % 29)} * * * *`,
    `${i % 60} * * * *`,
    `${i % 60} ${i % 24} * * *`,
    `${i % 60} ${i % 24} * * ${i % 7}`,
  ]
  return forms[i % 5]!
}

function distinct(i: number): string {
  return `${i % 60} ${Math.floor(i / 60) % 24} ${1 + (Math.floor(i / 1_440) % 28)} * *`
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const size: Size = process.argv[2] === 'smoke' ? 'smoke' : 'real'
  for (const row of run(size)) console.log(JSON.stringify(row))
  if (Number.isNaN(seen)) throw new Error('bench: a visit saw no time')
}
