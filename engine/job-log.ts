// What the log tells of jobs: a warning per failed attempt, an error per dead letter, and the lines of the handlers' own
// logs. The loop only leaves here what happened; it is parsed and logged in turns of the event loop of its own, so that no
// log, however slow, holds up an iteration, and none that throws ends it.
//
// Bounded: so many lines a second about ends of jobs, the rest is counted and told in one line. When every job fails, each
// costs a counter.

import { type Clock, nextTurn, type Timer } from './base/clock.ts'
import { asErrorFact, type Log, silentLog } from './base/log.ts'
import type { ClaimedChunk, DoubtItem } from './store/types.ts'

/** Lines of each kind in a second: enough to see what fails, few enough to be read and to cost nothing. */
export const LINES_PER_SECOND = 20
/** Lines that wait to be written; threads write at most 1,000 a second each. */
const WAITING_MAX = 10_000
/** Written in one turn of the event loop. */
const LINES_PER_TURN = 100

/** `retried`: a failed attempt that does not end its job. The others do. */
type Kind = 'retried' | 'dead' | 'expired' | 'cancelled'

export interface JobLogNeeds {
  readonly clock: Clock
  readonly log: Log
}

export class JobLog {
  readonly #clock: Clock
  readonly #log: Log
  readonly #isSilent: boolean
  #waiting: (() => void)[] = []
  #isDue = false
  /** Of this second, logged or not. */
  #ended: Record<Kind, number> = nothingEnded()
  #second: Timer | null = null
  #dropped = 0

  constructor({ clock, log }: JobLogNeeds) {
    this.#clock = clock
    this.#log = log
    this.#isSilent = log === silentLog
  }

  /** An attempt failed with an error as JSON bytes, valid only during the call. `delayMs` below 0: there is no other. */
  failed(chunk: ClaimedChunk, jobId: number, delayMs: number, bytes: Uint8Array, start: number, end: number): void {
    if (!this.#mayTell(delayMs < 0 ? 'dead' : 'retried')) return
    const { task, attempt, maxAttempts } = chunk
    const text = copyOf(bytes, start, end)
    this.#add(() => {
      const facts = { task, job: jobId, attempt, maxAttempts }
      if (delayMs < 0) this.#dead(facts, text.toString())
      else this.#retried({ ...facts, retryInMs: Math.round(delayMs) }, text.toString())
    })
  }

  /** Its handler's own transaction has not completed the job: it ended as it said, or returned (`said` is null then). */
  doubtFailed({ jobId, run, otherwise, said }: DoubtItem): void {
    if ((otherwise !== 'dead' && otherwise !== 'retried') || !this.#mayTell(otherwise)) return
    const facts = { job: jobId, run }
    this.#add(() => {
      if (said === null)
        this.#log[otherwise === 'dead' ? 'error' : 'warn']({ ...facts, end: otherwise }, 'job.not_committed')
      else if (otherwise === 'dead') this.#dead(facts, said)
      else this.#retried(facts, said)
    })
  }

  /** The attempt's own transaction has completed the job; that it ended otherwise afterwards is told, and changes nothing. */
  endedAfterCompletion({ jobId, run, said }: DoubtItem): void {
    if (said === null || !this.#mayTell('retried')) return
    const err = asErrorFact(errorIn(said))
    this.#add(() => this.#log.warn({ job: jobId, run, err }, 'job.ended_after_completion'))
  }

  /** Its expiry passed before it could run: a dead letter. */
  expired({ task }: ClaimedChunk, jobId: number): void {
    if (this.#mayTell('expired')) this.#add(() => this.#log.warn({ task, job: jobId }, 'job.expired'))
  }

  /** Somebody asked for its end while it was held here. */
  cancelled({ task }: ClaimedChunk, jobId: number, reason: string): void {
    if (this.#mayTell('cancelled')) this.#add(() => this.#log.info({ task, job: jobId, reason }, 'job.cancelled'))
  }

  /** A line of a handler's own log: JSON bytes { level, event, facts }, valid only during the call. */
  said({ task }: ClaimedChunk, jobId: number, bytes: Uint8Array, start: number, end: number): void {
    if (this.#isSilent) return
    const text = copyOf(bytes, start, end)
    this.#add(() => {
      const { level, event, facts } = JSON.parse(text.toString()) as {
        level: 'debug' | 'info' | 'warn' | 'error'
        facts: Record<string, unknown>
        event: string
      }
      this.#log[level](
        { job: jobId, task, ...facts, ...('err' in facts ? { err: asErrorFact(facts.err) } : {}) },
        event,
      )
    })
  }

  /** Writes everything that waits, and what was left out. */
  close(): void {
    this.#write(Number.POSITIVE_INFINITY)
    this.#closeSecond()
    this.#write(Number.POSITIVE_INFINITY)
  }

  #mayTell(kind: Kind): boolean {
    if (this.#isSilent) return false
    this.#second ??= this.#clock.after(1_000, this.#closeSecond)
    return ++this.#ended[kind] <= LINES_PER_SECOND
  }

  readonly #closeSecond = (): void => {
    this.#second?.cancel()
    this.#second = null
    const ended = this.#ended
    this.#ended = nothingEnded()
    const kinds = Object.keys(ended) as Kind[]
    const more = kinds.map((kind) => [kind, ended[kind] - LINES_PER_SECOND] as const).filter(([, count]) => count > 0)
    if (more.length > 0) this.#add(() => this.#log.warn({ ...Object.fromEntries(more) }, 'jobs.not_logged'))
  }

  #retried(facts: Record<string, unknown>, text: string): void {
    const { code, message } = errorIn(text)
    this.#log.warn({ ...facts, code, error: message }, 'attempt.failed')
  }

  #dead(facts: Record<string, unknown>, text: string): void {
    const error = errorIn(text)
    this.#log.error({ ...facts, code: error.code, err: asErrorFact(error) }, 'job.dead')
  }

  #add(line: () => void): void {
    if (this.#waiting.length >= WAITING_MAX) {
      this.#dropped++
      return
    }
    this.#waiting.push(line)
    this.#soon()
  }

  #soon(): void {
    if (this.#isDue) return
    this.#isDue = true
    void nextTurn().then(() => {
      this.#isDue = false
      this.#write(LINES_PER_TURN)
    })
  }

  #write(max: number): void {
    const lines = this.#waiting.splice(0, Math.min(max, this.#waiting.length))
    if (this.#waiting.length === 0 && this.#dropped > 0) {
      const dropped = this.#dropped
      this.#dropped = 0
      lines.push(() => this.#log.warn({ lines: dropped }, 'log.dropped'))
    }
    for (const line of lines) {
      try {
        line()
      } catch {
        // A log that throws has nowhere to say so, and must not end an engine.
      }
    }
    if (this.#waiting.length > 0) this.#soon()
  }
}

function nothingEnded(): Record<Kind, number> {
  return { retried: 0, dead: 0, expired: 0, cancelled: 0 }
}

function copyOf(bytes: Uint8Array, start: number, end: number): Buffer {
  return Buffer.from(bytes.subarray(start, end)) // unlike a slice of a Buffer, a copy
}

/** The error as it was reported; of a text that was cut, the text. */
function errorIn(text: string): Record<string, unknown> {
  try {
    return JSON.parse(text) as Record<string, unknown>
  } catch {
    return { code: 'TASK_THREW', message: text }
  }
}
