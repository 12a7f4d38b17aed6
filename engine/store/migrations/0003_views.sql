-- The public face: stable views with names that a person expects. A job's state is where its row stands.

create view millrace.jobs as
select j.id, t.name as task, q.name as queue,
  case
    when r.first_id is not null then 'queued'
    when s.first_id is not null then case when s.run > 1 then 'retrying' else 'scheduled' end
    when b.job_id is not null then
      -- as if all of its group had its limit
      case when (
        select count(*) from (
          select from millrace.hold h where h.queue_id = b.queue_id and h.group_key = b.group_key
          union all
          select from (select from millrace.blocked e where e.queue_id = b.queue_id and e.group_key = b.group_key and (e.rank, e.seq) < (b.rank, b.seq)
            limit b.group_limit) w) before) >= b.group_limit
      then 'blocked' else 'queued' end
    when d.job_id is not null then case when d.code = 'TASK_EXPIRED' then 'expired' else 'failed' end
    when l.lease_id is not null and (a.run is null or a.run < l.run) then
      case when g.run is not null then 'running' else 'assigned' end
    when a.outcome = 'c' then 'completed'
    when a.outcome = 'x' then 'cancelled'
    when a.outcome = 'e' then 'expired'
    when a.outcome in ('f', 't') then 'failed'
    else 'unknown'
  end as state,
  coalesce(r.attempt, s.attempt, b.attempt, d.attempts, case when a.run is null or a.run < l.run then l.attempt end, a.attempt)::int as attempt,
  coalesce(j.max_attempts, (t.options ->> 'maxAttempts')::int, 3)::int as max_attempts, j.priority::int as priority, j.group_key, j.key as idempotency_key, j.ephemeral,
  j.timeout_ms, j.payload, j.meta,
  case when a.outcome = 'c' then a.result end as result,
  coalesce(d.reason, case when a.outcome <> 'c' then a.error end) as error,
  j.created_at, coalesce(s.run_at, j.run_at) as run_at, j.expires_at,
  case when g.run is null then a.started_at else g.started_at end as started_at, case when g.run is null then a.finished_at end as finished_at,
  coalesce(l.node_id, a.node_id) as node_id,
  -- what its handler said last, while it runs
  g.progress,
  -- whether a running node has its task
  millrace.is_served(j.task_id) as served
from millrace.job j
join millrace.queue q on q.id = j.queue_id
join millrace.task t on t.id = j.task_id
left join lateral (select x.* from millrace.attempt x where x.job_id = j.id order by x.run desc limit 1) a on true
left join lateral (select x.* from millrace.ready x where x.first_id <= j.id order by x.first_id desc limit 1) r on r.first_id + r.count > j.id
left join lateral (select x.* from millrace.scheduled x where x.first_id <= j.id order by x.first_id desc limit 1) s on s.first_id + s.count > j.id
left join millrace.blocked b on b.job_id = j.id
left join millrace.dead d on d.job_id = j.id
left join lateral (
  select x.id as lease_id, x.node_id, c.run, c.attempt from millrace.lease x cross join lateral unnest(x.chunks) c
  where r.first_id is null and s.first_id is null and b.job_id is null and d.job_id is null
    -- what expired may have been requeued
    and (a.outcome is null or a.outcome not in ('c', 'x'))
    and j.id >= c.first_id and j.id < c.first_id + c.count
  order by c.run desc limit 1
) l on true
left join millrace.running g on g.job_id = j.id and g.run = l.run and (a.run is null or a.run < l.run);

create view millrace.attempts as
select a.job_id, a.run::int as run, a.attempt::int as attempt,
  case a.outcome when 'c' then 'completed' when 'f' then 'failed' when 't' then 'timed_out' when 'x' then 'cancelled'
    when 'e' then 'expired' when 'l' then 'lost' when 'r' then 'released' end as outcome,
  a.node_id, a.lane::int as lane, a.started_at, a.finished_at, a.error, a.result
from millrace.attempt a;

create view millrace.dead_letters as
select d.job_id, t.name as task, q.name as queue, d.died_at, d.attempts::int as attempts, d.code, d.reason, j.payload
from millrace.dead d
join millrace.queue q on q.id = d.queue_id
join millrace.task t on t.id = d.task_id
left join millrace.job j on j.id = d.job_id;

-- Exclusive buckets; an empty queue is all zeros.
create view millrace.queues as
select q.name as queue, q.paused,
  coalesce(r.jobs, 0) + coalesce(b.turns, 0) as available,
  coalesce(l.jobs, 0) as in_flight,
  coalesce(s.first, 0) as scheduled,
  coalesce(s.again, 0) as retrying,
  coalesce(b.jobs, 0) - coalesce(b.turns, 0) as blocked,
  coalesce(d.jobs, 0) as dead,
  case when least(r.oldest, b.oldest) is not null
    then greatest(0, (extract(epoch from clock_timestamp()) - extract(epoch from least(r.oldest, b.oldest))) * 1000) end::float8 as oldest_waiting_ms
from millrace.queue q
left join (select queue_id, sum(count)::bigint as jobs, min(due_at) as oldest from millrace.ready where count > 0 group by queue_id) r on r.queue_id = q.id
left join (
  select queue_id, coalesce(sum(count) filter (where run = 1), 0)::bigint as first, coalesce(sum(count) filter (where run > 1), 0)::bigint as again
  from millrace.scheduled group by queue_id) s on s.queue_id = q.id
left join (
  select w.queue_id, sum(w.jobs)::bigint as jobs, min(w.oldest) as oldest, sum(least(w.jobs, greatest(0, w.seats - w.held)))::bigint as turns
  from (
    select x.queue_id, count(*) as jobs, min(x.due_at) as oldest, max(x.group_limit) as seats,
      (select count(*) from millrace.hold h where h.queue_id = x.queue_id and h.group_key = x.group_key) as held
    from millrace.blocked x group by x.queue_id, x.group_key) w
  group by w.queue_id) b on b.queue_id = q.id
left join (
  select j.queue_id, sum(c.count - f.done)::bigint as jobs
  from millrace.lease x cross join lateral unnest(x.chunks) c
  join millrace.job j on j.id = c.first_id
  cross join lateral (
    select count(*) as done from millrace.attempt a where a.job_id >= c.first_id and a.job_id < c.first_id + c.count and a.run >= c.run
  ) f
  group by j.queue_id) l on l.queue_id = q.id
left join (select queue_id, count(*)::bigint as jobs from millrace.dead group by queue_id) d on d.queue_id = q.id;

-- Iterations of the nodes' loops, about one a second of each, for a day. Ask for a range of `at`: that is the index.
create view millrace.loops as
select l.at, l.node_id, l.took_us / 1000.0::float8 as took_ms, l.active as active_orchestrators, l.indexed as index_size,
  l.waiting as inbox_depth, l.handled as messages_processed
from millrace.loop_sample l;
