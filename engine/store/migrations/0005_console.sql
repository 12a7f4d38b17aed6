-- What the console does to many jobs at once, the way to results by time, and the end of what is too old.

-- Attempts are appended as they end, so a block range index finds a time nearly for free: attempts written 500 at a time
-- take 196 bytes of WAL each without an index on the time, 196 to 209 with this one, and 262 to 287 with a b-tree
-- (PostgreSQL 15, 400,000 rows, 2026-11); the times of the three could not be told apart.
create index attempt_finished on millrace.attempt using brin (finished_at) with (pages_per_range = 32, autosummarize = on);

-- ------------------------------------------------------------------ ending what waits

-- Ends jobs that the caller has just taken out of their places: notes it as an attempt and lets go of what they had.
-- Ephemeral ones leave nothing. p_turns: some may have their group's turn.
create function millrace.end_waiting(p_chunks millrace.chunk[], p_turns boolean, p_reason text) returns void language plpgsql
set enable_hashjoin = off set enable_mergejoin = off as $$
declare v_keyed bigint[]; v_grouped bigint[]; v_ephemeral bigint[];
begin
  with gone as materialized (
    select j.id, c.run, c.attempt, j.key, j.group_key, j.ephemeral
    from unnest(p_chunks) c join millrace.job j on j.id >= c.first_id and j.id < c.first_id + c.count
  ), noted as (
    insert into millrace.attempt (job_id, run, attempt, outcome, node_id, lane, started_at, finished_at, error)
    select g.id, g.run, g.attempt, 'x', 0, -1, null, clock_timestamp(), json_build_object('code', 'TASK_CANCELLED', 'message', p_reason)
    from gone g where not g.ephemeral
  )
  select coalesce(array_agg(g.id) filter (where g.key is not null), '{}'),
    coalesce(array_agg(g.id) filter (where p_turns and g.group_key is not null), '{}'),
    coalesce(array_agg(g.id) filter (where g.ephemeral), '{}')
  into v_keyed, v_grouped, v_ephemeral from gone g;
  perform millrace.let_go(v_keyed, v_grouped, v_ephemeral);
end $$;

-- Purges one batch of what waits in one place of a queue and was enqueued until p_before: at most 1,000 rows (each may be
-- a group that is let go, which is a lock) and about p_jobs jobs. Answers how many, and where to go on (null: done).
-- Places in this order, because jobs wander in it: scheduled, blocked, ready. Tickets stay; the next claim spends them.
-- p_after: first id of the last row seen, scheduled only. Index: scheduled_pkey, blocked_order, ready_order.
create function millrace.purge_waiting(p_queue int, p_place text, p_after bigint, p_before timestamptz, p_jobs int, p_reason text)
returns table (jobs int, last bigint) language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  r record;
  v_chunks millrace.chunk[] := '{}';
  v_firsts bigint[] := '{}';
  v_groups text[] := '{}';
  v_jobs int := 0;
  v_last bigint;
  g record;
begin
  if p_place = 'scheduled' then
    for r in
      select s.first_id, s.count, s.attempt, s.run, s.rescues, s.rank from millrace.scheduled s join millrace.job j on j.id = s.first_id
      where s.first_id > p_after and s.queue_id = p_queue and j.created_at <= p_before
      order by s.first_id limit 1000 for update of s
    loop
      exit when v_jobs >= p_jobs;
      v_firsts := v_firsts || r.first_id;
      v_chunks := v_chunks || row(r.first_id, r.count, r.attempt, r.run, r.rescues, r.rank, 0)::millrace.chunk;
      v_jobs := v_jobs + r.count;
      v_last := r.first_id;
    end loop;
    delete from millrace.scheduled s where s.first_id = any (v_firsts);
  elsif p_place = 'blocked' then
    for r in
      select b.job_id, b.attempt, b.run, b.rescues, b.rank, b.group_key from millrace.blocked b join millrace.job j on j.id = b.job_id
      where b.queue_id = p_queue and j.created_at <= p_before
      order by b.queue_id, b.group_key, b.rank, b.seq limit 1000 for update of b
    loop
      v_firsts := v_firsts || r.job_id;
      if r.group_key is distinct from v_groups[cardinality(v_groups)] then v_groups := v_groups || r.group_key; end if;
      v_chunks := v_chunks || row(r.job_id, 1, r.attempt, r.run, r.rescues, r.rank, 0)::millrace.chunk;
      v_jobs := v_jobs + 1;
      v_last := r.job_id;
    end loop;
    delete from millrace.blocked b where b.job_id = any (v_firsts);
  else
    for r in
      select y.first_id, y.count, y.attempt, y.run, y.rescues, y.rank from millrace.ready y join millrace.job j on j.id = y.first_id
      where y.queue_id = p_queue and y.count > 0 and j.created_at <= p_before
      order by y.rank, y.seq, y.first_id limit 1000 for update of y
    loop
      exit when v_jobs >= p_jobs;
      v_firsts := v_firsts || r.first_id;
      v_chunks := v_chunks || row(r.first_id, r.count, r.attempt, r.run, r.rescues, r.rank, 0)::millrace.chunk;
      v_jobs := v_jobs + r.count;
      v_last := r.first_id;
    end loop;
    delete from millrace.ready y where y.first_id = any (v_firsts);
  end if;
  if v_jobs > 0 then perform millrace.end_waiting(v_chunks, p_place <> 'blocked', p_reason); end if;
  if p_place = 'blocked' then
    -- those behind one that was blocked may have a larger limit than it had
    for g in select distinct b.group_key from millrace.blocked b where b.queue_id = p_queue and b.group_key = any (v_groups) loop
      perform millrace.call_next(p_queue, g.group_key);
    end loop;
  end if;
  return query select v_jobs, v_last;
