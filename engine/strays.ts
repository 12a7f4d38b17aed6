// Finds stray leases: leases that PostgreSQL says are this node's and that nothing in the node accounts for. A claim that
// committed and whose answer was lost leaves one, and because the node goes on renewing its row, no other node would
// ever rescue it. So the node compares: with every beat, right after any statement that takes jobs has failed, and every
// second while such a statement has no answer. What nothing accounts for goes back to its place, uncharged.
//
// A lease counts as stray only when two looks a while apart both find it unknown, and only after the statement that may
// still bring it has had time to answer. A lease that is being reopened is revoked first: should its answer arrive after
// all, its jobs are not taken in. So no job runs here under a lease that was given back.

import type { Clock, Timer } from './base/clock.ts'
import { messageOf } from './base/errors.ts'
import type { Log } from './base/log.ts'

/** Between two looks, and so long a lease must stay unknown; of a node with a short limit a quarter of that. */
const CONFIRM_MS = 1_000
const CONFIRM_SHARE = 1 / 4
/** The same while a statement is under way that may bring the lease. A slow answer should not cost its jobs a second claim. */
const ANSWER_MS = 3_000
const ANSWER_SHARE = 1 / 2
/** After a failure the statement may still commit: looks go on for this long. */
const LOOKS_AFTER_FAILURE = 3
/** Leases remembered as arrived, and as revoked. One that arrived and was forgotten counts as never held. */
const REMEMBERED_MAX = 10_000

export interface StraysNeeds {
  readonly clock: Clock
  readonly log: Log
  readonly store: {
    /** The leases of the node that are not among those it knows. */
    strayLeases(nodeId: number, known: readonly number[]): Promise<number[]>
    /** Gives the jobs of these leases back. Null: the node was declared dead, and others see to its leases. */
    reopenStrays(
      nodeId: number,
      leaseIds: readonly number[],
      rescuesMax: number,
      held: boolean,
    ): Promise<{ leases: number; reopened: number; buried: number } | null>
  }
  /** 0 or less: not a member now; nothing is looked at. */
  nodeId(): number
  /** Adds the lease of everything that this node holds, or has ended and not yet written. */
  addKnown(leaseIds: Set<number>): void
  /** Jobs are ready again. */
  onReopened(jobs: number): void
}

interface Leased {
  readonly leaseId: number
}

export class Strays {
  readonly #needs: StraysNeeds
  readonly #rescuesMax: number
  readonly #confirmMs: number
  readonly #answerMs: number
  /** When each statement that takes jobs and has not answered yet was sent. Steady ms. */
  readonly #pending = new Map<object, number>()
  /** Unknown leases, and when they were first found so. Steady ms. */
  #unknown = new Map<number, number>()
  /** Leases that were or are being reopened: an answer that brings one comes too late. */
  readonly #revoked = new Recent()
  readonly #arrived = new Recent()
  #nodeId = 0
  #looking: Promise<void> | null = null
  #again = false
  #looksLeft = 0
  #timer: Timer | null = null
  #stopped = false
  /** Looks; leases found and reopened, and their jobs; chunks that arrived after their lease was revoked. */
  readonly counts = { looks: 0, leases: 0, jobs: 0, late: 0, errors: 0 }

  constructor(
    needs: StraysNeeds,
    { nodeLimitMs, rescuesMax }: { readonly nodeLimitMs: number; readonly rescuesMax: number },
  ) {
    this.#needs = needs
    this.#rescuesMax = rescuesMax
    this.#confirmMs = Math.min(CONFIRM_MS, nodeLimitMs * CONFIRM_SHARE)
    this.#answerMs = Math.min(ANSWER_MS, nodeLimitMs * ANSWER_SHARE)
  }

  /** Runs a statement that takes jobs for this node. When it fails, it may have taken some all the same. */
  async taking<T>(take: () => Promise<T>): Promise<T> {
    const statement = {}
    this.#pending.set(statement, this.#needs.clock.steadyMs())
    this.#lookIn(this.#confirmMs)
    try {
      return await take()
    } catch (error) {
      this.#looksLeft = LOOKS_AFTER_FAILURE
      this.look()
      throw error
    } finally {
      this.#pending.delete(statement)
    }
  }

