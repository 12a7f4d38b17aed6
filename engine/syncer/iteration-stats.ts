// What the loop tells about each of its iterations, gathered until there is enough to write.

import type { IterationStats } from '../store/types.ts'
import type { Page } from './batcher.ts'

const STATS_BYTES = 96 // an object of six numbers

export class StatsPage implements Page {
  rows: IterationStats[] = []

  get count(): number {
    return this.rows.length
  }

  get bytes(): number {
    return this.rows.length * STATS_BYTES
  }

  add(stats: IterationStats): void {
    this.rows.push(stats)
  }

  reset(): void {
    this.rows = []
  }
}
