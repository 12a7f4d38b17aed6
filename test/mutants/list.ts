// The mutations of `npm run mutants`: one line broken each, and the test that must turn red. A promise whose line can be
// broken with every test green is no promise. Each names the mistake, not the line.

/** A mutation: a piece of a file that is there exactly once, and what takes its place. */
export interface Mutant {
  /** The mistake, in a few words; unique. */
  readonly name: string
  readonly file: string
  readonly find: string
  readonly replace: string
  /** `cron: a window holds` is test/cron.test.ts, the tests whose titles contain "a window holds". */
  readonly test: string
}

export const MUTANTS: readonly Mutant[] = [
  {
    name: 'cron: a window holds its end (one second)',
    file: 'engine/schedule/occurrences.ts',
    find: `    const localS = minuteS + plan.onlySecond
    if (localS >= fromS && localS < piece.toS)`,
    replace: `    const localS = minuteS + plan.onlySecond
    if (localS >= fromS && localS <= piece.toS)`,
    test: 'cron: a window is half open',
  },
  {
    name: 'cron: a window holds its end (low seconds)',
    file: 'engine/schedule/occurrences.ts',
    find: `    const localS = minuteS + lowestBit(low)
    if (localS >= fromS && localS < piece.toS)`,
    replace: `    const localS = minuteS + lowestBit(low)
    if (localS >= fromS && localS <= piece.toS)`,
    test: 'cron: a window is half open',
  },
  {
    name: 'cron: a window holds its end (high seconds)',
    file: 'engine/schedule/occurrences.ts',
    find: `    const localS = minuteS + 30 + lowestBit(high)
    if (localS >= fromS && localS < piece.toS)`,
    replace: `    const localS = minuteS + 30 + lowestBit(high)
    if (localS >= fromS && localS <= piece.toS)`,
    test: 'cron: a window is half open',
  },
  {
    name: 'cron: a window that begins within a second holds that second',
    file: 'engine/schedule/occurrences.ts',
    find: `this.#startS = Math.max(0, Math.ceil(startMs / 1000))`,
    replace: `this.#startS = Math.max(0, Math.floor(startMs / 1000))`,
    test: 'cron: a window is half open',
  },
  {
    name: 'cron: a window that ends within a second leaves that second out',
    file: 'engine/schedule/occurrences.ts',
    find: `this.#endS = Math.min(END_S, Math.ceil(endMs / 1000))`,
    replace: `this.#endS = Math.min(END_S, Math.floor(endMs / 1000))`,
    test: 'cron: a window is half open',
  },
  {
    name: 'cron: a window goes on to the second after its end',
    file: 'engine/schedule/occurrences.ts',
    find: `this.#endS = Math.min(END_S, Math.ceil(endMs / 1000))`,
    replace: `this.#endS = Math.min(END_S, Math.floor(endMs / 1000) + 1)`,
    test: 'cron: a window is half open',
  },
  {
    name: 'index: a window holds its end',
    file: 'engine/schedule/run-index.ts',
    find: `runs.dueAt(position) < endMs`,
    replace: `runs.dueAt(position) <= endMs`,
    test: 'run-index: a query is half open',
  },
  {
    name: 'index: the days of a window overlap by a second',
    file: 'engine/schedule/run-index.ts',
    find: `Math.min(endMs, fromMs + DAY_S * 1_000)`,
    replace: `Math.min(endMs, fromMs + DAY_S * 1_000 + 1)`,
    test: 'run-index: an index is half open',
  },
  {
    name: 'zone: what a span repeats is forgotten at the edge of a block',
    file: 'engine/schedule/zone.ts',
    find: `cutS === startS ? reachedS : Math.max(reachedS, cutS + offsetS)`,
    replace: `cutS === startS ? reachedS : cutS + offsetS`,
    test: 'cron: a clock change at, shortly before',
  },
  {
    name: 'zone: nothing before a block is looked at',
    file: 'engine/schedule/zone.ts',
    find: `const LOOK_BACK_S = 2 * DAY_S`,
    replace: `const LOOK_BACK_S = 0 * DAY_S`,
    test: 'cron: a clock change at, shortly before',
  },
]
