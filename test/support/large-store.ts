// A store that holds what a busy year leaves behind, made within seconds by SQL: a million jobs ready one by one, and
// everything else in the tens and hundreds of thousands. What a statement reads here is what it reads in earnest.

import { openStore, type StoreBundle } from './store.ts'

/** Ids of each kind, from the first to the last. */
export const IDS = {
  completed: [1, 100_000],
  /** Of six queues in turn, half of them in the first; three ranks; five tasks. */
  ready: [100_001, 1_100_000],
  /** Half of them due. */
  scheduled: [1_100_001, 1_140_000],
  /** Behind 5,000 groups that somebody holds. */
  blocked: [1_140_001, 1_200_000],
  /** Heads of 5,000 groups that nobody holds, each with its ticket, in a queue of their own. */
  waiting: [1_200_001, 1_205_000],
  /** A hundred each: failed and then completed, cancelled, expired, failed and purged; then 20 chunks of 10 ready jobs. */
  mixed: [1_205_001, 1_205_600],
  dead: [1_210_001, 1_260_000],
  /** With keys, in leases of 500. */
  running: [1_260_001, 1_270_000],
  /** Retries that wait, with keys. */
  retrying: [1_270_001, 1_300_000],
} as const

export const GROUPS = 5_000
export const LEASES = 20
export const SCHEDULES = 1_000
export const OCCURRENCES = 120_000

export interface LargeStore extends StoreBundle {
  /** The node that holds the leases 1 to 20. */
  readonly nodeId: number
  /** A node that holds the leases 21 to 24, 100 jobs each out of those in leases, and is silent. */
  readonly silentId: number
  readonly groupQueueId: number
}

