// Waiting for a condition that nothing announces: asks again and again, and gives up with what the last error said.

import { systemClock } from '../../engine/base/clock.ts'

const WAIT_MS_MAX = 60_000

/** An error of `isTrue` counts as no. */
export async function until(what: string, isTrue: () => boolean | Promise<boolean>, everyMs = 20): Promise<void> {
  const untilMs = systemClock.steadyMs() + WAIT_MS_MAX
  let last: unknown = null
  while (systemClock.steadyMs() < untilMs) {
    try {
      if (await isTrue()) return
    } catch (error) {
      last = error
    }
    await systemClock.sleep(everyMs)
  }
  throw new Error(`waited ${WAIT_MS_MAX} ms until ${what}${last === null ? '' : `: ${last}`}`)
}
