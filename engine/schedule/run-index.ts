// The run index: what is due soon, sorted by (due time, schedule id), so that the loop finds the next ten seconds of
// thousands of schedules by a binary search. A finished index never changes. A new one is built beside it, in
// slices short enough that the loop does not notice, and takes its place in one assignment; whoever still reads the old
// one reads it to its end.
//
//   RunsBuilder --step, step, step--> Runs --swap--> RunIndex --query--> the loop
//
// Sorting is by counting, not by comparing: schedules are put in the order of their ids first, their times are listed
// in that order, and a stable radix sort by due time keeps it.

import type { Clock } from '../base/clock.ts'
import { invariant } from '../base/errors.ts'
import { DAY_S } from './calendar.ts'
import type { CronPlan } from './cron.ts'
import { Occurrences, Window } from './occurrences.ts'

/** What the index needs to know of a schedule; it keeps the object and hands it back. */
export interface Planned {
  readonly id: string
  readonly plan: CronPlan
}

/** Called per run in order. Return false to stop. */
export type RunVisitor<S> = (schedule: S, dueMs: number) => unknown

/** The runs of a window, sorted and fixed. */
export class Runs<S> {
  /** The window [startMs, endMs) that is covered. */
  readonly startMs: number
  readonly endMs: number
  readonly length: number
  readonly #dueMs: Float64Array
  readonly #refs: Uint32Array
  readonly #schedules: readonly S[]

  /** Takes the arrays over. `dueMs` is sorted; `refs` point into `schedules`. */
  constructor(startMs: number, endMs: number, dueMs: Float64Array, refs: Uint32Array, schedules: readonly S[]) {
    this.startMs = startMs
    this.endMs = endMs
    this.length = dueMs.length
    this.#dueMs = dueMs
    this.#refs = refs
    this.#schedules = schedules
  }

  /** Due time of the run at a position, 0 to length - 1. */
  dueAt(position: number): number {
    return this.#dueMs[position]!
  }

  /** Schedule of the run at a position, 0 to length - 1. */
  scheduleAt(position: number): S {
    return this.#schedules[this.#refs[position]!]!
  }

  /** The first position that is due at or after a time; `length` when none is. */
  firstFrom(atMs: number): number {
    let low = 0
    let high = this.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#dueMs[middle]! < atMs) low = middle + 1
      else high = middle
    }
    return low
  }
}

/** The current runs, and the only mutable thing here. Written by whoever swaps; read by the loop. */
export class RunIndex<S> {
  #runs: Runs<S> = new Runs<S>(0, 0, new Float64Array(0), new Uint32Array(0), [])

  get runs(): Runs<S> {
    return this.#runs
  }

  get length(): number {
    return this.#runs.length
  }

  /** Puts new runs in place and returns the old ones, which stay readable. */
  swap(runs: Runs<S>): Runs<S> {
    const old = this.#runs
    this.#runs = runs
    return old
  }

  /** Visits the runs due in [startMs, endMs), in order, and returns how many it visited. Allocates nothing. */
  query(startMs: number, endMs: number, visit: RunVisitor<S>): number {
    const runs = this.#runs // the visitor may swap
    const first = runs.firstFrom(startMs)
    let position = first
    while (position < runs.length && runs.dueAt(position) < endMs) {
      const goOn = visit(runs.scheduleAt(position), runs.dueAt(position))
      position++
      if (goOn === false) break
    }
    return position - first
  }

  /** The first due time strictly after a time, or null when the index knows none. */
  nextDue(afterMs: number): number | null {
    const runs = this.#runs
    const position = runs.firstFrom(Math.floor(afterMs) + 1) // due times are whole milliseconds
    return position < runs.length ? runs.dueAt(position) : null
  }
}

/**
 * Builds the runs of some schedules in [startMs, endMs), a slice at a time.
 *
 * More than `runsMax` runs (default 2,000,000, 24 MB) are not kept: the window is halved until they fit, and the
 * `endMs` of the runs says how far they reach. Rebuild before that time.
 */
