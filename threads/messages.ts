// What travels between main and a thread, both directions, in one place.
//
// Up, thread to main:
//   the ring   every report, as records whose body is
//                +0 u32 slot   +4 u32 generation   +8 f64 wall ms   +16 f64 ran ms   +24 bytes (UTF-8 JSON)
//              The kind holds the message in its low byte and two flags above.
//   bulk port  texts too large for the ring, as transferred buffers. The record of such a report follows in the ring
//              with the flag BULK and no bytes, so order is kept and the buffer is there when main reads the record.
//   control port   rare words about the thread itself (ToMain).
// Down, main to thread:
//   control port   pieces, revoke, abort, end (ToThread).

import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads'
import { invariant } from '../engine/base/errors.ts'
import type { AbortReason, Catalog, FeedPiece, ReportSink } from './lanes.ts'
import type { LaneMemory } from './layout.ts'
import type { RecordVisitor, RingWriter } from './ring.ts'

// Kinds of reports. 0 is the ring's padding.
const STARTED = 1
const COMPLETED = 2
const FAILED = 3
const HEARTBEAT = 4
const PROGRESS = 5
const LOG = 6
const COMPLETING = 7
/** Precedes FAILED, with a delay in the place of the wall time: what the task decided; below 0: no further attempt. */
const DECIDED = 8
const KIND_MASK = 0xff
/** The bytes came, or come, by the bulk port. */
const BULK = 0x100
/** Of FAILED: another attempt may succeed. */
const RETRYABLE = 0x200

const BODY_BYTES = 24

/** Texts beyond this share of the ring go by the bulk port, so that a few of them do not fill it. */
const BULK_SHARE = 1 / 8

/** How long a thread waits for room in its ring before it looks, and rings the bell, again. */
const ROOM_WAIT_MS = 100

/** Everything a thread needs to run one lane: the argument of its piscina task. */
export interface LaneArgs {
  readonly lane: number
  readonly shared: SharedArrayBuffer
  /** The pool's control page: who sleeps. */
  readonly page: SharedArrayBuffer
  readonly control: MessagePort
  readonly bulk: MessagePort
  /** URLs of the task files, the same order in every thread. */
  readonly modules: readonly string[]
  /** Indexes of modules not to import: they ended or stopped a thread before. */
  readonly skip: readonly number[]
  readonly resultBytesMax: number
  /** The statement of ctx.complete. */
  readonly completeSql: string
  readonly recycleAfterJobs: number
}

/** Down the control port. */
export type ToThread =
  | FedPieces
  | { readonly kind: 'revoke' }
  | { readonly kind: 'abort'; readonly slot: number; readonly generation: number; readonly reason: AbortReason }
  | { readonly kind: 'end' }

/**
 * Pieces of one queue and task, packed: a message per piece cost 40 us, a piece as one of a thousand tuples 1.5 us, as an
 * object 3.9 us (chunks of one job, both sides, 2026-11).
 */
export interface FedPieces {
  readonly kind: 'feed'
  readonly task: string
  readonly queue: string
  readonly pieces: readonly PackedPiece[]
  /** Of all pieces, one after the other. */
  readonly slots: Uint32Array
  readonly generations: Uint32Array
}

type PackedPiece = readonly [
  count: number,
  leaseId: number,
  firstId: number,
  payloads: string,
  metas: string | null,
  attempt: number,
  run: number,
  maxAttempts: number,
  createdAtMs: number,
  group: string | null,
]

/** `count` jobs in all. */
export function packPieces(pieces: readonly FeedPiece[], count: number): FedPieces {
  // arrays with buffers of their own: a message copies the whole buffer under a view
  const slots = new Uint32Array(count)
  const generations = new Uint32Array(count)
  let at = 0
  const packed = pieces.map((piece): PackedPiece => {
    slots.set(piece.slots, at)
    generations.set(piece.generations, at)
    at += piece.slots.length
    return [
      piece.slots.length,
      piece.leaseId,
      piece.firstId,
      piece.payloads,
      piece.metas,
      piece.attempt,
      piece.run,
      piece.maxAttempts,
      piece.createdAtMs,
      piece.group,
    ]
  })
  const { task, queue } = pieces[0]!
  return { kind: 'feed', task, queue, pieces: packed, slots, generations }
}

export function unpackPieces({ task, queue, pieces, slots, generations }: FedPieces): FeedPiece[] {
  let from = 0
  return pieces.map(([count, leaseId, firstId, payloads, metas, attempt, run, maxAttempts, createdAtMs, group]) => {
    const to = from + count
    const piece = {
      task,
      queue,
      leaseId,
      firstId,
      slots: slots.subarray(from, to),
      generations: generations.subarray(from, to),
      payloads,
      metas,
      attempt,
      run,
      maxAttempts,
      createdAtMs,
      group,
    }
    from = to
    return piece
  })
}

