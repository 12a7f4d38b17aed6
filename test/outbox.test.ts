// The outbox on a real disk: order, confirmation, limits, damage, and a process that is killed while it writes.

import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { nextTurn, systemClock } from '../engine/base/clock.ts'
import { EngineError } from '../engine/base/errors.ts'
import { Deadline } from '../engine/base/lifecycle.ts'
import { silentLog } from '../engine/base/log.ts'
import type { Flush } from '../engine/store/types.ts'
import { Outbox, type OutboxRecord } from '../engine/syncer/outbox.ts'
import { OutcomePage } from '../engine/syncer/outcome-page.ts'
import { Syncer } from '../engine/syncer/syncer.ts'
import { chunkOf, FlushModel, rowsOf } from './support/flush-model.ts'

const NOTHING_SENT = { sent: 0, stale: 0, refused: 0, unreadable: 0, left: 0, error: null }
const temp = mkdtempSync(join(tmpdir(), 'millrace-outbox-'))
after(() => rmSync(temp, { recursive: true, force: true }))

let folders = 0
const newFolder = () => join(temp, `outbox-${folders++}`)

function outboxIn(
  folder: string,
  different: { schema?: string; storeId?: string; bytesMax?: number; nodeUid?: string } = {},
) {
  const warnings: string[] = []
  const log = {
    ...silentLog,
    warn: (_: object, event: string) => warnings.push(event),
    error: (_: object, event: string) => warnings.push(event),
  }
  const { schema = 'millrace', storeId = 'store', nodeUid = 'uid', bytesMax } = different
  const options = bytesMax === undefined ? { folder } : { folder, bytesMax }
  return { warnings, outbox: new Outbox(options, () => ({ schema, storeId, nodeUid }), systemClock, log) }
}

function flushWith(no: number, text = `"${no}"`): Flush {
  const page = new OutcomePage()
  const bytes = Buffer.from(text)
  page.completed(5, chunkOf(1), no, 0, 1, 2, bytes, 0, bytes.length)
  page.failed(5, chunkOf(1), no + 1_000, 'f', 'X', 0, 1, 2, Buffer.from('{}'), 0, 2, 10)
  return page.toFlush(no)
}

async function replayed(outbox: Outbox) {
  const records: OutboxRecord[] = []
  const report = await outbox.replay(async (record) => void records.push(record))
  return { report, records, nos: records.map((record) => record.flush.no) }
}

test('nothing on disk until something has to be kept', async () => {
  const folder = newFolder()
  const { outbox } = outboxIn(folder)
  assert.deepEqual((await replayed(outbox)).nos, [])
  assert.equal((await outbox.counts()).flush.records, 0)
  assert.deepEqual(await outbox.deads(10), [])
  assert.equal(existsSync(folder), false)
})

test('a flush comes back as it was, in order, in another life, and is gone when it was confirmed', async () => {
  const folder = newFolder()
  const first = outboxIn(folder).outbox
  const flushes = Array.from({ length: 12 }, (_, index) => flushWith(index + 1))
  for (const flush of flushes) await first.put(5, flush)
  const second = outboxIn(folder).outbox
  const { report, records } = await replayed(second)
  assert.deepEqual(
    records.map((record) => record.flush),
    flushes,
  )
  assert.ok(Buffer.isBuffer(records[0]!.flush.rows))
  assert.deepEqual(rowsOf(records[3]!.flush), rowsOf(flushes[3]!))
  const { schema, nodeId, nodeUid } = records[0]!
  assert.deepEqual({ schema, nodeId, nodeUid }, { schema: 'millrace', nodeId: 5, nodeUid: 'uid' })
  assert.deepEqual(report, { sent: 12, stale: 0, refused: 0, unreadable: 0, left: 0, error: null })
  assert.deepEqual((await replayed(second)).nos, [])
})

