// Schedules from any language: the SQL functions, in the caller's own transaction, with engines that run meanwhile.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { withEngines } from './support/engine.ts'

test('a schedule that SQL makes runs, and is changed, paused, resumed and deleted by SQL', async () => {
  await withEngines(async ({ engine, client, query, until }) => {
    const one = await engine()
    const put = async (more: string) =>
      (await query<{ what: string }>(`select millrace.put_schedule('of 17', 'echo', '* * * * * *'${more}) as what`))[0]!
        .what
    const history = () => client.schedules.history('of 17')
    assert.equal(
      await put(`, payload => '{"customer": 17}', options => '{"priority": 5, "meta": {"a": 1}}'`),
      'created',
    )
    const [first] = await until('it has run', async () => {
      const rows = await history()
      return rows.length > 0 && rows
    })
    const job = await until('its job has ended', async () => {
      const found = await client.console.job(first!.jobId!)
      return found?.state === 'completed' && found
    })
    assert.equal((await history()).find(({ jobId }) => jobId === job.id)!.jobState, 'completed')
    assert.deepEqual(job.payload, { customer: 17 })
    assert.deepEqual([job.priority, job.maxAttempts, job.queue], [5, 3, 'default'])
    assert.equal((job.meta as { a: number }).a, 1)

    assert.equal(await put(`, payload => '{"customer": 18}'`), 'changed')
    assert.equal(await put(`, payload => '{"customer": 18}'`), 'same')
    await until('the new payload is used', async () => {
      const [last] = await history()
      const found = last && (await client.console.job(last.jobId!))
      return (found?.payload as { customer: number } | undefined)?.customer === 18
    })

    const ask = async (call: string) => (await query<{ done: boolean }>(`select millrace.${call} as done`))[0]!.done
    assert.equal(await ask(`pause_schedule('of 17')`), true)
    assert.equal(await ask(`pause_schedule('of 17')`), true, 'twice is once')
    const paused = (await client.schedules.get('of 17'))!
    assert.deepEqual([paused.paused, paused.nextAt], [true, null])
    const { length } = await history()
    assert.equal(await put(`, payload => '{"customer": 19}'`), 'changed')
    assert.equal((await client.schedules.get('of 17'))!.paused, true, 'a change leaves it paused')
    assert.equal((await history()).length, length)
    assert.equal(await ask(`resume_schedule('of 17')`), true)
    await until('it runs again', async () => (await history()).length > length)

    assert.equal(await ask(`delete_schedule('of 17')`), true)
    assert.equal(await ask(`delete_schedule('of 17')`), false)
    assert.equal(await ask(`pause_schedule('of 17')`), false)
    assert.equal(await ask(`resume_schedule('of 17')`), false)
    assert.equal(await client.schedules.get('of 17'), null)
    await one.drain()
  })
})

test('a schedule that SQL makes is the row that the API makes, and a row from code stays one', async () => {
  await withEngines(async ({ client, query }) => {
    await client.schedules.create({
      id: 'a',
      task: 'echo',
      queue: 'mail',
      cron: '0 9 * * 1-5',
      timeZone: 'Europe/Berlin',
      payload: { n: 1 },
      options: {
        maxAttempts: 4,
        timeoutMs: 1_000,
        group: 'g',
        groupLimit: 2,
        onRetry: 'skip',
        ephemeral: true,
        meta: { m: 1 },
      },
      startsAt: new Date('2030-01-01T00:00:00Z'),
      endsAt: new Date('2031-01-01T00:00:00Z'),
      jitterMs: 500,
      overlap: 'skip',
      catchUp: 'all',
      catchUpWindowMs: 60_000,
      paused: true,
    })
    await query(`select millrace.put_schedule('b', 'echo', '0 9 * * 1-5', 'Europe/Berlin', '{"n": 1}', 'mail',
      '{"maxAttempts": 4, "timeoutMs": 1000, "group": "g", "groupLimit": 2, "onRetry": "skip", "ephemeral": true, "meta": {"m": 1}}',
      '2030-01-01 00:00Z', '2031-01-01 00:00Z', 500, 'skip', 'all', 60000, true)`)
    const [a, b] = await client.schedules.list()
    const same = ({ id: _id, createdAt: _c, updatedAt: _u, ...rest }: NonNullable<typeof a>) => rest
    assert.deepEqual(same(b!), same(a!))

    await client.schedules.register([{ id: 'code', task: 'echo', cron: '0 0 1 1 *' }])
    await query(`select millrace.put_schedule('code', 'echo', '0 0 2 1 *')`)
    const row = (await client.schedules.get('code'))!
    assert.deepEqual([row.source, row.cron], ['code', '0 0 2 1 *'])
  })
})