end $$;

-- ------------------------------------------------------------------ lists

-- What ended otherwise than well is rare, and asked for often. A completion costs this index nothing.
create index attempt_not_completed on millrace.attempt (job_id) where outcome <> 'c';

-- Jobs, newest first, keyset by id. Whoever asks for a state is led by the rows of that state, and the view judges: what
-- it costs is what is listed, not how many jobs there are. Only a rare queue or task without a state, or one that few of a
-- state have, is looked for among all of them. Index: job_pkey, ready_pkey, scheduled_pkey, blocked_pkey, dead_pkey,
-- running_pkey, attempt_pkey, attempt_not_completed.
create function millrace.list_jobs(p_task text, p_queue text, p_state text, p_id bigint, p_before bigint, p_limit int)
returns setof millrace.jobs language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_custom_plan as $$
declare
  v_queue int := (select q.id from millrace.queue q where q.name = p_queue);
  v_task int := (select t.id from millrace.task t where t.name = p_task);
  v_before bigint := coalesce(p_before, 9223372036854775807);
  v_left int := p_limit;
  v_look int;
  v_found int;
  v_ids bigint[];
begin
  if (p_queue is not null and v_queue is null) or (p_task is not null and v_task is null) then return; end if;
  loop
    -- not all of them may be what they seem: look at some more
    v_look := case when p_id is null then v_left + 50 else 1 end;
    if p_id is not null then
      v_ids := array[p_id];
    elsif p_state is null then
      select array_agg(w.id) into v_ids from (
        select j.id from millrace.job j where j.id < v_before and (v_queue is null or j.queue_id = v_queue) and (v_task is null or j.task_id = v_task)
        order by j.id desc limit v_look) w;
    elsif p_state = 'queued' then
      select array_agg(w.id) into v_ids from (
        (select i as id from (
          select y.first_id, y.count from millrace.ready y
          where y.first_id < v_before and y.count > 0 and (v_queue is null or y.queue_id = v_queue) and (v_task is null or y.task_id = v_task)
          order by y.first_id desc limit v_look) c
          cross join lateral generate_series(c.first_id, least(c.first_id + c.count, v_before) - 1) i
        order by c.first_id desc, i desc limit v_look)
        union all
        (select b.job_id from millrace.blocked b
        where b.job_id < v_before and (v_queue is null or b.queue_id = v_queue) and (v_task is null or b.task_id = v_task)
        order by b.job_id desc limit v_look)
        order by id desc limit v_look) w;
    elsif p_state in ('scheduled', 'retrying') then
      select array_agg(w.id) into v_ids from (
        select i as id from (
          select s.first_id, s.count from millrace.scheduled s
          where s.first_id < v_before and (s.run > 1) = (p_state = 'retrying') and (v_queue is null or s.queue_id = v_queue) and (v_task is null or s.task_id = v_task)
          order by s.first_id desc limit v_look) c
          cross join lateral generate_series(c.first_id, least(c.first_id + c.count, v_before) - 1) i
        order by c.first_id desc, i desc limit v_look) w;
    elsif p_state = 'blocked' then
      select array_agg(w.id) into v_ids from (
        select b.job_id as id from millrace.blocked b
        where b.job_id < v_before and (v_queue is null or b.queue_id = v_queue) and (v_task is null or b.task_id = v_task)
        order by b.job_id desc limit v_look) w;
    elsif p_state = 'running' then
      select array_agg(w.id) into v_ids from (
        select g.job_id as id from millrace.running g where g.job_id < v_before order by g.job_id desc limit v_look) w;
    elsif p_state = 'assigned' then
      select array_agg(w.id) into v_ids from (
        select i as id from millrace.lease l cross join lateral unnest(l.chunks) c
          cross join lateral generate_series(c.first_id, least(c.first_id + c.count, v_before) - 1) i
        where not exists (select from millrace.attempt a where a.job_id = i and a.run >= c.run)
          and not exists (select from millrace.running g where g.job_id = i and g.run = c.run)
        order by i desc limit v_look) w;
    elsif p_state = 'completed' then
      select array_agg(w.id) into v_ids from (
        select a.job_id as id from millrace.attempt a where a.job_id < v_before and a.outcome = 'c'
          and ((v_queue is null and v_task is null) or exists (select from millrace.job j
            where j.id = a.job_id and (v_queue is null or j.queue_id = v_queue) and (v_task is null or j.task_id = v_task)))
        order by a.job_id desc limit v_look) w;
    else
      -- a dead letter, or an outcome that no later run took back
      select array_agg(w.id) into v_ids from (
        (select d.job_id as id from millrace.dead d
        where p_state in ('failed', 'expired') and d.job_id < v_before and (d.code = 'TASK_EXPIRED') = (p_state = 'expired')
          and (v_queue is null or d.queue_id = v_queue) and (v_task is null or d.task_id = v_task)
        order by d.job_id desc limit v_look)
        union
        (select a.job_id from millrace.attempt a
        where a.outcome <> 'c' and a.job_id < v_before
          and a.outcome = any (case p_state when 'cancelled' then array['x'] when 'expired' then array['e'] when 'failed' then array['f', 't'] else array['l', 'r'] end::"char"[])
          and not exists (select from millrace.attempt n where n.job_id = a.job_id and n.run > a.run)
          and ((v_queue is null and v_task is null) or exists (select from millrace.job j
            where j.id = a.job_id and (v_queue is null or j.queue_id = v_queue) and (v_task is null or j.task_id = v_task)))
        order by a.job_id desc limit v_look)
        order by id desc limit v_look) w;
    end if;
    return query
      select v.* from millrace.jobs v
      where v.id = any (v_ids) and (p_task is null or v.task = p_task) and (p_queue is null or v.queue = p_queue) and (p_state is null or v.state = p_state)
      order by v.id desc limit v_left;
    get diagnostics v_found = row_count;
    v_left := v_left - v_found;
    exit when v_left <= 0 or p_id is not null or coalesce(cardinality(v_ids), 0) < v_look;
    v_before := v_ids[v_look];
  end loop;
