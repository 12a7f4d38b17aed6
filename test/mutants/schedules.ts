// Schedules: windows and zones, when occurrences are due, decided and made ahead, and what waits for a time.

import type { Mutant } from './mutant.ts'

export const SCHEDULES_MUTANTS: readonly Mutant[] = [
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
  {
    name: 'schedules: an older revision fires',
    file: 'engine/store/migrations/0004_schedules.sql',
    find: `when s.revision <> w.v then 'changed'`,
    replace: `when false then 'changed'`,
    test: 'schedules: each is refused by its name',
  },
  {
    name: 'schedules: due times out of its bounds fire',
    file: 'engine/store/migrations/0004_schedules.sql',
    find: `when to_timestamp(w.d / 1000.0) <= s.since or to_timestamp(w.d / 1000.0) < s.starts_at or to_timestamp(w.d / 1000.0) >= s.ends_at then 'out'`,
    replace: `when false then 'out'`,
    test: 'schedules: each is refused by its name',
  },
  {
    name: 'schedules: an occurrence is made before its time',
    file: 'engine/store/migrations/0004_schedules.sql',
    find: `when to_timestamp((w.d + w.j) / 1000.0) > v_now then 'early'`,
    replace: `when false then 'early'`,
    test: 'schedules: each is refused by its name',
  },
  {
    name: 'schedules: overlaps although it must not',
    file: 'engine/store/migrations/0004_schedules.sql',
    find: `when s.overlap = 'skip' and millrace`,
    replace: `when false and millrace`,
    test: 'schedules: overlap skip',
  },
  {
    name: 'early: a change leaves what was made ahead',
    file: 'engine/store/migrations/0004_schedules.sql',
    find: `    perform millrace.cancel(o.job_id, 'its schedule was changed before it was due');
`,
    replace: ``,
    test: 'early: withdraws what was made ahead',
  },
  {
    name: 'early: a change is not asked for at the due time',
    file: 'engine/store/migrations/0004_schedules.sql',
    find: `select c.last_value + c.is_called::int = p_change and clock_timestamp() >= p_at,`,
    replace: `select clock_timestamp() >= p_at,`,
    test: 'early: withdraws what was made ahead',
  },
  {
    name: 'early: a confirmation before the time stands',
    file: 'engine/store/migrations/0004_schedules.sql',
    find: `select c.last_value + c.is_called::int = p_change and clock_timestamp() >= p_at,`,
    replace: `select c.last_value + c.is_called::int = p_change,`,
    test: 'early: a confirmation comes at the due time',
  },
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
]
