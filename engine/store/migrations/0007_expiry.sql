-- The end of jobs whose time has passed where nobody claims them: in a queue that is paused, or that no node serves. Who
-- holds a job, or claims it, sees to that by itself.

-- A chunk whose jobs expire, and when to look whether any still wait. Only what has an expiry has a row.
create table millrace.expiring (
  first_id bigint primary key,
  count    smallint not null check (count between 1 and 1000),
  look_at  timestamptz not null check (look_at between '1900-01-01 00:00Z' and '10000-01-01 00:00Z')
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
create index expiring_look on millrace.expiring (look_at);

-- Notes which of these chunks expire. p_chunks: [{f first id, c count, e expires at (ms), ...}]
create function millrace.watch_expiry(p_chunks json) returns void language sql as $$
  insert into millrace.expiring (first_id, count, look_at)
  select w.f, w.c, to_timestamp(w.e / 1000.0) from json_to_recordset(p_chunks) as w(f bigint, c int, e float8) where w.e is not null
$$;

-- Gives a job that comes back another expiry than it had, or none: what is watched as part of a chunk is cut out of it.
-- The only update of a row of job; expires_at stands in no index, and the payload is not written anew.
create function millrace.expire_at(p_job bigint, p_at timestamptz, p_old timestamptz) returns void language plpgsql as $$
declare x millrace.expiring;
begin
  if p_at is distinct from p_old then update millrace.job j set expires_at = p_at where j.id = p_job; end if;
  select w.* into x from millrace.expiring w where w.first_id <= p_job order by w.first_id desc limit 1;
  if x.first_id + x.count > p_job then
    delete from millrace.expiring w where w.first_id = x.first_id;
    insert into millrace.expiring (first_id, count, look_at)
    select w.f, w.n, x.look_at from (values (x.first_id, p_job - x.first_id), (p_job + 1, x.first_id + x.count - p_job - 1)) as w(f, n) where w.n > 0;
  end if;
  if p_at is not null then insert into millrace.expiring (first_id, count, look_at) values (p_job, 1, p_at); end if;
end $$;

-- Ends what waits of these chunks, but for what somebody is just taking. Answers how many jobs ended.
create function millrace.expire_chunks(p_chunks millrace.expiring[]) returns int language plpgsql as $$
declare
  w millrace.expiring;
  v_gone millrace.chunk[];
  v_ended millrace.chunk[] := '{}';
  v_keyed bigint[]; v_grouped bigint[];
  g record;
begin
  foreach w in array p_chunks loop
    -- places in this order, because jobs wander in it
    with gone as (
      delete from millrace.scheduled s where s.first_id = any (array(
        select y.first_id from millrace.scheduled y where y.first_id >= w.first_id and y.first_id < w.first_id + w.count for update skip locked))
      returning s.first_id, s.count, s.attempt, s.run, s.rescues, s.rank
    ) select array_agg(row(x.first_id, x.count, x.attempt, x.run, x.rescues, x.rank, 0)::millrace.chunk) into v_gone from gone x;
    v_ended := v_ended || coalesce(v_gone, '{}');
    with gone as (
      delete from millrace.blocked b where b.job_id = any (array(
        select y.job_id from millrace.blocked y where y.job_id >= w.first_id and y.job_id < w.first_id + w.count for update skip locked))
      returning b.job_id, b.attempt, b.run, b.rescues, b.rank
    ) select array_agg(row(x.job_id, 1, x.attempt, x.run, x.rescues, x.rank, 0)::millrace.chunk) into v_gone from gone x;
    v_ended := v_ended || coalesce(v_gone, '{}');
    with gone as (
      delete from millrace.ready r where r.first_id = any (array(
        select y.first_id from millrace.ready y where y.first_id >= w.first_id and y.first_id < w.first_id + w.count for update skip locked))
      returning r.first_id, r.count, r.attempt, r.run, r.rescues, r.rank
    ) select array_agg(row(x.first_id, x.count, x.attempt, x.run, x.rescues, x.rank, 0)::millrace.chunk) into v_gone from gone x;
    v_ended := v_ended || coalesce(v_gone, '{}');
  end loop;
  if cardinality(v_ended) > 0 then
    with gone as materialized (
      select j.id, j.queue_id, j.task_id, j.key, j.group_key, c.run, c.attempt
      from unnest(v_ended) c join millrace.job j on j.id >= c.first_id and j.id < c.first_id + c.count
    ), noted as (
      insert into millrace.attempt (job_id, run, attempt, outcome, node_id, lane, started_at, finished_at, error)
      select t.id, t.run, t.attempt, 'e', 0, -1, null, clock_timestamp(),
        json_build_object('code', 'TASK_EXPIRED', 'message', 'expiresAt passed before the job could run')
      from gone t
    ), buried as (
      insert into millrace.dead (job_id, queue_id, task_id, attempts, run, code, reason)
      select t.id, t.queue_id, t.task_id, t.attempt - 1, t.run, 'TASK_EXPIRED',
        json_build_object('code', 'TASK_EXPIRED', 'type', 'EngineError', 'message', 'expiresAt passed before the job could run')
      from gone t
      on conflict (job_id) do nothing
    )
    select coalesce(array_agg(t.id) filter (where t.key is not null), '{}'), coalesce(array_agg(t.id) filter (where t.group_key is not null), '{}')
    into v_keyed, v_grouped from gone t;
    perform millrace.let_go(v_keyed, v_grouped, '{}');
    -- those behind one that was blocked may have a larger limit than it had
    for g in select distinct j.queue_id, j.group_key from millrace.job j where j.id = any (v_grouped) loop
      perform millrace.call_next(g.queue_id, g.group_key);
      perform pg_notify('millrace_@schema', 'q' || g.queue_id);
    end loop;
  end if;
  return coalesce((select sum(c.count)::int from unnest(v_ended) c), 0);
end $$;

-- Makes dead letters (TASK_EXPIRED) of what waits although its time has passed: of at most p_chunks chunks and about 10,000
-- jobs, by one session at a time. What somebody is just taking, and what is held, is looked at again later. Answers how
-- many jobs ended, whether there is more to do at once, and how many were set aside because their rows cannot be ended so.
-- Index: expiring_look; then ready_pkey, scheduled_pkey, blocked_pkey.
create function millrace.expire_due(p_chunks int) returns table (expired int, more boolean, aside int) language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
  w millrace.expiring;
  v_chunks millrace.expiring[] := '{}';
  v_firsts bigint[];
  v_jobs int := 0;
  v_expired int;
  v_aside int := 0;
  v_state text; v_message text;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('@schema expiry', 0)) then return query select 0, false, 0; return; end if;
  for w in select x.* from millrace.expiring x where x.look_at <= clock_timestamp() order by x.look_at limit p_chunks loop
    exit when v_jobs >= 10000;
    v_chunks := v_chunks || w;
    v_jobs := v_jobs + w.count;
  end loop;
  if cardinality(v_chunks) = 0 then return query select 0, false, 0; return; end if;

  begin
    v_expired := millrace.expire_chunks(v_chunks);
  exception when data_exception or integrity_constraint_violation then
    -- one of these jobs cannot be ended so: the other chunks are, one by one
    v_expired := 0;
    foreach w in array v_chunks loop
      begin
        v_expired := v_expired + millrace.expire_chunks(array[w]);
      exception when data_exception or integrity_constraint_violation then
        get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
        v_aside := v_aside + millrace.set_waiting_aside(w.first_id, w.count, v_state, v_message);
      end;
    end loop;
  end;
  v_firsts := array(select c.first_id from unnest(v_chunks) c);

  -- by one snapshot: a job that moves stands in one place of it
  with held as materialized (
    select distinct h.first_id from millrace.lease l cross join lateral unnest(l.chunks) c
    cross join lateral (select x.first_id, x.count from millrace.expiring x where x.first_id <= c.first_id order by x.first_id desc limit 1) h
    where h.first_id + h.count > c.first_id
  ), later as (
    update millrace.expiring x set look_at = clock_timestamp() + interval '10 seconds'
    where x.first_id = any (v_firsts) and (exists (select from held h where h.first_id = x.first_id)
      or exists (select from millrace.scheduled y where y.first_id >= x.first_id and y.first_id < x.first_id + x.count)
      or exists (select from millrace.blocked y where y.job_id >= x.first_id and y.job_id < x.first_id + x.count)
      or exists (select from millrace.ready y where y.first_id >= x.first_id and y.first_id < x.first_id + x.count))
    returning x.first_id
  )
  delete from millrace.expiring x where x.first_id = any (v_firsts) and not exists (select from later n where n.first_id = x.first_id);
  return query select v_expired, exists (select from millrace.expiring x where x.look_at <= clock_timestamp()), v_aside;
end $$;
