// Nothing starts early by the database's clock, however slow and lopsided the way to it is: what is kept of that clock is
// a lower bound, and what waits for a time waits for that bound.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { defineTask } from '../engine/index.ts'
import { DatabaseTime } from '../engine/store/database-time.ts'
import { ManualClock } from './support/manual-clock.ts'
import { withFleet } from './support/schedule-fleet.ts'
import { until } from './support/until.ts'
import { wireProxy } from './support/wire-proxy.ts'

test("what the database's clock surely shows is never ahead of it, and falls behind by no more than the quickest way back", () => {
  const tenths = (most: number) => fc.integer({ min: 0, max: most * 10 }).map((n) => n / 10)
  const wayMs = fc.oneof(fc.constant(0), tenths(500))
  const answer = fc.record({ outMs: wayMs, backMs: wayMs, pauseMs: tenths(300_000) })
  const drift = fc.integer({ min: -150, max: 150 }).map((n) => n * 1e-6)
  const offset = fc.integer({ min: -1e9, max: 1e9 })
  fc.assert(
    fc.property(fc.array(answer, { minLength: 1, maxLength: 20 }), drift, offset, (answers, rate, offsetMs) => {
      const clock = new ManualClock(1_000_000)
      const time = new DatabaseTime(clock)
      const beganMs = clock.steadyMs()
      const databaseMs = () => clock.steadyMs() + offsetMs + (clock.steadyMs() - beganMs) * rate
      for (const { outMs, backMs, pauseMs } of answers) {
        const sentMs = clock.steadyMs()
        clock.advance(outMs)
        const said = databaseMs()
        clock.advance(backMs)
        time.note(sentMs, clock.steadyMs(), said)
        const behindMs = databaseMs() - time.surelyMs()
        assert.ok(behindMs >= -0.2, `ahead by ${-behindMs} ms`)
        assert.ok(behindMs <= backMs + 0.2, `behind by ${behindMs} ms after an answer that took ${backMs} ms`)
        assert.ok(Math.abs(databaseMs() - time.nowMs()) <= (outMs + backMs) / 2 + 0.2)
        clock.advance(pauseMs)
      }
    }),
    { numRuns: 500 },
  )
})

test(
  'with a slow way to the database neither a delayed job nor an occurrence starts before its time',
  { timeout: 120_000 },
  () =>
    withFleet(async ({ client, db, start, query }) => {
      await client.migrate()
      const proxy = await wireProxy(db.url)
      try {
        proxy.delay(150)
        const now = defineTask({ name: 'now', inline: true, run: () => Date.now() })
        const engine = await start({ database: proxy.url, tasks: [now] })
        await client.schedules.create({ id: 'each second', task: 'now', cron: '* * * * * *' })
        const firstMs = Date.now() + 3_000
        const ids: number[] = []
        for (let nth = 0; nth < 6; nth++)
          ids.push((await client.enqueue('now', null, { runAt: firstMs + nth * 700 + 333 })).id)
        await until('all have run', async () => {
          const done = await query('select from millrace.attempt where job_id = any ($1)', [ids])
          return done.length === ids.length
        })
        const early = await query(
          `select job_id, (result #>> '{}')::float8 - extract(epoch from coalesce(o.scheduled_at, j.run_at)) * 1000 as by
         from millrace.attempt a join millrace.job j on j.id = a.job_id left join millrace.occurrence o using (job_id)
         where (result #>> '{}')::float8 < extract(epoch from coalesce(o.scheduled_at, j.run_at)) * 1000 - 2`,
        )
        assert.deepEqual(early, [])
        const [fired] = await query<{ n: number }>(
          'select count(*)::int as n from millrace.occurrence where job_id is not null',
        )
        assert.ok(fired!.n > 0)
        proxy.delay(0)
        await engine.stop(2_000)
      } finally {
        await proxy.close()
      }
    }),
)
