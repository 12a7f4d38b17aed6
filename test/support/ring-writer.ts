// A thread that writes numbered records into a ring, for test/ring.test.ts. Record n has a body that only n explains.
// Told so, it stops for ever in the middle of one record, as a thread that is ended there does.

import { parentPort, workerData } from 'node:worker_threads'
import { openLaneMemory } from '../../threads/layout.ts'
import { RingWriter } from '../../threads/ring.ts'

export interface RingWriterArgs {
  shared: SharedArrayBuffer
  count: number
  /** Stop for ever at this record, after this step. */
  stopAt?: { record: number; after: 'reserve' | 'write' | 'publish' }
}

/** Bytes of the body of record n: 4 for the number, and a filling of changing length. */
export function bodyBytes(n: number): number {
  return 4 + ((n * 7) % 61)
}

export function fillByte(n: number, at: number): number {
  return (n * 31 + at) & 0xff
}

export const RECORD_KIND = 9

function write(args: RingWriterArgs): void {
  const memory = openLaneMemory(args.shared)
  const ring = new RingWriter(memory)
  const stopAfter = (record: number, step: string) => {
    if (args.stopAt?.record !== record || args.stopAt.after !== step) return
    parentPort!.postMessage('stopped')
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
  }
  for (let n = 0; n < args.count; n++) {
    const bytes = bodyBytes(n)
    let place = ring.tryReserve(bytes)
    while (place < 0) place = ring.reserve(bytes, 600_000) // only main can wake it in time
    stopAfter(n, 'reserve')
    memory.words[place >>> 2] = n
    for (let at = 4; at < bytes; at++) memory.bytes[place + at] = fillByte(n, at)
    stopAfter(n, 'write')
    ring.publish(RECORD_KIND, bytes)
    stopAfter(n, 'publish')
  }
  parentPort!.postMessage('done')
}

if (parentPort !== null && workerData !== null) write(workerData as RingWriterArgs)
