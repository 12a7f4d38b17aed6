// A handler that ends its job in a transaction of its own: one statement on the handler's connection. Before it is sent,
// main is told that it may have been; from then on only that transaction decides whether the job is completed, whatever
// the handler returns or throws, and whoever ends the job otherwise asks PostgreSQL first.

import { EngineError } from '../engine/base/errors.ts'
import type { ForeignClient } from '../engine/base/foreign-client.ts'
import type { JobRun } from './context.ts'
import { resultText } from './outcome.ts'

export interface CompletionNeeds {
  readonly lane: number
  /** The statement: lease, job, run, lane, ms since its start, result as JSON text. */
  readonly sql: string
  readonly resultBytesMax: number
  /** The clock that `startedSteadyMs` of a run was taken from. */
  steadyMs(): number
  /** Tells main. Never dropped. */
  announce(run: JobRun): void
}

/**
 * What `ctx.complete` does.
 * @throws EngineError LEASE_LOST, VALIDATION, RESULT_INVALID, RESULT_TOO_LARGE; and whatever the client throws.
 */
export async function completeWithin(
  run: JobRun,
  client: ForeignClient,
  result: unknown,
  needs: CompletionNeeds,
): Promise<void> {
  const jobId = run.piece.firstId + run.index
  if (typeof client?.query !== 'function')
    throw new EngineError(
      'VALIDATION',
      'ctx.complete needs a client with query(text, values), such as one of pg or what an adapter makes',
      { field: 'client' },
    )
  if (run.isReported) throw new EngineError('LEASE_LOST', `the attempt at job ${jobId} has ended`, { jobId })
  if (run.isCompleting)
    throw new EngineError('VALIDATION', `another call of ctx.complete for job ${jobId} is under way`, { jobId })
  const text = resultText(result, needs.resultBytesMax)
  run.isCompleting = true
  try {
    if (!run.mayBeCompleted) {
      run.mayBeCompleted = true
      needs.announce(run)
    }
    const { leaseId, run: no } = run.piece
    const ranMs = needs.steadyMs() - run.startedSteadyMs // its start by the database's clock, whatever ours says
    await client.query(needs.sql, [leaseId, jobId, no, needs.lane, ranMs, text === '' ? null : text])
  } catch (error) {
    throw refusal(error, jobId) ?? error
  } finally {
    run.isCompleting = false
  }
}

/** The error of ours that a refusal of the function is, wherever the client's library has put the SQLSTATE. */
function refusal(error: unknown, jobId: number): EngineError | null {
  let at: unknown = error
  for (let depth = 0; depth < 5 && typeof at === 'object' && at !== null; depth++) {
    const { code: sqlState, message, cause } = at as { code?: unknown; message?: unknown; cause?: unknown }
    if (sqlState === 'MR409') return new EngineError('LEASE_LOST', String(message), { jobId, sqlState }, error)
    if (sqlState === 'MR400') return new EngineError('VALIDATION', String(message), { jobId, sqlState }, error)
    at = cause
  }
  return null
}
