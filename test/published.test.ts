// Engines publish the options of their tasks, and every way of enqueueing fills in from there what the call does not say.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Published } from '../engine/enqueuer/published.ts'
import { defineTask, type Log } from '../engine/index.ts'
import { withEngines } from './support/engine.ts'
import { ManualClock } from './support/manual-clock.ts'
import { openStore } from './support/store.ts'

const TASKS = new URL('tasks/published.js', import.meta.url)

type Facts = Record<string, unknown>

const job =
  'select queue, max_attempts, group_key, (select j.group_limit from millrace.job j where j.id = v.id) as group_limit, (select j.retry_skips from millrace.job j where j.id = v.id) as skips, state, attempt from millrace.jobs v where id = $1'

const SAID = { queue: 'special', max_attempts: 1, group_key: 'onces', group_limit: 2, skips: true }

test('a client without the code, SQL and schedules fill in what the task says', () =>
  withEngines(async ({ client, engine, query, until, another, connection, schema, base }) => {
    await (await engine({ tasks: TASKS })).stop() // what it has published stays
    const of = async (id: number) => {
      const [{ state: _s, attempt: _a, ...row }] = (await query(job, [id])) as [Facts]
      return row
    }
    assert.deepEqual(await of((await client.enqueue('once', 1)).id), SAID)
    assert.deepEqual(await of((await client.enqueueMany('once', [1, 2])).ids[0]!.first), SAID)
    assert.deepEqual(await of((await client.enqueueMany([{ task: 'once' }])).ids[0]!.first), SAID)
    const own = await connection()
    await own.query('begin')
    const { id } = await another().enqueue('once', 1, { client: own })
    await own.query('commit')
    assert.deepEqual(await of(id), SAID)
    const sql = async (rest = '') => Number((await query(`select millrace.enqueue('once', '1'${rest}) as id`))[0]!.id)
    assert.deepEqual(await of(await sql()), SAID)
    // what is said counts
    assert.deepEqual(
      await of(
        (
          await client.enqueue('once', 1, {
            queue: 'q',
            maxAttempts: 5,
            group: 'g',
            groupLimit: 3,
            onRetry: 'block',
          })
        ).id,
      ),
      { queue: 'q', max_attempts: 5, group_key: 'g', group_limit: 3, skips: null },
    )
    assert.deepEqual(
      await of(await sql(", queue => 'q', max_attempts => 5, group_key => 'g', group_limit => 3, on_retry => 'block'")),
      { queue: 'q', max_attempts: 5, group_key: 'g', group_limit: 3, skips: null },
    )
    // definitions that this process has go before published ones
    const knows = another({ tasks: [defineTask({ name: 'once', maxAttempts: 9, run: () => 1 })] })
    assert.deepEqual(await of((await knows.enqueue('once', 1)).id), {
      queue: 'default',
      max_attempts: 9,
      group_key: null,
      group_limit: null,
      skips: null,
    })

    await client.schedules.create({ id: 'api', task: 'once', cron: '0 0 1 1 *' })
    await query("select millrace.put_schedule('sql', 'once', '0 0 1 1 *')")
    for (const id of ['api', 'sql']) {
      const row = await client.schedules.get(id)
      assert.equal(row!.queue, 'special', id)
      assert.equal(row!.options.group, 'onces', id)
      assert.equal(row!.options.groupLimit, 2, id)
      assert.equal(row!.options.onRetry, 'skip', id)
      assert.deepEqual(await of((await client.schedules.trigger(id)).id), SAID)
    }
    const soon = await client.schedules.create({ task: 'twice', cron: '* * * * * *' })
    const runner = await engine({ tasks: TASKS, queues: ['default'] })
    const made = await until('an occurrence has a job', async () => (await client.schedules.get(soon.id))!.lastJobId)
    await client.schedules.delete(soon.id)
    assert.equal((await query(job, [made]))[0]!.max_attempts, 2)
    await runner.stop()
    assert.equal(base.schema, schema)
  }))

test('a task with one attempt runs once, whoever enqueues it, published or not', () =>
  withEngines(async ({ client, engine, query, inState }) => {
    const before = (await client.enqueue('twice', 1)).id
    const [{ id: sql }] = (await query("select millrace.enqueue('twice', '1') as id")) as [{ id: string }]
    const said = (await client.enqueue('twice', 1, { maxAttempts: 1 })).id
    const [unsaid] = await query('select max_attempts from millrace.job where id = $1', [before])
    assert.equal(unsaid!.max_attempts, null, 'nobody knows yet')
    await engine({ tasks: TASKS })
    for (const [id, attempts] of [
      [before, 2],
      [Number(sql), 2],
      [said, 1],
    ] as const) {
      const dead = await inState(id, 'failed')
      assert.equal(dead.attempt, attempts)
      assert.equal(dead.maxAttempts, attempts === 2 ? 2 : 1)
    }
    // a dead letter that comes back has what the task says, too
    await client.console.dead.requeue({ id: before })
    const again = await inState(before, 'failed')
    assert.equal(again.attempt, 2)
  }))

