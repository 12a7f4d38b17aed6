// What the hot statements read, counted by PostgreSQL itself while they run on a large schema: no sequential scan of a
// table that grows, and no more rows than the call is about. In three lives of a plan: made while everything was empty,
// made without statistics, made with them.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import pg from 'pg'
import { readStatements } from '../engine/store/statements.ts'
import { openStore, type StoreBundle } from './support/store.ts'

const JOBS = 200_000
const READY = 50_000
/** Tables that grow with the jobs. `lease` and `node` grow with the nodes alone. */
const LARGE = ['job_0', 'attempt_0', 'ready', 'scheduled', 'blocked', 'dead', 'key', 'hold', 'running']

let it: StoreBundle
let node: number
let early: pg.Client
const clients: pg.Client[] = []

before(async () => {
  it = await openStore()
  node = await it.join()
  early = await connect()
  for (const { text, values } of statements()) await counted(early, text, values)
  await fill()
  await it.query(`select brin_summarize_new_values(i.indexrelid) from pg_index i join pg_class c on c.oid = i.indexrelid
    where c.relname like 'attempt_0_finished%' and c.relnamespace = '${it.db.schema}'::regnamespace`) // as autovacuum does
})

after(async () => {
  for (const client of clients) await client.end()
  await it?.close()
})

async function connect(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: it.db.url })
  clients.push(client)
  await client.connect()
  return client
}

/**
 * Ids: 1 to 100,000 completed, then 50,000 ready one by one, 20,000 scheduled (half of them due), 10,000 blocked in a thousand
 * groups that somebody holds, 5,000 dead, 10,000 running with keys in twenty leases, 5,000 delayed retries with keys.
 */
async function fill(): Promise<void> {
  const run = (sql: string) => it.query(sql)
  const q = `${it.queueId}, ${it.taskId}`
  await run(`insert into millrace.job (id, queue_id, task_id, payload_bytes, priority, max_attempts, payload, group_key, key)
    select i, ${q}, 8, 0, 3, '{"n":1}', case when i > 170000 and i <= 180000 then 'g' || i % 1000 end, case when i > 185000 then 'k' || i end
    from generate_series(1, ${JOBS}) i`)
  await run(`insert into millrace.attempt (job_id, run, attempt, outcome, node_id, lane, finished_at, result)
    select i, 1, 1, 'c', ${node}, 0, now() - (100000 - i) * interval '1 s', 'true' from generate_series(1, 100000) i`)
  await run(`insert into millrace.ready (first_id, rank, queue_id, task_id, bytes, count, attempt, run, rescues)
    select i, i % 3, ${q}, 8, 1, 1, 1, 0 from generate_series(100001, 100000 + ${READY}) i`)
  await run(`insert into millrace.scheduled (first_id, run_at, rank, queue_id, task_id, bytes, count, attempt, run, rescues)
    select i, now() + (i - 160000) * interval '1 s', 0, ${q}, 8, 1, 1, 1, 0 from generate_series(150001, 170000) i`)
  await run(`insert into millrace.blocked (job_id, rank, queue_id, task_id, bytes, attempt, run, rescues, group_key)
    select i, 0, ${q}, 8, 1, 1, 0, 'g' || i % 1000 from generate_series(170001, 180000) i`)
  await run(
    `insert into millrace.hold (queue_id, group_key, job_id, seat, group_limit) select ${it.queueId}, 'g' || i, i, 0, 1 from generate_series(0, 999) i`,
  )
  await run(`insert into millrace.dead (job_id, queue_id, task_id, attempts, run, code, reason)
    select i, ${q}, 3, 3, 'X', '{}' from generate_series(180001, 185000) i`)
  await run(
    `insert into millrace.key (queue_id, key, job_id) select ${it.queueId}, 'k' || i, i from generate_series(185001, ${JOBS}) i`,
  )
  await run(`insert into millrace.lease (node_id, open, chunks)
    select ${node}, 500, array[row(185001 + l * 500, 500, 1, 1, 0, 0, 0)::millrace.chunk] from generate_series(0, 19) l`)
  await run(
    `insert into millrace.running (job_id, lease_id, run, lane, started_at) select i, (i - 185001) / 500 + 1, 1, 0, now() from generate_series(185001, 195000) i`,
  )
}

