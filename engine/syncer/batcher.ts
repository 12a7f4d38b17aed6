// A buffer with a writer behind it, bounded at every step. Outcomes of jobs and statistics of the loop both go this way.
//
//   append ──► open page ──► sealed pages ──► channel ──► writer (one page at a time) ──► settled, page used again
//              └────────── buffer ─────────┘
//
// Appending is synchronous and never waits. A flush is asked for by size (the buffer reached its threshold), by time
// (something has waited for `lingerMs`) or by a caller; it is a signal that holds one, so asking twice is asking once.
// While the writer works, whatever arrives gathers in the buffer and goes next, all at once: batches grow with the load
// and no timer decides. What was handed over is frozen; only the open page changes.
//
// It promises: pages are written in order, each once, and a page leaves only after its write has settled. It never
// drops anything: `close` waits for room instead, and `abandon` gives back what is left.

import type { Clock, Timer } from '../base/clock.ts'
import { EngineError, messageOf } from '../base/errors.ts'
import type { Log } from '../base/log.ts'

/** One batch in the making. `count` is what the limits count, `bytes` what it holds in memory. */
export interface Page {
  readonly count: number
  readonly bytes: number
  /** Empties it for the next use. */
  reset(): void
}

export interface BatcherOptions {
  /** For messages and log lines: what is buffered, e.g. `job run update`. */
  readonly name: string
  /** A flush starts at once when this many are buffered. */
  readonly threshold: number
  /** The longest time that less than that waits, in ms. */
  readonly lingerMs: number
  /** What one page, and with it one write, takes at most. */
  readonly pageCountMax: number
  readonly pageBytesMax: number
  /** What may stand handed over and not yet written. */
  readonly channelCountMax: number
  /** The hard limit of the buffer; above half of it `hasRoom` says no. */
  readonly bufferCountMax: number
  /** Above it `hasRoom` says no; twice as much is the hard limit. Counts the page in flight too. */
  readonly bytesMax: number
}

/** What made the writer move. */
export type Trigger = 'size' | 'time' | 'asked'

/** How far a handing over came: `full` when the channel had no room for all, and the rest stays in the buffer. */
export interface HandOver {
  readonly handed: number
  readonly full: boolean
}

interface Entry<P> {
  readonly page: P
  readonly serial: number // 0: it did not come through the buffer
}

interface Waiter {
  readonly serial: number
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

const SPARE_PAGES_MAX = 2 // one being filled, one being written, and one on the way

export class Batcher<P extends Page> {
  readonly #clock: Clock
  readonly #log: Log
  readonly #options: BatcherOptions
  readonly #newPage: () => P
  readonly #write: (page: P) => Promise<void>
  readonly #onSettled: () => void
  readonly #onFailed: (error: unknown) => void

  #open: P // written by the caller, through `page`
  #openSerial = 1
  readonly #sealed: Entry<P>[] = []
  #sealedCount = 0
  #sealedBytes = 0
  readonly #channel: Entry<P>[] = []
  #channelCount = 0
  #channelBytes = 0
  #writing: Entry<P> | null = null
  #settledSerial = 0
  readonly #spare: P[] = []
  #signal: Trigger | null = null
  #timer: Timer | null = null
  #pumpAsked = false
  #started = false
  #phase: 'open' | 'closing' | 'closed' = 'open'
  #failure: unknown = null
  #waiters: Waiter[] = []
  #idle: (() => void) | null = null

  /**
   * `write` settles one page; it deals with its own errors, and one that it throws stops the writer.
   * `onSettled` is called after every page, `onFailed` when the writer has stopped by an error of `write`.
   */
  constructor(
    options: BatcherOptions,
    clock: Clock,
    log: Log,
    newPage: () => P,
    write: (page: P) => Promise<void>,
    onSettled: () => void = () => {},
    onFailed: (error: unknown) => void = () => {},
  ) {
    this.#options = options
    this.#clock = clock
    this.#log = log
    this.#newPage = newPage
    this.#write = write
    this.#onSettled = onSettled
    this.#onFailed = onFailed
    this.#open = newPage()
  }

  /** The page to append to. Call `added` after each append. */
  get page(): P {
    return this.#open
  }

  /** Appended and not yet handed over. */
  get buffered(): number {
    return this.#sealedCount + this.#open.count
  }

  /** Everything that is not settled yet: buffer, channel and flight. */
  get held(): number {
    return this.buffered + this.#channelCount + (this.#writing?.page.count ?? 0)
  }