export class RunsBuilder<S extends Planned> {
  readonly #work: Generator<void, Runs<S>, void>
  #done: Runs<S> | null = null

  constructor(schedules: readonly S[], startMs: number, endMs: number, runsMax = RUNS_MAX) {
    this.#work = build(schedules.slice(), startMs, endMs, runsMax)
  }

  /** Works for about `budgetMs` (a slice overruns it by less than a millisecond); null until the runs are finished. */
  step(budgetMs: number, clock: Pick<Clock, 'steadyMs'>): Runs<S> | null {
    const untilMs = clock.steadyMs() + budgetMs
    while (this.#done === null) {
      const { done, value } = this.#work.next()
      if (done) this.#done = value
      else if (clock.steadyMs() >= untilMs) return null
    }
    return this.#done
  }
}

/** The same at once, for start-up and for tests. */
export function buildRuns<S extends Planned>(
  schedules: readonly S[],
  startMs: number,
  endMs: number,
  runsMax = RUNS_MAX,
): Runs<S> {
  const work = build(schedules.slice(), startMs, endMs, runsMax)
  for (;;) {
    const { done, value } = work.next()
    if (done) return value
  }
}

/** The whole building, in order; every `yield` is a place to pause. */
function* build<S extends Planned>(
  schedules: S[],
  startMs: number,
  endMs: number,
  runsMax: number,
): Generator<void, Runs<S>, void> {
  invariant(startMs <= endMs && Number.isFinite(endMs - startMs), 'a window has a start and an end', { startMs, endMs })
  invariant(runsMax >= schedules.length, 'there is room for one run of each schedule', { runsMax })
  const sorted = yield* sortById(schedules)
  let untilMs = endMs
  let found = yield* list(sorted, startMs, untilMs, runsMax)
  while (found === null) {
    // Down to one second, in which a schedule is due at most once, so this ends.
    untilMs = startMs + Math.max(1_000, Math.floor((untilMs - startMs) / 2))
    found = yield* list(sorted, startMs, untilMs, runsMax)
  }
  const { dueMs, refs } = yield* sortByDue(found, startMs)
  return new Runs(startMs, untilMs, dueMs, refs, sorted)
}

/** Lists all times, day by day and in the order of the schedules; null when there are too many. */
function* list(
  schedules: readonly Planned[],
  startMs: number,
  endMs: number,
  runsMax: number,
): Generator<void, Page[] | null, void> {
  const pages: Page[] = []
  let page = new Occurrences(PAGE_ROOM)
  let listed = 0
  for (let fromMs = startMs; fromMs < endMs; fromMs += DAY_S * 1_000) {
    // A day at a time bounds a slice: one schedule has at most 86,400 runs in it.
    const window = new Window(fromMs, Math.min(endMs, fromMs + DAY_S * 1_000))
    for (let i = 0; i < schedules.length; i++) {
      const { plan } = schedules[i]!
      if (window.learn(plan.zone) || i % SLICE_PLANS === SLICE_PLANS - 1) yield
      window.visit(plan, i, page)
      if (listed + page.length > runsMax) return null
      if (page.length < PAGE_RUNS) continue
      pages.push(pageOf(page))
      listed += page.length
      page = new Occurrences(PAGE_ROOM)
      yield
    }
  }
  pages.push(pageOf(page))
  return pages
}

/** By code units of the id. Schedules that come sorted cost one comparison each; others a merge sort in slices. */
function* sortById<S extends Planned>(schedules: S[]): Generator<void, S[], void> {
  let from = schedules
  for (let i = 0; i < from.length; i += SLICE_IDS) {
    const part = from.slice(i, i + SLICE_IDS)
    if (part.some((schedule, j) => j > 0 && schedule.id < part[j - 1]!.id)) {
      part.sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0))
      for (let j = 0; j < part.length; j++) from[i + j] = part[j]!
    }
    yield
  }
  let into: S[] = new Array(from.length)
  for (let width = SLICE_IDS; width < from.length; width *= 2) {
    for (let low = 0; low < from.length; low += 2 * width) yield* merge(from, into, low, width)
    ;[from, into] = [into, from]
  }
  return from
}

