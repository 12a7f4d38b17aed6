// Rows of the table `attempt` as PostgreSQL's binary COPY wants them, in one buffer that grows and is used again.
// Encoding happens when an outcome arrives, straight from the bytes that the thread wrote into its ring: no object, no
// string and no second copy per row. Whoever flushes hands the buffer on as it is.
//
// One tuple (big-endian; the length before a field is an int32, -1 for null):
//
//   int16 10 | job_id int8 | run int2 | attempt int2 | outcome "char" | node_id int4 | lane int2
//            | started_at timestamptz | finished_at timestamptz | error json | result json

import { OUTCOME as LETTER } from '../orchestrator/states.ts'
import { EPOCH_MS, TWO_32 } from '../store/copy.ts'

/** The one-letter outcomes of an attempt, as bytes. */
export const OUTCOME = Object.fromEntries(
  Object.entries(LETTER).map(([name, letter]) => [name, letter.charCodeAt(0)]),
) as Readonly<Record<keyof typeof LETTER, number>>

const FIELDS = 10
const OUTCOME_FIELD = 3
const ERROR_FIELD = 8
const FIXED_BYTES = 77 // a tuple with started_at, without error and result
const INT2_MAX = 32_767
const COPY_BY_HAND_BYTES = 48 // below it a loop is cheaper than the view that `set` needs

const FIRST_BYTES = 64 * 1024
const FIRST_ROWS = 512
/** A buffer that one burst made larger than this is not kept for the next page. */
const KEPT_BYTES_MAX = 4 * 1024 * 1024

export class AttemptRows {
  #buffer = Buffer.allocUnsafeSlow(FIRST_BYTES)
  #view = viewOf(this.#buffer)
  #ends = new Uint32Array(FIRST_ROWS)
  #leases = new Float64Array(FIRST_ROWS)
  readonly #clockLeadMs: () => number
  /** Asked once for all rows that are written together. */
  #leadMs = 0
  #bytes = 0
  #count = 0

  /** @param clockLeadMs what is added to times of this machine so that they are the database's */
  constructor(clockLeadMs: () => number = () => 0) {
    this.#clockLeadMs = clockLeadMs
  }

  get count(): number {
    return this.#count
  }

  get bytes(): number {
    return this.#bytes
  }

  /** The tuples so far; a view, valid until the next `add` or `clear`. The same holds for `ends` and `leases`. */
  get tuples(): Buffer {
    return this.#buffer.subarray(0, this.#bytes)
  }

  /** End offset of each tuple in `tuples`. */
  get ends(): Uint32Array {
    return this.#ends.subarray(0, this.#count)
  }

  /** Lease of each tuple. */
  get leases(): Float64Array {
    return this.#leases.subarray(0, this.#count)
  }

