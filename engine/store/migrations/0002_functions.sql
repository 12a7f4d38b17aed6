-- What happens to jobs, as functions: one round trip each, one plan each, the same through any pooler.
-- Locks are taken in one order everywhere: node, lease, key, group; whoever claims never waits for a lock.

-- Makes the partitions that hold ids up to p_until plus two spans, and answers the first id that has none.
create function millrace.make_spans(p_until bigint) returns bigint language plpgsql as $$
declare
  v_span constant bigint := 10000000;
  v_from bigint;
begin
  if exists (select from pg_catalog.pg_class c where c.oid = pg_catalog.to_regclass('millrace.job_' || (p_until / v_span + 2))) then
    return (p_until / v_span + 3) * v_span;
  end if;
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('@schema spans', 0));
  for v_no in p_until / v_span .. p_until / v_span + 2 loop
    if pg_catalog.to_regclass('millrace.job_' || v_no) is null then
      v_from := v_no * v_span;
      execute pg_catalog.format('create table millrace.job_%s partition of millrace.job for values from (%s) to (%s) '
        'with (autovacuum_vacuum_insert_scale_factor = 1.0)', v_no, v_from, v_from + v_span);
      execute pg_catalog.format('create table millrace.attempt_%s partition of millrace.attempt for values from (%s) to (%s) '
        'with (autovacuum_vacuum_insert_scale_factor = 1.0)', v_no, v_from, v_from + v_span);
    end if;
  end loop;
  return (p_until / v_span + 3) * v_span;
end $$;

select millrace.make_spans(1);

-- The id of a queue's or task's name; new names are added.
create function millrace.queue_id(p_name text) returns int language plpgsql as $$
declare v_id int;
begin
  select id into v_id from millrace.queue where name = p_name;
  if v_id is null then
    insert into millrace.queue (name) values (p_name) on conflict (name) do nothing;
    select id into v_id from millrace.queue where name = p_name;
  end if;
  return v_id;
end $$;

create function millrace.task_id(p_name text) returns int language plpgsql as $$
declare v_id int;
begin
  select id into v_id from millrace.task where name = p_name;
  if v_id is null then
    insert into millrace.task (name) values (p_name) on conflict (name) do nothing;
    select id into v_id from millrace.task where name = p_name;
  end if;
  return v_id;
end $$;

