-- What SQL may hand in, judged as the API judges it: each function refuses with SQLSTATE MR400 and names the field and
-- the rule. The numbers are those of engine/base/limits.ts, the dialect of cron is that of engine/schedule/cron.ts;
-- test/sql-bounds.test.ts compares both sides.
--
-- And what becomes of a row that is wrong all the same, written by hand or by an older version: it never stops a sweep. The
-- statement that cannot bear it is tried again for one job at a time, and the job that is to blame becomes a dead letter
-- with the code ROW_INVALID, the place where it stood, and what PostgreSQL said.

-- Refuses a name without characters, or with more than 255 as JavaScript counts them (beyond U+FFFF one counts twice).
create function millrace.check_name(p_field text, p_name text) returns void language plpgsql immutable as $$
begin
  if p_name is null or p_name = ''
    or octet_length(p_name) > 255 and length(p_name) + length(regexp_replace(p_name, '[\u0001-\uffff]', '', 'g')) > 255 then
    raise exception '% must have 1 to 255 characters', p_field using errcode = 'MR400';
  end if;
end $$;

-- Refuses a moment that is infinite or more than ten years (of 365 days) away. Null is nothing to refuse.
create function millrace.check_moment(p_field text, p_at timestamptz) returns void language plpgsql as $$
begin
  if abs(extract(epoch from p_at)::float8 - extract(epoch from clock_timestamp())::float8) > 315360000 then
    raise exception '% must be a time within ten years of now, got %', p_field, p_at using errcode = 'MR400';
  end if;
end $$;

-- Refuses JSON that is too large, nested deeper than 100 levels, or holds U+0000 or half of a surrogate pair, which
-- PostgreSQL takes as json and cannot hand out as text. Null is nothing to refuse.
create function millrace.check_json(p_field text, p_json json, p_bytes_max int) returns void language plpgsql immutable as $$
declare
  v_text text := p_json::text;
  v_left text;
begin
  if octet_length(v_text) > p_bytes_max then
    raise exception '% must have at most % bytes, got %', p_field, p_bytes_max, octet_length(v_text) using errcode = 'MR400';
  end if;
  if strpos(v_text, '\u') > 0 then
    -- without escaped backslashes every backslash begins an escape; whole pairs may stay
    v_left := regexp_replace(replace(v_text, '\\', ''), '\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}', '', 'g');
    if v_left ~ '\\u(0000|[dD][89a-fA-F])' then
      raise exception '% must be free of U+0000 and of half surrogate pairs', p_field using errcode = 'MR400';
    end if;
  end if;
  -- what opens at most a hundred times is not deeper
  if octet_length(v_text) > 200 and octet_length(v_text) - octet_length(replace(replace(v_text, '[', ''), '{', '')) > 100 then
    v_left := translate(regexp_replace(regexp_replace(v_text, '"([^"\\]|\\.)*"', '', 'g'), '[^][{}]', '', 'g'), '{}', '[]');
    for i in 1 .. 100 loop
      exit when v_left = '';
      v_left := replace(v_left, '[]', ''); -- the innermost level goes
    end loop;
    if v_left <> '' then raise exception '% must be nested at most 100 levels deep', p_field using errcode = 'MR400'; end if;
  end if;
end $$;

-- Refuses labels that are no JSON object of at most 16 KiB. Null is nothing to refuse.
create function millrace.check_meta(p_field text, p_meta json) returns void language plpgsql immutable as $$
begin
  if json_typeof(p_meta) <> 'object' then raise exception '% must be a JSON object', p_field using errcode = 'MR400'; end if;
  perform millrace.check_json(p_field, p_meta, 16384);
end $$;

-- Refuses an option of a schedule that is there and no whole number of this range. Answers the options with the number as
-- its digits alone, which 5.0 is not.
create function millrace.option_whole(p_options jsonb, p_name text, p_min int, p_max int) returns jsonb language plpgsql immutable as $$
begin
  if not p_options ? p_name then return p_options; end if;
  if jsonb_typeof(p_options -> p_name) = 'number' then
    if (p_options ->> p_name)::numeric between p_min and p_max and (p_options ->> p_name)::numeric % 1 = 0 then
      return p_options || jsonb_build_object(p_name, (p_options ->> p_name)::numeric::int);
    end if;
  end if;
  raise exception 'options.% must be a whole number from % to %, got %', p_name, p_min, p_max, left(p_options ->> p_name, 60) using errcode = 'MR400';
end $$;

