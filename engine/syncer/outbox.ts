// What PostgreSQL would not take, safe on disk: flushes that were left when the engine stopped, sent again at the next
// start, and outcomes that PostgreSQL refuses for ever, kept as evidence.
//
//   <folder>/flush   waits for the next start
//   <folder>/dead    refused; kept for a person
//
// It promises: when `put` resolves, the flush survives a crash. A flush is deleted only after its sending was confirmed,
// so it may be sent twice; its number makes that harmless. A record that cannot be read is put aside with a warning and
// does not stop the others. It never grows beyond its limit, and says loudly when it cannot keep something. There is no
// folder until something has to be kept.

import { join } from 'node:path'
import type { Clock } from '../base/clock.ts'
import { codeOf, messageOf } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { RecordFolder } from '../base/record-folder.ts'
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
  readonly folder: string
  /** Bytes of the flushes that wait. Default 1 GiB. Evidence may take a quarter as much beside them. */
  readonly bytesMax?: number
}

export interface ReplayReport {
  /** Flushes that were sent and are gone from the disk. */
  readonly sent: number
  /** Flushes of nodes whose work others had taken over: dropped, the jobs run again. */
  readonly stale: number
  /** Flushes that PostgreSQL refused, now in `dead`. */
  readonly refused: number
  /** Records that could not be read, now in `unreadable`. */
  readonly unreadable: number
  /** Flushes that still wait. */
  readonly left: number
  /** What ended the replay early; null when it came to its end. */
  readonly error: unknown
}

export const OUTBOX_BYTES_DEFAULT = 1024 ** 3
const EVIDENCE_SHARE = 4
/** A flush settles up to thousands of jobs, and an outbox of ten thousand is a disaster of its own. */
const RECORDS_MAX = 10_000
/** A file that was not finished for so long has no writer any more. */
const UNFINISHED_MS = 3_600_000

export class Outbox {
  readonly #folder: string
  readonly #bytesMax: number
  readonly #origin: () => OutboxOrigin
  readonly #clock: Clock
  readonly #log: Log
  #shelves: { flush: RecordFolder<OutboxRecord>; dead: RecordFolder<DeadRecord> } | null = null

  /** `origin` is asked when something is kept or replayed; the node must be known by then. */
  constructor(options: OutboxOptions, origin: () => OutboxOrigin, clock: Clock, log: Log) {
    this.#folder = options.folder
    this.#bytesMax = options.bytesMax ?? OUTBOX_BYTES_DEFAULT
    this.#origin = origin
    this.#clock = clock
    this.#log = log
  }

  /**
   * Keeps a flush; it is safe on disk when this resolves.
   * @throws EngineError OUTBOX_FAILED when the disk, the folder or the limit does not allow it.
   */
  put(nodeId: number, flush: Flush): Promise<void> {
    return this.#open().flush.append({ ...this.#origin(), nodeId, storedAtMs: this.#clock.wallMs(), flush })
  }

  /** Keeps a refused outcome. Throws like `put`. */
  putDead(record: DeadRecord): Promise<void> {
    return this.#open().dead.append(record)
  }

  /**
   * Sends what waits for this schema, oldest first. A record is deleted when `send` has resolved. The first failure
   * ends the replay and leaves the rest for the next time; but what PostgreSQL refuses for what it says goes to `dead`,
   * and what belongs to a node that has been taken over (NODE_FENCED) is dropped.
   */
  async replay(send: (record: OutboxRecord) => Promise<unknown>): Promise<ReplayReport> {
    const { flush } = this.#open()
    const { schema } = this.#origin()
    const counts = { sent: 0, stale: 0, refused: 0, unreadable: 0, left: 0 }
    let failure: unknown = null
    await flush.sweep(this.#clock.wallMs() - UNFINISHED_MS)
    for (const name of await flush.names()) {
      if (failure !== null) {
        counts.left++
        continue
      }
      const record = await flush.read(name)
      if (record === null) {
        counts.unreadable++
        await flush.setAside(name)
        this.#log.warn({ folder: this.#folder, name }, 'outbox.unreadable')
        continue
      }
      if (record.schema !== schema) continue
      try {
        const end = await this.#sendOne(record, send)
        await flush.remove(name)
        counts[end]++
      } catch (error) {
        failure = error
        counts.left++
      }
    }
    return { ...counts, error: failure }
  }

  /** What is in it. */
  async counts(): Promise<Record<'flush' | 'dead', { records: number; bytes: number }>> {
    const { flush, dead } = this.#open()
    return { flush: await flush.usage(), dead: await dead.usage() }
  }

  /** The refused outcomes, oldest first. */
  async deads(limit: number): Promise<DeadRecord[]> {
    const { dead } = this.#open()
    const found: DeadRecord[] = []
    for (const name of (await dead.names()).slice(0, limit)) {
      const record = await dead.read(name)
      if (record !== null) found.push(record)
    }
    return found
  }

  /** Resolves when everything that was given before is on disk or has failed. */
  async close(): Promise<void> {
    await this.#shelves?.flush.settled()
    await this.#shelves?.dead.settled()
  }

  async #sendOne(
    record: OutboxRecord,
    send: (record: OutboxRecord) => Promise<unknown>,
  ): Promise<'sent' | 'stale' | 'refused'> {
    try {
      await send(record)
      return 'sent'
    } catch (error) {
      if (codeOf(error) === 'NODE_FENCED') return 'stale'
      if (!blamesData(error)) throw error
      const { nodeId, flush } = record
      const [sqlState, message] = [sqlStateOf(error), messageOf(error)]
      await this.putDead({ atMs: this.#clock.wallMs(), nodeId, jobId: null, leaseId: null, sqlState, message, flush })
      this.#log.error({ no: flush.no, nodeId, sqlState, error: message }, 'failed to write job run update')
      return 'refused'
    }
  }

  #open(): { flush: RecordFolder<OutboxRecord>; dead: RecordFolder<DeadRecord> } {
    if (this.#shelves === null) {
      const { nodeUid } = this.#origin()
      const limits = { bytesMax: this.#bytesMax, recordsMax: RECORDS_MAX }
      const evidence = { ...limits, bytesMax: this.#bytesMax / EVIDENCE_SHARE }
      this.#shelves = {
        flush: new RecordFolder(join(this.#folder, 'flush'), nodeUid, limits),
        dead: new RecordFolder(join(this.#folder, 'dead'), nodeUid, evidence),
      }
    }
    return this.#shelves
  }
}
