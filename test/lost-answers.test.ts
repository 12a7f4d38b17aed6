// Enqueues whose answer is lost on its way, for every way in which jobs are written: the call is told what is true, and no
// job is there twice. Statements are lost by a proxy, exactly; see support/wire-proxy.ts.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import pg from 'pg'
import type { Client, ClientOptions } from '../engine/index.ts'
import { type EngineBundle, withEngines } from './support/engine.ts'
import { type WireMatch, type WireProxy, wireProxy } from './support/wire-proxy.ts'

const MINUTE = 60_000

interface Lossy extends EngineBundle {
  readonly proxy: WireProxy
  /** A client whose connections go through the proxy. */
  through(options?: ClientOptions): Client
}

function withLosses(run: (bundle: Lossy) => Promise<void>): Promise<void> {
  return withEngines(async (bundle) => {
    const proxy = await wireProxy(bundle.url)
    const clients: Client[] = []
    try {
      await run({
        ...bundle,
        proxy,
        through(options = {}) {
          const client = bundle.another({ database: proxy.url, ...options })
          clients.push(client)
          return client
        },
      })
    } finally {
      for (const client of clients) await client.close() // its goodbyes go through the proxy
      await proxy.close()
    }
  })
}

/** Every way in which jobs are written, and the statement that makes them durable. */
const WAYS: readonly {
  readonly name: string
  readonly decides: WireMatch
  readonly jobs: number
  enqueue(client: Client): Promise<unknown>
}[] = [
  { name: 'a plain job', decides: 'enqueue_plain', jobs: 1, enqueue: (client) => client.enqueue('mail', 1) },
  {
    name: 'a job with options',
    decides: 'enqueue_chunks',
    jobs: 1,
    enqueue: (client) => client.enqueue('mail', 1, { group: 'g', timeoutMs: 5_000 }),
  },
  {
    name: 'a later job with an expiry',
    decides: 'enqueue_chunks',
    jobs: 1,
    enqueue: (client) =>
      client.enqueue('mail', 1, { delayMs: 10 * MINUTE, expiresAt: new Date(Date.now() + 20 * MINUTE) }),
  },
  {
    name: 'a job with a key',
    decides: 'enqueue_chunks',
    jobs: 1,
    enqueue: (client) => client.enqueue('mail', 1, { idempotencyKey: 'k' }),
  },
  {
    name: 'several calls at once',
    decides: ({ name, values }) => name === 'enqueue_plain' && values[1] === '3',
    jobs: 3,
    enqueue: (client) => Promise.all([1, 2, 3].map((n) => client.enqueue('mail', n))),
  },
  {
    name: 'several calls at once with different options',
    decides: 'enqueue_chunks',
    jobs: 3,
    enqueue: (client) => Promise.all([1, 2, 3].map((n) => client.enqueue('mail', n, { priority: n }))),
  },
  {
    name: 'a batch',
    decides: 'enqueue_plain',
    jobs: 20,
    enqueue: (client) => client.enqueueMany('mail', Array.from({ length: 20 })),
  },
  {
    name: 'a batch of items, one with a key',
    decides: 'enqueue_chunks',
    jobs: 3,
    enqueue: (client) =>
      client.enqueueMany([
        { task: 'mail' },
        { task: 'post', options: { idempotencyKey: 'k' } },
        { task: 'mail', options: { group: 'g' } },
      ]),
  },
  {
    name: 'a batch by COPY',
    decides: 'commit',
    jobs: 500,
    enqueue: (client) => client.enqueueMany('mail', Array.from({ length: 500 })),
  },
  {
    name: 'a batch by COPY, one with a key',
    decides: 'commit',
    jobs: 301,
    enqueue: (client) =>
      client.enqueueMany(
        Array.from({ length: 301 }, (_, at) => ({ task: 'mail', options: at === 7 ? { idempotencyKey: 'k' } : {} })),
      ),
  },
]

