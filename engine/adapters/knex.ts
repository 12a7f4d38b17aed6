// Enqueue, or complete a job, within a transaction of Knex: `client: fromKnex(trx)`. Knex counts question marks where PostgreSQL has $1.

import type { ForeignClient } from '../base/foreign-client.ts'

/** The part of a Knex transaction that is needed. */
export interface KnexRaw {
  raw(sql: string, bindings: never): PromiseLike<{ readonly rows: unknown[] }>
}

export function fromKnex(trx: KnexRaw): ForeignClient {
  return {
    async query(text, values) {
      const bindings: unknown[] = []
      const sql = text.replaceAll('?', '\\?').replace(/\$(\d+)/g, (_, at) => {
        bindings.push(values[Number(at) - 1])
        return '?'
      })
      return { rows: (await trx.raw(sql, bindings as never)).rows }
    },
  }
}