  /**
   * Appends one attempt. `lane` is -1 where no thread had it; `startedAtMs` 0 (never) is written as null. `bytes` from
   * `start` to `end` is JSON in UTF-8: the result of a completed attempt, the error of any other; nothing when start
   * equals end.
   */
  add(
    leaseId: number,
    jobId: number,
    run: number,
    attempt: number,
    outcome: number,
    nodeId: number,
    lane: number,
    startedAtMs: number,
    finishedAtMs: number,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): void {
    const payloadBytes = end - start
    if (this.#bytes + FIXED_BYTES + payloadBytes > this.#buffer.length) this.#growBytes(FIXED_BYTES + payloadBytes)
    if (this.#count === this.#ends.length) this.#growRows()
    if (this.#count === 0) this.#leadMs = this.#clockLeadMs()
    const leadMs = this.#leadMs
    const view = this.#view
    let at = this.#bytes
    view.setInt16(at, FIELDS)
    view.setInt32(at + 2, 8)
    setInt64(view, at + 6, jobId)
    view.setInt32(at + 14, 2)
    view.setInt16(at + 18, Math.min(run, INT2_MAX)) // never in practice, and better than a negative number
    view.setInt32(at + 20, 2)
    view.setInt16(at + 24, attempt)
    view.setInt32(at + 26, 1)
    view.setUint8(at + 30, outcome)
    view.setInt32(at + 31, 4)
    view.setInt32(at + 35, nodeId)
    view.setInt32(at + 39, 2)
    view.setInt16(at + 43, lane)
    at += 45
    if (startedAtMs === 0) {
      view.setInt32(at, -1)
      at += 4
    } else {
      view.setInt32(at, 8)
      setInt64(view, at + 4, microsOf(startedAtMs + leadMs))
      at += 12
    }
    view.setInt32(at, 8)
    setInt64(view, at + 4, microsOf(finishedAtMs + leadMs))
    at += 12
    if (payloadBytes === 0) {
      view.setInt32(at, -1)
      view.setInt32(at + 4, -1)
      at += 8
    } else if (outcome === OUTCOME.completed) {
      view.setInt32(at, -1)
      view.setInt32(at + 4, payloadBytes)
      at = copyBytes(bytes, start, end, this.#buffer, at + 8)
    } else {
      view.setInt32(at, payloadBytes)
      at = copyBytes(bytes, start, end, this.#buffer, at + 4)
      view.setInt32(at, -1)
      at += 4
    }
    this.#bytes = at
    this.#ends[this.#count] = at
    this.#leases[this.#count] = leaseId
    this.#count++
  }

  /** Empties the buffer for the next use. `fresh`: somebody may still read the old memory, so it is left to them. */
  clear(fresh: boolean): void {
    if (fresh || this.#buffer.length > KEPT_BYTES_MAX) {
      this.#buffer = Buffer.allocUnsafeSlow(FIRST_BYTES)
      this.#view = viewOf(this.#buffer)
    }
    if (fresh) {
      this.#ends = new Uint32Array(FIRST_ROWS)
      this.#leases = new Float64Array(FIRST_ROWS)
    }
    this.#bytes = 0
    this.#count = 0
  }

  #growBytes(needed: number): void {
    const grown = Buffer.allocUnsafeSlow(Math.max(this.#buffer.length * 2, this.#bytes + needed))
    this.#buffer.copy(grown, 0, 0, this.#bytes)
    this.#buffer = grown
    this.#view = viewOf(grown)
  }

  #growRows(): void {
    const ends = new Uint32Array(this.#ends.length * 2)
    ends.set(this.#ends)
    this.#ends = ends
    const leases = new Float64Array(this.#leases.length * 2)
    leases.set(this.#leases)
    this.#leases = leases
  }
}

/** The outcome of the tuple at `start`. */
export function outcomeOf(tuples: Buffer, start: number): number {
  return tuples.readUInt8(fieldAt(tuples, start, OUTCOME_FIELD) + 4)
}

/**
 * The same attempt without what its handler said: no result, `error` instead, and failed where it had completed. For
 * an attempt whose own bytes PostgreSQL refuses.
 */
export function withError(tuple: Buffer, error: Buffer): Buffer {
  const head = tuple.subarray(0, fieldAt(tuple, 0, ERROR_FIELD))
  const replaced = Buffer.alloc(head.length + 4 + error.length + 4)
  head.copy(replaced)
  const outcome = fieldAt(tuple, 0, OUTCOME_FIELD) + 4
  if (replaced[outcome] === OUTCOME.completed) replaced[outcome] = OUTCOME.failed
  replaced.writeInt32BE(error.length, head.length)
  error.copy(replaced, head.length + 4)
  replaced.writeInt32BE(-1, head.length + 4 + error.length)
  return replaced
}

/** Where the length of the field number `index` (from 0) stands. */
function fieldAt(tuples: Buffer, start: number, index: number): number {
  let at = start + 2
  for (let field = 0; field < index; field++) at += 4 + Math.max(0, tuples.readInt32BE(at))
  return at
}

function viewOf(buffer: Buffer): DataView {
  return new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength)
}

function microsOf(wallMs: number): number {
  return Math.round((wallMs - EPOCH_MS) * 1_000)
}

/** Two halves instead of a BigInt: exact for every whole number that a double holds, also below zero. */
function setInt64(view: DataView, at: number, value: number): void {
  const high = Math.floor(value / TWO_32)
  view.setInt32(at, high)
  view.setUint32(at + 4, value - high * TWO_32)
}

function copyBytes(from: Uint8Array, start: number, end: number, to: Buffer, at: number): number {
  if (end - start <= COPY_BY_HAND_BYTES) {
    for (let i = start; i < end; i++) to[at++] = from[i]!
    return at
  }
  to.set(from.subarray(start, end), at)
  return at + end - start
}