test('a replay stops at the first failure and keeps that flush and all behind it', async () => {
  const { outbox } = outboxIn(newFolder())
  for (let no = 1; no <= 5; no++) await outbox.put(5, flushWith(no))
  const report = await outbox.replay(async (record) => {
    if (record.flush.no === 3) throw new EngineError('STORE_UNREACHABLE', 'gone')
  })
  assert.deepEqual([report.sent, report.left], [2, 3])
  assert.equal((report.error as EngineError).code, 'STORE_UNREACHABLE')
  assert.deepEqual((await replayed(outbox)).nos, [3, 4, 5])
})

test('what PostgreSQL refuses for what it says becomes evidence, what others have taken over is dropped', async () => {
  const { outbox, warnings } = outboxIn(newFolder())
  for (let no = 1; no <= 4; no++) await outbox.put(5, flushWith(no))
  const report = await outbox.replay(async (record) => {
    if (record.flush.no === 2) throw new EngineError('STORE_FAILED', 'bad json', { sqlState: '22P02' })
    if (record.flush.no === 3) throw new EngineError('NODE_FENCED', 'taken over')
  })
  assert.deepEqual(report, { sent: 2, stale: 1, refused: 1, unreadable: 0, left: 0, error: null })
  assert.deepEqual(
    (await outbox.deads(10)).map((dead) => [dead.flush.no, dead.sqlState, dead.jobId]),
    [[2, '22P02', null]],
  )
  assert.deepEqual(warnings, ['failed to write job run update'])
})

test('flushes of another schema stay for their own engine', async () => {
  const folder = newFolder()
  const other = outboxIn(folder, { schema: 'other' }).outbox
  await other.put(9, flushWith(1))
  const { outbox } = outboxIn(folder)
  await outbox.put(5, flushWith(2))
  assert.deepEqual((await replayed(outbox)).nos, [2])
  const again = outboxIn(folder, { schema: 'other' }).outbox
  assert.deepEqual((await replayed(again)).nos, [1])
})

test('flushes of a schema of the same name in another database stay for their own engine', async () => {
  const folder = newFolder()
  await outboxIn(folder, { storeId: 'other' }).outbox.put(9, flushWith(1))
  const { outbox } = outboxIn(folder)
  await outbox.put(5, flushWith(2))
  assert.deepEqual((await replayed(outbox)).nos, [2])
  assert.deepEqual((await replayed(outboxIn(folder, { storeId: 'other' }).outbox)).nos, [1])
})

const damages: Record<string, (bytes: Buffer) => Buffer> = {
  'a changed byte': (bytes) => {
    bytes[bytes.length >> 1]! ^= 1
    return bytes
  },
  'cut in half': (bytes) => bytes.subarray(0, bytes.length >> 1),
  'cut to nothing': () => Buffer.alloc(0),
  zeros: (bytes) => Buffer.alloc(bytes.length),
  garbage: (bytes) => Buffer.alloc(bytes.length, 0x5a),
}

for (const [damage, harm] of Object.entries(damages))
  test(`a damaged record (${damage}) is put aside with a warning and the others are delivered`, async () => {
    const folder = newFolder()
    const first = outboxIn(folder).outbox
    for (let no = 1; no <= 3; no++) await first.put(5, flushWith(no))
    const [, name] = readdirSync(join(folder, 'flush')).sort()
    const file = join(folder, 'flush', name!)
    writeFileSync(file, harm(readFileSync(file)))
    const { outbox, warnings } = outboxIn(folder)
    const { nos, report } = await replayed(outbox)
    assert.deepEqual(nos, [1, 3])
    assert.equal(report.unreadable, 1)
    assert.deepEqual(warnings, ['outbox.unreadable'])
    assert.deepEqual(readdirSync(join(folder, 'flush', 'unreadable')), [name])
    assert.equal((await outbox.counts()).flush.records, 0)
  })

