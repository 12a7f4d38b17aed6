// A bound for loops that wait for what the code under test does: when that is broken they end with an error, quickly,
// and do not spin until the bound of the whole file.

import { systemClock } from '../../engine/base/clock.ts'

/** True, as often as it is asked, for `ms`; then it throws with what was waited for. */
export function bound(what: string, ms = 20_000): () => true {
  const untilMs = systemClock.steadyMs() + ms
  return () => {
    if (systemClock.steadyMs() > untilMs) throw new Error(`waited ${ms} ms ${what}`)
    return true
  }
}