for (const { name, decides, jobs, enqueue } of WAYS) {
  test(`${name}: the answer is lost, the call is answered, and nothing is there twice`, { timeout: MINUTE }, () =>
    withLosses(async ({ proxy, through, count }) => {
      const cut = proxy.cutBeforeAnswer(decides)
      await enqueue(through())
      assert.deepEqual((await cut.happened).answer, { sqlState: null, transaction: 'idle' })
      assert.equal(await count('job'), jobs)
    }),
  )

  test(`${name}: the request is lost, and the call is written all the same`, { timeout: MINUTE }, () =>
    withLosses(async ({ proxy, through, count }) => {
      const cut = proxy.cutBeforeServer(decides, 2)
      await enqueue(through())
      assert.equal(cut.count, 2)
      assert.equal(await count('job'), jobs)
    }),
  )
}

test('a try that PostgreSQL still works on is waited for by the next one, not doubled', { timeout: MINUTE }, () =>
  withLosses(async ({ proxy, through, connection, query, count, schema, until }) => {
    const client = through()
    await client.enqueue('mail', 0) // names and ids are there
    const other = await connection()
    for (const key of [undefined, 'k']) {
      const before = await count('job')
      await other.query('begin')
      await other.query(`lock table "${schema}".ready in share mode`)
      const call = client.enqueue('mail', 1, key === undefined ? {} : { idempotencyKey: key })
      const waiting = (kind: string, n: number) =>
        until(`${n} wait for a ${kind}`, async () => {
          const rows = await query(
            `select from pg_locks where not granted and locktype = $1 and database is not distinct from case when $1 = 'relation' then
               (select oid from pg_database where datname = current_database()) end`,
            [kind],
          )
          return rows.length >= n
        })
      await waiting('relation', 1)
      proxy.cutAll()
      await waiting('transactionid', 1) // the second try, at the primary key or at the key
      await other.query('commit')
      const { id, duplicate } = await call
      assert.equal(duplicate, false)
      assert.equal(await count('job'), before + 1)
      assert.equal((await client.console.job(id))!.state, 'queued')
    }
  }),
)

test(
  'of calls with keys at once, those that were refused in the lost answer are decided anew',
  { timeout: MINUTE },
  () =>
    withLosses(async ({ proxy, through, client: before, count }) => {
      const held = await before.enqueue('mail', 0, { idempotencyKey: 'taken' })
      const client = through()
      const cut = proxy.cutBeforeAnswer('enqueue_chunks')
      const [first, second, third] = await Promise.allSettled([
        client.enqueue('mail', 1, { idempotencyKey: 'free' }),
        client.enqueue('mail', 2, { idempotencyKey: 'taken' }),
        client.enqueue('mail', 3, { idempotencyKey: 'taken', onDuplicate: 'ignore' }),
      ])
      assert.equal(cut.count, 1)
      assert.equal(first.status, 'fulfilled')
      assert.equal(second.status === 'rejected' && second.reason.code, 'DUPLICATE_TASK')
      assert.deepEqual(third.status === 'fulfilled' && third.value, { id: held.id, duplicate: true })
      assert.equal(await count('job'), 2)
    }),
)

test(
  'when the time is over too, the error says that it may have been written; never sent, it says nothing of that',
  {
    timeout: MINUTE,
  },
  () =>
    withLosses(async ({ proxy, through, count, inState, engine }) => {
      const client = through({ enqueueTimeoutMs: 300 })
      await client.enqueue('echo', 0)
      for (const [what, lose, jobs, call] of [
        ['one', 'enqueue_plain', 1, () => client.enqueue('echo', 1)],
        ['a batch', 'commit', 300, () => client.enqueueMany('echo', Array.from({ length: 300 }))],
      ] as const) {
        const before = await count('job')
        const cut = proxy.cutBeforeAnswer(lose)
        void cut.happened.then(() => loseAll(proxy))
        await assert.rejects(call, (error: LostError) => {
          assert.equal(error.code, 'STORE_UNREACHABLE', what)
          assert.equal(error.details.maybeWritten, true, what)
          assert.match(error.message, /idempotencyKey/)
          return true
        })
        assert.equal(await count('job'), before + jobs, what)
        await assert.rejects(call, (error: LostError) => {
          assert.equal(error.code, 'STORE_UNREACHABLE', what)
          assert.equal(error.details.maybeWritten, undefined, what)
          return true
        })
        assert.equal(await count('job'), before + jobs, what)
        proxy.accept()
      }
      // an answer that does not come: what can be asked is asked at the end
      const held = proxy.holdAnswer('enqueue_plain')
      const { id } = await client.enqueue('echo', 2)
      assert.equal(held.count, 1)
      held.drop()
      await engine()
      await inState(id, 'completed')
    }),
)

