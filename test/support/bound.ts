// A bound for loops that wait for what the code under test does: when that is broken they end with an error, quickly,
// and do not spin until the bound of the whole file.

import { systemClock } from '../../engine/base/clock.ts'

const STALL_MS_MAX = 15_000

/** True, as often as it is asked, until `progress` has answered the same for too long: then it throws. */
export function bound(what: string, progress: () => unknown = () => null, stallMsMax = STALL_MS_MAX): () => true {
  let sinceMs = systemClock.steadyMs()
  let last = progress()
  return () => {
    const nowMs = systemClock.steadyMs()
    const now = progress()
    if (now !== last) [last, sinceMs] = [now, nowMs]
    if (nowMs - sinceMs > stallMsMax) throw new Error(`waited ${stallMsMax} ms ${what}: ${String(now)}`)
    return true
  }
}