test('the definition that appeared last is published; versions side by side do not take turns', async () => {
  const bundle = await openStore()
  try {
    const { store, query } = bundle
    const options = (queue: string) => ({
      queue,
      maxAttempts: 3,
      timeoutMs: null,
      graceMs: 0,
      heartbeatMs: null,
      retry: { kind: 'none' as const },
      group: null,
      groupLimit: null,
      onRetry: 'block' as const,
      concurrency: 1,
    })
    const publish = async (queue: string) => {
      const node = await bundle.join()
      await store.publishTasks(node, [{ name: 'x', options: options(queue) }])
      return node
    }
    const published = async () => (await store.publishedTasks(['x'])).get('x')?.queue
    assert.equal(await published(), undefined)
    const [one, two] = [await publish('old'), await publish('old')]
    const fresh = await publish('new')
    assert.equal(await published(), 'new')
    await store.leave(one)
    const again = await publish('old') // a node of the older version starts again
    assert.equal(await published(), 'new', 'the older definition is not news')
    await store.publishTasks(again, [{ name: 'x', options: options('old') }])
    assert.equal(await published(), 'new', 'said twice')
    const second = await publish('new')
    await store.leave(fresh)
    assert.equal(await published(), 'new')
    await store.leave(second)
    assert.equal(await published(), 'old', 'nobody has the newer one any more')
    assert.equal((await store.rescue(two, 3, true))?.gone, true)
    await store.leave(again)
    assert.equal(await published(), 'old', 'the last one stays')
    assert.deepEqual(await query('select from millrace.node_task'), [])
    const back = await publish('back') // the deployment is rolled back, or forward
    assert.equal(await published(), 'back')
    await store.leave(back)
    await assert.rejects(store.publishTasks(back, [{ name: 'x', options: options('gone') }]), { code: 'NODE_FENCED' })
    assert.equal(await published(), 'back')
  } finally {
    await bundle.close()
  }
})

test('jobs of a task that no running node has say so: explain, jobs, doctor, unserved', () =>
  withEngines(async ({ client, engine, until, query }) => {
    const lost = (await client.enqueue('onec', 1)).id
    const late = (await client.enqueue('onec', 1, { delayMs: 3_600_000 })).id
    const why = async (id: number) => (await client.console.explain(id)).events.at(-1)!.why
    assert.match(await why(lost), /^no running node has the task "onec"; attempt 1/)
    const node = await engine({ tasks: TASKS })
    assert.match(await why(lost), /^no running node has the task "onec"; did you mean once\?; attempt 1/)
    assert.match(await why(late), /^becomes ready then, but no running node has the task "onec"/)
    assert.equal((await client.console.job(lost))!.served, false)
    assert.deepEqual(await client.console.unserved(), [
      { task: 'onec', waiting: 2, published: false, didYouMean: 'once' },
    ])
    const [row] = (await client.console.doctor()).filter(({ check }) => check === 'task onec')
    assert.deepEqual([row!.verdict, row!.value], ['warn', '2 jobs wait'])
    assert.match(row!.advice, /no running node has the task; did you mean once\?/)

    const blocked = (await client.enqueue('once', 1, { runAt: Date.now() + 3_600_000 })).id
    assert.equal((await client.console.job(blocked))!.served, true)
    assert.doesNotMatch(await why(blocked), /no running node/)
    await node.stop()
    assert.match(await why(blocked), /but no running node has the task "once"/)
    assert.deepEqual(
      (await client.console.unserved()).map(({ task, published }) => [task, published]),
      [
        ['onec', false],
        ['once', true],
      ],
    )
    // a node that was cut off and comes back as another one has its tasks again
    const again = await engine({ tasks: TASKS, nodeLimitMs: 2_000, nodeHeartbeatMs: 200 })
    await until('the node is there', async () => (await client.console.job(blocked))!.served)
    const [before] = await client.console.nodes()
    await client.console.doctor()
    await forget(before!.id)
    await until('it is back', async () => {
      const [now] = await client.console.nodes()
      return now !== undefined && now.id !== before!.id && (await client.console.job(blocked))!.served
    })
    await again.stop()

    async function forget(id: number): Promise<void> {
      await query('select * from millrace.rescue($1, 3, true)', [id])
    }
  }))