/** `first` runs while everything is empty. */
export async function openLargeStore(first: (it: LargeStore) => Promise<void>): Promise<LargeStore> {
  const it = await openStore()
  const [nodeId, silentId] = [await it.join(), await it.join()]
  const queueIds = await it.store.queueIds(['default', 'q1', 'q2', 'q3', 'q4', 'q5', 'groups'])
  const taskIds = await it.store.taskIds(['noop', 't1', 't2', 't3', 't4'])
  const large = { ...it, nodeId, silentId, groupQueueId: queueIds[6]! }
  await first(large)

  // nothing of it is to outlive the test
  const tables = await it.query<{ name: string }>(
    `select relname as name from pg_class where relnamespace = '${it.db.schema}'::regnamespace and relkind = 'r'
      and (relname ~ '^(job|attempt)_0$' or relname in ('ready', 'scheduled', 'blocked', 'dead', 'key', 'hold', 'running', 'occurrence'))`,
  )
  for (const { name } of tables) await it.query(`alter table millrace.${name} set unlogged`)
  const queue = `(array[${queueIds.slice(0, 6).join(',')}])[case when i % 2 = 0 then 1 else 2 + i / 2 % 5 end]`
  const task = `(array[${taskIds.join(',')}])[1 + i % 5]`
  const from = (kind: keyof typeof IDS) => `generate_series(${IDS[kind][0]}, ${IDS[kind][1]}) i`
  const waits = 'rank, queue_id, task_id, bytes, attempt, run, rescues'

  await it.query(`insert into millrace.job (id, queue_id, task_id, payload_bytes, priority, max_attempts, payload, group_key, key)
    select i, case when i between ${IDS.waiting.join(' and ')} then ${large.groupQueueId} else ${queue} end, ${task}, 7, 0, 3, '{"n":1}',
      case when i between ${IDS.blocked.join(' and ')} then 'g' || i % ${GROUPS} when i between ${IDS.waiting.join(' and ')} then 'w' || i end,
      case when i >= ${IDS.running[0]} then 'k' || i end
    from generate_series(1, ${IDS.retrying[1]}) i`)
  await it.query(`insert into millrace.attempt (job_id, run, attempt, outcome, node_id, lane, finished_at, result)
    select i, 1, 1, 'c', ${nodeId}, 0, now() - (${IDS.completed[1]} - i) * interval '1 s', 'true' from ${from('completed')}`)
  await it.query(`insert into millrace.attempt (job_id, run, attempt, outcome, node_id, lane, finished_at, error)
    select i, 3, 3, 'f', ${nodeId}, 0, now() - (${IDS.dead[1]} - i) * interval '1 s', '{}' from ${from('dead')}`)
  const [mixed] = IDS.mixed
  await it.query(`insert into millrace.attempt (job_id, run, attempt, outcome, node_id, lane, finished_at)
    select i, 1, 1, (array['f', 'x', 'e', 'f'])[1 + (i - ${mixed}) / 100]::"char", ${nodeId}, 0, now() from generate_series(${mixed}, ${mixed + 399}) i
    union all select i, 2, 2, 'c', ${nodeId}, 0, now() from generate_series(${mixed}, ${mixed + 99}) i`)
  await it.query(`insert into millrace.ready (first_id, count, ${waits})
    select i, 10, 0, ${queueIds[1]}, ${taskIds[1]}, 70, 1, 1, 0 from generate_series(${mixed + 400}, ${mixed + 599}, 10) i`)
  await it.query(`insert into millrace.ready (first_id, count, ${waits})
    select i, 1, i / 7 % 3, ${queue}, ${task}, 7, 1, 1, 0 from ${from('ready')}`)
  await it.query(`insert into millrace.scheduled (first_id, run_at, count, ${waits})
    select i, now() + (i - ${(IDS.scheduled[0] + IDS.scheduled[1]) / 2}) * interval '1 s', 1, 0, ${queue}, ${task}, 7, 1, 1, 0 from ${from('scheduled')}`)
  await it.query(`insert into millrace.scheduled (first_id, run_at, count, ${waits})
    select i, now() + i * interval '1 s', 1, 0, ${queue}, ${task}, 7, 2, 2, 0 from ${from('retrying')}`)
  await it.query(`insert into millrace.blocked (job_id, group_key, ${waits})
    select i, 'g' || i % ${GROUPS}, 0, ${queueIds[0]}, ${task}, 7, 1, 1, 0 from ${from('blocked')}`)
  await it.query(`insert into millrace.hold (queue_id, group_key, job_id, seat, group_limit)
    select ${queueIds[0]}, 'g' || i, i + 1, 0, 1 from generate_series(0, ${GROUPS - 1}) i`)
  await it.query(`insert into millrace.blocked (job_id, group_key, ${waits})
    select i, 'w' || i, 0, ${large.groupQueueId}, ${task}, 7, 1, 1, 0 from ${from('waiting')}`)
  await it.query(`insert into millrace.ready (first_id, count, group_key, ${waits})
    select -i, 0, 'w' || i, 0, ${large.groupQueueId}, ${task}, 7, 1, 1, 0 from ${from('waiting')}`)
  await it.query(`insert into millrace.dead (job_id, queue_id, task_id, attempts, run, code, reason, died_at)
    select i, ${queue}, ${task}, 3, 3, case when i % 100 = 0 then 'TASK_EXPIRED' else 'X' end, '{}', now() - (${IDS.dead[1]} - i) * interval '1 s' from ${from('dead')}`)
  await it.query(`insert into millrace.key (queue_id, key, job_id)
    select ${queue}, 'k' || i, i from generate_series(${IDS.running[0]}, ${IDS.retrying[1]}) i`)
  const perLease = (IDS.running[1] - IDS.running[0] + 1) / LEASES
  await it.query(`insert into millrace.lease (id, node_id, open, chunks)
    select l + 1, ${nodeId}, ${perLease}, array[row(${IDS.running[0]} + l * ${perLease}, ${perLease}, 1, 1, 0, 0, 0)::millrace.chunk]
    from generate_series(0, ${LEASES - 1}) l`)
  await it.query(`insert into millrace.running (job_id, lease_id, run, lane, started_at)
    select i, (i - ${IDS.running[0]}) / ${perLease} + 1, 1, 0, now() from ${from('running')}`)
  // what the silent one holds has no place elsewhere: jobs between the kinds
  await it.query(`insert into millrace.job (id, queue_id, task_id, payload_bytes, priority, max_attempts, payload)
    select i, ${queueIds[0]}, ${taskIds[0]}, 7, 0, 3, '{"n":1}' from generate_series(1300001, 1300400) i`)
  await it.query(`insert into millrace.lease (id, node_id, open, chunks)
    select 21 + l, ${silentId}, 100, array[row(1300001 + l * 100, 100, 1, 1, 0, 0, 0)::millrace.chunk] from generate_series(0, 3) l`)
  await it.query(`insert into millrace.schedule (id, queue_id, task_id, cron, changed, since)
    select 's' || i, ${queueIds[0]}, ${taskIds[0]}, '* * * * *', 1, now() - interval '1 day' from generate_series(1, ${SCHEDULES}) i`)
  await it.query(`insert into millrace.occurrence (schedule_id, scheduled_at, decided_at, node_id, outcome, late_ms, job_id)
    select 's' || 1 + i % ${SCHEDULES}, date_trunc('minute', now()) - i / ${SCHEDULES} * interval '1 minute' - interval '1 minute', now(), 1, 'enqueued', 0, i
    from generate_series(0, ${OCCURRENCES - 1}) i`)
  await it.query(`select setval('millrace.id_block', 5000)`)
  await it.query(`select brin_summarize_new_values(i.indexrelid) from pg_index i join pg_class c on c.oid = i.indexrelid
    where c.relname like 'attempt_0_finished%' and c.relnamespace = '${it.db.schema}'::regnamespace`) // as autovacuum does
  return large
}