interface Hot {
  readonly name: string
  readonly text: string
  readonly values: readonly unknown[]
  /** Rows of large tables that it may read: some times what it is about. */
  readonly rowsMax: number
}

function statements(): Hot[] {
  const sql = readStatements('console.sql', it.db.schema)
  const { queueId, taskId } = it
  const call = (name: string, text: string, values: unknown[], rowsMax: number): Hot => ({
    name,
    text: text.replaceAll('millrace.', `"${it.db.schema}".`),
    values,
    rowsMax,
  })
  const shown = (name: string, values: unknown[], rowsMax: number): Hot => call(name, sql.get(name)!, values, rowsMax)
  const chunk = (extra: object) =>
    JSON.stringify([{ f: 900_001, c: 1, q: queueId, t: taskId, p: 0, m: 3, b: 1, d: [1], ...extra }])
  return [
    call('claim 100', 'select * from millrace.claim($1, $2, null, 100, 1000000, null)', [node, [queueId]], 1_000),
    call(
      'claim 100 of a task',
      'select * from millrace.claim($1, $2, $3, 100, 1000000, null)',
      [node, [queueId], [taskId]],
      1_000,
    ),
    call(
      'claim of a group',
      `select * from millrace.claim_of_group($1, $2, null, 100, 1000000, 'g7')`,
      [node, [queueId]],
      100,
    ),
    call('promote 1,000', 'select * from millrace.promote(1000)', [], 4_100),
    call(
      'enqueue plain',
      `select millrace.enqueue_plain(900001, 1, $1, $2, 0, 3, 1, '[1]', false)`,
      [queueId, taskId],
      10,
    ),
    call(
      'enqueue with a key that is taken',
      'select * from millrace.enqueue_chunks($1, true, true, true)',
      [chunk({ k: 'k190000' })],
      20,
    ),
    call(
      'enqueue into a group',
      'select * from millrace.enqueue_chunks($1, false, true, true)',
      [chunk({ k: 'new', g: 'g1' })],
      20,
    ),
    call(
      'flush of a few',
      `select millrace.flush_few($1, 1000000, array[1]::bigint[], array[1], $2, $3, true)`,
      [
        node,
        JSON.stringify([{ j: 185_001, r: 1, a: 1, o: 'c', i: node, n: 0, s: 1, f: 2 }]),
        JSON.stringify({
          retries: [{ j: 185_002, d: 1, a: 2, r: 2, s: 0 }],
          deads: [{ j: 185_003, c: 'X', e: {}, a: 1, r: 1 }],
          releases: [{ l: 1, f: 185_010, n: 5, a: 1, r: 1, s: 0, k: 0, q: 1 }],
          keyed: [185_001],
          grouped: [170_001],
          ephemeral: [185_004],
          running: [{ l: 1, j: 185_005, r: 1, n: 0, t: 1 }],
        }),
      ],
      700, // the rows in `running` of a lease that stays open are looked at
    ),
    call(
      'flush_end',
      `select millrace.flush_end($1, 1000001, array[2]::bigint[], array[500], $2)`,
      [node, JSON.stringify({ keyed: [185_501] })],
      1_000,
    ),
    call('cancel', `select millrace.cancel(120000, 'x')`, [], 20),
    call('cancel of a blocked one', `select millrace.cancel(175000, 'x')`, [], 20),
    call(
      'requeue of 10',
      'select * from millrace.requeue($1)',
      [Array.from({ length: 10 }, (_, at) => 180_001 + at)],
      200,
    ),
    call('is it unfinished', 'select millrace.is_unfinished(50000), millrace.is_unfinished(120000)', [], 20),
    call('newest results', 'select * from millrace.results(null, null, null, null, null, 10, 0)', [], 12_000),
    call('purge of 400', `select * from millrace.purge_waiting($1, 'ready', 0, now(), 400, 'x')`, [queueId], 5_000),
    call('forget 100', 'select * from millrace.forget_completed(null, now(), 0, 100)', [], 2_000),
    shown('jobs', [null, null, null, null, null, 50], 1_000),
    shown('jobs', [null, null, null, 123_456, null, 1], 30),
    shown('jobs', [null, null, null, null, 120_000, 50], 1_000),
    shown('attempts', [500], 5),
    shown('position', [123_456], 30),
    shown('position', [190_000], 30),
    shown('dead', [null, null, null, null, 50, null, null], 200),
    shown('dead', [null, null, 180_001, null, 1, null, null], 10),
    shown('dead_ids', [null, null, null, 100, null, null], 500),
    shown('purge_dead', [[180_001, 180_002]], 10),
    shown('queue_purge', [queueId, 'blocked', 0, new Date().toISOString(), 10, 'x'], 10_000),
  ]
}