end $$;

-- Dead letters, newest job first; of a time the last to die first, so that one index gives both the time and the order, and
-- no more is read than is shown. p_below: behind this one. Index: dead_pkey, dead_queue, dead_time.
create function millrace.list_dead(p_queue text, p_task text, p_job bigint, p_below bigint, p_limit int, p_after timestamptz, p_before timestamptz)
returns setof millrace.dead_letters language plpgsql stable
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_custom_plan as $$
declare
  v_queue int := (select q.id from millrace.queue q where q.name = p_queue);
  v_task int := (select t.id from millrace.task t where t.name = p_task);
  v_ids bigint[];
  v_below timestamptz;
begin
  if (p_queue is not null and v_queue is null) or (p_task is not null and v_task is null) then return; end if;
  if p_after is null and p_before is null then
    select array_agg(w.job_id order by w.job_id desc) into v_ids from (
      select d.job_id from millrace.dead d
      where (v_queue is null or d.queue_id = v_queue) and (v_task is null or d.task_id = v_task) and (p_job is null or d.job_id = p_job)
        and (p_below is null or d.job_id < p_below)
      order by d.job_id desc limit p_limit) w;
  else
    select d.died_at into v_below from millrace.dead d where d.job_id = p_below;
    select array_agg(w.job_id order by w.died_at desc, w.job_id desc) into v_ids from (
      select d.job_id, d.died_at from millrace.dead d
      where (v_queue is null or d.queue_id = v_queue) and (v_task is null or d.task_id = v_task) and (p_job is null or d.job_id = p_job)
        and (v_below is null or (d.died_at, d.job_id) < (v_below, p_below))
        and (p_after is null or d.died_at >= p_after) and (p_before is null or d.died_at < p_before)
      order by d.died_at desc, d.job_id desc limit p_limit) w;
  end if;
  return query select v.* from millrace.dead_letters v where v.job_id = any (v_ids) order by array_position(v_ids, v.job_id);
