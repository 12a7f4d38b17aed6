-- Who may do what. Four roles, which a database has under any names:
--
--   owner     made the schema and migrates it; its functions make and drop partitions for everybody
--   engine    runs engines: claims, settles, keeps schedules, cancels, requeues and purges
--   producer  enqueues jobs and does nothing else: it reads no payload, changes no job and ends none
--   reader    reads everything and changes nothing
--
-- The owner grants: `select millrace.grant_producer('web')`. Granting again is harmless, and needed after a migration.
-- Rights on partitions need no grant: rows are reached through their parents.

-- What only an owner can do is done as the owner, whoever asks, and found in no schema but PostgreSQL's own and this one.
do $$
declare f text;
begin
  foreach f in array array['make_spans(bigint)', 'retire_span(float8, int)', 'sweep_attic(float8, int)', 'analyze_parents(float8)'] loop
    execute format('alter function millrace.%s security definer set search_path = pg_catalog, pg_temp', f);
    execute format('revoke execute on function millrace.%s from public', f);
  end loop;
end $$;

-- The statements that give these rights to a role. p_kind: engine, producer or reader. Errors: MR400.
create function millrace.grants_of(p_kind text, p_role text) returns setof text language plpgsql stable as $$
declare
  v_schema constant text := '@schema';
  f record;
begin
  if p_kind is null or p_kind not in ('engine', 'producer', 'reader') then
    raise exception 'a role is engine, producer or reader, got %', p_kind using errcode = 'MR400';
  end if;
  if not exists (select from pg_catalog.pg_roles r where r.rolname = p_role) then
    raise exception 'there is no role %', coalesce(quote_ident(p_role), 'null') using errcode = 'MR400';
  end if;
  return next format('grant usage on schema %I to %I', v_schema, p_role);
  if p_kind = 'engine' then
    return next format('grant select, insert, update, delete on all tables in schema %I to %I', v_schema, p_role);
    return next format('grant usage, select on all sequences in schema %I to %I', v_schema, p_role);
    return next format('alter default privileges in schema %I grant select, insert, update, delete on tables to %I', v_schema, p_role);
    return next format('alter default privileges in schema %I grant usage, select on sequences to %I', v_schema, p_role);
    return next format('revoke insert, update, delete on %I.migration from %I', v_schema, p_role);
    return next format('grant execute on all functions in schema %I to %I', v_schema, p_role);
  elsif p_kind = 'reader' then
    return next format('grant select on all tables in schema %I to %I', v_schema, p_role);
    return next format('alter default privileges in schema %I grant select on tables to %I', v_schema, p_role);
  else
    -- from now on these run as their owner, which costs each call some microseconds; those who may call them are named
    for f in
      select format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)) as name from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
      where n.nspname = v_schema and p.proname in ('enqueue', 'enqueue_plain', 'enqueue_chunks', 'queue_id', 'task_id') order by 1
    loop
      return next format('revoke execute on function %s from public', f.name);
      return next format('grant execute on function %s to %I', f.name, p_role);
      return next format('alter function %s security definer set search_path = pg_catalog, pg_temp', f.name);
    end loop;
    return next format('grant usage on sequence %I.id_block to %I', v_schema, p_role);
    return next format('grant execute on function %I.make_spans(bigint) to %I', v_schema, p_role);
    -- which names, options and ids there are; nothing of what is in a job
    return next format('grant select on %I.migration, %I.task, %I.queue to %I', v_schema, v_schema, v_schema, p_role);
    return next format('grant select (id) on %I.job to %I', v_schema, p_role);
  end if;
end $$;

-- Grants these rights. Called by the owner of the schema. Answers the statements that it has executed.
create function millrace.grant_kind(p_kind text, p_role text) returns setof text language plpgsql as $$
declare s text;
begin
  for s in select g from millrace.grants_of(p_kind, p_role) g loop
    execute s;
    return next s;
  end loop;
end $$;

-- Lets a role run engines, and use every command and verb but `migrate`.
create function millrace.grant_engine(role text) returns setof text language sql as $$ select millrace.grant_kind('engine', role) $$;

-- Lets a role enqueue, and nothing else.
create function millrace.grant_producer(role text) returns setof text language sql as $$ select millrace.grant_kind('producer', role) $$;

-- Lets a role read everything.
create function millrace.grant_reader(role text) returns setof text language sql as $$ select millrace.grant_kind('reader', role) $$;
