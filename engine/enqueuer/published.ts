// What nodes have published of tasks that this process has no definition of: the options that count where an enqueue does
// not say. A name is read from PostgreSQL before its first job. While jobs of it are enqueued it is read again every few
// seconds, in the background; after a pause of a minute before the next job. So hardly any call pays a round trip for it.

import type { Clock } from '../base/clock.ts'
import type { TaskDefaults } from './options.ts'

/** Older than this, it is read again while what is known still counts. */
const REFRESH_MS = 5_000
/** After a refresh that failed the next one is tried no sooner. */
const RETRY_MS = 1_000
/** Older than this, it counts no more. */
const AGE_MS_MAX = 60_000
/** Names that are remembered; the oldest are forgotten. */
const NAMES_MAX = 10_000
/** Unknown names that are told; whoever makes up names as he goes would fill the log. */
const WARNINGS_MAX = 100

export interface PublishedNeeds {
  readonly clock: Clock
  /** Published options by name; a name that is missing has none. */
  read(names: readonly string[]): Promise<ReadonlyMap<string, TaskDefaults>>
  /** Called once for each name that nobody has published, for the first hundred of them. */
  onUnknown(name: string): void
}

interface Known {
  readonly text: string
  readonly defaults: TaskDefaults | undefined
}

export class Published {
  readonly #needs: PublishedNeeds
  readonly #known = new Map<string, Known>()
  readonly #warned = new Set<string>()
  /** Queries in flight or about to be sent, by name; and the one that is not sent yet. */
  readonly #reads = new Map<string, Promise<void>>()
  #next: Promise<void> | null = null
  /** Steady time at which each name was read. */
  readonly #readAtMs = new Map<string, number>()
  /** Names whose next refresh is due, and who reads them. */
  readonly #stale = new Set<string>()
  #refreshing = false
  #failedAtMs = Number.NEGATIVE_INFINITY

  constructor(needs: PublishedNeeds) {
    this.#needs = needs
  }

  /** False: learn() must come first. */
  isKnown(name: string): boolean {
    const atMs = this.#readAtMs.get(name)
    return atMs !== undefined && this.#needs.clock.steadyMs() - atMs <= AGE_MS_MAX
  }

  /** What is known of it, the same object as long as it says the same. */
  of(name: string): TaskDefaults | undefined {
    const atMs = this.#readAtMs.get(name)
    if (atMs !== undefined && !this.#reads.has(name) && this.#needs.clock.steadyMs() - atMs > REFRESH_MS) {
      this.#stale.add(name)
      void this.#refresh()
    }
    return this.#known.get(name)?.defaults
  }

  /** Reads these names. Calls that come together share a query. */
  async learn(names: readonly string[]): Promise<void> {
    const waits = new Set<Promise<void>>()
    for (const name of names) {
      let read = this.#reads.get(name)
      if (read === undefined) {
        this.#next ??= Promise.resolve().then(() => this.#read())
        read = this.#next
        this.#reads.set(name, read)
      }
      waits.add(read)
    }
    await Promise.all(waits)
  }

  async #read(): Promise<void> {
    const mine = this.#next
    this.#next = null
    const names = [...this.#reads].filter(([, read]) => read === mine).map(([name]) => name)
    const atMs = this.#needs.clock.steadyMs()
    let found: ReadonlyMap<string, TaskDefaults>
    try {
      found = await this.#needs.read(names)
    } finally {
      for (const name of names) this.#reads.delete(name)
    }
    for (const name of names) {
      const defaults = found.get(name)
      const text = JSON.stringify(defaults ?? null)
      if (this.#known.get(name)?.text !== text) this.#known.set(name, { text, defaults })
      this.#readAtMs.delete(name) // the oldest stand first
      this.#readAtMs.set(name, atMs)
      if (defaults === undefined && !this.#warned.has(name) && this.#warned.size < WARNINGS_MAX) {
        this.#warned.add(name)
        this.#needs.onUnknown(name)
      }
    }
    for (const name of this.#readAtMs.keys()) {
      if (this.#readAtMs.size <= NAMES_MAX) break
      this.#readAtMs.delete(name)
      this.#known.delete(name)
    }
  }

  async #refresh(): Promise<void> {
    const { clock } = this.#needs
    if (this.#refreshing || clock.steadyMs() - this.#failedAtMs < RETRY_MS) return
    this.#refreshing = true
    try {
      while (this.#stale.size > 0) {
        const names = [...this.#stale]
        this.#stale.clear()
        await this.learn(names)
      }
    } catch {
      this.#failedAtMs = clock.steadyMs() // what is known counts on for a while; then a call reads it, and fails or not
    } finally {
      this.#refreshing = false
    }
  }
}
