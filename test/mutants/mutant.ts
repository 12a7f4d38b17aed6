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
