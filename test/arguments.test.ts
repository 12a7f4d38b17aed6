// Whatever names something is checked: every verb is called with what is no name, no id and no object, in the place of each
// argument that says what is meant. It answers VALIDATION, and nothing has changed.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Client } from '../engine/index.ts'
import { codeFrom, withEngines } from './support/engine.ts'

const NOTHING: readonly unknown[] = [undefined, null, Number.NaN, '', {}, [], true, Symbol('x')]
const NO_NAME = [...NOTHING, 7, '\0', 'x'.repeat(256)]
const NO_ID = [...NOTHING, '1', 0, -1, 1.5, Number.POSITIVE_INFINITY]
/** Where a field may be left out. */
const given = (values: readonly unknown[]) => values.filter((value) => value !== undefined)
/** Where any object is one, and what it says is another matter. */
const noObject = (values: readonly unknown[]) =>
  values.filter((value) => typeof value !== 'object' || value === null || Array.isArray(value))

/** The verb, what is wrong, and the call. A verb that is missing here is found by the last test. */
type Row = readonly [name: string, wrong: readonly unknown[], call: (client: Client, value: never) => Promise<unknown>]

const ROWS: readonly Row[] = [
  ['enqueue', NO_NAME, (it, task) => it.enqueue(task, 1 as never)],
  ['enqueue', given(NO_NAME), (it, queue) => it.enqueue('t', 1, { queue })],
  ['enqueue', given(NO_NAME), (it, group) => it.enqueue('t', 1, { group })],
  ['enqueue', given(NO_NAME), (it, idempotencyKey) => it.enqueue('t', 1, { idempotencyKey })],
  // an empty list is a batch without a job
  ['enqueueMany', NO_NAME.filter((value) => !Array.isArray(value)), (it, task) => it.enqueueMany(task, [1] as never)],
  ['enqueueMany', ['', '\0'], (it, task) => it.enqueueMany(task, [] as never)],
  ['enqueueMany', NO_NAME, (it, task) => it.enqueueMany([{ task }])],
  ['enqueueMany', NOTHING, (it, item) => it.enqueueMany([item])],
  ['console.queue.stats', NO_NAME, (it, queue) => it.console.queue.stats(queue)],
  ['console.queue.pause', NO_NAME, (it, queue) => it.console.queue.pause(queue)],
  ['console.queue.resume', NO_NAME, (it, queue) => it.console.queue.resume(queue)],
  ['console.queue.purge', NO_NAME, (it, queue) => it.console.queue.purge(queue)],
  ['console.results.list', given(noObject(NOTHING)), (it, filter) => it.console.results.list(filter)],
  ['console.results.list', given(NO_NAME), (it, queue) => it.console.results.list({ queue })],
  ['console.results.page', given(NO_NAME), (it, task) => it.console.results.page({ task })],
  ['console.results.page', given(NO_NAME), (it, group) => it.console.results.page({ group })],
  ['console.results.page', given(NOTHING), (it, cursor) => it.console.results.page({ cursor })],
  ['console.results.cleanup', NOTHING, (it, filter) => it.console.results.cleanup(filter)],
  ['console.results.cleanup', NO_NAME, (it, queue) => it.console.results.cleanup({ queue })],
  ['console.results.cleanup', NO_NAME, (it, queue) => it.console.results.cleanup({ queue, completedBefore: 1 })],
  ['console.results.cleanup', NOTHING, (it, completedBefore) => it.console.results.cleanup({ completedBefore })],
  ['console.loops', given(NOTHING), (it, overMs) => it.console.loops(overMs)],
  ['console.jobs', given(noObject(NOTHING)), (it, filter) => it.console.jobs(filter)],
  ['console.jobs', given(NO_ID), (it, id) => it.console.jobs({ id })],
  ['console.jobs', given(NO_ID), (it, before) => it.console.jobs({ before })],
  ['console.jobs', given(NO_NAME), (it, task) => it.console.jobs({ task })],
  ['console.jobs', given(NO_NAME), (it, queue) => it.console.jobs({ queue })],
  ['console.jobs', given(NO_NAME), (it, state) => it.console.jobs({ state })],
  ['console.job', NO_ID, (it, id) => it.console.job(id)],
  ['console.explain', NO_ID, (it, id) => it.console.explain(id)],
  ['console.dead.list', given(noObject(NOTHING)), (it, filter) => it.console.dead.list(filter)],
  ['console.dead.list', given(NO_ID), (it, id) => it.console.dead.list({ id })],
  ['console.dead.list', given(NO_NAME), (it, queue) => it.console.dead.list({ queue })],
  ['console.dead.requeue', noObject(NOTHING), (it, filter) => it.console.dead.requeue(filter)],
  ['console.dead.requeue', NO_ID, (it, id) => it.console.dead.requeue({ id })],
  ['console.dead.requeue', NO_ID, (it, id) => it.console.dead.requeue({ ids: [id] })],
  ['console.dead.requeue', NOTHING, (it, ids) => it.console.dead.requeue({ ids })],
  ['console.dead.requeue', NO_NAME, (it, task) => it.console.dead.requeue({ task })],
  ['console.dead.purge', noObject(NOTHING), (it, filter) => it.console.dead.purge(filter)],
  ['console.dead.purge', NO_ID, (it, id) => it.console.dead.purge({ id })],
  ['console.dead.purge', NO_NAME, (it, queue) => it.console.dead.purge({ queue })],
  ['console.cancel', NO_ID, (it, id) => it.console.cancel(id)],
  ['console.grants', NO_NAME, (it, role) => it.console.grants(role, 'reader')],
  ['console.grants', NO_NAME, (it, kind) => it.console.grants('somebody', kind)],
  ['schedules.register', NOTHING.filter((value) => !Array.isArray(value)), (it, list) => it.schedules.register(list)],
  ['schedules.register', NOTHING, (it, definition) => it.schedules.register([definition])],
  ['schedules.register', given(NO_NAME), (it, queue) => it.schedules.register([], { queue })],
  ['schedules.register', NO_NAME, (it, queue) => it.schedules.register([], { queue: [queue] })],
  ['schedules.create', NOTHING, (it, definition) => it.schedules.create(definition)],
  ['schedules.create', NO_NAME, (it, task) => it.schedules.create({ task, cron: '* * * * *' })],
  ['schedules.create', given(NO_NAME), (it, id) => it.schedules.create({ id, task: 't', cron: '* * * * *' })],
  ['schedules.create', given(NO_NAME), (it, queue) => it.schedules.create({ queue, task: 't', cron: '* * * * *' })],
  ['schedules.update', NO_NAME, (it, id) => it.schedules.update(id, { cron: '* * * * *' })],
  ['schedules.update', noObject(NOTHING), (it, change) => it.schedules.update('s', change)],
  ['schedules.update', given(NO_NAME), (it, task) => it.schedules.update('s', { task })],
  ['schedules.delete', NO_NAME, (it, id) => it.schedules.delete(id)],
  ['schedules.pause', NO_NAME, (it, id) => it.schedules.pause(id)],
  ['schedules.resume', NO_NAME, (it, id) => it.schedules.resume(id)],
  ['schedules.trigger', NO_NAME, (it, id) => it.schedules.trigger(id)],
  ['schedules.trigger', given(noObject(NOTHING)), (it, overrides) => it.schedules.trigger('s', overrides)],
  ['schedules.get', NO_NAME, (it, id) => it.schedules.get(id)],
  ['schedules.list', given(noObject(NOTHING)), (it, filter) => it.schedules.list(filter)],
  ['schedules.list', given(NO_NAME), (it, queue) => it.schedules.list({ queue })],
  ['schedules.upcoming', NO_NAME, (it, id) => it.schedules.upcoming(id)],
  ['schedules.upcoming', given(NOTHING), (it, count) => it.schedules.upcoming('s', count)],
  ['schedules.history', NO_NAME, (it, id) => it.schedules.history(id)],
  ['schedules.history', given(noObject(NOTHING)), (it, filter) => it.schedules.history('s', filter)],
]

