// Enqueue, or complete a job, within a transaction of postgres.js: `sql.begin(async (sql) => ... client: fromPostgres(sql))`.

import type { ForeignClient } from '../base/foreign-client.ts'

/** The part of a postgres.js `sql` that is needed. */
export interface PostgresSql {
  unsafe(query: string, parameters: never): PromiseLike<ArrayLike<unknown>>
}

export function fromPostgres(sql: PostgresSql): ForeignClient {
  return {
    async query(text, values) {
      return { rows: Array.from(await sql.unsafe(text, values as never)) }
    },
  }
}
