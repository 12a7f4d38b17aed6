// The proxy that tests lose requests and answers with: what it says was lost is what was lost.

import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { test } from 'node:test'
import pg from 'pg'
import { from as copyFrom } from 'pg-copy-streams'
import { openTestDatabase } from './support/database.ts'
import { type WireProxy, wireProxy } from './support/wire-proxy.ts'

const SECOND = 1_000

interface Bundle {
  readonly proxy: WireProxy
  /** A connection through the proxy; its errors beside a query are expected. */
  connection(name?: string): Promise<pg.Client>
  rows(): Promise<number[]>
}

async function withProxy(run: (bundle: Bundle) => Promise<void>): Promise<void> {
  const db = await openTestDatabase()
  const proxy = await wireProxy(db.url)
  const clients: pg.Client[] = []
  try {
    await db.query(`create schema "${db.schema}"`)
    await db.query(`create table "${db.schema}".t (n int)`)
    await run({
      proxy,
      async connection(name = 'test') {
        const client = new pg.Client({ connectionString: proxy.url, application_name: name })
        client.on('error', () => {})
        clients.push(client)
        await client.connect()
        await client.query(`set search_path = "${db.schema}"`)
        return client
      },
      rows: async () => (await db.query<{ n: number }>(`select n from "${db.schema}".t order by n`)).map(({ n }) => n),
    })
  } finally {
    await proxy.close()
    for (const client of clients) await client.end().catch(() => {})
    await db.close()
  }
}

const insert = (n: number) => ({ name: 'put', text: 'insert into t values ($1)', values: [n] })

test('a request that is cut before the server was not done; one that is cut before its answer was', () =>
  withProxy(async ({ proxy, connection, rows }) => {
    const before = proxy.cutBeforeServer('put')
    await assert.rejects((await connection()).query(insert(1)))
    assert.deepEqual((await before.happened).answer, null)
    assert.deepEqual((await before.happened).request.values, ['1'])
    assert.deepEqual(await rows(), [])

    const after = proxy.cutBeforeAnswer(({ name, application }) => name === 'put' && application === 'other')
    await (await connection('one')).query(insert(2))
    await assert.rejects((await connection('other')).query(insert(3)))
    assert.deepEqual((await after.happened).answer, { sqlState: null, transaction: 'idle' })
    assert.deepEqual(await rows(), [2, 3])
    assert.deepEqual([before.count, after.count], [1, 1])

    await (await connection()).query(insert(4))
    assert.deepEqual(await rows(), [2, 3, 4], 'each happens once unless told otherwise')
  }))

test('a prepared statement is known by its name the second time too, and a refusal is an answer', () =>
  withProxy(async ({ proxy, connection, rows }) => {
    const client = await connection()
    await client.query(insert(1))
    const cut = proxy.cutBeforeAnswer(/^insert into t/, 2)
    await assert.rejects(client.query(insert(2)))
    assert.equal((await cut.happened).request.name, 'put')
    await assert.rejects((await connection()).query('insert into t values (1 / 0)'))
    assert.deepEqual(await rows(), [1, 2])
    const refused = proxy.cutBeforeAnswer('select 1 / 0')
    await assert.rejects((await connection()).query('select 1 / 0'))
    assert.deepEqual((await refused.happened).answer, { sqlState: '22012', transaction: 'idle' })
  }))

test('the answer to a COPY, and to the COMMIT behind it, is lost when the server has done it', () =>
  withProxy(async ({ proxy, connection, rows }) => {
    const copy = async (client: pg.Client, n: number) => {
      await client.query('begin')
      await pipeline(Readable.from([`${n}\n`]), client.query(copyFrom('copy t from stdin')))
      await client.query('commit')
    }
    const data = proxy.cutBeforeAnswer('copy t')
    await assert.rejects(copy(await connection(), 1))
    assert.deepEqual((await data.happened).answer, { sqlState: null, transaction: 'open' })
    assert.deepEqual(await rows(), [])
    const commit = proxy.cutBeforeAnswer('commit')
    await assert.rejects(copy(await connection(), 2))
    assert.deepEqual((await commit.happened).answer, { sqlState: null, transaction: 'idle' })
    assert.deepEqual(await rows(), [2])
  }))

test('a held request and a held answer go on when they are released, and are lost when they are dropped', () =>
  withProxy(async ({ proxy, connection, rows }) => {
    const client = await connection()
    const request = proxy.holdRequest('put')
    const first = client.query(insert(1))
    await request.happened
    assert.deepEqual(await rows(), [])
    request.release()
    await first
    const answer = proxy.holdAnswer('put')
    const second = client.query(insert(2))
    await answer.happened
    assert.deepEqual(await rows(), [1, 2])
    answer.release()
    await second
    const dropped = proxy.holdAnswer('put')
    const third = client.query(insert(3))
    await dropped.happened
    dropped.drop()
    await assert.rejects(third)
    assert.deepEqual(await rows(), [1, 2, 3])
  }))

test('what belongs to one application can be stalled and cut alone', () =>
  withProxy(async ({ proxy, connection, rows }) => {
    const one = await connection('one')
    const other = await connection('other')
    proxy.stall((application) => application === 'one')
    let isAnswered = false
    const waiting = one.query(insert(1)).then(() => {
      isAnswered = true
    })
    await other.query(insert(2))
    assert.equal(isAnswered, false)
    assert.deepEqual(await rows(), [2])
    proxy.resume()
    await waiting
    assert.equal(
      proxy.cutSome((application) => application === 'one'),
      1,
    )
    await assert.rejects(one.query(insert(3)))
    await other.query(insert(4))
    assert.deepEqual(await rows(), [1, 2, 4])
  }))

test('a stall, a delay, a cut of all and a refusal', { timeout: 60 * SECOND }, () =>
  withProxy(async ({ proxy, connection, rows }) => {
    const client = await connection()
    proxy.stall()
    let isAnswered = false
    const query = client.query(insert(1)).then(() => {
      isAnswered = true
    })
    await rows()
    assert.equal(isAnswered, false)
    assert.deepEqual(await rows(), [])
    proxy.resume()
    await query
    proxy.delay(100)
    const from = performance.now()
    const [seen] = await Promise.all([proxy.seen('put'), client.query(insert(2))])
    assert.ok(performance.now() - from >= 200, 'each direction has its delay')
    assert.deepEqual(seen.values, ['2'])
    proxy.delay(0)
    const never = proxy.cutBeforeServer('put')
    never.cancel()
    await client.query(insert(3))
    assert.equal(proxy.open, 1)
    const last = client.query('select pg_sleep(30)')
    await proxy.seen('pg_sleep').catch(() => {})
    proxy.cutAll()
    await assert.rejects(last)
    proxy.refuse()
    await assert.rejects(connection())
    proxy.accept()
    await (await connection()).query(insert(4))
    assert.deepEqual(await rows(), [1, 2, 3, 4])
    assert.ok(proxy.requests.some(({ text }) => text === 'startup'))
    assert.notEqual(proxy.port, 0)
  }),
)