/** Verbs that nothing is named to. */
const WITHOUT = [
  'console.queues',
  'console.queue.names',
  'console.nodes',
  'console.unserved',
  'console.doctor',
  'console.migrations',
  'migrate',
  'close',
]

test('whatever names something is checked by every verb, and nothing changes when it is wrong', () =>
  withEngines(async ({ client, engine, inState, query }) => {
    const worker = await engine()
    await inState((await client.enqueue('fail', 1, { maxAttempts: 1 })).id, 'failed')
    await inState((await client.enqueue('echo', 1)).id, 'completed')
    await worker.stop()
    await client.enqueue('echo', 2)
    await client.schedules.create({ id: 's', task: 'echo', cron: '0 0 1 1 *' })
    const seen = async () =>
      JSON.stringify([
        await query('select id, task, queue, state from millrace.jobs order by id'),
        await query('select name, paused from millrace.queue order by id'),
        await query('select name from millrace.task order by id'),
        await query('select * from millrace.schedules order by id'),
        await query('select count(*) from millrace.attempt'),
      ])
    const before = await seen()
    const accepted: string[] = []
    for (const [name, wrong, call] of ROWS) {
      for (const value of wrong) {
        const said = `${name}: ${String(call).replace(/^.*?=> /, '')} with ${typeof value === 'symbol' ? 'a symbol' : JSON.stringify(value)}`
        const code = await codeFrom(() => call(client as Client, value as never)).catch((error) => String(error))
        if (code !== 'VALIDATION') accepted.push(`${said}: ${code}`)
      }
    }
    assert.deepEqual(accepted, [])
    assert.equal(await seen(), before)
  }))

test('the table of verbs has them all', () =>
  withEngines(async ({ client }) => {
    const verbs = (of: object, path: string): string[] =>
      Object.entries(of).flatMap(([name, value]) =>
        typeof value === 'function'
          ? [`${path}${name}`]
          : typeof value === 'object' && value !== null
            ? verbs(value, `${path}${name}.`)
            : [],
      )
    const { schedules, ...console } = client.console
    const all = new Set([
      ...['enqueue', 'enqueueMany', 'migrate', 'close'],
      ...verbs(console, 'console.'),
      ...verbs(schedules, 'schedules.'),
    ])
    assert.deepEqual([...new Set([...ROWS.map(([name]) => name), ...WITHOUT])].sort(), [...all].sort())
  }))
