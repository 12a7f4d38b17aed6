// Enqueue, or complete a job, within an interactive transaction of Prisma: `prisma.$transaction((tx) => ... fromPrisma(tx))`.
// Prisma reads neither the type void nor more than a few others, so rows come as JSON.

import type { ForeignClient } from '../base/foreign-client.ts'

/** The part of a Prisma transaction that is needed. */
export interface PrismaTransaction {
  $queryRawUnsafe<Row>(query: string, ...values: unknown[]): PromiseLike<Row>
}

export function fromPrisma(tx: PrismaTransaction): ForeignClient {
  return {
    async query(text, values) {
      try {
        const answers = await tx.$queryRawUnsafe<{ row: unknown }[]>(
          `select to_json(answer) as row from (${text}) answer`,
          ...values,
        )
        return { rows: answers.map(({ row }) => row) }
      } catch (error) {
        throw withSqlState(error)
      }
    },
  }
}

/** Prisma's errors have codes of its own; PostgreSQL's is deeper within. */
function withSqlState(error: unknown): unknown {
  const { meta } = error as {
    meta?: { code?: unknown; driverAdapterError?: { cause?: { originalCode?: unknown; originalMessage?: unknown } } }
  }
  const inner = meta?.driverAdapterError?.cause
  const code = inner?.originalCode ?? meta?.code
  if (typeof code !== 'string' || code.length !== 5) return error
  return Object.assign(new Error(String(inner?.originalMessage ?? (error as Error).message), { cause: error }), {
    code,
  })
}