-- Where a job stands in its queue: lower is earlier. Without ageing by priority; with ageing "older by ageing_ms" weighs
-- as much as one level, which never needs re-sorting. Stable, as extract() is: declared immutable it would not be
-- inlined, and a call costs 1.9 us instead of 0.13 (server's CPU, PostgreSQL 18, 2026-11).
create function millrace.rank_of(p_ageing_ms int, p_priority int, p_at timestamptz) returns bigint language sql stable as $$
  select case when p_ageing_ms is null then -p_priority::bigint
    else (extract(epoch from p_at) * 1000)::bigint - p_priority::bigint * p_ageing_ms end
$$;

-- The lock that orders the claims and releases of one group. Collisions only make somebody wait.
-- The cast lets it be inlined: text || int is only stable.
create function millrace.group_lock(p_queue int, p_group text) returns bigint language sql immutable as $$
  select pg_catalog.hashtextextended('@schema group ' || p_queue::text || ' ' || p_group, 0)
$$;

-- Locks the groups of all these jobs in the one order that everybody keeps: for who lets go of groups by several calls.
create function millrace.lock_groups(p_jobs bigint[]) returns void language plpgsql
set enable_hashjoin = off set enable_mergejoin = off as $$
begin
  perform pg_advisory_xact_lock(w.lock) from (
    select distinct millrace.group_lock(j.queue_id, j.group_key) as lock from millrace.job j
    where j.id = any (p_jobs) and j.group_key is not null order by 1) w;
end $$;

-- Puts chunks in their place after their job rows were written: ready, scheduled, or behind their group.
-- p_chunks: [{f first id, c count, q queue id, t task id, p priority, r run at (ms, null now), b bytes, g group, l its limit}]
-- p_plain: no chunk has a run_at or a group.
create function millrace.place_chunks(p_chunks json, p_plain boolean) returns void language plpgsql as $$
declare v_now timestamptz := clock_timestamp();
begin
  if p_plain then
    insert into millrace.ready (first_id, rank, due_at, queue_id, task_id, bytes, count, attempt, run, rescues)
    select c.f, millrace.rank_of(q.ageing_ms, c.p, v_now), v_now, c.q, c.t, c.b, c.c, 1, 1, 0
    from json_to_recordset(p_chunks) as c(f bigint, c int, q int, t int, p int, b bigint)
    join millrace.queue q on q.id = c.q
    order by c.f;
    return;
  end if;
  insert into millrace.scheduled (first_id, run_at, rank, queue_id, task_id, bytes, count, attempt, run, rescues, group_key)
  select c.f, to_timestamp(c.r / 1000.0), millrace.rank_of(q.ageing_ms, c.p, to_timestamp(c.r / 1000.0)), c.q, c.t, c.b, c.c, 1, 1, 0, c.g
  from json_to_recordset(p_chunks) as c(f bigint, c int, q int, t int, p int, r float8, b bigint, g text)
  join millrace.queue q on q.id = c.q
  where c.r is not null and to_timestamp(c.r / 1000.0) > v_now;

  insert into millrace.blocked (job_id, rank, due_at, queue_id, task_id, bytes, attempt, run, rescues, group_key, group_limit)
  select c.f, millrace.rank_of(q.ageing_ms, c.p, v_now), v_now, c.q, c.t, c.b, 1, 1, 0, c.g, coalesce(c.l, 1)
  from json_to_recordset(p_chunks) as c(f bigint, c int, q int, t int, p int, r float8, b bigint, g text, l int)
  join millrace.queue q on q.id = c.q
  where c.g is not null and (c.r is null or to_timestamp(c.r / 1000.0) <= v_now)
  order by c.f;

  insert into millrace.ready (first_id, rank, due_at, queue_id, task_id, bytes, count, attempt, run, rescues, group_key)
  select case when c.g is null then c.f else -nextval('millrace.ready_seq_seq') end,
    millrace.rank_of(q.ageing_ms, c.p, v_now), v_now, c.q, c.t, c.b, case when c.g is null then c.c else 0 end, 1, 1, 0, c.g
  from json_to_recordset(p_chunks) as c(f bigint, c int, q int, t int, p int, r float8, b bigint, g text)
  join millrace.queue q on q.id = c.q
  where c.r is null or to_timestamp(c.r / 1000.0) <= v_now
  order by c.f;
end $$;

-- Takes the keys of a batch. Answers the keys that an unfinished job has, with that job's id; those were not taken.
-- p_keys: [{q queue id, k key, j job id}]
create function millrace.take_keys(p_keys json) returns table (key text, queue_id int, job_id bigint, held_by bigint) language plpgsql as $$
#variable_conflict use_column
declare
  v_left json := p_keys;
  v_taken bigint[];
begin
  for v_try in 1 .. 5 loop
    with taken as (
      insert into millrace.key (queue_id, key, job_id)
      select w.q, w.k, w.j from json_to_recordset(v_left) as w(q int, k text, j bigint) order by w.q, w.k
      on conflict (queue_id, key) do nothing returning key.job_id
    ) select coalesce(array_agg(taken.job_id), '{}') into v_taken from taken;
    -- who holds the others? a holder that ended meanwhile leaves its key free: try again
    return query
      select w.k, w.q, w.j, h.job_id from json_to_recordset(v_left) as w(q int, k text, j bigint)
      join millrace.key h on h.queue_id = w.q and h.key = w.k
      where w.j <> all (v_taken) and h.job_id <> w.j;
    select json_agg(json_build_object('q', w.q, 'k', w.k, 'j', w.j)) into v_left
    from json_to_recordset(v_left) as w(q int, k text, j bigint)
    where w.j <> all (v_taken) and not exists (select from millrace.key h where h.queue_id = w.q and h.key = w.k);
    exit when v_left is null;
  end loop;
end $$;

-- Enqueues chunks in one statement; also inside a caller's transaction, which a duplicate key never poisons.
-- p_chunks: as place_chunks plus {e expires at (ms), m max attempts, o timeout ms, y retry, s its group goes on meanwhile, x ephemeral,
--   a meta, k key, d [payload ...]}
-- p_all_or_nothing: one duplicate key refuses everything. p_expiring: some have an expiry. Answers the duplicates.
create function millrace.enqueue_chunks(p_chunks json, p_plain boolean, p_keyed boolean, p_all_or_nothing boolean, p_expiring boolean default false)
returns table (first_id bigint, held_by bigint) language plpgsql
set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  v_chunks json := p_chunks;
  v_refused bigint[] := '{}';
  v_held bigint[] := '{}';
begin
  if p_keyed then
    select coalesce(array_agg(t.job_id), '{}'), coalesce(array_agg(t.held_by), '{}') into v_refused, v_held
    from (select json_agg(json_build_object('q', c.q, 'k', c.k, 'j', c.f)) as keys
          from json_to_recordset(p_chunks) as c(f bigint, q int, k text) where c.k is not null) w,
      lateral millrace.take_keys(w.keys) t;
    if cardinality(v_refused) > 0 then
      if p_all_or_nothing then
        delete from millrace.key k using json_to_recordset(p_chunks) as c(f bigint, q int, k text)
        where k.queue_id = c.q and k.key = c.k and k.job_id = c.f;
        return query select u.a, u.b from unnest(v_refused, v_held) as u(a, b);
        return;
      end if;
      select json_agg(e) into v_chunks from json_array_elements(p_chunks) e where (e ->> 'f')::bigint <> all (v_refused);
    end if;
  end if;
  if v_chunks is not null then
    insert into millrace.job (id, created_at, run_at, expires_at, queue_id, task_id, payload_bytes, timeout_ms, priority,
      max_attempts, ephemeral, payload, group_key, key, retry, meta, group_limit, retry_skips)
    select c.f + d.ord - 1, clock_timestamp(), to_timestamp(c.r / 1000.0), to_timestamp(c.e / 1000.0), c.q, c.t, octet_length(d.payload::text), c.o, c.p,
      c.m, coalesce(c.x, false), d.payload, c.g, c.k, c.y, c.a, c.l, c.s
    from json_to_recordset(v_chunks) as c(f bigint, c int, q int, t int, p int, r float8, e float8, m int, o int, y json, x boolean, a json, g text, k text, d json,
      l int, s boolean)
    cross join lateral json_array_elements(c.d) with ordinality as d(payload, ord);
    perform millrace.place_chunks(v_chunks, p_plain);
    if p_expiring then perform millrace.watch_expiry(v_chunks); end if;
  end if;
  return query select u.a, u.b from unnest(v_refused, v_held) as u(a, b);
end $$;

-- Enqueues one chunk that has no options beyond priority and attempts: what nearly every call is, at half the cost of
-- enqueue_chunks (46 us against 95 us for one job, PostgreSQL 15, 2026-11).
create function millrace.enqueue_plain(p_first bigint, p_count int, p_queue int, p_task int, p_priority int, p_max_attempts int,
  p_bytes bigint, p_payloads json, p_hint text) returns void language plpgsql as $$
declare v_now timestamptz := clock_timestamp();
begin
  insert into millrace.job (id, created_at, queue_id, task_id, payload_bytes, priority, max_attempts, payload)
  select p_first + d.ord - 1, v_now, p_queue, p_task, octet_length(d.payload::text), p_priority, p_max_attempts, d.payload
  from json_array_elements(p_payloads) with ordinality as d(payload, ord);
  insert into millrace.ready (first_id, rank, due_at, queue_id, task_id, bytes, count, attempt, run, rescues)
  values (p_first, millrace.rank_of((select q.ageing_ms from millrace.queue q where q.id = p_queue), p_priority, v_now),
    v_now, p_queue, p_task, p_bytes, p_count, 1, 1, 0);
  if p_hint is not null then perform pg_notify('millrace_@schema', p_hint); end if;
end $$;

-- One id for a job enqueued by SQL, dealt from a block that this session keeps for at most a minute. A rollback gives
-- the ids back together with the rows that had used them.
create function millrace.next_id() returns bigint language plpgsql as $$
declare
  v_kept text := current_setting('millrace_ids.@schema', true);
  v_next bigint;
  v_until float8;
begin
  if v_kept <> '' then
    v_next := split_part(v_kept, ' ', 1)::bigint;
    v_until := split_part(v_kept, ' ', 2)::float8;
  end if;
  if v_next is null or v_next % 1000 = 1 or v_until < extract(epoch from clock_timestamp()) then
    v_next := nextval('millrace.id_block') * 1000 + 1;
    v_until := extract(epoch from clock_timestamp()) + 60;
    if v_next % 100000 = 1 then perform millrace.make_spans(v_next); end if;
  end if;
  perform set_config('millrace_ids.@schema', (v_next + 1) || ' ' || v_until, false);
  return v_next;
end $$;

-- Enqueues one job from any language, in the caller's own transaction. Answers its id; with a key that an unfinished job
-- has, the id of that job. Where the call leaves queue, max_attempts, group_key, group_limit or on_retry null, the published
-- options of the task count, else the defaults: queue 'default', no group, on_retry 'block'. max_attempts stays open when no
-- node has published the task: the node that runs the job decides, as it does for timeout_ms. Errors: SQLSTATE MR400 with
-- the field and the rule.
create function millrace.enqueue(
  task text,
  payload json default 'null',
  queue text default null,
  priority int default 0,
  run_at timestamptz default null,
  expires_at timestamptz default null,
  max_attempts int default null,
  timeout_ms int default null,
  group_key text default null,
  idempotency_key text default null,
  ephemeral boolean default false,
  meta json default null,
  notify boolean default true,
  group_limit int default null,
  on_retry text default null
) returns bigint language plpgsql as $$
declare
  v_id bigint;
  v_held bigint;
  v_queue int;
  v_task int;
  v_options json;
begin
  perform millrace.check_name('task', task);
  if queue is not null then perform millrace.check_name('queue', queue); end if;
  if priority is null or priority not between -100 and 100 then raise exception 'priority must be from -100 to 100, got %', priority using errcode = 'MR400'; end if;
  if max_attempts not between 1 and 10000 then raise exception 'max_attempts must be from 1 to 10000, got %', max_attempts using errcode = 'MR400'; end if;
  if timeout_ms < 0 then raise exception 'timeout_ms must not be negative, got %', timeout_ms using errcode = 'MR400'; end if;
  perform millrace.check_moment('run_at', run_at), millrace.check_moment('expires_at', expires_at);
  if expires_at < run_at then raise exception 'expires_at must not be before run_at' using errcode = 'MR400'; end if;
  if group_key is not null then perform millrace.check_name('group_key', group_key); end if;
  if group_limit not between 1 and 1000 then raise exception 'group_limit must be from 1 to 1000, got %', group_limit using errcode = 'MR400'; end if;
  if on_retry not in ('block', 'skip') then raise exception 'on_retry must be block or skip, got %', on_retry using errcode = 'MR400'; end if;
  if idempotency_key is not null then perform millrace.check_name('idempotency_key', idempotency_key); end if;
  payload := coalesce(payload, 'null'::json);
  perform millrace.check_json('payload', payload, 2097152);
  if meta is not null then perform millrace.check_meta('meta', meta); end if;
  select t.id, t.options into v_task, v_options from millrace.task t where t.name = task;
  if v_task is null then v_task := millrace.task_id(task); end if;
  group_key := coalesce(group_key, v_options ->> 'group');
  if group_key is null and (group_limit is not null or on_retry <> 'block') then
    raise exception 'group_limit and on_retry must be left out without group_key' using errcode = 'MR400';
  end if;
  if group_key is not null then
    group_limit := coalesce(group_limit, (v_options ->> 'groupLimit')::int);
    on_retry := coalesce(on_retry, v_options ->> 'onRetry');
  end if;
  v_id := millrace.next_id();
  v_queue := millrace.queue_id(coalesce(queue, v_options ->> 'queue', 'default'));
  select e.held_by into v_held from millrace.enqueue_chunks(json_build_array(json_build_object(
    'f', v_id, 'c', 1, 'q', v_queue, 't', v_task, 'p', priority,
    'r', extract(epoch from run_at) * 1000, 'e', extract(epoch from expires_at) * 1000, 'm', coalesce(max_attempts, (v_options ->> 'maxAttempts')::int), 'o', timeout_ms,
    'x', ephemeral, 'a', meta, 'g', group_key, 'l', group_limit, 's', case when on_retry = 'skip' then true end, 'k', idempotency_key, 'b', octet_length(payload::text), 'd', json_build_array(payload))),
    run_at is null and group_key is null, idempotency_key is not null, false, expires_at is not null) e;
  if v_held is not null then return v_held; end if;
  if notify then
    perform pg_notify('millrace_@schema', 'q' || v_queue);
    -- nodes look when it is near; the step is that of EXPIRY_STEP_MS
    if expires_at < clock_timestamp() + interval '60 seconds' then
      perform pg_notify('millrace_@schema', 'e' || ceil(extract(epoch from expires_at) * 4)::bigint * 250);
    end if;
  end if;
  return v_id;
end $$;

-- Claims up to p_jobs jobs and p_bytes of payload: by queue in the given order, then rank, then seq. Writes one lease.
-- Never waits for a lock; the planner's freedom is taken away because a plan made for an empty table stays cached.
-- A claim that a crash of the server forgets leaves its rows ready, so it need not wait for the disk.
create function millrace.claim(p_node int, p_queues int[], p_tasks int[], p_jobs int, p_bytes bigint, p_group text)
returns table (lease_id bigint, first_id bigint, count int, queue_id int, task_id int, rank bigint, seq bigint,
  attempt int, run int, rescues int, max_attempts int, timeout_ms int, expires_at_ms float8, created_at_ms float8,
  due_at_ms float8, keyed boolean, ephemeral boolean, group_key text, retry text, timed boolean, payloads text, metas text)
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  v_queue int;
  r record;
  h record;
  v_room int := p_jobs;
  v_bytes bigint := p_bytes;
  v_take int;
  v_gone bigint[];           -- ready rows that go whole, of this round
  v_full text;               -- the group that was found full last: whoever lets go writes a new ticket
  v_held int; v_limit int;   -- jobs of the group that are held, and the smallest limit of theirs
  v_spent boolean;
  v_cut bigint; v_cut_by int; v_cut_bytes bigint;
  v_chunks millrace.chunk[] := '{}';
  v_dues timestamptz[] := '{}';
  v_lease bigint;
  v_before int;
  v_seen int;                -- rows of this round
  v_passed boolean;          -- this round has removed tickets, or left them to others
  v_rounds int := 0;
begin
  foreach v_queue in array p_queues loop
    continue when (select q.paused from millrace.queue q where q.id = v_queue);
    v_full := null;
    loop
      v_before := v_room;
      v_gone := '{}';
      v_seen := 0;
      v_passed := false;
      for r in
        select y.first_id, y.count, y.bytes, y.rank, y.seq, y.due_at, y.attempt, y.run, y.rescues, y.group_key, y.task_id
        from millrace.ready y
        where y.queue_id = v_queue and (p_tasks is null or y.task_id = any (p_tasks)) and (p_group is null or y.group_key = p_group)
        order by y.rank, y.seq, y.first_id limit v_room for update skip locked
      loop
        exit when v_room <= 0 or (v_bytes <= 0 and cardinality(v_chunks) > 0);
        v_seen := v_seen + 1;
        if r.count = 0 then
          -- a ticket: it is spent once its group is full, or nobody waits there
          v_spent := r.group_key = v_full;
          if v_spent is not true then
            continue when not pg_try_advisory_xact_lock(millrace.group_lock(v_queue, r.group_key));
            -- whoever lets go writes a new ticket, and sees these jobs then, because it waits for our lock first
            select count(*), coalesce(min(x.group_limit), 1000) into v_held, v_limit
            from millrace.hold x where x.queue_id = v_queue and x.group_key = r.group_key;
            loop
              v_spent := v_held >= v_limit;
              if v_spent then v_full := r.group_key; end if;
              exit when v_spent or v_room <= 0 or v_bytes <= 0 and cardinality(v_chunks) > 0;
              select b.job_id, b.task_id, b.rank, b.seq, b.due_at, b.attempt, b.run, b.rescues, b.bytes, b.group_limit into h
              from millrace.blocked b where b.queue_id = v_queue and b.group_key = r.group_key
              order by b.rank, b.seq limit 1;
              v_spent := not found or v_held >= h.group_limit;
              exit when v_spent;
              if p_tasks is not null and h.task_id <> all (p_tasks) then
                -- the next one is for somebody else: leave the ticket for those who know its task
                update millrace.ready y set task_id = h.task_id where y.first_id = r.first_id;
                v_passed := true;
                exit;
              end if;
              -- somebody is taking it out just now (cancel, purge): the ticket waits for who is next then
              delete from millrace.blocked b where b.job_id = (select k.job_id from millrace.blocked k where k.job_id = h.job_id for update skip locked);
              exit when not found;
              insert into millrace.hold (queue_id, group_key, job_id, seat, group_limit)
              values (v_queue, r.group_key, h.job_id, case when v_held = 0 then 0 else (
                select min(w.seat) from generate_series(0, v_held) w(seat)
                where not exists (select from millrace.hold x where x.queue_id = v_queue and x.group_key = r.group_key and x.seat = w.seat)) end, h.group_limit);
              v_held := v_held + 1;
              v_limit := least(v_limit, h.group_limit);
              v_chunks := v_chunks || row(h.job_id, 1, h.attempt, h.run, h.rescues, h.rank, h.seq)::millrace.chunk;
              v_dues := v_dues || h.due_at;
              v_room := v_room - 1;
              v_bytes := v_bytes - h.bytes;
            end loop;
          end if;
          if v_spent then
            v_gone := v_gone || r.first_id;
            v_passed := true;
          end if;
        else
          v_take := least(r.count, v_room);
          if r.bytes > v_bytes and r.count > 1 then
            v_take := least(v_take, greatest(1, v_bytes * r.count / r.bytes)::int);
          end if;
          v_chunks := v_chunks || row(r.first_id, v_take, r.attempt, r.run, r.rescues, r.rank, r.seq)::millrace.chunk;
          v_dues := v_dues || r.due_at;
          v_room := v_room - v_take;
          v_bytes := v_bytes - r.bytes * v_take / r.count;
          if v_take = r.count then
            v_gone := v_gone || r.first_id;
          else
            v_cut := r.first_id; v_cut_by := v_take; v_cut_bytes := r.bytes * v_take / r.count;
            exit; -- one chunk at most is cut, and it is the last
          end if;
        end if;
      end loop;
      if cardinality(v_gone) > 0 then delete from millrace.ready y where y.first_id = any (v_gone); end if;
      -- a round that was full, and of which tickets took places, says nothing about what stands behind them
      v_rounds := v_rounds + 1;
      exit when v_room <= 0 or v_bytes <= 0 or v_cut is not null or v_seen < v_before or not v_passed or v_rounds > 1000;
    end loop;
    exit when v_room <= 0 or v_bytes <= 0 or v_cut is not null;
  end loop;

  if cardinality(v_chunks) = 0 then return; end if;
  perform set_config('synchronous_commit', 'off', true);
  -- a node that was declared dead claims nothing: its lease would have nobody to reopen it
  perform from millrace.node n where n.id = p_node for key share;
  if not found then raise exception 'node % is not registered', p_node using errcode = 'MR410'; end if;
  if v_cut is not null then
    update millrace.ready y set first_id = y.first_id + v_cut_by, count = y.count - v_cut_by, bytes = y.bytes - v_cut_bytes where y.first_id = v_cut;
  end if;
  insert into millrace.lease (node_id, open, chunks) values (p_node, p_jobs - v_room, v_chunks) returning id into v_lease;

  return query
    select v_lease, c.first_id, 1, j.queue_id, j.task_id, c.rank, c.seq, c.attempt, c.run, c.rescues,
      j.max_attempts::int, j.timeout_ms, extract(epoch from j.expires_at)::float8 * 1000, extract(epoch from j.created_at)::float8 * 1000,
      extract(epoch from v_dues[c.ord])::float8 * 1000, j.key is not null, j.ephemeral, j.group_key, j.retry::text,
      j.run_at is not null and c.run = 1, j.payload::text, j.meta::text
    from unnest(v_chunks) with ordinality as c(first_id, count, attempt, run, rescues, rank, seq, ord)
    join millrace.job j on j.id = c.first_id
    where c.count = 1
  union all
    select v_lease, c.first_id, c.count, j.queue_id, j.task_id, c.rank, c.seq, c.attempt, c.run, c.rescues,
      j.max_attempts::int, j.timeout_ms, extract(epoch from j.expires_at)::float8 * 1000, extract(epoch from j.created_at)::float8 * 1000,
      extract(epoch from v_dues[c.ord])::float8 * 1000, j.key is not null, j.ephemeral, j.group_key, j.retry::text,
      j.run_at is not null and c.run = 1, p.payloads, p.metas
    from unnest(v_chunks) with ordinality as c(first_id, count, attempt, run, rescues, rank, seq, ord)
    join millrace.job j on j.id = c.first_id
    cross join lateral (
      select string_agg(s.payload::text, e'\x1e') as payloads,
        case when bool_or(s.meta is not null) then string_agg(coalesce(s.meta::text, ''), e'\x1e') end as metas
      from (select k.payload, k.meta from millrace.job k where k.id >= c.first_id and k.id < c.first_id + c.count order by k.id) s
    ) p
    where c.count > 1;
end $$;

-- The same for a node that serves one group alone, as a plan of its own: by the index of the group it reads what it takes,
-- where one plan for both walked 50,000 waiting jobs (one statement with two cursors cost every other claim 3 %, 2026-11).
do $$ begin
  execute replace(replace(pg_get_functiondef('millrace.claim'::regproc), '.claim(', '.claim_of_group('),
    '(p_group is null or y.group_key = p_group)', 'y.group_key = p_group');
end $$;

-- The same for a node that takes jobs of its own tasks alone, which nearly every node does: jobs of other tasks are walked
-- past by the index, without a look at their rows (by the range of ids before PostgreSQL 17). p_tasks is sorted.
do $$ begin
  execute replace(replace(pg_get_functiondef('millrace.claim'::regproc), '.claim(', '.claim_of_tasks('),
    '(p_tasks is null or y.task_id = any (p_tasks)) and (p_group is null or y.group_key = p_group)',
    'y.task_id = any (p_tasks) and y.task_id >= p_tasks[1] and y.task_id <= p_tasks[cardinality(p_tasks)]');
end $$;

-- The same beginning behind positions, for a node to which what was claimed and cannot be removed yet is in the way: the
-- ranges are those of engine/store/claim-ranges.ts, in their order.
do $$ begin
  execute replace(replace(replace(replace(pg_get_functiondef('millrace.claim_of_tasks'::regproc), '.claim_of_tasks(', '.claim_after('),
    'p_group text)', 'p_group text, p_at int[], p_rank bigint[], p_seq bigint[], p_last_rank bigint[])'),
    'from millrace.ready y
        where', 'from unnest(p_at, p_rank, p_seq, p_last_rank) as g(at, rank, seq, last_rank) cross join lateral (select * from millrace.ready y
        where (y.rank, y.seq) > (g.rank, g.seq) and y.rank <= g.last_rank and'),
    'limit v_room for update skip locked', 'limit v_room for update skip locked) y where g.at = v_queue limit v_room');
end $$;

-- What a lease that was just written holds, as claim() answers it.
create function millrace.leased(p_lease bigint, p_chunks millrace.chunk[], p_dues timestamptz[])
returns table (lease_id bigint, first_id bigint, count int, queue_id int, task_id int, rank bigint, seq bigint,
  attempt int, run int, rescues int, max_attempts int, timeout_ms int, expires_at_ms float8, created_at_ms float8,
  due_at_ms float8, keyed boolean, ephemeral boolean, group_key text, retry text, timed boolean, payloads text, metas text)
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
  return query
    select p_lease, c.first_id, c.count, j.queue_id, j.task_id, c.rank, c.seq, c.attempt, c.run, c.rescues,
      j.max_attempts::int, j.timeout_ms, extract(epoch from j.expires_at)::float8 * 1000, extract(epoch from j.created_at)::float8 * 1000,
      extract(epoch from p_dues[c.ord])::float8 * 1000, j.key is not null, j.ephemeral, j.group_key, j.retry::text,
      j.run_at is not null and c.run = 1, p.payloads, p.metas
    from unnest(p_chunks) with ordinality as c(first_id, count, attempt, run, rescues, rank, seq, ord)
    join millrace.job j on j.id = c.first_id
    cross join lateral (
      select string_agg(s.payload::text, e'\x1e') as payloads,
        case when bool_or(s.meta is not null) then string_agg(coalesce(s.meta::text, ''), e'\x1e') end as metas
      from (select k.payload, k.meta from millrace.job k where k.id >= c.first_id and k.id < c.first_id + c.count order by k.id) s
    ) p;
end $$;

-- Claims jobs that become due within p_within ms, so that they wait in memory and start on time: first runs without a
-- group, of these queues and tasks, up to p_jobs and p_bytes. Never waits for a lock. Rows of others are passed over, at
-- most ten thousand in a call. Answers as claim() does, and one last row with a report alone: {next: ms until the next one
-- that is left becomes due, or null; now: the database's clock in ms}
create function millrace.claim_ahead(p_node int, p_queues int[], p_tasks int[], p_jobs int, p_bytes bigint, p_within float8, p_from timestamptz default '-infinity')
returns table (report json, lease_id bigint, first_id bigint, count int, queue_id int, task_id int, rank bigint, seq bigint,
  attempt int, run int, rescues int, max_attempts int, timeout_ms int, expires_at_ms float8, created_at_ms float8,
  due_at_ms float8, keyed boolean, ephemeral boolean, group_key text, retry text, timed boolean, payloads text, metas text)
language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  r record;
  v_room int := p_jobs;
  v_bytes bigint := p_bytes;
  v_take int;
  v_gone bigint[] := '{}';
  v_cut bigint; v_cut_by int; v_cut_bytes bigint;
  v_chunks millrace.chunk[] := '{}';
  v_dues timestamptz[] := '{}';
  v_lease bigint;
begin
  for r in
    select y.first_id, y.count, y.bytes, y.rank, y.run_at, y.attempt, y.run, y.rescues
    from millrace.scheduled y
    where y.ctid = any (array(
        select x.ctid from millrace.scheduled x where x.run_at > clock_timestamp() and x.run_at <= clock_timestamp() + p_within * interval '1 ms'
        order by x.run_at limit 10000))
      and y.run = 1 and y.group_key is null and y.queue_id = any (p_queues) and (p_tasks is null or y.task_id = any (p_tasks))
      and not exists (select from millrace.queue q where q.id = y.queue_id and q.paused)
    for update of y skip locked
  loop
    exit when v_room <= 0 or (v_bytes <= 0 and cardinality(v_chunks) > 0);
    v_take := least(r.count, v_room);
    if r.bytes > v_bytes and r.count > 1 then
      v_take := least(v_take, greatest(1, v_bytes * r.count / r.bytes)::int);
    end if;
    v_chunks := v_chunks || row(r.first_id, v_take, r.attempt, r.run, r.rescues, r.rank, nextval('millrace.ready_seq_seq'))::millrace.chunk;
    v_dues := v_dues || r.run_at;
    v_room := v_room - v_take;
    v_bytes := v_bytes - r.bytes * v_take / r.count;
    if v_take = r.count then
      v_gone := v_gone || r.first_id;
    else
      v_cut := r.first_id; v_cut_by := v_take; v_cut_bytes := r.bytes * v_take / r.count;
      exit;
    end if;
  end loop;

  if cardinality(v_chunks) > 0 then
    perform set_config('synchronous_commit', 'off', true);
    perform from millrace.node n where n.id = p_node for key share;
    if not found then raise exception 'node % is not registered', p_node using errcode = 'MR410'; end if;
    delete from millrace.scheduled y where y.first_id = any (v_gone);
    if v_cut is not null then
      update millrace.scheduled y set first_id = y.first_id + v_cut_by, count = y.count - v_cut_by, bytes = y.bytes - v_cut_bytes where y.first_id = v_cut;
    end if;
    insert into millrace.lease (node_id, open, chunks) values (p_node, p_jobs - v_room, v_chunks) returning id into v_lease;
    return query select null::json, h.* from millrace.leased(v_lease, v_chunks, v_dues) h;
  end if;
  report := json_build_object(
    'next', (select extract(epoch from s.run_at - clock_timestamp()) * 1000 from millrace.scheduled s where s.run_at > p_from and s.run_at < 'infinity' order by s.run_at limit 1),
    'now', extract(epoch from clock_timestamp()) * 1000);
  return next;
end $$;

-- Opens a flush: answers whether this flush had been committed before, which leases are lost, and whether the node is.
-- Locks the node (shared) and the leases until the end of the transaction; a handler that completes a job of such a lease in
-- a transaction of its own has a key share of it, and is not in the way.
create function millrace.flush_begin(p_node int, p_no bigint, p_leases bigint[])
returns table (fenced boolean, already boolean, stale bigint[]) language plpgsql as $$
declare v_no bigint; v_mine bigint[]; v_limit_ms int;
begin
  select n.limit_ms into v_limit_ms from millrace.node n where n.id = p_node for key share;
  if not found then return query select true, false, p_leases; return; end if;
  -- a process that freezes between these statements must not keep its row locked: nobody could rescue its jobs
  perform set_config('idle_in_transaction_session_timeout', v_limit_ms::text, true);
  perform pg_advisory_xact_lock_shared(hashtext('@schema flush'), p_node); -- excludes nobody: it names this session to rescue()
  select f.no into v_no from millrace.flushed f where f.node_id = p_node for update;
  if v_no >= p_no then return query select false, true, '{}'::bigint[]; return; end if;
  select coalesce(array_agg(m.id), '{}') into v_mine
  from (select l.id from millrace.lease l where l.id = any (p_leases) and l.node_id = p_node order by l.id for no key update) m;
  return query select false, false, (select coalesce(array_agg(w.id), '{}') from unnest(p_leases) as w(id) where w.id <> all (v_mine));
end $$;

-- Takes a range of ids out of a lease's chunks.
create function millrace.chunks_without(p_chunks millrace.chunk[], p_first bigint, p_count int) returns millrace.chunk[] language sql immutable as $$
  select coalesce(array_agg(row(s.first_id, s.count, s.attempt, s.run, s.rescues, s.rank, s.seq)::millrace.chunk order by s.first_id), '{}')
  from (
    select c.first_id, least(c.first_id + c.count, p_first) - c.first_id as count, c.attempt, c.run, c.rescues, c.rank, c.seq
    from unnest(p_chunks) c where c.first_id < p_first
    union all
    select greatest(c.first_id, p_first + p_count), c.first_id + c.count - greatest(c.first_id, p_first + p_count), c.attempt, c.run, c.rescues, c.rank, c.seq
    from unnest(p_chunks) c where c.first_id + c.count > p_first + p_count
  ) s
$$;

-- Writes a ticket for the first of a group, when somebody waits there.
create function millrace.call_next(p_queue int, p_group text) returns void language plpgsql as $$
begin
  insert into millrace.ready (first_id, rank, due_at, queue_id, task_id, bytes, count, attempt, run, rescues, group_key)
  select -nextval('millrace.ready_seq_seq'), h.rank, h.due_at, p_queue, h.task_id, 0, 0, 1, 1, 0, p_group
  from (select b.rank, b.due_at, b.task_id from millrace.blocked b
    where b.queue_id = p_queue and b.group_key = p_group order by b.rank, b.seq limit 1) h;
end $$;

-- Lets go of what finished jobs had: keys, their group's turn, and the rows of ephemeral jobs.
create function millrace.let_go(p_keyed bigint[], p_grouped bigint[], p_ephemeral bigint[]) returns void language plpgsql
set enable_hashjoin = off set enable_mergejoin = off as $$
declare g record;
begin
  if cardinality(p_keyed) > 0 then
    delete from millrace.key k using millrace.job j
    where j.id = any (p_keyed) and k.queue_id = j.queue_id and k.key = j.key and k.job_id = j.id;
  end if;
  if cardinality(p_grouped) > 0 then
    for g in select j.id, j.queue_id, j.group_key from millrace.job j where j.id = any (p_grouped) and j.group_key is not null
      order by millrace.group_lock(j.queue_id, j.group_key)
    loop
      perform pg_advisory_xact_lock(millrace.group_lock(g.queue_id, g.group_key));
      delete from millrace.hold x where x.queue_id = g.queue_id and x.group_key = g.group_key and x.job_id = g.id;
      if found then perform millrace.call_next(g.queue_id, g.group_key); end if;
    end loop;
  end if;
  if cardinality(p_ephemeral) > 0 then
    delete from millrace.attempt a where a.job_id = any (p_ephemeral); -- those that failed before
    delete from millrace.job j where j.id = any (p_ephemeral);
  end if;
end $$;

-- What hangs on finished attempts: places retries and releases, buries the dead, shows long runs, lets go.
-- p_rest: {retries: [{j job, d delay ms, a attempt, r run, s rescues}], deads: [{j, c code, e reason, a attempts, r run}],
--   releases: [{l lease, f first, n count, a, r, s, k rank, q seq}], keyed: [job], grouped: [job], ephemeral: [job],
--   running: [{l lease, j job, r run, n lane, t started ms, p progress}]}
create function millrace.flush_rest(p_rest json) returns void language plpgsql
set enable_hashjoin = off set enable_mergejoin = off as $$
declare x record; v_passed bigint[]; v_grouped bigint[]; v_wished bigint[];
begin
  with retried as (
    insert into millrace.scheduled (first_id, run_at, rank, queue_id, task_id, bytes, count, attempt, run, rescues, holds, group_key)
    select t.j, clock_timestamp() + t.d * interval '1 ms', millrace.rank_of(q.ageing_ms, j.priority, clock_timestamp()), j.queue_id, j.task_id,
      j.payload_bytes, 1, t.a, t.r, t.s, j.group_key is not null and j.retry_skips is not true, j.group_key
    from json_to_recordset(p_rest -> 'retries') as t(j bigint, d float8, a int, r int, s int)
    join millrace.job j on j.id = t.j join millrace.queue q on q.id = j.queue_id
    returning first_id, holds, group_key
  ) select array_agg(r.first_id) into v_passed from retried r where r.group_key is not null and not r.holds;

  insert into millrace.dead (job_id, queue_id, task_id, attempts, run, code, reason)
  select t.j, j.queue_id, j.task_id, t.a, t.r, t.c, t.e
  from json_to_recordset(p_rest -> 'deads') as t(j bigint, c text, e json, a int, r int)
  join millrace.job j on j.id = t.j
  on conflict (job_id) do nothing;

  for x in select t.l, t.f, t.n, t.a, t.r, t.s, t.k, t.q from json_to_recordset(p_rest -> 'releases') as t(l bigint, f bigint, n int, a int, r int, s int, k bigint, q bigint)
  loop
    update millrace.lease l set chunks = millrace.chunks_without(l.chunks, x.f, x.n) where l.id = x.l;
    insert into millrace.ready (first_id, seq, rank, queue_id, task_id, bytes, count, attempt, run, rescues, group_key)
    select x.f, x.q, x.k, j.queue_id, j.task_id,
      (select sum(p.payload_bytes) from millrace.job p where p.id >= x.f and p.id < x.f + x.n), x.n, x.a, x.r, x.s, j.group_key
    from millrace.job j where j.id = x.f and (x.r > 1 or j.run_at is null or j.run_at <= clock_timestamp());
    if not found then
      -- it was held ahead of its time, which has not come
      insert into millrace.scheduled (first_id, run_at, rank, queue_id, task_id, bytes, count, attempt, run, rescues)
      select x.f, j.run_at, x.k, j.queue_id, j.task_id,
        (select sum(p.payload_bytes) from millrace.job p where p.id >= x.f and p.id < x.f + x.n), x.n, x.a, x.r, x.s
      from millrace.job j where j.id = x.f;
    end if;
  end loop;

  insert into millrace.running (job_id, lease_id, run, lane, started_at, progress)
  select t.j, t.l, t.r, t.n, to_timestamp(t.t / 1000.0), t.p
  from json_to_recordset(p_rest -> 'running') as t(l bigint, j bigint, r int, n int, t float8, p json)
  order by t.j
  on conflict (job_id) do update set lease_id = excluded.lease_id, run = excluded.run, lane = excluded.lane,
    started_at = excluded.started_at, seen_at = now(), progress = coalesce(excluded.progress, running.progress);

  v_grouped := array(select v::bigint from json_array_elements_text(p_rest -> 'grouped') v) || v_passed;
  -- what goes on although somebody asked for its end; who asks locks the lease, as we did
  if exists (select from millrace.cancelling) then
    v_wished := array(select k.job_id from millrace.cancelling k
      where k.job_id in (select t.j from json_to_recordset(p_rest -> 'retries') as t(j bigint))
        or exists (select from json_to_recordset(p_rest -> 'releases') as t(f bigint, n int) where k.job_id >= t.f and k.job_id < t.f + t.n));
    if cardinality(v_wished) > 0 then perform millrace.lock_groups(v_wished || v_grouped); end if;
  end if;

  perform millrace.let_go(
    (select array_agg(v::bigint) from json_array_elements_text(p_rest -> 'keyed') v), v_grouped,
    (select array_agg(v::bigint) from json_array_elements_text(p_rest -> 'ephemeral') v));

  if cardinality(v_wished) > 0 then
    perform millrace.cancel(k.job_id, k.reason) from millrace.cancelling k where k.job_id = any (v_wished);
  end if;
end $$;

-- Ends a flush after its attempts were copied: closes the leases and does the rest.
create function millrace.flush_end(p_node int, p_no bigint, p_leases bigint[], p_done int[], p_rest json) returns void language plpgsql
set enable_hashjoin = off set enable_mergejoin = off as $$
begin
  update millrace.flushed f set no = p_no where f.node_id = p_node;
  if p_rest is not null then perform millrace.flush_rest(p_rest); end if;
  delete from millrace.lease l using unnest(p_leases, p_done) as d(id, done) where l.id = d.id and l.open <= d.done;
  update millrace.lease l set open = l.open - d.done from unnest(p_leases, p_done) as d(id, done) where l.id = d.id;
  delete from millrace.running r where r.lease_id = any (p_leases) and not exists (select from millrace.lease l where l.id = r.lease_id);
end $$;

-- A whole flush in one call, for a few attempts, with as few statements as its guarantees allow: a third of the cost of
-- begin, copy and end. A lost lease refuses everything (SQLSTATE MR409): the caller sends it the long way then.
-- p_rows: [{j job, r run, a attempt, o outcome, i node, n lane, s started (s), f finished (s), e [error], v [result]}]
-- p_visible: rows in running may belong to these leases. Answers false when this flush had been committed before.
create function millrace.flush_few(p_node int, p_no bigint, p_leases bigint[], p_done int[], p_rows json, p_rest json, p_visible boolean)
returns boolean language plpgsql as $$
declare v_mine int;
begin
  perform from millrace.node n where n.id = p_node for key share;
  if not found then raise exception 'node % was declared dead', p_node using errcode = 'MR410'; end if;
  update millrace.flushed f set no = p_no where f.node_id = p_node and f.no < p_no;
  if not found then return false; end if;
  with d as (
    select u.id, u.done from unnest(p_leases, p_done) as u(id, done)
  ), closed as (
    delete from millrace.lease l using d where l.id = d.id and l.node_id = p_node and l.open <= d.done returning l.id
  ), left_open as (
    update millrace.lease l set open = l.open - d.done from d where l.id = d.id and l.node_id = p_node and l.open > d.done returning l.id
  )
  select (select count(*) from closed) + (select count(*) from left_open) into v_mine;
  if v_mine <> cardinality(p_leases) then raise exception 'a lease is lost' using errcode = 'MR409'; end if;
  insert into millrace.attempt (job_id, run, attempt, outcome, node_id, lane, started_at, finished_at, error, result)
  select t.j, t.r, t.a, t.o::"char", t.i, t.n, to_timestamp(t.s), to_timestamp(t.f), t.e -> 0, t.v -> 0
  from json_to_recordset(p_rows) as t(j bigint, r int, a int, o text, i int, n int, s float8, f float8, e json, v json);
  if p_rest is not null then perform millrace.flush_rest(p_rest); end if;
  if p_visible then
    delete from millrace.running r where r.lease_id = any (p_leases) and not exists (select from millrace.lease l where l.id = r.lease_id);
  end if;
  return true;
end $$;

-- Moves these rows from scheduled to where they belong. Answers how many, and their queues.
create function millrace.promote_rows(p_rows tid[]) returns table (moved int, queues int[]) language plpgsql as $$
#variable_conflict use_column
begin
  return query
  with due as (
    delete from millrace.scheduled s where s.ctid = any (p_rows) returning s.*
  ), waits as (
    insert into millrace.blocked (job_id, rank, due_at, queue_id, task_id, bytes, attempt, run, rescues, group_key, group_limit)
    select first_id, rank, run_at, queue_id, task_id, bytes, attempt, run, rescues, group_key,
      coalesce((select j.group_limit from millrace.job j where j.id = first_id), 1)
    from due where group_key is not null and not holds
    order by run_at, first_id
  ), runs as (
    insert into millrace.ready (first_id, rank, due_at, queue_id, task_id, bytes, count, attempt, run, rescues, group_key)
    select case when group_key is not null and not holds then -nextval('millrace.ready_seq_seq') else first_id end, rank, run_at, queue_id, task_id, bytes,
      case when group_key is not null and not holds then 0 else count end, attempt, run, rescues, group_key
    from due order by run_at, first_id
  )
  select count(*)::int, array_agg(distinct queue_id) from due;
end $$;

-- Moves what is due from scheduled to where it belongs. Answers how much, when the next one is due, and how many jobs were
-- set aside because their rows cannot be moved. Other nodes are told, because who moves a job need not serve its queue, and
-- who serves it may have looked a moment too early. Index: scheduled_due.
create function millrace.promote(p_limit int, p_from timestamptz default '-infinity')
returns table (moved int, queues int[], next_in_ms float8, now_ms float8, aside int) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  v_rows tid[]; v_row tid;
  v_moved int; v_queues int[];
  v_one int; v_of int[];
  v_aside int := 0;
  v_state text; v_message text;
begin
  v_rows := array(select d.ctid from millrace.scheduled d where d.run_at > p_from and d.run_at <= clock_timestamp() order by d.run_at limit p_limit for update skip locked);
  begin
    select p.moved, p.queues into v_moved, v_queues from millrace.promote_rows(v_rows) p;
  exception when data_exception or integrity_constraint_violation then
    -- one of them cannot be moved: the others are, one by one; what is left is due still
    v_moved := 0;
    foreach v_row in array v_rows[1:500] loop
      begin
        select p.moved, p.queues into v_one, v_of from millrace.promote_rows(array[v_row]) p;
        v_moved := v_moved + v_one;
        v_queues := v_queues || v_of;
      exception when data_exception or integrity_constraint_violation then
        get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
        v_aside := v_aside + millrace.set_scheduled_aside(array[v_row], v_state, v_message);
      end;
    end loop;
  end;
  v_rows := array(select d.ctid from millrace.scheduled d where d.run_at in ('infinity', '-infinity') limit 500 for update skip locked);
  if cardinality(v_rows) > 0 then v_aside := v_aside + millrace.set_scheduled_aside(v_rows, '22008', 'it is due at no moment: run_at is infinite'); end if;
  if v_moved > 0 and (select count(*) from millrace.node) > 1 then
    perform pg_notify('millrace_@schema', 'q' || array_to_string(v_queues[1:500], ','));
  end if;
  return query select v_moved, v_queues,
    (select extract(epoch from s.run_at - clock_timestamp())::float8 * 1000 from millrace.scheduled s where s.run_at > p_from and s.run_at < 'infinity' order by s.run_at limit 1),
    extract(epoch from clock_timestamp())::float8 * 1000, v_aside;
end $$;

-- Names the tasks that a node has, with their options, once it has loaded them. A task's published options become this
-- node's when no other registered node has the same definition (it has just appeared, so it is the newest), or when no
-- registered node has the published one any more. So versions that run side by side do not take turns: a node of the older
-- version that starts again finds its definition with others and changes nothing. Harmless to repeat.
-- p_tasks: [{name, options}]. Locks: the node (shared), then '@schema tasks', which orders all who publish or withdraw.
create function millrace.publish_tasks(p_node int, p_tasks json) returns void language plpgsql as $$
begin
  perform from millrace.node n where n.id = p_node for key share;
  if not found then raise exception 'node % is not registered', p_node using errcode = 'MR410'; end if;
  perform pg_advisory_xact_lock(hashtextextended('@schema tasks', 0));
  insert into millrace.node_task (task_id, node_id, options)
  select millrace.task_id(w.name), p_node, w.options
  from (select x.name, x.options from json_to_recordset(p_tasks) as x(name text, options json) order by x.name) w
  on conflict (task_id, node_id) do update set options = excluded.options;
  update millrace.task t set options = k.options, published_at = clock_timestamp()
  from millrace.node_task k
  where k.node_id = p_node and k.task_id = t.id and t.options::text is distinct from k.options::text
    and (not exists (select from millrace.node_task o where o.task_id = t.id and o.node_id <> p_node and o.options::text = k.options::text)
      or not exists (select from millrace.node_task o where o.task_id = t.id and o.options::text = t.options::text));
end $$;

-- A node that leaves, or is gone, has no tasks any more. Where the published options were its alone and other nodes have the
-- task too, the definition that appeared last among theirs is published; where nobody has it, its last options stay.
-- Lock: '@schema tasks', after everything else.
create function millrace.withdraw_tasks(p_node int) returns void language plpgsql as $$
declare v_tasks int[];
begin
  if not exists (select from millrace.node_task k where k.node_id = p_node) then return; end if;
  perform pg_advisory_xact_lock(hashtextextended('@schema tasks', 0));
  with gone as (delete from millrace.node_task k where k.node_id = p_node returning k.task_id)
  select array_agg(g.task_id) into v_tasks from gone g;
  update millrace.task t set options = d.options::json, published_at = clock_timestamp()
  from (
    select distinct on (g.task_id) g.task_id, g.options
    from (
      select k.task_id, k.options::text as options, min(k.node_id) as since from millrace.node_task k
      where k.task_id = any (v_tasks) group by k.task_id, k.options::text
    ) g order by g.task_id, g.since desc
  ) d
  where t.id = d.task_id
    and not exists (select from millrace.node_task o where o.task_id = t.id and o.options::text = t.options::text);
end $$;

-- Whether a running node has the task: one that takes jobs and was not silent beyond its limit. Index: node_task_pkey.
create function millrace.is_served(p_task int) returns boolean language sql stable as $$
  select exists (select from millrace.node_task k join millrace.node n on n.id = k.node_id
    where k.task_id = p_task and n.state = 'live' and n.seen_at >= clock_timestamp() - n.limit_ms * interval '1 ms')
$$;

-- Registers a node, or renews it. Renewing answers false when the node was declared dead, which others are silent, and
-- whether somebody wishes that it ends a job (see cancels_of), whether the time of jobs has passed (see expire_due), and in
-- how many ms the next look at such jobs is due (null: none expires).
create function millrace.node_join(p_uid uuid, p_host text, p_machine text, p_pid int, p_version text, p_threads int, p_limit_ms int) returns int language plpgsql as $$
declare v_id int;
begin
  insert into millrace.node (uid, host, machine, pid, version, threads, limit_ms)
  values (p_uid, p_host, p_machine, p_pid, p_version, p_threads, p_limit_ms) returning id into v_id;
  insert into millrace.flushed (node_id, no) values (v_id, 0);
  return v_id;
end $$;

create function millrace.node_beat(p_node int, p_state text, p_threads int default null) returns table (alive boolean, silent int[], cancels boolean, overdue boolean, expires_in_ms float8) language plpgsql as $$
declare v_next float8 := (select extract(epoch from x.look_at - clock_timestamp())::float8 * 1000 from millrace.expiring x order by x.look_at limit 1);
begin
  perform set_config('synchronous_commit', 'off', true);
  update millrace.node n set seen_at = clock_timestamp(), state = p_state, threads = coalesce(p_threads, n.threads) where n.id = p_node;
  return query select found, (select coalesce(array_agg(n.id), '{}') from millrace.node n
    where n.id <> p_node and n.seen_at < clock_timestamp() - n.limit_ms * interval '1 ms'),
    exists (select from millrace.cancelling k where k.node_id = p_node),
    coalesce(v_next <= 0, false), v_next;
end $$;

-- Puts back what these leases of a node hold, and buries what has lost too many holders, as reopen() says. Answers how many
-- go on, and which have ended; the leases stay.
create function millrace.put_back(p_node int, p_leases bigint[], p_rescues_max int, p_held boolean, p_blames boolean, p_why text)
returns table (reopened bigint, ended bigint[]) language plpgsql
set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
begin
  return query
  with lost as materialized (
    select j.id, j.queue_id, j.task_id, j.payload_bytes, j.group_key, c.first_id as chunk_id, c.attempt, c.run, c.rescues, c.rank, c.seq,
      j.run_at, e.early, m.begun, p_blames and m.begun and c.rescues + 1 >= p_rescues_max and not exists (select from millrace.cancelling k where k.job_id = j.id) as ends
    from millrace.lease l
    cross join lateral unnest(l.chunks) c
    -- offset 0: chunk by chunk, whatever is believed about the size of the table
    cross join lateral (select k.* from millrace.job k where k.id >= c.first_id and k.id < c.first_id + c.count offset 0) j
    cross join lateral (select c.run = 1 and coalesce(j.run_at > clock_timestamp(), false) as early) e
    cross join lateral (select not e.early and (p_held and c.rescues = 0 or exists (select from millrace.running r where r.job_id = j.id and r.lease_id = l.id)) as begun) m
    where l.id = any (p_leases) and not exists (select from millrace.attempt a where a.job_id = j.id and a.run >= c.run)
  ), tried as (
    insert into millrace.attempt (job_id, run, attempt, outcome, node_id, lane, started_at, finished_at, error)
    select t.id, t.run, t.attempt, 'l', p_node, -1, null, clock_timestamp(), json_build_object('code', 'HOLDER_LOST', 'message', p_why)
    from lost t where t.begun
  ), died as (
    insert into millrace.dead (job_id, queue_id, task_id, attempts, run, code, reason)
    select t.id, t.queue_id, t.task_id, t.attempt, t.run, 'POISON',
      json_build_object('code', 'POISON', 'type', 'Rescue', 'message', (t.rescues + 1) || ' nodes died while they held this job')
    from lost t where t.ends
    on conflict (job_id) do nothing
  ), back as (
    -- what goes on returns to its place, in as few chunks as it came in
    select min(s.id) as first_id, min(s.seq) as seq, min(s.rank) as rank, min(s.queue_id) as queue_id, min(s.task_id) as task_id,
      sum(s.payload_bytes) as bytes, count(*) as count, min(s.attempt) as attempt, min(s.run + s.begun::int) as run,
      min(s.rescues + (p_blames and s.begun)::int) as rescues, min(s.group_key) as group_key, min(s.run_at) filter (where s.early) as run_at
    from (
      select t.*, t.id - row_number() over (partition by t.chunk_id, t.begun order by t.id) as island
      from lost t where not t.ends
    ) s group by s.chunk_id, s.begun, s.island
  ), again as (
    insert into millrace.ready (first_id, seq, rank, queue_id, task_id, bytes, count, attempt, run, rescues, group_key)
    select b.first_id, b.seq, b.rank, b.queue_id, b.task_id, b.bytes, b.count, b.attempt, b.run, b.rescues, b.group_key
    from back b where b.run_at is null
  ), early as (
    -- held ahead of its time, which has not come
    insert into millrace.scheduled (first_id, run_at, rank, queue_id, task_id, bytes, count, attempt, run, rescues)
    select b.first_id, b.run_at, b.rank, b.queue_id, b.task_id, b.bytes, b.count, b.attempt, b.run, b.rescues
    from back b where b.run_at is not null
  )
  select count(*) filter (where not t.ends), coalesce(array_agg(t.id) filter (where t.ends), '{}') from lost t;
end $$;

-- Reopens leases of a node, minus what had committed, and deletes them. The caller has them locked, and the node's row
-- before them. p_held: the node had their jobs in its memory, so those of a first holder may have begun; otherwise only
-- those with a marker (a row in running) have. A job that had begun gets an attempt "lost" and its next run;
-- p_blames: the loss counts against it, and p_rescues_max of them make a dead letter (POISON). Jobs that had not begun
-- return to their place as they were; ones whose time has not come wait for it. Cancels that were asked for are carried out.
-- A job that cannot be put back is set aside, and keeps nobody else's job. p_why: the attempt's message. Locks groups.
create function millrace.reopen(p_node int, p_leases bigint[], p_rescues_max int, p_held boolean, p_blames boolean, p_why text)
returns table (reopened int, buried int, aside int) language plpgsql
set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  v_reopened int; v_ended bigint[];
  h record;
  v_one int; v_of bigint[];
  v_aside int := 0;
  v_state text; v_message text;
begin
  begin
    select o.reopened, o.ended into v_reopened, v_ended from millrace.put_back(p_node, p_leases, p_rescues_max, p_held, p_blames, p_why) o;
  exception when data_exception or integrity_constraint_violation then
    -- one of these jobs cannot be put back: the others are, one by one
    v_reopened := 0;
    v_ended := '{}';
    for h in
      select l.id, row(c.first_id + n, 1, c.attempt, c.run, c.rescues, c.rank, c.seq)::millrace.chunk as chunk, c.first_id + n as job_id, c.attempt, c.run
      from millrace.lease l cross join lateral unnest(l.chunks) c cross join lateral generate_series(0, c.count - 1) n where l.id = any (p_leases)
    loop
      begin
        update millrace.lease l set chunks = array[h.chunk] where l.id = h.id;
        select o.reopened, o.ended into v_one, v_of from millrace.put_back(p_node, array[h.id], p_rescues_max, p_held, p_blames, p_why) o;
        v_reopened := v_reopened + v_one;
        v_ended := v_ended || v_of;
      exception when data_exception or integrity_constraint_violation then
        get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
        update millrace.lease l set chunks = '{}' where l.id = h.id; -- it stands there no more
        v_aside := v_aside + millrace.set_aside(h.job_id, h.run, h.attempt, 'lease', v_state, v_message);
      end;
    end loop;
  end;
  perform millrace.lock_groups(v_ended || array(select k.job_id from millrace.cancelling k where k.node_id = p_node));
  perform millrace.let_go(v_ended, v_ended, '{}');
  delete from millrace.running r where r.lease_id = any (p_leases);
  delete from millrace.completion x where x.lease_id = any (p_leases);
  delete from millrace.lease l where l.id = any (p_leases);
  perform millrace.end_wish(k.job_id, k.reason) from millrace.cancelling k where k.lease_id = any (p_leases);
  return query select v_reopened, cardinality(v_ended), v_aside;
end $$;

-- Reopens everything that a dead node held, minus what had committed, and removes it: jobs first, node row last.
-- A job's first lost holder may be chance, so all go on; from then on only those that had begun (a row in running) are
-- charged, and p_rescues_max lost holders make a dead letter (POISON). What was to be cancelled ends as cancelled.
-- p_sure: the caller knows that the node is over. p_blames: that its process may have died of what it held; one that has
-- only been silent for too long, and tells it himself, charges no job.
-- Answers null when the node lives or somebody else is at it; gone is false when a lease had to be left for the next time.
create function millrace.rescue(p_dead int, p_rescues_max int, p_sure boolean, p_blames boolean default true) returns table (reopened int, buried int, gone boolean, aside int) language plpgsql
set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare v_reopened int; v_buried int; v_aside int; v_leases bigint[];
begin
  perform from millrace.node n where n.id = p_dead and (p_sure or n.seen_at < clock_timestamp() - n.limit_ms * interval '1 ms') for update skip locked;
  if not found then
    -- it may be the dead node itself that holds its row: frozen, or cut off, amid a COPY, which no timeout of the server
    -- ends. Its session goes now, and the next look succeeds.
    perform millrace.end_sessions(p_dead);
    return;
  end if;
  -- a lease of which a handler's own transaction is ending a job waits until that is over
  select coalesce(array_agg(x.id), '{}') into v_leases
  from (select l.id from millrace.lease l where l.node_id = p_dead order by l.id for update skip locked) x;
  select o.reopened, o.buried, o.aside into v_reopened, v_buried, v_aside
  from millrace.reopen(p_dead, v_leases, p_rescues_max, true, p_blames, 'node ' || p_dead || ' died or was silent for too long') o;
  if exists (select from millrace.lease l where l.node_id = p_dead) then
    perform millrace.end_sessions(p_dead);
    if cardinality(v_leases) > 0 then return query select v_reopened, v_buried, false, v_aside; end if;
    return;
  end if;
  perform millrace.end_wish(k.job_id, k.reason) from millrace.cancelling k where k.node_id = p_dead; -- of what it had put back before
  delete from millrace.flushed f where f.node_id = p_dead;
  perform millrace.withdraw_tasks(p_dead);
  delete from millrace.node n where n.id = p_dead;
  return query select v_reopened, v_buried, true, v_aside;
end $$;

-- Reopens stray leases: leases of a live node that nothing in that node accounts for, because the answer of the claim was
-- lost. Called by the node itself. p_held: it had their jobs and lost track of them, so those that had begun are charged
-- as if it had died of them; otherwise nothing of them has begun, and they return to their place uncharged.
-- Leases that somebody has locked (a handler's own transaction) are left for the next call. Answers null when the node was
-- declared dead. Locks: node (key share), leases, groups.
create function millrace.reopen_strays(p_node int, p_leases bigint[], p_rescues_max int, p_held boolean) returns table (leases int, reopened int, buried int) language plpgsql as $$
#variable_conflict use_column
declare v_leases bigint[]; v_reopened int; v_buried int;
begin
  perform from millrace.node n where n.id = p_node for key share;
  if not found then return; end if;
  select coalesce(array_agg(x.id), '{}') into v_leases
  from (select l.id from millrace.lease l where l.id = any (p_leases) and l.node_id = p_node order by l.id for update skip locked) x;
  select o.reopened, o.buried into v_reopened, v_buried
  from millrace.reopen(p_node, v_leases, p_rescues_max, p_held, p_held, 'node ' || p_node || ' lost track of this job') o;
  update millrace.node n set strays = n.strays + cardinality(v_leases) where n.id = p_node;
  return query select cardinality(v_leases), v_reopened, v_buried;
end $$;

-- A node says goodbye. Answers false, and leaves its row, while something is leased to it (see rescue()).
create function millrace.node_leave(p_node int) returns boolean language plpgsql as $$
begin
  perform from millrace.node n where n.id = p_node for update;
  if not found then return false; end if;
  if exists (select from millrace.lease l where l.node_id = p_node) then return false; end if;
  perform millrace.lock_groups(array(select k.job_id from millrace.cancelling k where k.node_id = p_node));
  perform millrace.end_wish(k.job_id, k.reason) from millrace.cancelling k where k.node_id = p_node; -- all over, as nothing is held
  delete from millrace.flushed f where f.node_id = p_node;
  perform millrace.withdraw_tasks(p_node);
  delete from millrace.node n where n.id = p_node;
  return true;
end $$;

-- Where a job stands, by one snapshot: ready, scheduled, blocked or held; null: it has ended, or never was. A job moves
-- from place to place in one transaction, so it cannot be missed between two of them.
create function millrace.place_of(p_job bigint) returns text language sql stable as $$
  select case
    when (select y.count > p_job - y.first_id from millrace.ready y where y.first_id <= p_job and y.first_id > p_job - 1000 order by y.first_id desc limit 1) then 'ready'
    when (select y.count > p_job - y.first_id from millrace.scheduled y where y.first_id <= p_job and y.first_id > p_job - 1000 order by y.first_id desc limit 1) then 'scheduled'
    when exists (select from millrace.blocked b where b.job_id = p_job) then 'blocked'
    when exists (
      select from millrace.lease l cross join lateral unnest(l.chunks) c
      where p_job >= c.first_id and p_job < c.first_id + c.count
        and not exists (select from millrace.attempt a where a.job_id = p_job and a.run >= c.run)) then 'held'
  end
$$;

-- Ends a job. Answers cancelled; held: its holder is asked, by a row that outlasts whoever does not hear the call, and
-- the job will not run again whatever its holder does with it; finished: it had ended before; or unknown.
-- Locks what the job stands in until the end of the transaction: the row of a place, or the lease.
create function millrace.cancel(p_job bigint, p_reason text) returns text language plpgsql as $$
declare
  j millrace.job;
  r millrace.ready;
  s millrace.scheduled;
  b millrace.blocked;
  v_place text; v_lease bigint; v_node int;
  v_run int; v_attempt int; v_grouped boolean := false;
begin
  select * into j from millrace.job k where k.id = p_job;
  if not found then return 'unknown'; end if;

  -- it may leave its place before we have the lock: look again then
  for v_try in 1 .. 100 loop
    v_place := millrace.place_of(p_job);
    if v_place is null then
      delete from millrace.cancelling k where k.job_id = p_job;
      return 'finished';
    elsif v_place = 'ready' then
      select y.* into r from millrace.ready y where y.first_id <= p_job and y.first_id > p_job - 1000 and y.count > p_job - y.first_id
        order by y.first_id desc limit 1 for update;
      continue when not found;
      -- the chunk falls in two; both keep its place
      delete from millrace.ready y where y.first_id = r.first_id;
      insert into millrace.ready (first_id, seq, rank, due_at, queue_id, task_id, bytes, count, attempt, run, rescues, group_key)
      select w.f, r.seq, r.rank, r.due_at, r.queue_id, r.task_id, r.bytes * w.n / r.count, w.n, r.attempt, r.run, r.rescues, r.group_key
      from (values (r.first_id, p_job - r.first_id), (p_job + 1, r.first_id + r.count - p_job - 1)) as w(f, n) where w.n > 0;
      v_run := r.run; v_attempt := r.attempt; v_grouped := r.group_key is not null;
      exit;
    elsif v_place = 'scheduled' then
      select y.* into s from millrace.scheduled y where y.first_id <= p_job and y.first_id > p_job - 1000 and y.count > p_job - y.first_id
        order by y.first_id desc limit 1 for update;
      continue when not found;
      delete from millrace.scheduled y where y.first_id = s.first_id;
      insert into millrace.scheduled (first_id, run_at, rank, queue_id, task_id, bytes, count, attempt, run, rescues, holds, group_key)
      select w.f, s.run_at, s.rank, s.queue_id, s.task_id, s.bytes * w.n / s.count, w.n, s.attempt, s.run, s.rescues, s.holds, s.group_key
      from (values (s.first_id, p_job - s.first_id), (p_job + 1, s.first_id + s.count - p_job - 1)) as w(f, n) where w.n > 0;
      v_run := s.run; v_attempt := s.attempt; v_grouped := s.holds;
      exit;
    elsif v_place = 'blocked' then
      delete from millrace.blocked y where y.job_id = p_job returning y.* into b;
      continue when not found;
      v_run := b.run; v_attempt := b.attempt;
      perform millrace.call_next(b.queue_id, b.group_key); -- those behind it may have a larger limit than it had
      exit;
    else
      select l.id, l.node_id into v_lease, v_node from millrace.lease l
      where exists (
        select from unnest(l.chunks) c where p_job >= c.first_id and p_job < c.first_id + c.count
          and not exists (select from millrace.attempt a where a.job_id = p_job and a.run >= c.run))
      limit 1 for no key update;
      -- from here on whoever settles this lease waits for us, and sees what we leave
      continue when not found or millrace.place_of(p_job) is distinct from 'held';
      insert into millrace.cancelling (job_id, lease_id, node_id, reason) values (p_job, v_lease, v_node, p_reason)
      on conflict (job_id) do update set lease_id = excluded.lease_id, node_id = excluded.node_id;
      perform pg_notify('millrace_@schema', 'c' || v_node);
      return 'held';
    end if;
  end loop;
  if v_run is null then raise exception 'job % moved too fast to be cancelled', p_job using errcode = '40001'; end if;

  insert into millrace.attempt (job_id, run, attempt, outcome, node_id, lane, started_at, finished_at, error)
  values (p_job, v_run, v_attempt, 'x', 0, -1, null, clock_timestamp(), json_build_object('code', 'TASK_CANCELLED', 'message', p_reason));
  perform millrace.let_go(case when j.key is null then '{}' else array[p_job] end, case when v_grouped then array[p_job] else '{}' end, '{}');
  delete from millrace.cancelling k where k.job_id = p_job;
  return 'cancelled';
end $$;

-- Which jobs a node is asked to end. What it does not hold any more is seen to here: most have ended. Index: cancelling_node.
create function millrace.cancels_of(p_node int) returns table (job_id bigint, reason text) language plpgsql as $$
#variable_conflict use_column
declare v_over bigint[];
begin
  if not exists (select from millrace.cancelling k where k.node_id = p_node) then return; end if;
  v_over := array(select k.job_id from millrace.cancelling k
    where k.node_id = p_node and not exists (
      select from millrace.lease l cross join lateral unnest(l.chunks) c
      where l.id = k.lease_id and k.job_id >= c.first_id and k.job_id < c.first_id + c.count
        and not exists (select from millrace.attempt a where a.job_id = k.job_id and a.run >= c.run)));
  perform millrace.lock_groups(v_over);
  perform millrace.end_wish(k.job_id, k.reason) from millrace.cancelling k where k.job_id = any (v_over);
  return query select k.job_id, k.reason from millrace.cancelling k where k.node_id = p_node;
end $$;

-- Gives dead letters another life: attempts count from 1 again. A job whose key an unfinished job has meanwhile stays
-- dead, and the answer names that job. p_per_second: spread over time, the first now; each waits in scheduled for its turn.
-- An expiry that has passed is dropped, one that is ahead stays; p_expires_at takes the place of either.
create function millrace.requeue(p_jobs bigint[], p_per_second float8 default null, p_expires_at timestamptz default null)
returns table (job_id bigint, held_by bigint) language plpgsql
set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare d record; v_held bigint; v_nth int := 0; v_expires timestamptz;
begin
  perform millrace.check_moment('expires_at', p_expires_at);
  if p_expires_at <= clock_timestamp() then raise exception 'expires_at must be ahead' using errcode = 'MR400'; end if;
  if p_per_second is not null and not (p_per_second between 0.01 and 100000) then
    raise exception 'per_second must be from 0.01 to 100000, got %', p_per_second using errcode = 'MR400';
  end if;
  if p_expires_at is not null or exists (select from unnest(p_jobs) p(id) join millrace.job j on j.id = p.id where j.expires_at is not null) then
    -- a sweep that has read the old expiry must not meet the job in its new place
    perform pg_advisory_xact_lock(hashtextextended('@schema expiry', 0));
  end if;
  for d in
    select x.job_id, x.run, j.queue_id, j.task_id, j.priority, j.payload_bytes, j.key, j.group_key, coalesce(j.group_limit, 1) as group_limit, j.expires_at, x.code, q.ageing_ms
    from millrace.dead x join millrace.job j on j.id = x.job_id join millrace.queue q on q.id = j.queue_id
    where x.job_id = any (p_jobs) order by x.job_id for update of x
  loop
    v_held := null;
    if d.key is not null then
      select t.held_by into v_held from millrace.take_keys(json_build_array(json_build_object('q', d.queue_id, 'k', d.key, 'j', d.job_id))) t;
    end if;
    if v_held is null then
      delete from millrace.dead x where x.job_id = d.job_id;
      v_expires := coalesce(p_expires_at, case when d.code <> 'TASK_EXPIRED' and d.expires_at > clock_timestamp() then d.expires_at end);
      if v_expires is not null or d.expires_at is not null then
        perform millrace.expire_at(d.job_id, v_expires, d.expires_at);
      end if;
      v_nth := v_nth + 1;
      if v_nth > 1 and p_per_second is not null then
        insert into millrace.scheduled (first_id, run_at, rank, queue_id, task_id, bytes, count, attempt, run, rescues, group_key)
        values (d.job_id, clock_timestamp() + (v_nth - 1) / p_per_second * interval '1 second',
          millrace.rank_of(d.ageing_ms, d.priority, clock_timestamp()), d.queue_id, d.task_id, d.payload_bytes, 1, 1, d.run + 1, 0, d.group_key);
      else
        if d.group_key is not null then
          insert into millrace.blocked (job_id, rank, queue_id, task_id, bytes, attempt, run, rescues, group_key, group_limit)
          values (d.job_id, millrace.rank_of(d.ageing_ms, d.priority, clock_timestamp()), d.queue_id, d.task_id, d.payload_bytes, 1, d.run + 1, 0,
            d.group_key, d.group_limit);
        end if;
        insert into millrace.ready (first_id, rank, queue_id, task_id, bytes, count, attempt, run, rescues, group_key)
        values (case when d.group_key is null then d.job_id else -nextval('millrace.ready_seq_seq') end,
          millrace.rank_of(d.ageing_ms, d.priority, clock_timestamp()), d.queue_id, d.task_id, d.payload_bytes,
          case when d.group_key is null then 1 else 0 end, 1, d.run + 1, 0, d.group_key);
      end if;
    end if;
    return query select d.job_id, v_held;
  end loop;
end $$;