-- Refuses a name that PostgreSQL does not know as a time zone. Node knows the same ones, but for those that are files or
-- settings of the machine; where their versions differ, the engine sets the schedule aside and says so. PostgreSQL reads
-- hundreds of files to list its zones (30 ms), so what a schedule has already is not looked up.
create function millrace.check_time_zone(p_zone text) returns void language plpgsql stable as $$
begin
  if p_zone = 'UTC' or exists (select from millrace.schedule s where s.time_zone = p_zone) then return; end if;
  if p_zone is null or p_zone !~ '^[A-Za-z][A-Za-z0-9_+/-]{0,63}$' or p_zone ~* '^(posix/|right/|(factory|localtime|posixrules)$)'
    or not exists (select from pg_catalog.pg_timezone_names z where lower(z.name) = lower(p_zone)) then
    raise exception 'time_zone must be a name such as Europe/Berlin, got %', left(p_zone, 60) using errcode = 'MR400';
  end if;
end $$;

-- The number of one value of a cron field; null when it has none or is out of range. p_at: which field, from 1 (second).
create function millrace.cron_value(p_at int, p_text text) returns int language plpgsql immutable as $$
declare v int;
begin
  v := case
    when p_text ~ '^[0-9]' then p_text::int
    when p_at = 5 then array_position(array['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'], p_text)
    when p_at = 6 then array_position(array['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'], p_text) - 1
  end;
  return case when v between (array[0, 0, 0, 1, 1, 0])[p_at] and (array[59, 59, 23, 31, 12, 7])[p_at] then v end;
end $$;

-- Refuses what the engine could not read as a cron expression: five fields, six with seconds first, or a shorthand; each
-- field a list of values, ranges and steps within its range; a day that comes in one of the months.
create function millrace.check_cron(p_cron text) returns void language plpgsql immutable as $$
declare
  v_names constant text[] := array['second', 'minute', 'hour', 'day of month', 'month', 'day of week'];
  v_text text := lower(btrim(p_cron, e' \t\n\r'));
  v_fields text[];
  v_items text[];
  v_part text[];
  v_wrong text;
  v_from int; v_to int; v_step int;
  v_days int[] := '{}';
  v_months int[] := '{}';