  /** What of an answer may be taken in: chunks whose lease was given back meanwhile are left out. */
  admit<Chunk extends Leased>(chunks: readonly Chunk[]): readonly Chunk[] {
    const admitted = this.#revoked.isEmpty ? chunks : chunks.filter(({ leaseId }) => !this.#revoked.has(leaseId))
    this.counts.late += chunks.length - admitted.length
    for (const { leaseId } of admitted) this.#arrived.add(leaseId)
    return admitted
  }

  /** Compares now; calls that come meanwhile are one more look. */
  look(): void {
    if (this.#stopped) return
    this.#again = this.#looking !== null
    this.#looking ??= this.#look().finally(() => {
      this.#looking = null
      if (this.#again) this.look()
    })
  }

  /** Resolves when no look is under way. Safe twice. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#timer?.cancel()
    await this.#looking
  }

  async #look(): Promise<void> {
    const { clock, log, store } = this.#needs
    const nodeId = this.#needs.nodeId()
    if (nodeId !== this.#nodeId) this.#begin(nodeId)
    if (nodeId <= 0) return
    this.counts.looks++
    if (this.#looksLeft > 0) this.#looksLeft--
    try {
      const found = await store.strayLeases(nodeId, [...this.#known()])
      if (this.#needs.nodeId() !== nodeId) return
      const strays = this.#confirmed(found, clock.steadyMs())
      const held = strays.filter((id) => this.#arrived.has(id))
      const lost = strays.filter((id) => !this.#arrived.has(id))
      for (const id of lost) this.#revoked.add(id)
      if (held.length > 0) await this.#reopen(nodeId, held, true)
      if (lost.length > 0) await this.#reopen(nodeId, lost, false)
    } catch (error) {
      if (this.counts.errors++ % 100 === 0) log.warn({ error: messageOf(error) }, 'lease.look_failed')
      this.#looksLeft = Math.max(1, this.#looksLeft)
    }
    if (this.#looksLeft > 0 || this.#unknown.size > 0 || this.#pending.size > 0) this.#lookIn(this.#confirmMs)
  }

  #begin(nodeId: number): void {
    this.#nodeId = nodeId
    this.#unknown = new Map()
  }

  #known(): Set<number> {
    const known = new Set<number>()
    this.#needs.addKnown(known)
    return known
  }

  /** Which of them have been unknown for long enough. */
  #confirmed(found: readonly number[], nowMs: number): number[] {
    const known = this.#known() // some have arrived while we asked
    const before = this.#unknown
    this.#unknown = new Map()
    const confirmed: number[] = []
    for (const id of found) {
      if (known.has(id)) continue
      const sinceMs = before.get(id) ?? nowMs
      this.#unknown.set(id, sinceMs)
      const patienceMs = this.#isPendingSince(sinceMs) ? this.#answerMs : this.#confirmMs
      if (nowMs - sinceMs >= patienceMs) confirmed.push(id)
    }
    return confirmed
  }

  /** A statement that was sent before then may still bring a lease that was found then. */
  #isPendingSince(atMs: number): boolean {
    for (const sentMs of this.#pending.values()) if (sentMs <= atMs) return true
    return false
  }

  async #reopen(nodeId: number, leaseIds: readonly number[], held: boolean): Promise<void> {
    const { log, store, onReopened } = this.#needs
    const done = await store.reopenStrays(nodeId, leaseIds, this.#rescuesMax, held)
    if (done === null) return
    for (const id of leaseIds) this.#unknown.delete(id)
    this.counts.leases += done.leases
    this.counts.jobs += done.reopened
    log.warn({ ...done, ids: leaseIds.slice(0, 20), held }, 'lease.strays_reopened')
    if (done.reopened > 0) onReopened(done.reopened)
  }

  #lookIn(ms: number): void {
    if (this.#timer !== null || this.#stopped) return
    this.#timer = this.#needs.clock.after(ms, () => {
      this.#timer = null
      // the statement that the timer was set for has answered long ago
      if (this.#looksLeft > 0 || this.#unknown.size > 0 || this.#isPendingSince(this.#needs.clock.steadyMs() - ms / 2))
        this.look()
    })
  }
}

/** Lease ids, the last so many that were added. */
class Recent {
  readonly #ids = new Set<number>()

  get isEmpty(): boolean {
    return this.#ids.size === 0
  }

  has(id: number): boolean {
    return this.#ids.has(id)
  }

  add(id: number): void {
    this.#ids.add(id)
    if (this.#ids.size > REMEMBERED_MAX) this.#ids.delete(this.#ids.values().next().value!)
  }
}
