// Hosts whose clocks are minutes off: what they write are the database's times, so that history can be read in order.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { systemClock } from '../engine/base/clock.ts'
import { type EngineBundle, withEngines } from './support/engine.ts'
import { endAll, startEngine } from './support/engine-process.ts'

const MINUTE = 60_000
const TASKS = ['witness', 'ledger', 'public'].map((name) => new URL(`./tasks/${name}.js`, import.meta.url).href)
/** What the estimate of the distance may be wrong by: half of a round trip, on a busy machine. */
const SLACK_MS = 250

after(endAll)

async function databaseMs({ query }: EngineBundle): Promise<number> {
  const [row] = await query<{ ms: number }>('select extract(epoch from clock_timestamp())::float8 * 1000 as ms')
  return row!.ms
}

for (const offMs of [5 * MINUTE, -5 * MINUTE])
  test(
    `a host whose clock is ${offMs / MINUTE} minutes off writes times that the database's clock has shown`,
    {
      timeout: 2 * MINUTE,
    },
    () =>
      withEngines(async (bundle) => {
        const { base, client, query, inState, until, url, schema } = bundle
        await query('create table if not exists millrace.effect (job bigint, run int, pid int)')
        await query('delete from millrace.effect')
        const fromMs = await databaseMs(bundle)
        const engine = startEngine(
          { ...base, tasks: TASKS, threads: 2, nodeHeartbeatMs: 500 },
          { CLOCK_OFF_MS: String(offMs), MILLRACE_TEST_HISTORY: '/dev/null' },
        )
        await engine.ready()
        const ids = {
          completed: (await client.enqueue('witness', { restMs: 20 })).id,
          retried: (await client.enqueue('witness', { failures: 1 })).id,
          dead: (await client.enqueue('witness', { failures: 9 }, { maxAttempts: 1 })).id,
          ledger: (await client.enqueue('ledger', { url, schema })).id,
        }
        await Promise.all([
          inState(ids.completed, 'completed'),
          inState(ids.retried, 'completed'),
          inState(ids.ledger, 'completed'),
          inState(ids.dead, 'failed'),
        ])
        const long = (await client.enqueue('wait', 600_000, { timeoutMs: 0 })).id
        await until('it is seen to run', async () => (await query('select from millrace.running')).length === 1)
        await until('they are told', async () => (await engine.stats()).waitMs.p50 > 0)
        const { waitMs } = await engine.stats()
        assert.ok(waitMs.p99 < MINUTE, `jobs waited ${waitMs.p99} ms`)
        const seen = await query<{ ms: number }>(
          'select extract(epoch from started_at)::float8 * 1000 as ms from millrace.running',
        )
        await engine.stop(500)
        const untilMs = await databaseMs(bundle)
        const times = await query<{ job: number; outcome: string; started: number; finished: number }>(
          `select job_id as job, outcome, extract(epoch from started_at)::float8 * 1000 as started,
           extract(epoch from finished_at)::float8 * 1000 as finished from millrace.attempts`,
        )
        assert.deepEqual(times.map(({ outcome }) => outcome).sort(), [
          'completed',
          'completed',
          'completed',
          'failed',
          'failed',
          'released',
        ])
        for (const { ms } of seen) assert.ok(ms >= fromMs - SLACK_MS && ms <= untilMs + SLACK_MS, `running since ${ms}`)
        for (const { job, outcome, started, finished } of times) {
          const story = JSON.stringify({ job, outcome, fromMs, started, finished, untilMs })
          assert.ok(started >= fromMs - SLACK_MS, story)
          assert.ok(finished >= started, story)
          assert.ok(finished <= untilMs + SLACK_MS, story)
        }
        assert.ok(times.some(({ job }) => Number(job) === long))
      }),
  )

test(
  'explain tells the life of a job in order that ran on a host that is ahead, and then on one that is behind',
  {
    timeout: 2 * MINUTE,
  },
  () =>
    withEngines(async ({ base, client, inState }) => {
      const start = (offMs: number) =>
        startEngine(
          { ...base, tasks: TASKS, threads: 1 },
          { CLOCK_OFF_MS: String(offMs), MILLRACE_TEST_HISTORY: '/dev/null' },
        )
      const ahead = start(5 * MINUTE)
      await ahead.ready()
      const retry = { kind: 'fixed', delayMs: 5_000 } as const
      const { id } = await client.enqueue('witness', { failures: 1, restMs: 50 }, { retry })
      await inState(id, 'retrying')
      await ahead.stop()
      const behind = start(-5 * MINUTE)
      await behind.ready()
      await inState(id, 'completed')
      await behind.stop()
      const { events } = await client.console.explain(id)
      const states = events.map(({ state }) => state)
      assert.deepEqual(states.filter((state) => state === 'running').length, 2, states.join())
      const times = events.flatMap(({ at }) => (at === null ? [] : [at.getTime()]))
      for (const [no, at] of times.entries())
        if (no > 0) assert.ok(at >= times[no - 1]! - SLACK_MS, JSON.stringify(events, null, 1))
      assert.ok(times.at(-1)! - times[0]! < MINUTE)
    }),
)

for (const offMs of [5 * MINUTE, -5 * MINUTE])
  test(`a delay counts from the database's time, also where the clock is ${offMs / MINUTE} minutes off`, () =>
    withEngines(async ({ another, engine, query }) => {
      const clock = { ...systemClock, wallMs: () => systemClock.wallMs() + offMs }
      const clients = [another({ clock }), await engine({ clock })]
      for (const client of clients) {
        const { id } = await client.enqueue('echo', 1, { delayMs: 10 * MINUTE, queue: 'later' })
        const [job] = await query<{ delay: number }>(
          'select extract(epoch from run_at - created_at)::float8 * 1000 as delay from millrace.jobs where id = $1',
          [id],
        )
        const wrongMs = Math.abs(job!.delay - 10 * MINUTE)
        assert.ok(wrongMs < MINUTE, `due in ${job!.delay} ms`)
      }
    }))
