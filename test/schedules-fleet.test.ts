// Many nodes and one second: engines in processes of their own, clocks that are off, a process that is killed and people
// who change their minds, while a thousand schedules are due at once.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../engine/base/clock.ts'
import { withEngines } from './support/engine.ts'
import { type EngineProcess, endAll, startEngine } from './support/engine-process.ts'

const TASKS = new URL('./tasks/behaved.js', import.meta.url).href
const SCHEDULES = 1_000
/** So long the engines have to learn of the schedules before they are due. */
const AHEAD_MS = 6_000
/** Those that are changed become due so much later. */
const LATER_MS = 8_000
const MINUTE = 60_000

function cronAt(atMs: number): string {
  const at = new Date(atMs)
  return `${at.getUTCSeconds()} ${at.getUTCMinutes()} ${at.getUTCHours()} * * *`
}

/** What happens to schedule number n in the second in which it is due. */
function fateOf(n: number): 'stays' | 'paused' | 'changed' | 'deleted' {
  return n % 10 < 7 ? 'stays' : (['paused', 'changed', 'deleted'] as const)[(n % 10) - 7]!
}

test('three nodes with clocks minutes apart and 1,000 schedules due at once, some paused, changed, deleted, one node killed in that second: each occurrence is decided and run once', async () => {
  await withEngines(async ({ base, client, query, until, connection, schema }) => {
    const start = (offMs: number): EngineProcess =>
      startEngine(
        { ...base, tasks: TASKS, threads: 1, nodeLimitMs: 3_000, nodeHeartbeatMs: 500 },
        { CLOCK_OFF_MS: String(offMs) },
      )
    const nodes = [start(0), start(7 * MINUTE), start(-7 * MINUTE)]
    try {
      await Promise.all(nodes.map((node) => node.ready()))
      const [clock] = await query<{ ms: number }>('select extract(epoch from clock_timestamp())::float8 * 1000 as ms')
      const dueMs = Math.ceil((clock!.ms + AHEAD_MS) / 1_000) * 1_000
      const waitMs = dueMs - clock!.ms
      const dueSteadyMs = systemClock.steadyMs() + waitMs
      const list = Array.from({ length: SCHEDULES }, (_, n) => ({
        id: `job ${n}`,
        task: 'noop',
        cron: cronAt(dueMs),
        payload: { n },
        catchUp: 'none' as const,
      }))
      await client.schedules.register(list)

      // people, in that second, one after the other and in no order that the nodes know
      const person = await connection()
      const change = async () => {
        await systemClock.sleep(Math.max(0, dueSteadyMs - systemClock.steadyMs() - 30))
        for (let n = 0; n < SCHEDULES; n++) {
          const fate = fateOf(n)
          if (fate === 'stays') continue
          const call =
            fate === 'paused'
              ? `pause_schedule('job ${n}')`
              : fate === 'deleted'
                ? `delete_schedule('job ${n}')`
                : `put_schedule('job ${n}', 'noop', '${cronAt(dueMs + LATER_MS)}', payload => '{"n": ${n}}', catch_up => 'none')`
          await person.query(`select "${schema}".${call}`)
        }
      }
      const kill = async () => {
        const pid = await until('somebody has won an occurrence', async () => {
          const [row] = await query<{ pid: number }>(
            'select n.pid from millrace.occurrence o join millrace.node n on n.id = o.node_id limit 1',
          )
          return row?.pid
        })
        const winner = nodes.find((node) => node.pid === pid)!
        await winner.kill9()
        return winner
      }
      const [killed] = await Promise.all([kill(), change()])
      assert.equal(nodes.filter((node) => !node.isOver).length, 2)

      const changedLater = SCHEDULES / 10
      await until('those that were changed are decided at their new time', async () => {
        const [row] = await query<{ n: number }>(
          'select count(*)::int as n from millrace.occurrence where scheduled_at = to_timestamp($1)',
          [(dueMs + LATER_MS) / 1_000],
        )
        return row!.n === changedLater
      })
      await until('every job has ended', async () => {
        const [row] = await query<{ open: number }>(
          `select (select count(*) from millrace.job j where not exists (
            select from millrace.attempt a where a.job_id = j.id and (a.outcome = 'c' or (a.outcome = 'x' and a.started_at is null))))::int as open`,
        )
        return row!.open === 0
      })

      const rows = await query<{ id: string; at: number; job: number; jobs: number; completed: number; ms: number }>(
        `select o.schedule_id as id, extract(epoch from o.scheduled_at)::float8 * 1000 as at,
          (select extract(epoch from min(a.started_at) - o.scheduled_at)::float8 * 1000 from millrace.attempt a where a.job_id = o.job_id) as ms,
          (select count(*) from millrace.job j where j.meta ->> 'schedule' = o.schedule_id
            and (j.meta ->> 'scheduledAt')::timestamptz = o.scheduled_at
            and not exists (select from millrace.attempt a where a.job_id = j.id and a.outcome = 'x'))::int as jobs,
          (select count(*) from millrace.attempt a where a.job_id = o.job_id and a.outcome = 'c')::int as completed
        from millrace.occurrence o where o.outcome = 'enqueued'`,
      )
      const [made] = await query<{ jobs: number; others: number }>(
        `select (select count(*) from millrace.job j where not exists (
            select from millrace.attempt a where a.job_id = j.id and a.outcome = 'x'))::int as jobs,
          (select count(*) from millrace.occurrence where outcome <> 'enqueued')::int as others`,
      )
      assert.equal(made!.jobs, rows.length, 'every job that was not withdrawn belongs to an occurrence')
      assert.equal(made!.others, 0)
      for (const { id, jobs, completed, ms } of rows) {
        assert.deepEqual([id, jobs, completed], [id, 1, 1])
        assert.ok(ms >= 0, `${id} ran ${-ms} ms before its time`)
      }
      const times = new Map<string, number[]>()
      for (const { id, at } of rows) times.set(id, [...(times.get(id) ?? []), at - dueMs])
      let before = 0
      for (let n = 0; n < SCHEDULES; n++) {
        const found = (times.get(`job ${n}`) ?? []).sort((a, b) => a - b)
        const fate = fateOf(n)
        if (fate === 'stays') assert.deepEqual(found, [0], `job ${n}`)
        else if (fate === 'changed') assert.deepEqual(found.slice(-1), [LATER_MS], `job ${n}`)
        if (fate !== 'stays' && found[0] === 0) before++
        assert.ok(found.length <= (fate === 'changed' ? 2 : 1), `job ${n} at ${found}`)
      }
      // both happen: some of them ran before their owner changed his mind, and some did not
      assert.ok(before < (SCHEDULES * 3) / 10, 'some were changed in time')
      // what was changed before it was decided was never decided under its old time
      const [late] = await query<{ n: number }>(
        `select count(*)::int as n from millrace.occurrence o join millrace.schedules s on s.id = o.schedule_id
         where (s.paused and o.decided_at > s.updated_at) or (o.scheduled_at <= s.since and o.decided_at > s.since)`,
      )
      assert.equal(late!.n, 0)
      assert.ok(killed.isOver)
    } finally {
      await endAll()
    }
  })
})
