-- What the console asks. Every list is bounded and walks an index.

-- name: queues
-- Returns one row per queue with exclusive buckets. They are counted, not estimated: one pass over what waits, about 0.1 s
-- for a million jobs enqueued one by one and a thousandth of it for chunks. No lock, no other session waits for it.
select queue, paused, available::float8, in_flight::float8, scheduled::float8, retrying::float8, blocked::float8, dead::float8, oldest_waiting_ms
from millrace.queues order by queue;

-- name: queue_names
-- Every queue that was ever named, in the order of bytes; its jobs may be gone.
select name from millrace.queue order by name collate "C";

-- name: queue_find
-- A queue that exists, and now by the database's clock. Params: $1 queue. Index: queue_name_key.
select id, clock_timestamp()::text as now from millrace.queue where name = $1;

-- name: queue_stats
-- The buckets of one queue, by its own rows alone; none when it is unknown. Params: $1 queue.
-- Index: ready_order, blocked_order, dead_queue.
select q.name as queue, q.paused,
  (r.jobs + b.turns)::float8 as available, l.jobs::float8 as in_flight, s.first::float8 as scheduled, s.again::float8 as retrying,
  (b.jobs - b.turns)::float8 as blocked, d.jobs::float8 as dead,
  case when least(r.oldest, b.oldest) is not null
    then greatest(0, (extract(epoch from clock_timestamp()) - extract(epoch from least(r.oldest, b.oldest))) * 1000) end::float8 as oldest_waiting_ms
from millrace.queue q
cross join lateral (select coalesce(sum(x.count), 0) as jobs, min(x.due_at) as oldest from millrace.ready x where x.queue_id = q.id and x.count > 0) r
cross join lateral (
  select coalesce(sum(x.count) filter (where x.run = 1), 0) as first, coalesce(sum(x.count) filter (where x.run > 1), 0) as again
  from millrace.scheduled x where x.queue_id = q.id) s
cross join lateral (
  select coalesce(sum(w.jobs), 0) as jobs, min(w.oldest) as oldest, coalesce(sum(least(w.jobs, greatest(0, w.seats - w.held))), 0) as turns
  from (
    select count(*) as jobs, min(x.due_at) as oldest, max(x.group_limit) as seats,
      (select count(*) from millrace.hold h where h.queue_id = q.id and h.group_key = x.group_key) as held
    from millrace.blocked x where x.queue_id = q.id group by x.group_key) w) b
cross join lateral (
  select coalesce(sum(c.count - f.done), 0) as jobs
  from millrace.lease x cross join lateral unnest(x.chunks) c
  join millrace.job j on j.id = c.first_id
  cross join lateral (
    select count(*) as done from millrace.attempt a where a.job_id >= c.first_id and a.job_id < c.first_id + c.count and a.run >= c.run
  ) f where j.queue_id = q.id) l
cross join lateral (select count(*) as jobs from millrace.dead x where x.queue_id = q.id) d
where q.name = $1;

-- name: queue_pause
-- Params: $1 queue id, $2 paused. Claims look at it each time.
update millrace.queue set paused = $2 where id = $1 and paused <> $2;

-- name: queue_purge
-- One batch. Params: $1 queue id, $2 place, $3 after, $4 enqueued until, $5 jobs, $6 reason.
select jobs, last from millrace.purge_waiting($1, $2, $3, $4, $5, $6);

