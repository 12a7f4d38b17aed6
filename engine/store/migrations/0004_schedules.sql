-- Schedules: what is due when, and who decided which due time.
--
--   schedule    a cron definition; small, one row each              changed by people, and by every occurrence (last_*)
--   occurrence  one due time that was decided: enqueued, or not     one row decides; deleted in batches when old
--   occurrence_state  what a node last said of an occurrence that it had in memory    for people; kept for a day
--
-- An occurrence exists for a due time that is after `since`, from starts_at on, before ends_at, while the schedule is
-- not paused. Every decision about a schedule is made under the lock of its row; rows are locked in the order of their
-- ids. So of many nodes that look at one due time one makes a job, and the others see that row.

create sequence millrace.schedule_change as bigint;

create table millrace.schedule (
  id               text primary key check (length(id) between 1 and 255),
  queue_id         int not null,
  task_id          int not null,
  cron             text not null check (length(cron) between 1 and 600),
  time_zone        text not null default 'UTC' check (length(time_zone) between 1 and 64),
  payload          json not null default '{}',
  -- {priority, maxAttempts, timeoutMs, group, groupLimit, onRetry, retry, ephemeral, meta}
  options          json not null default '{}',
  starts_at        timestamptz,
  ends_at          timestamptz,
  -- an occurrence is enqueued up to so many milliseconds after its time, the same for everybody who looks
  jitter_ms        int not null default 0 check (jitter_ms between 0 and 3600000),
  overlap          text not null default 'allow' check (overlap in ('allow', 'skip', 'queue')),
  catch_up         text not null default 'one' check (catch_up in ('none', 'one', 'all')),
  catch_up_ms      bigint not null default 86400000 check (catch_up_ms between 0 and 604800000),
  paused           boolean not null default false,
  source           text not null default 'api' check (source in ('code', 'api')),
  -- rises when what decides about due times changes; an occurrence of another revision is refused
  revision         bigint not null default 1,
  -- of the last change of any kind: count and sum over all rows tell whether anything changed
  changed          bigint not null,
  -- due times up to here are nobody's: made, changed or resumed then
  since            timestamptz not null,
  -- why no due times can be computed
  error            text,
  last_scheduled_at timestamptz,
  last_decided_at  timestamptz,
  last_outcome     text,
  last_error       text,
  last_late_ms     float8,
  last_job_id      bigint,
  previous_job_id  bigint,
  run_count        bigint not null default 0,
  created_at       timestamptz not null default now(),
  updated_at       timestamptz not null default now(),
  check (ends_at > starts_at),
  check (json_typeof(options) = 'object' and octet_length(payload::text) <= 65536),
  check (starts_at between '0001-01-01 00:00Z' and '10000-01-01 00:00Z' and ends_at between '0001-01-01 00:00Z' and '10000-01-01 00:00Z'),
  check (isfinite(since) and isfinite(last_scheduled_at) and isfinite(last_decided_at))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);

create table millrace.occurrence (
  schedule_id  text not null,
  -- whole seconds; a manual one has its moment
  scheduled_at timestamptz not null check (isfinite(scheduled_at)),
  decided_at   timestamptz not null,
  node_id      int not null,
  outcome      text not null check (outcome in ('enqueued', 'skipped', 'failed')),
  manual       boolean not null default false,
  late_ms      float8 not null,
  job_id       bigint,
  error        text,
  primary key (schedule_id, scheduled_at)
);
create index occurrence_age on millrace.occurrence (scheduled_at);