test('what a killed writer left unfinished is swept when it is old, and left alone while somebody may be writing', async () => {
  const folder = newFolder()
  const { outbox } = outboxIn(folder)
  await outbox.put(5, flushWith(1))
  const old = join(folder, 'flush', '000000000007-gone.record.unfinished')
  const young = join(folder, 'flush', '000000000008-busy.record.unfinished')
  for (const file of [old, young]) writeFileSync(file, 'half')
  const twoHoursAgo = systemClock.wallMs() / 1_000 - 7_200
  utimesSync(old, twoHoursAgo, twoHoursAgo)
  assert.deepEqual((await replayed(outbox)).nos, [1])
  assert.deepEqual([existsSync(old), existsSync(young)], [false, true])
})

test('closing waits for what is being written', async () => {
  const { outbox } = outboxIn(newFolder())
  let written = 0
  for (let no = 1; no <= 5; no++) void outbox.put(5, flushWith(no)).then(() => written++)
  await outbox.close()
  assert.equal(written, 5)
  assert.deepEqual((await replayed(outbox)).nos, [1, 2, 3, 4, 5])
})

test('two processes that share a folder keep their records apart, and either may send them', async () => {
  const folder = newFolder()
  const one = outboxIn(folder, { nodeUid: 'one' }).outbox
  const two = outboxIn(folder, { nodeUid: 'two' }).outbox
  await Promise.all([one.put(5, flushWith(1)), two.put(6, flushWith(1)), one.put(5, flushWith(2))])
  const { records } = await replayed(two)
  assert.deepEqual(records.map((record) => `${record.nodeUid} ${record.flush.no}`).sort(), ['one 1', 'one 2', 'two 1'])
  assert.deepEqual((await replayed(one)).nos, [])
})

test('a record is named after the node that its flush is of, also when that is known late or changes', async () => {
  const folder = newFolder()
  const node = { uid: '' }
  const open = () =>
    new Outbox({ folder }, () => ({ schema: 'millrace', storeId: 'store', nodeUid: node.uid }), systemClock, silentLog)
  const outbox = open()
  assert.deepEqual((await replayed(outbox)).nos, [])
  await assert.rejects(outbox.put(0, flushWith(1)), { code: 'INVARIANT' }, 'no node has ended anything yet')
  for (const [at, uid] of ['one', 'two'].entries()) {
    node.uid = uid
    await outbox.put(at, flushWith(at + 1))
  }
  assert.deepEqual(readdirSync(join(folder, 'flush')).sort(), ['000000000001-one.record', '000000000002-two.record'])
  const { records } = await replayed(open())
  assert.deepEqual(
    records.map(({ nodeUid, flush }) => [nodeUid, flush.no]),
    [
      ['one', 1],
      ['two', 2],
    ],
  )
})

test('evidence of two replays at once is kept twice, before either process is a node', async () => {
  const folder = newFolder()
  const { outbox: first } = outboxIn(folder)
  for (let no = 1; no <= 4; no++) await first.put(5, flushWith(no))
  const refuse = async () => {
    throw new EngineError('STORE_FAILED', 'bad json', { sqlState: '22P02' })
  }
  const both = [outboxIn(folder, { nodeUid: '' }).outbox, outboxIn(folder, { nodeUid: '' }).outbox]
  await Promise.all(both.map((outbox) => outbox.replay(refuse)))
  const nos = (await first.deads(100)).map(({ flush }) => flush.no)
  assert.deepEqual([...new Set(nos)].sort(), [1, 2, 3, 4])
})

test('engines that replay one folder at once send each flush in its order and call nothing stale or damaged', async () => {
  const folder = newFolder()
  const { outbox } = outboxIn(folder)
  const count = 40
  for (let no = 1; no <= count; no++) await outbox.put(5, flushWith(no))
  let last = 0 // as PostgreSQL does it: a number that is not higher is done already
  const send = async ({ flush }: OutboxRecord) => {
    await systemClock.sleep(Math.random() * 3)
    if (flush.no <= last) return
    assert.equal(flush.no, last + 1)
    last = flush.no
  }
  const engines = [1, 2, 3].map((n) => outboxIn(folder, { nodeUid: `engine-${n}` }))
  const reports = await Promise.all(engines.map((engine) => engine.outbox.replay(send)))
  assert.equal(last, count)
  for (const report of reports) assert.deepEqual({ ...report, sent: 0 }, NOTHING_SENT)
  assert.deepEqual(
    engines.flatMap(({ warnings }) => warnings),
    [],
  )
  assert.equal((await outbox.counts()).flush.records, 0)
})