test(
  'an ephemeral job leaves no trace, so its lost answer is told as such, unless a neighbour shows that it was written',
  {
    timeout: MINUTE,
  },
  () =>
    withLosses(async ({ proxy, through, engine, until, count }) => {
      await engine()
      const client = through()
      await client.enqueue('echo', 0, { ephemeral: true })
      await until('it has gone', async () => (await count('job')) === 0)
      const held = proxy.holdAnswer('enqueue_chunks')
      const call = client.enqueue('echo', 1, { ephemeral: true })
      const refused = assert.rejects(call, (error: LostError) => error.details.maybeWritten === true)
      await held.happened
      await until('it has run and gone', async () => (await count('job', 'lease', 'attempt')) === 0)
      held.drop()
      await refused
      assert.equal(await count('job'), 0, 'it did not run again')

      const both = proxy.holdAnswer('enqueue_chunks')
      const calls = Promise.all([client.enqueue('echo', 2, { ephemeral: true }), client.enqueue('echo', 3)])
      await both.happened
      await until('one has gone', async () => (await count('job')) === 1 && (await count('lease')) === 0)
      both.drop()
      await calls
      assert.equal(await count('job'), 1)
      await client.enqueue('echo', 4, { ephemeral: true }) // a request that was never sent is sent again
      proxy.refuse()
      proxy.cutAll()
      const late = client.enqueue('echo', 5, { ephemeral: true })
      proxy.accept()
      await late
    }),
)

test('a close while the way is cut ends the call with what is known', { timeout: MINUTE }, () =>
  withLosses(async ({ proxy, through, count }) => {
    const client = through()
    await client.enqueue('mail', 0)
    const cut = proxy.cutBeforeAnswer('enqueue_plain')
    void cut.happened.then(() => loseAll(proxy))
    const call = client.enqueue('mail', 1)
    const ended = assert.rejects(call, (error: LostError) => error.details.maybeWritten === true)
    await cut.happened
    await client.close()
    await ended
    assert.equal(await count('job'), 2)
  }),
)

test(
  'a job that PostgreSQL does not take fails alone, its neighbours of the same statement are written',
  {
    timeout: MINUTE,
  },
  () =>
    withLosses(async ({ through, query, count, proxy }) => {
      await query(`alter table millrace.job add constraint no_bad check (payload::text <> '"bad"')`)
      try {
        const client = through()
        await client.enqueue('mail', 0)
        const sent = proxy.requests.length
        const calls = await Promise.allSettled(['a', 'b', 'bad', 'c', 'd'].map((text) => client.enqueue('mail', text)))
        assert.deepEqual(
          calls.map((call) =>
            call.status === 'fulfilled' ? 'written' : [call.reason.code, call.reason.details.sqlState],
          ),
          ['written', 'written', ['STORE_FAILED', '23514'], 'written', 'written'],
        )
        assert.equal(await count('job'), 5)
        assert.ok(proxy.requests.length - sent < 10)
        await assert.rejects(client.enqueueMany('mail', ['a', 'bad']), { code: 'STORE_FAILED' })
        assert.equal(await count('job'), 5, 'a batch is all or nothing')
      } finally {
        await query('alter table millrace.job drop constraint no_bad')
      }
    }),
)

test(
  "a lost connection of the caller's own transaction is his to judge: nothing is sent again",
  { timeout: MINUTE },
  () =>
    withLosses(async ({ proxy, through, count }) => {
      const client = through()
      await client.enqueue('mail', 0)
      const own = new pg.Client(proxy.url)
      own.on('error', () => {})
      await own.connect()
      await own.query('begin')
      const cut = proxy.cutBeforeAnswer(/enqueue_plain/)
      await assert.rejects(client.enqueue('mail', 1, { client: own }), { name: 'EngineError' })
      assert.equal(cut.count, 1)
      assert.equal(await count('job'), 1)
    }),
)

interface LostError extends Error {
  readonly code: string
  readonly details: { readonly maybeWritten?: boolean }
}

/** From now on there is no way to the server. */
function loseAll(proxy: WireProxy): void {
  proxy.refuse()
  proxy.cutAll()
}
