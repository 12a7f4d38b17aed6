// Waits for a database that is not up yet, and says in the log whom it waits for. What waiting cannot help (a wrong
// password, no such database) ends it at once.

import { setMaxListeners } from 'node:events'
import type { Clock } from '../base/clock.ts'
import { EngineError, messageOf } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { backoffMs, isRetryable, storeError } from './connection.ts'

/** A server that takes the connection and says nothing is named after this; one that refuses, at once. */
const SAY_AFTER_MS = 2_000
const SAY_EVERY_MS = 10_000
/** Between two tries at most. */
const PAUSE_MS_MAX = 1_000

export interface PatienceNeeds {
  readonly clock: Clock
  readonly log: Log
  /** Whom it waits for, without a password. */
  place(): string
}

export class Patience {
  readonly #needs: PatienceNeeds
  readonly #end = new AbortController()
  /** When somebody was told last (steady): many may wait at once. */
  #saidMs = Number.NEGATIVE_INFINITY

  constructor(needs: PatienceNeeds) {
    this.#needs = needs
    setMaxListeners(0, this.#end.signal) // one per call that waits
  }

  /** Whoever waits is refused now, and whoever comes later. */
  end(): void {
    this.#end.abort()
  }

  /**
   * Tries until it is open, for `forMs` after the call; 0 tries once.
   * @throws EngineError what the last try said, or STOPPING after `end`
   */
  async until(open: () => Promise<void>, forMs: number): Promise<void> {
    const { clock, log, place } = this.#needs
    const { signal } = this.#end
    const fromMs = clock.steadyMs()
    const leftMs = () => forMs - (clock.steadyMs() - fromMs)
    let last = 'no answer yet'
    let hasWaited = false
    let timer = clock.after(SAY_AFTER_MS, () => say())
    const say = () => {
      timer.cancel()
      timer = clock.after(SAY_EVERY_MS, say)
      if (forMs === 0 || clock.steadyMs() - this.#saidMs < SAY_EVERY_MS / 2) return
      this.#saidMs = clock.steadyMs()
      hasWaited = true
      log.warn({ database: place(), giveUpInMs: Math.max(0, Math.round(leftMs())), error: last }, 'database.waiting')
    }
    try {
      for (let tries = 1; ; tries++) {
        if (signal.aborted) throw endedError()
        try {
          await open()
          if (hasWaited)
            log.info({ database: place(), waitedMs: Math.round(clock.steadyMs() - fromMs) }, 'database.reached')
          return
        } catch (error) {
          if (signal.aborted) throw endedError()
          if (!isRetryable(error) || leftMs() <= 0) throw forMs > 0 && isRetryable(error) ? gaveUp(error, forMs) : error
          last = messageOf(error)
          say()
          await clock.sleep(Math.min(leftMs(), backoffMs(tries, PAUSE_MS_MAX)), signal)
        }
      }
    } finally {
      timer.cancel()
    }
  }
}

function gaveUp(error: unknown, afterMs: number): EngineError {
  const { code, message, details } = storeError(error, 'connect')
  return new EngineError(code, `${message}; gave up after ${afterMs / 1_000} s`, { ...details }, error)
}

function endedError(): EngineError {
  return new EngineError('STOPPING', 'it was stopped while it waited for the database', { sent: false })
}
