-- The data of Millrace: facts are appended, position is one small row (DESIGN section 3).
--
--   job        what is to be done; written once                     partitioned by id, removed with its partition
--   ready      a chunk that may be claimed now                      deleted or shortened by the claim
--   scheduled  a chunk that becomes ready later                     deleted by promotion
--   blocked    a job that waits for its group's turn                deleted when its group's turn comes
--   lease      what one claim took; its id fences every report      deleted with its last outcome
--   attempt    one finished run: outcome, times, result or error    partitioned by job id, removed with its partition
--   dead       a dead letter                                        deleted by requeue or purge
--   key        an idempotency key that is taken                     deleted with the terminal outcome
--   hold       a seat of a group that a job has                     deleted with the terminal outcome
--   running    a long attempt, visible while it runs                deleted with its lease
--   completion a job that its handler ended itself (0006)           deleted by the flush that counts it
--   expiring   a chunk whose jobs have an expiry (0007)             deleted when its time has come and none waits
--   cancelling a wish to end a job that somebody holds              deleted when that holding is over
--
-- A job's state is where its row stands; nothing big is ever updated. In these files the word `millrace.` is replaced
-- by the schema that the user chose.
--
-- A CHECK is read and compiled anew by every statement that inserts: two more on job and ready made enqueue_plain a third
-- slower (2026-11). So these two have what a wrong number would break for good; where moments decide (scheduled,
-- expiring, schedule) they must be finite, and all others are judged by the functions that write them.

create table millrace.migration (
  version    int primary key,
  name       text not null,
  applied_at timestamptz not null default now(),
  applied_by text not null
);

-- One engine process, one incarnation. Silent for longer than limit_ms: its leases are reopened by any other node.
create table millrace.node (
  id         int generated always as identity primary key,
  uid        uuid not null unique,
  host       text not null,
  -- names the machine and its boot, so that a restart can tell that its own predecessor is gone
  machine    text not null,
  pid        int not null,
  version    text not null,
  threads    int not null,
  limit_ms   int not null check (limit_ms >= 1000),
  state      text not null default 'live' check (state in ('live', 'quiet')),
  started_at timestamptz not null default now(),
  seen_at    timestamptz not null default now(),
  -- leases of its own that it did not know of, and reopened (see reopen_strays)
  strays     int not null default 0
) with (fillfactor = 50);

-- The number of the last flush that a node committed: makes a retry after a lost COMMIT answer harmless.
create table millrace.flushed (
  node_id int primary key,
  no      bigint not null
) with (fillfactor = 50);

-- What the loop of a node was like, about once a second, written many at a time. For people; kept for a day.
create table millrace.loop_sample (
  at       timestamptz not null,
  node_id  int not null,
  took_us  int not null,
  active   int not null,
  indexed  int not null,
  waiting  int not null,
  handled  int not null
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 10000);
create index loop_sample_at on millrace.loop_sample (at);

create table millrace.queue (
  id         int generated always as identity primary key,
  name       text not null unique check (length(name) between 1 and 255),
  paused     boolean not null default false,
  -- milliseconds of waiting that weigh as much as one level of priority; null: no ageing
  ageing_ms  int check (ageing_ms > 0),
  created_at timestamptz not null default now()
);

create table millrace.task (
  id           int generated always as identity primary key,
  name         text not null unique check (length(name) between 1 and 255),
  created_at   timestamptz not null default now(),
  -- The task's published options, for enqueues that do not say: the definition that appeared last among those of the
  -- registered nodes (publish_tasks, withdraw_tasks); null: no node has published the task.
  options      json,
  published_at timestamptz
);

-- The tasks of each registered node, and what their definitions say there. Written once per node, after it has loaded them.
create table millrace.node_task (
  task_id int not null,
  node_id int not null,
  options json not null,
  primary key (task_id, node_id)
);
create index node_task_node on millrace.node_task (node_id);

-- Every value is a block of 1,000 ids: block b holds b * 1000 + 1 .. b * 1000 + 1000.
create sequence millrace.id_block as bigint minvalue 0 start 0 maxvalue 9007199254739;

create table millrace.job (
  id            bigint not null,
  created_at    timestamptz not null default now(),
  run_at        timestamptz,
  expires_at    timestamptz,
  queue_id      int not null,
  task_id       int not null,
  payload_bytes int not null,
  timeout_ms    int,
  priority      smallint not null,
  -- null: the task's, as the node that runs the job defines it
  max_attempts  smallint,
  ephemeral     boolean not null default false,
  payload       json not null,
  group_key     text,
  key           text,
  retry         json,
  meta          json,
  -- jobs of its group that may be held while it is; null: 1
  group_limit   smallint,
  -- its group goes on while it waits for a retry; null: false
  retry_skips   boolean,
  primary key (id),
  constraint job_limits check (id > 0 and id < 9007199254740992 and priority between -100 and 100 and max_attempts between 1 and 10000
    and group_limit between 1 and 1000)
) partition by range (id);

-- The attic: rows of spans that were dropped, and rows that come late.
create table millrace.job_attic partition of millrace.job default;