interface Counted {
  readonly scanned: readonly string[]
  readonly rows: number
}

/** Runs it, undoes it, and tells which large tables were scanned and how many of their rows were read. */
async function counted(client: pg.Client, text: string, values: readonly unknown[]): Promise<Counted> {
  await client.query('begin')
  try {
    const before = await readSoFar(client)
    await client.query('savepoint it')
    await client.query(text, [...values]).catch((error: { code?: string }) => {
      if (!error.code?.startsWith('MR')) throw error // the first time, when there is no lease yet
      return client.query('rollback to savepoint it')
    })
    const after = await readSoFar(client)
    const scanned: string[] = []
    let rows = 0
    for (const [table, now] of after) {
      const then = before.get(table)
      if (now.scans > (then?.scans ?? 0)) scanned.push(table)
      rows += now.rows - (then?.rows ?? 0)
    }
    return { scanned, rows }
  } finally {
    await client.query('rollback')
  }
}

/** Of this session, since it last told the collector, which it never does amid a transaction. */
async function readSoFar(client: pg.Client): Promise<Map<string, { scans: number; rows: number }>> {
  const { rows } = await client.query<{ name: string; scans: number; rows: number }>(
    `select relname as name, seq_scan::int as scans, (seq_tup_read + coalesce(idx_tup_fetch, 0))::int as rows
    from pg_stat_xact_user_tables where schemaname = $1 and relname = any ($2)`,
    [it.db.schema, LARGE],
  )
  return new Map(rows.map(({ name, ...counts }) => [name, counts]))
}

async function proven(client: pg.Client): Promise<void> {
  const wrong: string[] = []
  for (const { name, text, values, rowsMax } of statements()) {
    const { scanned, rows } = await counted(client, text, values)
    if (scanned.length > 0) wrong.push(`${name}: scans ${scanned.join(', ')}`)
    if (rows > rowsMax) wrong.push(`${name}: reads ${rows} rows, at most ${rowsMax} were expected`)
  }
  assert.deepEqual(wrong, [])
}

test('[TM-143] [PC-063] plans that were made while everything was empty scan no large table', () => proven(early))

test('[TM-143] [PC-063] plans that are made without statistics scan no large table', async () =>
  proven(await connect()))

test('[TM-143] [PC-063] plans that are made with statistics scan no large table', async () => {
  for (const table of ['job', 'attempt', 'ready', 'scheduled', 'blocked', 'dead', 'key', 'hold', 'running', 'lease'])
    await it.query(`analyze millrace.${table}`)
  await proven(await connect())
})

test('[PC-062] [PC-063] what may be there once is unique by an index', async () => {
  const rows = await it.query<{ name: string; columns: string }>(
    `select c.relname as name, string_agg(a.attname, ',' order by k.ord) as columns
    from pg_index i join pg_class c on c.oid = i.indrelid join pg_namespace n on n.oid = c.relnamespace
    cross join lateral unnest(i.indkey::int[]) with ordinality as k(no, ord)
    join pg_attribute a on a.attrelid = c.oid and a.attnum = k.no
    where n.nspname = $1 and i.indisunique group by i.indexrelid, c.relname order by 1, 2`,
    [it.db.schema],
  )
  const unique = new Set(rows.map(({ name, columns }) => `${name}(${columns})`))
  for (const wanted of [
    'job(id)',
    'job_0(id)',
    'attempt(job_id,run)',
    'attempt_0(job_id,run)',
    'ready(first_id)',
    'scheduled(first_id)',
    'blocked(job_id)',
    'dead(job_id)',
    'key(queue_id,key)',
    'hold(queue_id,group_key,seat)',
    'running(job_id)',
    'queue(name)',
    'task(name)',
    'node(uid)',
    'occurrence(schedule_id,scheduled_at)',
  ])
    assert.ok(unique.has(wanted), `${wanted} is not among ${[...unique].join(' ')}`)
})
