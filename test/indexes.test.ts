// What the hot statements read, counted by PostgreSQL itself while they run with a million jobs ready: no sequential scan
// of a table that grows, and no more rows and buffers than the call is about. In three lives of a plan: made while
// everything was empty, made without statistics, made with them. Bounds are two to four times what was counted.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import pg from 'pg'
import { readStatements } from '../engine/store/statements.ts'
import { IDS, type LargeStore, openLargeStore } from './support/large-store.ts'

/** Tables that grow with the jobs. `lease` and `node` grow with the nodes alone, `schedule` with what people register. */
const LARGE = ['job_0', 'attempt_0', 'ready', 'scheduled', 'blocked', 'dead', 'key', 'hold', 'running', 'occurrence']

let it: LargeStore
let early: pg.Client
const clients: pg.Client[] = []

before(async () => {
  it = await openLargeStore(async (empty) => {
    it = empty
    early = await connect()
    for (const { text, values } of statements()) await counted(early, text, values)
  })
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

interface Hot {
  readonly name: string
  readonly text: string
  readonly values: readonly unknown[]
  /** Rows of large tables that it may read. */
  readonly rowsMax: number
  /** Pages of 8 KiB that it may look at, indexes included. */
  readonly buffersMax: number
}

function statements(): Hot[] {
  const { queueId, groupQueueId, taskId, nodeId, silentId } = it
  const call = (name: string, text: string, values: unknown[], rowsMax: number, buffersMax: number): Hot => ({
    name,
    text: text.replaceAll('millrace.', `"${it.db.schema}".`),
    values,
    rowsMax,
    buffersMax,
  })
  const shown = (file: string, name: string, values: unknown[], rowsMax: number, buffersMax: number): Hot =>
    call(name, readStatements(`${file}.sql`, it.db.schema).get(name)!, values, rowsMax, buffersMax)
  const fresh = IDS.retrying[1] + 100_000
  const chunk = (extra: object) =>
    JSON.stringify([{ f: fresh + 1, c: 1, q: queueId, t: taskId, p: 0, m: 3, b: 1, d: [1], ...extra }])
  const [running] = IDS.running
  const lastRetry = IDS.retrying[1]
  const [dead] = IDS.dead
  const minute = Math.floor(Date.now() / 60_000) * 60_000
  return [
    call('claim 1', 'select * from millrace.claim($1, $2, null, 1, 1000000, null)', [nodeId, [queueId]], 10, 60),
    call(
      'claim 100',
      'select * from millrace.claim($1, $2, null, 100, 1000000, null)',
      [nodeId, [queueId]],
      1_000,
      3_000,
    ),
    call(
      'claim 100 of a task',
      'select * from millrace.claim_of_tasks($1, $2, $3, 100, 1000000, null)',
      [nodeId, [queueId], [taskId]],
      500,
      5_000,
    ),
    call(
      // of the 166,666 jobs of this queue and rank the next that stand behind the 150,000th
      'claim 100 behind a position',
      'select * from millrace.claim_after($1, $2, $3, 100, 1000000, null, array[$4::int, $4], array[-9007199254740991, 0], array[0, 900000], array[-1, 0])',
      [nodeId, [queueId], [taskId], queueId],
      500,
      5_000,
    ),
    call(
      // half a million of the queue are for others: no row of theirs is looked at, their entries in the index are
      'claim where all is for others',
      'select * from millrace.claim_of_tasks($1, $2, array[1000000, 1000001], 100, 1000000, null)',
      [nodeId, [queueId]],
      0,
      10_000,
    ),
    call(
      'claim 100 of 5,000 groups',
      'select * from millrace.claim($1, $2, null, 100, 1000000, null)',
      [nodeId, [groupQueueId]],
      1_500,
      8_000,
    ),
    call(
      'claim of a group',
      `select * from millrace.claim_of_group($1, $2, null, 100, 1000000, 'w1200007')`,
      [nodeId, [groupQueueId]],
      100,
      100,
    ),
    call('promote 1,000', 'select * from millrace.promote(1000)', [], 4_100, 20_000),
    call(
      'enqueue plain',
      `select millrace.enqueue_plain(${fresh + 1}, 1, $1, $2, 0, 3, 1, '[1]', null)`,
      [queueId, taskId],
      10,
      60,
    ),
    call('enqueue by SQL', `select millrace.enqueue('noop', '1')`, [], 20, 200),
    call(
      'enqueue with a key that is taken',
      'select * from millrace.enqueue_chunks($1, true, true, true)',
      [chunk({ k: `k${lastRetry}` })],
      20,
      100,
    ),
    call(
      'enqueue into a group',
      'select * from millrace.enqueue_chunks($1, false, true, true)',
      [chunk({ k: 'new', g: 'g1' })],
      20,
      150,
    ),
    call(
      'flush of a few',
      `select millrace.flush_few($1, 1000000, array[1]::bigint[], array[1], $2, $3, true)`,
      [
        nodeId,
        JSON.stringify([{ j: running, r: 1, a: 1, o: 'c', i: nodeId, n: 0, s: 1, f: 2 }]),
        JSON.stringify({
          retries: [{ j: running + 1, d: 1, a: 2, r: 2, s: 0 }],
          deads: [{ j: running + 2, c: 'X', e: {}, a: 1, r: 1 }],
          releases: [{ l: 1, f: running + 9, n: 5, a: 1, r: 1, s: 0, k: 0, q: 1 }],
          keyed: [running],
          grouped: [IDS.blocked[0]],
          ephemeral: [running + 3],
          running: [{ l: 1, j: running + 4, r: 1, n: 0, t: 1 }],
        }),
      ],
      700, // the rows in `running` of a lease that stays open are looked at
      2_500,
    ),
    call('flush_begin', 'select * from millrace.flush_begin($1, 1000001, array[2, 3]::bigint[])', [nodeId], 10, 60),
    call(
      'flush_end',
      `select millrace.flush_end($1, 1000001, array[2]::bigint[], array[500], $2)`,
      [nodeId, JSON.stringify({ keyed: [running + 501], grouped: [IDS.blocked[0] + 1] })],
      1_000,
      3_000,
    ),
    call(
      'note that it runs',
      `insert into millrace.running (job_id, lease_id, run, lane, started_at)
      values ($1, 1, 1, 0, now()) on conflict (job_id) do update set seen_at = now()`,
      [running + 7],
      5,
      30,
    ),
    call('beat', `select * from millrace.node_beat($1, 'live')`, [nodeId], 5, 30),
    call('leave', 'select millrace.node_leave($1)', [nodeId], 5, 30),
    call('rescue of 400', 'select * from millrace.rescue($1, 3, true)', [silentId], 2_000, 8_000),
    call(
      'fire 20',
      'select * from millrace.fire($1, $2)',
      [nodeId, JSON.stringify(Array.from({ length: 20 }, (_, n) => ({ n, s: `s${n + 1}`, d: minute, j: 0, v: 1 })))],
      400,
      2_000,
    ),
    call('cancel', `select millrace.cancel($1, 'x')`, [IDS.ready[0] + 77], 20, 150),
    call('cancel of a blocked one', `select millrace.cancel($1, 'x')`, [IDS.blocked[1]], 20, 100),
    call('cancel of one that is held', `select millrace.cancel($1, 'x')`, [running + 4_000], 20, 150),
    call(
      'requeue of 10',
      'select * from millrace.requeue($1)',
      [Array.from({ length: 10 }, (_, at) => dead + at)],
      200,
      600,
    ),
    call('is it unfinished', 'select millrace.is_unfinished(50), millrace.is_unfinished($1)', [IDS.ready[0]], 20, 60),
    call(
      'purge of 400',
      `select * from millrace.purge_waiting($1, 'ready', 0, now(), 400, 'x')`,
      [queueId],
      5_000,
      15_000,
    ),
    call('forget 100', 'select * from millrace.forget_completed(null, now(), 0, 100)', [], 2_000, 3_000),
    shown('console', 'results', [null, null, null, null, null, 10, 0, null, 100_000], 15_000, 3_000),
    shown('console', 'results', [null, null, 'a rare one', null, null, 10, 0, null, 2_000], 150_000, 60_000),
    shown('console', 'jobs', [null, null, null, null, null, 50], 1_000, 3_000),
    shown('console', 'jobs', [null, null, null, IDS.ready[0] + 7, null, 1], 30, 100),
    shown('console', 'jobs', [null, null, null, null, IDS.ready[0] + 7, 50], 1_000, 3_000),
    ...(
      [
        ['queued', null],
        ['scheduled', IDS.scheduled[1]],
        ['retrying', null],
        ['blocked', IDS.blocked[1]],
        ['running', null],
        ['completed', IDS.completed[1]],
        ['failed', null],
      ] as const
    ).map(([state, before]) => shown('console', 'jobs', [null, null, state, null, before, 50], 6_000, 6_000)),
    // these are few: they are looked for among all that is leased, that is dead, that did not complete
    shown('console', 'jobs', [null, null, 'assigned', null, null, 50], 15_000, 80_000),
    shown('console', 'jobs', [null, null, 'expired', null, null, 50], 70_000, 20_000),
    shown('console', 'jobs', [null, null, 'cancelled', null, null, 50], 60_000, 20_000),
    shown('console', 'jobs', ['t1', 'q1', null, null, IDS.ready[1], 50], 5_000, 6_000),
    shown('console', 'attempts', [500], 5, 30),
    shown('console', 'position', [IDS.ready[0] + 7], 30, 150),
    shown('console', 'position', [running + 7], 30, 150),
    shown('console', 'dead', [null, null, null, null, 50, null, null], 300, 1_000),
    shown('console', 'dead', [null, null, dead, null, 1, null, null], 10, 60),
    shown('console', 'dead', ['q3', null, null, null, 50, null, null], 1_000, 2_000),
    shown('console', 'dead', ['q3', 't1', null, IDS.dead[1] - 500, 50, null, null], 5_000, 5_000),
    shown('console', 'dead_ids', ['q3', null, null, 100, null, null], 1_000, 600),
    shown('console', 'dead', ['a queue that nobody named', null, null, null, 50, null, null], 10, 60),
    shown('console', 'dead_ids', [null, null, null, 100, null, null], 500, 600),
    // the span of a hundred seconds has a hundred of the 50,000: at the old end, at the new end, and where there is none
    ...[IDS.dead[0] + 100, IDS.dead[1] - 200].flatMap((id) => {
      const diedMs = Date.now() - (IDS.dead[1] - id) * 1_000
      const span = [new Date(diedMs), new Date(diedMs + 100_000)]
      return [
        shown('console', 'dead', [null, null, null, null, 50, ...span], 1_500, 2_000),
        shown('console', 'dead_ids', [null, null, null, 100, ...span], 1_000, 600),
      ]
    }),
    // whichever half of them: no more is read than is shown
    ...[
      [null, new Date(Date.now() - 25_000_000)],
      [new Date(Date.now() - 25_000_000), null],
      [null, new Date(Date.now() - 1e9)],
    ].flatMap((span) => [
      shown('console', 'dead', [null, null, null, null, 50, ...span], 1_500, 2_000),
      shown('console', 'dead_ids', [null, null, null, 1_000, ...span], 2_000, 100),
    ]),
    shown('console', 'states', [[dead, IDS.ready[0] + 7, 5_000_000]], 100, 600),
    shown('console', 'purge_dead', [[dead, dead + 1]], 10, 60),
    shown('console', 'queue_purge', [queueId, 'blocked', 0, new Date().toISOString(), 10, 'x'], 10_000, 30_000),
    shown('console', 'nodes', [], 0, 60),
    shown('schedules', 'digest', [], 0, 200),
    shown('schedules', 'decided', [minute - 120_000], 4_000, 1_000),
    shown('schedules', 'clean', [minute - 3_600_000, minute - 60_000, 1_000], 2_500, 6_000),
    shown('schedules', 'list', [null, null, null, null, 50], 0, 500),
    shown('schedules', 'history', ['s7', null, 50], 300, 1_800), // fifty jobs are looked up
  ]
}

/** Lists by what a row says, led by the index that statistics prefer. */
function filtered(): Hot[] {
  const shown = (name: string, values: unknown[], rowsMax: number, buffersMax: number): Hot => {
    const text = readStatements('console.sql', it.db.schema).get(name)!
    return { name, text, values, rowsMax, buffersMax }
  }
  return [
    shown('jobs', ['noop', 'q3', 'queued', null, IDS.ready[1], 50], 5_000, 6_000),
    shown('dead', ['default', 'noop', null, IDS.dead[0] + 20_000, 50, null, null], 2_000, 2_000),
    shown('dead', ['groups', null, null, null, 50, null, null], 0, 20),
    shown('dead', [null, null, null, null, 50, new Date(Date.now() - 9e6), new Date(Date.now() - 8e6)], 15_000, 2_000),
  ]
}

interface Counted {
  readonly scanned: readonly string[]
  readonly rows: number
  readonly buffers: number
}

/** Runs it, undoes it, and tells which large tables were scanned, and how many of their rows and how many pages were read. */
async function counted(client: pg.Client, text: string, values: readonly unknown[]): Promise<Counted> {
  await client.query('begin')
  try {
    const before = await readSoFar(client)
    await client.query('savepoint it')
    let buffers = 0
    try {
      // the statements within functions are counted too
      const { rows } = await client.query<{ 'QUERY PLAN': [{ Plan: Record<string, number> }] }>(
        `explain (analyze, buffers, format json) ${text}`,
        [...values],
      )
      const { Plan } = rows[0]!['QUERY PLAN'][0]
      buffers = Plan['Shared Hit Blocks']! + Plan['Shared Read Blocks']!
    } catch (error) {
      if (!(error as { code?: string }).code?.startsWith('MR')) throw error // the first time, when there is no lease yet
      await client.query('rollback to savepoint it')
    }
    const after = await readSoFar(client)
    const scanned: string[] = []
    let rows = 0
    for (const [table, now] of after) {
      const then = before.get(table)
      if (now.scans > (then?.scans ?? 0)) scanned.push(table)
      rows += now.rows - (then?.rows ?? 0)
    }
    return { scanned, rows, buffers }
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

async function proven(client: pg.Client, hot = statements()): Promise<void> {
  const wrong: string[] = []
  for (const { name, text, values, rowsMax, buffersMax } of hot) {
    await counted(client, text, values) // plans are made, and pages are looked at that no later call looks at
    const { scanned, rows, buffers } = await counted(client, text, values)
    if (process.env.SHOW)
      console.log(name.padEnd(34), name === 'jobs' ? values : '', rows, rowsMax, buffers, buffersMax)
    if (scanned.length > 0) wrong.push(`${name}: scans ${scanned.join(', ')}`)
    if (rows > rowsMax) wrong.push(`${name}: reads ${rows} rows, at most ${rowsMax} were expected`)
    if (buffers > buffersMax) wrong.push(`${name}: looks at ${buffers} pages, at most ${buffersMax} were expected`)
  }
  assert.deepEqual(wrong, [])
}

test('[TM-143] [PC-063] plans that were made while everything was empty scan no large table among a million jobs', () =>
  proven(early))

test('[TM-143] [PC-063] plans that are made without statistics scan no large table among a million jobs', async () =>
  proven(await connect()))

test('[TM-143] [PC-063] plans that are made with statistics scan no large table among a million jobs', async () => {
  for (const table of ['job', 'attempt', ...LARGE.filter((name) => !name.endsWith('_0')), 'lease', 'schedule'])
    await it.query(`analyze millrace.${table}`)
  await proven(await connect(), [...statements(), ...filtered()])
})

test('the buckets of queues are counted in one pass over what waits', async () => {
  const sql = readStatements('console.sql', it.db.schema)
  const { rows } = await counted(await connect(), sql.get('queues')!, [])
  const [all] = await it.query<{ rows: number }>(
    `select sum(n)::int as rows from (${['ready', 'scheduled', 'blocked', 'dead', 'hold']
      .map((table) => `select count(*) as n from millrace.${table}`)
      .join(' union all ')}) w`,
  )
  assert.ok(rows <= 1.1 * all!.rows, `${rows} of ${all!.rows} rows were read`)
  // of one queue, whatever is ready in others; what is scheduled and blocked may be looked at whole
  const one = await counted(await connect(), sql.get('queue_stats')!, ['groups'])
  assert.ok(one.rows <= 200_000, `${one.rows} rows were read`)
})

test('lists by state hold what the view says, in order and without a gap', async () => {
  let compared = 0
  const text = readStatements('console.sql', it.db.schema).get('jobs')!
  for (const state of [
    'queued',
    'scheduled',
    'retrying',
    'blocked',
    'assigned',
    'running',
    'completed',
    'failed',
    'expired',
    'cancelled',
  ]) {
    for (const before of [IDS.waiting[0] + 20, IDS.mixed[1] + 1, IDS.mixed[0] + 450, IDS.ready[0] + 300]) {
      const listed = (await it.query<{ id: number }>(text, [null, null, state, null, before, 40])).map(({ id }) => id)
      // fewer than asked for: none is left, so further down there is none either; and the view looks at a thousand or two only
      const until = Math.max(listed.length === 40 ? listed.at(-1)! : 0, before - 1_500)
      const right = await it.query<{ id: number }>(
        'select id from millrace.jobs where state = $1 and id >= $2 and id < $3 order by id desc',
        [state, until, before],
      )
      const seen = listed.filter((id) => id >= until)
      assert.deepEqual(
        seen,
        right.map(({ id }) => id),
        `${state} before ${before}`,
      )
      compared += seen.length
    }
  }
  assert.ok(compared > 500, `${compared}`)
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
