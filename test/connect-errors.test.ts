// What a person is told who cannot connect, or may not do what he asks for: a code, PostgreSQL's own words with the
// SQLSTATE, what to do about it, and an exit code. Every error is made for real: by a server with roles, rules and limits, by
// the operating system, by TLS.

import assert from 'node:assert/strict'
import { generateKeyPairSync, sign } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { createSecureContext, TLSSocket } from 'node:tls'
import pg from 'pg'
import { systemClock } from '../engine/base/clock.ts'
import { EngineError } from '../engine/base/errors.ts'
import { run } from '../engine/cli/run.ts'
import { ADVICE } from '../engine/store/advice.ts'
import { isRetryable, Session } from '../engine/store/connection.ts'
import { clusterPath } from '../engine/store/embedded-cluster.ts'
import { blamesData, mayHaveWritten, sqlStateOf } from '../engine/store/refusal.ts'
import { Store } from '../engine/store/store.ts'
import { type OwnServer, openOwnServer } from './support/database.ts'
import { until } from './support/until.ts'

const MINUTE = 60_000

let server: OwnServer
const closing: Server[] = []

before(async () => {
  server = await openOwnServer()
  await server.query(`create role app login password 'p@ss/w#rd?%'`)
  await server.query(`create role sleeper password 'x'`)
  await server.query(`create role barred login password 'x'`)
  await server.query(`create role sealed login password 'x'`)
  await server.query(`create role few login password 'x' connection limit 0`)
  const rules = join(clusterPath(server.dataDir), 'pg_hba.conf')
  writeFileSync(
    rules,
    `host all barred all reject\nhostssl all sealed all scram-sha-256\nhost all sealed all reject\n${readFileSync(rules, 'utf8')}`,
  )
  await server.query('select pg_reload_conf()')
  const store = newStore(server.url)
  await store.migrate()
  await store.close()
})

after(async () => {
  for (const one of closing) one.close()
  await server?.close()
})

function newStore(url: string): Store {
  return new Store({ url, schema: 'millrace', clock: systemClock, timeoutMs: 20_000, prepared: true, name: 'test' })
}

function urlWith(change: (url: URL) => void): string {
  const url = new URL(server.url)
  change(url)
  return url.href
}

const as = (user: string, password = 'x') =>
  urlWith((url) => {
    url.username = user
    url.password = encodeURIComponent(password)
  })

async function failure(call: () => Promise<unknown>): Promise<EngineError> {
  try {
    await call()
  } catch (error) {
    assert.ok(error instanceof EngineError, String(error))
    return error
  }
  throw new Error('it did not fail')
}

async function failureTo(url: string): Promise<EngineError> {
  const store = newStore(url)
  try {
    return await failure(() => store.ask('select 1'))
  } finally {
    await store.close()
  }
}

async function cli(words: readonly string[], env: Record<string, string>): Promise<{ code: number; err: string }> {
  const err: string[] = []
  const stream = (sink: string[]) => ({
    isTTY: false,
    columns: 80,
    write: (text: string) => sink.push(text) > 0,
    on() {},
  })
  const code = await run({
    argv: words,
    env,
    cwd: tmpdir(),
    stdout: stream([]),
    stderr: stream(err),
    program: 'millrace',
    version: '1.2.3',
    nodeVersion: 'v20.20.0',
    clock: systemClock,
    signals: { take: () => ({ first: new Promise(() => {}), second: new Promise(() => {}), release() {} }) },
    api: () => import('../engine/index.ts'),
  })
  return { code, err: err.join('') }
}

/** Somebody who answers TLS with a certificate that nobody knows. */
async function selfSigned(): Promise<string> {
  const { key, cert } = certificate()
  const tls = createServer((socket) => {
    socket.on('error', () => {})
    socket.once('data', () => {
      socket.write('S')
      new TLSSocket(socket, { isServer: true, secureContext: createSecureContext({ key, cert }) }).on('error', () => {})
    })
  })
  closing.push(tls)
  return `postgres://app:x@127.0.0.1:${await listening(tls)}/postgres?sslmode=verify-full`
}