end $$;

-- The oldest dead letters that match: the first jobs, of a time those that died first. Index: dead_pkey, dead_queue, dead_time.
create function millrace.dead_ids(p_queue text, p_task text, p_job bigint, p_limit int, p_after timestamptz, p_before timestamptz)
returns setof bigint language plpgsql stable set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_custom_plan as $$
declare
  v_queue int := (select q.id from millrace.queue q where q.name = p_queue);
  v_task int := (select t.id from millrace.task t where t.name = p_task);
begin
  if (p_queue is not null and v_queue is null) or (p_task is not null and v_task is null) then return; end if;
  if p_after is null and p_before is null then
    return query
      select d.job_id from millrace.dead d
      where (v_queue is null or d.queue_id = v_queue) and (v_task is null or d.task_id = v_task) and (p_job is null or d.job_id = p_job)
      order by d.job_id limit p_limit;
  else
    return query
      select d.job_id from millrace.dead d
      where (v_queue is null or d.queue_id = v_queue) and (v_task is null or d.task_id = v_task) and (p_job is null or d.job_id = p_job)
        and (p_after is null or d.died_at >= p_after) and (p_before is null or d.died_at < p_before)
      order by d.died_at, d.job_id limit p_limit;
  end if;
end $$;

-- Tasks that no running node has although jobs of them wait: in ready the first p_look rows of each queue in the order of
-- claims, where such jobs come to stand, in scheduled those that become due first, in blocked the oldest. `published`: a node has had it.
-- At most a hundred, those with the most jobs first. Index: ready_order, scheduled_due, blocked_pkey.
create function millrace.unserved_tasks(p_look int) returns table (task text, waiting bigint, published boolean) language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare v_tasks int[] := array(select t.id from millrace.task t where not millrace.is_served(t.id));
begin
  if cardinality(v_tasks) = 0 then return; end if;
  return query
    select t.name, sum(w.jobs)::bigint, t.options is not null
    from (
      select y.task_id, y.jobs from millrace.queue q cross join lateral (
        select r.task_id, r.count as jobs from millrace.ready r where r.queue_id = q.id order by r.rank, r.seq, r.first_id limit p_look) y
      union all
      (select s.task_id, s.count from millrace.scheduled s order by s.run_at limit p_look)
      union all
      (select b.task_id, 1::smallint from millrace.blocked b order by b.job_id limit p_look)
    ) w join millrace.task t on t.id = w.task_id
    where w.task_id = any (v_tasks) and w.jobs > 0
    group by t.id order by 2 desc, 1 limit 100;
end $$;

-- ------------------------------------------------------------------ results

-- Completed jobs, newest completion first, walking back through time in windows that grow while there is little in them and
-- shrink where there is much, so that the newest cost what they are and not what the history is. Of what is rare at most
-- about p_scan completions are looked through: then the last row has no job, and its time says from where to go on.
-- p_below: of those completed at the very p_before, jobs below this id belong to it too. Index: attempt_finished.
create function millrace.results(p_queue text, p_task text, p_group text, p_after timestamptz, p_before timestamptz, p_limit int, p_offset int,
  p_below bigint, p_scan int)
returns table (job_id bigint, task text, queue text, group_key text, attempt int, run int, node_id int, lane int,
  started_at timestamptz, finished_at timestamptz, result json)
language plpgsql stable set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  v_queue int := (select q.id from millrace.queue q where q.name = p_queue);
  v_task int := (select t.id from millrace.task t where t.name = p_task);
  -- a window reads whole ranges of blocks, some thousand rows, however narrow it is: what may be rare is looked for in wide ones
  v_wide constant boolean := v_queue is not null or v_task is not null or p_group is not null;
  v_most int := case when v_wide then 20000 else 1000 end;
  v_begin timestamptz := coalesce(p_after, '-infinity');
  v_to timestamptz := coalesce(p_before, 'infinity');
  v_now timestamptz := least(v_to, clock_timestamp());
  v_below bigint := coalesce(p_below, 0);
  v_from timestamptz;
  v_step interval := case when v_wide then interval '1 minute' else interval '1 second' end;
  v_skip int := p_offset;
  v_left int := p_limit;
  v_scan int := p_scan;
  v_seen int;
  v_found int;
