// A database that is not up yet, or takes no connection now: a start waits for it and says for whom, an enqueue keeps
// trying, and whoever is told to stop meanwhile stops at once. And what an engine without a database does in production.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { env } from 'node:process'
import { after, before, test } from 'node:test'
import { createClient, createEngine, type EngineOptions } from '../engine/index.ts'
import { type OwnServer, openOwnServer } from './support/database.ts'
import { codeFrom, TASKS } from './support/engine.ts'
import { FakeLog } from './support/scheduler-fakes.ts'
import { until } from './support/until.ts'
import { type WireProxy, wireProxy } from './support/wire-proxy.ts'

const MINUTE = 60_000

let server: OwnServer
let folder: string

before(async () => {
  server = await openOwnServer()
  folder = mkdtempSync(join(tmpdir(), 'millrace-waiting-'))
})

after(async () => {
  await server?.close()
  rmSync(folder, { recursive: true, force: true })
})

async function withProxy(run: (proxy: WireProxy) => Promise<void>): Promise<void> {
  const proxy = await wireProxy(server.url)
  try {
    await run(proxy)
  } finally {
    await proxy.close()
  }
}

const engineOn = (database: string, options: EngineOptions = {}) =>
  createEngine({ database, tasks: TASKS, threads: 1, dataDir: folder, listen: false, ...options })

function factsOf(log: FakeLog, event: string): Record<string, unknown> {
  return log.lines.find((line) => line.event === event)?.facts ?? assert.fail(`no line ${event}`)
}

test('a start waits until the server is up, and says for whom without the password', {
  timeout: 2 * MINUTE,
}, async () => {
  await server.stop('fast')
  const log = new FakeLog()
  const engine = engineOn(server.url, { log })
  const starting = engine.start()
  try {
    await until('it has said so', () => log.has('warn', 'database.waiting'))
    const { host, pathname, password } = new URL(server.url)
    assert.equal(factsOf(log, 'database.waiting').database, `${host}${pathname}`)
    assert.match(String(factsOf(log, 'database.waiting').error), /ECONNREFUSED/)
    await server.start()
    await starting
    assert.ok(log.has('info', 'database.reached'))
    assert.deepEqual(factsOf(log, 'database.opened'), { database: `${host}${pathname}`, schema: 'millrace' })
    assert.ok(!JSON.stringify(log.lines).includes(password))
  } finally {
    await starting.catch(() => {})
    await engine.stop()
  }
})

test(
  'it gives up after databaseWaitMs, with 0 at once, and what waiting cannot help ends it at once',
  {
    timeout: MINUTE,
  },
  () =>
    withProxy(async (proxy) => {
      proxy.refuse()
      await assert.rejects(engineOn(proxy.url, { databaseWaitMs: 300 }).start(), {
        code: 'STORE_UNREACHABLE',
        message: /gave up after 0\.3 s/,
      })
      const log = new FakeLog()
      await assert.rejects(engineOn(proxy.url, { databaseWaitMs: 0, log }).start(), { code: 'STORE_UNREACHABLE' })
      assert.ok(!log.has('warn', 'database.waiting'))
      const wrong = new URL(server.url)
      wrong.password = 'another'
      await assert.rejects(engineOn(wrong.href, { databaseWaitMs: 10 * MINUTE }).start(), { code: 'STORE_REFUSED' })
    }),
)

for (const [how, hinder] of [
  ['nothing listens', (proxy: WireProxy) => proxy.refuse()],
  ['the server takes the connection and says nothing', (proxy: WireProxy) => proxy.stall()],
] as const)
  test(`a stop while ${how} ends the start`, { timeout: MINUTE }, () =>
    withProxy(async (proxy) => {
      hinder(proxy)
      const log = new FakeLog()
      const engine = engineOn(proxy.url, { log })
      const code = codeFrom(() => engine.start())
      await until('it has said for whom it waits', () => log.has('warn', 'database.waiting'))
      const from = performance.now()
      assert.deepEqual(await engine.stop(), { released: 0, interrupted: [], outboxed: 0 })
      assert.equal(await code, 'STOPPING')
      assert.ok(performance.now() - from < 8_000, 'connecting may take ten seconds')
      assert.equal(proxy.open, 0, 'nothing is left open')
    }),
  )

