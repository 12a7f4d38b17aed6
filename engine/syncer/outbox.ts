// What PostgreSQL would not take, safe on disk: flushes that were left when the engine stopped, sent again at the next
// start, and single outcomes that PostgreSQL refuses for ever, kept as evidence. A small LMDB file in a folder of its
// own, opened when it is first needed and not before.
//
// It promises: when `put` returns, the flush is on disk, and a process that is killed in the middle of a write leaves
// all earlier ones as they were. A flush is deleted only after its sending was confirmed, so it may be sent twice; its
// number makes that harmless. A record that cannot be read is put aside with a warning and does not stop the others.
// It never grows beyond its limit, and it says loudly when it cannot keep something.
//
//   flush    [order, bytes] -> record     waits for the next start
//   dead     [order, bytes] -> record     refused; kept for a person
//   aside    [order, bytes] -> bytes      unreadable; kept for a person

import { existsSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { deserialize, serialize } from 'node:v8'
import { crc32 } from 'node:zlib'
import { type Database, open, type RootDatabase } from 'lmdb'
import type { Clock } from '../base/clock.ts'
import { codeOf, EngineError, messageOf } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { Flush } from '../store/types.ts'
import { blamesData, sqlStateOf } from './refusal.ts'

/** Whose outcomes these are: a node id alone means nothing in another database. */
export interface OutboxOrigin {
  readonly schema: string
  /** The UUID of the node's incarnation. */
  readonly nodeUid: string
}

/** A flush that waits. */
export interface OutboxRecord extends OutboxOrigin {
  readonly nodeId: number
  readonly storedAtMs: number
  readonly flush: Flush
}

/** An outcome, or a whole flush of an earlier life (`jobId` null), that PostgreSQL refused for what it says. */
export interface DeadRecord {
  readonly atMs: number
  readonly nodeId: number
  readonly jobId: number | null
  readonly leaseId: number | null
  readonly sqlState: string | null
  readonly message: string
  readonly flush: Flush
}

export interface OutboxOptions {
  /** Folder of its own; made when first needed. */
  readonly folder: string
  /** Bytes of everything in it. Default 1 GiB. */
  readonly bytesMax?: number
}

export interface ReplayReport {
  /** Flushes that were sent and are gone from the disk. */
  readonly sent: number
  /** Flushes of nodes whose work others had taken over: dropped, the jobs run again. */
  readonly stale: number
  /** Flushes that PostgreSQL refused, now in `dead`. */
  readonly refused: number
  /** Records that could not be read, now in `aside`. */
  readonly unreadable: number
  /** Flushes that still wait. */
  readonly left: number
  /** What ended the replay early; null when it came to its end. */
  readonly error: unknown
}

type Key = [order: number, bytes: number]
type Shelf = Database<Buffer, Key>

export const OUTBOX_BYTES_DEFAULT = 1024 ** 3
/** Of the limit; evidence must not take the place of what has still to be sent. */
const EVIDENCE_SHARE = 4
const MAP_BYTES_FIRST = 1024 * 1024 // grows by itself; where files are as large as their map it starts small
const MAGIC = 0x4d524f31 // "MRO1"
const HEAD_BYTES = 8

interface Opened {
  readonly root: RootDatabase<Buffer, Key>
  readonly flush: Shelf
  readonly dead: Shelf
  readonly aside: Shelf
}

export class Outbox {
  readonly #folder: string
  readonly #bytesMax: number
  readonly #origin: () => OutboxOrigin
  readonly #clock: Clock
  readonly #log: Log
  #opened: Opened | null = null

  constructor(options: OutboxOptions, origin: () => OutboxOrigin, clock: Clock, log: Log) {
    this.#folder = options.folder
    this.#bytesMax = options.bytesMax ?? OUTBOX_BYTES_DEFAULT
    this.#origin = origin
    this.#clock = clock
    this.#log = log
  }

  /**
   * Keeps a flush; it is on disk when this resolves.
   * @throws EngineError OUTBOX_FAILED when the disk, the folder or the limit does not allow it.
   */
  async put(nodeId: number, flush: Flush): Promise<void> {
    const record: OutboxRecord = { ...this.#origin(), nodeId, storedAtMs: this.#clock.wallMs(), flush }
    this.#store('flush', record, this.#bytesMax)
  }

  /** Keeps a refused outcome. Throws like `put`. */
  async putDead(record: DeadRecord): Promise<void> {
    this.#store('dead', record, this.#bytesMax / EVIDENCE_SHARE)
  }

  /**
   * Sends what waits for this schema, oldest first. A record is deleted when `send` has resolved. The first failure
   * ends the replay and leaves the rest for the next time; but what PostgreSQL refuses for what it says goes to `dead`,
   * and what belongs to a node that has been taken over (NODE_FENCED) is dropped.
   */
  async replay(send: (record: OutboxRecord) => Promise<unknown>): Promise<ReplayReport> {
    const counts = { sent: 0, stale: 0, refused: 0, unreadable: 0 }
    if (this.#opened === null && !existsSync(this.#folder)) return { ...counts, left: 0, error: null }
    const shelves = this.#open()
    const { schema } = this.#origin()
    let left = 0
    let failure: unknown = null
    for (const key of [...shelves.flush.getKeys()]) {
      const bytes = shelves.flush.get(key)
      if (bytes === undefined) continue // another process was faster
      const record = decode<OutboxRecord>(bytes)
      if (record === null) {
        this.#move(shelves, key, 'aside', bytes)
        counts.unreadable++
        this.#log.warn({ folder: this.#folder, order: key[0], bytes: key[1] }, 'outbox.unreadable')
        continue
      }
      if (record.schema !== schema) continue
      if (failure !== null) {
        left++
        continue
      }
      try {
        await send(record)
        counts.sent++
      } catch (error) {
        if (codeOf(error) === 'NODE_FENCED') counts.stale++
        else if (blamesData(error)) {
          await this.putDead(refused(record, error, this.#clock.wallMs()))
          counts.refused++
          this.#log.error({ no: record.flush.no, error: messageOf(error) }, 'failed to write job run update')
        } else {
          failure = error
          left++
          continue
        }
      }
      this.#safely('delete from', () => shelves.flush.transactionSync(() => void shelves.flush.removeSync(key)))
    }
    return { ...counts, left, error: failure }
  }

  /** What is in it: records and bytes per shelf. Opens nothing that does not exist. */
  counts(): Record<'flush' | 'dead' | 'aside', { records: number; bytes: number }> {
    const none = { records: 0, bytes: 0 }
    if (this.#opened === null && !existsSync(this.#folder)) return { flush: none, dead: none, aside: none }
    const { flush, dead, aside } = this.#open()
    return { flush: weigh(flush), dead: weigh(dead), aside: weigh(aside) }
  }

  /** The refused outcomes, oldest first. */
  deads(limit: number): DeadRecord[] {
    if (this.#opened === null && !existsSync(this.#folder)) return []
    const records = [...this.#open().dead.getRange({ limit })].map(({ value }) => decode<DeadRecord>(value))
    return records.filter((record) => record !== null)
  }

  async close(): Promise<void> {
    const opened = this.#opened
    this.#opened = null
    await opened?.root.close()
  }

  #store(shelf: 'flush' | 'dead', record: OutboxRecord | DeadRecord, bytesMax: number): void {
    const bytes = encode(record)
    const shelves = this.#open()
    this.#safely('write to', () =>
      shelves.root.transactionSync(() => {
        const evidence = weigh(shelves.dead).bytes + weigh(shelves.aside).bytes
        const used = evidence + (shelf === 'flush' ? weigh(shelves.flush).bytes : 0)
        if (used + bytes.length > bytesMax)
          throw new EngineError('OUTBOX_FAILED', `the outbox is full: ${used} of ${bytesMax} bytes`, {
            folder: this.#folder,
            used,
            bytesMax,
            needed: bytes.length,
          })
        append(shelves[shelf], bytes)
      }),
    )
  }

  #move(shelves: Opened, key: Key, to: 'aside', bytes: Buffer): void {
    this.#safely('write to', () =>
      shelves.root.transactionSync(() => {
        append(shelves[to], bytes)
        shelves.flush.removeSync(key)
      }),
    )
  }

  #open(): Opened {
    if (this.#opened !== null) return this.#opened
    let root: RootDatabase<Buffer, Key>
    try {
      root = openRoot(this.#folder)
    } catch (error) {
      if (!existsSync(join(this.#folder, 'data.mdb'))) throw this.#failed('open', error)
      // It is there and is no database any more. It must not stop the engine, and it must not be thrown away.
      const aside = `${this.#folder}.unreadable-${this.#clock.wallMs()}`
      this.#log.error({ folder: this.#folder, aside, error: messageOf(error) }, 'outbox.unreadable')
      root = this.#safely('replace', () => {
        renameSync(this.#folder, aside)
        return openRoot(this.#folder)
      })
    }
    this.#opened = this.#safely('open', () => ({
      root,
      flush: root.openDB<Buffer, Key>({ name: 'flush', encoding: 'binary' }),
      dead: root.openDB<Buffer, Key>({ name: 'dead', encoding: 'binary' }),
      aside: root.openDB<Buffer, Key>({ name: 'aside', encoding: 'binary' }),
    }))
    return this.#opened
  }

  #safely<T>(verb: string, work: () => T): T {
    try {
      return work()
    } catch (error) {
      throw error instanceof EngineError ? error : this.#failed(verb, error)
    }
  }

  #failed(verb: string, error: unknown): EngineError {
    const message = `cannot ${verb} the outbox ${this.#folder}: ${messageOf(error)}`
    return new EngineError('OUTBOX_FAILED', message, { folder: this.#folder, cause: codeOf(error) }, error)
  }
}

/** Commits wait for the disk: without `overlappingSync` a commit that has returned is durable. */
function openRoot(folder: string): RootDatabase<Buffer, Key> {
  return open<Buffer, Key>({
    path: folder,
    noSubdir: false,
    mapSize: MAP_BYTES_FIRST,
    compression: false,
    encoding: 'binary',
    overlappingSync: false,
    maxDbs: 3,
  })
}

/** Behind the last one; the bytes are in the key so that weighing a shelf reads no values. */
function append(shelf: Shelf, bytes: Buffer): void {
  const last = [...shelf.getKeys({ reverse: true, limit: 1 })][0]
  shelf.putSync([(last?.[0] ?? 0) + 1, bytes.length], bytes)
}

function weigh(shelf: Shelf): { records: number; bytes: number } {
  let records = 0
  let bytes = 0
  for (const key of shelf.getKeys()) {
    records++
    bytes += key[1]
  }
  return { records, bytes }
}

function encode(record: OutboxRecord | DeadRecord): Buffer {
  const body = serialize(record)
  const bytes = Buffer.allocUnsafe(HEAD_BYTES + body.length)
  bytes.writeUInt32BE(MAGIC, 0)
  bytes.writeUInt32BE(crc32(body), 4)
  body.copy(bytes, HEAD_BYTES)
  return bytes
}

/** Null when it is not what was written. */
function decode<T>(bytes: Buffer): T | null {
  if (bytes.length < HEAD_BYTES || bytes.readUInt32BE(0) !== MAGIC) return null
  const body = Buffer.from(bytes.subarray(HEAD_BYTES))
  if (crc32(body) !== bytes.readUInt32BE(4)) return null
  try {
    return deserialize(body) as T
  } catch {
    return null // written by a newer Node.js than this one
  }
}

function refused(record: OutboxRecord, error: unknown, atMs: number): DeadRecord {
  const { nodeId, flush } = record
  const message = messageOf(error)
  return { atMs, nodeId, jobId: null, leaseId: null, sqlState: sqlStateOf(error), message, flush }
}