begin
  if (p_queue is not null and v_queue is null) or (p_task is not null and v_task is null) then return; end if;
  loop
    v_from := case when v_step > interval '10 years' then v_begin else greatest(v_now - v_step, v_begin) end;
    select count(*) into v_seen from (
      select from millrace.attempt a where a.finished_at >= v_from and a.finished_at <= v_to limit v_most + 1) w; -- whatever its outcome
    if v_seen > v_most and v_step > interval '1 ms' then
      v_step := least(v_step, interval '10 years') / 4;
      continue;
    end if;
    if v_skip > 0 then
      select count(*) into v_found from (
        select from millrace.attempt a
        cross join lateral (select from millrace.job k where k.id = a.job_id and (v_queue is null or k.queue_id = v_queue)
          and (v_task is null or k.task_id = v_task) and (p_group is null or k.group_key = p_group) offset 0) j
        where a.finished_at >= v_from and a.finished_at <= v_to and (a.finished_at < v_to or a.job_id < v_below) and a.outcome = 'c'
        limit v_skip + 1) w;
    end if;
    if v_skip > 0 and v_found <= v_skip then
      v_skip := v_skip - v_found;
    else
      return query
        select a.job_id, t.name, q.name, j.group_key, a.attempt::int, a.run::int, a.node_id, a.lane::int, a.started_at, a.finished_at, a.result
        from millrace.attempt a
        -- offset 0: first the time, then the job
        cross join lateral (select k.queue_id, k.task_id, k.group_key from millrace.job k where k.id = a.job_id and (v_queue is null or k.queue_id = v_queue)
          and (v_task is null or k.task_id = v_task) and (p_group is null or k.group_key = p_group) offset 0) j
        cross join lateral (select x.name from millrace.queue x where x.id = j.queue_id offset 0) q
        cross join lateral (select x.name from millrace.task x where x.id = j.task_id offset 0) t
        where a.finished_at >= v_from and a.finished_at <= v_to and (a.finished_at < v_to or a.job_id < v_below) and a.outcome = 'c'
        order by a.finished_at desc, a.job_id desc offset v_skip limit v_left;
      get diagnostics v_found = row_count;
      v_left := v_left - v_found;
      v_skip := 0;
    end if;
    exit when v_left <= 0 or v_from = v_begin;
    v_scan := v_scan - v_seen;
    if v_scan <= 0 then
      return query select null::bigint, null, null, null, null::int, null::int, null::int, null::int, null::timestamptz, v_from, null::json;
      return;
    end if;
    v_most := least(v_most, greatest(v_scan, 1000));
    v_to := v_from;
    v_now := v_from;
    v_below := 0;
    if v_seen < v_most / 4 then v_step := v_step * case when v_wide then 16 else 4 end; end if;
  end loop;
end $$;

-- Forgets one batch of completed jobs: their rows and all their attempts, in the order of ids. Answers how many, and
-- the id after which to go on (null: done). Ids are dealt in time, give or take a minute, so old ones end the walk.
-- Index: attempt_pkey, job_pkey.
create function millrace.forget_completed(p_queue text, p_before timestamptz, p_after bigint, p_limit int)
returns table (jobs int, last bigint) language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  v_queue int := (select q.id from millrace.queue q where q.name = p_queue);
  v_ids bigint[];
  v_seen int;
  v_last bigint;
begin
  if p_queue is not null and v_queue is null then return query select 0, null::bigint; return; end if;
  with seen as materialized (
    select a.job_id, a.finished_at from millrace.attempt a where a.job_id > p_after and a.outcome = 'c' order by a.job_id limit p_limit
  )
  select count(*), max(s.job_id),
    coalesce(array_agg(s.job_id) filter (where (p_before is null or s.finished_at < p_before) and (v_queue is null or j.queue_id = v_queue)), '{}')
  into v_seen, v_last, v_ids
  from seen s join millrace.job j on j.id = s.job_id;
  if v_seen < p_limit or (select j.created_at from millrace.job j where j.id = v_last) > p_before + interval '2 minutes' then v_last := null; end if;
  delete from millrace.attempt a where a.job_id = any (v_ids);
  delete from millrace.job j where j.id = any (v_ids);
  return query select cardinality(v_ids), v_last;
end $$;

-- ------------------------------------------------------------------ retention

-- Ids from p_from up to p_to that stand somewhere: waiting, held, or as a dead letter. Held ones may have ended by now.
create function millrace.standing(p_from bigint, p_to bigint) returns setof bigint language sql stable as $$
  select i from millrace.ready r cross join lateral generate_series(greatest(r.first_id, p_from), least(r.first_id + r.count, p_to) - 1) i
  where r.first_id > p_from - 1000 and r.first_id < p_to
  union all
  select i from millrace.scheduled s cross join lateral generate_series(greatest(s.first_id, p_from), least(s.first_id + s.count, p_to) - 1) i
  where s.first_id > p_from - 1000 and s.first_id < p_to
  union all
  select b.job_id from millrace.blocked b where b.job_id >= p_from and b.job_id < p_to
  union all
  select d.job_id from millrace.dead d where d.job_id >= p_from and d.job_id < p_to
  union all
  select i from millrace.lease l cross join lateral unnest(l.chunks) c
    cross join lateral generate_series(greatest(c.first_id, p_from), least(c.first_id + c.count, p_to) - 1) i
  where c.first_id > p_from - 1000 and c.first_id < p_to