/** Merges from[low, low + width) and the width after it into the same places of `into`; stable. */
function* merge<S extends Planned>(from: readonly S[], into: S[], low: number, width: number): Generator<void, void> {
  const middle = Math.min(from.length, low + width)
  const high = Math.min(from.length, middle + width)
  if (middle === high || from[middle - 1]!.id <= from[middle]!.id) {
    for (let i = low; i < high; i++) into[i] = from[i]!
    yield
    return
  }
  let left = low
  let right = middle
  for (let i = low; i < high; i++) {
    const takeLeft = right === high || (left < middle && from[left]!.id <= from[right]!.id)
    into[i] = takeLeft ? from[left++]! : from[right++]!
    if (i % SLICE_IDS === 0) yield
  }
}

/** A stable radix sort by seconds since the start: one pass for windows up to 34 minutes, two up to 48 days. */
function* sortByDue(listed: readonly Page[], startMs: number): Generator<void, Page, void> {
  const originS = Math.floor(startMs / 1000)
  let length = 0
  let lastS = 0
  for (const page of listed) {
    length += page.dueMs.length
    for (const dueMs of page.dueMs) lastS = Math.max(lastS, dueMs / 1000 - originS)
    yield
  }
  let pages = listed
  let sorted: Page
  let divisor = 1
  do {
    const next = new Uint32Array(BUCKETS + 1)
    for (const page of pages) {
      count(page, next, originS, divisor)
      yield
    }
    for (let bucket = 1; bucket <= BUCKETS; bucket++) next[bucket]! += next[bucket - 1]!
    sorted = { dueMs: new Float64Array(length), refs: new Uint32Array(length) }
    for (const page of pages) {
      place(page, sorted, next, originS, divisor)
      yield
    }
    pages = pagesOf(sorted)
    divisor *= BUCKETS
  } while (divisor <= lastS)
  return sorted
}

/** Due times and schedules side by side, a piece that is worked through without a pause. */
interface Page {
  readonly dueMs: Float64Array
  readonly refs: Uint32Array
}

function pageOf(found: Occurrences): Page {
  return { dueMs: found.dueMs.subarray(0, found.length), refs: found.refs.subarray(0, found.length) }
}

function pagesOf({ dueMs, refs }: Page): Page[] {
  const pages: Page[] = []
  for (let i = 0; i < dueMs.length; i += PAGE_RUNS)
    pages.push({ dueMs: dueMs.subarray(i, i + PAGE_RUNS), refs: refs.subarray(i, i + PAGE_RUNS) })
  return pages
}

/** Counts a page; the count of a bucket goes one place further, so that a running sum says where buckets start. */
function count({ dueMs }: Page, counts: Uint32Array, originS: number, divisor: number): void {
  for (let i = 0; i < dueMs.length; i++) counts[bucketOf(dueMs[i]!, originS, divisor) + 1]!++
}

/** Moves a page to its places, in order; `next` holds the next free place of each bucket. */
function place(page: Page, into: Page, next: Uint32Array, originS: number, divisor: number): void {
  const { dueMs, refs } = page
  for (let i = 0; i < dueMs.length; i++) {
    const to = next[bucketOf(dueMs[i]!, originS, divisor)]!++
    into.dueMs[to] = dueMs[i]!
    into.refs[to] = refs[i]!
  }
}

function bucketOf(dueMs: number, originS: number, divisor: number): number {
  return Math.floor((dueMs / 1000 - originS) / divisor) & (BUCKETS - 1)
}

/** 12 bytes each, twice while sorting; 10,000 schedules that are due every 3 seconds of a 10-minute window. */
const RUNS_MAX = 2_000_000

/** A digit of 2,048 keeps the counters in the first-level cache. */
const BUCKETS = 2_048

/** What fits into about a tenth of a millisecond. A page has room for the last schedule that goes over its edge. */
const SLICE_PLANS = 1_024
const SLICE_IDS = 512
const PAGE_RUNS = 8_192
const PAGE_ROOM = 10_240
