// Waiting for a job, with whatever knows a console: an engine, a client, or the kit.

import { AssertionError } from 'node:assert'
import type { Console, JobRow, JobState } from '../api.ts'
import { systemClock } from '../base/clock.ts'
import { EngineError } from '../base/errors.ts'

const LOOK_EVERY_MS = 10
const WAIT_MS = 30_000
const ENDS: readonly string[] = ['completed', 'failed', 'cancelled', 'expired'] satisfies JobState[]

export interface WaitOptions {
  /** Default: any of completed, failed, cancelled, expired. */
  readonly state?: JobState
  /** Of the machine's time, whatever a virtual clock does. Default 30,000. */
  readonly timeoutMs?: number
}

/**
 * Resolves with the job, as the console shows it, once it is in the state.
 * @throws AssertionError when it has ended otherwise or the time is over, with the life of the job in the message.
 * EngineError JOB_NOT_FOUND
 */
export async function waitForJob(
  on: { readonly console: Pick<Console, 'job' | 'explain'> },
  id: number,
  { state, timeoutMs = WAIT_MS }: WaitOptions = {},
): Promise<JobRow> {
  const untilMs = systemClock.steadyMs() + timeoutMs
  for (;;) {
    const job = await on.console.job(id)
    if (job === null) throw new EngineError('JOB_NOT_FOUND', `there is no job ${id}`, { id })
    if (state === undefined ? ENDS.includes(job.state) : job.state === state) return job
    const isOver = systemClock.steadyMs() >= untilMs
    if (isOver || ENDS.includes(job.state)) {
      const wanted = state ?? 'ended'
      const why = isOver ? `not ${wanted} within ${timeoutMs} ms` : `never will be ${wanted}`
      const { events } = await on.console.explain(id)
      const life = events.map(({ at, state: was, why: reason }) => `  ${at?.toISOString() ?? '-'} ${was}: ${reason}`)
      throw new AssertionError({
        message: `job ${id} (${job.task}) is ${job.state}, ${why}${errorOf(job)}\n${life.join('\n')}`,
        actual: job.state,
        expected: wanted,
        operator: 'waitForJob',
      })
    }
    await systemClock.sleep(LOOK_EVERY_MS)
  }
}

/** What the job failed of, for a message; empty when it did not. */
export function errorOf(job: JobRow): string {
  if (job.error === null || job.error === undefined) return ''
  const { code, message } = job.error as { code?: unknown; message?: unknown }
  return `; ${String(code)}: ${String(message)}`
}
