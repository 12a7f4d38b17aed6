// The mutations of `npm run mutants`: one line broken each, and the test that must turn red. A promise whose line can be
// broken with every test green is no promise. Each names the mistake, not the line.

import { LEASE_MUTANTS } from './leases.ts'

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
  ...LEASE_MUTANTS,
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

  // What starts, waits and expires by time.
  {
    name: 'time: what is surely reached is the upper bound',
    file: 'engine/store/database-time.ts',
    find: `return this.#clock.steadyMs() + this.#lowMs
`,
    replace: `return this.#clock.steadyMs() + this.#highMs
`,
    test: 'database-time: with a slow way',
  },
  {
    name: 'time: what is surely reached is the middle of the bounds',
    file: 'engine/store/database-time.ts',
    find: `return this.#clock.steadyMs() + this.#lowMs
`,
    replace: `return this.nowMs()
`,
    test: 'database-time: surely shows',
  },
  {
    name: 'time: bounds do not widen while clocks drift apart',
    file: 'engine/store/database-time.ts',
    find: `Math.max(this.#lowMs - drift, low)`,
    replace: `Math.max(this.#lowMs, low)`,
    test: 'database-time: surely shows',
  },
  {
    name: 'early: what was made ahead begins although its time has not come',
    file: 'engine/occurrences/early.ts',
    find: `if (lateMs < 0) {`,
    replace: `if (lateMs < -1e9) {`,
    test: 'schedules-loop: wait as PreRun, and begin at their time',
  },
  {
    name: 'inbox: a message goes in although its sender was told that it did not',
    file: 'threads/inbox.ts',
    find: `        this.#senders.delete(sender)
        this.#timeoutCount++`,
    replace: `        this.#timeoutCount++`,
    test: 'inbox: senders are told',
  },
  {
    name: 'inbox: a sender that was admitted times out all the same',
    file: 'threads/inbox.ts',
    find: `          timer.cancel()
          resolve(isSent)`,
    replace: `          resolve(isSent)`,
    test: 'inbox: senders are told',
  },
  {
    name: 'expiry: what has expired waits for a lane first',
    file: 'engine/scheduler/held-jobs.ts',
    find: `if (chunk.expiresAtMs !== null && chunk.expiresAtMs <= this.#dueNowMs()) {`,
    replace: `if (chunk.expiresAtMs !== null && chunk.expiresAtMs < 0) {`,
    test: 'scheduler: has expired when it arrives',
  },
  {
    name: 'expiry: the moment itself is still in time',
    file: 'engine/scheduler/held-jobs.ts',
    find: `if (chunk.expiresAtMs !== null && chunk.expiresAtMs <= this.#dueNowMs()) {`,
    replace: `if (chunk.expiresAtMs !== null && chunk.expiresAtMs < this.#dueNowMs()) {`,
    test: 'scheduler: has expired when it arrives',
  },
  {
    name: 'virtual clock: what is due is called in the order in which it was set',
    file: 'engine/testing/virtual-clock.ts',
    find: `due.sort((a, b) => a.atMs - b.atMs || a.order - b.order)`,
    replace: `due.sort((a, b) => a.order - b.order)`,
    test: 'virtual-clock: what a move makes due',
  },
  {
    name: 'virtual clock: what is due is called in the reverse order',
    file: 'engine/testing/virtual-clock.ts',
    find: `due.sort((a, b) => a.atMs - b.atMs || a.order - b.order)`,
    replace: `due.sort((a, b) => b.atMs - a.atMs || b.order - a.order)`,
    test: 'virtual-clock: what a move makes due',
  },
  {
    name: 'virtual clock: a cancelled timer fires in the same move',
    file: 'engine/testing/virtual-clock.ts',
    find: `for (const pending of due) if (this.#pending.delete(pending)) pending.fn()`,
    replace: `for (const pending of due) {
      this.#pending.delete(pending)
      pending.fn()
    }`,
    test: 'virtual-clock: cancelled by a callback',
  },
  {
    name: 'payload: one at the limit is refused',
    file: 'engine/enqueuer/payload.ts',
    find: `Buffer.byteLength(text) > bytesMax)`,
    replace: `Buffer.byteLength(text) >= bytesMax)`,
    test: 'enqueue: exactly the limit',
  },
  {
    name: 'payload: characters are counted, not bytes',
    file: 'engine/enqueuer/payload.ts',
    find: `if (text.length * 3 > bytesMax && Buffer.byteLength(text) > bytesMax)`,
    replace: `if (text.length > bytesMax)`,
    test: 'enqueue: exactly the limit',
  },
  {
    name: 'payload: one at the limit is refused by SQL',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `if octet_length(payload::text) > 2097152 then`,
    replace: `if octet_length(payload::text) >= 2097152 then`,
    test: 'enqueue: exactly the limit',
  },
  {
    name: 'result: one at the limit is refused',
    file: 'threads/outcome.ts',
    find: `if (bytes > bytesMax)`,
    replace: `if (bytes >= bytesMax)`,
    test: 'pool: one at the limit does not',
  },
  {
    name: 'heartbeat: exactly one interval is not missed yet',
    file: 'engine/orchestrator/deadline.ts',
    find: `Math.floor(sinceMs / intervalMs)`,
    replace: `Math.ceil(sinceMs / intervalMs) - 1`,
    test: 'retry: exactly one interval',
  },
  {
    name: 'heartbeat: an interval that has begun is missed',
    file: 'engine/orchestrator/deadline.ts',
    find: `Math.floor(sinceMs / intervalMs)`,
    replace: `Math.ceil(sinceMs / intervalMs)`,
    test: 'retry: exactly one interval',
  },
  {
    name: 'complete: any run may complete the job',
    file: 'engine/store/migrations/0006_complete.sql',
    find: `where l.id = complete.lease and c.run = complete.run and`,
    replace: `where l.id = complete.lease and`,
    test: 'complete: another number of run',
  },
  {
    name: 'keys: whoever had a key lets go of it for who has it now',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `k.key = j.key and k.job_id = j.id;`,
    replace: `k.key = j.key;`,
    test: 'complete: belongs to the job that has it now',
  },

  // Schedules.
  {
    name: 'schedules: what was due during a pause is made up for',
    file: 'engine/store/migrations/0005_console.sql',
    find: `since = case when pause_schedule.paused then s.since else clock_timestamp() end`,
    replace: `since = s.since`,
    test: 'schedules: made up for by nobody',
  },
  {
    name: 'schedules: a pause moves the beginning, and a resume does not',
    file: 'engine/store/migrations/0005_console.sql',
    find: `since = case when pause_schedule.paused then s.since else clock_timestamp() end`,
    replace: `since = case when pause_schedule.paused then clock_timestamp() else s.since end`,
    test: 'schedules: made up for by nobody',
  },
  {
    name: 'schedules: a due time that was decided is decided again',
    file: 'engine/store/migrations/0004_schedules.sql',
    find: `then 'gone'
        when exists (select from millrace.occurrence o`,
    replace: `then 'gone'
        when false and exists (select from millrace.occurrence o`,
    test: 'schedules: a scheduler that starts when the job',
  },
  {
    name: 'schedules: a paused one fires',
    file: 'engine/store/migrations/0004_schedules.sql',
    find: `when s.paused then 'paused'`,
    replace: `when false then 'paused'`,
    test: 'schedules: each is refused by its name',
  },

  // Panics, stops, workers.
  {
    name: 'stop: jobs that were ended are not named',
    file: 'engine/scheduler/reports.ts',
    find: `if ((slots.flags[slot]! & FLAG.stop) !== 0) jobs.interrupt(slot)`,
    replace: ``,
    test: 'worker: names what it ended then',
  },
  {
    name: 'stop: what runs has no time by default',
    file: 'engine/config/settings.ts',
    find: `default: 10 * SECOND,
    min: 0,
    max: HOUR,
    about: 'Time that running`,
    replace: `default: 0,
    min: 0,
    max: HOUR,
    about: 'Time that running`,
    test: 'worker: names what it ended then',
  },
  {
    name: 'claim: workers wait for each other',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `begin
  foreach v_queue in array p_queues loop`,
    replace: `begin
  perform pg_advisory_xact_lock(1);
  foreach v_queue in array p_queues loop`,
    test: 'store: three workers claim at once',
  },
  {
    name: 'retry: a job that failed is dead at once',
    file: 'engine/orchestrator/retry.ts',
    find: `if (!retryable || attempt >= maxAttempts) return NO_RETRY`,
    replace: `if (attempt > 0) return NO_RETRY`,
    test: 'failure: after a panic',
  },
  {
    name: 'retry: one attempt too many',
    file: 'engine/orchestrator/retry.ts',
    find: `if (!retryable || attempt >= maxAttempts) return NO_RETRY`,
    replace: `if (!retryable || attempt > maxAttempts) return NO_RETRY`,
    test: 'failure: after a panic',
  },
  {
    name: 'trace: spans of the real API are not found',
    file: 'engine/base/trace.ts',
    find: `Symbol.for('opentelemetry.js.api.1')`,
    replace: `Symbol.for('opentelemetry.js.api.2')`,
    test: 'enqueue: with the API of OpenTelemetry itself',
  },
  {
    name: 'trace: the key of the span is another',
    file: 'engine/base/trace.ts',
    find: `Symbol.for('OpenTelemetry Context Key SPAN')`,
    replace: `Symbol.for('SPAN')`,
    test: 'enqueue: with the API of OpenTelemetry itself',
  },
]