-- A chunk: ids first_id .. first_id + count - 1 share queue, task, rank, due time, options, attempt, run and rescues.
-- count 0 is a ticket: it names no job, it asks for the next jobs of its group (see blocked); its first_id is a number
-- below zero that nothing else has, so that it never stands in a job's way.
-- A row with a group and count 1 is a job that already has its group's turn.
create table millrace.ready (
  first_id  bigint primary key,
  -- order within a rank, given by the database at insert
  seq       bigint generated by default as identity,
  rank      bigint not null,
  due_at    timestamptz not null default now(),
  queue_id  int not null,
  task_id   int not null,
  bytes     bigint not null,
  count     smallint not null check (count between 0 and 1000),
  attempt   smallint not null check (attempt >= 1),
  run       smallint not null check (run >= 1),
  rescues   smallint not null check (rescues >= 0),
  group_key text
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0.05);
-- parts of one chunk share their seq; the task stands last, so that a claim walks past tasks of others by the index alone
create index ready_order on millrace.ready (queue_id, rank, seq, first_id, task_id);
create index ready_group on millrace.ready (queue_id, group_key, rank, seq, first_id) where group_key is not null;

create table millrace.scheduled (
  first_id  bigint primary key,
  run_at    timestamptz not null check (run_at between '1900-01-01 00:00Z' and '10000-01-01 00:00Z'),
  rank      bigint not null,
  queue_id  int not null,
  task_id   int not null,
  bytes     bigint not null,
  count     smallint not null check (count between 1 and 1000),
  attempt   smallint not null check (attempt >= 1),
  run       smallint not null check (run >= 1),
  rescues   smallint not null check (rescues >= 0),
  -- a job that waits for a retry keeps its group's turn
  holds     boolean not null default false,
  group_key text,
  check (group_key is null or count = 1)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index scheduled_due on millrace.scheduled (run_at);

create table millrace.blocked (
  job_id    bigint primary key,
  seq       bigint generated by default as identity,
  rank      bigint not null,
  due_at    timestamptz not null default now(),
  queue_id  int not null,
  task_id   int not null,
  bytes     bigint not null,
  attempt   smallint not null,
  run       smallint not null,
  rescues   smallint not null,
  group_key text not null,
  group_limit smallint not null default 1,
  check (attempt >= 1 and run >= 1 and rescues >= 0 and group_limit between 1 and 1000)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index blocked_order on millrace.blocked (queue_id, group_key, rank, seq);

-- Who has the turn of a group. A job with a limit of 1 finds no other here and takes seat 0; with a limit of n it takes the
-- lowest seat that is free, and is one of at most n. What holds is the smallest limit of those that are held.
create table millrace.hold (
  queue_id    int not null,
  group_key   text not null,
  job_id      bigint not null,
  seat        smallint not null,
  group_limit smallint not null,
  since       timestamptz not null default now(),
  primary key (queue_id, group_key, seat),
  check (seat >= 0 and seat < group_limit)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

create type millrace.chunk as (
  first_id bigint, count int, attempt int, run int, rescues int, rank bigint, seq bigint
);

-- A claim does not wait for the disk, so a crash of the server may forget it together with its number. The random part
-- keeps the number from being dealt again: it fences reports. Below 2^53 for eight thousand million claims.
create sequence millrace.lease_no as bigint maxvalue 8589934591;

create table millrace.lease (
  id         bigint primary key default nextval('millrace.lease_no') * 1048576 + floor(random() * 1048576)::bigint,
  node_id    int not null,
  -- jobs of it that have not ended yet
  open       int not null check (open >= 0),
  claimed_at timestamptz not null default now(),
  -- bots only: a node's leases live as long as the node renews its own row
  expires_at timestamptz,
  chunks     millrace.chunk[] not null
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
create index lease_node on millrace.lease (node_id);

-- outcome: c completed, f failed, t timed out, x cancelled, e expired, l lost with its holder, r released unfinished.
create table millrace.attempt (
  job_id      bigint not null,
  started_at  timestamptz,
  finished_at timestamptz not null,
  node_id     int not null,
  run         smallint not null,
  attempt     smallint not null,
  lane        smallint not null,
  outcome     "char" not null,
  error       json,
  result      json,
  primary key (job_id, run),
  constraint attempt_outcome check (outcome in ('c', 'f', 't', 'x', 'e', 'l', 'r'))
) partition by range (job_id);

create table millrace.attempt_attic partition of millrace.attempt default;

create table millrace.dead (
  job_id   bigint primary key,
  died_at  timestamptz not null default now(),
  queue_id int not null,
  task_id  int not null,
  attempts smallint not null,
  run      smallint not null,
  code     text not null,
  reason   json not null
);
create index dead_queue on millrace.dead (queue_id, job_id);
create index dead_time on millrace.dead (died_at desc, job_id desc);

create table millrace.key (
  queue_id int not null,
  key      text not null,
  job_id   bigint not null,
  primary key (queue_id, key)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

create table millrace.running (
  job_id     bigint primary key,
  lease_id   bigint not null,
  run        smallint not null,
  lane       smallint not null,
  started_at timestamptz not null,
  seen_at    timestamptz not null default now(),
  progress   json
) with (fillfactor = 70);
create index running_lease on millrace.running (lease_id);

-- Its holder reads it; where the job is put back instead of ended, whoever does that ends it.
create table millrace.cancelling (
  job_id   bigint primary key,
  lease_id bigint not null,
  node_id  int not null,
  reason   text not null,
  asked_at timestamptz not null default now()
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 100);
create index cancelling_node on millrace.cancelling (node_id);
