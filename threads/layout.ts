// The memory that main and one thread share: one SharedArrayBuffer per lane, and one small control page per pool.
// This file only names places; ring.ts and lane.ts say what happens there.
//
//   byte   0  tail            ring: where the thread writes next     thread writes, main reads
//          ...                (rest of the line unused)
//        128  head            ring: where main reads next            main writes, thread reads and waits on it
//        132  writerWaits     1 while the thread waits for room      thread writes, main reads
//        256  grant           taken (low 16) | limit (high 16)       both, by compareExchange only
//        384  loadingFile     1 + index of the file being imported   thread writes, main reads
//        388  loadStep        counts imports begun                   thread writes, main reads
//        392  threadId        which thread runs this lane            thread writes, main reads
//        512  ring bytes      records                                thread writes, main reads
//
// What main stores often and what the thread stores often lie 128 bytes apart: processors fetch lines of 64 bytes in
// pairs, and two cores that write into one pair take it from each other with every store.
//
// tail, head, taken and limit are counters that wrap: tail and head modulo 2^32, taken and limit modulo 2^16. They are
// compared by difference, never by size. A ring's capacity is a power of two, so position = counter & (capacity - 1)
// stays right over the wrap.
//
// A record of the ring starts at a multiple of 8:
//
//   +0  u32 length    bytes that follow the 8-byte head, without the filling up to a multiple of 8
//   +4  u32 kind      0 is padding: nothing more until the end of the ring, the next record stands at its start
//   +8  body
//
// A payload is contiguous, because a record that would cross the end is preceded by padding. Everything is little
// endian, as are all processors that Node runs on; layout refuses to load elsewhere.

import { endianness } from 'node:os'
import { invariant } from '../engine/base/errors.ts'

invariant(endianness() === 'LE', 'the rings of the threads need a little endian processor')

// Places in the header, as indexes of 32-bit words.
export const TAIL = 0
export const HEAD = 32
export const WRITER_WAITS = 33
export const GRANT = 64
export const LOADING_FILE = 96
export const LOAD_STEP = 97
export const THREAD_ID = 98

export const HEADER_BYTES = 512

/** Kind 0 of a record; what it stands before is skipped. */
export const PADDING = 0
export const RECORD_HEAD_BYTES = 8

/** Below, one progress value would be too much for a quarter of the ring; above, positions leave the safe range. */
export const RING_BYTES_MIN = 128 * 1024
export const RING_BYTES_MAX = 1024 * 1024 * 1024
/** Holds about 15,000 finished no-op jobs; a thread then waits for main, which it does not in practice. */
export const RING_BYTES_DEFAULT = 1024 * 1024

/** Fed and unreported jobs of one lane: below 2^15, so that differences of 16-bit counters are never ambiguous. */
export const LANE_JOBS_MAX = 32_000

/** Places of the pool's control page. ASLEEP: 1 while main sleeps and wants the bell; main sets it, both clear it. */
export const ASLEEP = 0
export const CONTROL_BYTES = 128

/** Views of one lane's shared memory. */
export interface LaneMemory {
  readonly shared: SharedArrayBuffer
  /** The header, word by word. */
  readonly header: Int32Array
  readonly ringBytes: number
  readonly bytes: Uint8Array
  readonly words: Uint32Array
  readonly doubles: Float64Array
}

/** Makes the memory of a new lane. `ringBytes` must be a power of two within the bounds above. */
export function createLaneMemory(ringBytes: number): LaneMemory {
  invariant(
    ringBytes >= RING_BYTES_MIN && ringBytes <= RING_BYTES_MAX && (ringBytes & (ringBytes - 1)) === 0,
    'ringBytes must be a power of two from 128 KiB to 1 GiB',
    { ringBytes },
  )
  return openLaneMemory(new SharedArrayBuffer(HEADER_BYTES + ringBytes))
}

/** Views of memory that the other side made. */
export function openLaneMemory(shared: SharedArrayBuffer): LaneMemory {
  const ringBytes = shared.byteLength - HEADER_BYTES
  return {
    shared,
    header: new Int32Array(shared, 0, HEADER_BYTES / 4),
    ringBytes,
    bytes: new Uint8Array(shared, HEADER_BYTES, ringBytes),
    words: new Uint32Array(shared, HEADER_BYTES, ringBytes / 4),
    doubles: new Float64Array(shared, HEADER_BYTES, ringBytes / 8),
  }
}

/** Jobs granted and not taken, of a grant word. */
export function untakenOf(grant: number): number {
  return ((grant >>> 16) - grant) & 0xffff
}

/** The thread takes the next granted job; false when nothing is granted. */
export function takeOne(header: Int32Array): boolean {
  for (;;) {
    const grant = Atomics.load(header, GRANT)
    if (untakenOf(grant) === 0) return false
    const next = (grant & 0xffff_0000) | ((grant + 1) & 0xffff)
    if (Atomics.compareExchange(header, GRANT, grant, next) === grant) return true
  }
}

/** Main allows the thread `count` more jobs. */
export function grantMore(header: Int32Array, count: number): void {
  for (;;) {
    const grant = Atomics.load(header, GRANT)
    const next = ((((grant >>> 16) + count) & 0xffff) << 16) | (grant & 0xffff)
    if (Atomics.compareExchange(header, GRANT, grant, next) === grant) return
  }
}

/** Main takes back every grant that was not used; returns how many. What the thread took before stays taken. */
export function revokeAll(header: Int32Array): number {
  for (;;) {
    const grant = Atomics.load(header, GRANT)
    const next = ((grant & 0xffff) << 16) | (grant & 0xffff)
    if (Atomics.compareExchange(header, GRANT, grant, next) === grant) return untakenOf(grant)
  }
}