  /** Every page that is not settled yet. */
  *pages(): Iterable<P> {
    yield this.#open
    for (const entry of this.#sealed) yield entry.page
    for (const entry of this.#channel) yield entry.page
    if (this.#writing !== null) yield this.#writing.page
  }

  get heldBytes(): number {
    return this.#sealedBytes + this.#open.bytes + this.#channelBytes + (this.#writing?.page.bytes ?? 0)
  }

  /** Handed over and not yet taken by the writer. */
  get channelCount(): number {
    return this.#channelCount
  }

  /** The flush that was asked for and has not begun. */
  get signal(): Trigger | null {
    return this.#signal
  }

  hasRoom(): boolean {
    return (
      this.#failure === null &&
      this.buffered < this.#options.bufferCountMax / 2 &&
      this.heldBytes < this.#options.bytesMax
    )
  }

  /**
   * To be called after each append.
   * @throws EngineError BUFFER_OVERFLOW beyond the hard limit. What was appended is kept all the same: it has happened.
   * @throws EngineError STOPPING after `close`.
   */
  added(): void {
    if (this.#phase !== 'open') throw new EngineError('STOPPING', `the ${this.#options.name} buffer is closed`)
    const { threshold, pageCountMax, pageBytesMax, bufferCountMax, bytesMax } = this.#options
    if (this.#open.count >= pageCountMax || this.#open.bytes >= pageBytesMax) this.#seal()
    const buffered = this.buffered
    if (buffered >= threshold) this.#ask('size')
    else if (this.#timer === null && this.#started && this.#writing === null && this.#signal === null) this.#arm()
    if (buffered > bufferCountMax) throw this.#overflow(buffered, bufferCountMax)
    const bytes = this.heldBytes
    if (bytes > 2 * bytesMax) throw this.#overflow(bytes, 2 * bytesMax)
  }

  /** Starts the writer. What was buffered before goes as if it had just arrived. */
  start(): void {
    if (this.#started || this.#phase !== 'open') return
    this.#started = true
    if (this.#signal !== null || this.#channelCount > 0) this.#wake()
    else if (this.buffered > 0) this.#arm()
  }

  /** Asks for a flush and does not wait. */
  ask(): void {
    this.#ask('asked')
  }

  /** Resolves when everything that was appended before is settled; rejects when it cannot be. */
  flush(): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    const serial = this.#lastSerial()
    if (serial <= this.#settledSerial) return Promise.resolve()
    return new Promise((resolve, reject) => {
      this.#waiters.push({ serial, resolve, reject })
      this.#ask('asked')
    })
  }

  /** Hands over now what the channel has room for, page by page. */
  tryFlush(): HandOver {
    let handed = 0
    if (this.#open.count > 0) this.#seal()
    while (this.#sealed.length > 0) {
      const count = this.#sealed[0]!.page.count
      if (!this.#fits(count)) return { handed, full: true }
      handed += count
      this.#handOverFirst()
    }
    this.#signal = null
    return { handed, full: false }
  }

  /** Puts a page into the channel past the buffer; false when there is no room. The page belongs to the batcher then. */
  trySend(page: P): boolean {
    if (this.#phase === 'closed' || !this.#fits(page.count)) return false
    this.#enter({ page, serial: 0 })
    this.#wake()
    return true
  }

  /**
   * Takes nothing more, writes everything, resolves when the writer has ended: stop signal, final flush (waiting for
   * room in the channel), channel closed, writer drained. Waits for ever when the writer does; `abandon` ends that.
   */
  async close(): Promise<void> {
    if (this.#phase !== 'open') return
    this.#phase = 'closing'
    this.#disarm()
    const { name } = this.#options
    this.#log.debug({ name, buffered: this.buffered }, 'buffer.closing')
    while (this.#started && this.#failure === null && this.tryFlush().full) await this.#settled()
    this.#log.debug({ name, channel: this.#channelCount }, 'buffer.flushed')
    this.#phase = 'closed'
    this.#log.debug({ name }, 'channel.closed')
    while (this.#started && this.#failure === null && (this.#writing !== null || this.#channel.length > 0))
      await this.#settled()
    this.#log.debug({ name }, 'writer.ended')
  }

  /**
   * Gives up: takes nothing more, writes nothing more, and returns what was not settled, oldest first. The first may be
   * in flight, in which case its write goes on and its end is ignored. Waiting `flush` calls stay open until `settleAll`.
   */
  abandon(): { inFlight: P | null; waiting: P[] } {
    this.#phase = 'closed'
    this.#disarm()
    if (this.#open.count > 0) this.#seal()
    const inFlight = this.#writing?.page ?? null
    const waiting = [...this.#channel, ...this.#sealed].map((entry) => entry.page)
    this.#failure ??= new EngineError('STOPPING', `the ${this.#options.name} writer was stopped`)
    this.#writing = null
    this.#channel.length = 0
    this.#sealed.length = 0
    this.#channelCount = this.#channelBytes = this.#sealedCount = this.#sealedBytes = 0
    this.#idle?.()
    return { inFlight, waiting }
  }

  /** After `abandon`: ends the waiting `flush` calls, with an error when what they wait for was not kept anywhere. */
  settleAll(error: unknown): void {
    const waiters = this.#waiters
    this.#waiters = []
    for (const waiter of waiters) error === null ? waiter.resolve() : waiter.reject(error)
  }

  #overflow(size: number, max: number): EngineError {
    const { name } = this.#options
    return new EngineError('BUFFER_OVERFLOW', `${name} buffer exceeded maximum size: ${size} > ${max}`, { size, max })
  }

  #lastSerial(): number {
    return this.#open.count > 0 ? this.#openSerial : this.#openSerial - 1
  }

  #ask(trigger: Trigger): void {
    this.#signal ??= trigger
    this.#wake()
  }

  #arm(): void {
    this.#timer = this.#clock.after(this.#options.lingerMs, () => {
      this.#timer = null
      if (this.buffered > 0) this.#ask('time')
    })
  }

  #disarm(): void {
    this.#timer?.cancel()
    this.#timer = null
  }

  /** Lets the writer look, after the caller has finished what it is doing: one burst becomes one write. */
  #wake(): void {
    if (this.#pumpAsked || !this.#started || this.#writing !== null || this.#failure !== null) return
    this.#pumpAsked = true
    queueMicrotask(() => {
      this.#pumpAsked = false
      this.#pump()
    })
  }

  #pump(): void {
    if (this.#writing !== null || this.#failure !== null) return
    if (this.#channel.length === 0 && this.#signal !== null && this.buffered > 0) {
      if (this.#sealed.length === 0) this.#seal()
      this.#handOverFirst()
    }
    if (this.buffered === 0) this.#signal = null
    const entry = this.#channel.shift()
    if (entry === undefined) return
    this.#disarm()
    this.#channelCount -= entry.page.count
    this.#channelBytes -= entry.page.bytes
    this.#writing = entry
    this.#write(entry.page).then(
      () => this.#settle(entry),
      (error) => this.#fail(entry, error),
    )
  }

  #settle(entry: Entry<P>): void {
    if (this.#writing !== entry) return // abandoned meanwhile
    this.#writing = null
    if (entry.serial > 0) this.#settledSerial = entry.serial
    entry.page.reset()
    if (this.#spare.length < SPARE_PAGES_MAX) this.#spare.push(entry.page)
    this.#waiters = this.#waiters.filter((waiter) => {
      if (waiter.serial > this.#settledSerial) return true
      waiter.resolve()
      return false
    })
    if (this.buffered > 0) this.#signal ??= 'asked' // what came meanwhile goes next
    this.#pump()
    this.#idle?.()
    try {
      this.#onSettled()
    } catch (error) {
      this.#halt(error)
    }
  }

  /** A write that does not know what to do stops the writer; nothing is dropped, and `abandon` finds it all. */
  #fail(entry: Entry<P>, error: unknown): void {
    if (this.#writing === entry) this.#halt(error)
  }

  #halt(error: unknown): void {
    this.#failure = error
    this.#log.error({ name: this.#options.name, error: messageOf(error) }, 'writer.failed')
    this.settleAll(error)
    this.#idle?.()
    this.#onFailed(error)
  }

  /** Resolves after the next page has left the writer, however that ended. */
  #settled(): Promise<void> {
    return new Promise((resolve) => {
      this.#idle = () => {
        this.#idle = null
        resolve()
      }
      this.#wake()
    })
  }

  #seal(): void {
    const page = this.#open
    this.#sealed.push({ page, serial: this.#openSerial++ })
    this.#sealedCount += page.count
    this.#sealedBytes += page.bytes
    this.#open = this.#spare.pop() ?? this.#newPage()
  }

  /** A page that is larger than the whole channel passes when the channel is empty: it must get through somehow. */
  #fits(count: number): boolean {
    return this.#channelCount === 0 || this.#channelCount + count <= this.#options.channelCountMax
  }

  #handOverFirst(): void {
    const entry = this.#sealed.shift()!
    this.#sealedCount -= entry.page.count
    this.#sealedBytes -= entry.page.bytes
    this.#enter(entry)
    this.#wake()
  }

  #enter(entry: Entry<P>): void {
    this.#channel.push(entry)
    this.#channelCount += entry.page.count
    this.#channelBytes += entry.page.bytes
  }
}