test('a stop while a later step of the start hears nothing has an end', { timeout: MINUTE }, () =>
  withProxy(async (proxy) => {
    const held = proxy.holdRequest(/node_join/)
    const engine = engineOn(proxy.url)
    const code = codeFrom(() => engine.start())
    await held.happened
    await engine.stop()
    assert.notEqual(await code, undefined)
  }),
)

test(
  "a client's first enqueues wait for the server, and those that hold no connection for one",
  {
    timeout: MINUTE,
  },
  () =>
    withProxy(async (proxy) => {
      proxy.refuse()
      const log = new FakeLog()
      const client = createClient({ database: proxy.url, log })
      const calls = Promise.all([
        ...Array.from({ length: 20 }, (_, n) => client.enqueue('mail', n)),
        client.enqueueMany('mail', [1, 2]),
      ])
      await until('it has said for whom it waits', () => log.has('warn', 'database.waiting'))
      proxy.accept()
      await calls
      assert.equal(log.lines.filter(({ event }) => event === 'database.waiting').length, 1, 'once for all')
      assert.equal((await client.console.jobs({ limit: 100 })).length, 22)
      await client.close()

      await server.query(`create role few superuser login password 'x' connection limit 0`)
      await server.query(`alter role few nosuperuser`)
      await server.query(`select millrace.grant_engine('few')`)
      const url = new URL(server.url)
      url.username = 'few'
      url.password = 'x'
      for (const [limit, jobs] of [
        [0, 1],
        [1, 2],
      ] as const) {
        await server.query(`alter role few connection limit ${limit}`)
        const lines = new FakeLog()
        const poor = createClient({ database: url.href, log: lines })
        let isOver = false
        const written = poor.enqueue('post', jobs).finally(() => {
          isOver = true
        })
        if (limit === 0) await until('it has said for whom it waits', () => lines.has('warn', 'database.waiting'))
        else
          await until('it has the one connection', async () => {
            const rows = await server.query(`select from pg_stat_activity where usename = 'few' and state = 'idle'`)
            return rows.length === 1
          })
        assert.equal(isOver, false)
        await server.query('alter role few connection limit -1')
        await written
        assert.equal((await poor.console.jobs({ task: 'post' })).length, jobs)
        await poor.close()
      }
    }),
)

test(
  'a client that is closed while it waits refuses the call; one whose time is over says what it met',
  {
    timeout: MINUTE,
  },
  () =>
    withProxy(async (proxy) => {
      proxy.stall()
      const log = new FakeLog()
      const client = createClient({ database: proxy.url, log })
      const code = codeFrom(() => client.enqueue('mail', 1))
      await until('it has said for whom it waits', () => log.has('warn', 'database.waiting'))
      await client.close()
      assert.equal(await code, 'STOPPING')
      proxy.resume()
      proxy.refuse()
      const short = createClient({ database: proxy.url, enqueueTimeoutMs: 200 })
      await assert.rejects(
        short.enqueue('mail', 1),
        (error: { code: string; details: { maybeWritten?: true } }) =>
          error.code === 'STORE_UNREACHABLE' && error.details.maybeWritten === undefined,
      )
      await short.close()
    }),
)

test('in production nothing runs on the embedded server that was not told to; there it says so', {
  timeout: 2 * MINUTE,
}, async () => {
  const before = env.NODE_ENV
  env.NODE_ENV = 'production'
  try {
    for (const database of [undefined, null]) {
      const options = { dataDir: join(folder, 'forgotten'), ...(database === null ? { database } : {}) }
      await assert.rejects(createEngine({ ...options, tasks: TASKS, threads: 1 }).start(), {
        code: 'CONFIG_INVALID',
        message: /DATABASE_URL.*embedded: true/,
      })
      const client = createClient(options)
      assert.equal(await codeFrom(() => client.enqueue('mail', 1)), 'CONFIG_INVALID')
      assert.equal(await codeFrom(() => client.console.jobs()), 'CONFIG_INVALID')
      await client.close()
    }
    const log = new FakeLog()
    const dataDir = join(folder, 'meant')
    const meant = createClient({ dataDir, embedded: true, log })
    await meant.migrate()
    await meant.enqueue('mail', 1)
    assert.equal(factsOf(log, 'database.opened').database, `embedded server in ${dataDir}`)
    await meant.close()
    const given = createClient({ database: server.url })
    await given.migrate()
    await given.enqueue('mail', 1)
    await given.close()
  } finally {
    if (before === undefined) delete env.NODE_ENV
    else env.NODE_ENV = before
  }
})