/** Up the control port. */
export type ToMain =
  /** Every file was imported or is known to be broken; the lane may be fed. */
  | { readonly kind: 'loaded'; readonly catalog: Catalog }
  /** The answer to `revoke`: no revoked job is left in the thread. */
  | { readonly kind: 'dropped' }
  /** The thread should be replaced when it has run what it was fed: enough jobs, or a heap that stays high. */
  | { readonly kind: 'retire'; readonly why: string }
  /** The thread takes nothing more and asks to be ended: an error escaped from a job. */
  | {
      readonly kind: 'failed'
      readonly code: 'THREAD_EXITED'
      readonly message: string
      /** The error that escaped, described for the log. */
      readonly error: Readonly<Record<string, unknown>>
    }
  /** An error that belongs to no job. */
  | { readonly kind: 'stray'; readonly error: Readonly<Record<string, unknown>> }
  /** The answer to `end`: nothing runs any more. */
  | { readonly kind: 'ended' }

/** Writes reports into a thread's ring. */
export class ReportWriter {
  readonly #ring: RingWriter
  readonly #bytes: Buffer
  readonly #words: Uint32Array
  readonly #doubles: Float64Array
  readonly #bulk: MessagePort
  readonly #onFull: () => void
  readonly #bulkBytes: number

  /** `onFull` is called before the thread waits for room: it must wake main. */
  constructor(memory: LaneMemory, ring: RingWriter, bulk: MessagePort, onFull: () => void) {
    this.#ring = ring
    this.#bytes = Buffer.from(memory.shared, memory.bytes.byteOffset, memory.ringBytes)
    this.#words = memory.words
    this.#doubles = memory.doubles
    this.#bulk = bulk
    this.#onFull = onFull
    this.#bulkBytes = memory.ringBytes * BULK_SHARE
  }

  started(slot: number, generation: number, atMs: number): void {
    const place = this.#reserve(BODY_BYTES)
    this.#head(place, slot, generation, atMs, 0)
    this.#ring.publish(STARTED, BODY_BYTES)
  }

  /** `text` is the result as JSON, '' for none. */
  completed(slot: number, generation: number, startedAtMs: number, ranMs: number, text: string): void {
    this.#text(COMPLETED, slot, generation, startedAtMs, ranMs, text)
  }

  /** `decidedMs`: what the task decided of a further attempt; below 0: none. Null: nobody was asked. */
  failed(
    slot: number,
    generation: number,
    startedAtMs: number,
    ranMs: number,
    retryable: boolean,
    text: string,
    decidedMs: number | null,
  ): void {
    if (decidedMs !== null) {
      const place = this.#reserve(BODY_BYTES)
      this.#head(place, slot, generation, decidedMs, 0)
      this.#ring.publish(DECIDED, BODY_BYTES)
    }
    this.#text(retryable ? FAILED | RETRYABLE : FAILED, slot, generation, startedAtMs, ranMs, text)
  }

  completing(slot: number, generation: number): void {
    const place = this.#reserve(BODY_BYTES)
    this.#head(place, slot, generation, 0, 0)
    this.#ring.publish(COMPLETING, BODY_BYTES)
  }

  // What follows is worth something only while it is fresh: refused by value when the ring is full.

  tryHeartbeat(slot: number, generation: number, atMs: number): boolean {
    const place = this.#ring.tryReserve(BODY_BYTES)
    if (place < 0) return false
    this.#head(place, slot, generation, atMs, 0)
    this.#ring.publish(HEARTBEAT, BODY_BYTES)
    return true
  }

  tryProgress(slot: number, generation: number, text: string): boolean {
    return this.#tryText(PROGRESS, slot, generation, text)
  }

  tryLog(slot: number, generation: number, text: string): boolean {
    return this.#tryText(LOG, slot, generation, text)
  }