async function listening(one: Server): Promise<number> {
  await new Promise<void>((resolve) => one.listen(0, '127.0.0.1', resolve))
  return (one.address() as AddressInfo).port
}

/** DER by hand: node makes keys, and no certificates. */
function certificate(): { key: string; cert: string } {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519')
  const der = (tag: number, ...parts: Buffer[]): Buffer => {
    const body = Buffer.concat(parts)
    const length = body.length < 128 ? [body.length] : [0x82, body.length >> 8, body.length & 255]
    return Buffer.concat([Buffer.from([tag, ...length]), body])
  }
  const text = (tag: number, value: string) => der(tag, Buffer.from(value))
  const ed25519 = der(0x30, der(0x06, Buffer.from([0x2b, 0x65, 0x70])))
  const name = der(0x30, der(0x31, der(0x30, der(0x06, Buffer.from([0x55, 0x04, 0x03])), text(0x0c, 'nobody'))))
  const times = der(0x30, text(0x17, '200101000000Z'), text(0x17, '491231235959Z'))
  const spki = publicKey.export({ type: 'spki', format: 'der' })
  const body = der(
    0x30,
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.from([1])),
    ed25519,
    name,
    times,
    name,
    spki,
  )
  const bits = der(0x03, Buffer.from([0]), sign(null, body, privateKey))
  const pem = der(0x30, body, ed25519, bits).toString('base64')
  return {
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    cert: `-----BEGIN CERTIFICATE-----\n${pem}\n-----END CERTIFICATE-----\n`,
  }
}

async function unusedPort(): Promise<number> {
  const one = createServer()
  const port = await listening(one)
  await new Promise((resolve) => one.close(resolve))
  return port
}

const CASES: readonly {
  readonly what: string
  readonly url: () => string | Promise<string>
  /** One of these. */
  readonly states: readonly string[]
  readonly code: 'STORE_REFUSED' | 'STORE_UNREACHABLE'
  readonly says: RegExp
}[] = [
  {
    what: 'a wrong password',
    url: () => as('app', 'quite-another'),
    states: ['28P01'],
    code: 'STORE_REFUSED',
    says: /%40/,
  },
  { what: 'a role that is not there', url: () => as('nobody'), states: ['28P01'], code: 'STORE_REFUSED', says: /role/ },
  {
    what: 'a role that may not log in',
    url: () => as('sleeper'),
    states: ['28000'],
    code: 'STORE_REFUSED',
    says: /log in/,
  },
  {
    what: 'a rule of pg_hba.conf',
    url: () => as('barred'),
    states: ['28000'],
    code: 'STORE_REFUSED',
    says: /pg_hba\.conf/,
  },
  {
    what: 'a rule that demands TLS',
    url: () => as('sealed'),
    states: ['28000'],
    code: 'STORE_REFUSED',
    says: /sslmode=verify-full/,
  },
  {
    what: 'a database that is not there',
    url: () => urlWith((url) => (url.pathname = '/nothing')),
    states: ['3D000'],
    code: 'STORE_REFUSED',
    says: /createdb/,
  },
  {
    what: 'a certificate that nobody knows',
    url: selfSigned,
    states: ['DEPTH_ZERO_SELF_SIGNED_CERT'],
    code: 'STORE_REFUSED',
    says: /sslrootcert/,
  },
  {
    what: 'a port where nothing listens',
    url: async () => `postgres://app:x@127.0.0.1:${await unusedPort()}/postgres`,
    states: ['ECONNREFUSED'],
    code: 'STORE_UNREACHABLE',
    says: /Start PostgreSQL/,
  },
  {
    what: 'a socket that is not there',
    url: () => 'postgres://app:x@localhost/postgres?host=/nowhere/at/all',
    states: ['ENOENT'],
    code: 'STORE_UNREACHABLE',
    says: /Start PostgreSQL/,
  },
  {
    what: 'a host that is not there',
    url: () => 'postgres://app:x@nowhere.invalid/postgres',
    states: ['ENOTFOUND', 'EAI_AGAIN'],
    code: 'STORE_UNREACHABLE',
    says: /cannot be resolved/,
  },
  {
    what: 'no connection left',
    url: () => as('few'),
    states: ['53300'],
    code: 'STORE_UNREACHABLE',
    says: /max_connections/,
  },
]