$$;

-- Drops the oldest span when all of it is older than p_keep_ms. Jobs that stand somewhere, and those that ended later than
-- that, move to the attic with their attempts; more than p_moves_max of them hold the span back. Detaching needs both tables for
-- itself for a moment: it asks for 200 ms at most and comes again later. Answers nothing when there is nothing to do.
create function millrace.retire_span(p_keep_ms float8, p_moves_max int) returns table (span bigint, outcome text, moved int) language plpgsql as $$
#variable_conflict use_column
declare
  v_span constant bigint := 10000000;
  v_cut timestamptz := clock_timestamp() - p_keep_ms * interval '1 ms';
  v_no bigint;
  v_newest timestamptz;
  v_ids bigint[];
begin
  if not pg_try_advisory_xact_lock(hashtextextended('@schema retire', 0)) then return; end if;
  select min(substring(c.relname from '^job_(\d+)$')::bigint) into v_no
  from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
  where i.inhparent = 'millrace.job'::regclass and c.relname ~ '^job_\d+$';
  if v_no is null or (select s.last_value from millrace.id_block s) * 1000 < (v_no + 1) * v_span then return; end if;
  -- the last id is not quite the last in time: a node keeps its ids for a minute
  execute pg_catalog.format('select created_at from millrace.job_%s order by id desc limit 1', v_no) into v_newest;
  if v_newest > v_cut - interval '2 minutes' then return; end if;

  for v_try in 1 .. 2 loop
    -- first a look, so that nobody waits for a span that cannot go yet
    execute pg_catalog.format('select coalesce(array_agg(w.id), ''{}'') from (select i as id from millrace.standing(%s, %s) i '
      'union select job_id from millrace.attempt_%s where finished_at >= $1 limit $2) w', v_no * v_span, (v_no + 1) * v_span, v_no)
      into v_ids using v_cut, p_moves_max + 1;
    if cardinality(v_ids) > p_moves_max then return query select v_no, 'held back', cardinality(v_ids); return; end if;
    exit when v_try = 2;
    perform set_config('lock_timeout', '200ms', true);
    begin
      lock table only millrace.attempt in access exclusive mode;
      lock table only millrace.job in access exclusive mode;
      execute pg_catalog.format('alter table millrace.attempt detach partition millrace.attempt_%s', v_no);
      execute pg_catalog.format('alter table millrace.job detach partition millrace.job_%s', v_no);
    exception when lock_not_available then
      return query select v_no, 'busy', 0;
      return;
    end;
  end loop;

  perform set_config('enable_seqscan', 'off', true);
  execute pg_catalog.format('insert into millrace.job_attic select * from millrace.job_%s where id = any ($1)', v_no) using v_ids;
  execute pg_catalog.format('insert into millrace.attempt_attic select * from millrace.attempt_%s where job_id = any ($1)', v_no) using v_ids;
  execute pg_catalog.format('drop table millrace.job_%s, millrace.attempt_%s', v_no, v_no);
  return query select v_no, 'dropped', cardinality(v_ids);
end $$;

-- Forgets up to p_limit jobs of the attic that have ended and are older than p_keep_ms.
create function millrace.sweep_attic(p_keep_ms float8, p_limit int) returns int language plpgsql as $$
declare v_cut timestamptz := clock_timestamp() - p_keep_ms * interval '1 ms'; v_ids bigint[];
begin
  if not pg_try_advisory_xact_lock(hashtextextended('@schema retire', 0)) then return 0; end if;
  select coalesce(array_agg(w.id), '{}') into v_ids from (
    select j.id from millrace.job_attic j
    where j.created_at < v_cut and not exists (select from millrace.dead d where d.job_id = j.id)
      and not exists (select from millrace.attempt_attic a where a.job_id = j.id and a.finished_at >= v_cut)
      and not millrace.is_unfinished(j.id)
    order by j.id limit p_limit) w;
  delete from millrace.attempt_attic a where a.job_id = any (v_ids);
  delete from millrace.job_attic j where j.id = any (v_ids);
  return cardinality(v_ids);