  #text(kind: number, slot: number, generation: number, atMs: number, ranMs: number, text: string): void {
    const bytesMax = bound(text)
    if (bytesMax > this.#bulkBytes) {
      const buffer = new TextEncoder().encode(text).buffer
      this.#bulk.postMessage(buffer, [buffer])
      const place = this.#reserve(BODY_BYTES)
      this.#head(place, slot, generation, atMs, ranMs)
      this.#ring.publish(kind | BULK, BODY_BYTES)
      return
    }
    const place = this.#reserve(BODY_BYTES + bytesMax)
    this.#head(place, slot, generation, atMs, ranMs)
    this.#ring.publish(kind, BODY_BYTES + this.#write(place + BODY_BYTES, text))
  }

  #tryText(kind: number, slot: number, generation: number, text: string): boolean {
    const bytesMax = bound(text)
    const place = this.#ring.tryReserve(BODY_BYTES + bytesMax)
    if (place < 0) return false
    this.#head(place, slot, generation, 0, 0)
    this.#ring.publish(kind, BODY_BYTES + this.#write(place + BODY_BYTES, text))
    return true
  }

  /** A report is never dropped: its thread waits until main has made room, or is ended meanwhile. */
  #reserve(bytesMax: number): number {
    let place = this.#ring.tryReserve(bytesMax)
    while (place < 0) {
      this.#onFull()
      place = this.#ring.reserve(bytesMax, ROOM_WAIT_MS)
    }
    return place
  }

  #head(place: number, slot: number, generation: number, atMs: number, ranMs: number): void {
    this.#words[place >>> 2] = slot
    this.#words[(place >>> 2) + 1] = generation
    this.#doubles[(place >>> 3) + 1] = atMs
    this.#doubles[(place >>> 3) + 2] = ranMs
  }

  /** Writes UTF-8 and returns its length. A loop beats the call into Node for what most results are: a few letters. */
  #write(place: number, text: string): number {
    const length = text.length
    if (length > 32) return this.#bytes.write(text, place, 'utf8')
    for (let at = 0; at < length; at++) {
      const unit = text.charCodeAt(at)
      if (unit > 0x7f) return this.#bytes.write(text, place, 'utf8')
      this.#bytes[place + at] = unit
    }
    return length
  }
}

/** Reads the records of one lane's ring and hands them to the sink. Main's side; set `sink` before draining. */
export class ReportReader implements RecordVisitor {
  readonly #lane: number
  readonly #memory: LaneMemory
  readonly #bulk: MessagePort
  /** Counts completed and failed: the jobs that are no longer outstanding. */
  finished = 0
  sink: ReportSink | null = null
  /** What a task decided of the failure that comes next, and of which; a thread may end between the two. */
  #decided = { slot: -1, generation: 0, delayMs: 0 }

  constructor(lane: number, memory: LaneMemory, bulk: MessagePort) {
    this.#lane = lane
    this.#memory = memory
    this.#bulk = bulk
  }

  record(kind: number, start: number, end: number): void {
    const sink = this.sink!
    const slot = this.#memory.words[start >>> 2]!
    const generation = this.#memory.words[(start >>> 2) + 1]!
    const atMs = this.#memory.doubles[(start >>> 3) + 1]!
    switch (kind & KIND_MASK) {
      case STARTED:
        sink.started(this.#lane, slot, generation, atMs)
        return
      case COMPLETED:
      case FAILED: {
        this.finished++
        const ranMs = this.#memory.doubles[(start >>> 3) + 2]!
        const bytes = kind & BULK ? this.#receive() : this.#memory.bytes
        const from = kind & BULK ? 0 : start + BODY_BYTES
        const to = kind & BULK ? bytes.length : end
        if ((kind & KIND_MASK) === COMPLETED) sink.completed(this.#lane, slot, generation, atMs, ranMs, bytes, from, to)
        else {
          const decided = this.#decided
          const decidedMs = decided.slot === slot && decided.generation === generation ? decided.delayMs : null
          const retryable = (kind & RETRYABLE) !== 0
          sink.failed(this.#lane, slot, generation, atMs, ranMs, retryable, bytes, from, to, decidedMs)
        }
        return
      }
      case DECIDED:
        this.#decided = { slot, generation, delayMs: atMs }
        return
      case HEARTBEAT:
        sink.heartbeat(this.#lane, slot, generation, atMs)
        return
      case COMPLETING:
        sink.completing(this.#lane, slot, generation)
        return
      case PROGRESS:
        sink.progress(this.#lane, slot, generation, this.#memory.bytes, start + BODY_BYTES, end)
        return
      case LOG:
        sink.log(this.#lane, slot, generation, this.#memory.bytes, start + BODY_BYTES, end)
        return
      default:
        invariant(false, 'a record of the ring has a kind that does not exist', { kind })
    }
  }

  #receive(): Uint8Array {
    const received = receiveMessageOnPort(this.#bulk) as { message: ArrayBuffer } | undefined
    invariant(received !== undefined, 'a large report was announced and is not there')
    return new Uint8Array(received.message)
  }
}

/** At least the number of UTF-8 bytes of a text; exact for long ones, where three per unit would waste room. */
function bound(text: string): number {
  return text.length <= 1024 ? text.length * 3 : Buffer.byteLength(text)
}
