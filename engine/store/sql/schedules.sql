-- Schedules: what the engine and the console ask. Times are read as milliseconds, so that nothing is lost between clocks.

-- name: clock
-- The database's clock, in milliseconds.
select extract(epoch from clock_timestamp())::float8 * 1000 as now_ms;

-- name: digest
-- Changes whenever a schedule was made, changed or deleted. One small scan; asked once a minute.
select count(*)::int as schedules, coalesce(sum(changed), 0)::text as changes, extract(epoch from clock_timestamp())::float8 * 1000 as now_ms
from millrace.schedule;

-- name: load
-- Every schedule that has due times.
select id, (select q.name from millrace.queue q where q.id = queue_id) as queue, (select t.name from millrace.task t where t.id = task_id) as task,
  options ->> 'group' is not null as grouped, revision, changed, cron, time_zone, extract(epoch from since)::float8 * 1000 as since_ms, extract(epoch from starts_at)::float8 * 1000 as starts_ms,
  extract(epoch from ends_at)::float8 * 1000 as ends_ms, jitter_ms, overlap, catch_up, catch_up_ms, error,
  extract(epoch from last_scheduled_at)::float8 * 1000 as last_scheduled_ms, extract(epoch from clock_timestamp())::float8 * 1000 as now_ms
from millrace.schedule where not paused order by id;

-- name: decided
-- Occurrences that were decided, from a moment on. Params: $1 ms. Index: occurrence_age.
select schedule_id, extract(epoch from scheduled_at)::float8 * 1000 as scheduled_ms from millrace.occurrence
where scheduled_at >= to_timestamp($1::float8 / 1000.0) and not manual;

-- name: fire
-- Params: $1 node, $2 items. Locks: the schedules' rows, in the order of their ids.
select n, outcome, job_id, queue_id, late_ms, now_ms from millrace.fire($1, $2);

-- name: prepare
-- Params: $1 node, $2 items. Locks: the node (shared), the schedules' rows in the order of their ids.
select * from millrace.prepare($1, $2);

-- name: confirm
-- Params: $1 due time in ms, $2 the change that prepare told.
select stands, late_ms, now_ms from millrace.confirm(to_timestamp($1::float8 / 1000.0), $2);

-- name: standing
-- Params: $1 what was made.
select job_id from millrace.standing($1) as job_id;

-- name: note_begun
-- Params: $1 what was made, $2 ms.
select millrace.note_begun($1, $2);

-- name: fire_failed
-- Params: $1 node, $2 schedule, $3 ms, $4 error.
select millrace.fire_failed($1, $2, to_timestamp($3::float8 / 1000.0), $4);

-- name: note_error
-- Why a schedule has no due times. Params: $1 schedule, $2 revision, $3 error or null.
update millrace.schedule set error = $3 where id = $1 and revision = $2 and error is distinct from $3;

-- name: clean
-- Forgets old occurrences, a bounded batch. Params: $1 older than ms, $2 the same when there are more than a million, $3 at
-- most. Index: occurrence_age.
with edge as (
  select to_timestamp(case when c.reltuples > 1000000 then $2::float8 else $1::float8 end / 1000.0) as at
  from pg_catalog.pg_class c where c.oid = 'millrace.occurrence'::regclass
), old as (select ctid from millrace.occurrence where scheduled_at < (select at from edge) order by scheduled_at limit $3)
delete from millrace.occurrence where ctid = any (array(select ctid from old)) returning 1;

-- name: put
-- Params: $1 list, $2 source, $3 refuse ids that exist, $4 queues whose unlisted schedules from code go, or null.
select id, what from millrace.put_schedules($1, $2, $3, $4);

-- name: pause
-- Params: $1 schedule. Returns a row when it exists.
select 1 as found where millrace.pause_schedule($1);

-- name: resume
-- Due times that passed meanwhile are nobody's. Params: $1 schedule. Returns a row when it exists.
select 1 as found where millrace.resume_schedule($1);

-- name: delete
-- Params: $1 schedule. Returns a row when it existed.
select 1 as found where millrace.delete_schedule($1);

-- name: note_trigger
-- Params: $1 schedule, $2 job. The moment of a manual occurrence has a fraction that no due time has.
with noted as (
  update millrace.schedule set last_decided_at = clock_timestamp(), last_outcome = 'enqueued', last_error = null, last_late_ms = 0,
    previous_job_id = last_job_id, last_job_id = $2, run_count = run_count + 1
  where id = $1 returning id
)
insert into millrace.occurrence (schedule_id, scheduled_at, decided_at, node_id, outcome, manual, late_ms, job_id)
select id, date_trunc('milliseconds', clock_timestamp()) + interval '1 microsecond' * (1 + floor(random() * 998)), clock_timestamp(), 0, 'enqueued', true, 0, $2 from noted
on conflict do nothing;

-- name: list
-- By id. Params: $1 id, $2 queue, $3 after this id, $4 before this id, $5 at most. Index: schedule_pkey.
select * from (
  select s.* from millrace.schedules s
  where ($1::text is null or s.id = $1) and ($2::text is null or s.queue = $2) and ($3::text is null or s.id > $3) and ($4::text is null or s.id < $4)
  order by case when $4::text is null then s.id end, case when $4::text is not null then s.id end desc limit $5
) page order by id;

-- name: history
-- What was decided, newest first, where its job stands, and how late it first started. Params: $1 schedule, $2 before ms or
-- null, $3 at most. Index: occurrence_pkey, job_pkey, attempt_pkey. The joins come after the limit: they are per job.
select o.*, j.state as job_state,
  (select extract(epoch from a.started_at - b.run_at)::float8 * 1000 from millrace.attempt a join millrace.job b on b.id = a.job_id
   where a.job_id = o.job_id and a.started_at is not null order by a.run limit 1) as start_late_ms
from (
  select scheduled_at, decided_at, node_id, outcome, manual, late_ms, job_id, error from millrace.occurrence
  where schedule_id = $1 and ($2::float8 is null or scheduled_at < to_timestamp($2 / 1000.0))
  order by scheduled_at desc limit $3
) o left join lateral (select x.state from millrace.jobs x where x.id = o.job_id offset 0) j on true
order by o.scheduled_at desc;