test('a flush that another engine has sent is not called stale when its node is gone meanwhile', async () => {
  const folder = newFolder()
  const { outbox } = outboxIn(folder)
  for (let no = 1; no <= 3; no++) await outbox.put(5, flushWith(no))
  const slow = outboxIn(folder).outbox.replay(async () => {
    assert.deepEqual((await replayed(outbox)).nos, [1, 2, 3])
    throw new EngineError('NODE_FENCED', 'its leases are closed and it is gone')
  })
  assert.deepEqual(await slow, NOTHING_SENT)
})

test('an engine whose clock is wrong may sweep what another is writing: it is written again', async () => {
  const folder = newFolder()
  const { outbox } = outboxIn(folder)
  const ahead = { ...systemClock, wallMs: () => systemClock.wallMs() + 86_400_000 }
  const sweeper = new Outbox({ folder }, () => ({ schema: 'x', storeId: 'x', nodeUid: 'x' }), ahead, silentLog)
  let sweeps = 0
  let isWriting = true
  const sweeping = (async () => {
    await outbox.put(5, flushWith(0))
    while (isWriting && sweeps < 4) {
      const isUnfinished = readdirSync(join(folder, 'flush')).some((name) => name.endsWith('.unfinished'))
      if (isUnfinished) sweeps++
      await (isUnfinished ? sweeper.replay(async () => {}) : nextTurn())
    }
  })()
  try {
    for (let no = 1; no <= 30; no++) await outbox.put(5, flushWith(no, `"${'x'.repeat(100_000)}"`))
  } finally {
    isWriting = false
    await sweeping
  }
  assert.ok(sweeps > 0)
  assert.equal((await replayed(outbox)).nos.length, 31)
})

test('beyond its limit it says so, and what is in it stays', async () => {
  const { outbox } = outboxIn(newFolder(), { bytesMax: 100_000 })
  await outbox.put(5, flushWith(1, `"${'x'.repeat(60_000)}"`))
  await assert.rejects(outbox.put(5, flushWith(2, `"${'x'.repeat(60_000)}"`)), (error: EngineError) => {
    return error.code === 'OUTBOX_FAILED' && /full/.test(error.message)
  })
  await outbox.put(5, flushWith(3, `"${'x'.repeat(10_000)}"`))
  assert.deepEqual((await replayed(outbox)).nos, [1, 3])
})

test('evidence takes a quarter of the room at most', async () => {
  const { outbox } = outboxIn(newFolder(), { bytesMax: 100_000 })
  const dead = (text: string) => {
    const flush = flushWith(1, text)
    return { atMs: 1, nodeId: 5, jobId: 1, leaseId: 1, sqlState: '22P02', message: 'no', flush }
  }
  await outbox.putDead(dead(`"${'x'.repeat(20_000)}"`))
  await assert.rejects(outbox.putDead(dead(`"${'x'.repeat(20_000)}"`)), { code: 'OUTBOX_FAILED' })
  await outbox.put(5, flushWith(2, `"${'x'.repeat(60_000)}"`))
  assert.equal((await outbox.counts()).dead.records, 1)
})

test('a folder that cannot be made is an error that names it', async () => {
  const file = join(temp, 'a-file')
  writeFileSync(file, '')
  const { outbox } = outboxIn(join(file, 'outbox'))
  await assert.rejects(outbox.put(5, flushWith(1)), (error: EngineError) => {
    return error.code === 'OUTBOX_FAILED' && error.message.includes(file)
  })
})