begin
  if v_text ~ '^@(yearly|annually|monthly|weekly|weekdays|weekends|daily|midnight|hourly|minutely|secondly)$' then return; end if;
  v_fields := regexp_split_to_array(v_text, '[ \t]+');
  if p_cron is null or length(p_cron) > 600 or cardinality(v_fields) not between 5 and 6 then
    raise exception 'cron must be five fields, six with seconds first, or a shorthand such as @hourly, got %', left(p_cron, 60) using errcode = 'MR400';
  end if;
  if cardinality(v_fields) = 5 then v_fields := array_prepend('0', v_fields); end if;
  for f in 1 .. 6 loop
    continue when v_fields[f] in ('*', '*/1') or (v_fields[f] = '?' and f in (4, 6));
    v_items := string_to_array(v_fields[f], ',');
    if cardinality(v_items) > (array[60, 60, 24, 31, 12, 8])[f] then v_wrong := v_fields[f]; end if;
    for i in 1 .. cardinality(v_items) loop
      exit when v_wrong is not null;
      if f = 4 and v_items[i] = 'l' then
        v_days := v_days || 1; -- every month has a last day
        continue;
      end if;
      v_part := regexp_match(v_items[i], '^([0-7]|[a-z]{3})(l|#[1-5])$');
      continue when f = 6 and v_part is not null and millrace.cron_value(f, v_part[1]) is not null and (v_part[2] = 'l' or cardinality(v_items) = 1);
      v_part := regexp_match(v_items[i], '^(\*|[0-9]{1,4}|[a-z]{3})(?:-([0-9]{1,4}|[a-z]{3}))?(?:/([0-9]{1,4}))?$');
      v_step := coalesce(v_part[3]::int, 1);
      v_from := case v_part[1] when '*' then (array[0, 0, 0, 1, 1, 0])[f] else millrace.cron_value(f, v_part[1]) end;
      v_to := case
        when v_part[2] is not null then millrace.cron_value(f, v_part[2])
        when v_part[1] = '*' or v_part[3] is not null then (array[59, 59, 23, 31, 12, 7])[f]
        else v_from end;
      if f = 6 and v_to = 0 and v_from > 0 then v_to := 7; end if;
      if v_part is null or v_step not between 1 and (array[60, 60, 24, 31, 12, 8])[f] or (v_part[1] = '*' and v_part[2] is not null)
        or v_from is null or v_to is null or v_from > v_to then
        v_wrong := v_items[i];
      elsif f = 4 then
        v_days := v_days || array(select generate_series(v_from, v_to, v_step));
      elsif f = 5 then
        v_months := v_months || array(select generate_series(v_from, v_to, v_step));
      end if;
    end loop;
    if v_wrong is not null then
      raise exception 'cron must be five fields, six with seconds first, each within its range: % cannot be %', v_names[f],
        case v_wrong when '' then 'empty' else left(v_wrong, 60) end using errcode = 'MR400';
    end if;
  end loop;
  -- where the weekday decides too, any day of the month will do
  if cardinality(v_days) > 0 and cardinality(v_months) > 0 and v_fields[6] in ('*', '*/1', '?')
    and not exists (select from unnest(v_days) d, unnest(v_months) m where d <= (array[31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[m]) then
    raise exception 'cron must name a day that comes: the months have no day %', left(v_fields[4], 60) using errcode = 'MR400';
  end if;
end $$;

-- ------------------------------------------------------------------ what no statement can bear

-- Buries a job whose row was just taken out of its place, because nothing else can be done with it. One that stands
-- elsewhere too, has ended, or has no row of its own in job, has lost a row too many and nothing else. Answers 1.
create function millrace.set_aside(p_job bigint, p_run int, p_attempt int, p_place text, p_state text, p_message text) returns int language plpgsql as $$
begin
  if millrace.place_of(p_job) is null and not exists (select from millrace.attempt a where a.job_id = p_job and a.outcome in ('c', 'x')) then
    insert into millrace.dead (job_id, queue_id, task_id, attempts, run, code, reason)
    select j.id, j.queue_id, j.task_id, greatest(0, least(p_attempt, 32767) - 1),
      greatest(p_run, (select max(a.run) from millrace.attempt a where a.job_id = j.id), 1), 'ROW_INVALID',
      json_build_object('code', 'ROW_INVALID', 'type', 'EngineError', 'message',
        'its row in ' || p_place || ' cannot be processed: ' || p_message, 'sqlState', p_state, 'place', p_place, 'run', p_run, 'attempt', p_attempt)
    from millrace.job j where j.id = p_job
    on conflict (job_id) do nothing;
    if found then perform millrace.let_go(array[p_job], array[p_job], '{}'); end if;
  end if;
  return 1;
end $$;

-- The same for rows of scheduled. Answers how many jobs.
create function millrace.set_scheduled_aside(p_rows tid[], p_state text, p_message text) returns int language plpgsql as $$
declare s millrace.scheduled; v_jobs int := 0;
begin
  for s in delete from millrace.scheduled x where x.ctid = any (p_rows) returning x.* loop
    for i in 0 .. s.count - 1 loop
      v_jobs := v_jobs + millrace.set_aside(s.first_id + i, s.run, s.attempt, 'scheduled', p_state, p_message);
    end loop;
  end loop;
  return v_jobs;
end $$;

-- The same for everything that waits of a chunk. Answers how many jobs.
create function millrace.set_waiting_aside(p_first bigint, p_count int, p_state text, p_message text) returns int language plpgsql as $$
declare r millrace.ready; b millrace.blocked; v_jobs int;
begin
  v_jobs := millrace.set_scheduled_aside(array(select x.ctid from millrace.scheduled x where x.first_id >= p_first and x.first_id < p_first + p_count
    for update skip locked), p_state, p_message);
  for b in delete from millrace.blocked x where x.ctid = any (array(select y.ctid from millrace.blocked y where y.job_id >= p_first and y.job_id < p_first + p_count
    for update skip locked)) returning x.*
  loop
    v_jobs := v_jobs + millrace.set_aside(b.job_id, b.run, b.attempt, 'blocked', p_state, p_message);
  end loop;
  for r in delete from millrace.ready x where x.ctid = any (array(select y.ctid from millrace.ready y where y.first_id >= p_first and y.first_id < p_first + p_count
    for update skip locked)) returning x.*
  loop
    for i in 0 .. r.count - 1 loop
      v_jobs := v_jobs + millrace.set_aside(r.first_id + i, r.run, r.attempt, 'ready', p_state, p_message);
    end loop;
  end loop;
  return v_jobs;
end $$;

-- Ends a job as somebody wished whose holder has put it back. A wish that cannot be fulfilled goes, and its job is set aside.
create function millrace.end_wish(p_job bigint, p_reason text) returns void language plpgsql as $$
declare v_state text; v_message text;
begin
  perform millrace.cancel(p_job, p_reason);
exception when data_exception or integrity_constraint_violation then
  get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
  delete from millrace.cancelling k where k.job_id = p_job;
  perform millrace.set_waiting_aside(p_job, 1, v_state, v_message);
end $$;
