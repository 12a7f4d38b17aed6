// Enqueueing inside a transaction of somebody else's library, with the real libraries: the job exists when and only
// when that transaction commits, and a taken key does not spoil it.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sql as drizzleSql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { drizzle as drizzleOnPostgres } from 'drizzle-orm/postgres-js'
import knex from 'knex'
import { CompiledQuery, Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import postgres from 'postgres'
import { fromDrizzle } from '../engine/adapters/drizzle.ts'
import { fromKnex } from '../engine/adapters/knex.ts'
import { fromKysely } from '../engine/adapters/kysely.ts'
import { fromPostgres } from '../engine/adapters/postgres.ts'
import { fromPrisma } from '../engine/adapters/prisma.ts'
import { codeOf } from '../engine/base/errors.ts'
import { defineTask, type ForeignClient, type TaskContext } from '../engine/index.ts'
import { type EngineBundle, withEngines } from './support/engine.ts'

/** Runs work in one transaction of the library; an error of the work rolls back. */
type Transact = (work: (client: ForeignClient) => Promise<void>) => Promise<unknown>

const PAYLOAD = { text: `quotes ' " \\ ? $1 :name`, umlaut: 'ü', nested: [1, { a: null }] }

async function proven(bundle: EngineBundle, transact: Transact): Promise<void> {
  const { client, query, until, engine, inState } = bundle
  const jobs = async () => Number((await query('select count(*) as n from millrace.job'))[0]!.n)
  await engine({ pollMs: 60_000, pollMaxMs: 60_000 }) // what runs was announced by the commit

  const ids: number[] = []
  await transact(async (within) => {
    ids.push((await client.enqueue('echo', PAYLOAD, { client: within })).id)
    ids.push((await client.enqueue('echo', 2, { client: within, idempotencyKey: 'k', meta: { a: 'b' } })).id)
    await client.enqueueMany('echo', [3, 4, 5], { client: within, priority: 3 })
    assert.equal(await jobs(), 0, 'nobody else sees it before the commit')
  })
  assert.equal(await jobs(), 5)
  assert.deepEqual((await inState(ids[0]!, 'completed')).result, PAYLOAD)
  const keyed = await inState(ids[1]!, 'completed')
  assert.deepEqual([keyed.result, keyed.meta], [2, { a: 'b' }])

  await assert.rejects(
    transact(async (within) => {
      await client.enqueue('echo', 1, { client: within })
      throw new Error('changed my mind')
    }),
    /changed my mind/,
  )
  assert.equal(await jobs(), 5)

  const { id: holder } = await client.enqueue('nobody', 1, { idempotencyKey: 'taken' })
  await transact(async (within) => {
    const refused = await client.enqueue('nobody', 2, { client: within, idempotencyKey: 'taken' }).catch((e) => e)
    assert.equal(codeOf(refused), 'DUPLICATE_TASK')
    assert.equal(refused.details.jobId, holder)
    await client.enqueue('nobody', 3, { client: within })
  })
  await until('the job after the refused one is there', async () => (await jobs()) === 7)
  await completes(bundle, transact)
}

/** A handler completes its job within a transaction of the library: by its commit, and only by it. */
async function completes({ client, query, engine, inState, until }: EngineBundle, transact: Transact): Promise<void> {
  const codes: unknown[] = []
  const task = defineTask({
    name: 'complete-by-library',
    queue: 'library',
    inline: true,
    retry: { kind: 'fixed', delayMs: 0 },
    run: async (payload: unknown, ctx: TaskContext) => {
      await transact(async (within) => {
        await client.enqueue('nobody', ctx.attempt, { client: within, queue: 'nowhere' })
        await ctx.complete(within, payload)
        if (ctx.attempt === 1) throw new Error('changed my mind')
      })
      await transact((within) => ctx.complete(within)).catch((error) => codes.push(codeOf(error)))
    },
  })
  await engine({ tasks: [task], queues: ['library'] })
  const { id } = await client.enqueue('complete-by-library', PAYLOAD, { queue: 'library' })
  const job = await inState(id, 'completed')
  assert.deepEqual([job.result, job.attempt], [PAYLOAD, 2])
  const written = await query('select payload from millrace.jobs where queue = $1', ['nowhere'])
  assert.deepEqual(written, [{ payload: 2 }], 'what the first attempt had written went with it')
  await until('the second call was refused', async () => codes.length > 0)
  assert.deepEqual(codes, ['VALIDATION'], 'the refusal of a second call comes through the library')
}

test('Kysely: jobs come and are completed with the commit, and not with a rollback; a taken key spoils nothing', async () => {
  await withEngines(async (bundle) => {
    const db = new Kysely({ dialect: new PostgresDialect({ pool: new pg.Pool({ connectionString: bundle.url }) }) })
    try {
      await proven(bundle, (work) => db.transaction().execute((trx) => work(fromKysely(trx, CompiledQuery))))
    } finally {
      await db.destroy()
    }
  })
})

test('Knex: jobs come and are completed with the commit, and not with a rollback; a taken key spoils nothing', async () => {
  await withEngines(async (bundle) => {
    const db = knex({ client: 'pg', connection: bundle.url })
    try {
      await proven(bundle, (work) => db.transaction((trx) => work(fromKnex(trx))))
    } finally {
      await db.destroy()
    }
  })
})

test('Drizzle on node-postgres: jobs come and are completed with the commit, and not with a rollback; a taken key spoils nothing', async () => {
  await withEngines(async (bundle) => {
    const pool = new pg.Pool({ connectionString: bundle.url })
    try {
      const db = drizzle(pool)
      await proven(bundle, (work) => db.transaction((tx) => work(fromDrizzle(tx, drizzleSql))))
    } finally {
      await pool.end()
    }
  })
})

test('Drizzle on postgres.js: jobs come and are completed with the commit, and not with a rollback; a taken key spoils nothing', async () => {
  await withEngines(async (bundle) => {
    const sql = postgres(bundle.url, { max: 2, onnotice() {} })
    try {
      const db = drizzleOnPostgres(sql)
      await proven(bundle, (work) => db.transaction((tx) => work(fromDrizzle(tx, drizzleSql))))
    } finally {
      await sql.end()
    }
  })
})

test('postgres.js: jobs come and are completed with the commit, and not with a rollback; a taken key spoils nothing', async () => {
  await withEngines(async (bundle) => {
    const sql = postgres(bundle.url, { max: 2, onnotice() {} })
    try {
      await proven(bundle, (work) => sql.begin((within) => work(fromPostgres(within))))
    } finally {
      await sql.end()
    }
  })
})

test('Prisma, as its transactions answer: jobs come and are completed with the commit, and not with a rollback', async () => {
  await withEngines(async (bundle) => {
    const pool = new pg.Pool({ connectionString: bundle.url })
    try {
      await proven(bundle, async (work) => {
        const client = await pool.connect()
        try {
          await client.query('begin')
          await work(fromPrisma(asPrisma(client)))
          await client.query('commit')
        } catch (error) {
          await client.query('rollback')
          throw error
        } finally {
          client.release()
        }
      })
    } finally {
      await pool.end()
    }
  })
})

const VOID = 2278

/**
 * A transaction that behaves as one of Prisma 6.19 with @prisma/adapter-pg did when this was written: it refuses columns of
 * the type void, answers large integers as BigInt, and hides PostgreSQL's code. The library itself wants programs that are
 * not in the package registry.
 */
function asPrisma(client: pg.PoolClient): { $queryRawUnsafe<Row>(text: string, ...values: unknown[]): Promise<Row> } {
  return {
    async $queryRawUnsafe<Row>(text: string, ...values: unknown[]) {
      const answer = await client.query({ text, values }).catch((error) => {
        const cause = { originalCode: error.code, originalMessage: error.message, kind: 'postgres' }
        throw Object.assign(new Error(`Raw query failed. Code: \`${error.code}\``), {
          code: 'P2010',
          meta: { driverAdapterError: Object.assign(new Error(error.message), { cause }) },
        })
      })
      if (answer.fields.some(({ dataTypeID }) => dataTypeID === VOID))
        throw Object.assign(new Error("Failed to deserialize column of type 'void'"), { code: 'P2010' })
      const large = new Set(answer.fields.filter(({ dataTypeID }) => dataTypeID === 20).map(({ name }) => name))
      return answer.rows.map((row) =>
        Object.fromEntries(
          Object.entries(row).map(([key, value]) => [key, large.has(key) ? BigInt(String(value)) : value]),
        ),
      ) as Row
    },
  }
}
