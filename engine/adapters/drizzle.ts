// Enqueue, or complete a job, within a transaction of Drizzle (node-postgres or postgres.js beneath): `client: fromDrizzle(tx, sql)`.

import type { ForeignClient } from '../base/foreign-client.ts'

/** The part of a Drizzle transaction that is needed. */
export interface DrizzleExecutor {
  execute(query: never): PromiseLike<unknown>
}

/** The part of Drizzle's `sql` that is needed. */
export interface DrizzleSql {
  raw(text: string): unknown
  param(value: unknown): unknown
  join(parts: never): unknown
}

/** `sql` is Drizzle's own. */
export function fromDrizzle(tx: DrizzleExecutor, sql: DrizzleSql): ForeignClient {
  return {
    async query(text, values) {
      const parts = text
        .split(/\$(\d+)/)
        .map((part, at) => (at % 2 ? sql.param(values[Number(part) - 1]) : sql.raw(part)))
      const result = (await tx.execute(sql.join(parts as never) as never)) as unknown[] | { rows: unknown[] }
      return { rows: Array.isArray(result) ? result : result.rows }
    },
  }
}
