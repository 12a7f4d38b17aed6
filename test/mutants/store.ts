// What PostgreSQL keeps: claims, leases, flushes, groups, keys, retries, completions, bounds.

import type { Mutant } from './mutant.ts'

export const STORE_MUTANTS: readonly Mutant[] = [
  {
    name: 'claim: workers wait for each other',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `begin
  foreach v_queue in array p_queues loop`,
    replace: `begin
  perform pg_advisory_xact_lock(1);
  foreach v_queue in array p_queues loop`,
    test: 'store: three workers claim at once',
  },
  {
    name: 'claim: by order of enqueueing alone',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `        order by y.rank, y.seq, y.first_id limit v_room for update skip locked
`,
    replace: `        order by y.seq, y.rank, y.first_id limit v_room for update skip locked
`,
    test: 'store: a claim that takes a part takes the first',
  },
  {
    name: 'claim: a paused queue gives jobs',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `continue when (select q.paused from millrace.queue q where q.id = v_queue);`,
    replace: ``,
    test: 'store: a node claims only tasks that it knows',
  },
  {
    name: 'claim: a dead node claims',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `would have nobody to reopen it
  perform from millrace.node n where n.id = p_node for key share;
  if not found then`,
    replace: `would have nobody to reopen it
  if false then`,
    test: 'store: a dead node reports nothing',
  },
  {
    name: 'claim: no bound of bytes',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `          if r.bytes > v_bytes and r.count > 1 then
            v_take`,
    replace: `          if false then
            v_take`,
    test: 'store: a claim takes no more bytes',
  },
  {
    name: 'claim: the rest of a chunk is lost',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `update millrace.ready y set first_id = y.first_id + v_cut_by, count = y.count - v_cut_by, bytes = y.bytes - v_cut_bytes where y.first_id = v_cut;`,
    replace: `delete from millrace.ready y where y.first_id = v_cut;`,
    test: 'store: a claim takes part of a chunk',
  },
  {
    name: 'groups: a group has any number of seats',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `              v_held := v_held + 1;
`,
    replace: ``,
    test: 'group-limits: one claim fills a group',
  },
  {
    name: 'groups: a small limit that is held does not count',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `              v_limit := least(v_limit, h.group_limit);
`,
    replace: ``,
    test: 'group-limits: a job with a large limit that joins',
  },
  {
    name: 'groups: the limit of the next one does not count',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `v_spent := not found or v_held >= h.group_limit;`,
    replace: `v_spent := not found;`,
    test: 'group-limits: where jobs of a group name different limits',
  },
  {
    name: 'groups: who has ended calls nobody',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `if found then perform millrace.call_next(g.queue_id, g.group_key); end if;`,
    replace: ``,
    test: 'turns: its key and its turn are free',
  },
  {
    name: 'groups: who has ended keeps its turn',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `delete from millrace.hold x where x.queue_id = g.queue_id and x.group_key = g.group_key and x.job_id = g.id;`,
    replace: `perform 1;`,
    test: 'turns: its key and its turn are free',
  },
  {
    name: 'groups: a job that waits for its retry lets others pass',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `j.group_key is not null and j.retry_skips is not true, j.group_key`,
    replace: `false, j.group_key`,
    test: 'store: a retrying job keeps its group',
  },
  {
    name: 'groups: who expires keeps the turn',
    file: 'engine/store/migrations/0007_expiry.sql',
    find: `perform millrace.let_go(v_keyed, v_grouped, '{}');`,
    replace: `perform millrace.let_go(v_keyed, '{}', '{}');`,
    test: 'turns: its key and its turn are free',
  },
  {
    name: 'groups: those behind one that is purged wait for nobody',
    file: 'engine/store/migrations/0005_console.sql',
    find: `      perform millrace.call_next(p_queue, g.group_key);
`,
    replace: `      null;
`,
    test: 'turns: where the one that is purged',
  },
  {
    name: 'keys: a key is never free again',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `where j.id = any (p_keyed) and k.queue_id`,
    replace: `where false and k.queue_id`,
    test: 'store: free again afterwards',
  },
  {
    name: 'keys: whoever had a key lets go of it for who has it now',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `k.key = j.key and k.job_id = j.id;`,
    replace: `k.key = j.key;`,
    test: 'complete: belongs to the job that has it now',
  },
  {
    name: 'ephemeral: a job that completed leaves its row',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `    delete from millrace.job j where j.id = any (p_ephemeral);
`,
    replace: ``,
    test: 'syncer-store: an ephemeral job leaves nothing',
  },
  {
    name: 'flush: sent twice, written twice',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `if v_no >= p_no then return query select false, true, '{}'::bigint[]; return; end if;`,
    replace: ``,
    test: 'store: a flush about a part of a lease',
  },
  {
    name: 'flush: a few rows sent twice are written twice',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `where f.node_id = p_node and f.no < p_no;`,
    replace: `where f.node_id = p_node;`,
    test: 'store: a flush about a part of a lease',
  },
  {
    name: 'flush: reports under a lost lease are written (few rows)',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `if v_mine <> cardinality(p_leases) then`,
    replace: `if false then`,
    test: 'store: a report under a lost lease',
  },
  {
    name: 'flush: reports under a lost lease are written',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `where w.id <> all (v_mine));`,
    replace: `where false);`,
    test: 'store: a report under a lost lease',
  },
  {
    name: 'flush: a dead node reports',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `if not found then return query select true, false, p_leases; return; end if;`,
    replace: ``,
    test: 'store: many or few',
  },
  {
    name: 'flush: a dead node reports a few rows',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `if not found then raise exception 'node % was declared dead', p_node using errcode = 'MR410'; end if;`,
    replace: ``,
    test: 'store: a dead node reports nothing',
  },
  {
    name: 'flush: a lease ends one job too late',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `delete from millrace.lease l using unnest(p_leases, p_done) as d(id, done) where l.id = d.id and l.open <= d.done;`,
    replace: `delete from millrace.lease l using unnest(p_leases, p_done) as d(id, done) where l.id = d.id and l.open < d.done;`,
    test: 'store: many or few',
  },
  {
    name: 'flush: halves go with the number of the whole',
    file: 'engine/syncer/syncer.ts',
    find: `return { ...flush, no: ++this.#no }`,
    replace: `return { ...flush, no: this.#no }`,
    test: 'syncer: one refused outcome among many',
  },
  {
    name: 'retry: no delay',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `select t.j, clock_timestamp() + t.d * interval '1 ms',`,
    replace: `select t.j, clock_timestamp(),`,
    test: 'store: a retry waits in scheduled',
  },
  {
    name: 'promote: before its time',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `d.run_at <= clock_timestamp() order by`,
    replace: `d.run_at <= clock_timestamp() + interval '1 hour' order by`,
    test: 'store: a retry waits in scheduled',
  },
  {
    name: 'release: the lease keeps what was given back',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `update millrace.lease l set chunks = millrace.chunks_without(l.chunks, x.f, x.n) where l.id = x.l;`,
    replace: ``,
    test: 'store: released jobs go back to their place',
  },
  {
    name: 'cancel: a wish is forgotten when the job is tried again',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `    perform millrace.cancel(k.job_id, k.reason) from millrace.cancelling k where k.job_id = any (v_wished);
`,
    replace: `    null;
`,
    test: 'cancels: a job that fails after it was to be cancelled',
  },
  {
    name: 'complete: any run may complete the job',
    file: 'engine/store/migrations/0006_complete.sql',
    find: `where l.id = complete.lease and c.run = complete.run and`,
    replace: `where l.id = complete.lease and`,
    test: 'complete: another number of run',
  },
  {
    name: 'complete: two transactions complete one job',
    file: 'engine/store/migrations/0006_complete.sql',
    find: `if not pg_try_advisory_xact_lock(millrace.job_lock(complete.job)) then`,
    replace: `if false then`,
    test: 'complete: two transactions cannot complete one job',
  },
  {
    name: 'complete: a rescuer takes a lease in which a job is being completed',
    file: 'engine/store/migrations/0006_complete.sql',
    find: `  for key share of l;
`,
    replace: `  ;
`,
    test: 'complete: a rescuer passes by a lease',
  },
  {
    name: 'complete: whoever waits for its commit is not told',
    file: 'engine/store/migrations/0006_complete.sql',
    find: `  perform pg_notify('millrace_@schema', 'q' || j.queue_id);
  return null;`,
    replace: `  return null;`,
    test: 'complete: the commit of a job of a group tells',
  },
  {
    name: 'bounds: moments of any year',
    file: 'engine/store/migrations/0008_bounds.sql',
    find: `> 315360000 then`,
    replace: `> 1e300 then`,
    test: 'sql-bounds: what is wrong',
  },
  {
    name: 'bounds: one level too deep',
    file: 'engine/store/migrations/0008_bounds.sql',
    find: `for i in 1 .. 100 loop`,
    replace: `for i in 1 .. 101 loop`,
    test: 'sql-bounds: what is wrong',
  },
  {
    name: 'bounds: one level too few',
    file: 'engine/store/migrations/0008_bounds.sql',
    find: `for i in 1 .. 100 loop`,
    replace: `for i in 1 .. 99 loop`,
    test: 'sql-bounds: what is right at the edge',
  },
  {
    name: 'payload: one at the limit is refused by SQL',
    file: 'engine/store/migrations/0008_bounds.sql',
    find: `if octet_length(v_text) > p_bytes_max then`,
    replace: `if octet_length(v_text) >= p_bytes_max then`,
    test: 'enqueue: exactly the limit',
  },
  {
    name: 'published: versions side by side take turns',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `and (not exists (select from millrace.node_task o where o.task_id = t.id and o.node_id <> p_node and o.options::text = k.options::text)`,
    replace: `and (true`,
    test: 'published: versions side by side do not take turns',
  },
  {
    name: 'published: who is gone counts',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `  perform millrace.withdraw_tasks(p_node);
  delete from millrace.node n`,
    replace: `  delete from millrace.node n`,
    test: 'published: the definition that appeared last',
  },
]
