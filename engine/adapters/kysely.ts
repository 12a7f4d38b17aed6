// Enqueue, or complete a job, within a transaction of Kysely: `client: fromKysely(trx)`.

import type { ForeignClient } from '../base/foreign-client.ts'

/** The part of a Kysely Transaction (or Kysely itself) that is needed. */
export interface KyselyExecutor {
  executeQuery(query: never): Promise<{ readonly rows: unknown[] }>
}

/** `compiled` is Kysely's own `CompiledQuery`. */
export function fromKysely(
  trx: KyselyExecutor,
  compiled: { raw(sql: string, parameters: unknown[]): unknown },
): ForeignClient {
  return { query: (text, values) => trx.executeQuery(compiled.raw(text, values) as never) }
}
