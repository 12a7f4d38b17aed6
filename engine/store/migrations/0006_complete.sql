-- Completion inside the handler's own transaction: what the handler wrote and the end of its job commit together, or
-- neither does.
--
-- Such a transaction may stay open for long, so it holds only what nobody else waits for: a key share of the lease (other
-- jobs of the lease end beside it; only who reopens the lease must leave it alone), the name of its own job, and the keys
-- that the job had. The turn of its group goes at the commit, because whoever ends another job of a group waits for it.

-- Jobs that ended in a transaction of their handler and are still counted as open in their lease. Written with that
-- transaction, deleted by the flush that counts it: what was counted once is never counted again.
create table millrace.completion (
  job_id   bigint primary key,
  lease_id bigint not null,
  run      smallint not null,
  -- a group's turn, or a row of an ephemeral job, goes with the commit
  lets_go  boolean not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
create index completion_lease on millrace.completion (lease_id);

-- The lock of one job's end: a transaction that completes it has it, and so has a flush that ends it otherwise.
create function millrace.job_lock(p_job bigint) returns bigint language sql immutable as $$
  select pg_catalog.hashtextextended('@schema job', p_job)
$$;

-- Completes a job in the caller's own transaction, which must be that of the handler that runs it: `lease` and `run` say
-- which holding. It counts when, and only when, the transaction commits. Errors: SQLSTATE MR409 when the lease is lost or
-- the attempt has ended otherwise, MR400 when the job was completed already. A plan that was made while the tables were
-- empty would read all that came since: no sequential scans; planning anew for the partitions took a third of each call.
create function millrace.complete(
  lease bigint,
  job bigint,
  run int,
  lane int default -1,
  started_at timestamptz default null,
  result json default null
) returns void language plpgsql set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
  v_node int;
  v_attempt int;
  v_outcome "char";
  j record;
begin
  if not pg_try_advisory_xact_lock(millrace.job_lock(complete.job)) then
    raise exception 'job % is being ended by somebody else: another transaction completes it, or its attempt is over', complete.job using errcode = 'MR409';
  end if;
  select l.node_id, c.attempt into v_node, v_attempt from millrace.lease l cross join lateral unnest(l.chunks) c
  where l.id = complete.lease and c.run = complete.run and complete.job >= c.first_id and complete.job < c.first_id + c.count
  for key share of l;
  if not found then
    raise exception 'run % of job % is not held under lease % any more', complete.run, complete.job, complete.lease using errcode = 'MR409';
  end if;
  perform pg_advisory_xact_lock_shared(hashtext('@schema flush'), v_node); -- excludes nobody: it names this session to rescue()
  select a.outcome into v_outcome from millrace.attempt a where a.job_id = complete.job and a.run = complete.run;
  if found and v_outcome <> 'c' then
    raise exception 'run % of job % has ended already, as %', complete.run, complete.job, v_outcome using errcode = 'MR409';
  end if;
  select k.key, k.group_key, k.ephemeral into j from millrace.job k where k.id = complete.job;
  if v_outcome = 'c' or not found or exists (select from millrace.completion x where x.job_id = complete.job) then
    raise exception 'job % was completed already', complete.job using errcode = 'MR400';
  end if;
  if not j.ephemeral then
    insert into millrace.attempt (job_id, run, attempt, outcome, node_id, lane, started_at, finished_at, result)
    values (complete.job, complete.run, v_attempt, 'c', v_node, complete.lane, complete.started_at,
      greatest(clock_timestamp(), complete.started_at), complete.result);
  end if;
  insert into millrace.completion (job_id, lease_id, run, lets_go)
  values (complete.job, complete.lease, complete.run, j.group_key is not null or j.ephemeral);
  -- at once, so that the same transaction may enqueue the next job with this key
  if j.key is not null then perform millrace.let_go(array[complete.job], '{}', '{}'); end if;
end $$;

-- At the commit of a transaction that completed a job: its group's turn goes, and the rows of an ephemeral job. Other nodes
-- are told of the group's next job.
create function millrace.completion_commits() returns trigger language plpgsql as $$
declare j record;
begin
  select k.id, k.queue_id, k.task_id, k.group_key, k.ephemeral into j from millrace.job k where k.id = new.job_id;
  perform millrace.let_go('{}', case when j.group_key is null then '{}' else array[j.id] end, case when j.ephemeral then array[j.id] else '{}' end);
  if j.group_key is null then return null; end if;
  -- an old snapshot may not see who waits; a ticket too many costs one look
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    insert into millrace.ready (first_id, rank, queue_id, task_id, bytes, count, attempt, run, rescues, group_key)
    values (-nextval('millrace.ready_seq_seq'), 0, j.queue_id, j.task_id, 0, 0, 1, 1, 0, j.group_key);
  end if;
  perform pg_notify('millrace_@schema', 'q' || j.queue_id);
  return null;
end $$;

create constraint trigger let_go after insert on millrace.completion deferrable initially deferred
for each row when (new.lets_go) execute function millrace.completion_commits();

-- What became of jobs that their handlers may have completed, asked within the flush that is about to end them otherwise:
-- `committed` (counted by this flush), `counted` before, `ended` otherwise before, `open` (the transaction is not over yet), or
-- `none`: there was nothing, and from here on there cannot be.
create function millrace.flush_doubts(p_jobs bigint[], p_runs int[]) returns table (job bigint, state text) language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
  v_committed bigint[];
  v_run int;
  v_outcome "char";
  v_locks int := 0;
begin
  with counted as (
    delete from millrace.completion x using unnest(p_jobs, p_runs) as d(job, run)
    where x.job_id = d.job and x.run = d.run returning x.job_id
  ) select coalesce(array_agg(c.job_id), '{}') into v_committed from counted c;
  return query select c.id, 'committed' from unnest(v_committed) as c(id);
  for job, v_run in select d.job, d.run from unnest(p_jobs, p_runs) as d(job, run) left join unnest(v_committed) as c(id) on c.id = d.job where c.id is null
  loop
    -- the server's table of locks is shared by all: the rest has its turn in the next flush
    if v_locks >= 200 or not pg_try_advisory_xact_lock(millrace.job_lock(job)) then
      state := 'open';
    else
      v_locks := v_locks + 1;
      delete from millrace.completion x where x.job_id = job and x.run = v_run;
      if found then
        state := 'committed'; -- between the look above and the lock
      else
        select a.outcome into v_outcome from millrace.attempt a where a.job_id = job and a.run = v_run;
        if found then state := case v_outcome when 'c' then 'counted' else 'ended' end;
        elsif not exists (select from millrace.job k where k.id = job) then state := 'counted'; -- it was ephemeral
        else state := 'none';
        end if;
      end if;
    end if;
    return next;
  end loop;
end $$;

-- Ends the sessions of a silent node that have said nothing for as long as its limit: a flush, or a transaction of a
-- handler, of a process that is frozen or cut off. What they held is free then. Sessions of roles that the caller may not
-- end stay.
create function millrace.end_sessions(p_node int) returns void language plpgsql as $$
declare r record;
begin
  for r in
    select a.pid from millrace.node n join pg_locks k on k.objid = n.id::oid join pg_stat_activity a on a.pid = k.pid
    where n.id = p_node and n.seen_at < clock_timestamp() - n.limit_ms * interval '1 ms'
      and k.locktype = 'advisory' and k.objsubid = 2 and k.classid = (hashtext('@schema flush')::bigint & 4294967295)::oid
      and a.datname = current_database() and k.database = a.datid and a.state_change < clock_timestamp() - n.limit_ms * interval '1 ms'
  loop
    begin
      perform pg_terminate_backend(r.pid);
    exception when insufficient_privilege then null;
    end;
  end loop;
end $$;
