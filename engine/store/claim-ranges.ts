// A claim that begins behind positions, as the ranges of (rank, seq) that it walks, in their order: from the beginning up to
// the first of those ranks, then behind each position up to the next of those ranks, the last one without an end.

import type { Position } from './types.ts'

export interface Ranges {
  readonly queueIds: number[]
  /** A range begins behind (rank, seq), ... */
  readonly ranks: number[]
  readonly seqs: number[]
  /** ... and ends with this rank. */
  readonly lastRanks: number[]
}

/** A queue without a position is one range. */
export function rangesOf(queueIds: readonly number[], after: readonly Position[]): Ranges {
  const ranges: Ranges = { queueIds: [], ranks: [], seqs: [], lastRanks: [] }
  for (const queueId of queueIds) {
    let rank = Number.MIN_SAFE_INTEGER
    let seq = Number.MIN_SAFE_INTEGER
    const close = (lastRank: number) => {
      ranges.queueIds.push(queueId)
      ranges.ranks.push(rank)
      ranges.seqs.push(seq)
      ranges.lastRanks.push(lastRank)
    }
    for (const position of after.filter((it) => it.queueId === queueId).sort((a, b) => a.rank - b.rank)) {
      close(position.rank - 1)
      rank = position.rank
      seq = position.seq
    }
    close(Number.MAX_SAFE_INTEGER)
  }
  return ranges
}