-- name: results
-- Params: $1 queue, $2 task, $3 group, $4 completed at or after, $5 before, $6 limit, $7 offset, $8 at $5 too when the id is
-- below, $9 completions looked through at most. Index: attempt_finished.
select r.*, to_char(r.finished_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as moment
from millrace.results($1, $2, $3, $4, $5, $6, $7, $8, $9) r;

-- name: forget_completed
-- One batch. Params: $1 queue, $2 completed before, $3 after this job, $4 limit. Index: attempt_pkey.
select jobs, last from millrace.forget_completed($1, $2, $3, $4);

-- name: jobs
-- Newest first, keyset by id. Params: $1 task, $2 queue, $3 state, $4 only this id, $5 ids below, $6 limit.
select id, task, queue, state, attempt, max_attempts, priority, group_key, idempotency_key, payload, result, error, meta,
  created_at, run_at, started_at, finished_at, node_id, progress, served
from millrace.list_jobs($1, $2, $3, $4, $5, $6);

-- name: unserved
-- Tasks whose jobs wait although no running node has them. Params: $1 rows of each place looked at. Index: ready_order,
-- scheduled_due, blocked_pkey.
select task, waiting::float8, published from millrace.unserved_tasks($1);

-- name: served_names
-- Tasks that a running node has.
select t.name from millrace.task t where millrace.is_served(t.id) order by t.id limit 10000;

-- name: outdated
-- Nodes with another definition of tasks than the published one, and these tasks.
select k.node_id, n.host, n.pid, count(*)::int as tasks, (array_agg(t.name order by t.name))[1:5] as names
from millrace.node_task k join millrace.task t on t.id = k.task_id join millrace.node n on n.id = k.node_id
where k.options::text <> t.options::text group by k.node_id, n.host, n.pid order by k.node_id;

-- name: attempts
-- Every run of one job in order. Params: $1 job. Index: attempt_pkey.
select run, attempt, outcome, node_id, lane, started_at, finished_at, error from millrace.attempts where job_id = $1 order by run;

-- name: position
-- Where one job stands now, as far as a row of position names it. Params: $1 job.
select 'ready' as place, r.due_at as since, null::timestamptz as until, r.run::int as run, r.attempt::int as attempt, r.rescues::int as rescues, null::int as node_id, r.rank::float8 as rank, null::json as progress
from (select * from millrace.ready x where x.first_id <= $1 order by x.first_id desc limit 1) r where r.first_id + r.count > $1
union all
select 'scheduled', null, s.run_at, s.run::int, s.attempt::int, s.rescues::int, null, s.rank::float8, null
from (select * from millrace.scheduled x where x.first_id <= $1 order by x.first_id desc limit 1) s where s.first_id + s.count > $1
union all
select 'blocked', b.due_at, null, b.run::int, b.attempt::int, b.rescues::int, null, b.rank::float8, null from millrace.blocked b where b.job_id = $1
union all
select case when g.job_id is null then 'leased' else 'running' end, coalesce(g.started_at, l.claimed_at), null, c.run, c.attempt, c.rescues, l.node_id, c.rank::float8, g.progress
from millrace.lease l cross join lateral unnest(l.chunks) c
left join millrace.running g on g.job_id = $1 and g.lease_id = l.id
where $1 >= c.first_id and $1 < c.first_id + c.count
  and not exists (select from millrace.attempt a where a.job_id = $1 and a.run >= c.run);

-- name: dead
-- Dead letters, newest job first. Params: $1 queue, $2 task, $3 job, $4 jobs below, $5 limit, $6 died at or after, $7 before.
select job_id, task, queue, died_at, attempts, code, reason, payload from millrace.list_dead($1, $2, $3, $4, $5, $6, $7);

-- name: dead_ids
-- The oldest dead letters that match. Params: $1 queue, $2 task, $3 job, $4 limit, $5 died at or after, $6 before.
select job_id from millrace.dead_ids($1, $2, $3, $4, $5, $6) as job_id;

-- name: requeue
-- Params: $1 jobs, $2 so many per second, $3 a new expiry. Returns the jobs that were dead letters; held_by when another
-- unfinished job has the key.
select job_id, held_by from millrace.requeue($1, $2, $3);

-- name: states
-- What jobs are, one by one; null: there is none. Params: $1 jobs.
select p.id as job_id, v.state
from unnest($1::bigint[]) with ordinality p(id, nth) left join lateral (select x.state from millrace.jobs x where x.id = p.id offset 0) v on true
order by p.nth;

-- name: purge_dead
-- Forgets dead letters; their attempts stay in the history. Params: $1 jobs.
delete from millrace.dead where job_id = any ($1) returning job_id;

-- name: cancel
-- Params: $1 job, $2 reason.
select millrace.cancel($1, $2) as outcome;

-- name: nodes
-- Every registered node, how long it has been silent, and how many jobs it holds.
select id, host, pid, version, threads, state, started_at, seen_at, (extract(epoch from clock_timestamp() - seen_at) * 1000)::float8 as silent_ms, limit_ms, strays,
  (select coalesce(sum(l.open), 0) from millrace.lease l where l.node_id = n.id)::float8 as held
from millrace.node n order by id;

-- name: loops
-- The loops of the last so many milliseconds, by node. Params: $1 ms. Index: loop_sample_at.
select node_id, count(*)::int as samples, max(at) as last_at, percentile_cont(0.5) within group (order by took_us) / 1000.0 as p50_ms,
  max(took_us) / 1000.0::float8 as max_ms, (array_agg(active order by at desc))[1] as active, (array_agg(indexed order by at desc))[1] as indexed,
  max(waiting) as waiting_max, avg(handled)::float8 as handled
from millrace.loop_sample where at > clock_timestamp() - $1::float8 * interval '1 ms' group by node_id order by node_id;

-- name: grants
-- The statements that give a role of the database these rights. Params: $1 engine, producer or reader, $2 role.
select g as grant from millrace.grants_of($1, $2) g;

-- name: doctor_server
-- What the server says of itself, as far as it matters for durability and for connections.
select current_setting('server_version') as version, current_setting('server_version_num')::int as version_num, current_setting('fsync') as fsync,
  current_setting('synchronous_commit') as synchronous_commit, current_setting('full_page_writes') as full_page_writes,
  current_setting('autovacuum') as autovacuum, current_setting('max_connections')::int as max_connections,
  (select count(*) from pg_stat_activity)::int as connections, pg_is_in_recovery() as standby, inet_client_port() as client_port,
  current_user as role, (select count(*) from millrace.migration)::int as schema_version;

-- name: doctor_oldest
-- The oldest transaction of anybody: it keeps dead rows from being cleaned up.
select coalesce(extract(epoch from max(clock_timestamp() - coalesce(xact_start, clock_timestamp()))), 0)::float8 as age_s
from pg_stat_activity where pid <> pg_backend_pid() and backend_type = 'client backend';

-- name: doctor_sweeps
-- What should have been done by a node that runs, and was not: by how many seconds, null: it was. Jobs that are due are
-- moved whatever their queue is, so a minute is long. Index: scheduled_due, expiring_look.
select (select count(*) from millrace.node n where n.seen_at >= w.now - n.limit_ms * interval '1 ms')::int as live,
  (select extract(epoch from w.now) - extract(epoch from s.run_at) from millrace.scheduled s where s.run_at < w.now - interval '1 minute' order by s.run_at limit 1)::float8 as due_late_s,
  (select extract(epoch from w.now) - extract(epoch from x.look_at) from millrace.expiring x where x.look_at < w.now - interval '1 minute' order by x.look_at limit 1)::float8 as expiry_late_s,
  (select extract(epoch from w.now) - extract(epoch from min(n.seen_at)) from millrace.node n where n.seen_at < w.now - (5 * n.limit_ms + 60000) * interval '1 ms')::float8 as silent_s,
  (select count(*) from millrace.dead d where d.code = 'ROW_INVALID')::int as invalid
from (select clock_timestamp() as now) w;

-- name: doctor_schedules
-- Schedules without due times, because something is wrong with them, and those whose last occurrence could not be
-- enqueued. A few are enough to begin with.
select s.id, s.error, s.last_error from millrace.schedule s
where (s.error is not null or s.last_outcome = 'failed') and not s.paused order by s.id limit 10;

-- name: doctor_tables
-- Live and dead rows of the tables that change all the time, the most dead rows first.
select relname as name, n_live_tup::float8 as live, n_dead_tup::float8 as dead, last_autovacuum from pg_stat_user_tables
where schemaname = '@schema' and relname in ('ready', 'scheduled', 'blocked', 'lease', 'key', 'hold', 'dead', 'running', 'node') order by n_dead_tup desc;
