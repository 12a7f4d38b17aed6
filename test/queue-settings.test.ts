// How an engine shares itself out among queues: seats of a queue, which queues it serves, and changing both while
// it runs.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import type { EngineError } from '../engine/base/errors.ts'
import { withEngines } from './support/engine.ts'

const CROWD = new URL('./tasks/crowd.js', import.meta.url)

let folder: string

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'millrace-queues-'))
})

after(() => rmSync(folder, { recursive: true, force: true }))

test('an engine never holds more jobs of a queue than it has seats for, and other queues are not held up', () =>
  withEngines(async ({ engine, client, query, until }) => {
    const gate = join(folder, 'seats')
    await client.enqueueMany(
      'stay',
      Array.from({ length: 8 }, () => gate),
      { queue: 'reports' },
    )
    await client.enqueueMany(
      'stay',
      Array.from({ length: 3 }, () => gate),
      { queue: 'mail' },
    )
    const made = await engine({ tasks: CROWD, queueConcurrency: { reports: 2 }, pollMs: 20, pollMaxMs: 50 })
    await until('five are held', async () => made.stats().held === 5)
    const claims = made.stats().claims
    await until('it has looked again several times', async () => made.stats().claims >= claims + 5)
    const held = await query<{ queue: string; n: number }>(
      `select queue, count(*)::int as n from millrace.jobs where state in ('assigned', 'running') group by 1 order by 1`,
    )
    assert.deepEqual(held, [
      { queue: 'mail', n: 3 },
      { queue: 'reports', n: 2 },
    ])
    made.configure({ queueConcurrency: { reports: 4 } })
    await until('the new seats are taken', async () => made.stats().held === 7)
    writeFileSync(gate, '')
    await made.drain()
    assert.equal(made.stats().completed, 11)
    const [most] = await query<{ n: number }>(
      `select max(n)::int as n from (
        select (select count(*) from millrace.attempt b join millrace.job k on k.id = b.job_id
          where k.queue_id = j.queue_id and b.started_at <= a.started_at and b.finished_at > a.started_at) as n
        from millrace.attempt a join millrace.job j on j.id = a.job_id join millrace.queue q on q.id = j.queue_id where q.name = 'reports') x`,
    )
    assert.ok(most!.n <= 4, `${most!.n} of reports ran at once`)
  }))

test('the queues of an engine can be changed while it runs', () =>
  withEngines(async ({ engine, client, inState }) => {
    const made = await engine({ queues: ['a'] })
    const { id } = await client.enqueue('echo', 1, { queue: 'b' })
    await client.enqueue('echo', 2, { queue: 'a' })
    await made.drain()
    assert.equal((await client.console.job(id))!.state, 'queued')
    made.configure({ queues: ['b'] })
    await inState(id, 'completed')
  }))

test('a change that is wrong changes nothing, and names the setting, its value and the rule', () =>
  withEngines(async ({ engine }) => {
    const made = await engine({ pollMs: 20, pollMaxMs: 50 })
    const refused = (changes: object, setting: string) =>
      assert.throws(
        () => made.configure(changes),
        (error: EngineError) => {
          assert.equal(error.code, 'CONFIG_INVALID')
          assert.equal(error.details.setting, setting)
          assert.match(error.message, new RegExp(setting))
          return true
        },
      )
    refused({ claimJobsMax: 100, pollMs: -1 }, 'pollMs')
    refused({ queueConcurrency: { reports: 0 } }, 'queueConcurrency')
    refused({ queueConcurrency: {} }, 'queueConcurrency')
    refused({ heldMax: 3_000 }, 'heldMax')
    made.configure({ pollMs: 30, pollMaxMs: 60 })
    made.configure({ queueConcurrency: null })
  }))
