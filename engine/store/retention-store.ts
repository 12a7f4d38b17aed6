// What retention asks of PostgreSQL. It may take long and comes rarely, so it has a connection of its own that lives for
// one pass; nothing that is in a hurry waits behind it.

import { Session } from './connection.ts'
import { bindSchema } from './statements.ts'
import type { Store } from './store.ts'

/** An ANALYZE of a large history reads samples of every partition. */
const TIMEOUT_MS = 300_000

export interface RetiredSpan {
  readonly span: number
  readonly outcome: 'dropped' | 'held back' | 'busy'
  /** Jobs that moved to the attic; held back: that would have to. */
  readonly moved: number
}

export class RetentionStore {
  readonly #session: Session

  constructor(store: Store) {
    const { options } = store.session('ask')
    this.#session = new Session({ ...options, name: `${options.name} retention`, timeoutMs: TIMEOUT_MS })
  }

  /** The oldest span, when all of it is older than that; null when there is none. */
  async retireSpan(keepMs: number, movesMax: number): Promise<RetiredSpan | null> {
    const rows = await this.#ask<RetiredSpan>('select span, outcome, moved from millrace.retire_span($1, $2)', [
      keepMs,
      movesMax,
    ])
    return rows[0] ?? null
  }

  /** Forgets ended jobs of dropped spans. @returns how many */
  async sweepAttic(keepMs: number, limit: number): Promise<number> {
    return (await this.#ask<{ n: number }>('select millrace.sweep_attic($1, $2) as n', [keepMs, limit]))[0]!.n
  }

  /** @returns the tables that it was time for */
  async analyzeParents(ageMs: number): Promise<string[]> {
    return (await this.#ask<{ done: string[] }>('select millrace.analyze_parents($1) as done', [ageMs]))[0]!.done
  }

  close(): Promise<void> {
    return this.#session.close()
  }

  /** Drops the connection now; what is in flight fails and is rolled back. */
  abandon(): void {
    this.#session.abandon()
  }

  #ask<Row>(text: string, values: readonly unknown[]): Promise<Row[]> {
    return this.#session.query<Row>({ text: bindSchema(text, this.#session.options.schema), values })
  }
}
