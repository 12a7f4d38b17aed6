// What the loop tells of its occurrences, gathered until there is enough to write: of each the last state only.

import type { OccurrenceState } from '../store/types.ts'
import type { Page } from './batcher.ts'

const STATE_BYTES = 200 // an object of seven fields and its two names

export class OccurrencePage implements Page {
  readonly #states = new Map<string, OccurrenceState>()
  #errorBytes = 0

  get count(): number {
    return this.#states.size
  }

  get bytes(): number {
    return this.#states.size * STATE_BYTES + this.#errorBytes
  }

  get rows(): OccurrenceState[] {
    return [...this.#states.values()]
  }

  add(state: OccurrenceState): void {
    this.#states.set(state.runId, state)
    this.#errorBytes += state.error?.length ?? 0
  }

  reset(): void {
    this.#states.clear()
    this.#errorBytes = 0
  }
}
