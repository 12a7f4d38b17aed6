// Records on disk, one file each, in the order in which they came: for what must survive the process and has nowhere
// else to go.
//
// A record is written to a file of another name, synced, renamed, and the folder is synced: when `append` resolves it
// is there after a crash or a power cut, and a process that is killed in the middle leaves all others as they were.
// Several processes may use one folder at once: each names its records after itself, and whoever finds a record gone
// takes it as read by another.
// Each file carries a checksum. One that does not match is somebody else's damage and costs that record only: it is
// moved to the folder `unreadable`, never deleted, never in the way of the others.
//
// Files instead of an embedded database: there are few records, read once. LMDB 3.5.6 was tried first (2026-11): it
// ends the process with SIGSEGV when its file is garbage and with SIGBUS when it is cut, 42 ms and 13 MB to load it.

import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { deserialize, serialize } from 'node:v8'
import { crc32 } from 'node:zlib'
import { codeOf, EngineError, invariant, messageOf } from './errors.ts'

export interface RecordLimits {
  /** Of all files together. */
  readonly bytesMax: number
  readonly recordsMax: number
}

const MAGIC = 0x4d_52_46_31 // "MRF1", then crc32 of the body, then the body: v8.serialize of the value
const HEAD_BYTES = 8
const RECORD_NAME = /^(\d{12})-[\w-]+\.record$/
const WRITER = /^[\w-]+$/
const UNREADABLE = 'unreadable'
const UNFINISHED = '.unfinished'
/** Tries of a write whose unfinished file somebody with a wrong clock sweeps away. */
const WRITES_MAX = 5

/** What a name stands for: its record, damage, or nothing any more. */
export type Found<T> = { readonly value: T } | 'unreadable' | 'gone'

export class RecordFolder<T> {
  readonly #path: string
  readonly #limits: RecordLimits
  #known: { lastOrder: number; records: number; bytes: number } | null = null
  #tail: Promise<void> = Promise.resolve() // appends and removals, one after the other

  /** `limits` hold for all records that were there when this object first wrote, and for its own. */
  constructor(path: string, limits: RecordLimits) {
    this.#path = path
    this.#limits = limits
  }