-- The state in which each node last had an occurrence in its memory. Nothing depends on it: it tells why one did not run.
create table millrace.occurrence_state (
  schedule_id  text not null,
  scheduled_at timestamptz not null,
  node_id      int not null,
  state        text not null,
  at           timestamptz not null,
  error        text,
  primary key (schedule_id, scheduled_at, node_id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 10000);
create index occurrence_state_at on millrace.occurrence_state (scheduled_at);

-- True while a job waits, is held or runs.
create function millrace.is_unfinished(p_job bigint) returns boolean language plpgsql stable as $$
begin
  if p_job is null then return false; end if;
  if (select x.first_id + x.count > p_job from millrace.ready x where x.first_id <= p_job order by x.first_id desc limit 1)
    or (select x.first_id + x.count > p_job from millrace.scheduled x where x.first_id <= p_job order by x.first_id desc limit 1)
    or exists (select from millrace.blocked b where b.job_id = p_job) then return true; end if;
  if exists (select from millrace.dead d where d.job_id = p_job)
    or exists (select from millrace.attempt a where a.job_id = p_job and a.outcome in ('c', 'x')) then return false; end if; -- what expired may have been requeued
  return exists (
    select from millrace.lease l cross join lateral unnest(l.chunks) c
    where p_job >= c.first_id and p_job < c.first_id + c.count
      and exists (select from millrace.job j where j.id = p_job)
      and not exists (select from millrace.attempt a where a.job_id = p_job and a.run >= c.run));
end $$;

create type millrace.firing as (
  n int, schedule_id text, scheduled_at timestamptz, due_at timestamptz, verdict text, job_id bigint, group_key text
);

-- Writes what was decided about due times, under the locks of their schedules, and the jobs that follow from it.
create function millrace.write_firings(p_node int, p_all millrace.firing[], p_now timestamptz) returns void language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare v_count bigint;
begin
  insert into millrace.occurrence (schedule_id, scheduled_at, decided_at, node_id, outcome, late_ms, job_id)
  select f.schedule_id, f.scheduled_at, p_now, p_node, f.verdict, greatest(0, extract(epoch from p_now - f.due_at) * 1000), f.job_id
  from unnest(p_all) f where f.verdict in ('enqueued', 'skipped')
  order by f.schedule_id, f.scheduled_at
  on conflict (schedule_id, scheduled_at) do nothing;
  get diagnostics v_count = row_count;
  -- whoever decides holds the lock of the schedule; should anybody not: give way, and ask again
  if v_count <> (select count(*) from unnest(p_all) f where f.verdict in ('enqueued', 'skipped')) then
    raise exception 'an occurrence was decided by somebody without the lock of its schedule' using errcode = '40001';
  end if;

  insert into millrace.job (id, created_at, run_at, queue_id, task_id, payload_bytes, timeout_ms, priority, max_attempts, ephemeral, payload, group_key, retry,
    group_limit, retry_skips, meta)
  select f.job_id, p_now, f.due_at, s.queue_id, s.task_id, octet_length(s.payload::text), (s.options ->> 'timeoutMs')::int,
    coalesce((s.options ->> 'priority')::int, 0), coalesce(s.options ->> 'maxAttempts', t.options ->> 'maxAttempts')::int, coalesce((s.options ->> 'ephemeral')::boolean, false),
    s.payload, f.group_key, s.options -> 'retry', (s.options ->> 'groupLimit')::int, case when s.options ->> 'onRetry' = 'skip' then true end,
    coalesce((s.options -> 'meta')::jsonb, '{}') || jsonb_build_object('schedule', s.id, 'scheduledAt', to_char(f.scheduled_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
  from unnest(p_all) f join millrace.schedule s on s.id = f.schedule_id join millrace.task t on t.id = s.task_id
  where f.job_id is not null order by f.job_id;
end $$;

-- Decides occurrences, and makes the jobs of those that are to run. At most one per schedule in a call, unless it allows
-- overlapping. p_items: [{n number, s schedule, d scheduled at (ms), j jitter (ms), v revision}]
-- Answers each number with enqueued, skipped, taken (decided before), gone, paused, changed (another revision), out
-- (before since or starts_at, or from ends_at on), or early (by this clock; late_ms is negative then).
-- A node that is early by a little waits here, before it holds any lock: nothing is enqueued before its time.
-- Without items it does nothing, but in every step: a session that is to be quick later calls it so once.
create function millrace.fire(p_node int, p_items json)
returns table (n int, outcome text, job_id bigint, queue_id int, late_ms float8, now_ms float8) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  v_last timestamptz;
  v_now timestamptz;
  v_all millrace.firing[];
begin
  select to_timestamp(max(w.d + w.j) / 1000.0) into v_last from json_to_recordset(p_items) as w(d float8, j float8);
  if v_last > clock_timestamp() then
    perform pg_sleep(least(0.02, extract(epoch from v_last - clock_timestamp())));
  end if;
  perform from millrace.schedule s
  where s.id = any (array(select w.s from json_to_recordset(p_items) as w(s text))) order by s.id for no key update;
  v_now := clock_timestamp();

  -- a statement of its own: it sees what those did for whose locks we waited
  select array_agg(row(v.n, v.s, v.at, v.due, v.verdict, case when v.verdict = 'enqueued' then millrace.next_id() end, v.group_key)::millrace.firing order by v.due, v.s)
  into v_all
  from (
    select w.n, w.s, to_timestamp(w.d / 1000.0) as at, to_timestamp((w.d + w.j) / 1000.0) as due,
      coalesce(s.options ->> 'group', case when s.overlap = 'queue' then 'schedule:' || s.id end) as group_key,
      case
        when s.id is null then 'gone'
        when exists (select from millrace.occurrence o where o.schedule_id = w.s and o.scheduled_at = to_timestamp(w.d / 1000.0)) then 'taken'
        when s.paused then 'paused'
        when s.revision <> w.v then 'changed'
        when to_timestamp(w.d / 1000.0) <= s.since or to_timestamp(w.d / 1000.0) < s.starts_at or to_timestamp(w.d / 1000.0) >= s.ends_at then 'out'
        when to_timestamp((w.d + w.j) / 1000.0) > v_now then 'early'
        when s.overlap = 'skip' and millrace.is_unfinished(s.last_job_id) then 'skipped'
        -- one runs, one waits
        when s.overlap = 'queue' and millrace.is_unfinished(s.last_job_id) and millrace.is_unfinished(s.previous_job_id) then 'skipped'
        else 'enqueued'
      end as verdict
    from json_to_recordset(p_items) as w(n int, s text, d float8, j float8, v bigint)
    left join millrace.schedule s on s.id = w.s
  ) v;

  perform millrace.write_firings(p_node, v_all, v_now);

  insert into millrace.blocked (job_id, rank, due_at, queue_id, task_id, bytes, attempt, run, rescues, group_key, group_limit)
  select f.job_id, millrace.rank_of(q.ageing_ms, coalesce((s.options ->> 'priority')::int, 0), v_now), f.due_at, s.queue_id, s.task_id,
    octet_length(s.payload::text), 1, 1, 0, f.group_key, coalesce((s.options ->> 'groupLimit')::int, 1)
  from unnest(v_all) f join millrace.schedule s on s.id = f.schedule_id join millrace.queue q on q.id = s.queue_id
  where f.job_id is not null and f.group_key is not null order by f.due_at, f.job_id;

  insert into millrace.ready (first_id, rank, due_at, queue_id, task_id, bytes, count, attempt, run, rescues, group_key)
  select case when f.group_key is null then f.job_id else -nextval('millrace.ready_seq_seq') end,
    millrace.rank_of(q.ageing_ms, coalesce((s.options ->> 'priority')::int, 0), v_now), f.due_at, s.queue_id, s.task_id,
    octet_length(s.payload::text), case when f.group_key is null then 1 else 0 end, 1, 1, 0, f.group_key
  from unnest(v_all) f join millrace.schedule s on s.id = f.schedule_id join millrace.queue q on q.id = s.queue_id
  where f.job_id is not null order by f.due_at, f.job_id;

  update millrace.schedule s set
    last_scheduled_at = greatest(s.last_scheduled_at, x.at), last_decided_at = v_now, last_outcome = x.verdict, last_error = null,
    last_late_ms = extract(epoch from v_now - x.due) * 1000, run_count = s.run_count + x.jobs,
    previous_job_id = case when x.jobs > 0 then s.last_job_id else s.previous_job_id end, last_job_id = coalesce(x.job, s.last_job_id)
  from (select f.schedule_id, max(f.scheduled_at) as at, max(f.due_at) as due, max(f.job_id) as job, count(f.job_id) as jobs,
      (array_agg(f.verdict order by f.scheduled_at desc))[1] as verdict
    from unnest(v_all) f where f.verdict in ('enqueued', 'skipped') group by f.schedule_id) x
  where s.id = x.schedule_id;

  return query
    select f.n, f.verdict, f.job_id, case when f.job_id is not null then s.queue_id end, extract(epoch from v_now - f.due_at)::float8 * 1000,
      extract(epoch from clock_timestamp())::float8 * 1000
    from unnest(v_all) f left join millrace.schedule s on s.id = f.schedule_id;
end $$;

-- Makes the jobs of occurrences shortly before their time, and leases them to the node that will run them: born leased,
-- they wait in its memory, and at the due time only confirm() is left to ask. Takes the plain ones: of a schedule that
-- allows overlapping, without jitter and group, whose queue is not paused, due within five seconds. All others are decided
-- at their time by fire(). What changes about a schedule before the due time withdraws them (see schedule_changed).
-- p_items: [{n number, s schedule, d scheduled at (ms), v revision}]
-- Answers the chunks as claim() does, and one last row with a report alone: {items: [numbers], jobs: [their jobs],
-- taken: [numbers that were decided before], change: what confirm() is to be asked with, now: ms}
create function millrace.prepare(p_node int, p_items json)
returns table (report json, lease_id bigint, first_id bigint, count int, queue_id int, task_id int, rank bigint, seq bigint,
  attempt int, run int, rescues int, max_attempts int, timeout_ms int, expires_at_ms float8, created_at_ms float8,
  due_at_ms float8, keyed boolean, ephemeral boolean, group_key text, retry text, timed boolean, payloads text, metas text)
language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_change bigint;
  v_all millrace.firing[];
  v_own millrace.firing[];
  v_chunks millrace.chunk[];
  v_dues timestamptz[];
  v_lease bigint;
begin
  perform from millrace.node n where n.id = p_node for key share;
  if not found then raise exception 'node % is not registered', p_node using errcode = 'MR410'; end if;
  perform from millrace.schedule s
  where s.id = any (array(select w.s from json_to_recordset(p_items) as w(s text))) order by s.id for no key update;
  v_now := clock_timestamp();
  -- whoever changes one of these schedules from here on waits for us, and moves this number on after that
  select c.last_value + c.is_called::int into v_change from millrace.schedule_change c;

  -- in the order of what a chunk shares; the ids are dealt in that order
  select coalesce(array_agg(row(v.n, v.s, v.at, v.at, v.verdict, case when v.verdict = 'enqueued' then millrace.next_id() end, null)::millrace.firing), '{}')
  into v_all
  from (
    select w.n, w.s, to_timestamp(w.d / 1000.0) as at,
      case
        when exists (select from millrace.occurrence o where o.schedule_id = w.s and o.scheduled_at = to_timestamp(w.d / 1000.0)) then 'taken'
        when s.id is null or q.paused or s.paused or s.revision <> w.v or s.overlap <> 'allow' or s.jitter_ms > 0
          or s.options ->> 'group' is not null or to_timestamp(w.d / 1000.0) <= s.since or to_timestamp(w.d / 1000.0) < s.starts_at
          or to_timestamp(w.d / 1000.0) >= s.ends_at or to_timestamp(w.d / 1000.0) not between v_now and v_now + interval '5 seconds' then 'later'
        else 'enqueued'
      end as verdict
    from json_to_recordset(p_items) as w(n int, s text, d float8, v bigint)
    left join millrace.schedule s on s.id = w.s
    left join millrace.queue q on q.id = s.queue_id
    order by s.queue_id, s.task_id, w.d, (s.options::jsonb - 'meta')::text, w.s
  ) v;
  select coalesce(array_agg(f order by f.job_id), '{}') into v_own from unnest(v_all) f where f.job_id is not null;

  if cardinality(v_own) > 0 then
    perform millrace.write_firings(p_node, v_own, v_now);
    select array_agg(row(c.first_id, c.count, 1, 1, 0, c.rank, nextval('millrace.ready_seq_seq'))::millrace.chunk order by c.first_id),
      array_agg(c.due_at order by c.first_id)
    into v_chunks, v_dues
    from (
      select min(k.job_id) as first_id, count(*) as count, min(k.due_at) as due_at,
        millrace.rank_of(min(k.ageing_ms), min(k.priority), min(k.due_at)) as rank
      from (
        select f.job_id, f.due_at, s.queue_id, s.task_id, q.ageing_ms, coalesce((s.options ->> 'priority')::int, 0) as priority, o.rest,
          f.job_id - row_number() over (partition by s.queue_id, s.task_id, f.due_at, o.rest order by f.job_id) as island
        from unnest(v_own) f join millrace.schedule s on s.id = f.schedule_id join millrace.queue q on q.id = s.queue_id
        cross join lateral (select (s.options::jsonb - 'meta')::text as rest) o
      ) k group by k.queue_id, k.task_id, k.due_at, k.rest, k.island
    ) c;
    insert into millrace.lease (node_id, open, chunks) values (p_node, cardinality(v_own), v_chunks) returning id into v_lease;
    return query select null::json, h.* from millrace.leased(v_lease, v_chunks, v_dues) h;
  end if;

  report := json_build_object(
    'items', (select coalesce(json_agg(f.n order by f.job_id), '[]') from unnest(v_own) f),
    'jobs', (select coalesce(json_agg(f.job_id order by f.job_id), '[]') from unnest(v_own) f),
    'taken', (select coalesce(json_agg(f.n), '[]') from unnest(v_all) f where f.verdict = 'taken'),
    'change', v_change, 'now', extract(epoch from clock_timestamp()) * 1000);
  return next;
end $$;

-- At the due time: has no schedule been changed since prepare()? Waits until then, when that is soon, to the fraction of a
-- millisecond. False: some were, and standing() says whose occurrences stand.
create function millrace.confirm(p_at timestamptz, p_change bigint) returns table (stands boolean, late_ms float8, now_ms float8) language plpgsql as $$
begin
  perform pg_sleep(least(0.03, extract(epoch from p_at - clock_timestamp()) - 0.001)) where p_at > clock_timestamp() + interval '1 ms';
  for i in 1 .. 100000 loop
    exit when clock_timestamp() >= p_at or clock_timestamp() < p_at - interval '5 ms';
  end loop;
  return query select c.last_value + c.is_called::int = p_change and clock_timestamp() >= p_at, extract(epoch from clock_timestamp() - p_at)::float8 * 1000,
    extract(epoch from clock_timestamp())::float8 * 1000
  from millrace.schedule_change c;
end $$;

-- Which occurrences still have the job that was made for them: waits for those who are changing their schedules just now.
-- p_items: [{s schedule, d scheduled at (ms), j job}]. Answers those jobs.
create function millrace.standing(p_items json) returns setof bigint language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
  perform from millrace.schedule s
  where s.id = any (array(select w.s from json_to_recordset(p_items) as w(s text))) order by s.id for share;
  return query
    select w.j from json_to_recordset(p_items) as w(s text, d float8, j bigint)
    join millrace.occurrence o on o.schedule_id = w.s and o.scheduled_at = to_timestamp(w.d / 1000.0)
    where o.job_id = w.j;
end $$;

-- Notes on their schedules that prepared occurrences have begun. Nothing depends on it but what people see, and from when
-- on due times are made up for. p_items: [{s schedule, d scheduled at (ms), j job}]
create function millrace.note_begun(p_items json, p_late_ms float8) returns void language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
  perform from millrace.schedule s
  where s.id = any (array(select w.s from json_to_recordset(p_items) as w(s text))) order by s.id for no key update;
  update millrace.schedule s set
    last_scheduled_at = greatest(s.last_scheduled_at, to_timestamp(w.d / 1000.0)), last_decided_at = clock_timestamp(), last_outcome = 'enqueued',
    last_error = null, last_late_ms = p_late_ms, run_count = s.run_count + 1, previous_job_id = s.last_job_id, last_job_id = w.j
  from json_to_recordset(p_items) as w(s text, d float8, j bigint) where s.id = w.s;
end $$;

-- What was prepared for due times that have not come is withdrawn when its schedule changes, however it is changed: the
-- occurrence is free to be decided again, as the schedule says now, and its job is cancelled; whoever holds that asks first.
create function millrace.schedule_changed() returns trigger language plpgsql as $$
declare o record;
begin
  perform nextval('millrace.schedule_change');
  for o in
    delete from millrace.occurrence x
    where x.schedule_id = old.id and x.scheduled_at > clock_timestamp() and not x.manual and x.outcome = 'enqueued' returning x.job_id
  loop
    perform millrace.cancel(o.job_id, 'its schedule was changed before it was due');
  end loop;
  return null;
end $$;
create trigger schedule_changed after update on millrace.schedule for each row
when ((old.id, old.queue_id, old.task_id, old.cron, old.time_zone, old.payload::text, old.options::text, old.starts_at, old.ends_at, old.jitter_ms, old.overlap, old.paused, old.revision)
  is distinct from (new.id, new.queue_id, new.task_id, new.cron, new.time_zone, new.payload::text, new.options::text, new.starts_at, new.ends_at, new.jitter_ms, new.overlap, new.paused, new.revision))
execute function millrace.schedule_changed();
create trigger schedule_deleted after delete on millrace.schedule for each row execute function millrace.schedule_changed();

-- Notes that an occurrence could not be enqueued. Its schedule goes on with the next one.
create function millrace.fire_failed(p_node int, p_id text, p_at timestamptz, p_error text) returns void language plpgsql as $$
begin
  perform from millrace.schedule s where s.id = p_id for no key update;
  if not found then return; end if;
  insert into millrace.occurrence (schedule_id, scheduled_at, decided_at, node_id, outcome, late_ms, error)
  values (p_id, p_at, clock_timestamp(), p_node, 'failed', extract(epoch from clock_timestamp() - p_at) * 1000, p_error)
  on conflict (schedule_id, scheduled_at) do nothing;
  if found then
    update millrace.schedule s set last_scheduled_at = greatest(s.last_scheduled_at, p_at), last_decided_at = clock_timestamp(),
      last_outcome = 'failed', last_error = p_error where s.id = p_id;
  end if;
end $$;

-- Makes or changes schedules, all or nothing, in the order of their ids; only what differs is written. What decides about
-- due times (cron, zone, start, end, jitter) begins a new revision, whose due times lie after this moment.
-- p_list: [{id, queue_id, task_id, cron, time_zone, payload, options, starts_ms, ends_ms, jitter_ms, overlap, catch_up, catch_up_ms, paused}]
-- p_new: refuse ids that exist. p_prune: schedules from code of these queues that are not listed are deleted.
-- Answers what happened to whom: created, changed, same, exists, deleted.
create function millrace.put_schedules(p_list json, p_source text, p_new boolean, p_prune int[]) returns table (id text, what text) language plpgsql as $$
#variable_conflict use_column
declare
  w record;
  s millrace.schedule;
  v_now timestamptz;
  v_touched boolean := false;
  v_moved boolean;
begin
  -- registrations go one after the other: two that list different things must not delete each other's half
  if p_prune is not null then perform pg_advisory_xact_lock(hashtextextended('@schema schedules', 0)); end if;
  perform from millrace.schedule x
  where x.id = any (array(select l.id from json_to_recordset(p_list) as l(id text)))
    or (x.source = 'code' and x.queue_id = any (p_prune))
  order by x.id for update;
  v_now := clock_timestamp();
  for w in
    select l.*, to_timestamp(l.starts_ms / 1000.0) as starts_at, to_timestamp(l.ends_ms / 1000.0) as ends_at
    from json_to_recordset(p_list) as l(id text, queue_id int, task_id int, cron text, time_zone text, payload json, options json,
      starts_ms float8, ends_ms float8, jitter_ms int, overlap text, catch_up text, catch_up_ms bigint, paused boolean)
    order by l.id
  loop
    insert into millrace.schedule (id, queue_id, task_id, cron, time_zone, payload, options, starts_at, ends_at, jitter_ms, overlap,
      catch_up, catch_up_ms, paused, source, changed, since)
    values (w.id, w.queue_id, w.task_id, w.cron, w.time_zone, w.payload, w.options, w.starts_at, w.ends_at, w.jitter_ms, w.overlap,
      w.catch_up, w.catch_up_ms, coalesce(w.paused, false), p_source, nextval('millrace.schedule_change'), v_now)
    on conflict (id) do nothing;
    if found then
      v_touched := true;
      id := w.id; what := 'created'; return next;
      continue;
    end if;
    if p_new then
      id := w.id; what := 'exists'; return next;
      continue;
    end if;
    select x.* into s from millrace.schedule x where x.id = w.id for update;
    v_moved := (s.cron, s.time_zone, s.starts_at, s.ends_at, s.jitter_ms) is distinct from (w.cron, w.time_zone, w.starts_at, w.ends_at, w.jitter_ms);
    if not v_moved and (s.queue_id, s.task_id, s.payload::text, s.options::text, s.overlap, s.catch_up, s.catch_up_ms, s.source, s.paused)
      is not distinct from (w.queue_id, w.task_id, w.payload::text, w.options::text, w.overlap, w.catch_up, w.catch_up_ms, p_source, coalesce(w.paused, s.paused)) then
      id := w.id; what := 'same'; return next;
      continue;
    end if;
    update millrace.schedule x set queue_id = w.queue_id, task_id = w.task_id, cron = w.cron, time_zone = w.time_zone, payload = w.payload,
      options = w.options, starts_at = w.starts_at, ends_at = w.ends_at, jitter_ms = w.jitter_ms, overlap = w.overlap, catch_up = w.catch_up,
      catch_up_ms = w.catch_up_ms, source = p_source, paused = coalesce(w.paused, s.paused), changed = nextval('millrace.schedule_change'),
      revision = s.revision + v_moved::int, since = case when v_moved or (s.paused and w.paused = false) then v_now else s.since end,
      error = null, updated_at = v_now
    where x.id = w.id;
    v_touched := true;
    id := w.id; what := 'changed'; return next;
  end loop;
  if p_prune is not null then
    for w in
      delete from millrace.schedule x where x.source = 'code' and x.queue_id = any (p_prune)
        and x.id <> all (array(select l.id from json_to_recordset(p_list) as l(id text)))
      returning x.id
    loop
      v_touched := true;
      id := w.id; what := 'deleted'; return next;
    end loop;
  end if;
  if v_touched then perform pg_notify('millrace_@schema', 'h'); end if;
end $$;

-- What people see.
-- What the nodes last said of the occurrences that they had in memory, for a day.
create view millrace.occurrence_states as
select s.schedule_id, s.scheduled_at, s.node_id, s.state, s.at, s.error from millrace.occurrence_state s;

create view millrace.schedules as
select s.id, q.name as queue, t.name as task, s.cron, s.time_zone, s.payload, s.options, s.starts_at, s.ends_at, s.jitter_ms, s.overlap,
  s.catch_up, s.catch_up_ms, s.paused, s.source, s.revision, s.since, s.error, s.last_scheduled_at, s.last_decided_at, s.last_outcome,
  s.last_error, s.last_late_ms, s.last_job_id, s.run_count, s.created_at, s.updated_at
from millrace.schedule s
join millrace.queue q on q.id = s.queue_id
join millrace.task t on t.id = s.task_id;
