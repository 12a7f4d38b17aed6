// The binary rows of `attempt`, read back by a decoder that knows only PostgreSQL's documentation of COPY.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { jobIdAt } from '../engine/store/attempt-json.ts'
import { AttemptRows, OUTCOME, outcomeOf, withError } from '../engine/syncer/attempt-rows.ts'

interface Row {
  leaseId: number
  jobId: number
  run: number
  attempt: number
  outcome: string
  nodeId: number
  lane: number
  startedAtMs: number
  finishedAtMs: number
  text: string
}

/** Field texts of one tuple, as psql would show them; times in ms since 1970. */
function decode(tuple: Buffer): (string | null)[] {
  const fields: (Buffer | null)[] = []
  let at = 2
  for (let field = 0; field < tuple.readInt16BE(0); field++) {
    const length = tuple.readInt32BE(at)
    at += 4
    fields.push(length === -1 ? null : tuple.subarray(at, at + length))
    at += Math.max(0, length)
  }
  assert.equal(at, tuple.length, 'the tuple ends where its last field ends')
  const ms = (field: Buffer) => String(Number(field.readBigInt64BE()) / 1_000 + Date.UTC(2000, 0, 1))
  const read: ((field: Buffer) => string)[] = [
    (field) => String(field.readBigInt64BE()),
    (field) => String(field.readInt16BE()),
    (field) => String(field.readInt16BE()),
    (field) => field.toString('latin1'),
    (field) => String(field.readInt32BE()),
    (field) => String(field.readInt16BE()),
    ms,
    ms,
    (field) => field.toString('utf8'),
    (field) => field.toString('utf8'),
  ]
  assert.equal(fields.length, read.length)
  return fields.map((field, index) => (field === null ? null : read[index]!(field)))
}

const expected = (row: Row): (string | null)[] => [
  String(row.jobId),
  String(row.run),
  String(row.attempt),
  row.outcome,
  String(row.nodeId),
  String(row.lane),
  row.startedAtMs === 0 ? null : String(row.startedAtMs),
  String(row.finishedAtMs),
  row.outcome !== 'c' && row.text !== '' ? row.text : null,
  row.outcome === 'c' && row.text !== '' ? row.text : null,
]

/** The row's text in the middle of other bytes of shared memory, as it stands in a ring. */
function inRing(text: string): [Uint8Array, number, number] {
  const bytes = Buffer.from(text)
  const ring = new Uint8Array(new SharedArrayBuffer(bytes.length + 16), 3)
  ring.fill(0xee)
  ring.set(bytes, 7)
  return [ring, 7, 7 + bytes.length]
}

function add(rows: AttemptRows, row: Row): void {
  const [bytes, start, end] = inRing(row.text)
  const outcome = row.outcome.charCodeAt(0)
  const { leaseId, jobId, run, attempt, nodeId, lane, startedAtMs, finishedAtMs } = row
  rows.add(leaseId, jobId, run, attempt, outcome, nodeId, lane, startedAtMs, finishedAtMs, bytes, start, end)
}

function tuplesOf(rows: AttemptRows): Buffer[] {
  const all = rows.tuples
  return [...rows.ends].map((end, index) => all.subarray(index === 0 ? 0 : rows.ends[index - 1]!, end))
}

const wallMs = fc.integer({ min: Date.UTC(1995, 0, 1), max: Date.UTC(2200, 0, 1) })
const anyRow: fc.Arbitrary<Row> = fc.record({
  leaseId: fc.maxSafeNat(),
  jobId: fc.maxSafeNat(),
  run: fc.integer({ min: 1, max: 32_767 }),
  attempt: fc.integer({ min: 1, max: 10_000 }),
  outcome: fc.constantFrom(...Object.values(OUTCOME).map((byte) => String.fromCharCode(byte))),
  nodeId: fc.integer({ min: 1, max: 2 ** 31 - 1 }),
  lane: fc.integer({ min: -1, max: 1_000 }),
  startedAtMs: fc.oneof(fc.constant(0), wallMs),
  finishedAtMs: wallMs,
  text: fc.oneof(
    fc.constant(''),
    fc.json(),
    fc.nat({ max: 90_000 }).map((length) => `"${'x'.repeat(length)}"`),
  ),
})

test('every attempt reads back as it was added, through growth and reuse of the buffer', () => {
  fc.assert(
    fc.property(fc.array(fc.array(anyRow, { maxLength: 40 }), { maxLength: 4 }), fc.boolean(), (pages, fresh) => {
      const rows = new AttemptRows()
      for (const page of pages) {
        for (const row of page) add(rows, row)
        assert.equal(rows.count, page.length)
        assert.deepEqual(tuplesOf(rows).map(decode), page.map(expected))
        assert.deepEqual(
          [...rows.leases],
          page.map((row) => row.leaseId),
        )
        rows.clear(fresh)
        assert.equal(rows.count + rows.bytes, 0)
      }
    }),
  )
})

test('more rows than the first tables hold keep their ends and leases', () => {
  const rows = new AttemptRows()
  for (let jobId = 1; jobId <= 3_000; jobId++)
    rows.add(jobId * 2, jobId, 1, 1, OUTCOME.completed, 1, 0, 1, 2, new Uint8Array(0), 0, 0)
  assert.deepEqual(
    tuplesOf(rows).map((tuple) => Number(decode(tuple)[0])),
    Array.from({ length: 3_000 }, (_, index) => index + 1),
  )
  assert.equal(rows.leases[2_999], 6_000)
})

test('a run beyond smallint is written as the largest smallint, never as a negative number', () => {
  const rows = new AttemptRows()
  rows.add(1, 1, 40_000, 1, OUTCOME.completed, 1, 0, 1, 2, new Uint8Array(0), 0, 0)
  assert.equal(decode(rows.tuples)[1], '32767')
})

test('memory that was handed out is left alone when the page is cleared as fresh', () => {
  const rows = new AttemptRows()
  rows.add(1, 1, 1, 1, OUTCOME.completed, 1, 0, 1, 2, new Uint8Array(0), 0, 0)
  const handed = rows.tuples
  rows.clear(true)
  rows.add(2, 2, 1, 1, OUTCOME.completed, 1, 0, 1, 2, new Uint8Array(0), 0, 0)
  assert.equal(jobIdAt(handed, 0), 1)
})

test('a tuple tells its job and outcome, and can be written again with an error instead of what the handler said', () => {
  fc.assert(
    fc.property(anyRow, (row) => {
      const rows = new AttemptRows()
      add(rows, row)
      assert.equal(jobIdAt(rows.tuples, 0), row.jobId)
      assert.equal(String.fromCharCode(outcomeOf(rows.tuples, 0)), row.outcome)
      const replaced = { ...row, outcome: row.outcome === 'c' ? 'f' : row.outcome, text: '{"code":"X"}' }
      assert.deepEqual(decode(withError(rows.tuples, Buffer.from(replaced.text))), expected(replaced))
    }),
  )
})