test('a transaction that is rolled back leaves no schedule, and one that commits leaves all of it', async () => {
  await withEngines(async ({ client, schema, connection }) => {
    const person = await connection()
    await person.query('begin')
    await person.query(`select "${schema}".put_schedule('x', 'echo', '@hourly')`)
    await person.query('rollback')
    assert.equal(await client.schedules.get('x'), null)
    await person.query('begin')
    await person.query(
      `select "${schema}".put_schedule('x', 'echo', '@hourly'), "${schema}".put_schedule('y', 'echo', '@daily')`,
    )
    await person.query(`select "${schema}".delete_schedule('x')`)
    await person.query('commit')
    assert.deepEqual(
      (await client.schedules.list()).map(({ id }) => id),
      ['y'],
    )
  })
})

test('what is wrong is refused by its name, before anything is written; what only the engine can tell is shown', async () => {
  await withEngines(async ({ engine, client, query, until }) => {
    const wrong: [string, RegExp][] = [
      [`'', 'echo', '@hourly'`, /^id must/],
      [`null, 'echo', '@hourly'`, /^id must/],
      [`repeat('x', 256), 'echo', '@hourly'`, /^id must/],
      [`'x', '', '@hourly'`, /^task must/],
      [`'x', 'echo', ''`, /^cron must/],
      [`'x', 'echo', '* * * *'`, /^cron must/],
      [`'x', 'echo', '* * * * * * *'`, /^cron must/],
      [`'x', 'echo', '* * * * *; drop'`, /^cron must/],
      [`'x', 'echo', repeat('1,', 200) || '1 * * * *'`, /^cron must/],
      [`'x', 'echo', '@hourly', 'Mars/Base'`, /^time_zone must/],
      [`'x', 'echo', '@hourly', null`, /^time_zone must/],
      [`'x', 'echo', '@hourly', payload => to_json(repeat('x', 70000))`, /^payload must/],
      [`'x', 'echo', '@hourly', queue => ''`, /^queue must/],
      [`'x', 'echo', '@hourly', options => '[]'`, /^options must/],
      [`'x', 'echo', '@hourly', options => '{"priorty": 1}'`, /^options must be of .*priorty/],
      [`'x', 'echo', '@hourly', options => '{"priority": 101}'`, /^options\.priority must/],
      [`'x', 'echo', '@hourly', options => '{"priority": "high"}'`, /^options\.priority must/],
      [`'x', 'echo', '@hourly', options => '{"maxAttempts": 0}'`, /^options\.maxAttempts must/],
      [`'x', 'echo', '@hourly', options => '{"maxAttempts": 1.5}'`, /^options\.maxAttempts must/],
      [`'x', 'echo', '@hourly', options => '{"timeoutMs": 1e12}'`, /^options\.timeoutMs must/],
      [`'x', 'echo', '@hourly', options => '{"group": 7}'`, /^options\.group must/],
      [`'x', 'echo', '@hourly', options => '{"group": "g", "groupLimit": 0}'`, /^options\.groupLimit must/],
      [`'x', 'echo', '@hourly', options => '{"group": "g", "onRetry": "wait"}'`, /^options\.onRetry must/],
      [`'x', 'echo', '@hourly', options => '{"groupLimit": 2}'`, /without options\.group$/],
      [`'x', 'echo', '@hourly', options => '{"ephemeral": "yes"}'`, /^options\.ephemeral must/],
      [`'x', 'echo', '@hourly', options => '{"meta": []}'`, /^options\.meta must/],
      [`'x', 'echo', '@hourly', starts_at => now(), ends_at => now()`, /^ends_at must/],
      [`'x', 'echo', '@hourly', jitter_ms => -1`, /^jitter_ms must/],
      [`'x', 'echo', '@hourly', overlap => 'never'`, /^overlap must/],
      [`'x', 'echo', '@hourly', catch_up => 'some'`, /^catch_up must/],
      [`'x', 'echo', '@hourly', catch_up_ms => 604800001`, /^catch_up_ms must/],
    ]
    for (const [args, message] of wrong)
      await assert.rejects(
        query(`select millrace.put_schedule(${args})`),
        (error: { code?: string; message: string }) => error.code === 'MR400' && message.test(error.message),
        args,
      )
    assert.deepEqual(await client.schedules.list(), [])
    await engine()
    await query(`select millrace.put_schedule('never', 'echo', '0 0 30 1 *')`)
    await query(`update millrace.schedule set cron = '0 0 31 2 *', changed = nextval('millrace.schedule_change')`)
    await query(`select millrace.put_schedule('other', 'echo', '@yearly')`)
    await until('its error is shown', async () => {
      const [row] = await query<{ error: string | null }>(`select error from millrace.schedules where id = 'never'`)
      return row!.error?.includes('never comes')
    })
  })
})