  /**
   * Resolves when the record is safe on disk. Makes the folder when it is not there. `writer` (letters, digits, - and _) is
   * unique: it keeps the files of several processes apart, each of which has its own order.
   * @throws EngineError OUTBOX_FAILED when the disk or the limits do not allow it; nothing else has changed then.
   */
  append(value: T, writer: string): Promise<void> {
    return this.#next(async () => {
      invariant(WRITER.test(writer), 'a record is named after its writer', { writer })
      const bytes = encode(value)
      const known = await this.#know()
      const { bytesMax, recordsMax } = this.#limits
      if (known.bytes + bytes.length > bytesMax || known.records >= recordsMax)
        throw new EngineError('OUTBOX_FAILED', `${this.#path} is full: ${known.bytes} of ${bytesMax} bytes`, {
          path: this.#path,
          needed: bytes.length,
          ...known,
          ...this.#limits,
        })
      const name = `${String(known.lastOrder + 1).padStart(12, '0')}-${writer}.record`
      await this.#write(name, bytes)
      known.lastOrder++
      known.records++
      known.bytes += bytes.length
    })
  }

  /** The names of all records, oldest first. None when there is no folder. */
  async names(): Promise<string[]> {
    const names = await this.#safely('read', () => readdir(this.#path).catch(unlessMissing([])))
    return names.filter((name) => RECORD_NAME.test(name)).sort()
  }

  async read(name: string): Promise<Found<T>> {
    const bytes = await this.#safely('read', () => readFile(join(this.#path, name)).catch(unlessMissing(null)))
    return bytes === null ? 'gone' : decode<T>(bytes)
  }

  async has(name: string): Promise<boolean> {
    return (await this.#safely('read', () => stat(join(this.#path, name)).catch(unlessMissing(null)))) !== null
  }

  /** Deletes a record for good. Deleting twice is harmless. */
  remove(name: string): Promise<void> {
    return this.#next(() => this.#leave(name, (path) => rm(path, { force: true })))
  }

  /** Moves a record that cannot be read out of the way. */
  setAside(name: string): Promise<void> {
    return this.#next(async () => {
      await mkdir(join(this.#path, UNREADABLE), { recursive: true })
      await this.#leave(name, (path) =>
        rename(path, join(this.#path, UNREADABLE, name)).catch(unlessMissing(undefined)),
      )
    })
  }

  async usage(): Promise<{ records: number; bytes: number }> {
    let bytes = 0
    let records = 0
    for (const name of await this.names()) {
      const found = await this.#safely('read', () => stat(join(this.#path, name)).catch(unlessMissing(null)))
      if (found === null) continue
      bytes += found.size
      records++
    }
    return { records, bytes }
  }

  /** Resolves when everything that was asked for before is done. Nothing is held open in between. */
  async settled(): Promise<void> {
    await this.#tail
  }

  /** Deletes what writers that were killed left unfinished before `wallMs`. */
  async sweep(wallMs: number): Promise<void> {
    const names = await this.#safely('read', () => readdir(this.#path).catch(unlessMissing([])))
    for (const name of names.filter((found) => found.endsWith(UNFINISHED))) {
      const path = join(this.#path, name)
      const found = await stat(path).catch(unlessMissing(null))
      if (found !== null && found.mtimeMs < wallMs) await this.#safely('write', () => rm(path, { force: true }))
    }
  }

  async #know(): Promise<{ lastOrder: number; records: number; bytes: number }> {
    if (this.#known === null) {
      await mkdir(dirname(this.#path), { recursive: true }) // as others would make them: the embedded server lives there too
      await mkdir(this.#path, { recursive: true, mode: 0o700 }) // payloads and results are nobody else's business
      const last = (await this.names()).at(-1)
      this.#known = { lastOrder: Number(RECORD_NAME.exec(last ?? '')?.[1] ?? 0), ...(await this.usage()) }
    }
    return this.#known
  }

  async #write(name: string, bytes: Buffer): Promise<void> {
    const path = join(this.#path, name)
    const unfinished = `${path}${UNFINISHED}`
    try {
      for (let tries = 1; ; tries++) {
        const file = await open(unfinished, 'w', 0o600)
        try {
          await file.writeFile(bytes)
          await file.sync()
        } finally {
          await file.close()
        }
        const isSwept = await rename(unfinished, path).then(() => false, unlessMissing(true))
        if (!isSwept) break
        if (tries === WRITES_MAX) throw new Error(`${unfinished} was deleted again and again while it was written`)
      }
      await syncFolder(this.#path)
    } catch (error) {
      await rm(unfinished, { force: true }).catch(() => {})
      throw error
    }
  }

  async #leave(name: string, go: (path: string) => Promise<void>): Promise<void> {
    const path = join(this.#path, name)
    const found = await stat(path).catch(unlessMissing(null))
    if (found === null) return
    await go(path)
    await syncFolder(this.#path)
    if (this.#known === null) return
    this.#known.records--
    this.#known.bytes -= found.size
  }

  #next(work: () => Promise<void>): Promise<void> {
    const done = this.#tail.then(() => this.#safely('write', work))
    this.#tail = done.catch(() => {})
    return done
  }

  async #safely<R>(verb: string, work: () => Promise<R>): Promise<R> {
    try {
      return await work()
    } catch (error) {
      if (error instanceof EngineError) throw error
      const message = `cannot ${verb} ${this.#path}: ${messageOf(error)}`
      throw new EngineError('OUTBOX_FAILED', message, { path: this.#path, cause: codeOf(error) }, error)
    }
  }
}

function encode(value: unknown): Buffer {
  const body = serialize(value)
  const head = Buffer.alloc(HEAD_BYTES)
  head.writeUInt32BE(MAGIC, 0)
  head.writeUInt32BE(crc32(body), 4)
  return Buffer.concat([head, body])
}

function decode<T>(bytes: Buffer): Found<T> {
  if (bytes.length < HEAD_BYTES || bytes.readUInt32BE(0) !== MAGIC) return 'unreadable'
  const body = bytes.subarray(HEAD_BYTES)
  if (crc32(body) !== bytes.readUInt32BE(4)) return 'unreadable'
  try {
    return { value: deserialize(body) as T }
  } catch {
    return 'unreadable' // written by a newer Node.js than this one
  }
}

/** A new name is safe only when its folder is; Windows does that by itself and refuses to be asked. */
async function syncFolder(path: string): Promise<void> {
  if (process.platform === 'win32') return
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

function unlessMissing<T>(value: T): (error: unknown) => T {
  return (error) => {
    if (codeOf(error) === 'ENOENT') return value
    throw error
  }
}