for (const { what, url, states, code, says } of CASES)
  test(`the first connection meets ${what}: code, SQLSTATE, advice, exit code`, { timeout: MINUTE }, async () => {
    const to = await url()
    const error = await failureTo(to)
    const state = sqlStateOf(error)
    assert.ok(states.includes(state ?? ''), `${state}: ${error.message}`)
    assert.equal(error.code, code)
    assert.match(error.hint, says)
    assert.equal(error.details.sent, false)
    assert.equal(mayHaveWritten(error), false)
    assert.equal(isRetryable(error), code === 'STORE_UNREACHABLE')
    assert.equal(error.retry, code === 'STORE_UNREACHABLE')
    const secret = new URL(to).password
    const told = await cli(['jobs'], { DATABASE_URL: to })
    assert.equal(told.code, code === 'STORE_REFUSED' ? 78 : 69, told.err)
    assert.match(told.err, new RegExp(`error: .*${state!.length === 5 ? `SQLSTATE ${state}` : ''}`))
    assert.match(told.err, says)
    if (secret.length > 3) assert.ok(!told.err.includes(decodeURIComponent(secret)), 'never the password')
  })

test('a role without the right is told so: to read, to enqueue, to migrate', { timeout: MINUTE }, async () => {
  const url = as('app', 'p@ss/w#rd?%')
  const store = newStore(url)
  try {
    for (const call of [
      () => store.ask('select * from millrace.job'),
      () => store.checkVersion(),
      () => store.migrate(),
      () => store.queueIds(['default']),
    ]) {
      const error = await failure(call)
      assert.equal(error.code, 'STORE_REFUSED', error.message)
      assert.equal(sqlStateOf(error), '42501')
      assert.match(error.hint, /owner/)
    }
    const other = new Store({
      url,
      schema: 'other',
      clock: systemClock,
      timeoutMs: 20_000,
      prepared: true,
      name: 'test',
    })
    const error = await failure(() => other.migrate())
    assert.deepEqual([error.code, sqlStateOf(error)], ['STORE_REFUSED', '42501'], 'it may not make a schema')
    await other.close()
    assert.equal((await cli(['jobs'], { DATABASE_URL: url })).code, 78)
  } finally {
    await store.close()
  }
})

test('a right that is lacking within a migration is no fault of its file', { timeout: MINUTE }, async () => {
  await server.query('create schema lent')
  await server.query('grant usage on schema lent to app')
  const store = new Store({
    url: as('app', 'p@ss/w#rd?%'),
    schema: 'lent',
    clock: systemClock,
    timeoutMs: 20_000,
    prepared: true,
    name: 'test',
  })
  try {
    const error = await failure(() => store.migrate())
    assert.deepEqual([error.code, sqlStateOf(error)], ['STORE_REFUSED', '42501'])
  } finally {
    await store.close()
  }
})

