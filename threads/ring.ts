// A ring of bytes with one writer (a thread) and one reader (main). The writer's steps are visible: reserve a place,
// write into it, publish. What was not published is never seen, what was published is seen once, whatever happens to
// the writer; a thread that is ended spoils nothing.
//
// `tryReserve` refuses by value when there is no room; only a thread may `reserve`, which waits. Main never waits here.

import { invariant } from '../engine/base/errors.ts'
import { HEAD, type LaneMemory, PADDING, RECORD_HEAD_BYTES, TAIL, WRITER_WAITS } from './layout.ts'

const REFUSED = -1

/** Main gives room back in steps of this size, so that a long drain does not keep the thread waiting. */
const GIVE_BACK_BYTES = 64 * 1024

export class RingWriter {
  readonly #memory: LaneMemory
  readonly #mask: number
  /** Bytes of the largest body: two such records and their padding always fit, so waiting always ends. */
  readonly bodyBytesMax: number
  #tail: number
  #headSeen: number
  #padding = 0
  #reserved = REFUSED
  #reservedBytes = 0

  constructor(memory: LaneMemory) {
    this.#memory = memory
    this.#mask = memory.ringBytes - 1
    this.bodyBytesMax = memory.ringBytes / 4 - RECORD_HEAD_BYTES
    this.#tail = Atomics.load(memory.header, TAIL) >>> 0
    this.#headSeen = Atomics.load(memory.header, HEAD) >>> 0
  }

  /**
   * Looks for room for a body of at most `bytesMax` bytes. Returns where to write it (byte offset in the ring, a
   * multiple of 8), or -1 when there is no room now. Nothing is visible yet; a later reserve forgets this one.
   */
  tryReserve(bytesMax: number): number {
    if (bytesMax > this.bodyBytesMax) invariant(false, 'a record is larger than a quarter of its ring', { bytesMax })
    const need = RECORD_HEAD_BYTES + aligned(bytesMax)
    const position = this.#tail & this.#mask
    const toEnd = this.#memory.ringBytes - position
    this.#padding = need > toEnd ? toEnd : 0
    if (this.#free() < need + this.#padding) {
      this.#headSeen = Atomics.load(this.#memory.header, HEAD) >>> 0
      if (this.#free() < need + this.#padding) {
        this.#reserved = REFUSED
        return REFUSED
      }
    }
    this.#reservedBytes = bytesMax
    this.#reserved = this.#padding > 0 ? 0 : position
    return this.#reserved + RECORD_HEAD_BYTES
  }

  /** As tryReserve, and waits for room at most `timeoutMs`. Blocks its thread: never called on main. */
  reserve(bytesMax: number, timeoutMs: number): number {
    const place = this.tryReserve(bytesMax)
    if (place !== REFUSED) return place
    const { header } = this.#memory
    Atomics.store(header, WRITER_WAITS, 1) // before the next look at head: main stores head, then looks here
    const again = this.tryReserve(bytesMax)
    if (again === REFUSED) Atomics.wait(header, HEAD, this.#headSeen | 0, timeoutMs)
    Atomics.store(header, WRITER_WAITS, 0)
    return again === REFUSED ? this.tryReserve(bytesMax) : again
  }

  /** Makes the reserved record visible, with `bytes` (at most what was reserved) of body. */
  publish(kind: number, bytes: number): void {
    if (this.#reserved === REFUSED || bytes > this.#reservedBytes || kind === PADDING)
      invariant(false, 'a record is published only after it was reserved', { kind, bytes })
    const { words, header } = this.#memory
    if (this.#padding > 0) {
      const at = (this.#tail & this.#mask) >>> 2
      words[at] = this.#padding - RECORD_HEAD_BYTES
      words[at + 1] = PADDING
    }
    const at = this.#reserved >>> 2
    words[at] = bytes
    words[at + 1] = kind
    this.#tail = (this.#tail + this.#padding + RECORD_HEAD_BYTES + aligned(bytes)) >>> 0
    this.#reserved = REFUSED
    Atomics.store(header, TAIL, this.#tail | 0) // after every plain store above: this is what makes them visible
  }

  /** Bytes that are written and not yet read, as far as the writer knows. */
  usedBytes(): number {
    this.#headSeen = Atomics.load(this.#memory.header, HEAD) >>> 0
    return (this.#tail - this.#headSeen) >>> 0
  }

  #free(): number {
    return this.#memory.ringBytes - ((this.#tail - this.#headSeen) >>> 0)
  }
}

/** Gets every record: its kind and its body as bytes [start, end) of the ring, valid only during the call. */
export interface RecordVisitor {
  record(kind: number, start: number, end: number): void
}

export class RingReader {
  readonly #memory: LaneMemory
  readonly #mask: number
  #head: number

  constructor(memory: LaneMemory) {
    this.#memory = memory
    this.#mask = memory.ringBytes - 1
    this.#head = Atomics.load(memory.header, HEAD) >>> 0
  }

  isEmpty(): boolean {
    return Atomics.load(this.#memory.header, TAIL) >>> 0 === this.#head
  }

  /**
   * Visits records in order, up to what was published when it was called and at most `limit`; returns how many. A
   * visitor that throws has seen its record: the next drain goes on behind it.
   */
  drain(limit: number, visitor: RecordVisitor): number {
    const { words, header, ringBytes } = this.#memory
    const tail = Atomics.load(header, TAIL) >>> 0 // before every plain load below
    let givenBack = this.#head
    let seen = 0
    try {
      while (this.#head !== tail && seen < limit) {
        const position = this.#head & this.#mask
        const length = words[position >>> 2]!
        const kind = words[(position >>> 2) + 1]!
        if (position + RECORD_HEAD_BYTES + length > ringBytes)
          invariant(false, 'a record of the ring ends outside of it', { position, length, kind })
        this.#head = (this.#head + RECORD_HEAD_BYTES + aligned(length)) >>> 0
        if (kind !== PADDING) {
          seen++
          visitor.record(kind, position + RECORD_HEAD_BYTES, position + RECORD_HEAD_BYTES + length)
        }
        if ((this.#head - givenBack) >>> 0 >= GIVE_BACK_BYTES) {
          givenBack = this.#head
          this.#giveBack()
        }
      }
    } finally {
      if (givenBack !== this.#head) this.#giveBack()
    }
    return seen
  }

  #giveBack(): void {
    const { header } = this.#memory
    Atomics.store(header, HEAD, this.#head | 0) // before the look at the flag: the writer sets it, then looks at head
    if (Atomics.load(header, WRITER_WAITS) === 1) Atomics.notify(header, HEAD)
  }
}

function aligned(bytes: number): number {
  return (bytes + 7) & ~7
}
