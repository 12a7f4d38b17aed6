// What faults and newcomers found: each line here is one whose loss brings such a finding back.

import type { Mutant } from './mutant.ts'

export const MENDS_MUTANTS: readonly Mutant[] = [
  {
    name: 'stop: a step that fails ends the way down',
    file: 'engine/base/lifecycle.ts',
    find: `      if (this.#failure === null) this.#failure = { error }
      else this.#log`,
    replace: `      if (this.#failure === null) throw error
      else this.#log`,
    test: 'stop-failures: on the way down every step is taken',
  },
  {
    name: 'stop: a step that fails is not told',
    file: 'engine/base/lifecycle.ts',
    find: `if (this.#failure !== null) throw this.#failure.error`,
    replace: ``,
    test: 'stop-failures: on the way down every step is taken',
  },
  {
    name: 'start: a database that is not up ends it at once',
    file: 'engine/store/patience.ts',
    find: `if (!isRetryable(error) || leftMs() <= 0) throw`,
    replace: `if (error !== null) throw`,
    test: 'waiting: a start waits until the server is up',
  },
  {
    name: 'start: it waits for what waiting cannot help',
    file: 'engine/store/patience.ts',
    find: `if (!isRetryable(error) || leftMs() <= 0) throw`,
    replace: `if (leftMs() <= 0) throw`,
    test: 'waiting: and what waiting cannot help ends it at once',
  },
  {
    name: 'start: it waits for ever',
    file: 'engine/store/patience.ts',
    find: `if (!isRetryable(error) || leftMs() <= 0) throw`,
    replace: `if (!isRetryable(error)) throw`,
    test: 'waiting: it gives up after databaseWaitMs',
  },
  {
    name: 'start: production runs on the embedded server',
    file: 'engine/access.ts',
    find: `if (this.settings.embedded || process.env.NODE_ENV !== 'production') return`,
    replace: `if (this.settings !== null) return`,
    test: 'waiting: in production nothing runs on the embedded server',
  },
  {
    name: 'tasks: two definitions of one name',
    file: 'engine/task-files.ts',
    find: `if (double !== undefined) throw definedTwice(double.task, double.places)`,
    replace: ``,
    test: 'task-files: two definitions of one name are refused',
  },
  {
    name: 'tasks: an engine without any',
    file: 'engine/task-files.ts',
    find: `if (tasks.length > 0 || given.length === 0) return`,
    replace: `if (tasks.length >= 0) return`,
    test: 'task-files: a folder without a task',
  },
  {
    name: 'tasks: options that nobody knows',
    file: 'engine/base/task.ts',
    find: `if (!FIELDS.includes(field))`,
    replace: `if (field === '')`,
    test: 'task-files: defineTask refuses options',
  },
  {
    name: 'arguments: what is no name chooses any',
    file: 'engine/filters.ts',
    find: `  if (!isName(value))
    throw new EngineError('VALIDATION', `,
    replace: `  if (value === '')
    throw new EngineError('VALIDATION', `,
    test: 'arguments: whatever names something is checked',
  },
  {
    name: 'expiry: one that is near waits for the beat',
    file: 'engine/expiry.ts',
    find: `      this.#planned.delete(stepMs)
      this.sweep()
`,
    replace: `      this.#planned.delete(stepMs)
`,
    test: 'expiry: an expiry that is near is obeyed without a beat',
  },
  {
    name: 'expiry: what waits here for a lane expires with its turn alone',
    file: 'engine/scheduler/scheduler.ts',
    find: ` + this.#jobs.expire()`,
    replace: ``,
    test: 'expiry: what a node holds and cannot begin in time',
  },
  {
    name: 'log: a dead letter is a warning',
    file: 'engine/job-log.ts',
    find: `this.#log.error({ ...facts, code: error.code`,
    replace: `this.#log.warn({ ...facts, code: error.code`,
    test: 'job-log: a failed attempt is a warning',
  },
  {
    name: 'log: lines wait without a bound',
    file: 'engine/job-log.ts',
    find: `if (this.#waiting.length >= WAITING_MAX) {`,
    replace: `if (this.#waiting.length < 0) {`,
    test: 'job-log: a log that throws loses its line only',
  },
  {
    name: 'clock: attempts carry the clock of their host',
    file: 'engine/syncer/attempt-rows.ts',
    find: `microsOf(finishedAtMs + leadMs)`,
    replace: `microsOf(finishedAtMs)`,
    test: 'clock-off: writes times that',
  },
  {
    name: 'clock: times are moved although nothing contradicts them',
    file: 'engine/store/database-time.ts',
    find: `if (this.#lowMs <= oursMs + 1 && this.#highMs >= oursMs) return 0`,
    replace: `if (this.#lowMs === Number.NEGATIVE_INFINITY) return 0`,
    test: 'schedules-loop: moved only where answers contradict',
  },
]
