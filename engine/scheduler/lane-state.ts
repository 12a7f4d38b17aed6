// What the scheduler knows of one lane: what it was fed and what of that runs. Jobs fed to a lane form a list through
// the slots' next and prev, in feeding order. Written by the dispatcher only.

import { NO_SLOT } from '../orchestrator/slots.ts'
import type { TaskState } from './task-state.ts'

/** What a lane does now. Jobs that want a thread for themselves and jobs that share one never meet on it. */
export const MODE = { free: 0, exclusive: 1, shared: 2, alone: 3 } as const
export type Mode = (typeof MODE)[keyof typeof MODE]

export class LaneState {
  readonly index: number
  /** First and last slot of the list. */
  head = NO_SLOT
  tail = NO_SLOT
  /** Fed and not yet ended. */
  outstanding = 0
  /** Of these, started. */
  running = 0
  /** Sum of what the outstanding jobs are believed to take. */
  expectedMs = 0
  mode: Mode = MODE.free
  /** Not free: the lane runs dry, then takes this kind. */
  reservedFor: Mode = MODE.free
  /** Steady time of the last sign that the lane moves: fed when empty, a start, an end. */
  progressSteadyMs = 0
  /** Steady time of the last feeding. */
  fedSteadyMs = 0
  /** A shared lane that did not begin what it had a seat for: its thread computes. Over with its next start or end. */
  isDeaf = false
  /** Its thread ends when it has nothing left; it is fed no more. */
  isLeaving = false
  /** The job because of which the lane is being killed. */
  guilty = NO_SLOT
  /** Outstanding jobs per shared task. */
  readonly shares = new Map<TaskState, number>()

  constructor(index: number) {
    this.index = index
  }
}
