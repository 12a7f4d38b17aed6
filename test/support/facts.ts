// What the tables alone must show, at any moment and whatever happened before: the third witness of support/history.ts,
// asked at the end of every test of whole engines. One statement, and so one moment.

import assert from 'node:assert/strict'

type Query = <Row extends Record<string, unknown>>(sql: string, params?: unknown[]) => Promise<Row[]>

/** Beyond this many jobs it takes longer than it tells. */
const JOBS_MAX = 20_000
/** Times of attempts are whole milliseconds of the machines that ran them. */
const SLACK = `interval '5 ms'`

export interface Violation extends Record<string, unknown> {
  readonly rule: string
  readonly job: number
  readonly detail: string
}

const RULES = `
  with state as materialized (select id, state, ephemeral from millrace.jobs),
  place as materialized (
    select r.first_id + n as job_id, 'ready' as place from millrace.ready r, generate_series(0, r.count - 1) n
    union all select s.first_id + n, 'scheduled' from millrace.scheduled s, generate_series(0, s.count - 1) n
    union all select b.job_id, 'blocked' from millrace.blocked b
    union all select d.job_id, 'dead' from millrace.dead d
    union all select a.job_id, 'ended' from millrace.attempt a where a.outcome in ('c', 'x')
  ),
  ran as materialized (
    select a.job_id, a.run, a.started_at, a.finished_at, j.run_at, j.queue_id, j.group_key, coalesce(j.group_limit, 1) as group_limit
    from millrace.attempt a join millrace.job j on j.id = a.job_id where a.outcome in ('c', 'f', 't') and a.started_at is not null
  )
  select 'a job stands in one place' as rule, job_id::float8 as job, string_agg(place, ', ') as detail
  from place group by job_id having count(*) > 1
  union all
  select 'a job is never lost', id, 'it stands nowhere' from state where state = 'unknown' and not ephemeral
  union all
  select 'a job has one holder', c.first_id + n, 'run ' || c.run || ' under leases ' || string_agg(l.id::text, ', ')
  from millrace.lease l cross join lateral unnest(l.chunks) c, generate_series(0, c.count - 1) n
  group by c.first_id + n, c.run having count(*) > 1
  union all
  select 'a terminal state never changes', a.job_id, 'run ' || a.run || ' after run ' || e.run || ', which ended it'
  from millrace.attempt e join millrace.attempt a on a.job_id = e.job_id and a.run > e.run where e.outcome in ('c', 'x')
  union all
  select 'nothing before its time', job_id, (run_at - started_at)::text || ' too early' from ran where started_at < run_at - ${SLACK}
  union all
  select 'one of a group at a time', job_id, 'began ' || (before - started_at)::text || ' before the one before had ended, in group ' || group_key
  from (
    select *, max(finished_at) over (partition by queue_id, group_key order by started_at, finished_at
      rows between unbounded preceding and 1 preceding) as before
    from ran where group_key is not null and group_limit = 1
  ) g where before > started_at + ${SLACK}
  union all
  select 'who has ended holds no turn', h.job_id, 'group ' || h.group_key || ', and it is ' || s.state
  from millrace.hold h join state s on s.id = h.job_id where s.state in ('completed', 'cancelled', 'failed', 'expired')
  union all
  select 'who has ended has no key', k.job_id, 'key ' || k.key || ', and it is ' || s.state
  from millrace.key k join state s on s.id = k.job_id where s.state in ('completed', 'cancelled', 'failed', 'expired')
  limit 20`

/** `query` replaces `millrace.` by the schema of the test. */
export async function violations(query: Query): Promise<Violation[]> {
  const [size] = await query<{ jobs: number }>(
    'select count(*)::int as jobs from (select from millrace.job limit $1) j',
    [JOBS_MAX + 1],
  )
  return size!.jobs > JOBS_MAX ? [] : query<Violation>(RULES)
}

export async function checkFacts(query: Query): Promise<void> {
  assert.deepEqual(await violations(query), [])
}