test('progress of a running job can be read: job, jobs, explain, the view', () =>
  withEngines(async ({ client, engine, query, until }) => {
    const node = await engine()
    const { id } = await client.enqueue('wait', 'p')
    const said = { payload: 'p', done: 3, of: 7 }
    const job = await until('the job shows', async () => {
      const row = await client.console.job(id)
      return row!.state === 'running' && row
    })
    assert.deepEqual(job.progress, said)
    assert.ok(job.startedAt! >= job.createdAt)
    assert.equal(job.finishedAt, null)
    assert.deepEqual((await client.console.jobs({ state: 'running' }))[0]!.progress, said)
    const life = await client.console.explain(id)
    assert.deepEqual(life.job.progress, said)
    assert.match(life.events.at(-1)!.why, /progress \{"payload":"p","done":3,"of":7\}/)
    assert.deepEqual((await query('select progress from millrace.jobs where id = $1', [id]))[0]!.progress, said)
    await client.console.cancel(id)
    const over = await until('it has ended', async () => {
      const row = await client.console.job(id)
      return row!.state === 'cancelled' && row
    })
    assert.equal(over.progress, null)
    await node.stop()
  }))

test('doctor names a node with an older definition', () =>
  withEngines(async ({ client, engine, query }) => {
    await engine({ tasks: TASKS })
    const [{ id: older }] = (await query('select id from millrace.node')) as [{ id: number }]
    const rows = async () => (await client.console.doctor()).filter(({ check }) => check.startsWith('definitions'))
    assert.deepEqual(await rows(), [])
    const newer = defineTask({ name: 'once', inline: true, run: () => 1 })
    await engine({ tasks: [newer] })
    const found = await rows()
    assert.deepEqual(
      found.map(({ check, verdict }) => [check, verdict]),
      [[`definitions of node ${older}`, 'warn']],
    )
    assert.match(found[0]!.value, /: once$/)
    assert.equal((await client.enqueue('once', 1)).duplicate, false)
    const [job] = await query('select queue, max_attempts from millrace.jobs order by id desc limit 1')
    assert.deepEqual({ ...job }, { queue: 'default', max_attempts: 3 })
  }))

test('published options are read once per name, refreshed while they are used, and forgotten after a pause', async () => {
  const clock = new ManualClock()
  const read: string[][] = []
  const unknown: string[] = []
  const rows = new Map([['a', { queue: 'one' }]])
  let fails = false
  const published = new Published({
    clock,
    onUnknown: (name) => void unknown.push(name),
    read: async (names) => {
      read.push([...names])
      if (fails) throw new Error('no answer')
      return new Map(rows)
    },
  })
  assert.equal(published.isKnown('a'), false)
  await Promise.all([published.learn(['a']), published.learn(['b']), published.learn(['a', 'b'])])
  assert.deepEqual(read, [['a', 'b']], 'those that come together share a query')
  assert.deepEqual(unknown, ['b'])
  const first = published.of('a')
  assert.deepEqual(first, { queue: 'one' })
  assert.equal(published.of('b'), undefined)
  assert.equal(published.isKnown('b'), true, 'it is known that nobody has published it')

  clock.advance(5_001)
  assert.equal(published.of('a'), first)
  published.of('a')
  await settled()
  assert.deepEqual(read.splice(0), [['a', 'b'], ['a']], 'only what is asked for, once')
  assert.equal(published.of('a'), first, 'the same object while it says the same')

  rows.set('a', { queue: 'two' })
  clock.advance(5_001)
  assert.equal(published.of('a'), first, 'nobody waits for a refresh')
  await settled()
  assert.deepEqual(published.of('a'), { queue: 'two' })

  fails = true
  clock.advance(5_001)
  published.of('a')
  await settled()
  published.of('a')
  await settled()
  assert.equal(read.length, 2, 'a failure is not repeated at once')
  assert.deepEqual(published.of('a'), { queue: 'two' })
  clock.advance(60_000)
  assert.equal(published.isKnown('a'), false)
  await assert.rejects(published.learn(['a']), /no answer/)
  fails = false
  await published.learn(['a', 'b'])
  assert.deepEqual(unknown, ['b'], 'once')
})

test('whoever enqueues a task that nobody has is warned, once per name', () =>
  withEngines(async ({ engine, another }) => {
    const lines: Facts[] = []
    const method = (facts: Facts, event: string) => void (event === 'task.unknown' && lines.push(facts))
    const log: Log = { debug: method, info: method, warn: method, error: method, child: () => log }
    const node = await engine({ tasks: TASKS, log })
    await node.enqueue('onec', 1)
    await node.enqueue('onec', 2)
    await node.enqueue('once', 3)
    await node.enqueueMany([{ task: 'onec' }, { task: 'other' }])
    const client = another({ log })
    await client.enqueue('once', 1)
    assert.deepEqual(
      lines.map(({ task }) => task),
      ['onec', 'other'],
    )
    assert.match(String(lines[0]!.why), /did you mean once\?/)
  }))

async function settled(): Promise<void> {
  for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve))
}
