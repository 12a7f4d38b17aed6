// Where in a queue nothing is left for this node. As long as somebody holds an old snapshot (a dump, a report, a stuck
// replica) PostgreSQL cannot remove what was claimed, and a claim from the beginning of the queue walks past all of it:
// 76 ns a job, 76 ms for every claim after a million of them (bench `snapshot`). So once claims from the beginning take long, a claim begins,
// in each rank, behind what this node has claimed from there, and only now and then at the beginning.
//
// What stands before a position is gone because this node took it, or because a claim that found all there was came after
// the mark: the last number that had been dealt. Only the mark tells of jobs of groups, which come by tickets with numbers of
// their own.
//
// A job may still become visible behind such a position: its transaction took long, or its holder gave it back in its
// place. A position is used when it is LAG_MS old, so that what is just being committed is not passed over; what is later
// than that is found by the next claim from the beginning. That one follows within FULL_EVERY_MS, or within the time in
// which its cost is a twentieth of all, but never later than FULL_EVERY_MAX_MS; sooner when there seems to be nothing left.
//
// The cost of a claim from the beginning is what the cheaper of the last two took: a single slow answer may be a stall of
// the network or of the server, which says nothing about dead rows.

import type { Position } from '../store/types.ts'

/** Shorter claims from the beginning are left alone. */
const SLOW_MS = 10
/** What a job adds to a claim anyway. */
const JOB_MS = 0.05
const LAG_MS = 250
const FULL_EVERY_MS = 1_000
/** However much it costs: jobs before the positions wait no longer than this. */
const FULL_EVERY_MAX_MS = 2_000
const FULL_SHARE = 20
/** The same when a claim behind the positions came back empty. */
const FULL_SHARE_EMPTY = 5
/** Ranks of a queue that are remembered: what is claimed from others is found from the beginning. */
const RANKS_MAX = 32

/** Of a claimed chunk what tells how far the claim came. */
export interface Claimed {
  readonly queueId: number
  readonly rank: number
  readonly seq: number
  readonly group: string | null
}

export interface Claim {
  /** Queues that were asked. */
  readonly queueIds: readonly number[]
  readonly chunks: readonly Claimed[]
  readonly jobs: number
  /** It took as much as it was to take: there may be more. */
  readonly mayLeave: boolean
  /** Time of PostgreSQL's answers, without reconnects. */
  readonly tookMs: number
  readonly nowMs: number
}

/** By queue, by rank. */
type Seqs = Map<number, Map<number, number>>

export class ClaimPositions {
  /** At least LAG_MS old. */
  #known: Seqs = new Map()
  #ripening: Seqs = new Map()
  #young: Seqs = new Map()
  #youngFromMs = 0
  #fullAtMs = 0
  /** The cheaper of the last two claims from the beginning, and the last one. */
  #fullTookMs = 0
  #lastFullTookMs = 0
  #wasEmpty = false
  #mark = { seq: 0, atMs: 0 }
  /** The mark before, LAG_MS older at least. */
  #oldMark = 0

  /** Forgets everything: what this node may claim has changed, or jobs may have come back to where they were. */
  clear(): void {
    this.#known = new Map()
    this.#ripening = new Map()
    this.#young = new Map()
    this.#oldMark = 0
    this.#fullTookMs = 0
    this.#lastFullTookMs = 0
  }

  /** It is time to tell the last number that was dealt. */
  wantsMark(nowMs: number): boolean {
    return this.#fullTookMs >= SLOW_MS && nowMs - this.#mark.atMs >= LAG_MS
  }

  mark(seq: number, nowMs: number): void {
    this.#oldMark = this.#mark.seq
    this.#mark = { seq, atMs: nowMs }
  }

  /** Behind which positions the next claim is to begin; null: at the beginning. */
  next(nowMs: number): Position[] | null {
    if (this.#fullTookMs < SLOW_MS) return null
    this.#ripen(nowMs)
    const againMs = this.#wasEmpty
      ? this.#fullTookMs * FULL_SHARE_EMPTY
      : Math.max(FULL_EVERY_MS, this.#fullTookMs * FULL_SHARE)
    if (nowMs - this.#fullAtMs >= Math.min(againMs, FULL_EVERY_MAX_MS)) return null
    const positions: Position[] = []
    for (const [queueId, ranks] of this.#known)
      for (const [rank, seq] of ranks) if (seq > 0) positions.push({ queueId, rank, seq })
    return positions.length > 0 ? positions : null
  }

  /** A claim that began behind `from` has taken these. */
  claimed(from: readonly Position[] | null, claim: Claim): void {
    const { chunks, jobs, nowMs } = claim
    this.#wasEmpty = jobs === 0
    if (from === null) {
      this.#fullAtMs = nowMs
      const tookMs = claim.tookMs - jobs * JOB_MS
      this.#fullTookMs = Math.min(tookMs, this.#lastFullTookMs)
      this.#lastFullTookMs = tookMs
      if (claim.mayLeave) this.#stepBack(chunks)
    }
    this.#ripen(nowMs)
    // what a chunk was cut from keeps its number
    for (const { queueId, rank, seq, group } of chunks) raise(this.#young, queueId, rank, group === null ? seq - 1 : 0)
    if (claim.mayLeave || this.#oldMark === 0) return
    for (const seqs of [this.#known, this.#ripening, this.#young])
      for (const queueId of claim.queueIds)
        for (const rank of seqs.get(queueId)?.keys() ?? []) raise(this.#known, queueId, rank, this.#oldMark)
  }

  /** What was left stands behind the last that was taken; where the ticket of a group stood is not known. */
  #stepBack(chunks: readonly Claimed[]): void {
    const last = new Map<number, { rank: number; seq: number }>()
    for (const { queueId, rank, seq, group } of chunks) {
      const place = { rank, seq: group === null ? seq : 0 }
      const other = last.get(queueId)
      if (other === undefined || rank > other.rank) last.set(queueId, place)
      else if (rank === other.rank) other.seq = other.seq === 0 ? 0 : place.seq && Math.max(other.seq, place.seq)
    }
    for (const [queueId, { rank: lastRank, seq }] of last)
      for (const seqs of [this.#known, this.#ripening, this.#young]) {
        const ranks = seqs.get(queueId)
        for (const [rank, known] of ranks ?? [])
          if (rank > lastRank) ranks!.delete(rank)
          else if (rank === lastRank) ranks!.set(rank, Math.min(known, seq - 1))
      }
  }

  #ripen(nowMs: number): void {
    if (nowMs - this.#youngFromMs < LAG_MS) return
    for (const [queueId, ranks] of this.#ripening)
      for (const [rank, seq] of ranks) raise(this.#known, queueId, rank, seq)
    this.#ripening = this.#young
    this.#young = new Map()
    this.#youngFromMs = nowMs
  }
}

function raise(seqs: Seqs, queueId: number, rank: number, seq: number): void {
  const ranks = seqs.get(queueId) ?? new Map<number, number>()
  seqs.set(queueId, ranks)
  if (ranks.size < RANKS_MAX || ranks.has(rank)) ranks.set(rank, Math.max(ranks.get(rank) ?? 0, seq))
}
