// Rows as the bytes of PostgreSQL's binary COPY format: an int16 field count, then per field an int32 length (-1 is
// null) and the value, big-endian. Built in one growing buffer, without an object per row.

import { pipeline } from 'node:stream/promises'
import type pg from 'pg'
import { from as copyFrom } from 'pg-copy-streams'

/** 'PGCOPY\n\xff\r\n\0', flags 0, no extension. */
const HEADER = Buffer.from([0x50, 0x47, 0x43, 0x4f, 0x50, 0x59, 0x0a, 0xff, 0x0d, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0])
const TRAILER = Buffer.from([0xff, 0xff])
/** PostgreSQL counts microseconds from 2000-01-01. */
export const EPOCH_MS = 946_684_800_000
/** An int64 travels as two words of 32 bits. */
export const TWO_32 = 4_294_967_296
/** One CopyData message: large enough to be cheap, small enough not to hold the socket's memory twice. */
const PIECE_BYTES = 256 * 1024

export class CopyBuffer {
  #bytes: Buffer
  #end = 0
  /** Sum of what sizedText wrote. */
  payloadBytes = 0

  constructor(bytes = 64 * 1024) {
    this.#bytes = Buffer.allocUnsafe(bytes)
  }

  get length(): number {
    return this.#end
  }

  /** What was written so far; valid until the next write. */
  take(): Buffer {
    return this.#bytes.subarray(0, this.#end)
  }

  row(fields: number): void {
    this.#room(2)
    this.#end = this.#bytes.writeInt16BE(fields, this.#end)
  }

  null(): void {
    this.#room(4)
    this.#end = this.#bytes.writeInt32BE(-1, this.#end)
  }

  int8(value: number): void {
    this.#room(12)
    const high = Math.floor(value / TWO_32)
    let at = this.#bytes.writeInt32BE(8, this.#end)
    at = this.#bytes.writeInt32BE(high, at)
    this.#end = this.#bytes.writeUInt32BE(value - high * TWO_32, at)
  }

  int4(value: number): void {
    this.#room(8)
    this.#end = this.#bytes.writeInt32BE(value, this.#bytes.writeInt32BE(4, this.#end))
  }

  int2(value: number): void {
    this.#room(6)
    this.#end = this.#bytes.writeInt16BE(value, this.#bytes.writeInt32BE(2, this.#end))
  }

  bool(value: boolean): void {
    this.#room(5)
    this.#end = this.#bytes.writeInt8(value ? 1 : 0, this.#bytes.writeInt32BE(1, this.#end))
  }

  /** A wall time in milliseconds as timestamptz. */
  time(ms: number): void {
    this.int8(Math.round((ms - EPOCH_MS) * 1_000))
  }

  /** Text or json; answers its bytes in UTF-8. */
  text(value: string): number {
    // three bytes per UTF-16 unit is the worst case
    this.#room(4 + value.length * 3)
    const bytes = this.#bytes.write(value, this.#end + 4, 'utf8')
    this.#bytes.writeInt32BE(bytes, this.#end)
    this.#end += 4 + bytes
    return bytes
  }

  /** A payload preceded by its size in bytes as an int4 field. */
  sizedText(value: string): void {
    const at = this.#end
    this.int4(0)
    const bytes = this.text(value)
    this.#bytes.writeInt32BE(bytes, at + 4)
    this.payloadBytes += bytes
  }

  #room(bytes: number): void {
    if (this.#end + bytes <= this.#bytes.length) return
    const larger = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, this.#end + bytes))
    this.#bytes.copy(larger, 0, 0, this.#end)
    this.#bytes = larger
  }
}

/** Sends tuples (without header and trailer) to a table. `target` is `schema.table (columns)`. */
export async function copyIn(client: pg.Client, target: string, pieces: Iterable<Buffer>): Promise<void> {
  const stream = client.query(copyFrom(`copy ${target} from stdin (format binary)`))
  await pipeline(function* () {
    yield HEADER
    for (const piece of pieces) {
      for (let at = 0; at < piece.length; at += PIECE_BYTES) yield piece.subarray(at, at + PIECE_BYTES)
    }
    yield TRAILER
  }, stream)
}
