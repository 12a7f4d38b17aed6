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
//
// Engines may share a folder, also while they start and stop. A record is named after the node whose flush it is, and
// says which store it is for. Any of them may send it, also two at once, and also while that node still stops: a node
// has given up sending before it puts its first record. The records of one node are sent in their order by whoever does.

import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import type { Clock } from '../base/clock.ts'
import { codeOf, messageOf } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { RecordFolder } from '../base/record-folder.ts'
import { blamesData, sqlStateOf } from '../store/refusal.ts'
import type { Flush } from '../store/types.ts'

/** Whose outcomes these are: a node id alone means nothing in another database. */
export interface OutboxOrigin {
  readonly schema: string
  /** Names the database and schema for ever: another database may have a schema of the same name. */
  readonly storeId: string
  /** The UUID of the node's incarnation. Empty before it has joined. */
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
  /** Flushes that still wait behind a failure. */
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
  readonly #origin: () => OutboxOrigin
  readonly #clock: Clock
  readonly #log: Log
  readonly #flush: RecordFolder<OutboxRecord>
  readonly #dead: RecordFolder<DeadRecord>
  /** Names evidence of a replay before this process is a node. */
  readonly #ownName = randomUUID()

  /** `origin` is asked whenever something is kept or replayed: the node may be another one by then. */
  constructor(options: OutboxOptions, origin: () => OutboxOrigin, clock: Clock, log: Log) {
    const bytesMax = options.bytesMax ?? OUTBOX_BYTES_DEFAULT
    this.#folder = options.folder
    this.#flush = new RecordFolder(join(this.#folder, 'flush'), { bytesMax, recordsMax: RECORDS_MAX })
    this.#dead = new RecordFolder(join(this.#folder, 'dead'), {
      bytesMax: bytesMax / EVIDENCE_SHARE,
      recordsMax: RECORDS_MAX,
    })
    this.#origin = origin
    this.#clock = clock
    this.#log = log
  }

  /**
   * Keeps a flush; it is safe on disk when this resolves.
   * @throws EngineError OUTBOX_FAILED when the disk, the folder or the limit does not allow it.
   */
  put(nodeId: number, flush: Flush): Promise<void> {
    const origin = this.#origin()
    return this.#flush.append({ ...origin, nodeId, storedAtMs: this.#clock.wallMs(), flush }, origin.nodeUid)
  }

  /** Keeps a refused outcome. Throws like `put`. */
  putDead(record: DeadRecord): Promise<void> {
    return this.#dead.append(record, this.#origin().nodeUid || this.#ownName)
  }

  /**
   * Sends what waits for this store, oldest first. A record is deleted when `send` has resolved. The first failure
   * ends the replay and leaves the rest for the next time; but what PostgreSQL refuses for what it says goes to `dead`,
   * and what belongs to a node that has been taken over (NODE_FENCED) is dropped.
   */
  async replay(send: (record: OutboxRecord) => Promise<unknown>): Promise<ReplayReport> {
    const { schema, storeId } = this.#origin()
    const counts = { sent: 0, stale: 0, refused: 0, unreadable: 0, left: 0 }
    let failure: unknown = null
    await this.#flush.sweep(this.#clock.wallMs() - UNFINISHED_MS)
    for (const name of await this.#flush.names()) {
      if (failure !== null) {
        counts.left++ // unread: it may be for another store
        continue
      }
      const found = await this.#flush.read(name)
      if (found === 'gone') continue // another engine has sent it
      if (found === 'unreadable') {
        counts.unreadable++
        await this.#flush.setAside(name)
        this.#log.warn({ folder: this.#folder, name }, 'outbox.unreadable')
        continue
      }
      const record = found.value
      if (record.schema !== schema || record.storeId !== storeId) continue
      try {
        const end = await this.#sendOne(record, send)
        // When another engine sends the same, it may have been the last thing that was expected of that node.
        const wasSent = end === 'stale' && !(await this.#flush.has(name))
        await this.#flush.remove(name)
        if (!wasSent) counts[end]++
      } catch (error) {
        failure = error
        counts.left++
      }
    }
    return { ...counts, error: failure }
  }

  /** What is in it. */
  async counts(): Promise<Record<'flush' | 'dead', { records: number; bytes: number }>> {
    return { flush: await this.#flush.usage(), dead: await this.#dead.usage() }
  }

  /** The refused outcomes, oldest first. */
  async deads(limit: number): Promise<DeadRecord[]> {
    const records: DeadRecord[] = []
    for (const name of (await this.#dead.names()).slice(0, limit)) {
      const found = await this.#dead.read(name)
      if (typeof found === 'object') records.push(found.value)
    }
    return records
  }

  /** Resolves when everything that was given before is on disk or has failed. */
  async close(): Promise<void> {
    await this.#flush.settled()
    await this.#dead.settled()
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
}