end $$;

-- Autovacuum never analyzes the parent of partitions: this does, when the last time is p_age_ms ago. Answers which.
create function millrace.analyze_parents(p_age_ms float8) returns text[] language plpgsql as $$
declare v_table text; v_done text[] := '{}';
begin
  if not pg_try_advisory_xact_lock(hashtextextended('@schema analyze', 0)) then return v_done; end if;
  foreach v_table in array array['job', 'attempt'] loop
    if not exists (select from pg_catalog.pg_stat_user_tables s where s.schemaname = '@schema' and s.relname = v_table
      and s.last_analyze > clock_timestamp() - p_age_ms * interval '1 ms') then
      execute pg_catalog.format('analyze millrace.%I', v_table);
      v_done := v_done || v_table;
    end if;
  end loop;
  return v_done;
end $$;

-- ------------------------------------------------------------------ schedules, from any language

-- Makes or changes one schedule in the caller's own transaction: what is not named gets its default, but for paused,
-- which stays as it is (null). The default of queue, and of group, groupLimit and onRetry in options, is what the task's
-- published options say now; that of maxAttempts what they say when an occurrence is decided. Engines hear of it with the
-- commit. Answers created, changed or same.
-- options: {priority, maxAttempts, timeoutMs, group, groupLimit, onRetry, ephemeral, meta}. What only the engine can tell (a
-- time zone that its Node does not know) stands in the column error of the view schedules.
-- Errors: SQLSTATE MR400 with the field and the rule.
create function millrace.put_schedule(
  id text,
  task text,
  cron text,
  time_zone text default 'UTC',
  payload json default '{}',
  queue text default null,
  options json default '{}',
  starts_at timestamptz default null,
  ends_at timestamptz default null,
  jitter_ms int default 0,
  overlap text default 'allow',
  catch_up text default 'one',
  catch_up_ms bigint default 86400000,
  paused boolean default null
) returns text language plpgsql as $$
#variable_conflict use_variable
declare
  v_options jsonb;
  v_task int;
  v_published json;
  v_key text;
  v_source text;
  v_what text;