test('a password whose special characters are not encoded is refused before anything connects', async () => {
  for (const password of ['12/34', 'pa/ss', 'pa#ss', '1#2', 'pa?ss', '1?2', '12/3@4']) {
    const { code, err } = await cli(['jobs'], { DATABASE_URL: `postgres://app:${password}@127.0.0.1:1/postgres` })
    assert.equal(code, 78, password)
    assert.match(err, /percent-encoded/)
    assert.ok(!err.includes(password), 'it is not shown')
  }
  for (const url of [
    'postgres://app:p%40ss%2Fw%23rd@127.0.0.1:1/postgres',
    'postgres://app:p@ss@127.0.0.1:1/postgres',
    'postgresql:///postgres?host=/nowhere',
    'postgres://app:x@/postgres?host=/nowhere',
    'postgres://127.0.0.1:1/odd%40name',
  ])
    assert.equal((await cli(['jobs'], { DATABASE_URL: url })).code, 69, url)
})

test('a file that the URL names and that is not there is a fault of the URL', async () => {
  const error = await failureTo('postgres://app:x@127.0.0.1:1/postgres?sslrootcert=/nowhere/ca.pem')
  assert.equal(error.code, 'STORE_REFUSED')
  assert.match(error.hint, /sslrootcert/)
  assert.equal(isRetryable(error), false)
})

test('what the driver itself refuses to go on with: TLS that the server lacks, a password that is missing', {
  timeout: MINUTE,
}, async () => {
  const plain = createServer((socket) => {
    socket.on('error', () => {})
    socket.once('data', () => socket.write('N'))
  })
  closing.push(plain)
  for (const [url, says] of [
    [`postgres://app:x@127.0.0.1:${await listening(plain)}/postgres?sslmode=verify-full`, /SSL/],
    [urlWith((url) => (url.password = '')), /password/],
  ] as const) {
    const error = await failureTo(url)
    assert.equal(error.code, 'STORE_REFUSED', error.message)
    assert.match(error.message, says)
    assert.match(error.hint, /sslmode=disable/)
    assert.equal(isRetryable(error), false)
  }
})

test('a host with several addresses that all refuse is told with each of them', { timeout: MINUTE }, async () => {
  const error = await failureTo(`postgres://app:x@localhost:${await unusedPort()}/postgres`)
  assert.equal(error.code, 'STORE_UNREACHABLE')
  assert.match(error.message, /ECONNREFUSED/)
})

test('a server that shuts down, or ends a session at work, is away for a while', { timeout: 2 * MINUTE }, async () => {
  const own = await openOwnServer()
  const holding = new pg.Client({ connectionString: own.url })
  holding.on('error', () => {})
  const session = newSession(own.url)
  try {
    await holding.connect()
    const working = failure(() => session.query({ text: 'select pg_sleep(60) /* ended */' }))
    await until('it works', async () => {
      const rows = await holding.query(
        `select pg_terminate_backend(pid) from pg_stat_activity where query like '%/* ended */' and pid <> pg_backend_pid()`,
      )
      return rows.rowCount === 1
    })
    const ended = await working
    assert.deepEqual([ended.code, sqlStateOf(ended)], ['STORE_UNREACHABLE', '57P01'])
    assert.equal(mayHaveWritten(ended), true, 'nobody knows whether it was over before')
    process.kill(own.pid, 'SIGTERM') // waits for its sessions, and takes no new ones
    await until('it takes no new ones', async () => {
      const error = await failureTo(own.url)
      if (sqlStateOf(error) !== '57P03') return false
      assert.equal(error.code, 'STORE_UNREACHABLE')
      assert.match(error.hint, /starts, stops or recovers/)
      return true
    })
  } finally {
    await holding.end().catch(() => {})
    await session.close()
    await own.close()
  }
})

function newSession(url: string): Session {
  return new Session({ url, schema: 'millrace', name: 'test', clock: systemClock, timeoutMs: 20_000, prepared: true })
}