test('a process that is killed in the middle of writing leaves every confirmed flush intact and in order', async () => {
  const folder = newFolder()
  const confirmed = await runChild(['write', folder], async (line, child) => {
    if (Number(line) === 60) child.kill('SIGKILL')
  })
  const last = Number(confirmed.at(-1))
  assert.ok(last >= 60)
  const { outbox, warnings } = outboxIn(folder)
  const { nos, records } = await replayed(outbox)
  assert.deepEqual(
    nos.slice(0, last),
    Array.from({ length: last }, (_, index) => index + 1),
  )
  assert.ok(nos.length <= last + 1, 'at most the one that was being written')
  assert.ok(records.every((record) => rowsOf(record.flush)[0]!.jobId === record.flush.no))
  assert.deepEqual(warnings, [])
})

test('a disk that is full is an error, and what was there before can still be sent', async (t) => {
  const folder = newFolder()
  mkdirSync(folder)
  const mount = `mount -t tmpfs -o size=1m tmpfs '${folder}'`
  const tiny = ['unshare', '-rm', 'sh', '-c', `${mount} && exec "$@"`, 'sh']
  if (spawnSync(tiny[0]!, [...tiny.slice(1), 'true']).status !== 0) return t.skip('no small disk can be made here')
  checkFilled(await runChild(['fill', folder], async () => {}, tiny), 'ENOSPC')
})

test('a file that may not grow is an error, and what was there before can still be sent', async (t) => {
  const limited = ['/bin/sh', '-c', 'ulimit -f 2000; exec "$@"', 'sh'] // blocks of 512 bytes or 1 KiB
  if (process.platform !== 'linux') return t.skip('the shell sets the limit')
  checkFilled(await runChild(['fill', newFolder()], async () => {}, limited), 'EFBIG')
})

/** The child says what was confirmed, how it failed, and what it could read and send afterwards. */
function checkFilled(lines: string[], code: string): void {
  const failed = lines.findIndex((line) => line.startsWith('failed'))
  assert.equal(lines[failed], `failed OUTBOX_FAILED ${code}`)
  const confirmed = lines.slice(0, failed)
  assert.ok(confirmed.length > 1)
  assert.deepEqual(
    lines.slice(failed + 1),
    confirmed.map((no) => `sent ${no}`),
  )
}

test('a syncer that stops without PostgreSQL leaves its outcomes in the outbox, and the next life writes them once', async () => {
  const folder = newFolder()
  const { outbox } = outboxIn(folder)
  const store = new FlushModel()
  const needs = { flush: (flush: Flush) => store.flush(flush), writeStats: async () => {}, nodeId: () => 5 }
  const syncer = new Syncer(needs, outbox, { flushRowsMax: 10 }, systemClock, silentLog)
  await syncer.start()
  store.weather.push('ambiguous', ...Array<'lost'>(100).fill('lost'))
  for (let jobId = 1; jobId <= 25; jobId++)
    syncer.outcomes.completed(chunkOf(1), jobId, 0, 1, 2, Buffer.from('"r"'), 0, 3)
  assert.deepEqual(await syncer.finish(new Deadline(systemClock, 100)), { written: 0, outboxed: 25 })
  store.weather.length = 0
  const next = outboxIn(folder).outbox
  const report = await next.replay((record) => store.flush(record.flush))
  assert.deepEqual([report.sent, report.left], [3, 0])
  assert.deepEqual(
    store.rows.map((row) => row.jobId),
    Array.from({ length: 25 }, (_, index) => index + 1),
  )
})

/** Runs the child that writes, inside `wrapper` if any; returns its lines. */
async function runChild(
  args: string[],
  onLine: (line: string, child: ReturnType<typeof spawn>) => Promise<void>,
  wrapper: string[] = [],
): Promise<string[]> {
  const script = fileURLToPath(new URL('./support/outbox-child.js', import.meta.url))
  const [command, ...rest] = [...wrapper, process.execPath, script, ...args]
  const child = spawn(command!, rest, { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = new Promise((resolve) => child.on('close', resolve))
  const lines: string[] = []
  for await (const line of createInterface({ input: child.stdout })) {
    lines.push(line)
    await onLine(line, child)
  }
  await ended
  return lines
}