begin
  perform millrace.check_name('id', id), millrace.check_name('task', task);
  if queue is not null then perform millrace.check_name('queue', queue); end if;
  perform millrace.check_cron(cron);
  perform millrace.check_time_zone(time_zone);
  payload := coalesce(payload, 'null'::json);
  perform millrace.check_json('payload', payload, 65536);
  options := coalesce(options, '{}'::json);
  perform millrace.check_json('options', options, 65536);
  begin
    v_options := options::jsonb;
  exception when data_exception then
    raise exception 'options must be JSON with numbers that can be stored' using errcode = 'MR400';
  end;
  if jsonb_typeof(v_options) <> 'object' then raise exception 'options must be a JSON object' using errcode = 'MR400'; end if;
  select k into v_key from jsonb_object_keys(v_options) k where k <> all (array['priority', 'maxAttempts', 'timeoutMs', 'group', 'groupLimit', 'onRetry', 'ephemeral', 'meta']) limit 1;
  if found then raise exception 'options must be of priority, maxAttempts, timeoutMs, group, groupLimit, onRetry, ephemeral, meta, got %', left(v_key, 60) using errcode = 'MR400'; end if;
  v_options := millrace.option_whole(v_options, 'priority', -100, 100);
  v_options := millrace.option_whole(v_options, 'maxAttempts', 1, 10000);
  v_options := millrace.option_whole(v_options, 'timeoutMs', 0, 2147483647);
  v_options := millrace.option_whole(v_options, 'groupLimit', 1, 1000);
  if v_options ? 'group' then
    if jsonb_typeof(v_options -> 'group') <> 'string' then raise exception 'options.group must be a string of 1 to 255 characters' using errcode = 'MR400'; end if;
    perform millrace.check_name('options.group', v_options ->> 'group');
  end if;
  if v_options ? 'onRetry' and v_options ->> 'onRetry' is distinct from 'block' and v_options ->> 'onRetry' is distinct from 'skip' then
    raise exception 'options.onRetry must be block or skip' using errcode = 'MR400';
  end if;
  select t.id, t.options into v_task, v_published from millrace.task t where t.name = task;
  if v_task is null then v_task := millrace.task_id(task); end if;
  if not v_options ? 'group' and v_published ->> 'group' is not null then
    v_options := v_options || jsonb_build_object('group', v_published ->> 'group');
  end if;
  if v_options ? 'group' and not v_options ? 'groupLimit' and v_published ->> 'groupLimit' is not null then
    v_options := v_options || jsonb_build_object('groupLimit', case when overlap = 'queue' then 1 else (v_published ->> 'groupLimit')::int end);
  end if;
  if v_options ? 'group' and not v_options ? 'onRetry' and v_published ->> 'onRetry' = 'skip' then
    v_options := v_options || jsonb_build_object('onRetry', 'skip');
  end if;
  if not v_options ? 'group' and v_options ?| array['groupLimit', 'onRetry'] then
    raise exception 'options.groupLimit and options.onRetry must be left out without options.group' using errcode = 'MR400';
  end if;
  if v_options ? 'ephemeral' and jsonb_typeof(v_options -> 'ephemeral') <> 'boolean' then raise exception 'options.ephemeral must be true or false' using errcode = 'MR400'; end if;
  if v_options ? 'meta' then perform millrace.check_meta('options.meta', options -> 'meta'); end if;
  if overlap = 'queue' and (v_options ->> 'groupLimit')::int > 1 then
    raise exception 'options.groupLimit must be 1 where overlap is queue, got %', v_options ->> 'groupLimit' using errcode = 'MR400';
  end if;
  if starts_at not between '0001-01-01 00:00Z' and '10000-01-01 00:00Z' then
    raise exception 'starts_at must be a time of the years 1 to 9999, got %', starts_at using errcode = 'MR400';
  end if;
  if ends_at not between '0001-01-01 00:00Z' and '10000-01-01 00:00Z' then
    raise exception 'ends_at must be a time of the years 1 to 9999, got %', ends_at using errcode = 'MR400';
  end if;
  if ends_at <= starts_at then raise exception 'ends_at must be after starts_at' using errcode = 'MR400'; end if;
  if jitter_ms is null or jitter_ms not between 0 and 3600000 then raise exception 'jitter_ms must be from 0 to 3600000, got %', jitter_ms using errcode = 'MR400'; end if;
  if overlap is null or overlap not in ('allow', 'skip', 'queue') then raise exception 'overlap must be allow, skip or queue, got %', left(overlap, 60) using errcode = 'MR400'; end if;
  if catch_up is null or catch_up not in ('none', 'one', 'all') then raise exception 'catch_up must be none, one or all, got %', left(catch_up, 60) using errcode = 'MR400'; end if;
  if catch_up_ms is null or catch_up_ms not between 0 and 604800000 then raise exception 'catch_up_ms must be from 0 to 604800000, got %', catch_up_ms using errcode = 'MR400'; end if;

  select s.source into v_source from millrace.schedule s where s.id = put_schedule.id;
  select p.what into v_what from millrace.put_schedules(json_build_array(json_build_object(
    'id', id, 'queue_id', millrace.queue_id(coalesce(queue, v_published ->> 'queue', 'default')), 'task_id', v_task, 'cron', cron, 'time_zone', time_zone,
    'payload', payload, 'options', v_options, 'starts_ms', extract(epoch from starts_at) * 1000, 'ends_ms', extract(epoch from ends_at) * 1000,
    'jitter_ms', jitter_ms, 'overlap', overlap, 'catch_up', catch_up, 'catch_up_ms', catch_up_ms, 'paused', paused)),
    coalesce(v_source, 'api'), false, null) p;
  return v_what;
end $$;

-- Pauses or resumes a schedule in the caller's own transaction; due times that pass while it is paused are nobody's.
-- Answers whether there is such a schedule.
create function millrace.pause_schedule(id text, paused boolean default true) returns boolean language plpgsql as $$
#variable_conflict use_variable
begin
  if paused is null then raise exception 'paused must be true or false' using errcode = 'MR400'; end if;
  update millrace.schedule s set paused = pause_schedule.paused, changed = nextval('millrace.schedule_change'), updated_at = clock_timestamp(),
    since = case when pause_schedule.paused then s.since else clock_timestamp() end
  where s.id = pause_schedule.id and s.paused <> pause_schedule.paused;
  if found then perform pg_notify('millrace_@schema', 'h'); return true; end if;
  return exists (select from millrace.schedule s where s.id = pause_schedule.id);
end $$;

create function millrace.resume_schedule(id text) returns boolean language sql as $$ select millrace.pause_schedule(id, false) $$;

-- Deletes a schedule in the caller's own transaction; jobs that it has made stay. Answers whether there was one.
create function millrace.delete_schedule(id text) returns boolean language plpgsql as $$
#variable_conflict use_variable
begin
  delete from millrace.schedule s where s.id = delete_schedule.id;
  if not found then return false; end if;
  perform pg_notify('millrace_@schema', 'h');
  return true;
end $$;