test('statements: what PostgreSQL says is worth another try, is too late, lacks the schema, or is the fault of what was sent', {
  timeout: MINUTE,
}, async () => {
  const [one, two] = [newSession(server.url), newSession(server.url)]
  const fails = async (text: string) => failure(() => one.query({ text }))
  try {
    await server.query('create table pair (n int primary key, m int not null check (m < 10))')
    await server.query('insert into pair values (1, 0), (2, 0)')
    for (const [text, state, code, retryable, data] of [
      ['set statement_timeout = 50; select pg_sleep(30)', '57014', 'STORE_TIMEOUT', true, false],
      ['select * from millrace.nothing', '42P01', 'SCHEMA_MISSING', false, false],
      ['select millrace.nothing()', '42883', 'SCHEMA_MISSING', false, false],
      ['create table nothing.at_all (n int)', '3F000', 'SCHEMA_MISSING', false, false],
      ['insert into pair values (1, 0)', '23505', 'STORE_FAILED', false, true],
      ['insert into pair values (3, 10)', '23514', 'STORE_FAILED', false, true],
      ['insert into pair values (3, null)', '23502', 'STORE_FAILED', false, true],
      ['select 1 / (m - m) from pair', '22012', 'STORE_FAILED', false, true],
      [`select '{"a'::json`, '22P02', 'STORE_FAILED', false, true],
      ['select (select n from pair)', '21000', 'STORE_FAILED', false, true],
      [`select repeat('[', 1000000)::json`, '54001', 'STORE_FAILED', false, true],
      ['select 1 +', '42601', 'STORE_FAILED', false, false],
      [`select millrace.enqueue('')`, 'MR400', 'VALIDATION', false, false],
    ] as const) {
      const error = await fails(text)
      assert.deepEqual([sqlStateOf(error), error.code], [state, code], `${text}: ${error.message}`)
      assert.deepEqual([isRetryable(error), blamesData(error), mayHaveWritten(error)], [retryable, data, false], text)
      await one.query({ text: 'set statement_timeout = 0' }) // the connection is whole
    }
    const begun = async (session: Session, work: (client: pg.Client) => Promise<unknown>) =>
      session.exclusive('tx test', async (client) => {
        await client.query('begin isolation level repeatable read')
        await client.query('select from pair')
        await work(client)
        await client.query('commit')
      })
    const serial = await failure(() =>
      begun(one, async (client) => {
        await server.query('update pair set m = m + 1 where n = 1')
        await client.query('update pair set m = m + 1 where n = 1')
      }),
    )
    assert.deepEqual([sqlStateOf(serial), isRetryable(serial), mayHaveWritten(serial)], ['40001', true, false])
    const locked = await failure(() =>
      begun(one, async (client) => {
        await client.query('lock table pair')
        await two.query({ text: `set lock_timeout = 50` })
        await two.query({ text: 'update pair set m = 0' })
      }),
    )
    assert.deepEqual([sqlStateOf(locked), locked.code, isRetryable(locked)], ['55P03', 'STORE_TIMEOUT', true])
    await two.query({ text: 'set lock_timeout = 0' })
    let arrived = 0
    let release!: () => void
    const haveBoth = new Promise<void>((resolve) => {
      release = resolve
    })
    const both = await Promise.allSettled(
      [one, two].map((session, at) =>
        session.exclusive('tx deadlock', async (client) => {
          await client.query('begin')
          await client.query('update pair set m = 1 where n = $1', [at + 1])
          if (++arrived === 2) release()
          await haveBoth
          await client.query('update pair set m = 1 where n = $1', [2 - at])
          await client.query('commit')
        }),
      ),
    )
    const [dead, ...others] = both.filter((it) => it.status === 'rejected')
    assert.equal(others.length, 0)
    assert.deepEqual([sqlStateOf(dead?.reason), isRetryable(dead?.reason)], ['40P01', true])
  } finally {
    await one.close()
    await two.close()
  }
})

test('every row of the advice is about codes of its own', () => {
  const states = ADVICE.flatMap((advice) => advice.states)
  assert.equal(new Set(states).size, states.length)
  for (const { hint } of ADVICE) assert.match(hint, /^[A-Z].+\.$/)
})
